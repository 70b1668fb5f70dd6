// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/elementwise.hpp>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// out (N x 1) = sum over the columns of a * b, added up in their order whatever the number of rows.
template <Real S>
void row_dot(View<S> out, View<const S> a, View<const S> b) {
  constexpr Index lanes = simd::lanes<S>;
  const auto rows = [&]<int V>(std::integral_constant<int, V>, Index i, auto... n) {
    simd::Vec<S> sum[std::size_t{V}] = {};
    for (Index j = 0; j < a.cols; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sum[v] = simd::mul_add<S>(simd::load<S>(a.col(j) + i + v * lanes, n...),
                                  simd::load<S>(b.col(j) + i + v * lanes, n...), sum[v]);
    for (int v = 0; v < V; ++v) simd::store<S>(out.data + i + v * lanes, sum[v], n...);
  };
  Index i = 0;
  for (; i + 4 * lanes <= out.rows; i += 4 * lanes) rows(std::integral_constant<int, 4>{}, i);
  for (; i + lanes <= out.rows; i += lanes) rows(std::integral_constant<int, 1>{}, i);
  if (i < out.rows) rows(std::integral_constant<int, 1>{}, i, out.rows - i);
}

// target += g * x, column by column.
template <Real S>
void add_scaled_rows(Var<S> to, View<const S> g, View<const S> x) {
  if (!to.requires_grad()) return;
  const GradTarget<S> target = to.tape().grad_target(to);
  for (Index j = 0; j < x.cols; ++j)
    math::map_add(
        target.grad.cols_block(j, 1), target.assign, [](auto scale, auto v) { return scale * v; }, g,
        x.cols_block(j, 1));
}

}  // namespace detail

/// The inner product of each row of a with that of b: N x C and N x C -> N x 1. Throws invalid_argument where the
/// shapes differ.
template <Real S>
Var<S> row_dot(Var<S> a, Var<S> b) {
  require(a.shape() == b.shape(), "row_dot: a is ", a.rows(), " x ", a.cols(), ", b ", b.rows(), " x ", b.cols());
  Tape<S>& tape = a.tape();
  const Var<S> y = tape.make(a.rows(), 1, a.requires_grad() || b.requires_grad());
  detail::row_dot(tape.mutable_value(y), a.value(), b.value());
  if (y.requires_grad())
    tape.on_backward({y}, [a, b, y] {
      detail::add_scaled_rows(a, y.grad(), b.value());
      detail::add_scaled_rows(b, y.grad(), a.value());
    });
  return y;
}
template <class X>
Dual<X> row_dot(const Dual<X>& a, const Dual<X>& b) {
  return {row_dot(a.value, b.value), row_dot(a.tangent, b.value) + row_dot(a.value, b.tangent)};
}

}  // namespace diffeo::inline DIFFEO_ISA
