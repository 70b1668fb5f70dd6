// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/autodiff/ops/triangular.hpp>
#include <diffeo/distributions/base_distribution.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/math/column_moments.hpp>
#include <diffeo/math/random_fill.hpp>
#include <limits>

namespace diffeo::inline DIFFEO_ISA {

/// Normal distribution on R^D with any covariance L L'. The mean and the Cholesky factor L, lower triangular with a
/// positive diagonal, are learnable; every value of the D (D + 3) / 2 parameters is a normal distribution.
template <class T>
struct MultivariateNormal {
  using Scalar = scalar_t<T>;

  param_t<T> mean;          ///< 1 x D
  param_t<T> log_diagonal;  ///< 1 x D: logarithms of the diagonal of L
  param_t<T> below;         ///< 1 x D (D - 1) / 2: the entries of L below its diagonal, row by row

  /// Returns the distribution with mean 0 and the identity as covariance. Throws invalid_argument for dim < 1.
  static MultivariateNormal standard(Index dim)
    requires Real<T>
  {
    require(dim >= 1, "multivariate normal: dimension ", dim, ", expected at least 1");
    return {Array<Scalar>::Zero(1, dim), Array<Scalar>::Zero(1, dim), Array<Scalar>::Zero(1, below_diagonal(dim))};
  }

  /// Returns the distribution with the given mean and Cholesky factor of the covariance, of which only the lower
  /// triangle is read. Throws invalid_argument unless they are 1 x D and D x D and finite, and the factor's diagonal is
  /// positive.
  static MultivariateNormal from(const Array<Scalar>& mean, const Array<Scalar>& factor)
    requires Real<T>
  {
    const Index dim = mean.cols();
    require(mean.rows() == 1 && dim >= 1 && factor.rows() == dim && factor.cols() == dim,
            "multivariate normal: mean is ", mean.rows(), " x ", dim, ", factor is ", factor.rows(), " x ",
            factor.cols(), ", expected 1 x D and D x D");
    require_finite(mean, "multivariate normal: mean");
    MultivariateNormal normal = standard(dim);
    normal.mean = mean;
    for (Index i = 0, at = 0; i < dim; ++i) {
      for (Index j = 0; j < i; ++j) {
        require(std::isfinite(factor(i, j)), "multivariate normal: factor is ", factor(i, j), " at (row ", i,
                ", column ", j, "), expected finite values");
        normal.below(0, at++) = factor(i, j);
      }
      detail::require_positive("multivariate normal: factor", factor(i, i), i, i);
      normal.log_diagonal(0, i) = std::log(factor(i, i));
    }
    return normal;
  }

  /// Returns the normal distribution of greatest likelihood for the rows of `data` (N x D), any Eigen expression: that
  /// with their mean and their covariance, the mean over the rows of (x - mean)(x - mean)', computed in double. Throws
  /// invalid_argument for fewer than D + 1 rows, NaN or infinity, and, naming the column, for one that is constant or a
  /// linear combination of those before it as far as numbers of type Scalar can tell, for which the likelihood has no
  /// maximum.
  template <class Derived>
  static MultivariateNormal fit(const Eigen::DenseBase<Derived>& data)
    requires Real<T>
  {
    const Index rows = data.rows(), dim = data.cols();
    require(dim >= 1, "multivariate normal: data has no columns");
    require(rows > dim, "multivariate normal: data has ", rows, " rows and ", dim, " columns, expected at least ",
            dim + 1, " rows");
    const auto& values = evaluate_once(data);
    const auto [center, spread] = detail::column_moments("multivariate normal", values);
    // Standard deviation of the rounding of each column, in units of the column's own.
    constexpr double epsilon = std::max(double{std::numeric_limits<Scalar>::epsilon()},
                                        static_cast<double>(std::numeric_limits<typename Derived::Scalar>::epsilon()));
    const Array<double> rounding = epsilon * values.template cast<double>().array().abs().colwise().maxCoeff() / spread;
    // The factor of the correlations, so that columns of any scale are judged alike.
    Array<double> factor = correlation(values, center, spread);
    const double floor = 4 * std::sqrt(static_cast<double>(dim) * std::numeric_limits<double>::epsilon());
    for (Index j = 0; j < dim; ++j) {
      double unexplained = factor(j, j), noise = rounding(0, j) * rounding(0, j);
      for (Index k = 0; k < j; ++k) {
        double sum = factor(j, k);
        for (Index m = 0; m < k; ++m) sum -= factor(j, m) * factor(k, m);
        factor(j, k) = sum / factor(k, k);
        unexplained -= factor(j, k) * factor(j, k);
        noise += factor(j, k) * factor(j, k) * rounding(0, k) * rounding(0, k);
      }
      factor(j, j) = std::sqrt(std::max(unexplained, 0.0));
      // What the rounding of the columns leaves unexplained says nothing, unless the columns are so coarse that it
      // would say this of most of them.
      const double least = std::max(floor, std::min(std::sqrt(noise), 0.1));
      require(factor(j, j) > least, "multivariate normal: column ", j,
              " of data is a linear combination of the columns before it, which leave ", factor(j, j),
              " of its standard deviation unexplained, expected more than ", least);
    }
    for (Index j = 0; j < dim; ++j) factor.row(j) *= spread(0, j);
    return from(center.template cast<Scalar>(), factor.template cast<Scalar>());
  }

