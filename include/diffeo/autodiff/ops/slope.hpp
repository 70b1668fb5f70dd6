// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/affine.hpp>

/// Activations with their slopes, which Jacobians of networks need, computed in one pass.
namespace diffeo::inline DIFFEO_ISA {

/// Values of an activation and its slopes at the same points, N x H each.
template <Real S>
struct WithSlope {
  Var<S> value;
  Var<S> slope;
};

namespace detail {

// Assigns value = act(argument), slope = act'(argument); value may lie where the argument does.
template <Real S>
void activate_with_slope(Activation act, View<const S> argument, View<S> value, View<S> slope) {
  with_activation<S>(act, [&](auto kernel) {
    math::map_pair(
        value, slope,
        [kernel](auto v) {
          const auto at = kernel.derivatives(v);
          return std::pair(at.value, at.slope);
        },
        argument);
  });
}

// The adjoint of the argument, in the memory of an adjoint that exists: value' slope + slope' curvature.
template <Real S>
View<S> argument_adjoint(Activation act, Var<S> y, Var<S> d, View<const S> argument) {
  Tape<S>& t = y.tape();
  const View<S> out = t.mutable_grad(y.has_grad() ? y : d);
  with_activation<S>(act, [&]<class K>(K kernel) {
    if (!d.has_grad())
      math::map(
          out, [](auto g, auto slope) { return g * slope; }, y.grad(), d.value());
    else if constexpr (!CurvatureFromResult<K>) {
      if (y.has_grad())
        math::map(
            out,
            [kernel](auto g, auto of_slope, auto slope, auto a) {
              return simd::mul_add<S>(g, slope, of_slope * kernel.derivatives(a).curvature);
            },
            y.grad(), d.grad(), d.value(), argument);
      else
        math::map(
            out, [kernel](auto of_slope, auto a) { return of_slope * kernel.derivatives(a).curvature; }, d.grad(),
            argument);
    } else if (y.has_grad()) {
      math::map(
          out,
          [kernel](auto g, auto of_slope, auto value, auto slope) {
            return simd::mul_add<S>(g, slope, of_slope * kernel.curvature(value, slope));
          },
          y.grad(), d.grad(), y.value(), d.value());
    } else {
      math::map(
          out, [kernel](auto of_slope, auto value, auto slope) { return of_slope * kernel.curvature(value, slope); },
          d.grad(), y.value(), d.value());
    }
  });
  return out;
}

}  // namespace detail

/// Returns act(x) and act'(x), elementwise. Gradients use the second derivative of the activation.
template <Real S>
WithSlope<S> activate_with_slope(Activation act, Var<S> x) {
  Tape<S>& tape = x.tape();
  const bool recorded = x.requires_grad();
  const Var<S> y = tape.make(x.rows(), x.cols(), recorded), d = tape.make(x.rows(), x.cols(), recorded);
  detail::activate_with_slope(act, x.value(), tape.mutable_value(y), tape.mutable_value(d));
  if (recorded)
    tape.on_backward(
        {y, d}, [x, y, d, act] { add_grad_sum(x, View<const S>(detail::argument_adjoint(act, y, d, x.value()))); });
  return {y, d};
}

/// Returns act(x W' + b) and act' at the same points, computed by one op: N x M for x of N x K, W of M x K and b of 1 x
/// M, or of N x M with a row for each sample. Throws invalid_argument if the shapes do not match.
template <Real S, class W, class B>
WithSlope<S> affine_with_slope(Var<S> x, const W& weights, const B& bias, Activation act) {
  Tape<S>& tape = x.tape();
  const Var<S> w = as_var(tape, weights), b = as_var(tape, bias);
  require(x.cols() == w.cols() && (b.rows() == 1 || b.rows() == x.rows()) && b.cols() == w.rows(), "affine: x has ",
          x.cols(), " columns, the weights are ", w.rows(), " x ", w.cols(), ", the bias ", b.rows(), " x ", b.cols());
  const bool recorded = x.requires_grad() || w.requires_grad() || b.requires_grad();
  const Var<S> y = tape.make(x.rows(), w.rows(), recorded), d = tape.make(x.rows(), w.rows(), recorded);
  const View<S> value = tape.mutable_value(y);
  View<S> argument = value;
  if (recorded && detail::curvature_needs_argument(act))
    argument.data = tape.allocate_values(value.stride * value.cols);
  detail::product_with_bias(argument, x.value(), x.padded(), detail::right_operand(w.value(), true), b);
  detail::activate_with_slope(act, View<const S>(argument), value, tape.mutable_value(d));
  if (!recorded) return {y, d};

  tape.on_backward({y, d}, [x, w, b, y, d, act, argument = View<const S>(argument)] {
    Tape<S>& t = y.tape();
    const View<const S> g = detail::argument_adjoint(act, y, d, argument);
    if (w.requires_grad() || b.requires_grad()) detail::add_weight_gradients(t, w, b, true, g, x.value());
    if (!x.requires_grad()) return;
    const GradTarget<S> target = t.grad_target(x);
    math::product<S>(detail::with_padding(target.grad, g, true), g, detail::transposed_operand(w.value(), true),
                     nullptr, target.assign ? math::Start::zero : math::Start::accumulate);
  });
  return {y, d};
}

}  // namespace diffeo::inline DIFFEO_ISA
