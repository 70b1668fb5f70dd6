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

// Returns the rows sample[i] of `context`, which gather a gradient if `recorded`; an empty Var if it has no columns.
template <Real S>
Var<S> block_context(Tape<S>& tape, Index rows, const Index* sample, View<const S> context, bool recorded = false) {
  if (context.cols == 0) return {};
  const Var<S> block = tape.make(rows, context.cols, recorded);
  const View<S> to = tape.mutable_value(block);
  for (Index j = 0; j < context.cols; ++j)
    for (Index i = 0; i < rows; ++i) to.col(j)[i] = context.col(j)[sample[i]];
  return block;
}

// Adds the adjoint of a block of block_context() to that of the whole, which lies at `grad`.
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
  return [&tape, &system, context](const Stage<S>& in, View<S> dy) {
    const auto mark = tape.mark();
    const Var<S> t = block_times(tape, in.y.rows, in.t), own = block_context(tape, in.y.rows, in.sample, context);
    const Var<S> slope = system(t, tape.constant(in.y), own);
    require(slope.rows() == dy.rows && slope.cols() == dy.cols, "ode: the system returned ", slope.rows(), " x ",
            slope.cols(), " values for states of ", dy.rows, " x ", dy.cols);
    copy_block(slope.value(), dy);
    tape.release(mark);
  };
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA::ode
