// SPDX-License-Identifier: MIT

#include <diffeo/diffeo.hpp>

template <class T>  // float, double, or a tape variable of either
struct Stretch {    // x = z exp(s)
  using Scalar = diffeo::scalar_t<T>;
  diffeo::param_t<T> log_scale;  // 1 x D

  diffeo::Index dim() const { return log_scale.cols(); }

  template <class Self>
  static auto fields(Self& self) {  // what is trained and saved, with names
    return diffeo::fields("log_scale", self.log_scale);
  }
  template <class U>
  Stretch<U> rebind() const {  // the same layer over other parameters
    return {};
  }

  template <diffeo::Traced X>  // values, tape variables, dual numbers
  diffeo::Transformed<X> forward(const X& z) const {
    const auto s = diffeo::as_var(z.tape(), log_scale);
    return {z * exp(s), zeros(z, 1) + sum_cols(s)};
  }
  template <diffeo::Traced X>
  diffeo::Transformed<X> inverse(const X& x) const {
    const auto s = diffeo::as_var(x.tape(), log_scale);
    return {x * exp(-s), zeros(x, 1) - sum_cols(s)};
  }
};
