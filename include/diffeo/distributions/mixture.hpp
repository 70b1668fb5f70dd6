// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/core/random.hpp>
#include <diffeo/distributions/base_distribution.hpp>
#include <diffeo/math/clusters.hpp>
#include <diffeo/math/column_moments.hpp>
#include <diffeo/math/random_fill.hpp>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Returns the log-densities of mixtures of K normal distributions with diagonal covariance, N x D -> N x 1. logits is
// 1 x K or N x K, mean(j) and log_scale(j) return those of coordinate j in the same shape.
template <Traced X, Real S, class Mean, class LogScale>
X mixture_log_prob(const X& z, const Var<S>& logits, const Mean& mean, const LogScale& log_scale) {
  // Exponents sum_j ((z_j - mu_kj) / sigma_kj)^2, N x K, accumulated coordinate by coordinate.
  X exponents = zeros(z, logits.cols());
  Var<S> log_volume = log_scale(0);
  for (Index j = 0; j < z.cols(); ++j) {
    const Var<S> s = j == 0 ? log_volume : log_scale(j);
    if (j > 0) log_volume = log_volume + s;
    exponents = exponents + square(cols(z, j, 1) - mean(j)) * exp(s * S(-2));
  }
  const Var<S> offset = logits - log_sum_exp(logits) - log_volume - S(0.5 * log_two_pi) * static_cast<S>(z.cols());
  return log_sum_exp(exponents * S(-0.5) + offset);
}

// Returns for each row the component that a uniform number chooses, by logits of 1 x K or rows x K. Row i depends on
// (seed, stream, first_row + i) and its logits.
template <Real S>
std::vector<Index> choose_components(View<const S> logits, Index rows, std::uint64_t seed, std::uint64_t stream,
                                     Index first_row) {
  // A stream apart from that of the coordinates.
  constexpr std::uint64_t component_stream = 0x6d69787475726521;
  Array<S> draws(rows, 1), shares(1, logits.cols);
  fill_uniform(view(draws), seed, stream ^ component_stream, first_row);
  std::vector<Index> chosen(static_cast<std::size_t>(rows));
  S total = 0;
  for (Index i = 0; i < rows; ++i) {
    if (i == 0 || logits.rows > 1) {
      S top = logits.col(0)[i];
      for (Index k = 1; k < logits.cols; ++k) top = std::max(top, logits.col(k)[i]);
      total = 0;
      for (Index k = 0; k < logits.cols; ++k) total += shares(0, k) = std::exp(logits.col(k)[i] - top);
    }
    S left = draws(i, 0) * total;
    Index k = 0;
    while (k + 1 < logits.cols && left >= shares(0, k)) left -= shares(0, k++);
    chosen[static_cast<std::size_t>(i)] = k;
  }
  return chosen;
}

// Turns a column of standard normal numbers into one of samples, row i with mean(i, k) and log_scale(i, k) of its
// component k.
template <Real S, class Mean, class LogScale>
void scale_and_shift_rows(View<S> column, const std::vector<Index>& chosen, const Mean& mean,
                          const LogScale& log_scale) {
  S* const value = column.col(0);
  for (Index i = 0; i < column.rows; ++i) {
    const Index k = chosen[static_cast<std::size_t>(i)];
    value[i] = value[i] * std::exp(log_scale(i, k)) + mean(i, k);
  }
}

}  // namespace detail

/// Mixture of K normal distributions on R^D with diagonal covariance. The logits of the weights, the means and the log
/// standard deviations are learnable.
template <class T>
struct GaussianMixture {
  using Scalar = scalar_t<T>;

  /// Largest learning rate of fit() unless the caller chooses another. In trainings of 8,000 steps on the toy density
  /// "8gaussians" two of three mixtures of 8 components that started at random() ended 0.2 nats below the best with
  /// 2e-3 and with 3e-2, none with 1e-2.
  static constexpr double suggested_learning_rate = 1e-2;

  param_t<T> logits;      ///< 1 x K; the weights are their softmax
  param_t<T> means;       ///< K x D
  param_t<T> log_scales;  ///< K x D

  /// Returns `components` components of equal weight, with means drawn from N(0, spread^2) and standard deviation 1.
  /// Throws invalid_argument for fewer than one component or dimension, and unless spread >= 0.
  static GaussianMixture random(Index components, Index dim, std::uint64_t seed, Scalar spread = 1)
    requires Real<T>
  {
    require(components >= 1 && dim >= 1, "gaussian mixture: ", components, " components of dimension ", dim,
            ", expected at least 1 of each");
    require(spread >= 0 && std::isfinite(spread), "gaussian mixture: spread is ", spread, ", expected >= 0");
    GaussianMixture mixture{Array<Scalar>::Zero(1, components), Array<Scalar>(components, dim),
                            Array<Scalar>::Zero(components, dim)};
    fill_normal(view(mixture.means), seed, means_stream);
    mixture.means *= spread;
    return mixture;
  }

