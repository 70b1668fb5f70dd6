// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/core/error.hpp>
#include <numbers>

namespace diffeo::inline DIFFEO_ISA {

/// Course of the learning rate over the steps of a training.
enum class Schedule { constant, cosine };

/// Options of the learning rate.
///
/// | option         | type     | default                                                                    |
/// |----------------|----------|----------------------------------------------------------------------------|
/// | learning_rate  | double   | 2e-3: largest rate                                                         |
/// | schedule       | Schedule | cosine: half a cosine wave down to final_fraction * learning_rate          |
/// |                |          | (Loshchilov & Hutter 2017, eq. 5)                                          |
/// | final_fraction | double   | 0: fraction of learning_rate that the cosine reaches after the last step   |
/// | warmup_steps   | long     | 0: number of steps of linear growth at the start                           |
struct LearningRate {
  double learning_rate = 2e-3;
  Schedule schedule = Schedule::cosine;
  double final_fraction = 0;
  long warmup_steps = 0;

  /// Throws invalid_argument for a rate that is not positive and finite, or other values out of range.
  void check() const {
    require(learning_rate > 0 && std::isfinite(learning_rate), "fit: learning_rate is ", learning_rate,
            ", expected a positive number");
    require(final_fraction >= 0 && final_fraction <= 1, "fit: final_fraction is ", final_fraction, ", expected 0 to 1");
    require(warmup_steps >= 0, "fit: warmup_steps is ", warmup_steps, ", expected at least 0");
  }

  /// Returns the learning rate of step `step`, counted from 0, of a training of `steps` steps.
  double at(long step, long steps) const {
    if (step < warmup_steps) return learning_rate * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    if (schedule == Schedule::constant) return learning_rate;
    const double done =
        static_cast<double>(step - warmup_steps) / static_cast<double>(std::max(1L, steps - warmup_steps));
    const double wave = 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, done)));
    return learning_rate * (final_fraction + (1 - final_fraction) * wave);
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
