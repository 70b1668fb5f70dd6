// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/autodiff/parts.hpp>
#include <diffeo/core/error.hpp>
#include <numbers>
#include <optional>

namespace diffeo::inline DIFFEO_ISA {

/// Course of the learning rate over the steps of a training.
enum class Schedule { constant, cosine };

/// The largest learning rate of a training unless the model suggests or the caller chooses another.
inline constexpr double usual_learning_rate = 2e-3;

/// The largest learning rate that suits a model: the least that its structures suggest by a static member
/// `suggested_learning_rate`, else usual_learning_rate.
template <class M>
inline constexpr double suggested_learning_rate = [] {
  constexpr double none = 0;
  const double least = detail::fold_structures<M>(none, []<class P>(double rate, std::type_identity<P>) {
    if constexpr (requires { P::suggested_learning_rate; })
      return rate == none ? P::suggested_learning_rate : std::min(rate, P::suggested_learning_rate);
    else
      return rate;
  });
  return least == none ? usual_learning_rate : least;
}();

/// Options of the learning rate.
///
/// | option         | type     | default                                                                     |
/// |----------------|----------|-----------------------------------------------------------------------------|
/// | learning_rate  | double   | none: the model's suggested_learning_rate, in most cases 2e-3; largest rate |
/// | schedule       | Schedule | cosine: half a cosine wave down to final_fraction * learning_rate           |
/// |                |          | (Loshchilov & Hutter 2017, eq. 5)                                           |
/// | final_fraction | double   | 0: fraction of learning_rate that the cosine reaches after the last step    |
/// | warmup_steps   | long     | 0: number of steps of linear growth at the start                            |
struct LearningRate {
  std::optional<double> learning_rate = std::nullopt;
  Schedule schedule = Schedule::cosine;
  double final_fraction = 0;
  long warmup_steps = 0;

  /// Throws invalid_argument for a rate that is not positive and finite, or other values out of range.
  void check() const {
    const double largest_rate = largest();
    require(largest_rate > 0 && std::isfinite(largest_rate), "fit: learning_rate is ", largest_rate,
            ", expected a positive number");
    require(final_fraction >= 0 && final_fraction <= 1, "fit: final_fraction is ", final_fraction, ", expected 0 to 1");
    require(warmup_steps >= 0, "fit: warmup_steps is ", warmup_steps, ", expected at least 0");
  }

  /// Returns the learning rate that was chosen, or the usual one.
  double largest() const { return learning_rate.value_or(usual_learning_rate); }

  /// Returns the learning rate of step `step`, counted from 0, of a training of `steps` steps.
  double at(long step, long steps) const {
    const double rate = largest();
    if (step < warmup_steps) return rate * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    if (schedule == Schedule::constant) return rate;
    const double done =
        static_cast<double>(step - warmup_steps) / static_cast<double>(std::max(1L, steps - warmup_steps));
    const double wave = 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, done)));
    return rate * (final_fraction + (1 - final_fraction) * wave);
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
