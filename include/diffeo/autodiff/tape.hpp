// SPDX-License-Identifier: MIT
#pragma once

#include <cassert>
#include <deque>
#include <diffeo/autodiff/shared_values.hpp>
#include <diffeo/autodiff/tape_storage.hpp>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/broadcast.hpp>
#include <initializer_list>
#include <type_traits>
#include <utility>
#include <vector>

/// Reverse-mode differentiation of whole blocks: a tape of matrix-level operations, eager and without global state.
namespace diffeo::inline DIFFEO_ISA {

template <Real S>
class Tape;

/// Memory of the adjoint of a value, to which the adjoint of an op writes its contribution.
template <Real S>
struct GradTarget {
  View<S> grad;
  bool assign;  ///< true: `grad` is uninitialised and must be assigned; false: the contribution must be added
};

/// A value on a tape, rows x cols, column-major. A Var is a handle of two pointers; copies refer to the same value. A
/// constant is an input or a parameter that requires no gradient, or what is computed from constants alone; nothing is
/// recorded for it.
template <Real S>
class Var {
 public:
  using Scalar = S;

  Var() = default;

  Index rows() const { return node_->value.rows; }
  Index cols() const { return node_->value.cols; }
  math::Shape shape() const { return {rows(), cols()}; }
  View<const S> value() const { return node_->value; }
  bool requires_grad() const { return node_->requires_grad; }
  Tape<S>& tape() const { return *tape_; }
  /// Returns whether the handle refers to a value; false for Var{}.
  explicit operator bool() const { return node_ != nullptr; }

  /// Returns whether backward() has contributed to the adjoint. The adjoint of an intermediate value is dropped once
  /// its op has consumed it.
  bool has_grad() const { return node_->has_grad; }
  /// Returns the adjoint. Only valid if has_grad(). That of an intermediate value exists only while the adjoint of its
  /// op runs.
  View<const S> grad() const { return {node_->grad, rows(), cols(), node_->value.stride}; }

  /// Returns whether the memory of each column extends to the stride, so that whole registers may be read past the last
  /// row. True of values that a tape has allocated, false of rows in an array of the caller.
  bool padded() const { return node_->padded; }

  /// Returns whether the value is the same in all tiles of a call on many rows, see Tape::once().
  bool same_in_all_tiles() const { return node_->same_in_all_tiles; }

 private:
  friend class Tape<S>;

  struct Node {
    View<S> value;
    S* grad = nullptr;
    bool requires_grad = false;
    bool has_grad = false;
    bool leaf = false;        // whether the adjoint is kept after the sweep
    bool persistent = false;  // whether the value remains valid after reset()
    Node* whole = nullptr;    // the value of which this is a block of columns
    bool padded = false;      // whether the memory of each column extends to the stride
    bool writable = false;    // whether the memory belongs to the tape
    bool same_in_all_tiles = false;
  };

  Var(Tape<S>* tape, Node* node) : tape_(tape), node_(node) {}

