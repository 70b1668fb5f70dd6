// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <limits>
#include <vector>

/// Fixed points of contractions, a batch at a time.
namespace diffeo::math {

/// | option         | type   | default                                                                  |
/// |----------------|--------|--------------------------------------------------------------------------|
/// | tolerance      | double | 1e-6: largest Euclidean error of a row; 0: as the arithmetic allows      |
/// | max_iterations | int    | 1000: evaluations of g                                                   |
struct FixedPointOptions {
  double tolerance = 1e-6;
  int max_iterations = 1000;

  void check(const char* what) const {
    require(tolerance >= 0 && std::isfinite(tolerance), what, ": tolerance is ", tolerance,
            ", expected finite and at least 0");
    require(max_iterations >= 1, what, ": max_iterations is ", max_iterations, ", expected at least 1");
  }
};

/// y with y = x - g(y), row by row (N x D), by y <- x - g(y) from the y given; returns the number of evaluations.
/// g(in, out) writes g of the rows of a View<const S> to a View<S> of the same shape; a row of g must depend on the
/// same row of `in` alone, and then a row of y has the same bits in any batch. Only rows that are still on their way
/// are passed to g.
///
/// `lipschitz` < 1 bounds the Lipschitz constant L of g in the Euclidean norm. A row ends when L / (1 - L) |step| <=
/// tolerance, which bounds |y - exact| (Banach's a-posteriori bound), or when its steps no longer shrink and are as
/// small as rounding: the arithmetic can do no better. Throws convergence_error with row and residual |step| for the
/// first row that meets NaN or infinity, or does not end within max_iterations; invalid_argument for options or shapes
/// out of range. `what` names the caller.
template <Real S, class G>
int fixed_point(const char* what, View<S> y, View<const S> x, const G& g, double lipschitz,
                const FixedPointOptions& options = {}) {
  options.check(what);
  require(lipschitz >= 0 && lipschitz < 1, what, ": the Lipschitz constant is ", lipschitz, ", expected 0 <= L < 1");
  require(y.rows == x.rows && y.cols == x.cols, what, ": y is ", y.rows, " x ", y.cols, ", x ", x.rows, " x ", x.cols);
  const double factor = lipschitz / (1 - lipschitz);
  const double rounding = 16 * std::sqrt(static_cast<double>(x.cols)) * std::numeric_limits<S>::epsilon();
  // Rows on their way move up into the places of those that ended.
  Index active = x.rows;
  const auto rows = static_cast<std::size_t>(x.rows);
  std::vector<Index> row(rows);
  std::vector<double> last_step(rows, std::numeric_limits<double>::infinity());
  for (Index i = 0; i < active; ++i) row[static_cast<std::size_t>(i)] = i;
  Array<S> at = as_eigen(y), value(x.rows, x.cols);
  for (int k = 1; active > 0; ++k) {
    g(View<const S>{at.data(), active, at.cols(), at.rows()}, View<S>{value.data(), active, at.cols(), at.rows()});
    Index kept = 0;
    for (Index i = 0; i < active; ++i) {
      const Index target = row[static_cast<std::size_t>(i)];
      double square_step = 0, square_size = 0;
      for (Index j = 0; j < x.cols; ++j) {
        const S next = x.col(j)[target] - value(i, j);
        const double step = static_cast<double>(next) - static_cast<double>(at(i, j));
        square_step += step * step;
        square_size += static_cast<double>(next) * static_cast<double>(next) +
                       static_cast<double>(value(i, j)) * static_cast<double>(value(i, j));
        at(kept, j) = next;  // kept <= i
      }
      const double step = std::sqrt(square_step);
      double& last = last_step[static_cast<std::size_t>(i)];
      const bool exhausted =
          std::isfinite(step) && step >= last && step <= rounding / (1 - lipschitz) * std::sqrt(square_size);
      if (factor * step <= options.tolerance || step == 0 || exhausted) {
        for (Index j = 0; j < x.cols; ++j) y.col(j)[target] = at(kept, j);
        // NaN does not get here: it compares false.
        continue;
      }
      if (!std::isfinite(step) || k >= options.max_iterations) throw convergence_error(what, target, step, k);
      last_step[static_cast<std::size_t>(kept)] = step;
      row[static_cast<std::size_t>(kept)] = target;
      ++kept;
    }
    active = kept;
    if (active == 0) return k;
  }
  return 0;
}

}  // namespace diffeo::math
