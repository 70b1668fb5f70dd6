// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <diffeo/autodiff/fields.hpp>
#include <diffeo/core/error.hpp>
#include <functional>
#include <numbers>

/// Paths from a source point x0 to a target point x1, by which flow matching trains a vector field.
namespace diffeo::inline DIFFEO_ISA {

/// A path at one time t: the point x_t = alpha x0 + beta x1 + gamma e, where e is standard normal noise, and the
/// derivatives of the three numbers with respect to t, of which the velocity u_t = dx_t/dt consists.
struct PathWeights {
  double alpha = 0, beta = 0, gamma = 0;
  double alpha_rate = 0, beta_rate = 0, gamma_rate = 0;
};

/// A stochastic interpolant between x0 at time 0 and x1 at time 1 (Albergo, Boffi & Vanden-Eijnden 2023, "Stochastic
/// interpolants", eq. 2.1): a policy of FlowMatching.
///
/// | expression | type        | meaning                                                                        |
/// |------------|-------------|--------------------------------------------------------------------------------|
/// | p.at(t)    | PathWeights | alpha, beta, gamma and their derivatives at a time 0 <= t <= 1                 |
/// | p.noisy()  | bool        | false where gamma is 0 at all times, so that no noise is drawn                 |
/// | p.margin() | double      | 0 <= m < 1/2; at() is called for m <= t <= 1 - m: m > 0 where gamma' is        |
/// |            |             | infinite at the ends                                                           |
/// | p.check()  | void        | throws invalid_argument for options out of range                               |
///
/// Models: LinearPath, GaussianPath, BrownianBridge, TrigonometricPath, StochasticInterpolant. at() is called from
/// several threads.
template <class P>
concept MatchingPath = std::copy_constructible<P> && requires(const P& p, double t) {
  { p.at(t) } -> std::same_as<PathWeights>;
  { p.noisy() } -> std::same_as<bool>;
  { p.margin() } -> std::convertible_to<double>;
  p.check();
};

namespace detail {

inline void require_path_sigma(const char* path, double sigma) {
  require(sigma >= 0 && std::isfinite(sigma), path, ": sigma is ", sigma, ", expected finite and at least 0");
}

inline void require_path_margin(const char* path, double margin, bool above_zero) {
  require(margin < 0.5 && (above_zero ? margin > 0 : margin >= 0), path, ": margin is ", margin, ", expected ",
          above_zero ? "above 0" : "at least 0", " and below 0.5");
}

}  // namespace detail

/// Straight lines at constant speed, blurred by noise of constant size (Tong et al. 2024, "Improving and generalizing
/// flow-based generative models with minibatch optimal transport", section 3.2.2, independent conditional flow
/// matching, and with pairings by optimal transport section 3.2.3):
///
///     x_t = (1 - t) x0 + t x1 + sigma e,  u_t = x1 - x0
///
/// With sigma = 0 it is the path of rectified flow (Liu, Gong & Liu 2023).
///
/// | option | type   | default                                                     |
/// |--------|--------|-------------------------------------------------------------|
/// | sigma  | double | 0; in the coordinates of the Cnf, where data are of order 1 |
struct LinearPath {
  double sigma = 0;

  PathWeights at(double t) const { return {1 - t, t, sigma, -1, 1, 0}; }
  bool noisy() const { return sigma > 0; }
  double margin() const { return 0; }
  void check() const { detail::require_path_sigma("linear path", sigma); }
};

/// The optimal-transport path of Lipman et al. (2023, "Flow matching for generative modeling", eqs. 20 to 23): x0 is
/// standard normal noise, which shrinks to a Gaussian of standard deviation sigma around x1:
///
///     x_t = (1 - (1 - sigma) t) x0 + t x1,  u_t = x1 - (1 - sigma) x0
///
/// | option | type   | default                                                                   |
/// |--------|--------|---------------------------------------------------------------------------|
/// | sigma  | double | 0.0001, below 1; in the coordinates of the Cnf, where data are of order 1 |
struct GaussianPath {
  double sigma = 0.0001;

  PathWeights at(double t) const { return {1 - (1 - sigma) * t, t, 0, sigma - 1, 1, 0}; }
  bool noisy() const { return false; }
  double margin() const { return 0; }
  void check() const {
    detail::require_path_sigma("gaussian path", sigma);
    require(sigma < 1, "gaussian path: sigma is ", sigma, ", expected below 1");
  }
};

/// Brownian bridges of variance sigma^2 t (1 - t) (Tong et al. 2024, section 3.2.4):
///
///     x_t = (1 - t) x0 + t x1 + sigma sqrt(t (1 - t)) e,
///     u_t = x1 - x0 + (1 - 2 t) / (2 t (1 - t)) (x_t - (1 - t) x0 - t x1)
///
/// With a pairing by entropic optimal transport of regularisation 2 sigma^2 (of the cost |x0 - x1|^2) the marginals are
/// those of the Schroedinger bridge between source and target. u_t is infinite at the ends, and times are drawn between
/// margin and 1 - margin.
///
/// | option     | type   | default                                                     |
/// |------------|--------|-------------------------------------------------------------|
/// | sigma      | double | 1; in the coordinates of the Cnf, where data are of order 1 |
/// | least_time | double | 0.001, the margin, above 0 and below 1/2                    |
struct BrownianBridge {
  double sigma = 1;
  double least_time = 0.001;

