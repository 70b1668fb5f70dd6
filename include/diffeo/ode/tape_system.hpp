// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/lift.hpp>
#include <diffeo/ode/integrate.hpp>

/// Systems of equations written over the op vocabulary, y' = system(t, y, context): t is N x 1, y is N x n, context an
/// N x c block of constants that belong to the samples (an empty Var where c is 0), the result N x n. A system is a
/// structure over Var<S> (fields, rebind; see autodiff/lift.hpp), so that it can be taken from one tape to another.
namespace diffeo::inline DIFFEO_ISA::ode {

template <class F, class S>
concept TapeSystem = requires(const F& f, F& m, const Var<S>& x) {
  { f(x, x, x) } -> std::same_as<Var<S>>;
  F::fields(m);
};

namespace detail {

// Whether a gradient of any parameter of the system is wanted.
template <class System>
bool records_parameters(const System& system) {
  bool any = false;
  for_each_parameter(system, [&any](const auto& p) { any = any || p.requires_grad(); });
  return any;
}

// The system on another tape, until its reset: made of constants, or of variables whose gradients add to those of the
// original's parameters.
template <Real S, class System>
const System& mirrored(Tape<S>& tape, const System& system, bool recorded) {
  System& mirror = tape.keep(system);
  auto* memory = tape.template storage<const Var<S>*>(leaf_count(system));
  for_each_leaf_pair(system, mirror, memory, [&](LeafKind, const Var<S>& from, Var<S>& to) {
    to = recorded && from.requires_grad() ? tape.shared(from) : tape.constant(from.value());
  });
  return mirror;
}

// What belongs to the samples of an active block.
template <Real S>
struct BlockInput {
  Var<S> t, context;
};

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

template <Real S>
void copy_block(View<const S> from, View<S> to) {
  for (Index j = 0; j < from.cols; ++j) std::copy_n(from.col(j), from.rows, to.col(j));
}

// The right-hand side for integrate(), of a system of constants.
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
