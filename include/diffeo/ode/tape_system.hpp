// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/lift.hpp>
#include <diffeo/ode/integrate.hpp>

/// Systems of equations y' = system(t, y, context) written with the ops of autodiff/ops. t is N x 1, y is N x n,
/// context an N x c block, one row per sample (an empty Var if c is 0), which is the same at all times; the result is N
/// x n. A system is a structure over Var<S> (fields, rebind; see autodiff/lift.hpp), so that it can be copied from one
/// tape to another.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Right-hand side y' = f(t, y, context) on tape variables, whose parameters are its fields.
template <class F, class S>
concept TapeSystem = requires(const F& f, F& m, const Var<S>& x) {
  { f(x, x, x) } -> std::same_as<Var<S>>;
  F::fields(m);
};

namespace detail {

// Returns whether any parameter of the system requires a gradient.
template <class System>
bool records_parameters(const System& system) {
  bool any = false;
  if constexpr (has_leaves<System>)
    for_each_parameter(system, [&any](const auto& p) { any = any || p.requires_grad(); });
  return any;
}

// Returns a copy of the system on another tape, valid until that tape is reset. If `recorded`, its parameters add their
// gradients to those of the original's parameters; otherwise they are constants.
template <Real S, class System>
const System& mirrored(Tape<S>& tape, const System& system, bool recorded) {
  System& mirror = tape.pooled_copy(system);
  auto* memory = tape.template allocate<const Var<S>*>(leaf_count(system));
  for_each_leaf_pair(system, mirror, memory, [&](LeafKind, const Var<S>& from, Var<S>& to) {
    to = recorded && from.requires_grad() ? tape.shared(from) : tape.constant(from.value());
  });
  return mirror;
}

// Returns the times t[i] as a rows x 1 constant.
template <Real S>
Var<S> block_times(Tape<S>& tape, Index rows, const double* t) {
  const Var<S> times = tape.make(rows, 1, false);
  const View<S> to = tape.mutable_value(times);
  for (Index i = 0; i < rows; ++i) to.data[i] = static_cast<S>(t[i]);
  return times;
}

// The rows of the context that belong to the samples of a block. Samples stay in a block for many evaluations, so that
// only the rows of new ones are copied.
template <Real S>
class BlockContext {
 public:
  BlockContext() = default;
  // Takes memory of the tape. A context without columns is none.
  BlockContext(Tape<S>& tape, View<const S> context) : tape_(&tape), context_(context) {
    if (context.cols == 0) return;
    block_ = tape.mutable_value(tape.make(block_rows, context.cols, false));
    held_ = tape.template allocate<Index>(to_size(block_rows));
    std::fill_n(held_, block_rows, Index{-1});
  }

  // Returns the rows sample[i] for i < rows, which is at most block_rows, valid until the next call; an empty Var
  // without context. They gather a gradient if `recorded`.
  Var<S> of(Index rows, const Index* sample, bool recorded = false) const {
    if (context_.cols == 0) return {};
    for (Index i = 0; i < rows; ++i) {
      if (held_[i] == sample[i]) continue;
      held_[i] = sample[i];
      for (Index j = 0; j < block_.cols; ++j) block_.col(j)[i] = context_.col(j)[sample[i]];
    }
    View<const S> used{block_.data, rows, block_.cols, block_.stride};
    if (rows == 1) {  // the values of a single row lie side by side, as ops expect
      S* row = tape_->allocate_values(block_.cols);
      for (Index j = 0; j < block_.cols; ++j) row[j] = block_.col(j)[0];
      used = {row, 1, block_.cols, 1};
    }
    return recorded ? tape_->alias(used, true) : tape_->constant(used);
  }

 private:
  Tape<S>* tape_ = nullptr;
  View<const S> context_{};
  View<S> block_{};
  Index* held_ = nullptr;  // samples whose rows the block holds
};

// Adds the adjoint of what BlockContext::of() returned to that of the whole, which lies at `grad`.
template <Real S>
void add_context_gradient(View<S> grad, const Index* sample, const Var<S>& block) {
  if (!block.has_grad()) return;
  const View<const S> from = block.grad();
  for (Index j = 0; j < from.cols; ++j)
    for (Index i = 0; i < from.rows; ++i) grad.col(j)[sample[i]] += from.col(j)[i];
}

// Copies `from` to `to`, which has the same shape and may have another stride.
template <Real S>
void copy_block(View<const S> from, View<S> to) {
  for (Index j = 0; j < from.cols; ++j) std::copy_n(from.col(j), from.rows, to.col(j));
}

// Returns the right-hand side for integrate() of a system without gradients on `tape`, whose memory it uses.
template <Real S, class System>
auto right_hand_side(Tape<S>& tape, const System& system, View<const S> context) {
  return [&tape, &system, contexts = BlockContext<S>(tape, context)](const Stage<S>& in, View<S> dy) {
    const auto mark = tape.mark();
    const Var<S> t = block_times(tape, in.y.rows, in.t), own = contexts.of(in.y.rows, in.sample);
    const Var<S> slope = system(t, tape.constant(in.y), own);
    require(slope.rows() == dy.rows && slope.cols() == dy.cols, "ode: the system returned ", slope.rows(), " x ",
            slope.cols(), " values for states of ", dy.rows, " x ", dy.cols);
    copy_block(slope.value(), dy);
    tape.release(mark);
  };
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA::ode
