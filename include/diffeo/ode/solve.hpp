// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/array.hpp>
#include <diffeo/ode/integrate.hpp>
#include <vector>

/// Solution of initial value problems given and returned as arrays.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Result of solve().
template <Real S>
struct Solution {
  Array<S> y;                               ///< states at the end time, N x n
  std::vector<SolveStatistics> statistics;  ///< one record per row
};

/// Solves y' = f(t, y) for each row of y0 (N x n, the states at t0) and returns the states at t1. Calls integrate(),
/// which documents f, with a workspace of its own. Throws integration_error for the first row that cannot be
/// integrated, and invalid_argument for options, tolerances or times out of range.
/// ```cpp
/// const auto oscillator = [](const ode::Stage<double>& in, View<double> dy) {
///   const auto y = as_eigen(in.y);
///   as_eigen(dy) << y.col(1), -y.col(0);
/// };
/// const Array<double> half_a_period = ode::solve(oscillator, y0, 0, std::numbers::pi).y;
/// ```
template <class F, DenseExpression D, ErrorNorm Norm = RmsNorm>
  requires Real<typename D::Scalar> && RightHandSide<F, typename D::Scalar>
Solution<typename D::Scalar> solve(const F& f, const D& y0, double t0, double t1, const SolverOptions& options = {},
                                   const ErrorControl<Norm>& control = {}) {
  using S = typename D::Scalar;
  Solution<S> solution{Array<S>(y0.array()), std::vector<SolveStatistics>(static_cast<std::size_t>(y0.rows()))};
  Workspace<S> workspace;
  integrate<S>(f, view(solution.y), t0, t1, view(solution.y), options, control, solution.statistics, workspace);
  throw_failed("ode::solve", solution.statistics);
  return solution;
}

}  // namespace diffeo::inline DIFFEO_ISA::ode
