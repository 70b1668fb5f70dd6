// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <span>
#include <string>
#include <string_view>

/// What a solve did for each sample.
namespace diffeo::inline DIFFEO_ISA::ode {

/// How the solve of a sample ended.
enum class Status {
  finished,
  max_steps,       ///< SolverOptions::max_steps attempts were not enough
  step_too_small,  ///< a step of min_step, or one that rounding hides, was still too large
  not_finite       ///< the field or the state is not finite at the start, in an equal step, or however small the step
};

/// | field                        | of a sample                                                                       |
/// |------------------------------|-----------------------------------------------------------------------------------|
/// | status                       |                                                                                   |
/// | evaluations                  | of f                                                                              |
/// | accepted, rejected           | steps                                                                             |
/// | stiffness                    | estimate of |lambda| of f's Jacobian, from the last two stages (Solving ODEs II,  |
/// |                              | IV.2); dopri5 is unstable where step * stiffness > 3.3. 0: unknown                |
/// | t                            | the time that was reached                                                         |
/// | step, error                  | the last step that was tried, signed, and its error in units of the tolerance     |
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

/// Throws integration_error for the first sample that did not finish; `what` and what follows it name the caller.
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
