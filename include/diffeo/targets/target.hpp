// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/autodiff/dual.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// A density on R^D known up to a constant factor, to fit a flow to or to estimate the integral of: any callable
/// written over the op vocabulary, a generic lambda for instance.
///
/// | expression | type             | meaning                                                                  |
/// |------------|------------------|--------------------------------------------------------------------------|
/// | t(x)       | X, as x          | N x D -> N x 1, natural logarithm of the unnormalised density of each row |
/// | t.dim()    | Index, optional  | D, to be held against the flow's                                         |
/// | t.log_z()  | double, optional | logarithm of the integral, where it is known                             |
///
/// Laws: a row's value depends on that row alone; it is finite, and differentiable, wherever samples of the flow may
/// come to lie. Arrays that the target holds must outlive the sweeps.
///
/// Models: targets::U1, U2, U3, U4, Banana, Funnel, EightSchools. Written over Dual<Var<S>> too, a target has
/// Hessian-vector products; nothing here asks for them.
template <class T, class X>
concept Target = Traced<X> && requires(const T& target, const X& x) {
  { target(x) } -> std::same_as<X>;
};

}  // namespace diffeo::inline DIFFEO_ISA
