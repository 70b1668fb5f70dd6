// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/targets/target.hpp>
#include <numbers>
#include <type_traits>

namespace diffeo::inline DIFFEO_ISA::targets {

/// Posterior of the eight schools model (Rubin 1981; Gelman et al., Bayesian Data Analysis, section 5.5) in its
/// non-centred form:
///
///     y_j ~ N(theta_j, sigma_j),  theta_j = mu + tau eta_j,  eta_j ~ N(0, 1),  mu ~ N(0, 5),  tau ~ half-Cauchy(5)
///
/// for j = 1 ... 8, where N(m, s) has standard deviation s. The columns are eta_1 ... eta_8, mu and log tau, all
/// unconstrained; the log-density includes the Jacobian term log tau. Constants are kept, so that Z is the evidence
/// p(y).
template <Real S>
class EightSchools {
 public:
  static constexpr Index schools = 8;
  /// Observed effects y_j of coaching and their standard errors sigma_j, in points of the test.
  static constexpr std::array<double, 8> effects = {28, 8, -3, 7, -1, 1, 18, 12};
  static constexpr std::array<double, 8> errors = {15, 10, 16, 11, 9, 11, 10, 18};
  static constexpr double prior_scale = 5;  ///< scale of the priors of mu and of tau

  EightSchools() : scaled_effects_(1, schools), precisions_(1, schools) {
    // 17 normal densities: eight likelihoods, eight priors of eta and the prior of mu.
    constant_ = -(2.0 * schools + 1) / 2 * std::log(2 * std::numbers::pi) - std::log(prior_scale) +
                std::log(2 / (std::numbers::pi * prior_scale));
    for (Index j = 0; j < schools; ++j) {
      const double error = errors[static_cast<std::size_t>(j)];
      precisions_(0, j) = static_cast<S>(1 / error);
      scaled_effects_(0, j) = static_cast<S>(effects[static_cast<std::size_t>(j)] / error);
      constant_ -= std::log(error);
    }
  }

  Index dim() const { return schools + 2; }
  /// Returns log p(y), computed by quadrature over tau: given tau, all other integrals are Gaussian.
  double log_z() const { return -31.31134735; }

  /// Returns the log-density, N x 10 -> N x 1. Throws invalid_argument for another number of columns.
  template <Traced X>
    requires std::is_same_v<typename X::Scalar, S>
  X operator()(const X& x) const {
    require(x.cols() == dim(), "targets::EightSchools: x has ", x.cols(), " columns, this target has dimension ",
            dim());
    const X eta = cols(x, 0, schools), mu = cols(x, schools, 1), log_tau = cols(x, schools + 1, 1);
    const X residual = (eta * exp(log_tau) + mu) * precisions_ - scaled_effects_;
    const X squares = sum_cols(square(residual)) + sum_cols(square(eta)) + square(mu * S(1 / prior_scale));
    // log(tau / (1 + (tau / 5)^2)): log tau from the Jacobian, and the half-Cauchy prior, without overflow.
    const X tau_part = log_tau - softplus((log_tau - S(std::log(prior_scale))) * S(2));
    return squares * S(-0.5) + tau_part + static_cast<S>(constant_);
  }

  /// Returns the model's own quantities theta_1 ... theta_8, mu and tau for each row of x (N x 10). Throws
  /// invalid_argument for another number of columns.
  template <class Derived>
  static Array<typename Derived::Scalar> constrained(const Eigen::DenseBase<Derived>& x) {
    require(x.cols() == schools + 2, "targets::EightSchools: x has ", x.cols(), " columns, this target has dimension ",
            schools + 2);
    Array<typename Derived::Scalar> y = x.derived().array();
    y.col(schools + 1) = y.col(schools + 1).exp();
    for (Index j = 0; j < schools; ++j) y.col(j) = y.col(schools) + y.col(schools + 1) * y.col(j);
    return y;
  }

 private:
  Array<S> scaled_effects_, precisions_;  // 1 x 8
  double constant_ = 0;
};

}  // namespace diffeo::inline DIFFEO_ISA::targets
