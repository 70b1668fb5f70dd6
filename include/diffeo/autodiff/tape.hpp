// SPDX-License-Identifier: MIT
#pragma once

#include <deque>
#include <diffeo/autodiff/arena.hpp>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/broadcast.hpp>
#include <initializer_list>
#include <memory>
#include <type_traits>
#include <vector>

/// Reverse-mode differentiation of whole blocks: a tape of matrix-level operations, eager and without global state.
namespace diffeo::inline DIFFEO_ISA {

template <Real S>
class Tape;

/// The adjoint of a value: to be assigned when `assign`, else added to.
template <Real S>
struct GradTarget {
  View<S> grad;
  bool assign;
};

/// A value on a tape: rows x cols, column-major. A handle of two pointers; copies name the same value. A constant (an
/// input or parameter of which no gradient is wanted, and all that is computed from constants alone) records nothing.
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
  explicit operator bool() const { return node_ != nullptr; }

  /// Whether anything has been added to the adjoint since the tape was reset.
  bool has_grad() const { return node_->has_grad; }
  /// The adjoint; only where has_grad(). Of an intermediate value it exists only while its own adjoint runs.
  View<const S> grad() const { return {node_->grad, rows(), cols(), node_->value.stride}; }

  /// Whether whole registers may be read past the last row: the memory of each column reaches as far as the stride.
  /// True of values that a tape has allocated; a block of rows in a caller's array ends with its last row.
  bool padded() const { return node_->padded; }

 private:
  friend class Tape<S>;

  struct Node {
    View<S> value;
    S* grad = nullptr;
    bool requires_grad = false;
    bool has_grad = false;
    bool leaf = false;        // keeps its adjoint after the sweep
    bool persistent = false;  // outlives reset()
    Node* whole = nullptr;    // of which this is a block of columns
    bool padded = false;      // each column's memory reaches as far as the stride
    bool writable = false;    // lies in memory of the tape
  };

  Var(Tape<S>* tape, Node* node) : tape_(tape), node_(node) {}

  Tape<S>* tape_ = nullptr;
  Node* node_ = nullptr;
};

