// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/autodiff/dual.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Density on R^D known up to a constant factor, which a flow can be fitted to and whose integral can be estimated: any
/// callable written with the ops of autodiff/ops, such as a generic lambda.
///
/// | expression | type             | meaning                                                                   |
/// |------------|------------------|---------------------------------------------------------------------------|
/// | t(x)       | X, as x          | N x D -> N x 1, natural logarithm of the unnormalised density of each row |
/// | t.dim()    | Index, optional  | D; compared with the dimension of the flow                                |
/// | t.log_z()  | double, optional | logarithm of the integral, if known                                       |
///
/// Laws: a row's value depends on that row alone; it is finite and differentiable wherever the flow may have samples.
/// Arrays that the target refers to must exist until the backward sweep has ended.
///
/// Models: targets::U1, U2, U3, U4, Banana, Funnel, EightSchools. A target that also accepts Dual<Var<S>> provides
/// Hessian-vector products; the library does not require them.
template <class T, class X>
concept Target = Traced<X> && requires(const T& target, const X& x) {
  { target(x) } -> std::same_as<X>;
};

}  // namespace diffeo::inline DIFFEO_ISA
