// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/autodiff/parts.hpp>
#include <diffeo/core/error.hpp>
#include <limits>
#include <numbers>
#include <optional>

namespace diffeo::inline DIFFEO_ISA {

/// Course of the learning rate over the steps of a training.
enum class Schedule { constant, cosine, plateau };

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
/// | learning_rate  | double   | none: the model's suggested_learning_rate, in most cases 2e-3, at most that |
/// |                |          | of the objective; largest rate                                              |
/// | schedule       | Schedule | cosine: half a cosine wave down to final_fraction * learning_rate           |
/// |                |          | (Loshchilov & Hutter 2017, eq. 5); constant; plateau: see Plateau           |
/// | final_fraction | double   | 0: fraction of learning_rate that the cosine reaches after the last step,   |
/// |                |          | and below which a plateau does not lower it                                 |
/// | warmup_steps   | long     | 0: number of steps of linear growth at the start                            |
/// | plateau_steps  | long     | 500: number of steps without a lower loss that make a plateau               |
/// | plateau_factor | double   | 0.5: what the rate is multiplied by at a plateau                            |
struct LearningRate {
  std::optional<double> learning_rate = std::nullopt;
  Schedule schedule = Schedule::cosine;
  double final_fraction = 0;
  long warmup_steps = 0;
  long plateau_steps = 500;
  double plateau_factor = 0.5;

  /// Throws invalid_argument for a rate that is not positive and finite, or other values out of range.
  void check() const {
    const double largest_rate = largest();
    require(largest_rate > 0 && std::isfinite(largest_rate), "fit: learning_rate is ", largest_rate,
            ", expected a positive number");
    require(final_fraction >= 0 && final_fraction <= 1, "fit: final_fraction is ", final_fraction, ", expected 0 to 1");
    require(warmup_steps >= 0, "fit: warmup_steps is ", warmup_steps, ", expected at least 0");
    require(plateau_steps >= 1, "fit: plateau_steps is ", plateau_steps, ", expected at least 1");
    require(plateau_factor > 0 && plateau_factor < 1, "fit: plateau_factor is ", plateau_factor,
            ", expected 0 < plateau_factor < 1");
  }

  /// Returns the learning rate that was chosen, or the usual one.
  double largest() const { return learning_rate.value_or(usual_learning_rate); }

  /// Returns the learning rate of step `step`, counted from 0, of a training of `steps` steps, before any plateau.
  double at(long step, long steps) const {
    const double rate = largest();
    if (step < warmup_steps) return rate * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    if (schedule != Schedule::cosine) return rate;
    const double done =
        static_cast<double>(step - warmup_steps) / static_cast<double>(std::max(1L, steps - warmup_steps));
    const double wave = 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, done)));
    return rate * (final_fraction + (1 - final_fraction) * wave);
  }
};

/// What Schedule::plateau multiplies the learning rate by: plateau_factor each time that the loss has not become lower
/// for plateau_steps steps, down to final_fraction. The loss is that of validation where there is any, else the
/// smoothed loss of the training (see LossWatch).
class Plateau {
 public:
  explicit Plateau(const LearningRate& rate) : rate_(rate) {}

  /// Takes in the loss after so many steps; one that is not finite is no lower one.
  void add(long step, double loss) {
    if (rate_.schedule != Schedule::plateau) return;
    if (loss < lowest_) {
      lowest_ = loss;
      since_ = step;
    } else if (step - since_ >= rate_.plateau_steps) {
      scale_ = std::max(scale_ * rate_.plateau_factor, std::min(scale_, rate_.final_fraction));
      since_ = step;
    }
  }

  /// Counts the steps of a plateau from here.
  void restart(long step) { since_ = step; }

  double scale() const { return scale_; }

 private:
  LearningRate rate_;
  double lowest_ = std::numeric_limits<double>::infinity(), scale_ = 1;
  long since_ = 0;
};

}  // namespace diffeo::inline DIFFEO_ISA
