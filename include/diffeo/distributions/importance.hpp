// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/targets/target.hpp>
#include <limits>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

/// Importance sampling with a fitted flow q as proposal for an unnormalised density p~: what the weights
/// w = p~(x) / q(x) of samples of q say about the integral Z of p~, and whether they can be trusted.
namespace diffeo {

/// Samples of a flow with the logarithms of their weights.
template <Real S>
struct WeightedSample {
  Array<S> sample;           ///< N x D
  Array<double> log_weight;  ///< N x 1, log p~(x) - log q(x)
};

/// n samples of the model and their weights under the target; sample i depends on (seed, i) alone and is that of
/// model.sample(n, seed). Throws invalid_argument for n < 0, when the target has another dimension than the model
/// (where it says so) or returns another shape than N x 1, and where a weight is NaN or infinite, with the sample. A
/// target of -infinity is a weight of 0.
template <class Base, class FlowType, class T>
  requires Target<T, Var<typename FlowType::Scalar>>
auto importance_sample(const TransformedDistribution<Base, FlowType>& model, const T& target, Index n,
                       std::uint64_t seed, int threads = 0) {
  using S = typename FlowType::Scalar;
  using Model = TransformedDistribution<Base, FlowType>;
  require(n >= 0, "importance_sample: n is ", n, ", expected at least 0");
  if constexpr (requires { target.dim(); })
    require(target.dim() == model.dim(), "importance_sample: the target has dimension ", target.dim(), ", the flow ",
            model.dim());
  WeightedSample<S> result{Array<S>(n, model.dim()), Array<double>(n, 1)};
  for_each_tile<S>(n, threads, [&](Tape<S>& tape, Index first, Index count) {
    const Var<S> z = tape.make(count, model.dim(), false);
    model.base.sample_into(tape.mutable_value(z), seed, Model::latent_stream, first);
    const Transformed<Var<S>> x = model.flow.forward(z);
    const Var<S> log_q = model.base.log_prob(z) - x.log_det;
    const Var<S> log_p = target(x.value);
    require(log_p.rows() == count && log_p.cols() == 1, "importance_sample: the target returned ", log_p.rows(), " x ",
            log_p.cols(), " values for ", count, " samples, expected ", count, " x 1");
    result.sample.middleRows(first, count) = as_eigen(x.value.value());
    result.log_weight.middleRows(first, count) =
        as_eigen(log_p.value()).template cast<double>() - as_eigen(log_q.value()).template cast<double>();
    for (Index i = first; i < first + count; ++i)
      require(result.log_weight(i, 0) < std::numeric_limits<double>::infinity(), "importance_sample: sample ", i,
              " has the log-density ", log_q.value().data[i - first], ", where the target returned ",
              log_p.value().data[i - first]);
  });
  return result;
}

/// The shape k of a generalised Pareto distribution with location 0, by the estimator of Zhang & Stephens 2009 ("A new
/// and efficient estimation method for the generalized Pareto distribution", eq. 3 to 9), with the weak prior of
/// Vehtari, Simpson, Gelman, Yao & Gabry 2024, appendix C: as ten further observations with k = 0.5. `exceedances` are
/// positive, in ascending order. NaN for fewer than five.
inline double generalized_pareto_shape(const std::vector<double>& exceedances) {
  const std::size_t n = exceedances.size();
  if (n < 5) return std::numeric_limits<double>::quiet_NaN();
  const auto count = static_cast<double>(n);
  // Candidates b = -k / sigma and their profile likelihoods; the estimate is the mean of the posterior over them.
  const auto candidates = static_cast<std::size_t>(30 + std::sqrt(count));
  const double largest = exceedances.back(),
               quartile = exceedances[static_cast<std::size_t>(std::floor(count / 4 + 0.5)) - 1];
  const auto shape = [&](double b) {
    double sum = 0;
    for (const double x : exceedances) sum += std::log1p(-b * x);
    return sum / count;
  };
  std::vector<double> at(candidates), log_likelihood(candidates);
  for (std::size_t i = 0; i < candidates; ++i) {
    at[i] = 1 / largest +
            (1 - std::sqrt(static_cast<double>(candidates) / (static_cast<double>(i) + 0.5))) / (3 * quartile);
    const double k = shape(at[i]);
    log_likelihood[i] = count * (std::log(-at[i] / k) - k - 1);
  }
  const double top = *std::max_element(log_likelihood.begin(), log_likelihood.end());
  double total = 0, mean = 0;
  for (std::size_t i = 0; i < candidates; ++i) {
    const double weight = std::exp(log_likelihood[i] - top);
    total += weight;
    mean += weight * at[i];
  }
  constexpr double prior_count = 10, prior_shape = 0.5;
  return (count * shape(mean / total) + prior_count * prior_shape) / (count + prior_count);
}

/// The shape k of the tail of weights given by their logarithms (n x 1): a generalised Pareto distribution is fitted to
/// the largest min(n / 5, 3 sqrt(n)) of them (Vehtari et al. 2024, section 3). Moments of the weights exist below 1 /
/// k. NaN when the tail has fewer than five weights or they do not differ from the next smaller one.
inline double pareto_k(const Array<double>& log_weights) {
  std::vector<double> sorted(log_weights.data(), log_weights.data() + log_weights.size());
  const auto n = static_cast<double>(sorted.size());
  const auto tail = static_cast<std::size_t>(std::ceil(std::min(0.2 * n, 3 * std::sqrt(n))));
  if (tail < 5) return std::numeric_limits<double>::quiet_NaN();
  std::sort(sorted.begin(), sorted.end());
  const double largest = sorted.back(), cutoff = std::exp(sorted[sorted.size() - tail - 1] - largest);
  std::vector<double> exceedances;
  for (auto log_weight = sorted.end() - static_cast<std::ptrdiff_t>(tail); log_weight != sorted.end(); ++log_weight) {
    const double above = std::exp(*log_weight - largest) - cutoff;
    if (above > 0) exceedances.push_back(above);
  }
  return generalized_pareto_shape(exceedances);
}

/// What n weights say. All in nats.
struct LogZEstimate {
  Index samples = 0;
  double log_z = 0;        ///< log of the mean weight; biased by about -log_z_error^2 / 2
  double log_z_error = 0;  ///< its standard error, by the delta method: that of the mean weight over the mean weight
  double elbo = 0;         ///< mean of the log-weights; log Z - elbo is the reverse Kullback-Leibler divergence
  double elbo_error = 0;   ///< its standard error
  double ess = 0;          ///< effective sample size, (sum of w)^2 / (sum of w^2) (Kong 1992)
  double k_hat = 0;        ///< pareto_k

