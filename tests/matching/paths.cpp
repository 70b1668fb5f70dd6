// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/matching/paths.hpp>
#include <limits>
#include <numbers>

#include "../catch.hpp"

using diffeo::BrownianBridge;
using diffeo::GaussianPath;
using diffeo::invalid_argument;
using diffeo::LinearPath;
using diffeo::MatchingPath;
using diffeo::PathWeights;
using diffeo::StochasticInterpolant;
using diffeo::TrigonometricPath;

static_assert(MatchingPath<LinearPath> && MatchingPath<GaussianPath> && MatchingPath<BrownianBridge>);
static_assert(MatchingPath<TrigonometricPath> && MatchingPath<StochasticInterpolant>);
static_assert(!MatchingPath<double>);

namespace {

constexpr double x0 = 0.7, x1 = -1.9, e = 0.4;  // a path's ends and noise

double point(const PathWeights& w) { return w.alpha * x0 + w.beta * x1 + w.gamma * e; }
double velocity(const PathWeights& w) { return w.alpha_rate * x0 + w.beta_rate * x1 + w.gamma_rate * e; }

StochasticInterpolant interpolant() {
  return {.alpha = [](double t) { return (1 - t) * (1 - t); },
          .alpha_rate = [](double t) { return -2 * (1 - t); },
          .beta = [](double t) { return t * t * t; },
          .beta_rate = [](double t) { return 3 * t * t; },
          .gamma = [](double t) { return 0.8 * t * (1 - t); },
          .gamma_rate = [](double t) { return 0.8 - 1.6 * t; }};
}

// Calls f(name, path) for a path of each kind.
template <class F>
void for_each_path(const F& f) {
  f("straight lines", LinearPath{});
  f("straight lines with noise", LinearPath{0.3});
  f("gaussian path", GaussianPath{0.1});
  f("gaussian path that ends in a point", GaussianPath{0});
  f("bridge", BrownianBridge{.sigma = 0.6});
  f("bridge without noise", BrownianBridge{.sigma = 0});
  f("trigonometric path", TrigonometricPath{});
  f("trigonometric path with noise", TrigonometricPath{0.2});
  f("interpolant", interpolant());
}

}  // namespace

TEST_CASE("matching path: the velocity is the derivative of the point with respect to time", "[matching]") {
  for_each_path([](const char* name, const auto& path) {
    path.check();
    for (const double t : {0.01, 0.2, 0.5, 0.77, 0.99}) {
      CAPTURE(name, t);
      constexpr double h = 1e-6;
      const double slope = (point(path.at(t + h)) - point(path.at(t - h))) / (2 * h);
      CHECK(velocity(path.at(t)) == Approx(slope).epsilon(1e-6));
      CHECK((path.noisy() || path.at(t).gamma == 0));
    }
  });
}

TEST_CASE("matching path: points and velocities by the formulas of the papers", "[matching]") {
  for (const double t : {0.001, 0.1, 0.5, 0.9, 0.999}) {
    CAPTURE(t);
    const auto expect = [](const PathWeights& w, double x, double u) {
      CHECK(point(w) == Approx(x).margin(1e-12));
      CHECK(velocity(w) == Approx(u).margin(1e-12));
    };
    // Tong et al. 2024, eqs. 14 and 15.
    expect(LinearPath{0.3}.at(t), t * x1 + (1 - t) * x0 + 0.3 * e, x1 - x0);
    // Lipman et al. 2023, eqs. 21 and 22: the velocity as a function of x_t and x1.
    const double s = 0.1, x_t = (1 - (1 - s) * t) * x0 + t * x1;
    expect(GaussianPath{s}.at(t), x_t, (x1 - (1 - s) * x_t) / (1 - (1 - s) * t));
    // Tong et al. 2024, eq. 21.
    const double mean = (1 - t) * x0 + t * x1, bridge = mean + 0.6 * std::sqrt(t * (1 - t)) * e;
    expect(BrownianBridge{.sigma = 0.6}.at(t), bridge, (1 - 2 * t) / (2 * t * (1 - t)) * (bridge - mean) + x1 - x0);
    // Albergo & Vanden-Eijnden 2023, eq. 4.
    const double c = std::cos(std::numbers::pi * t / 2), r = std::sin(std::numbers::pi * t / 2);
    expect(TrigonometricPath{0.2}.at(t), c * x0 + r * x1 + 0.2 * e, std::numbers::pi / 2 * (c * x1 - r * x0));
    const PathWeights w = TrigonometricPath{}.at(t);
    CHECK(w.alpha * w.alpha + w.beta * w.beta == Approx(1));
  }
}

TEST_CASE("matching path: from source to target", "[matching]") {
  for_each_path([](const char* name, const auto& path) {
    CAPTURE(name);
    const PathWeights start = path.at(0), end = path.at(1);
    CHECK(start.alpha == 1);
    CHECK(start.beta == 0);
    CHECK(end.beta == 1);
    CHECK(std::abs(end.alpha) <= 0.1 + 1e-12);
    CHECK(std::isfinite(start.gamma_rate));
    CHECK(std::isfinite(end.gamma_rate));
  });
  CHECK(GaussianPath{0.1}.at(1).alpha == Approx(0.1));
}

