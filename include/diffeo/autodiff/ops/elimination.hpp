// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <vector>

/// Gaussian elimination written with tape ops, so that its results have tangents and gradients of any order.
/// math/linear_solve.hpp computes the same on plain numbers, with pivoting.
namespace diffeo::inline DIFFEO_ISA::detail {

// One D x D matrix per row of a batch: entry [i][j] holds row i and column j of all N matrices, N x 1. X is Var or
// Dual.
template <class X>
using MatrixOfColumns = std::vector<std::vector<X>>;

// Brings `a` to upper triangular form, without pivoting, applying the same row operations to the right-hand side, D
// entries of N x 1, unless it is null. Returns log|det a|, N x 1. No leading principal minor may vanish.
template <class X>
X eliminate(MatrixOfColumns<X>& a, std::vector<X>* right) {
  const std::size_t d = a.size();
  X log_det = log(abs(a[0][0]));
  for (std::size_t k = 0; k < d; ++k) {
    if (k > 0) log_det = log_det + log(abs(a[k][k]));
    for (std::size_t i = k + 1; i < d; ++i) {
      const X f = a[i][k] / a[k][k];
      for (std::size_t j = k + 1; j < d; ++j) a[i][j] = a[i][j] - f * a[k][j];
      if (right) (*right)[i] = (*right)[i] - f * (*right)[k];
    }
  }
  return log_det;
}

// Returns log|det a|, N x 1.
template <class X>
X log_det_without_pivoting(MatrixOfColumns<X> a) {
  return eliminate<X>(a, nullptr);
}

// Returns the solution y (N x D) of a y = right, row by row.
template <class X>
X solve_without_pivoting(MatrixOfColumns<X> a, const X& right) {
  const std::size_t d = a.size();
  std::vector<X> y;
  for (std::size_t i = 0; i < d; ++i) y.push_back(cols(right, static_cast<Index>(i), 1));
  eliminate(a, &y);
  for (std::size_t i = d; i-- > 0;) {
    for (std::size_t j = i + 1; j < d; ++j) y[i] = y[i] - a[i][j] * y[j];
    y[i] = y[i] / a[i][i];
  }
  X all = y[0];
  for (std::size_t i = 1; i < d; ++i) all = concat(all, y[i]);
  return all;
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