  /// Whether the tail of the weights is light enough for estimate and error to mean what they say: k_hat is at most 0.7
  /// (Vehtari et al. 2024, section 3.1).
  bool reliable() const { return k_hat <= 0.7; }

  /// Why not, for printing; empty when reliable.
  std::string warning() const {
    if (reliable()) return {};
    std::ostringstream out;
    out.precision(3);
    if (std::isnan(k_hat))
      out << "there are too few different importance weights to judge their tail: log Z is not to be trusted";
    else
      out << "the importance weights are too heavy-tailed (Pareto k-hat " << k_hat
          << ", above 0.7): log Z and its standard error are not to be trusted";
    return out.str();
  }
};

inline std::ostream& operator<<(std::ostream& out, const LogZEstimate& estimate) {
  out << "log Z " << estimate.log_z << " +- " << estimate.log_z_error << ", ELBO " << estimate.elbo << " +- "
      << estimate.elbo_error << ", effective sample size " << estimate.ess << " of " << estimate.samples
      << ", Pareto k-hat " << estimate.k_hat;
  if (!estimate.reliable()) out << " (" << estimate.warning() << ")";
  return out;
}

/// The estimates from logarithms of weights (n x 1). Throws invalid_argument for fewer than two, for NaN, for infinity,
/// and when all are -infinity.
inline LogZEstimate estimate_log_z(const Array<double>& log_weights) {
  const Index n = log_weights.size();
  require(n >= 2, "estimate_log_z: ", n, " weights, expected at least 2");
  for (Index i = 0; i < n; ++i)
    require(log_weights.data()[i] < std::numeric_limits<double>::infinity(), "estimate_log_z: log-weight ", i, " is ",
            log_weights.data()[i], ", expected a finite number or -infinity");
  const double largest = log_weights.maxCoeff(), count = static_cast<double>(n);
  require(std::isfinite(largest), "estimate_log_z: the target is 0 at all ", n, " samples");
  const Array<double> weights = (log_weights - largest).exp();
  const double mean = weights.mean();
  LogZEstimate result;
  result.samples = n;
  result.log_z = largest + std::log(mean);
  result.log_z_error = std::sqrt((weights - mean).square().sum() / (count * (count - 1))) / mean;
  result.elbo = log_weights.mean();
  result.elbo_error = std::sqrt((log_weights - result.elbo).square().sum() / (count * (count - 1)));
  result.ess = weights.sum() * weights.sum() / weights.square().sum();
  result.k_hat = pareto_k(log_weights);
  return result;
}

/// The same for n samples of the model. Throws as importance_sample does.
template <class Base, class FlowType, class T>
  requires Target<T, Var<typename FlowType::Scalar>>
LogZEstimate estimate_log_z(const TransformedDistribution<Base, FlowType>& model, const T& target, Index n,
                            std::uint64_t seed, int threads = 0) {
  return estimate_log_z(importance_sample(model, target, n, seed, threads).log_weight);
}

/// Means and standard deviations of the columns.
struct Moments {
  Array<double> mean;                ///< 1 x D
  Array<double> standard_deviation;  ///< 1 x D
};

/// Those of the rows of x (N x D) under weights given by their logarithms (N x 1), which need not be normalised. Throws
/// invalid_argument when there are no rows or not as many weights as rows, and for weights as estimate_log_z does.
template <class Derived>
Moments weighted_moments(const Eigen::DenseBase<Derived>& x, const Array<double>& log_weights) {
  require(x.rows() > 0 && log_weights.size() == x.rows(), "weighted_moments: ", log_weights.size(), " weights for ",
          x.rows(), " rows");
  require_finite(log_weights, "weighted_moments: log_weights");
  const Array<double> values = x.derived().template cast<double>().array();
  const Array<double> weights = (log_weights - log_weights.maxCoeff()).exp();
  const double total = weights.sum();
  Moments moments;
  moments.mean = (values.colwise() * weights.col(0)).colwise().sum() / total;
  moments.standard_deviation =
      (((values.rowwise() - moments.mean.row(0)).square().colwise() * weights.col(0)).colwise().sum() / total).sqrt();
  return moments;
}

}  // namespace diffeo
