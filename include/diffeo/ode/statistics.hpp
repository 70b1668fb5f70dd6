// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <span>
#include <string>
#include <string_view>

/// Statistics of a solve, one record per sample.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Outcome of the solve of one sample.
enum class Status {
  finished,
  max_steps,       ///< SolverOptions::max_steps attempts did not reach the end time
  step_too_small,  ///< the error was too large even at the least step: min_step, or what rounding of t permits
  not_finite       ///< f or the state is not finite: at the start, in a step of fixed size, or even at the least step
};

/// Statistics of one sample.
///
/// | field              | meaning                                                                          |
/// |--------------------|----------------------------------------------------------------------------------|
/// | status             | outcome                                                                          |
/// | evaluations        | number of evaluations of f                                                       |
/// | accepted, rejected | number of accepted and of rejected steps                                         |
/// | stiffness          | estimate of the largest |eigenvalue| of the Jacobian of f, from the last two     |
/// |                    | stages (Solving ODEs II, IV.2); dopri5 is unstable where step * stiffness > 3.3. |
/// |                    | 0: unknown                                                                       |
/// | t                  | time that was reached                                                            |
/// | step               | last attempted step, signed                                                      |
/// | error              | error of that step in units of the tolerance                                     |
struct SolveStatistics {
  Status status = Status::finished;
  Index evaluations = 0;
  Index accepted = 0;
  Index rejected = 0;
  double stiffness = 0;
  double t = 0;
  double step = 0;
  double error = 0;
};

/// Throws integration_error for the first sample whose status is not `finished`. The message begins with `what`
/// followed by `more`, which name the caller.
inline void throw_failed(std::string_view what, std::span<const SolveStatistics> statistics,
                         std::string_view more = {}) {
  for (std::size_t i = 0; i < statistics.size(); ++i) {
    const SolveStatistics& s = statistics[i];
    if (s.status == Status::finished) continue;
    const char* const reason = s.status == Status::max_steps        ? "max_steps were not enough"
                               : s.status == Status::step_too_small ? "the step size fell to its lower bound"
                                                                    : "the field is not finite";
    throw integration_error(std::string(what).append(more), static_cast<std::ptrdiff_t>(i),
                            {.reason = reason, .t = s.t, .step = s.step, .error = s.error, .stiffness = s.stiffness});
  }
}

}  // namespace diffeo::inline DIFFEO_ISA::ode