// Source N(m0, s0^2) and target N(m1, s1^2): x_t is normal; the mean velocity b(t, x) = E[u_t | x_t = x] and the score
// -E[e | x_t = x] / gamma follow from the covariances of u_t and of e with x_t.
TEST_CASE("matching path: density, velocity and score of normal distributions obey the continuity equation",
          "[matching]") {
  constexpr double m0 = 0.3, s0 = 1.2, m1 = -1, s1 = 0.5;
  const auto mean = [&](const PathWeights& w) { return w.alpha * m0 + w.beta * m1; };
  const auto variance = [&](const PathWeights& w) {
    return std::pow(w.alpha * s0, 2) + std::pow(w.beta * s1, 2) + w.gamma * w.gamma;
  };
  int noisy = 0;
  for_each_path([&](const char* name, const auto& path) {
    const auto log_p = [&](double t, double x) {
      const PathWeights w = path.at(t);
      return -0.5 * std::pow(x - mean(w), 2) / variance(w) - 0.5 * std::log(variance(w));
    };
    const auto b = [&](double t, double x) {
      const PathWeights w = path.at(t);
      const double covariance =
          w.alpha * w.alpha_rate * s0 * s0 + w.beta * w.beta_rate * s1 * s1 + w.gamma * w.gamma_rate;
      return w.alpha_rate * m0 + w.beta_rate * m1 + covariance / variance(w) * (x - mean(w));
    };
    for (const double t : {0.1, 0.5, 0.8})
      for (const double x : {-1.5, 0.0, 0.9}) {
        CAPTURE(name, t, x);
        constexpr double h = 1e-5;
        double score = (log_p(t, x + h) - log_p(t, x - h)) / (2 * h);
        if (const PathWeights w = path.at(t); w.gamma > 0) {
          const double mean_noise = w.gamma / variance(w) * (x - mean(w));  // E[e | x_t = x]
          CHECK(-mean_noise / w.gamma == Approx(score).margin(1e-8));
          score = -mean_noise / w.gamma;
          ++noisy;
        }
        const double change = (log_p(t + h, x) - log_p(t - h, x)) / (2 * h);
        const double divergence = (b(t, x + h) - b(t, x - h)) / (2 * h);
        CHECK(change + divergence + b(t, x) * score == Approx(0).margin(1e-7));
      }
  });
  CHECK(noisy > 0);
}

TEST_CASE("matching path: bad input", "[matching]") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const double sigma : {-0.1, nan, infinity}) {
    CAPTURE(sigma);
    CHECK_THROWS_AS(LinearPath{sigma}.check(), invalid_argument);
    CHECK_THROWS_AS(GaussianPath{sigma}.check(), invalid_argument);
    CHECK_THROWS_AS(BrownianBridge{.sigma = sigma}.check(), invalid_argument);
    CHECK_THROWS_AS(TrigonometricPath{sigma}.check(), invalid_argument);
  }
  CHECK(thrown_message<invalid_argument>([] { LinearPath{-1}.check(); }) ==
        "linear path: sigma is -1, expected finite and at least 0");
  CHECK_THROWS_AS(GaussianPath{1}.check(), invalid_argument);
  for (const double margin : {0.0, -0.1, 0.5, nan})
    CHECK_THROWS_AS((BrownianBridge{.least_time = margin}.check()), invalid_argument);
}

TEST_CASE("stochastic interpolant: bad input", "[matching]") {
  const auto message = [](const auto& change) {
    StochasticInterpolant path = interpolant();
    change(path);
    return thrown_message<invalid_argument>([&] { path.check(); });
  };
  CHECK_NOTHROW(interpolant().check());
  CHECK(contains(message([](auto& p) { p.alpha = {}; }), "expected alpha, beta and their derivatives"));
  CHECK(contains(message([](auto& p) { p.gamma_rate = {}; }), "gamma came without gamma_rate"));
  CHECK(contains(message([](auto& p) { p.gamma = {}; }), "gamma_rate came without gamma"));
  CHECK(contains(message([](auto& p) { p.beta_rate = [](double) { return 1.0; }; }), "the derivative of beta at"));
  CHECK(contains(message([](auto& p) { p.gamma_rate = [](double) { return 1.0; }; }), "the derivative of gamma at"));
  CHECK(contains(message([](auto& p) { p.alpha = [](double t) { return 2 - t; }; }), "alpha(0) is 2, expected 1"));
  CHECK(contains(message([](auto& p) { p.beta = [](double t) { return t / 2; }; }), "beta(1) is 0.5, expected 1"));
  CHECK(contains(message([](auto& p) {
                   p.alpha = [](double) { return 1.0; };
                   p.alpha_rate = [](double) { return 0.0; };
                 }),
                 "alpha(1) is 1"));
  CHECK(contains(message([](auto& p) {
                   p.gamma = [](double t) { return t * (t - 1); };
                   p.gamma_rate = [](double t) { return 2 * t - 1; };
                 }),
                 "expected at least 0"));
  CHECK(contains(message([](auto& p) {
                   p.gamma = [](double t) { return std::sqrt(t * (1 - t)); };
                   p.gamma_rate = [](double t) { return (1 - 2 * t) / (2 * std::sqrt(t * (1 - t))); };
                 }),
                 "raise least_time"));
  CHECK(contains(message([](auto& p) { p.least_time = 0.5; }), "margin is 0.5"));
}
