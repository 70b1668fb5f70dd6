// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <diffeo/core/instruction_set.hpp>
#include <limits>
#include <numeric>
#include <ostream>
#include <string>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Reason why a training ended.
enum class StopReason { completed, early_stopping, callback, non_finite, not_solved, diverged };

inline const char* to_string(StopReason reason) {
  switch (reason) {
    case StopReason::early_stopping:
      return "validation loss no longer improved";
    case StopReason::callback:
      return "a callback asked to stop";
    case StopReason::non_finite:
      return "the loss or its gradient was not finite; the best parameters were restored";
    case StopReason::not_solved:
      return "an equation of the model could not be solved; the best parameters were restored";
    case StopReason::diverged:
      return "the loss diverged; the best parameters were restored";
    case StopReason::completed:
      break;
  }
  return "all steps done";
}

/// A time that a training went wrong and back to the parameters, moments and averages at the lowest smoothed loss.
struct Recovery {
  long step = 0;                               ///< steps taken before it went wrong
  long back_to = 0;                            ///< steps that had been taken where it went back to
  StopReason reason = StopReason::non_finite;  ///< non_finite, not_solved or diverged
  std::string failure;                         ///< the cause as far as known; may be empty
  double learning_rate = 0;                    ///< rate of the step after it
};

/// Record of a training.
struct FitReport {
  long steps = 0;      ///< steps taken
  double seconds = 0;  ///< wall-clock time
  StopReason reason = StopReason::completed;
  std::vector<double> loss;             ///< mean loss of each step's minibatch, before the step
  std::vector<long> validation_step;    ///< steps after which the validation loss was taken
  std::vector<double> validation_loss;  ///< that loss
  double best_validation_loss = std::numeric_limits<double>::quiet_NaN();  ///< NaN without validation
  long best_step = 0;   ///< after which step it was reached, 0: at the start; these parameters were kept
  std::string failure;  ///< after non_finite, not_solved and diverged: the cause as far as known; may be empty
  std::vector<std::string> warnings;  ///< what makes the densities of the data doubtful: see repetition_warnings()
  std::vector<Recovery> recoveries;   ///< what went wrong, in order
  /// Smoothed loss (see LossWatch) of the parameters that a training which goes wrong goes back to, about the lowest;
  /// NaN if there was none.
  double best_loss = std::numeric_limits<double>::quiet_NaN();

  /// Returns whether the training gave up, and ended with the best parameters.
  bool failed() const {
    return reason == StopReason::non_finite || reason == StopReason::not_solved || reason == StopReason::diverged;
  }

  /// Returns the mean of the last losses, at most 100 of them; where the training gave up, best_loss if there is one.
  double final_loss() const {
    if (failed() && std::isfinite(best_loss)) return best_loss;
    const auto n = static_cast<std::ptrdiff_t>(std::min<std::size_t>(100, loss.size()));
    return n == 0 ? std::numeric_limits<double>::quiet_NaN()
                  : std::accumulate(loss.end() - n, loss.end(), 0.0) / static_cast<double>(n);
  }
};

inline std::ostream& operator<<(std::ostream& out, const FitReport& report) {
  out << report.steps << " steps in " << report.seconds << " s, loss " << report.final_loss();
  if (!report.validation_loss.empty())
    out << ", best validation loss " << report.best_validation_loss << " after step " << report.best_step;
  out << " (" << to_string(report.reason);
  if (!report.failure.empty()) out << ": " << report.failure;
  out << ")";
  for (const std::string& warning : report.warnings) out << "\n  warning: " << warning;
  for (const Recovery& recovery : report.recoveries) {
    const char* const what = recovery.reason == StopReason::non_finite   ? "the loss or its gradient was not finite"
                             : recovery.reason == StopReason::not_solved ? "an equation was not solved"
                                                                         : "the loss diverged";
    out << "\n  after step " << recovery.step << ": " << what;
    if (!recovery.failure.empty()) out << " (" << recovery.failure << ")";
    out << "; back to step " << recovery.back_to << ", learning rate " << recovery.learning_rate;
  }
  return out;
}

}  // namespace diffeo::inline DIFFEO_ISA
