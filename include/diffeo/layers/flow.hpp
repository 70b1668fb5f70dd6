// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/autodiff/parameter.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// What a direction of a flow computes: `value` (N x D), and `log_det` (N x 1), the natural logarithm of |det| of the
/// Jacobian of that direction, one per sample. Where gradients of the parameters are recorded a layer may add a
/// `penalty` (N x 1; else empty), which training adds to the loss of the sample: the cost of its path, for instance.
template <class X>
struct Transformed {
  X value;
  X log_det;
  X penalty = {};
};

namespace detail {

/// Throws unless the direction of a flow gave a value and, where there is one, a log-determinant and a penalty for each
/// of rows x cols numbers.
template <class X, class... Name>
void require_shapes(const Transformed<X>& y, Index rows, Index cols, const Name&... name) {
  require(y.value.rows() == rows && y.value.cols() == cols, name..., " gave ", y.value.rows(), " x ", y.value.cols(),
          " values for ", rows, " x ", cols);
  const auto require_column = [&](const auto& part, const char* what) {
    require(!part || (part.rows() == rows && part.cols() == 1), name..., " gave ", part ? part.rows() : 0, " x ",
            part ? part.cols() : 0, ' ', what, " for ", rows, " rows, expected ", rows, " x 1");
  };
  require_column(innermost(y.log_det), "log-determinants");
  require_column(innermost(y.penalty), "penalties");
}

}  // namespace detail

/// What a layer offers for values of type X; a composition offers what all its parts do.
template <class F, class X>
concept HasForward = requires(const F& f, const X& z) { f.forward(z); };
template <class F, class X>
concept HasInverse = requires(const F& f, const X& x) { f.inverse(x); };

/// What a layer offers whose log-determinant costs extra: the value of forward alone.
template <class F, class X>
concept HasGenerate = requires(const F& f, const X& z) {
  { f.generate(z) } -> std::same_as<X>;
};

/// The value of forward, at no more cost than that.
template <class F, class X>
  requires HasForward<F, X>
X generate(const F& flow, const X& z) {
  if constexpr (HasGenerate<F, X>)
    return flow.generate(z);
  else
    return flow.forward(z).value;
}

/// An invertible differentiable map of R^D. `forward` generates, z -> x; `inverse` evaluates density, x -> z.
///
/// | expression          | type                | meaning                                                     |
/// |---------------------|---------------------|-------------------------------------------------------------|
/// | f.dim()             | Index               | D, or 0 for a flow that takes any dimension                 |
/// | f.forward(z)        | Transformed<Var<S>> | z: N x D                                                    |
/// | f.inverse(x)        | Transformed<Var<S>> | x: N x D                                                    |
/// | F::fields(f)        | std::tuple of references | parameters, buffers and parts: what is trained and saved |
/// | f.rebind<Var<S>>()  | flow over Var<S>    | the same structure with parameters still to be set          |
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
  { f.forward(x) } -> std::same_as<Transformed<Var<S>>>;
  { f.inverse(x) } -> std::same_as<Transformed<Var<S>>>;
  F::fields(m);
  F::fields(f);
  f.template rebind<Var<S>>();
};

/// A flow with the scalar it is made of.
template <class F>
concept Flow = requires { typename F::Scalar; } && FlowOf<F, typename F::Scalar>;

}  // namespace diffeo::inline DIFFEO_ISA
