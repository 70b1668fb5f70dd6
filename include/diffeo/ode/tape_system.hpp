// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/lift.hpp>
#include <diffeo/ode/integrate.hpp>

/// Systems of equations y' = system(t, y, context) written with the ops of autodiff/ops. t is N x 1, y is N x n,
/// context an N x c block of constants, one row per sample (an empty Var if c is 0); the result is N x n. A system is a
/// structure over Var<S> (fields, rebind; see autodiff/lift.hpp), so that it can be copied from one tape to another.
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

// Time and context of the samples of a block, on a tape.
template <Real S>
struct BlockInput {
  Var<S> t, context;
};

// Returns the times t[i] as a rows x 1 constant, and the rows sample[i] of `context`; no context if it has no columns.
template <Real S>
BlockInput<S> block_input(Tape<S>& tape, Index rows, const Index* sample, const double* t, View<const S> context) {
  BlockInput<S> in{tape.make(rows, 1, false), {}};
  const View<S> time = tape.mutable_value(in.t);
  for (Index i = 0; i < rows; ++i) time.data[i] = static_cast<S>(t[i]);
  if (context.cols == 0) return in;
  in.context = tape.make(rows, context.cols, false);
  const View<S> to = tape.mutable_value(in.context);
  for (Index j = 0; j < context.cols; ++j)
    for (Index i = 0; i < rows; ++i) to.col(j)[i] = context.col(j)[sample[i]];
  return in;
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
    const auto [t, own] = block_input(tape, in.y.rows, in.sample, in.t, context);
    const Var<S> slope = system(t, tape.constant(in.y), own);
    require(slope.rows() == dy.rows && slope.cols() == dy.cols, "ode: the system returned ", slope.rows(), " x ",
            slope.cols(), " values for states of ", dy.rows, " x ", dy.cols);
    copy_block(slope.value(), dy);
    tape.release(mark);
  };
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA::ode
