// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/math/elementwise.hpp>
#include <limits>
#include <utility>

/// Linear algebra of many small square matrices, one per sample. N matrices of size D x D are stored as D^2 columns of
/// N values, so that the lanes of a register are samples. The result of a sample does not depend on other samples.
namespace diffeo::inline DIFFEO_ISA::math {

namespace detail {

// Inverts the matrices with registers of entries a(i, j) by cofactors, D <= 3: calls out(i, j, entry of the inverse)
// and returns the determinants.
template <class S, int D, class A, class Out>
simd::Vec<S> invert_registers(const A& a, const Out& out) {
  using V = simd::Vec<S>;
  if constexpr (D == 1) {
    const V det = a(0, 0);
    out(0, 0, S(1) / det);
    return det;
  } else if constexpr (D == 2) {
    const V det = simd::mul_add<S>(a(0, 0), a(1, 1), -(a(0, 1) * a(1, 0))), r = S(1) / det;
    out(0, 0, a(1, 1) * r);
    out(0, 1, -(a(0, 1) * r));
    out(1, 0, -(a(1, 0) * r));
    out(1, 1, a(0, 0) * r);
    return det;
  } else {
    const auto minor = [&](int i0, int i1, int j0, int j1) {
      return simd::mul_add<S>(a(i0, j0), a(i1, j1), -(a(i0, j1) * a(i1, j0)));
    };
    V cofactor[3][3];
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) cofactor[i][j] = minor((i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3);
    const V det = a(0, 0) * cofactor[0][0] + a(0, 1) * cofactor[0][1] + a(0, 2) * cofactor[0][2], r = S(1) / det;
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) out(i, j, cofactor[j][i] * r);
    return det;
  }
}

// Replaces a D x D matrix (row-major) by its LU factors with partial pivoting; row i of the factors is row order[i] of
// the matrix. Returns log|det|. All entries become NaN if the matrix is singular.
template <class S>
S factor(S* a, Index* order, Index dim) {
  S log_det = 0;
  for (Index i = 0; i < dim; ++i) order[i] = i;
  for (Index k = 0; k < dim; ++k) {
    Index pivot = k;
    for (Index i = k + 1; i < dim; ++i)
      if (std::abs(a[i * dim + k]) > std::abs(a[pivot * dim + k])) pivot = i;
    if (pivot != k) {
      std::swap_ranges(a + k * dim, a + (k + 1) * dim, a + pivot * dim);
      std::swap(order[k], order[pivot]);
    }
    const S top = a[k * dim + k];
    if (top == 0) {  // singular; going on would divide 0 by 0 and make log|det| NaN
      std::fill_n(a, dim * dim, std::numeric_limits<S>::quiet_NaN());
      return -std::numeric_limits<S>::infinity();
    }
    log_det += std::log(std::abs(top));
    for (Index i = k + 1; i < dim; ++i) {
      const S f = a[i * dim + k] /= top;
      for (Index j = k + 1; j < dim; ++j) a[i * dim + j] -= f * a[k * dim + j];
    }
  }
  return log_det;
}

}  // namespace detail

/// Returns the number of values of the workspace that invert_batch() needs, besides D indices; 0 for D <= 3, where it
/// needs no indices either.
inline Index invert_batch_workspace(Index dim) { return dim <= 3 ? 0 : dim * (dim + 1); }

/// Computes the inverse and log|det| of N matrices A + diagonal I, by cofactors for D <= 3 and by LU factorisation with
/// partial pivoting for larger D. a(i, j) returns a pointer to the N entries in row i and column j, inverse(i, j) a
/// pointer to the memory of those of the inverse; all are padded to whole registers. A singular matrix gives
/// log|det| = -infinity and an inverse with entries that are not finite.
template <class S, class A, class Out>
void invert_batch(Index rows, Index dim, const A& a, S diagonal, const Out& inverse, S* log_det, S* workspace,
                  Index* order) {
  const auto by_cofactors = [&]<int D>(std::integral_constant<int, D>) {
    for (Index n = 0; n < rows; n += simd::lanes<S>) {
      const auto det = detail::invert_registers<S, D>(
          [&](int i, int j) { return simd::load<S>(a(i, j) + n) + (i == j ? diagonal : S(0)); },
          [&](int i, int j, auto v) { simd::store<S>(inverse(i, j) + n, v); });
      simd::store<S>(log_det + n, simd::log<S>(simd::abs<S>(det)));
    }
  };
  if (dim == 1) return by_cofactors(std::integral_constant<int, 1>{});
  if (dim == 2) return by_cofactors(std::integral_constant<int, 2>{});
  if (dim == 3) return by_cofactors(std::integral_constant<int, 3>{});
  S* lu = workspace;
  S* x = workspace + dim * dim;
  for (Index n = 0; n < rows; ++n) {
    for (Index i = 0; i < dim; ++i)
      for (Index j = 0; j < dim; ++j) lu[i * dim + j] = a(i, j)[n] + (i == j ? diagonal : S(0));
    log_det[n] = detail::factor(lu, order, dim);
    for (Index j = 0; j < dim; ++j) {
      for (Index i = 0; i < dim; ++i) {
        S sum = order[i] == j ? S(1) : S(0);
        for (Index k = 0; k < i; ++k) sum -= lu[i * dim + k] * x[k];
        x[i] = sum;
      }
      for (Index i = dim - 1; i >= 0; --i) {
        S sum = x[i];
        for (Index k = i + 1; k < dim; ++k) sum -= lu[i * dim + k] * x[k];
        x[i] = sum / lu[i * dim + i];
        inverse(i, j)[n] = x[i];
      }
    }
  }
}

}  // namespace diffeo::inline DIFFEO_ISA::math
