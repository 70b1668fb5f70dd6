// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <limits>
#include <vector>

/// Fixed-point iteration with contractions, for all rows of a batch.
namespace diffeo::inline DIFFEO_ISA::math {

/// Options of contract() and fixed_point().
///
/// | option         | type   | default                                                                  |
/// |----------------|--------|--------------------------------------------------------------------------|
/// | tolerance      | double | 1e-6: largest Euclidean error of a row; 0: the best that rounding allows |
/// | max_iterations | int    | 1000 evaluations of g                                                    |
struct FixedPointOptions {
  double tolerance = 1e-6;
  int max_iterations = 1000;

  /// Throws invalid_argument for an option out of range; `what` names the caller.
  void check(const char* what) const {
    require(tolerance >= 0 && std::isfinite(tolerance), what, ": tolerance is ", tolerance,
            ", expected finite and at least 0");
    require(max_iterations >= 1, what, ": max_iterations is ", max_iterations, ", expected at least 1");
  }
};

/// Memory that the caller provides to contract(): 2 N entries of row, N of step, N D of point and of value.
template <Real S>
struct FixedPointWorkspace {
  Index* row;
  double* step;
  S* point;
  S* value;
};

/// Result of contract().
struct FixedPointProgress {
  Index open = 0;       ///< number of rows that have not converged
  Index stalled = 0;    ///< number of rows that rounding stopped before the tolerance was certain
  int evaluations = 0;  ///< number of evaluations of g
};

/// Iterates y <- x - g(y) for each row (N x D), starting from the given y, to solve y = x - g(y), with at most
/// options.max_iterations evaluations of g. Afterwards the first `open` entries of workspace.row list the rows that
/// have not converged, in increasing order, with the length of their last step in workspace.step; their y is the last
/// iterate. Entries of workspace.row from N on list the rows that stalled.
///
/// g(in, out) writes g of the rows of a View<const S> to a View<S> of the same shape. A row of `out` must depend on the
/// same row of `in` alone; then a row of y has the same bits in any batch. Only rows that have not ended are passed to
/// g.
///
/// `lipschitz` < 1 bounds the Lipschitz constant L of g in the Euclidean norm. A row has converged when
/// L / (1 - L) |step| <= tolerance, which bounds |y - exact| (Banach's a-posteriori bound). It stalls when its step no
/// longer shrinks and is within the size that rounding can cause, 16 sqrt(D) epsilon / (1 - L) times the size of y:
/// further iterations do not improve it. Throws convergence_error for a row that becomes NaN or infinite, and
/// invalid_argument for options or shapes out of range. `what` names the caller.
template <Real S, class G>
FixedPointProgress contract(const char* what, View<S> y, View<const S> x, const G& g, double lipschitz,
                            const FixedPointOptions& options, const FixedPointWorkspace<S>& workspace) {
  options.check(what);
  require(lipschitz >= 0 && lipschitz < 1, what, ": the Lipschitz constant is ", lipschitz, ", expected 0 <= L < 1");
  require(y.rows == x.rows && y.cols == x.cols, what, ": y is ", y.rows, " x ", y.cols, ", x ", x.rows, " x ", x.cols);
  const double factor = lipschitz / (1 - lipschitz);
  const double rounding = 16 * std::sqrt(static_cast<double>(x.cols)) * std::numeric_limits<S>::epsilon();
  // Rows that have not ended are kept contiguous at the front of the workspace.
  Index active = x.rows;
  const View<S> at{workspace.point, active, x.cols, active}, value{workspace.value, active, x.cols, active};
  for (Index i = 0; i < active; ++i) {
    workspace.row[i] = i;
    workspace.step[i] = std::numeric_limits<double>::infinity();
    for (Index j = 0; j < x.cols; ++j) at.col(j)[i] = y.col(j)[i];
  }
  int k = 0;
  Index stalled = 0;
  while (active > 0 && k < options.max_iterations) {
    ++k;
    g(View<const S>{at.data, active, at.cols, at.stride}, View<S>{value.data, active, at.cols, at.stride});
    Index kept = 0;
    for (Index i = 0; i < active; ++i) {
      const Index target = workspace.row[i];
      double square_step = 0, square_size = 0;
      for (Index j = 0; j < x.cols; ++j) {
        const S moved = value.col(j)[i], next = x.col(j)[target] - moved;
        const double step = static_cast<double>(next) - static_cast<double>(at.col(j)[i]);
        square_step += step * step;
        square_size += static_cast<double>(next) * static_cast<double>(next) +
                       static_cast<double>(moved) * static_cast<double>(moved);
        at.col(j)[kept] = next;  // kept <= i
        y.col(j)[target] = next;
      }
      const double step = std::sqrt(square_step);
      if (!std::isfinite(step)) throw convergence_error(what, target, step, k);
      const bool exhausted = step >= workspace.step[i] && step <= rounding / (1 - lipschitz) * std::sqrt(square_size);
      if (factor * step <= options.tolerance) continue;
      if (step == 0 || exhausted) {
        workspace.row[x.rows + stalled++] = target;
        continue;
      }
      workspace.step[kept] = step;
      workspace.row[kept] = target;
      ++kept;
    }
    active = kept;
  }
  return {active, stalled, k};
}

/// Solves y = x - g(y) for each row by contract(), which documents the arguments; rows that stall count as solved.
/// Returns the number of evaluations of g. Throws convergence_error, with row and |step|, for the first row that needs
/// more than max_iterations evaluations, and as contract() does.
template <Real S, class G>
int fixed_point(const char* what, View<S> y, View<const S> x, const G& g, double lipschitz,
                const FixedPointOptions& options, const FixedPointWorkspace<S>& workspace) {
  const FixedPointProgress progress = contract(what, y, x, g, lipschitz, options, workspace);
  if (progress.open > 0) throw convergence_error(what, workspace.row[0], workspace.step[0], options.max_iterations);
  return progress.evaluations;
}
/// Solves y = x - g(y) for each row like the overload with a workspace, and allocates the workspace itself.
template <Real S, class G>
int fixed_point(const char* what, View<S> y, View<const S> x, const G& g, double lipschitz,
                const FixedPointOptions& options = {}) {
  const auto rows = static_cast<std::size_t>(x.rows), size = static_cast<std::size_t>(x.size());
  std::vector<Index> row(2 * rows);
  std::vector<double> step(rows);
  std::vector<S> point(size), value(size);
  return fixed_point(what, y, x, g, lipschitz, options, {row.data(), step.data(), point.data(), value.data()});
}

}  // namespace diffeo::inline DIFFEO_ISA::math
