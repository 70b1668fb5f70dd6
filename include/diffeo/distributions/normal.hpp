// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/distributions/base_distribution.hpp>
#include <diffeo/math/random_fill.hpp>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Returns rows x dim standard normal numbers as a constant of the tape; row i depends on (seed, stream, first_row + i).
template <Real S>
Var<S> standard_normal_constant(Tape<S>& tape, Index rows, Index dim, std::uint64_t seed, std::uint64_t stream,
                                Index first_row) {
  const Var<S> z = tape.make(rows, dim, false);
  fill_normal(tape.mutable_value(z), seed, stream, first_row);
  return z;
}

// Returns the log-densities of normal distributions with diagonal covariance, N x D -> N x 1, for means and log
// standard deviations of 1 x D or N x D.
template <Traced X, class Mean, Real S>
X diagonal_normal_log_prob(const X& z, const Mean& mean, const Var<S>& log_scale) {
  return standard_normal_log_prob((z - mean) * exp(-log_scale)) - sum_cols(log_scale);
}

// Turns standard normal numbers into samples with the given means and log standard deviations, 1 x D or N x D.
template <Real S>
void scale_and_shift(View<S> z, View<const S> mean, View<const S> log_scale) {
  const bool shared = mean.rows == 1;
  for (Index j = 0; j < z.cols; ++j) {
    const S *m = mean.col(j), *s = log_scale.col(j);
    S* const value = z.col(j);
    const S scale = shared ? std::exp(s[0]) : S(0);
    for (Index i = 0; i < z.rows; ++i) value[i] = shared ? value[i] * scale + m[0] : value[i] * std::exp(s[i]) + m[i];
  }
}

}  // namespace detail

/// Standard normal distribution on R^D. It has no parameters.
template <class T>
class StandardNormal {
 public:
  using Scalar = scalar_t<T>;

  /// Throws invalid_argument for dim < 1.
  explicit StandardNormal(Index dim = 1) : dim_(dim) {
    require(dim >= 1, "standard normal: dimension ", dim, ", expected at least 1");
  }

  Index dim() const { return dim_; }

  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "standard normal", "dim", self.dim_);
  }
  template <class U>
  StandardNormal<U> rebind() const {
    return StandardNormal<U>(dim_);
  }

  template <Traced X>
  X log_prob(const X& z) const {
    detail::require_dim("standard normal", z.cols(), dim_);
    return detail::standard_normal_log_prob(z);
  }
  void sample_into(View<Scalar> z, std::uint64_t seed, std::uint64_t stream, Index first_row) const {
    fill_normal(z, seed, stream, first_row);
  }
  Var<Scalar> draw(Tape<Scalar>& tape, Index rows, std::uint64_t seed, std::uint64_t stream, Index first_row) const {
    return detail::standard_normal_constant(tape, rows, dim_, seed, stream, first_row);
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
  Index dim_;
};

/// Normal distribution on R^D with diagonal covariance; means and log standard deviations are learnable.
template <class T>
struct DiagonalNormal {
  using Scalar = scalar_t<T>;

  param_t<T> mean;       ///< 1 x D
  param_t<T> log_scale;  ///< 1 x D

  /// Returns the distribution with mean 0 and standard deviation 1. Throws invalid_argument for dim < 1.
  static DiagonalNormal standard(Index dim)
    requires Real<T>
  {
    require(dim >= 1, "diagonal normal: dimension ", dim, ", expected at least 1");
    return {Array<Scalar>::Zero(1, dim), Array<Scalar>::Zero(1, dim)};
  }

  /// Returns the distribution with the given means and standard deviations. Throws invalid_argument unless both are
  /// 1 x D and finite, and every standard deviation is positive.
  static DiagonalNormal from(const Array<Scalar>& mean, const Array<Scalar>& scale)
    requires Real<T>
  {
    require(mean.rows() == 1 && mean.cols() >= 1 && scale.rows() == 1 && scale.cols() == mean.cols(),
            "diagonal normal: mean is ", mean.rows(), " x ", mean.cols(), ", scale is ", scale.rows(), " x ",
            scale.cols(), ", expected both 1 x D");
    require_finite(mean, "diagonal normal: mean");
    for (Index j = 0; j < scale.cols(); ++j) detail::require_positive("diagonal normal: scale", scale(0, j), 0, j);
    return {mean, scale.log()};
  }

  Index dim() const { return mean.cols(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("mean", self.mean, "log_scale", self.log_scale);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "diagonal normal");
  }
  template <class U>
  DiagonalNormal<U> rebind() const {
    return {};
  }

  template <Traced X>
  X log_prob(const X& z) const {
    detail::require_dim("diagonal normal", z.cols(), dim());
    check();
    return detail::diagonal_normal_log_prob(z, mean, as_var(z.tape(), log_scale));
  }
  void sample_into(View<Scalar> z, std::uint64_t seed, std::uint64_t stream, Index first_row) const
    requires Real<T>
  {
    check();
    fill_normal(z, seed, stream, first_row);
    detail::scale_and_shift<Scalar>(z, view(mean), view(log_scale));
  }
  Var<Scalar> draw(Tape<Scalar>& tape, Index rows, std::uint64_t seed, std::uint64_t stream, Index first_row) const {
    check();
    const Var<Scalar> noise = detail::standard_normal_constant(tape, rows, dim(), seed, stream, first_row);
    return noise * exp(as_var(tape, log_scale)) + as_var(tape, mean);
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

  /// Throws invalid_argument where the shapes of the parameters do not fit.
  void check() const {
    require(mean.rows() == 1 && log_scale.rows() == 1 && mean.cols() == log_scale.cols(), "diagonal normal: mean is ",
            mean.rows(), " x ", mean.cols(), ", log_scale is ", log_scale.rows(), " x ", log_scale.cols(),
            ", expected both 1 x D");
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
