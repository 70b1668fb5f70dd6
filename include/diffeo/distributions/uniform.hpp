// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/distributions/base_distribution.hpp>
#include <diffeo/math/random_fill.hpp>
#include <limits>

namespace diffeo::inline DIFFEO_ISA {

/// Uniform distribution on a box low <= z < high. It has no parameters; its log-density is -infinity outside.
template <class T>
struct UniformBox {
  using Scalar = scalar_t<T>;

  Buffer<T> low;   ///< 1 x D
  Buffer<T> high;  ///< 1 x D

  /// Returns the distribution on the box between two corners. Throws invalid_argument unless both are 1 x D and finite,
  /// and low < high in every column.
  static UniformBox from(const Array<Scalar>& low, const Array<Scalar>& high)
    requires Real<T>
  {
    require(low.rows() == 1 && high.rows() == 1 && low.cols() == high.cols() && low.cols() > 0, "uniform box: low is ",
            low.rows(), " x ", low.cols(), ", high is ", high.rows(), " x ", high.cols(), ", expected both 1 x D");
    require_finite(low, "uniform box: low");
    require_finite(high, "uniform box: high");
    for (Index j = 0; j < low.cols(); ++j)
      require(low(0, j) < high(0, j) && std::isfinite(high(0, j) - low(0, j)), "uniform box: low is ", low(0, j),
              " and high ", high(0, j), " in column ", j, ", expected low < high and a difference that is finite");
    return {{low}, {high}};
  }
  /// Returns the distribution on the cube low <= z_j < high, j < dim. Throws invalid_argument for dim < 1 and as
  /// from().
  static UniformBox cube(Index dim, Scalar low, Scalar high)
    requires Real<T>
  {
    require(dim >= 1, "uniform box: dimension ", dim, ", expected at least 1");
    return from(Array<Scalar>::Constant(1, dim, low), Array<Scalar>::Constant(1, dim, high));
  }

  Index dim() const { return low.value.cols(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("low", self.low, "high", self.high);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "uniform box");
  }
  template <class U>
  UniformBox<U> rebind() const {
    return {};
  }

  template <Traced X>
  X log_prob(const X& z) const {
    detail::require_dim("uniform box", z.cols(), dim());
    auto& tape = z.tape();
    const auto a = as_var(tape, low), b = as_var(tape, high);
    const auto x = innermost(z);
    return zeros(z, 1) +
           sum_cols(log_density(x, detail::broadcast_to(a, x.shape()), detail::broadcast_to(b, x.shape())));
  }
  void sample_into(View<Scalar> z, std::uint64_t seed, std::uint64_t stream, Index first_row) const
    requires Real<T>
  {
    fill_uniform(z, seed, stream, first_row);
    for (Index j = 0; j < z.cols; ++j) {
      auto column = as_eigen(z.cols_block(j, 1));
      // Rounding may give `high` itself, which is outside the box.
      const Scalar below = std::nextafter(high.value(0, j), low.value(0, j));
      column = (column * (high.value(0, j) - low.value(0, j)) + low.value(0, j)).min(below);
    }
  }

  // The methods of a Distribution, see distribution.hpp.
  template <class Derived>
  Array<Scalar> log_prob(const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    return detail::log_prob_of_rows(*this, "distribution", x, execution);
  }
  template <class Derived>
  Array<Scalar> score(const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    return detail::score_of_rows(*this, "distribution", x, execution);
  }
  Array<Scalar> sample(Index n, std::uint64_t seed, const Execution& execution = {}) const {
    return detail::sample_of_base(*this, n, seed, execution);
  }
  SampleAndLogProb<Scalar> sample_and_log_prob(Index n, std::uint64_t seed, const Execution& execution = {}) const {
    return detail::sample_and_log_prob_of_base(*this, n, seed, execution);
  }

 private:
  // Returns the log-density of each coordinate. It is constant inside the box, so it needs no gradient.
  template <Real S>
  static Var<S> log_density(Var<S> z, Var<S> a, Var<S> b) {
    const Var<S> y = z.tape().make(z.rows(), z.cols(), false);
    math::map(
        z.tape().mutable_value(y),
        [](auto v, auto lo, auto hi) {
          return v >= lo && v < hi ? -simd::log<S>(hi - lo) : simd::broadcast<S>(-std::numeric_limits<S>::infinity());
        },
        z.value(), a.value(), b.value());
    return y;
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
