// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <diffeo/core/instruction_set.hpp>
#include <limits>
#include <numeric>
#include <ostream>
#include <string>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Reason why a training ended.
enum class StopReason { completed, early_stopping, callback, non_finite, not_solved };

inline const char* to_string(StopReason reason) {
  switch (reason) {
    case StopReason::early_stopping:
      return "validation loss no longer improved";
    case StopReason::callback:
      return "a callback asked to stop";
    case StopReason::non_finite:
      return "the loss or its gradient was not finite; the last good parameters were restored";
    case StopReason::not_solved:
      return "an equation of the model could not be solved; the last good parameters were restored";
    case StopReason::completed:
      break;
  }
  return "all steps done";
}

/// Record of a training.
struct FitReport {
  long steps = 0;      ///< steps taken
  double seconds = 0;  ///< wall-clock time
  StopReason reason = StopReason::completed;
  std::vector<double> loss;             ///< mean loss of each step's minibatch, before the step
  std::vector<long> validation_step;    ///< steps after which the validation loss was taken
  std::vector<double> validation_loss;  ///< that loss
  double best_validation_loss = std::numeric_limits<double>::quiet_NaN();  ///< NaN without validation
  long best_step = 0;   ///< after which step it was reached; these parameters were kept
  std::string failure;  ///< after non_finite and not_solved: the cause as far as known; may be empty

  /// Returns the mean of the last losses, at most 100 of them.
  double final_loss() const {
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
  return out << ")";
}

}  // namespace diffeo::inline DIFFEO_ISA
