// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/targets/target.hpp>
#include <numbers>

namespace diffeo::inline DIFFEO_ISA::targets {

/// Funnel of Neal 2003 ("Slice sampling", section 8): the first column is v ~ N(0, 3^2), each of the D - 1 others is
/// N(0, exp(v)) given v; Neal uses D = 10. The log-density is returned without its normalising constant, so that
/// log Z = (D / 2) log(2 pi) + log 3.
class Funnel {
 public:
  /// Throws invalid_argument for dim < 2.
  explicit Funnel(Index dim = 2) : dim_(dim) {
    require(dim >= 2, "targets::Funnel: dimension ", dim, ", expected at least 2");
  }

  Index dim() const { return dim_; }
  double log_z() const { return 0.5 * static_cast<double>(dim_) * std::log(2 * std::numbers::pi) + std::log(3.0); }

  /// Returns the unnormalised log-density, N x D -> N x 1. Throws invalid_argument for another number of columns.
  template <Traced X>
  X operator()(const X& x) const {
    using S = typename X::Scalar;
    require(x.cols() == dim_, "targets::Funnel: x has ", x.cols(), " columns, this target has dimension ", dim_);
    const X v = cols(x, 0, 1);
    const X spread = sum_cols(square(cols(x, 1, dim_ - 1))) * exp(-v);
    return (square(v) * S(1.0 / 9) + spread + v * static_cast<S>(dim_ - 1)) * S(-0.5);
  }

 private:
  Index dim_;
};

}  // namespace diffeo::inline DIFFEO_ISA::targets
