// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/ode/dense_output.hpp>
#include <diffeo/ode/integrate.hpp>
#include <span>
#include <vector>

/// Solutions of initial value problems at many times.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Result of trajectory().
template <Real S>
struct Trajectory {
  std::vector<Array<S>> states;             ///< one N x n array per time
  std::vector<SolveStatistics> statistics;  ///< one record per row of y0
};

namespace detail {

// Observer that writes, for each accepted step, the states at those of `times` that lie within it.
template <Real S, class F>
class Recorder {
 public:
  Recorder(const F& f, const Tableau& method, std::span<const double> times, std::vector<Array<S>>& states,
           std::size_t samples, std::size_t first)
      : f_(f),
        method_(method),
        times_(times),
        states_(states),
        next_(samples, first),
        not_finite_(samples, 0),
        evaluations_(samples, 0) {}

  void operator()(const AcceptedSteps<S>& steps) {
    bool between = false;
    for (Index i = 0; i < steps.count && !between; ++i) between = ends_before(steps, steps.row[i]);
    if (between) {
      const Interpolant<S> interpolant(f_, method_, steps, workspace_);
      for (Index i = 0; i < steps.count; ++i) {
        const Index row = steps.row[i], sample = steps.sample[row];
        if (!ends_before(steps, row)) continue;
        evaluations_[to_size(sample)] += static_cast<Index>(method_.dense_stages);
        for (std::size_t& next = next_[to_size(sample)]; ends_before(steps, row); ++next) {
          Array<S>& state = states_[next];
          interpolant.at(row, times_[next], [&](Index column, S value) {
            // Dense output evaluates f at points where the step did not, and f may not be finite there.
            if (!std::isfinite(value) && not_finite_[to_size(sample)] == 0) not_finite_[to_size(sample)] = next;
            state(sample, column) = value;
          });
        }
      }
    }
    for (Index i = 0; i < steps.count; ++i) {
      const Index row = steps.row[i], sample = steps.sample[row];
      for (std::size_t& next = next_[to_size(sample)]; next < times_.size() && times_[next] == steps.end[row]; ++next)
        for (Index j = 0; j < steps.after.cols; ++j) states_[next](sample, j) = steps.after.col(j)[row];
    }
  }

  Index evaluations(std::size_t sample) const { return evaluations_[sample]; }
  // Returns the index of the first time at which the dense output is not finite; 0 if it is finite at all times.
  std::size_t not_finite(std::size_t sample) const { return not_finite_[sample]; }

 private:
  // Returns whether the next time of a row lies before the end of its step.
  bool ends_before(const AcceptedSteps<S>& steps, Index row) const {
    const std::size_t next = next_[to_size(steps.sample[row])];
    if (next == times_.size()) return false;
    return steps.step[row] > 0 ? times_[next] < steps.end[row] : times_[next] > steps.end[row];
  }

  const F& f_;
  const Tableau& method_;
  std::span<const double> times_;
  std::vector<Array<S>>& states_;
  std::vector<std::size_t> next_, not_finite_;
  std::vector<Index> evaluations_;
  InterpolantWorkspace<S> workspace_;
};

}  // namespace detail

/// Solves y' = f(t, y) for each row of y0, the states at times[0], and returns the states at all times. The times must
/// ascend or descend; equal consecutive times are allowed. The solver takes the same steps as solve() to the last time;
/// states within a step come from the method's dense output, so that more times do not make the solution more accurate.
/// The statistics include the evaluations of f by dense output. Throws integration_error for the first row that cannot
/// be integrated, and invalid_argument for options, tolerances or times out of range.
template <class F, DenseExpression D, ErrorNorm Norm = RmsNorm>
  requires Real<typename D::Scalar> && RightHandSide<F, typename D::Scalar>
Trajectory<typename D::Scalar> trajectory(const F& f, const D& y0, std::span<const double> times,
                                          const SolverOptions& options = {}, const ErrorControl<Norm>& control = {}) {
  using S = typename D::Scalar;
  require(!times.empty(), "ode::trajectory: there are no times");
  for (std::size_t i = 0; i < times.size(); ++i) {
    require(std::isfinite(times[i]), "ode::trajectory: time ", i, " is ", times[i], ", expected a finite time");
    const double before = times[i == 0 ? 0 : i - 1];
    require(times.back() >= times.front() ? times[i] >= before : times[i] <= before, "ode::trajectory: time ", i,
            " is ", times[i], " after ", before, ", expected times that ascend or descend");
  }
  const auto samples = static_cast<std::size_t>(y0.rows());
  // Every state starts as y0; times that equal the first one keep it.
  Trajectory<S> result{std::vector<Array<S>>(times.size(), Array<S>(y0.array())),
                       std::vector<SolveStatistics>(samples)};
  std::size_t moved = 0;
  while (moved < times.size() && times[moved] == times.front()) ++moved;
  const std::vector<double> end(samples, times.back());
  Workspace<S> workspace;
  Array<S> last(y0.rows(), y0.cols());
  const Tableau& method = tableau(options.method);
  detail::Recorder<S, F> recorder(f, method, times, result.states, samples, moved);
  integrate<S>(f, view(result.states.front()), times.front(), end.data(), view(last), options, control,
               result.statistics, workspace, recorder);
  for (std::size_t i = 0; i < samples; ++i) {
    result.statistics[i].evaluations += recorder.evaluations(i);
    if (const std::size_t at = recorder.not_finite(i); at > 0 && result.statistics[i].status == Status::finished) {
      result.statistics[i].status = Status::not_finite;
      result.statistics[i].t = times[at];
    }
  }
  throw_failed("ode::trajectory", result.statistics);
  return result;
}

}  // namespace diffeo::inline DIFFEO_ISA::ode
