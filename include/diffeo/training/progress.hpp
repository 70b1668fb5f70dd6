// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <diffeo/core/instruction_set.hpp>
#include <string>

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

namespace diffeo::inline DIFFEO_ISA {

/// One line on stderr that follows a training: share done, rate, loss, time left. Silent where stderr is not a
/// terminal.
class ProgressBar {
 public:
  explicit ProgressBar(long steps, bool wanted = true) : steps_(steps), shown_(wanted && is_terminal()) {}
  ~ProgressBar() {
    if (shown_ && drawn_) std::fputc('\n', stderr);
  }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(long done, double loss) {
    if (!shown_) return;
    const auto now = Clock::now();
    if (done < steps_ && drawn_ && now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    drawn_ = true;
    std::fputs(line(done, steps_, loss, std::chrono::duration<double>(now - start_).count()).c_str(), stderr);
    std::fflush(stderr);
  }

  /// The text of the bar after `done` of `steps` steps in `seconds`.
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
  using Clock = std::chrono::steady_clock;

  static bool is_terminal() {
#if __has_include(<unistd.h>)
    return isatty(fileno(stderr)) != 0;
#else
    return false;
#endif
  }

  long steps_;
  bool shown_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

}  // namespace diffeo::inline DIFFEO_ISA
