// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/core/random.hpp>
#include <diffeo/math/sample_engine.hpp>
#include <utility>
#include <vector>

/// Groups of points by k-means.
namespace diffeo::inline DIFFEO_ISA::detail {

/// Groups of points.
struct Clusters {
  Array<double> share;     // 1 x K: of the points
  Array<double> mean;      // K x D
  Array<double> variance;  // K x D
};

/// Returns share, mean and variances of each of K groups of points (N x D), found by at most ten steps of Lloyd's
/// algorithm from the starting points of k-means++ (Arthur & Vassilvitskii 2007), each the best of a few candidates. A
/// group may be empty where there are fewer distinct points than groups; its share is then that of one point.
inline Clusters find_clusters(const Array<double>& points, Index groups, std::uint64_t seed) {
  constexpr std::uint64_t stream = 0x636c757374657273;
  constexpr int most_steps = 10;
  const Index rows = points.rows(), dim = points.cols();
  PhiloxEngine engine(seed, stream);
  const auto pick = [&](const Array<double>& weight) {
    // The first row at which the sum of the weights reaches a random share of their total.
    double left = uniform(engine) * weight.sum();
    Index row = 0;
    while (row + 1 < rows && (left -= weight(row, 0)) > 0) ++row;
    return row;
  };
  const auto distances = [&](const auto& center) {
    Array<double> d = Array<double>::Zero(rows, 1);
    for (Index j = 0; j < dim; ++j) d += (points.col(j) - center(0, j)).square();
    return d;
  };
  const int candidates = 2 + static_cast<int>(std::log(static_cast<double>(groups)));
  Array<double> center(groups, dim), nearest = Array<double>::Ones(rows, 1);
  for (Index k = 0; k < groups; ++k) {
    Array<double> best;
    for (int c = 0; c < (k == 0 ? 1 : candidates); ++c) {
      const Index row = pick(nearest);
      Array<double> d = distances(points.row(row));
      if (k > 0) d = d.min(nearest);
      if (c > 0 && d.sum() >= best.sum()) continue;
      best = std::move(d);
      center.row(k) = points.row(row);
    }
    nearest = std::move(best);
  }

  Clusters found{Array<double>(1, groups), center, Array<double>(groups, dim)};
  std::vector<Index> group(static_cast<std::size_t>(rows), -1);
  for (int step = 0; step < most_steps; ++step) {
    Array<double> least = distances(found.mean.row(0));
    std::vector<Index> next(static_cast<std::size_t>(rows), 0);
    for (Index k = 1; k < groups; ++k) {
      const Array<double> d = distances(found.mean.row(k));
      for (Index i = 0; i < rows; ++i)
        if (d(i, 0) < least(i, 0)) {
          least(i, 0) = d(i, 0);
          next[static_cast<std::size_t>(i)] = k;
        }
    }
    if (next == group) break;
    group = std::move(next);
    Array<double> size = Array<double>::Zero(groups, 1), sum = Array<double>::Zero(groups, dim), square = sum;
    for (Index i = 0; i < rows; ++i) {
      const Index k = group[static_cast<std::size_t>(i)];
      size(k, 0) += 1;
      sum.row(k) += points.row(i);
      square.row(k) += points.row(i).square();
    }
    for (Index k = 0; k < groups; ++k) {
      found.share(0, k) = std::max(size(k, 0), 1.0) / static_cast<double>(rows);
      // A group without points, where points coincide, stays where it is.
      if (size(k, 0) > 0) found.mean.row(k) = sum.row(k) / size(k, 0);
      found.variance.row(k) = (square.row(k) / std::max(size(k, 0), 1.0) - found.mean.row(k).square()).max(0);
    }
  }
  return found;
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
