// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/autodiff/parameter.hpp>
#include <diffeo/layers/pass.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// What a direction of a flow computes: `value` (N x D), and `log_det` (N x 1), the natural logarithm of |det| of the
/// Jacobian of that direction, one per sample.
template <class X>
struct Transformed {
  X value;
  X log_det;
};

namespace detail {

/// Throws unless the direction of a flow gave rows x cols values and, where there are any, rows x 1 log-determinants.
template <class X, class... Name>
void require_shapes(const Transformed<X>& y, Index rows, Index cols, const Name&... name) {
  require(y.value.rows() == rows && y.value.cols() == cols, name..., " gave ", y.value.rows(), " x ", y.value.cols(),
          " values for ", rows, " x ", cols);
  const auto log_det = innermost(y.log_det);
  require(!log_det || (log_det.rows() == rows && log_det.cols() == 1), name..., " gave ", log_det ? log_det.rows() : 0,
          " x ", log_det ? log_det.cols() : 0, " log-determinants for ", rows, " rows, expected ", rows, " x 1");
}

}  // namespace detail

namespace detail {

template <class F, class X>
concept TakesPassForward =
    requires(const F& f, const X& z, const Pass<typename X::Scalar>& pass) { f.forward(z, pass); };
template <class F, class X>
concept TakesPassInverse =
    requires(const F& f, const X& x, const Pass<typename X::Scalar>& pass) { f.inverse(x, pass); };
template <class F, class X>
concept TakesPassGenerate =
    requires(const F& f, const X& z, const Pass<typename X::Scalar>& pass) { f.generate(z, pass); };

}  // namespace detail

/// Whether a layer has a direction for values of type X, with or without a Pass; a composition has what all its parts
/// have.
template <class F, class X>
concept HasForward = detail::TakesPassForward<F, X> || requires(const F& f, const X& z) { f.forward(z); };
template <class F, class X>
concept HasInverse = detail::TakesPassInverse<F, X> || requires(const F& f, const X& x) { f.inverse(x); };

/// Whether a layer whose log-determinant costs extra offers the value of forward alone.
template <class F, class X>
concept HasGenerate = detail::TakesPassGenerate<F, X> || requires(const F& f, const X& z) {
  { f.generate(z) } -> std::same_as<X>;
};

/// Calls flow.forward, with the pass where it takes one.
template <class F, class X>
  requires HasForward<F, X>
auto call_forward(const F& flow, const X& z, const Pass<typename X::Scalar>& pass = {}) {
  if constexpr (detail::TakesPassForward<F, X>)
    return flow.forward(z, pass);
  else
    return flow.forward(z);
}

/// Calls flow.inverse, with the pass where it takes one.
template <class F, class X>
  requires HasInverse<F, X>
auto call_inverse(const F& flow, const X& x, const Pass<typename X::Scalar>& pass = {}) {
  if constexpr (detail::TakesPassInverse<F, X>)
    return flow.inverse(x, pass);
  else
    return flow.inverse(x);
}

/// Returns the value of forward, at no more cost than that.
template <class F, class X>
  requires HasForward<F, X>
X generate(const F& flow, const X& z, const Pass<typename X::Scalar>& pass = {}) {
  if constexpr (detail::TakesPassGenerate<F, X>)
    return flow.generate(z, pass);
  else if constexpr (HasGenerate<F, X>)
    return flow.generate(z);
  else
    return call_forward(flow, z, pass).value;
}

/// An invertible differentiable map of R^D. `forward` generates, z -> x; `inverse` evaluates density, x -> z.
///
/// | expression                | type                | meaning                                                   |
/// |---------------------------|---------------------|-----------------------------------------------------------|
/// | F::Scalar                 | float or double     | the scalar of its parameters                              |
/// | f.dim()                   | Index               | D, or 0 for a flow that takes any dimension               |
/// | f.forward(z)              | Transformed<Var<S>> | z: N x D; or f.forward(z, pass), see Pass                 |
/// | f.inverse(x)              | Transformed<Var<S>> | x: N x D; or f.inverse(x, pass)                           |
/// | F::fields(f)              | see fields.hpp      | parameters, buffers and parts                             |
/// | F::settings(f)            | see fields.hpp      | optional: what else decides the results                   |
/// | f.rebind<Var<S>>()        | flow over Var<S>    | the same structure and settings, without parameters       |
/// | f.context_dim()           | Index               | of a layer that reads pass.context: its columns C, 0 for  |
/// |                           |                     | none; a layer whose parts have it needs none of its own   |
/// | f.check()                 | void                | optional: throws invalid_argument where shapes do not fit |
/// | F::forward_all(layers, z) | Transformed<Var<S>> | optional, static: several layers of this type in one go,  |
/// |                           |                     | a std::span in forward order; or with a Pass behind z     |
/// | F::inverse_all(layers, x) | Transformed<Var<S>> | optional, static: their inverse                           |
///
/// Laws, checked by testing/flow_laws.hpp: inverse(forward(z)) = z and forward(inverse(x)) = x; log_det of the two
/// directions add up to 0 and equal log|det| of the dense Jacobian; a row's result does not depend, bit for bit, on the
/// other rows; gradients in both directions agree with finite differences.
///
/// Models: Coupling, Planar, Radial, Residual, Cnf, DiagonalScale, Permutation, Standardize, FlowSequence, Repeated,
/// Invert.
///
/// Only Var is asked for here. A layer written over the op vocabulary takes Dual too, but one whose direction is solved
/// by iteration may offer its tangent in one direction alone.
template <class F, class S>
concept FlowOf = Real<S> && requires(const F& f, F& m, const Var<S>& x) {
  { f.dim() } -> std::convertible_to<Index>;
  { call_forward(f, x) } -> std::same_as<Transformed<Var<S>>>;
  { call_inverse(f, x) } -> std::same_as<Transformed<Var<S>>>;
  F::fields(m);
  F::fields(f);
  f.template rebind<Var<S>>();
};

/// A flow with the scalar it is made of.
template <class F>
concept Flow = requires { typename F::Scalar; } && FlowOf<F, typename F::Scalar>;

}  // namespace diffeo::inline DIFFEO_ISA