/// Owns the memory and the order of operations. Not thread-safe: one tape per thread.
template <Real S>
class Tape {
 public:
  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Distance between the columns of a value with that many rows. Whole registers, so that kernels need no tails, and
  /// never a multiple of 4 KiB, where columns would compete for the same cache sets.
  static Index stride_for(Index rows) {
    if (rows <= 1) return rows;
    constexpr Index page = 4096 / static_cast<Index>(sizeof(S));
    const Index padded = (rows + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>;
    return padded % page == 0 ? padded + simd::lanes<S> : padded;
  }

  /// An uninitialised value, for ops.
  Var<S> make(Index rows, Index cols, bool requires_grad) {
    const Index stride = stride_for(rows);
    const Var<S> v = node({scratch(stride * cols), rows, cols, stride}, requires_grad);
    v.node_->padded = v.node_->writable = true;
    return v;
  }

  /// The memory of a value that make() returned, for the op that computes it. Throws invalid_argument for values that
  /// lie in memory of the caller: constants, parameters and aliases.
  View<S> mutable_value(Var<S> x) {
    require(x.node_->writable, "Tape::mutable_value: the value lies in memory of the caller, which is read only");
    return x.node_->value;
  }

  /// The adjoint of an op's output, for the op's own adjoint to work in: nobody reads it afterwards.
  View<S> mutable_grad(Var<S> x) { return {x.node_->grad, x.rows(), x.cols(), x.node_->value.stride}; }

  /// A block of consecutive columns of x, without a copy: its adjoint is the same block of that of x.
  Var<S> column_view(Var<S> x, Index first, Index count) {
    Var<S> v = node(x.node_->value.cols_block(first, count), x.requires_grad());
    v.node_->whole = x.node_->whole ? x.node_->whole : x.node_;
    v.node_->padded = x.node_->padded;
    v.node_->writable = x.node_->writable;
    return v;
  }

  /// A constant that refers to memory of the caller, which must outlive it.
  Var<S> constant(View<const S> x) {
    return node({const_cast<S*>(x.data), x.rows, x.cols, x.stride}, false);  // constants are never written
  }
  Var<S> constant(const Array<S>& x) { return constant(view(x)); }
  /// A constant copied from an array that will not live on.
  Var<S> constant(const Array<S>&& x) { return copy(x); }

  /// A value that lies in memory of the caller, which must outlive it: the output of an op that has nothing to compute.
  Var<S> alias(View<const S> x, bool requires_grad) {
    return node({const_cast<S*>(x.data), x.rows, x.cols, x.stride}, requires_grad);  // values of ops are read only
  }

  /// A constant copied from any Eigen expression.
  template <class Derived>
  Var<S> copy(const Eigen::DenseBase<Derived>& x) {
    return copied(x, false);
  }

  /// An input of which the gradient is wanted, copied from any Eigen expression.
  template <class Derived>
  Var<S> variable(const Eigen::DenseBase<Derived>& x) {
    Var<S> v = copied(x, true);
    v.node_->leaf = true;
    return v;
  }

  /// A parameter: values and adjoint lie with the caller, and it outlives reset(). The adjoint holds what backward()
  /// brought since the last redirect_parameter_grads(); it is written only where something was brought.
  Var<S> parameter(View<S> value, S* grad) {
    require(value.contiguous(), "Tape::parameter: expected contiguous values");
    parameters_.push_back({value, grad, true, false, true, true});
    return {this, &parameters_.back()};
  }

  /// A variable that shares value and adjoint with `other`, a value of another tape that wants a gradient: what
  /// backward() brings here adds to the adjoint there. `other` must outlive it, which lives until reset().
  Var<S> shared(Var<S> other) {
    const GradTarget<S> target = other.tape().grad_target(other);
    if (target.assign) math::map(target.grad, [] { return simd::Vec<S>{}; });
    const Var<S> v = node(other.node_->value, true);
    v.node_->padded = other.node_->padded;
    v.node_->grad = target.grad.data;
    v.node_->has_grad = v.node_->leaf = true;
    return v;
  }

  /// A constant of the caller's memory that outlives reset().
  Var<S> persistent_constant(View<const S> x) {
    parameters_.push_back({{const_cast<S*>(x.data), x.rows, x.cols, x.stride}, nullptr, false, false, true, true});
    return {this, &parameters_.back()};
  }

  /// Points the parameters' adjoints, in the order they were made, at consecutive pieces of `grads`, forgetting what
  /// they held.
  void redirect_parameter_grads(S* grads) {
    for (auto& p : parameters_) {
      if (!p.requires_grad) continue;
      p.grad = grads;
      p.has_grad = false;
      grads += p.value.size();
    }
  }

  /// Writes zero into the adjoints of those parameters that backward() did not reach.
  void finish_parameter_grads() {
    for (auto& p : parameters_)
      if (p.requires_grad && !p.has_grad) {
        std::fill_n(p.grad, p.value.size(), S(0));
        p.has_grad = true;
      }
  }

  /// Registers the adjoint of an op with the given outputs. `adjoint()` is called during backward() when any output
  /// has a gradient; it reads out.grad() (check out.has_grad() where there are several) and calls add_grad. Throws
  /// invalid_argument for more than two outputs.
  template <class F>
  void on_backward(std::initializer_list<Var<S>> outputs, const F& adjoint) {
    static_assert(std::is_trivially_destructible_v<F>, "an adjoint must not own anything: the tape never destroys it");
    require(outputs.size() <= max_outputs, "Tape::on_backward: ", outputs.size(), " outputs, expected at most ",
            max_outputs);
    F* stored = new (arena_.allocate<F>(1)) F(adjoint);
    Record record{[](void* f) { (*static_cast<F*>(f))(); }, stored, {}};
    std::size_t k = 0;
    for (const Var<S>& out : outputs) record.outputs[k++] = out.node_;
    records_.push_back(record);
  }

  /// Sweeps the tape backwards from y, whose adjoint is `seed` (same shape). Adjoints of variables and parameters add
  /// up over several calls until reset() or redirect_parameter_grads().
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
      // An intermediate adjoint is dead now; its memory, still in cache, serves the next one.
      for (Node* out : record->outputs)
        if (out && out->has_grad && !out->leaf) {
          free_.push_back({out->value.stride * out->value.cols, out->grad});  // the size of grad_target
          out->grad = nullptr;
          out->has_grad = false;
        }
    }
  }

  /// Where an adjoint writes its contribution to x by hand. From then on x has a gradient.
  GradTarget<S> grad_target(Var<S> x) {
    Node* node = x.node_;
    if (node->whole) return block_target(node);
    const bool assign = !node->has_grad;
    require_grad_memory(node);
    if (!node->grad) node->grad = take_block(node->value.stride * node->value.cols);
    node->has_grad = true;
    return {{node->grad, x.rows(), x.cols(), node->value.stride}, assign};
  }

  /// Memory for the length of a scope, inside an adjoint.
  class Temporary {
   public:
    Temporary(Tape& tape, Index n) : tape_(tape), size_(n), data_(tape.take_block(n)) {}
    ~Temporary() { tape_.free_.push_back({size_, data_}); }
    Temporary(const Temporary&) = delete;
    Temporary& operator=(const Temporary&) = delete;
    S* data() const { return data_; }

   private:
    Tape& tape_;
    Index size_;
    S* data_;
  };

  /// Forgets everything but the parameters; keeps the memory.
  void reset() {
    arena_.reset();
    records_.clear();
    free_.clear();
    scratch_bytes_ = 0;
    for (auto& [type, companion] : companions_) companion->reset();
  }

  /// Forgets what was made and recorded since the mark. Only sound where nothing had been recorded before it.
  void rewind(Arena::Mark mark) {
    records_.clear();
    free_.clear();
    arena_.release(mark);
  }

  /// An object that an op needs beside the tape's memory, made at the first call: one of each type T, for instance the
  /// tape on which a solver differentiates its own steps.
  template <class T>
  T& companion() {
    return companion_of<Single<T>>().object;
  }

  /// A copy of x that lives until reset(). The copies take the places of those before, whose memory they use again.
  template <class T>
  T& keep(const T& x) {
    bool made = false;
    T& place = kept_place<T>([&]() -> const T& {
      made = true;
      return x;
    });
    if (!made) replace(place, x);
    return place;
  }

  /// An object that lives until reset(): the one in the next of those places, as it was left, or else make().
  template <class T, class Make>
  T& kept_place(const Make& make) {
    Pool<T>& pool = companion_of<Pool<T>>();
    if (pool.used == pool.objects.size()) pool.objects.push_back(make());
    return pool.objects[pool.used++];
  }

  /// to = from, for types too that cannot be assigned because they hold a function object.
  template <class T>
  static void replace(T& to, const T& from) {
    if constexpr (std::is_copy_assignable_v<T>) {
      to = from;
    } else {
      T copy(from);  // which may throw
      std::destroy_at(&to);
      std::construct_at(&to, std::move(copy));
    }
  }

  /// Uninitialised memory until reset() or release().
  S* scratch(Index n) {
    scratch_bytes_ += n * static_cast<Index>(sizeof(S));
    return arena_.allocate<S>(static_cast<std::size_t>(n));
  }

  /// The same for other trivial types.
  template <class T>
  T* storage(std::size_t n) {
    return arena_.allocate<T>(n);
  }

  /// To give back the memory of values nobody needs any more. Only sound for constants.
  Arena::Mark mark() const { return arena_.mark(); }
  void release(Arena::Mark mark) { arena_.release(mark); }

  /// Number of recorded operations.
  std::size_t size() const { return records_.size(); }

  /// Bytes of values and adjoints since reset(), padding included; what the operations themselves take is not.
  Index scratch_bytes() const { return scratch_bytes_; }

 private:
  using Node = typename Var<S>::Node;

  static constexpr std::size_t max_outputs = 2;
  struct Record {
    void (*adjoint)(void*);
    void* closure;
    Node* outputs[max_outputs];
  };
  struct FreeBlock {
    Index size;
    S* memory;
  };

  struct Companion {
    virtual ~Companion() = default;
    virtual void reset() = 0;
  };
  template <class T>
  struct Single final : Companion {
    void reset() override {}
    T object;
  };
  template <class T>
  struct Pool final : Companion {
    void reset() override { used = 0; }
    std::deque<T> objects;
    std::size_t used = 0;
  };

  // Its address stands for the type C, without run-time type information. Not const: linkers may fold equal constants.
  template <class C>
  static inline char type_key = 0;

  template <class C>
  C& companion_of() {
    for (auto& [type, companion] : companions_)
      if (type == &type_key<C>) return static_cast<C&>(*companion);
    return static_cast<C&>(*companions_.emplace_back(&type_key<C>, std::make_unique<C>()).second);
  }

  Var<S> node(View<S> value, bool requires_grad) {
    return {this, new (arena_.allocate<Node>(1)) Node{value, nullptr, requires_grad}};
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
    if (!whole->grad) whole->grad = take_block(size);
    if (!whole->has_grad) std::fill_n(whole->grad, size, S(0));
    whole->has_grad = true;
    S* grad = whole->grad + (block->value.data - whole->value.data);
    return {{grad, block->value.rows, block->value.cols, block->value.stride}, false};
  }

  // Blocks that died during the sweep are handed out again, the latest first.
  S* take_block(Index size) {
    for (auto block = free_.rbegin(); block != free_.rend(); ++block)
      if (block->size == size) {
        S* memory = block->memory;
        free_.erase(std::next(block).base());
        return memory;
      }
    return scratch(size);
  }

  Arena arena_;
  Index scratch_bytes_ = 0;
  std::vector<Record> records_;
  std::vector<FreeBlock> free_;
  std::deque<Node> parameters_;
  std::vector<std::pair<const char*, std::unique_ptr<Companion>>> companions_;
};

/// Adds g to the adjoint of x, if x wants one, summed over the dimensions along which x was spread.
template <Real S>
void add_grad_sum(Var<S> x, View<const S> g) {
  if (!x.requires_grad()) return;
  const GradTarget<S> target = x.tape().grad_target(x);
  math::sum_to(target.grad, target.assign, g);
}

/// Adds f(in...) to the adjoint of x, if x wants one; all of one shape. The first contribution assigns.
template <Real S, class F, class... In>
void add_grad(Var<S> x, const F& f, In... in) {
  if (!x.requires_grad()) return;
  const GradTarget<S> target = x.tape().grad_target(x);
  math::map_add(target.grad, target.assign, f, in...);
}

}  // namespace diffeo::inline DIFFEO_ISA
