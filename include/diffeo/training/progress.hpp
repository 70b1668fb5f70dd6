// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdio>
#include <diffeo/core/instruction_set.hpp>
#include <string>

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

namespace diffeo::inline DIFFEO_ISA {

/// What a callback of fit() is told after each step.
struct FitProgress {
  long step = 0;             ///< steps taken
  long steps = 0;            ///< steps to take
  double loss = 0;           ///< mean loss of the step's minibatch, before the step
  double gradient_norm = 0;  ///< norm of its gradient, before clipping
  double learning_rate = 0;  ///< rate of the step
  double seconds = 0;        ///< wall-clock time since the training began
  long recoveries = 0;       ///< times that the training went back to earlier parameters
};

/// Callback that draws one line on stderr: share done, rate, loss, time left. Silent where stderr is not a terminal.
/// `fit(model, data, {}, ProgressBar())`; FitOptions::progress asks for one too.
class ProgressBar {
 public:
  explicit ProgressBar(bool wanted = true) : shown_(wanted && is_terminal()) {}
  ~ProgressBar() {
    if (open_) std::fputc('\n', stderr);
  }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void operator()(const FitProgress& progress) {
    if (!shown_) return;
    const bool last = progress.step == progress.steps;
    if (!last && open_ && progress.seconds - drawn_at_ < 0.1) return;
    drawn_at_ = progress.seconds;
    open_ = !last;
    std::fputs(line(progress.step, progress.steps, progress.loss, progress.seconds).c_str(), stderr);
    if (last) std::fputc('\n', stderr);
    std::fflush(stderr);
  }

  /// Returns the text of the bar after `done` of `steps` steps in `seconds`.
  static std::string line(long done, long steps, double loss, double seconds) {
    constexpr long width = 24;
    const double share = steps > 0 ? static_cast<double>(done) / static_cast<double>(steps) : 1;
    const auto filled = static_cast<std::size_t>(std::clamp(static_cast<long>(share * width), 0L, width));
    const double per_step = done > 0 ? seconds / static_cast<double>(done) : 0;
    const long left = static_cast<long>(per_step * static_cast<double>(steps - done) + 0.5);
    char text[160];
    std::snprintf(text, sizeof text, "\r%3d%% [%s%s] %ld/%ld  %.2f ms/step  loss %.4f  ETA %ld:%02ld ",
                  static_cast<int>(100 * share), std::string(filled, '#').c_str(),
                  std::string(width - filled, '.').c_str(), done, steps, 1e3 * per_step, loss, left / 60, left % 60);
    return text;
  }

 private:
  static bool is_terminal() {
#if __has_include(<unistd.h>)
    return isatty(fileno(stderr)) != 0;
#else
    return false;
#endif
  }

  bool shown_;
  bool open_ = false;    // a line was begun and not ended
  double drawn_at_ = 0;  // seconds
};

}  // namespace diffeo::inline DIFFEO_ISA
