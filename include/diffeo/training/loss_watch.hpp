// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <diffeo/core/instruction_set.hpp>
#include <limits>

namespace diffeo::inline DIFFEO_ISA {

/// Follows the losses of a training: finds the steps whose parameters are worth keeping, and tells when a training has
/// left the best of them by far.
///
/// The smoothed loss is the mean of the last 50 losses, or of all there are. A training has diverged when the last 50
/// losses do not fall, and the last and more than half of them lie above the lowest smoothed loss by more than the
/// largest of
///
/// * `divergence` times the noise there: the standard error of the mean over a minibatch, or if they are more,
///   the rises from step to step,
/// * half of what the loss had come down lately: to the lowest from the highest of the last five medians of 50 losses
///   each, which begin as the first loss,
/// * 1.
///
/// Single outliers therefore do not count, and neither does an overshoot that is being made good.
class LossWatch {
 public:
  static constexpr long window = 50;

  /// A divergence of 0 turns the detection off. `rows` is the number of rows in a minibatch, of unequal weights the
  /// effective number: of the fewer, the more losses it takes to know their noise.
  explicit LossWatch(double divergence, double rows = 512)
      : divergence_(divergence), least_(1 + static_cast<long>(std::min(8 / rows, double(window - 1)))) {}

  /// Takes in the loss of a step and its standard error, both finite. Returns whether the parameters that have this
  /// loss are to be kept as the best so far. They are kept at intervals that grow from 1 to 16 steps.
  bool add(double loss, double standard_error) {
    if (compared_ == 0) {
      first_ = loss;
      first_noise_ = standard_error;
      heights_.fill(loss);
    }
    // Noise that the rows of a minibatch share shows in rises alone: the mean square of those is the variance, as half
    // of the changes are falls.
    const double rise = count_ > 0 ? std::max(0.0, loss - last_) : 0;
    const auto place = static_cast<std::size_t>(count_ % window);
    losses_[place] = last_ = loss;
    squared_errors_[place] = std::max(standard_error * standard_error, rise * rise);
    ++step_;
    ++compared_;
    ++count_;
    const long n = std::min(count_, window);
    smoothed_ = mean(losses_, n);
    if (count_ % window == 0) add_height();
    if (n < least_) return keep_first();
    const double noise = std::sqrt(mean(squared_errors_, n));
    // The mean of few losses may be low by chance. A loss above the mean may be the first of a divergence.
    const double bound = smoothed_ + 3 * noise / std::sqrt(static_cast<double>(n));
    if (!due() || !(bound < best_bound_) || loss > smoothed_ + rounding()) return keep_first();
    kept_at_ = step_;
    best_bound_ = bound;
    best_ = smoothed_;
    best_noise_ = noise;
    return true;
  }

  /// Takes in a step whose loss cannot be compared with later ones. Returns whether its parameters are to be kept: as
  /// the latest.
  bool add_incomparable() {
    ++step_;
    if (!due()) return false;
    kept_at_ = step_;
    return true;
  }

  /// Forgets the last losses, but not the best one: the training has gone back.
  void restart() {
    count_ = 0;
    if (compared_ > 0 && std::isfinite(best_)) heights_.fill(best_);
  }

  /// Returns whether the training has diverged, see above.
  bool diverged() const {
    if (divergence_ == 0 || !full()) return false;
    const double limit =
        best_bound_ + std::max(margin(), (*std::max_element(heights_.begin(), heights_.end()) - best_) / 2);
    // Where the loss drops all at once, the older losses alone lie above the new best.
    if (!(last_ > limit)) return false;
    return 2 * std::count_if(losses_.begin(), losses_.end(), [limit](double l) { return l > limit; }) > window &&
           !falls();
  }

  /// Returns whether a training of at least 50 steps that ends with this loss is worse than its start, by more than
  /// noise.
  bool is_worse_than_start(double loss) const {
    return full() && loss > first_ + 3 * std::max(first_noise_, best_noise_);
  }

  /// Returns the mean of the last losses; NaN before the first.
  double smoothed() const { return count_ > 0 ? smoothed_ : std::numeric_limits<double>::quiet_NaN(); }
  /// Returns whether that is the mean of as many losses as the smoothed loss has at most.
  bool full() const { return count_ >= window; }
  /// Returns the smoothed loss at the step whose parameters were kept last; infinity before.
  double best() const { return best_; }
  /// Returns by how much a loss may lie above the best by chance: `divergence` times the noise, or 1 if that is more.
  double margin() const { return std::max(1.0, divergence_ * best_noise_); }

 private:
  static constexpr long longest_interval = 16;
  using Losses = std::array<double, static_cast<std::size_t>(window)>;

  static double mean(const Losses& values, long n) {
    double sum = 0;
    for (long i = 0; i < n; ++i) sum += values[static_cast<std::size_t>(i)];
    return sum / static_cast<double>(n);
  }

  // What the sum of equal losses may be off by.
  double rounding() const {
    return static_cast<double>(window) * std::numeric_limits<double>::epsilon() * std::abs(smoothed_);
  }

  // Outliers do not count: the median.
  void add_height() {
    Losses sorted = losses_;
    const auto middle = sorted.begin() + window / 2;
    std::nth_element(sorted.begin(), middle, sorted.end());
    std::rotate(heights_.begin(), heights_.begin() + 1, heights_.end());
    heights_.back() = *middle;
  }

  // Whether the newer half of the last losses is lower than the older half. A loss of one half is lower than one of the
  // other with a probability of one half if they are alike, and then in 7 of 10 pairs once in 120 times (Mann & Whitney
  // 1947).
  bool falls() const {
    constexpr long half = window / 2;
    const auto loss = [this](long k) {
      return losses_[static_cast<std::size_t>((count_ + k) % window)];
    };  // from oldest
    long lower = 0;
    for (long newer = half; newer < window; ++newer)
      for (long older = 0; older < half; ++older) lower += loss(newer) < loss(older) ? 1 : 0;
    return 10 * lower > 7 * half * half;
  }

  // There must be something to go back to.
  bool keep_first() {
    if (kept_at_ > 0) return false;
    kept_at_ = step_;
    return true;
  }

  bool due() const { return step_ >= kept_at_ + std::clamp(step_ / 8, 1L, longest_interval); }

  double divergence_;
  long least_;  // losses before the noise is known
  Losses losses_{}, squared_errors_{};
  std::array<double, 5> heights_{};  // medians of the last windows
  long count_ = 0;                   // losses since the start or a restart
  long step_ = 0, kept_at_ = 0;      // counted from 1
  long compared_ = 0;                // losses in all
  double smoothed_ = 0, last_ = 0, first_ = 0, first_noise_ = 0, best_noise_ = 0;
  // The lowest smoothed loss, and with three standard errors, so that it is not taken for lower than it is.
  double best_ = std::numeric_limits<double>::infinity(), best_bound_ = std::numeric_limits<double>::infinity();
};

}  // namespace diffeo::inline DIFFEO_ISA
