// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/parameter.hpp>

/// Ops with a lower triangular matrix that all rows of a batch share, such as the Cholesky factor of a covariance.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Calls f(V, i, n...) for blocks of V registers of rows, from row i on; n is the number of rows of a block that is not
// whole.
template <Real S, class F>
void for_register_blocks(Index rows, const F& f) {
  constexpr Index lanes = simd::lanes<S>;
  Index i = 0;
  for (; i + 4 * lanes <= rows; i += 4 * lanes) f(std::integral_constant<int, 4>{}, i);
  for (; i + lanes <= rows; i += lanes) f(std::integral_constant<int, 1>{}, i);
  if (i < rows) f(std::integral_constant<int, 1>{}, i, rows - i);
}

// Solves L y = x for each row, or L' y = x where `transposed`, by substitution: column by column, so that the bits of a
// row do not depend on the others. x may be y. Only the lower triangle of L (D x D) is read.
template <Real S>
void solve_lower(View<S> y, View<const S> x, View<const S> l, bool transposed) {
  const Index dim = x.cols;
  for (Index step = 0; step < dim; ++step) {
    const Index j = transposed ? dim - 1 - step : step, begin = transposed ? j + 1 : 0, end = transposed ? dim : j;
    const simd::Vec<S> pivot = simd::broadcast<S>(l.col(j)[j]);
    for_register_blocks<S>(x.rows, [&]<int V>(std::integral_constant<int, V>, Index row, auto... n) {
      simd::Vec<S> sum[std::size_t{V}];
      for (int v = 0; v < V; ++v) sum[v] = simd::load<S>(x.col(j) + row + v * simd::lanes<S>, n...);
      for (Index k = begin; k < end; ++k) {
        const simd::Vec<S> entry = simd::broadcast<S>(-(transposed ? l.col(j)[k] : l.col(k)[j]));
        for (int v = 0; v < V; ++v)
          sum[v] = simd::mul_add<S>(entry, simd::load<S>(y.col(k) + row + v * simd::lanes<S>, n...), sum[v]);
      }
      for (int v = 0; v < V; ++v) simd::store<S>(y.col(j) + row + v * simd::lanes<S>, sum[v] / pivot, n...);
    });
  }
}

// Replaces each row z by L z + shift (1 x D).
template <Real S>
void multiply_lower(View<S> z, View<const S> l, View<const S> shift) {
  for (Index j = z.cols; j-- > 0;)
    for_register_blocks<S>(z.rows, [&]<int V>(std::integral_constant<int, V>, Index row, auto... n) {
      simd::Vec<S> sum[std::size_t{V}];
      for (int v = 0; v < V; ++v) sum[v] = simd::broadcast<S>(shift.col(j)[0]);
      for (Index k = 0; k <= j; ++k) {
        const simd::Vec<S> entry = simd::broadcast<S>(l.col(k)[j]);
        for (int v = 0; v < V; ++v)
          sum[v] = simd::mul_add<S>(entry, simd::load<S>(z.col(k) + row + v * simd::lanes<S>, n...), sum[v]);
      }
      for (int v = 0; v < V; ++v) simd::store<S>(z.col(j) + row + v * simd::lanes<S>, sum[v], n...);
    });
}

// Returns the sum over the rows of a * b, both N x 1.
template <Real S>
S column_dot(const S* a, const S* b, Index rows) {
  simd::Vec<S> sum{};
  for_register_blocks<S>(rows, [&]<int V>(std::integral_constant<int, V>, Index row, auto... n) {
    for (int v = 0; v < V; ++v)
      sum = simd::mul_add<S>(simd::load<S>(a + row + v * simd::lanes<S>, n...),
                             simd::load<S>(b + row + v * simd::lanes<S>, n...), sum);
  });
  S total = 0;
  for (Index lane = 0; lane < simd::lanes<S>; ++lane) total += sum[lane];
  return total;
}

}  // namespace detail

/// Returns the number of entries below the diagonal of a D x D matrix.
constexpr Index below_diagonal(Index dim) { return dim * (dim - 1) / 2; }

/// Returns the lower triangular matrix, D x D, with the given diagonal (1 x D) and the given entries below it, row by
/// row (1 x D (D - 1) / 2). Throws invalid_argument if the shapes do not match.
template <Real S>
Var<S> lower_triangular(Var<S> diagonal, Var<S> below) {
  const Index dim = diagonal.cols();
  require(diagonal.rows() == 1 && below.rows() == 1 && below.cols() == below_diagonal(dim),
          "lower_triangular: diagonal is ", diagonal.rows(), " x ", dim, ", below is ", below.rows(), " x ",
          below.cols(), ", expected 1 x D and 1 x D (D - 1) / 2");
  Tape<S>& tape = diagonal.tape();
  const Var<S> y = tape.make(dim, dim, diagonal.requires_grad() || below.requires_grad());
  const View<S> l = tape.mutable_value(y);
  as_eigen(l).setZero();
  for (Index i = 0, at = 0; i < dim; ++i) {
    for (Index j = 0; j < i; ++j) l.col(j)[i] = below.value().col(at++)[0];
    l.col(i)[i] = diagonal.value().col(i)[0];
  }
  if (y.requires_grad())
    tape.on_backward({y}, [diagonal, below, y] {
      const View<const S> g = y.grad();
      if (diagonal.requires_grad()) {
        const GradTarget<S> target = detail::zeroed_target(diagonal);
        for (Index i = 0; i < g.cols; ++i) target.grad.col(i)[0] += g.col(i)[i];
      }
      if (below.requires_grad() && below.cols() > 0) {
        const GradTarget<S> target = detail::zeroed_target(below);
        for (Index i = 0, at = 0; i < g.cols; ++i)
          for (Index j = 0; j < i; ++j) target.grad.col(at++)[0] += g.col(j)[i];
      }
    });
  return y;
}

/// Returns y with L y = x for each row: N x D for x of N x D and L of D x D, of which only the lower triangle is read;
/// its diagonal must not vanish. Throws invalid_argument if the shapes do not match.
template <Real S, class L>
Var<S> solve_lower(Var<S> x, const L& lower) {
  Tape<S>& tape = x.tape();
  const Var<S> l = as_var(tape, lower);
  require(l.rows() == x.cols() && l.cols() == x.cols(), "solve_lower: x has ", x.cols(), " columns, L is ", l.rows(),
          " x ", l.cols());
  const Var<S> y = tape.make(x.rows(), x.cols(), x.requires_grad() || l.requires_grad());
  detail::solve_lower(tape.mutable_value(y), x.value(), l.value(), false);
  if (y.requires_grad())
    tape.on_backward({y}, [x, l, y] {
      // dy = L^-1 (dx - dL y), so x receives v = L'^-1 g and L receives -v y', summed over the rows.
      const View<S> v = y.tape().mutable_grad(y);
      detail::solve_lower(v, View<const S>(v), l.value(), true);
      if (l.requires_grad()) {
        const GradTarget<S> target = detail::zeroed_target(l);
        for (Index j = 0; j < v.cols; ++j)
          for (Index i = j; i < v.cols; ++i)
            target.grad.col(j)[i] -= detail::column_dot<S>(v.col(i), y.value().col(j), v.rows);
      }
      add_grad_sum(x, View<const S>(v));
    });
  return y;
}
template <class X, class L>
Dual<X> solve_lower(const Dual<X>& x, const L& lower) {
  return {solve_lower(x.value, lower), solve_lower(x.tangent, lower)};
}

}  // namespace diffeo::inline DIFFEO_ISA
