// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/layers/flow.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Flow x = z exp(s) with one learnable log-scale s per coordinate: the last layer of NICE (Dinh, Krueger & Bengio
/// 2014, section 3.3). With log-scales 0 it is the identity.
template <class T>
struct DiagonalScale {
  using Scalar = scalar_t<T>;

  param_t<T> log_scale;  ///< 1 x D

  Index dim() const { return log_scale.cols(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("log_scale", self.log_scale);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "diagonal scale");
  }
  template <class U>
  DiagonalScale<U> rebind() const {
    return {};
  }

  /// Throws invalid_argument where log_scale has not one row.
  void check() const {
    require(log_scale.rows() == 1, "diagonal scale: log_scale is ", log_scale.rows(), " x ", log_scale.cols(),
            ", expected 1 x D");
  }

  template <Traced X>
  Transformed<X> forward(const X& z) const {
    check(z);
    const auto s = as_var(z.tape(), log_scale);
    return {z * exp(s), zeros(z, 1) + sum_cols(s)};
  }
  template <Traced X>
  Transformed<X> inverse(const X& x) const {
    check(x);
    const auto s = as_var(x.tape(), log_scale);
    return {x * exp(-s), zeros(x, 1) - sum_cols(s)};
  }

 private:
  template <Traced X>
  void check(const X& x) const {
    check();
    require(x.cols() == dim(), "diagonal scale: x has ", x.cols(), " columns, this layer has dimension ", dim());
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