  Tape<S>* tape_ = nullptr;
  Node* node_ = nullptr;
};

namespace detail {

// Throws invalid_argument where an operand of an op is an empty handle.
template <class... X>
[[gnu::always_inline]] inline void require_operands(const char* op, const X&... operands) {
  require((static_cast<bool>(operands) && ...), op, ": an operand is empty, as a context is that was not given");
}

}  // namespace detail

/// Records operations in the order of their execution and owns their memory (see TapeStorage). A tape is not
/// thread-safe; every thread needs its own.
template <Real S>
class Tape : public TapeStorage<S> {
 public:
  /// Returns the distance between the columns of a value with that many rows. It is a whole number of registers, so
  /// that kernels need no tails, and no multiple of 4 KiB, because columns would then compete for the same cache sets.
  static Index stride_for(Index rows) {
    if (rows <= 1) return rows;
    constexpr Index page = 4096 / static_cast<Index>(sizeof(S));
    const Index padded = (rows + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>;
    return padded % page == 0 ? padded + simd::lanes<S> : padded;
  }

  /// Returns an uninitialised value, rows x cols, for an op to compute.
  Var<S> make(Index rows, Index cols, bool requires_grad) {
    const Index stride = stride_for(rows);
    const Var<S> v = node({this->allocate_values(stride * cols), rows, cols, stride}, requires_grad);
    v.node_->padded = v.node_->writable = true;
    return v;
  }

  /// Returns the memory of a value that make() returned, for the op that computes it. Throws invalid_argument for
  /// values in memory of the caller: constants, parameters and aliases.
  View<S> mutable_value(Var<S> x) {
    require(x.node_->writable, "Tape::mutable_value: the value lies in memory of the caller, which is read only");
    return x.node_->value;
  }

  /// Returns the adjoint of an op's output, which the adjoint of that op may overwrite: nothing reads it afterwards.
  View<S> mutable_grad(Var<S> x) { return {x.node_->grad, x.rows(), x.cols(), x.node_->value.stride}; }

  /// Returns columns first to first + count - 1 of x without a copy. Their adjoint is a block of the adjoint of x.
  Var<S> column_view(Var<S> x, Index first, Index count) {
    Var<S> v = node(x.node_->value.cols_block(first, count), x.requires_grad());
    v.node_->whole = x.node_->whole ? x.node_->whole : x.node_;
    v.node_->padded = x.node_->padded;
    v.node_->writable = x.node_->writable;
    return v;
  }

  /// Returns a constant that refers to memory of the caller, which must outlive it.
  Var<S> constant(View<const S> x) {
    return node({const_cast<S*>(x.data), x.rows, x.cols, x.stride}, false);  // constants are never written
  }
  /// Returns a constant that refers to the array, which must outlive it.
  Var<S> constant(const Array<S>& x) { return constant(view(x)); }
  /// Returns a constant with a copy of a temporary array.
  Var<S> constant(const Array<S>&& x) { return copy(x); }

  /// Sets the values that this tape shares with the tapes of other tiles of a call; null for none. Returns those
  /// before.
  SharedValues<S>* share(SharedValues<S>* values) { return std::exchange(shared_values_, values); }

  /// Returns a constant that refers to the array, which must outlive it, and is the same in all tiles of the call that
  /// this tape serves.
  Var<S> constant_of_all_tiles(const Array<S>& x) {
    const Var<S> v = constant(x);
    v.node_->same_in_all_tiles = shared_values_ != nullptr;
    return v;
  }

  /// Returns compute(), a Var that is to depend on x and on constants alone. Where x is the same in all tiles of a
  /// call, it is computed in one of them. The key is an address that tells it apart from what else is computed from the
  /// values of x: that of a parameter it depends on, which must exist unchanged until the call ends.
  template <class F>
  Var<S> once(Var<S> x, const void* key, const F& compute) {
    if (!x.same_in_all_tiles() || !shared_values_) return compute();
    if (const Array<S>* known = shared_values_->find(key, x.value())) return constant_of_all_tiles(*known);
    const Var<S> v = compute();
    if (v.requires_grad()) return v;
    shared_values_->keep(key, x.value(), as_eigen(v.value()));
    v.node_->same_in_all_tiles = true;
    return v;
  }

  /// Returns a value that refers to memory of the caller, which must outlive it: the output of an op whose result has
  /// already been computed.
  Var<S> alias(View<const S> x, bool requires_grad) {
    return node({const_cast<S*>(x.data), x.rows, x.cols, x.stride}, requires_grad);  // values of ops are read only
  }

  /// Returns a constant with a copy of any Eigen expression.
  template <class Derived>
  Var<S> copy(const Eigen::DenseBase<Derived>& x) {
    return copied(x, false);
  }

  /// Returns an input that requires a gradient, with a copy of any Eigen expression.
  template <class Derived>
  Var<S> variable(const Eigen::DenseBase<Derived>& x) {
    Var<S> v = copied(x, true);
    v.node_->leaf = true;
    return v;
  }

  /// Returns a parameter, whose values and adjoint are in memory of the caller and which remains valid after reset().
  /// The adjoint is the sum of the contributions of backward() since the last redirect_parameter_grads(). It is not
  /// written if there are none, see finish_parameter_grads().
  Var<S> parameter(View<S> value, S* grad) {
    require(value.contiguous(), "Tape::parameter: expected contiguous values");
    parameters_.push_back({value, grad, true, false, true, true});
    return {this, &parameters_.back()};
  }

  /// Returns a variable that shares value and adjoint with `other`, a value of another tape that requires a gradient:
  /// backward() of this tape adds to the adjoint of `other`. The variable is valid until reset(), and no longer than
  /// `other`.
  Var<S> shared(Var<S> other) {
    const GradTarget<S> target = other.tape().grad_target(other);
    if (target.assign) math::map(target.grad, [] { return simd::Vec<S>{}; });
    const Var<S> v = node(other.node_->value, true);
    v.node_->padded = other.node_->padded;
    v.node_->grad = target.grad.data;
    v.node_->has_grad = v.node_->leaf = true;
    return v;
  }

  /// Returns a constant that refers to memory of the caller and remains valid after reset().
  Var<S> persistent_constant(View<const S> x) {
    parameters_.push_back({{const_cast<S*>(x.data), x.rows, x.cols, x.stride}, nullptr, false, false, true, true});
    return {this, &parameters_.back()};
  }

  /// Places the adjoints of the parameters, in the order of their creation, at consecutive blocks of `grads`. Earlier
  /// contributions to them are lost, and the blocks are not initialised.
  void redirect_parameter_grads(S* grads) {
    for (auto& p : parameters_) {
      if (!p.requires_grad) continue;
      p.grad = grads;
      p.has_grad = false;
      grads += p.value.size();
    }
  }

  /// Sets the adjoints of parameters to which backward() has not contributed to 0.
  void finish_parameter_grads() {
    for (auto& p : parameters_)
      if (p.requires_grad && !p.has_grad) {
        std::fill_n(p.grad, p.value.size(), S(0));
        p.has_grad = true;
      }
  }

  /// Registers the adjoint of an op with one or two outputs. backward() calls `adjoint()` if any output has a gradient;
  /// it reads out.grad(), after a check of out.has_grad() if there are two outputs, and calls add_grad(). It must be
  /// trivially destructible. Throws invalid_argument for more than two outputs.
  template <class F>
  void on_backward(std::initializer_list<Var<S>> outputs, const F& adjoint) {
    static_assert(std::is_trivially_destructible_v<F>, "an adjoint must not own anything: the tape never destroys it");
    require(outputs.size() <= max_outputs, "Tape::on_backward: ", outputs.size(), " outputs, expected at most ",
            max_outputs);
    F* stored = new (this->template allocate<F>(1)) F(adjoint);
    Record record{[](void* f) { (*static_cast<F*>(f))(); }, stored, {}};
    std::size_t k = 0;
    for (const Var<S>& out : outputs) record.outputs[k++] = out.node_;
    records_.push_back(record);
  }

  /// Runs the adjoints of all ops in reverse order, starting with the adjoint `seed` of y, of the same shape. The
  /// adjoints of variables and parameters add up over several calls until reset() or redirect_parameter_grads(). Throws
  /// invalid_argument for a seed of another shape.
  void backward(Var<S> y, View<const S> seed) {
    require(seed.rows == y.rows() && seed.cols == y.cols(), "Tape::backward: seed is ", seed.rows, " x ", seed.cols,
            ", expected ", y.rows(), " x ", y.cols());
    if (!y.requires_grad()) return;
    const GradTarget<S> target = grad_target(y);
    math::sum_to(target.grad, target.assign, seed);
    for (auto record = records_.rbegin(); record != records_.rend(); ++record) {
      bool reached = false;
      for (Node* out : record->outputs) reached = reached || (out && out->has_grad);
      if (reached) record->adjoint(record->closure);
      // Intermediate adjoints are not needed any more; their memory, still in cache, is reused for the next ones.
      for (Node* out : record->outputs)
        if (out && out->has_grad && !out->leaf) {
          this->recycle(out->value.stride * out->value.cols, out->grad);  // the size of grad_target
          out->grad = nullptr;
          out->has_grad = false;
        }
    }
  }

  /// Returns where the adjoint of an op writes its contribution to x. Afterwards x.has_grad().
  GradTarget<S> grad_target(Var<S> x) {
    Node* node = x.node_;
    if (node->whole) return block_target(node);
    const bool assign = !node->has_grad;
    require_grad_memory(node);
    if (!node->grad) node->grad = this->take_buffer(node->value.stride * node->value.cols);
    node->has_grad = true;
    return {{node->grad, x.rows(), x.cols(), node->value.stride}, assign};
  }

  /// Removes all values and operations except the parameters and persistent constants. The memory is reused.
  void reset() {
    records_.clear();
    this->reset_storage();
  }

  /// A moment in the use of a tape: its memory, and the operations recorded so far.
  struct Mark {
    Arena::Mark memory;
    std::size_t operations = 0;
  };

  /// Returns the present moment, for release() and rewind().
  Mark mark() const { return {this->memory_mark(), records_.size()}; }

  /// Frees all memory allocated since the mark, including that of values, which must no longer be used. Only valid if
  /// no operation was recorded since.
  void release(Mark mark) {
    assert(records_.size() == mark.operations);
    this->release_memory(mark.memory);
  }

  /// Removes the values and operations made since the mark. Only valid if no operation had been recorded before it.
  void rewind(Mark mark) {
    assert(mark.operations == 0);
    records_.clear();
    this->release_recycled(mark.memory);
  }

  /// Returns the number of recorded operations.
  std::size_t size() const { return records_.size(); }

 private:
  using Node = typename Var<S>::Node;

  static constexpr std::size_t max_outputs = 2;
  struct Record {
    void (*adjoint)(void*);
    void* closure;
    Node* outputs[max_outputs];
  };

  Var<S> node(View<S> value, bool requires_grad) {
    return {this, new (this->template allocate<Node>(1)) Node{value, nullptr, requires_grad}};
  }

  template <class Derived>
  Var<S> copied(const Eigen::DenseBase<Derived>& x, bool requires_grad) {
    Var<S> v = make(x.rows(), x.cols(), requires_grad);
    View<S> to = v.node_->value;
    as_eigen(to) = x.derived().template cast<S>().array();
    for (Index j = 0; j < to.cols; ++j) std::fill(to.col(j) + to.rows, to.col(j) + to.stride, S(0));
    return v;
  }

  // Memory of the arena would not outlive reset() as a parameter does.
  static void require_grad_memory(const Node* node) {
    require(node->grad || !node->persistent || node->value.size() == 0,
            "Tape: a parameter has no memory for its gradient, see redirect_parameter_grads");
  }

  // Columns may receive contributions one block at a time, so the adjoint of the whole starts from zero.
  GradTarget<S> block_target(Node* block) {
    Node* whole = block->whole;
    const Index size = whole->value.stride * whole->value.cols;
    require_grad_memory(whole);
    if (!whole->grad) whole->grad = this->take_buffer(size);
    if (!whole->has_grad) std::fill_n(whole->grad, size, S(0));
    whole->has_grad = true;
    S* grad = whole->grad + (block->value.data - whole->value.data);
    return {{grad, block->value.rows, block->value.cols, block->value.stride}, false};
  }

  std::vector<Record> records_;
  std::deque<Node> parameters_;
  SharedValues<S>* shared_values_ = nullptr;
};

/// Adds g to the adjoint of x if x requires a gradient, summed over the dimensions along which x was broadcast.
template <Real S>
void add_grad_sum(Var<S> x, View<const S> g) {
  if (!x.requires_grad()) return;
  const GradTarget<S> target = x.tape().grad_target(x);
  math::sum_to(target.grad, target.assign, g);
}

/// Adds f(in...), elementwise, to the adjoint of x if x requires a gradient. All operands have the shape of x.
template <Real S, class F, class... In>
void add_grad(Var<S> x, const F& f, In... in) {
  if (!x.requires_grad()) return;
  const GradTarget<S> target = x.tape().grad_target(x);
  math::map_add(target.grad, target.assign, f, in...);
}

}  // namespace diffeo::inline DIFFEO_ISA