  /// Returns a mixture of `components` components to fit to `data` (N x D, any Eigen expression): one for each cluster
  /// that k-means finds from the starting points of k-means++ (Arthur & Vassilvitskii 2007), with the cluster's share
  /// of the rows, its mean and its standard deviations, no less than 0.03 times those of the data. Columns count by
  /// their standard deviations; of many rows a sample of 10,000, or 100 a component, is looked at. Throws
  /// invalid_argument for fewer than one component, fewer rows than components or two, NaN or infinity, or a constant
  /// column.
  template <class Derived>
  static GaussianMixture around(Index components, const Eigen::DenseBase<Derived>& data, std::uint64_t seed)
    requires Real<T>
  {
    const Index needed = std::max<Index>(components, 2);
    require(components >= 1, "gaussian mixture: ", components, " components, expected at least 1");
    require(data.rows() >= needed, "gaussian mixture: data has ", data.rows(), " rows for ", components,
            " components, expected at least ", needed);
    const auto& values = evaluate_once(data);
    const auto [center, spread] = detail::column_moments("gaussian mixture", values);
    const Index dim = data.cols(), count = std::min(data.rows(), std::max<Index>(10000, 100 * components));
    const std::vector<Index> chosen = permutation(data.rows(), seed, rows_stream);
    Array<double> points(count, dim);
    for (Index i = 0; i < count; ++i)
      points.row(i) =
          (values.row(chosen[static_cast<std::size_t>(i)]).template cast<double>().array() - center.row(0)) /
          spread.row(0);
    const detail::Clusters clusters = detail::find_clusters(points, components, seed);
    constexpr double narrowest = 0.03;
    Array<double> scales = clusters.variance.sqrt().max(narrowest);
    Array<double> means = clusters.mean;
    for (Index k = 0; k < components; ++k) {
      means.row(k) = means.row(k) * spread.row(0) + center.row(0);
      scales.row(k) *= spread.row(0);
    }
    return from(clusters.share.template cast<Scalar>(), means.template cast<Scalar>(), scales.template cast<Scalar>());
  }

  /// Returns the mixture with the given weights (1 x K; they need not sum to 1), means and standard deviations (K x D).
  /// Throws invalid_argument if shapes do not agree, for means that are not finite, and unless all weights and standard
  /// deviations are positive and finite.
  static GaussianMixture from(const Array<Scalar>& weights, const Array<Scalar>& means, const Array<Scalar>& scales)
    requires Real<T>
  {
    GaussianMixture mixture{weights, means, scales};
    require(means.rows() >= 1 && means.cols() >= 1, "gaussian mixture: means is ", means.rows(), " x ", means.cols(),
            ", expected K x D");
    mixture.check("weights", "scales");
    require_finite(means, "gaussian mixture: means");
    for (Index k = 0; k < means.rows(); ++k) {
      detail::require_positive("gaussian mixture: weights", weights(0, k), 0, k);
      for (Index j = 0; j < means.cols(); ++j) detail::require_positive("gaussian mixture: scales", scales(k, j), k, j);
    }
    mixture.logits = weights.log();
    mixture.log_scales = scales.log();
    return mixture;
  }

  Index components() const { return means.rows(); }
  Index dim() const { return means.cols(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("logits", self.logits, "means", self.means, "log_scales", self.log_scales);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "gaussian mixture");
  }
  template <class U>
  GaussianMixture<U> rebind() const {
    return {};
  }

  template <Traced X>
  X log_prob(const X& z) const {
    detail::require_dim("gaussian mixture", z.cols(), dim());
    check();
    auto& tape = z.tape();
    const auto mu = as_var(tape, means), s = as_var(tape, log_scales);
    return detail::mixture_log_prob(
        z, as_var(tape, logits), [&mu](Index j) { return transposed(cols(mu, j, 1)); },
        [&s](Index j) { return transposed(cols(s, j, 1)); });
  }

  void sample_into(View<Scalar> z, std::uint64_t seed, std::uint64_t stream, Index first_row) const
    requires Real<T>
  {
    check();
    fill_normal(z, seed, stream, first_row);
    const std::vector<Index> chosen = detail::choose_components<Scalar>(view(logits), z.rows, seed, stream, first_row);
    for (Index j = 0; j < z.cols; ++j)
      detail::scale_and_shift_rows(
          z.cols_block(j, 1), chosen, [&](Index, Index k) { return means(k, j); },
          [&](Index, Index k) { return log_scales(k, j); });
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
  void check() const { check("logits", "log_scales"); }

 private:
  void check(const char* of_logits, const char* of_scales) const {
    require(logits.rows() == 1 && logits.cols() == means.rows(), "gaussian mixture: ", of_logits, " is ", logits.rows(),
            " x ", logits.cols(), ", means is ", means.rows(), " x ", means.cols(), ", expected 1 x K and K x D");
    require(log_scales.rows() == means.rows() && log_scales.cols() == means.cols(), "gaussian mixture: ", of_scales,
            " is ", log_scales.rows(), " x ", log_scales.cols(), ", means is ", means.rows(), " x ", means.cols(),
            ", expected both K x D");
  }

  // Arbitrary constants that keep these streams apart from each other and from the streams users choose.
  static constexpr std::uint64_t means_stream = 0x6d65616e73212121, rows_stream = 0x726f777321212121;
};

}  // namespace diffeo::inline DIFFEO_ISA
