// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/targets/target.hpp>
#include <numbers>

namespace diffeo::inline DIFFEO_ISA::targets {

/// Normal distribution bent into a parabola (Haario, Saksman & Tamminen 1999, section 3): x1 ~ N(0, scale^2),
/// x2 | x1 ~ N(curvature (x1^2 - scale^2), 1). The log-density is returned without its normalising constant, so that
/// log Z = log(2 pi scale).
class Banana {
 public:
  /// Throws invalid_argument unless scale is positive and both are finite.
  explicit Banana(double scale = 2, double curvature = 0.5) : scale_(scale), curvature_(curvature) {
    require(scale > 0 && std::isfinite(scale), "targets::Banana: scale is ", scale, ", expected a positive number");
    require(std::isfinite(curvature), "targets::Banana: curvature is ", curvature, ", expected a finite number");
  }

  Index dim() const { return 2; }
  double log_z() const { return std::log(2 * std::numbers::pi * scale_); }

  /// Returns the unnormalised log-density, N x 2 -> N x 1. Throws invalid_argument for another number of columns.
  template <Traced X>
  X operator()(const X& x) const {
    using S = typename X::Scalar;
    require(x.cols() == 2, "targets::Banana: x has ", x.cols(), " columns, this target has dimension 2");
    const X squared = square(cols(x, 0, 1));
    const X offset = cols(x, 1, 1) - (squared - static_cast<S>(scale_ * scale_)) * static_cast<S>(curvature_);
    return squared * static_cast<S>(-0.5 / (scale_ * scale_)) - square(offset) * S(0.5);
  }

 private:
  double scale_, curvature_;
};

}  // namespace diffeo::inline DIFFEO_ISA::targets
