// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/leaves.hpp>
#include <vector>

/// Models over the variables of a tape. A structure offers its fields (see fields.hpp) and `rebind<U>()`, the same
/// structure over U with the same settings and parameters still to be set.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Returns the structure over Var. parameter(from, at) makes each variable, whose values begin at position `at` of the
// flat vector.
template <class M, class Parameter>
auto lift_with(Tape<typename M::Scalar>& tape, const M& model, const Parameter& parameter) {
  auto lifted = model.template rebind<Var<typename M::Scalar>>();
  std::vector<const leaf_t<M>*> memory(leaf_count(model));
  Index at = 0;
  for_each_leaf_pair(model, lifted, memory.data(), [&](LeafKind kind, const auto& from, auto& to) {
    if (kind == LeafKind::buffer) {
      to = tape.persistent_constant(view(from));
    } else {
      to = parameter(from, at);
      at += from.size();
    }
  });
  return lifted;
}

}  // namespace detail

/// Returns the model with tape variables for parameters. Their values are those at `values`, a flat vector in the order
/// of parameters() that the caller keeps alive and may change between sweeps; their gradients go to `grads`, of the
/// same layout. Buffers become constants that refer to the memory of `model`.
template <class M>
auto lift(Tape<typename M::Scalar>& tape, const M& model, typename M::Scalar* values, typename M::Scalar* grads) {
  return detail::lift_with(tape, model, [&](const auto& from, Index at) {
    return tape.parameter({values + at, from.rows(), from.cols(), from.rows()}, grads ? grads + at : nullptr);
  });
}

/// Returns the model with constants of the tape for parameters, whose values are those at `values` as in lift(): no
/// gradient reaches them.
template <class M>
auto lift_detached(Tape<typename M::Scalar>& tape, const M& model, const typename M::Scalar* values) {
  return detail::lift_with(tape, model, [&](const auto& from, Index at) {
    return tape.persistent_constant({values + at, from.rows(), from.cols(), from.rows()});
  });
}

}  // namespace diffeo::inline DIFFEO_ISA
