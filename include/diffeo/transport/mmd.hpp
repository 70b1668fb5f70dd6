// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/execution.hpp>
#include <diffeo/math/elementwise.hpp>
#include <diffeo/transport/distances.hpp>
#include <diffeo/transport/pair_sums.hpp>
#include <span>
#include <utility>
#include <vector>

/// Maximum mean discrepancy of two sets of points, with Gaussian kernels (Gretton, Borgwardt, Rasch, Schoelkopf and
/// Smola, "A kernel two-sample test", Journal of Machine Learning Research 13, 2012).
namespace diffeo::inline DIFFEO_ISA {

/// Returns the median Euclidean distance between two points of the union of x (N x D) and y (M x D), any Eigen
/// expressions: the usual bandwidth of a Gaussian kernel (Gretton et al. 2012, section 8). Of an even number of
/// distances it is the larger one of the two in the middle. Of more than 1024 points as many are taken, at equal
/// spacings of the rows, which makes the median uncertain by a few percent. Throws invalid_argument for NaN, infinity,
/// an empty set, different numbers of columns, and points so far apart that the squared median overflows.
template <class X, class Y>
double median_distance(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y) {
  detail::require_point_sets("median_distance", x, y);
  constexpr Index most = 1024;
  const Index rows = x.rows() + y.rows(), count = std::min(most, rows);
  Array<double> points(count, x.cols());
  for (Index k = 0; k < count; ++k) {
    const Index row = k * rows / count;
    if (row < x.rows())
      points.row(k) = x.derived().row(row).array().template cast<double>();
    else
      points.row(k) = y.derived().row(row - x.rows()).array().template cast<double>();
  }
  std::vector<double> squares;
  squares.reserve(static_cast<std::size_t>(count * (count - 1) / 2));
  Array<double> row(count, 1);
  for (Index k = 0; k < count; ++k) {
    squared_distances_into<double>(view(std::as_const(points)), {points.data() + k, 1, points.cols(), count},
                                   view(row));
    squares.insert(squares.end(), row.data() + k + 1, row.data() + count);
  }
  const auto middle = squares.begin() + static_cast<std::ptrdiff_t>(squares.size() / 2);
  std::nth_element(squares.begin(), middle, squares.end());
  require(std::isfinite(*middle), "median_distance: a squared distance overflows");
  return std::sqrt(*middle);
}

/// Returns the unbiased estimate of the squared maximum mean discrepancy of the distributions of two sets of points, x
/// (N x D) and y (M x D), any Eigen expressions (Gretton et al. 2012, eq. 3): the means of k over the pairs of
/// different points of x and of y, less twice the mean over the pairs of a point of x with one of y. The kernel k(a, b)
/// is the mean of exp(-|a - b|^2 / (2 s^2)) over the bandwidths s; no bandwidths stand for one, median_distance(x, y).
/// It is 0 on average for equal distributions, and may be negative. For data of different sizes or a comparison of
/// several models choose bandwidths and keep them.
///
/// The work is of the order of (N + M)^2 D, in double; the memory is that of the points. The result has the same bits
/// on any number of threads. Throws invalid_argument for NaN, infinity, fewer than two points in a set, different
/// numbers of columns, bandwidths that are not finite and positive, and without bandwidths as median_distance() does
/// and where most points are equal so that the median is 0.
template <class X, class Y>
double squared_mmd(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y, std::span<const double> bandwidths = {},
                   const Execution& execution = {}) {
  detail::require_point_sets("squared_mmd", x, y);
  require(x.rows() > 1, "squared_mmd: x has 1 row, expected at least 2");
  require(y.rows() > 1, "squared_mmd: y has 1 row, expected at least 2");
  std::vector<double> factors;  // of the squared distance
  for (std::size_t k = 0; k < bandwidths.size(); ++k) {
    require(bandwidths[k] > 0 && std::isfinite(bandwidths[k]), "squared_mmd: bandwidth ", k, " is ", bandwidths[k],
            ", expected finite and greater than 0");
    factors.push_back(-0.5 / bandwidths[k] / bandwidths[k]);
  }
  if (factors.empty()) {
    const double median = median_distance(x, y);
    require(median > 0, "squared_mmd: the median distance is 0, choose a bandwidth");
    factors.push_back(-0.5 / median / median);
  }
  for (const double factor : factors)
    require(factor < 0 && std::isfinite(factor), "squared_mmd: a bandwidth is out of the range of double");
  const Array<double> a = x.derived().template cast<double>().array(), b = y.derived().template cast<double>().array();
  const auto n = static_cast<double>(a.rows()), m = static_cast<double>(b.rows());
  double total = 0;
  for (const double factor : factors) {
    const auto kernel = [factor](simd::Vec<double> square) { return simd::exp<double>(square * factor); };
    total += detail::sum_within(view(a), execution, kernel) / (n * (n - 1)) +
             detail::sum_within(view(b), execution, kernel) / (m * (m - 1)) -
             2 * detail::sum_between(view(a), view(b), execution, kernel) / (n * m);
  }
  return total / static_cast<double>(factors.size());
}

}  // namespace diffeo::inline DIFFEO_ISA
