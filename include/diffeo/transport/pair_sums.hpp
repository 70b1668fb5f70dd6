// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/execution.hpp>
#include <diffeo/math/simd.hpp>
#include <vector>

/// Sums over all pairs of points, without a matrix of pairs.
namespace diffeo::inline DIFFEO_ISA::detail {

// Rows of a task. Each has a sum of its own, and these are added in order, so that the result does not depend on the
// number of threads.
inline constexpr Index pair_tile = 128;

// Returns the sum of f(|x_i - y_j|^2) over the rows first ... first + count - 1 of x and the rows from ... y.rows - 1
// of y. f maps a register to a register.
template <class F>
double sum_of_pairs(View<const double> x, Index first, Index count, View<const double> y, Index from, const F& f) {
  constexpr Index lanes = simd::lanes<double>;
  simd::Vec<double> sum{};
  const auto add = [&](Index i, auto... part) {
    for (Index j = from; j < y.rows; ++j) {
      simd::Vec<double> square{};
      for (Index d = 0; d < x.cols; ++d) {
        const simd::Vec<double> difference = simd::load<double>(x.col(d) + i, part...) - y.col(d)[j];
        square = simd::mul_add<double>(difference, difference, square);
      }
      simd::Vec<double> value = f(square);
      if constexpr (sizeof...(part) > 0)
        for (Index l = (part + ...); l < lanes; ++l) value[l] = 0;
      sum += value;
    }
  };
  const Index end = first + count;
  Index i = first;
  for (; i + lanes <= end; i += lanes) add(i);
  if (i < end) add(i, end - i);
  return simd::sum<double>(sum);
}

// Returns the sum of task(number) over the tasks, added in order.
template <class Task>
double sum_of_tasks(Index tasks, const Execution& execution, const Task& task) {
  std::vector<double> part(static_cast<std::size_t>(tasks));
  parallel_for(tasks, execution, [&](Index number, int) { part[static_cast<std::size_t>(number)] = task(number); });
  double sum = 0;
  for (const double value : part) sum += value;
  return sum;
}

// Returns the sum of f(|x_i - y_j|^2) over all pairs of rows of x (N x D) and y (M x D).
template <class F>
double sum_between(View<const double> x, View<const double> y, const Execution& execution, const F& f) {
  return sum_of_tasks((x.rows + pair_tile - 1) / pair_tile, execution, [&](Index number) {
    const Index first = number * pair_tile;
    return sum_of_pairs(x, first, std::min(pair_tile, x.rows - first), y, 0, f);
  });
}

// Returns the sum of f(|x_i - x_j|^2) over all pairs i != j of rows of x, each in both orders.
template <class F>
double sum_within(View<const double> x, const Execution& execution, const F& f) {
  const double at_zero = f(simd::Vec<double>{})[0];
  return sum_of_tasks((x.rows + pair_tile - 1) / pair_tile, execution, [&](Index number) {
    const Index first = number * pair_tile, count = std::min(pair_tile, x.rows - first), end = first + count;
    // Pairs within the tile come in both orders, and each row with itself.
    const double inside = sum_of_pairs(x, first, count, View<const double>{x.data, end, x.cols, x.stride}, first, f);
    return inside - static_cast<double>(count) * at_zero + 2 * sum_of_pairs(x, first, count, x, end, f);
  });
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