  Index dim() const { return mean.cols(); }

  /// Returns the Cholesky factor L of the covariance: D x D.
  Array<Scalar> factor() const
    requires Real<T>
  {
    check();
    Array<Scalar> l = Array<Scalar>::Zero(dim(), dim());
    for (Index i = 0, at = 0; i < dim(); ++i) {
      for (Index j = 0; j < i; ++j) l(i, j) = below(0, at++);
      l(i, i) = std::exp(log_diagonal(0, i));
    }
    return l;
  }
  /// Returns the covariance L L': D x D.
  Array<Scalar> covariance() const
    requires Real<T>
  {
    const Array<Scalar> l = factor();
    Array<Scalar> product(dim(), dim());
    for (Index i = 0; i < dim(); ++i)
      for (Index j = 0; j <= i; ++j) product(i, j) = product(j, i) = (l.row(i) * l.row(j)).sum();
    return product;
  }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("mean", self.mean, "log_diagonal", self.log_diagonal, "below", self.below);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "multivariate normal");
  }
  template <class U>
  MultivariateNormal<U> rebind() const {
    return {};
  }

  /// Returns the log-densities of z, N x D -> N x 1. They are NaN where the solve overflows, some 1e38 standard
  /// deviations away in float.
  template <Traced X>
  X log_prob(const X& z) const {
    detail::require_dim("multivariate normal", z.cols(), dim());
    check();
    return detail::standard_normal_log_prob(solve_lower(z - mean, factor(z.tape()))) -
           sum_cols(as_var(z.tape(), log_diagonal));
  }
  void sample_into(View<Scalar> z, std::uint64_t seed, std::uint64_t stream, Index first_row) const
    requires Real<T>
  {
    const Array<Scalar> l = factor();
    fill_normal(z, seed, stream, first_row);
    detail::multiply_lower(z, view(l), view(mean));
  }
  Var<Scalar> draw(Tape<Scalar>& tape, Index rows, std::uint64_t seed, std::uint64_t stream, Index first_row) const {
    check();
    const Var<Scalar> noise = detail::standard_normal_constant(tape, rows, dim(), seed, stream, first_row);
    return linear(noise, factor(tape)) + as_var(tape, mean);
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
    require(mean.rows() == 1 && log_diagonal.rows() == 1 && mean.cols() == log_diagonal.cols(),
            "multivariate normal: mean is ", mean.rows(), " x ", mean.cols(), ", log_diagonal is ", log_diagonal.rows(),
            " x ", log_diagonal.cols(), ", expected both 1 x D");
    require(below.rows() == 1 && below.cols() == below_diagonal(mean.cols()), "multivariate normal: mean is ",
            mean.rows(), " x ", mean.cols(), ", below is ", below.rows(), " x ", below.cols(), ", expected 1 x ",
            below_diagonal(mean.cols()));
  }

 private:
  // Returns L on the tape. Computed at each call, so that it cannot disagree with parameters that were set by hand.
  Var<Scalar> factor(Tape<Scalar>& tape) const {
    return lower_triangular(exp(as_var(tape, log_diagonal)), as_var(tape, below));
  }

  // Returns the lower triangle of the correlations of the columns, D x D, summed in blocks of rows that stay in cache.
  template <class Derived>
  static Array<double> correlation(const Eigen::DenseBase<Derived>& values, const Array<double>& center,
                                   const Array<double>& spread) {
    const Index rows = values.rows(), dim = values.cols(), block = 512;
    Array<double> sum = Array<double>::Zero(dim, dim);
    for (Index first = 0; first < rows; first += block) {
      const Index count = std::min(block, rows - first);
      Array<double> x = values.middleRows(first, count).template cast<double>().array();
      for (Index j = 0; j < dim; ++j) {
        x.col(j) = (x.col(j) - center(0, j)) / spread(0, j);
        for (Index k = 0; k <= j; ++k) sum(j, k) += (x.col(j) * x.col(k)).sum();
      }
    }
    return sum / static_cast<double>(rows);
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
