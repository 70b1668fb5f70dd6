// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/core/error.hpp>
#include <numbers>

namespace diffeo::inline DIFFEO_ISA {

/// How the learning rate goes over the steps of a training.
enum class Schedule { constant, cosine };

/// | option        | type     | default                                                                    |
/// |---------------|----------|----------------------------------------------------------------------------|
/// | learning_rate | double   | 2e-3, the highest                                                          |
/// | schedule      | Schedule | cosine: half a wave down to final_fraction (Loshchilov & Hutter 2017, eq. 5) |
/// | final_fraction | double  | 0, of learning_rate, which cosine approaches after the last step            |
/// | warmup_steps  | long     | 0: steps of linear growth before                                           |
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

  /// The rate of step number `step` (from 0) of `steps`.
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
