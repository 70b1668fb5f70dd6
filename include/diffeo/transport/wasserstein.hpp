// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/execution.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/math/simd.hpp>
#include <diffeo/transport/assignment.hpp>
#include <diffeo/transport/distances.hpp>
#include <vector>

/// Wasserstein distances of two sets of points, as of the distributions that give each point of a set the same mass
/// (Peyre and Cuturi, "Computational Optimal Transport", 2019).
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Returns the integral over u from 0 to 1 of cost(the u-quantile of x, that of y), for numbers in ascending order.
template <class Cost>
double integrate_quantiles(const std::vector<double>& x, const std::vector<double>& y, const Cost& cost) {
  // Places are counted in parts of 1 / (N M), so that those of the steps of both quantile functions are exact.
  const std::size_t n = x.size(), m = y.size();
  double sum = 0;
  for (std::size_t i = 0, j = 0, place = 0; i < n && j < m;) {
    const std::size_t end_x = (i + 1) * m, end_y = (j + 1) * n, next = std::min(end_x, end_y);
    sum += static_cast<double>(next - place) * cost(x[i], y[j]);
    i += end_x == next;
    j += end_y == next;
    place = next;
  }
  return sum / static_cast<double>(n) / static_cast<double>(m);
}

// Returns the least mean of the costs of pairs, each point of x with one of y; `cost` maps a register of squared
// distances to their costs.
template <class X, class Y, class Cost>
double least_mean_cost(const char* what, const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y, const Cost& cost) {
  require_point_sets(what, x, y);
  require(x.rows() == y.rows(), what, ": x has ", x.rows(), " rows, y ", y.rows(),
          ", expected equally many (sliced_wasserstein2 takes any numbers)");
  const Array<double> a = x.derived().template cast<double>().array(), b = y.derived().template cast<double>().array();
  Array<double> costs(a.rows(), a.rows());
  squared_distances_into<double>(view(a), view(b), view(costs));
  simd::transform<double>(costs.size(), costs.data(), cost, costs.data());
  require(costs.isFinite().all(), what, ": a squared distance overflows");
  AssignmentSolver<double> solver;
  solver.solve(costs);
  return solver.cost() / static_cast<double>(a.rows());
}

}  // namespace detail

/// Returns the 1-Wasserstein distance of two equally large sets of points, x and y (N x D), any Eigen expressions: the
/// least mean distance between the points of pairs, each of a point of x and one of y, by linear assignment. The work
/// is up to the order of N^3, and N^2 distances are held in memory. Throws invalid_argument for NaN, infinity, empty
/// sets, sets of different sizes or dimensions, and points so far apart that a squared distance overflows.
template <class X, class Y>
double wasserstein1(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y) {
  return detail::least_mean_cost("wasserstein1", x, y,
                                 [](simd::Vec<double> squares) { return simd::sqrt<double>(squares); });
}

/// Returns the 2-Wasserstein distance of two equally large sets of points, x and y (N x D), any Eigen expressions: the
/// root of the least mean squared distance. Otherwise as wasserstein1().
template <class X, class Y>
double wasserstein2(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y) {
  return std::sqrt(detail::least_mean_cost("wasserstein2", x, y, [](simd::Vec<double> squares) { return squares; }));
}

/// Returns the Wasserstein distance of the given order of two sets of numbers, x (N x 1) and y (M x 1), any Eigen
/// expressions: the order-th root of the integral of |F^-1(u) - G^-1(u)|^order over u from 0 to 1, with the quantile
/// functions F^-1 and G^-1 (Peyre and Cuturi 2019, remark 2.30). It is exact for sets of any sizes, and takes the time
/// of sorting them. Throws invalid_argument for NaN, infinity, an empty set, more than one column, an order that is not
/// finite or below 1, and numbers so far apart that their difference overflows.
template <class X, class Y>
double wasserstein_1d(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y, double order = 2) {
  detail::require_point_sets("wasserstein_1d", x, y);
  require(x.cols() == 1, "wasserstein_1d: x and y have ", x.cols(), " columns, expected 1");
  require(order >= 1 && std::isfinite(order), "wasserstein_1d: order is ", order, ", expected finite and at least 1");
  const auto sorted = [](const auto& values) {
    std::vector<double> numbers(static_cast<std::size_t>(values.rows()));
    for (std::size_t i = 0; i < numbers.size(); ++i)
      numbers[i] = static_cast<double>(values.derived().coeff(static_cast<Index>(i), 0));
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  };
  const std::vector<double> a = sorted(x), b = sorted(y);
  double largest = 0;
  detail::integrate_quantiles(a, b, [&largest](double u, double v) {
    largest = std::max(largest, std::abs(u - v));
    return 0.0;
  });
  require(std::isfinite(largest), "wasserstein_1d: a difference overflows");
  if (largest == 0) return 0;
  // In units of the largest difference, so that no power over- or underflows to another result.
  const double integral = detail::integrate_quantiles(
      a, b, [order, largest](double u, double v) { return std::pow(std::abs(u - v) / largest, order); });
  return largest * std::pow(integral, 1 / order);
}

/// Returns the sliced 2-Wasserstein distance of two sets of points, x (N x D) and y (M x D), any Eigen expressions: the
/// root of the mean of the squared 2-Wasserstein distances of the points' projections on random directions (Bonneel,
/// Rabin, Peyre and Pfister, "Sliced and Radon Wasserstein barycenters of measures", Journal of Mathematical Imaging
/// and Vision 51, 2015). The sets may be of different sizes. For points that are translated by s it is |s| / sqrt(D) on
/// average over the directions. The directions depend on the seed and the dimension alone.
///
/// The work is that of `projections` sorts; the result has the same bits on any number of threads. Throws
/// invalid_argument for NaN, infinity, an empty set, different numbers of columns, fewer than one projection, and
/// points so far apart that a squared distance overflows.
template <class X, class Y>
double sliced_wasserstein2(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y, Index projections,
                           std::uint64_t seed, const Execution& execution = {}) {
  constexpr std::uint64_t stream = 0x736C69636564;  // "sliced"
  detail::require_point_sets("sliced_wasserstein2", x, y);
  require(projections >= 1, "sliced_wasserstein2: projections is ", projections, ", expected at least 1");
  const Array<double> a = x.derived().template cast<double>().array(), b = y.derived().template cast<double>().array();
  Array<double> directions(projections, x.cols()), squares(projections, 1);
  fill_normal(view(directions), seed, stream);
  parallel_for(projections, execution, [&](Index k, int) {
    const Array<double> direction = directions.row(k) / directions.row(k).matrix().norm();
    const auto project = [&direction](const Array<double>& points) {
      std::vector<double> numbers(static_cast<std::size_t>(points.rows()), 0);
      for (Index d = 0; d < points.cols(); ++d)
        for (std::size_t i = 0; i < numbers.size(); ++i)
          numbers[i] = simd::mul_add_scalar(points.col(d).data()[i], direction(0, d), numbers[i]);
      std::sort(numbers.begin(), numbers.end());
      return numbers;
    };
    squares(k, 0) =
        detail::integrate_quantiles(project(a), project(b), [](double u, double v) { return (u - v) * (u - v); });
  });
  double sum = 0;
  for (Index k = 0; k < projections; ++k) sum += squares(k, 0);
  require(std::isfinite(sum), "sliced_wasserstein2: a squared distance overflows");
  return std::sqrt(sum / static_cast<double>(projections));
}

}  // namespace diffeo::inline DIFFEO_ISA
