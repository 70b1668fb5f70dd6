// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/elementwise.hpp>

/// Sums, means and other reductions. Reductions over columns treat each row independently: the bits of its result do
/// not depend on the other rows.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {
template <Real S>
Var<S> sum_to(Var<S> x, Index rows, Index cols) {
  if (x.rows() == rows && x.cols() == cols) return x;
  const Var<S> y = x.tape().make(rows, cols, x.requires_grad());
  math::sum_to(x.tape().mutable_value(y), true, x.value());
  if (y.requires_grad())
    x.tape().on_backward({y}, [x, y] {
      const GradTarget<S> target = x.tape().grad_target(x);
      const ScratchBuffer<S> memory(x.tape(), target.grad.stride * target.grad.cols);
      const View<S> full{memory.data(), target.grad.rows, target.grad.cols, target.grad.stride};
      math::broadcast_to(full, y.grad());
      math::sum_to(target.grad, target.assign, static_cast<View<const S>>(full));
    });
  return y;
}
}  // namespace detail

/// Returns the sum of each row: N x C -> N x 1.
template <Real S>
Var<S> sum_cols(Var<S> x) {
  return detail::sum_to(x, x.rows(), 1);
}
/// Returns the sum of each column: N x C -> 1 x C.
template <Real S>
Var<S> sum_rows(Var<S> x) {
  return detail::sum_to(x, 1, x.cols());
}
/// Returns the sum of all elements: N x C -> 1 x 1.
template <Real S>
Var<S> sum(Var<S> x) {
  return detail::sum_to(x, 1, 1);
}
template <class X>
Dual<X> sum_cols(const Dual<X>& x) {
  return {sum_cols(x.value), sum_cols(x.tangent)};
}
template <class X>
Dual<X> sum_rows(const Dual<X>& x) {
  return {sum_rows(x.value), sum_rows(x.tangent)};
}
template <class X>
Dual<X> sum(const Dual<X>& x) {
  return {sum(x.value), sum(x.tangent)};
}

/// Returns the mean of all elements: N x C -> 1 x 1.
template <Traced X>
X mean(const X& x) {
  return sum(x) * (typename X::Scalar(1) / static_cast<typename X::Scalar>(x.rows() * x.cols()));
}

/// Returns the Euclidean norm of each row: N x C -> N x 1. The derivative at 0, where the norm is not differentiable,
/// is set to 0.
template <Real S>
Var<S> norm_cols(Var<S> x) {
  Tape<S>& tape = x.tape();
  const Var<S> y = tape.make(x.rows(), 1, x.requires_grad());
  const View<S> out = tape.mutable_value(y);
  math::map(out, [] { return simd::Vec<S>{}; });
  for (Index j = 0; j < x.cols(); ++j)
    math::map(
        out, [](auto sum, auto v) { return simd::mul_add<S>(v, v, sum); }, static_cast<View<const S>>(out),
        x.value().cols_block(j, 1));
  math::map(
      out, [](auto v) { return simd::sqrt<S>(v); }, static_cast<View<const S>>(out));
  for (Index i = 0; i < x.rows(); ++i) {
    if (!std::isinf(out.data[i])) continue;
    const auto row = as_eigen(x.value()).row(i);  // whose squares overflow
    const S largest = row.abs().maxCoeff();
    if (std::isfinite(largest)) out.data[i] = largest * (row / largest).matrix().norm();
  }
  if (y.requires_grad())
    tape.on_backward({y}, [x, y] {
      const GradTarget<S> target = x.tape().grad_target(x);
      for (Index j = 0; j < x.cols(); ++j)
        math::map_add(
            target.grad.cols_block(j, 1), target.assign,
            [](auto g, auto length, auto v) { return length > S(0) ? g * (v / length) : simd::Vec<S>{}; }, y.grad(),
            y.value(), x.value().cols_block(j, 1));
    });
  return y;
}
template <class X>
Dual<X> norm_cols(const Dual<X>& x) {
  const X y = norm_cols(x.value);
  const auto is_zero = 1 - step(y);
  return {y, sum_cols(x.tangent * (x.value / (y + is_zero)))};
}

/// Returns the largest element of each row as a constant: N x C -> N x 1.
template <Real S>
Var<S> max_cols(Var<S> x) {
  require(x.cols() > 0, "max_cols: x has no columns");
  const Var<S> y = x.tape().make(x.rows(), 1, false);
  const View<S> out = x.tape().mutable_value(y);
  math::copy(out, x.value().cols_block(0, 1));
  for (Index j = 1; j < x.cols(); ++j)
    math::map(
        out, [](auto a, auto b) { return a > b ? a : b; }, static_cast<View<const S>>(out), x.value().cols_block(j, 1));
  return y;
}

/// Returns the logarithm of the sum of the exponentials of each row, computed without overflow: N x C -> N x 1. A row
/// of -infinity gives -infinity, without a valid derivative.
template <Traced X>
X log_sum_exp(const X& x) {
  // The result does not depend on the shift, so the shift needs no derivative; an infinite one would leave NaN.
  const auto shift = max_cols(innermost(x));
  const auto place = shift.tape().mutable_value(shift);
  using S = typename X::Scalar;
  math::map(
      place, [](auto v) { return v - v == S(0) ? v : simd::Vec<S>{}; }, static_cast<View<const S>>(place));
  return log(sum_cols(exp(x - shift))) + shift;
}

}  // namespace diffeo::inline DIFFEO_ISA
