// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/elementwise.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Options of Adam.
///
/// | option       | type   | default                                                                               |
/// |--------------|--------|---------------------------------------------------------------------------------------|
/// | beta1, beta2 | double | 0.9, 0.999: decay rates of the first and second moment                                |
/// | epsilon      | double | 1e-8                                                                                  |
/// | weight_decay | double | 0; above 0 decoupled from the gradient: AdamW (Loshchilov & Hutter 2019, algorithm 2) |
///
/// Weight decay applies to all parameters, including biases and log-scales.
struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;

  /// Throws invalid_argument for an option out of range.
  void check() const {
    require(beta1 >= 0 && beta1 < 1, "adam: beta1 is ", beta1, ", expected 0 <= beta1 < 1");
    require(beta2 >= 0 && beta2 < 1, "adam: beta2 is ", beta2, ", expected 0 <= beta2 < 1");
    require(epsilon > 0 && std::isfinite(epsilon), "adam: epsilon is ", epsilon, ", expected a positive number");
    require(weight_decay >= 0 && std::isfinite(weight_decay), "adam: weight_decay is ", weight_decay,
            ", expected >= 0");
  }
};

/// Adam optimiser (Kingma & Ba 2015, algorithm 1) for a flat vector of parameters.
template <Real S>
class Adam {
 public:
  Adam(Index count, const AdamOptions& options) : options_(options) {
    options.check();
    first_ = second_ = Array<S>::Zero(count, 1);
  }

  /// Starts a step with the given learning rate. update() must then be called for ranges that together cover the
  /// vector, in any order and from several threads if desired.
  void begin_step(double learning_rate) {
    ++step_;
    rate_ = learning_rate;
    correction1_ = 1 / (1 - std::pow(options_.beta1, step_));
    correction2_ = 1 / (1 - std::pow(options_.beta2, step_));
  }

  /// Updates the values [begin, end) of `parameters` with the gradients `grads` times `grad_scale`. Returns whether all
  /// of them are finite afterwards.
  bool update(S* parameters, const S* grads, Index begin, Index end, S grad_scale) {
    const S beta1 = static_cast<S>(options_.beta1), beta2 = static_cast<S>(options_.beta2);
    const S keep = static_cast<S>(1 - rate_ * options_.weight_decay);
    const S size = static_cast<S>(rate_ * correction1_), root = static_cast<S>(correction2_);
    const S epsilon = static_cast<S>(options_.epsilon);
    simd::Vec<S> zero{};  // becomes NaN if a parameter is not finite
    const auto piece = [&](Index i, auto... n) {
      const auto g = simd::load<S>(grads + i, n...) * grad_scale;
      // Written out as multiply-adds, so that compilers do not differ in which products they fuse.
      const auto m =
          simd::mul_add<S>(simd::broadcast<S>(beta1), simd::load<S>(first_.data() + i, n...), (1 - beta1) * g);
      const auto v =
          simd::mul_add<S>(simd::broadcast<S>(beta2), simd::load<S>(second_.data() + i, n...), (1 - beta2) * (g * g));
      const auto moved = simd::mul_add<S>(simd::load<S>(parameters + i, n...), simd::broadcast<S>(keep),
                                          -(size * m / (simd::sqrt<S>(v * root) + epsilon)));
      simd::store<S>(first_.data() + i, m, n...);
      simd::store<S>(second_.data() + i, v, n...);
      simd::store<S>(parameters + i, moved, n...);
      zero += moved * S(0);
    };
    Index i = begin;
    for (; i + simd::lanes<S> <= end; i += simd::lanes<S>) piece(i);
    if (i < end) piece(i, end - i);
    return simd::sum<S>(zero) == 0;
  }

  /// Copies what begin_step() counts from another optimiser of as many parameters; copy_moments() copies the rest.
  void copy_count(const Adam& from) { step_ = from.step_; }
  /// Copies the moments of the values [begin, end).
  void copy_moments(const Adam& from, Index begin, Index end) {
    std::copy(from.first_.data() + begin, from.first_.data() + end, first_.data() + begin);
    std::copy(from.second_.data() + begin, from.second_.data() + end, second_.data() + begin);
  }

 private:
  AdamOptions options_;
  Array<S> first_, second_;
  long step_ = 0;
  double rate_ = 0, correction1_ = 1, correction2_ = 1;
};

}  // namespace diffeo::inline DIFFEO_ISA
