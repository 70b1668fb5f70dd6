// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/core/execution.hpp>
#include <diffeo/transport/distances.hpp>
#include <diffeo/transport/pair_sums.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Returns the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| of two sets of points, x (N x D) and y (M x D), any
/// Eigen expressions (Szekely and Rizzo, "Energy statistics: a class of statistics based on distances", Journal of
/// Statistical Planning and Inference 143, 2013). The means are over all pairs, those of a point with itself included,
/// as of the distributions that give each point the same mass: the result is at least 0, and 0 for equal sets alone. It
/// has the unit of the points; its square root is a metric.
///
/// The work is of the order of (N + M)^2 D, in double; the memory is that of the points. The result has the same bits
/// on any number of threads. Throws invalid_argument for NaN, infinity, an empty set, different numbers of columns, and
/// points so far apart that a squared distance overflows.
template <class X, class Y>
double energy_distance(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y, const Execution& execution = {}) {
  detail::require_point_sets("energy_distance", x, y);
  const Array<double> a = x.derived().template cast<double>().array(), b = y.derived().template cast<double>().array();
  const auto distance = [](simd::Vec<double> square) { return simd::sqrt<double>(square); };
  const auto n = static_cast<double>(a.rows()), m = static_cast<double>(b.rows());
  const double between = detail::sum_between(view(a), view(b), execution, distance) / (n * m);
  const double within = detail::sum_within(view(a), execution, distance) / (n * n) +
                        detail::sum_within(view(b), execution, distance) / (m * m);
  require(std::isfinite(between) && std::isfinite(within), "energy_distance: a squared distance overflows");
  return std::max(0.0, 2 * between - within);  // rounding may give less than 0
}

}  // namespace diffeo::inline DIFFEO_ISA