  PathWeights at(double t) const {
    const double gamma = sigma * std::sqrt(t * (1 - t));
    return {1 - t, t, gamma, -1, 1, gamma > 0 ? sigma * sigma * (1 - 2 * t) / (2 * gamma) : 0};
  }
  bool noisy() const { return sigma > 0; }
  double margin() const { return least_time; }
  void check() const {
    detail::require_path_sigma("brownian bridge", sigma);
    detail::require_path_margin("brownian bridge", least_time, true);
  }
};

/// Quarters of ellipses, which keep the variance where source and target have the same (Albergo & Vanden-Eijnden 2023,
/// "Building normalizing flows with stochastic interpolants", eq. 4; Tong et al. 2024, table 1):
///
///     x_t = cos(pi t / 2) x0 + sin(pi t / 2) x1 + sigma e,  u_t = pi / 2 (cos(pi t / 2) x1 - sin(pi t / 2) x0)
///
/// | option | type   | default                                                     |
/// |--------|--------|-------------------------------------------------------------|
/// | sigma  | double | 0; in the coordinates of the Cnf, where data are of order 1 |
struct TrigonometricPath {
  double sigma = 0;

  PathWeights at(double t) const {
    constexpr double quarter = std::numbers::pi / 2;
    const double c = std::cos(quarter * t), s = std::sin(quarter * t);
    return {c, s, sigma, -quarter * s, quarter * c, 0};
  }
  bool noisy() const { return sigma > 0; }
  double margin() const { return 0; }
  void check() const { detail::require_path_sigma("trigonometric path", sigma); }
};

/// A function of time.
using PathFunction = std::function<double(double)>;

/// The path x_t = alpha(t) x0 + beta(t) x1 + gamma(t) e of functions of the user's own, with their derivatives:
///
///     StochasticInterpolant{.alpha = [](double t) { return (1 - t) * (1 - t); },
///                           .alpha_rate = [](double t) { return -2 * (1 - t); },
///                           .beta = [](double t) { return t; },
///                           .beta_rate = [](double) { return 1.0; }}
///
/// The functions are called from several threads.
///
/// | option     | type         | default                                           |
/// |------------|--------------|---------------------------------------------------|
/// | alpha      | PathFunction | none; 1 at time 0 and less than that at time 1    |
/// | alpha_rate | PathFunction | none; the derivative of alpha                     |
/// | beta       | PathFunction | none; 0 at time 0, 1 at time 1                    |
/// | beta_rate  | PathFunction | none; the derivative of beta                      |
/// | gamma      | PathFunction | none: 0; otherwise at least 0                     |
/// | gamma_rate | PathFunction | none: 0; the derivative of gamma                  |
/// | least_time | double       | 0; times are drawn between this and 1 minus this  |
struct StochasticInterpolant {
  PathFunction alpha = {};
  PathFunction alpha_rate = {};
  PathFunction beta = {};
  PathFunction beta_rate = {};
  PathFunction gamma = {};
  PathFunction gamma_rate = {};
  double least_time = 0;

  PathWeights at(double t) const {
    PathWeights w{alpha(t), beta(t), 0, alpha_rate(t), beta_rate(t), 0};
    if (gamma) w.gamma = gamma(t), w.gamma_rate = gamma_rate(t);
    return w;
  }
  bool noisy() const { return static_cast<bool>(gamma); }
  double margin() const { return least_time; }

  /// Throws invalid_argument where a function is missing, the values at the ends are not those of the table, gamma is
  /// negative, a value is not finite, or a derivative disagrees with finite differences, at some times between.
  void check() const {
    const char* const who = "stochastic interpolant";
    require(alpha && alpha_rate && beta && beta_rate, who, ": expected alpha, beta and their derivatives");
    require(static_cast<bool>(gamma) == static_cast<bool>(gamma_rate), who, ": ", gamma ? "gamma" : "gamma_rate",
            " came without ", gamma ? "gamma_rate" : "gamma");
    detail::require_path_margin(who, least_time, false);
    const auto require_end = [&](const char* name, double value, double expected) {
      require(std::abs(value - expected) <= 1e-6, who, ": ", name, " is ", value, ", expected ", expected);
    };
    require_end("alpha(0)", alpha(0), 1);
    require_end("beta(0)", beta(0), 0);
    require_end("beta(1)", beta(1), 1);
    require(std::abs(alpha(1)) < 1, who, ": alpha(1) is ", alpha(1), ", expected less than 1 and near 0");
    const auto require_rate = [&](const char* name, const auto& f, double rate, double t) {
      constexpr double h = 1e-5;
      const double slope = (f(t + h) - f(t - h)) / (2 * h);
      require(std::isfinite(rate) && std::isfinite(slope), who, ": ", name, " or its derivative at ", t,
              " is not finite");
      require(std::abs(rate - slope) <= 1e-3 * (1 + std::abs(slope)), who, ": the derivative of ", name, " at ", t,
              " is said to be ", rate, ", finite differences give ", slope);
    };
    // At odd places, where functions that consist of pieces are not joined.
    for (double t = 0.0213; t < 0.98; t += 0.0618) {
      const PathWeights w = at(t);
      require_rate("alpha", alpha, w.alpha_rate, t);
      require_rate("beta", beta, w.beta_rate, t);
      if (!gamma) continue;
      require_rate("gamma", gamma, w.gamma_rate, t);
      require(w.gamma >= 0, who, ": gamma at ", t, " is ", w.gamma, ", expected at least 0");
    }
    for (const double t : {least_time, 1 - least_time}) {
      const PathWeights w = at(t);
      for (const double value : {w.alpha, w.beta, w.gamma, w.alpha_rate, w.beta_rate, w.gamma_rate})
        require(std::isfinite(value), who, ": a function or its derivative is not finite at ", t,
                ", where times begin or end: raise least_time");
    }
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
