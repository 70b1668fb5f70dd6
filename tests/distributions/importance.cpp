// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/distributions/conditional_mixture.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/importance.hpp>
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/multivariate_normal.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/uniform.hpp>
#include <diffeo/layers/conditional.hpp>
#include <diffeo/layers/diagonal_scale.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/targets/rezende_mohamed.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/training/reverse_kl.hpp>
#include <limits>
#include <sstream>
#include <vector>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::estimate_log_z;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::LogZEstimate;
using diffeo::TransformedDistribution;

namespace {

// Draws of a generalised Pareto distribution with location 0, by the inverse of its distribution function.
std::vector<double> pareto(double k, double sigma, std::size_t n, std::uint64_t seed) {
  Array<double> u(static_cast<Index>(n), 1);
  diffeo::fill_uniform(diffeo::view(u), seed);
  std::vector<double> x(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double e = -std::log1p(-u.data()[i]);  // exponentially distributed
    x[i] = sigma * (k == 0 ? e : std::expm1(k * e) / k);
  }
  std::sort(x.begin(), x.end());
  return x;
}

// N(0, sd^2) in D coordinates.
auto normal_model(Index dim, double sd) {
  return TransformedDistribution(diffeo::StandardNormal<double>(dim),
                                 diffeo::DiagonalScale<double>{Array<double>::Constant(1, dim, std::log(sd))});
}
constexpr auto unit_normal = [](const auto& x) { return sum_cols(square(x)) * -0.5; };

}  // namespace

TEST_CASE("the shape of generalised Pareto distributions", "[importance]") {
  // The estimator's standard error is about (1 + k) / sqrt(n); the prior pulls towards 0.5 by 10 / n.
  for (const double k : {-0.3, 0.0, 0.3, 0.7, 1.0, 1.5})
    for (const double sigma : {1e-3, 1.0, 50.0}) {
      CAPTURE(k, sigma);
      const std::size_t n = 20000;
      const double error = (1 + k) / std::sqrt(double(n));
      CHECK(diffeo::generalized_pareto_shape(pareto(k, sigma, n, 3)) == Approx(k).margin(4 * error).epsilon(0));
    }
  // Few observations: the prior counts for ten.
  const auto few = pareto(2, 1, 10, 1), many = pareto(2, 1, 1000, 1);
  CHECK(diffeo::generalized_pareto_shape(few) < diffeo::generalized_pareto_shape(many));
  CHECK(std::isnan(diffeo::generalized_pareto_shape({1, 2, 3, 4})));
}

TEST_CASE("Pareto k-hat of weights with a known tail", "[importance]") {
  // w = u^-k has P(w > t) = t^(-1/k): shape k.
  for (const double k : {0.2, 0.5, 0.9, 1.4}) {
    Array<double> u(200000, 1);
    diffeo::fill_uniform(diffeo::view(u), 4);
    const Array<double> log_weights = -k * (u + 1e-17).log() + 1000;  // far beyond what exp can hold
    CAPTURE(k);
    CHECK(diffeo::pareto_k(log_weights) == Approx(k).margin(4 * (1 + k) / std::sqrt(1342.0)).epsilon(0));
    LogZEstimate estimate = estimate_log_z(log_weights);
    CHECK(estimate.reliable() == (estimate.k_hat <= 0.7));
    CHECK(estimate.warning().empty() == estimate.reliable());
    CHECK(estimate.reliable() == (k < 0.7));
  }
  // Few weights must have lighter tails.
  CHECK(LogZEstimate{.samples = 100, .k_hat = 0.49}.reliable());
  CHECK_FALSE(LogZEstimate{.samples = 100, .k_hat = 0.51}.reliable());
  CHECK_FALSE(LogZEstimate{.samples = 5000, .k_hat = 0.71}.reliable());
  CHECK(contains(LogZEstimate{.samples = 100, .k_hat = 0.6}.warning(), "k-hat 0.6, above 0.5"));
  CHECK(std::isnan(diffeo::pareto_k(Array<double>::Zero(1000, 1))));
  CHECK(std::isnan(diffeo::pareto_k(Array<double>::Random(20, 1))));
}

TEST_CASE("log Z, ELBO and effective sample size of normal distributions", "[importance]") {
  // Proposal N(0, s^2), target exp(-x^2 / 2) in D dimensions.
  const Index dim = 3, n = 100000;
  const double s = 1.3, log_z = 0.5 * dim * diffeo::detail::log_two_pi;
  const auto model = normal_model(dim, s);
  const diffeo::ImportanceOptions plain{.wide_share = 0};
  const LogZEstimate estimate = estimate_log_z(model, unit_normal, n, 1, 0, plain);
  CHECK(estimate.samples == n);
  CHECK(std::abs(estimate.log_z - log_z) < 3 * estimate.log_z_error);
  // Reverse KL of N(0, s^2) from N(0, 1).
  const double kl = dim * (0.5 * (s * s - 1) - std::log(s));
  CHECK(std::abs(log_z - estimate.elbo - kl) < 3 * estimate.elbo_error);
  // E w^2 / (E w)^2 = (s^2 / sqrt(2 s^2 - 1))^D.
  const double second = std::pow(s * s / std::sqrt(2 * s * s - 1), double(dim));
  CHECK(estimate.ess / n == Approx(1 / second).epsilon(0.01));
  CHECK(estimate.log_z_error == Approx(std::sqrt((second - 1) / n)).epsilon(0.02));
  CHECK(estimate.reliable());
  CHECK(estimate.k_hat < 0.3);  // bounded weights

  // The weights of too narrow a proposal have the tail index 1 / (1 - s^2); k = 1 - s^2 in one dimension.
  const LogZEstimate narrow = estimate_log_z(normal_model(1, 0.3), unit_normal, n, 1, 0, plain);
  CHECK(narrow.k_hat > 0.7);
  CHECK_FALSE(narrow.reliable());
  CHECK(contains(narrow.warning(), "too heavy-tailed (Pareto k-hat 0."));
  std::ostringstream printed;
  printed << narrow;
  CHECK(contains(printed.str(), "not to be trusted"));

  // Exact proposals: all weights are equal, up to rounding.
  const LogZEstimate exact = estimate_log_z(normal_model(2, 1), unit_normal, 1000, 1, 0, plain);
  CHECK(exact.log_z == Approx(diffeo::detail::log_two_pi).epsilon(1e-13));
  CHECK(exact.log_z_error < 1e-13);
  CHECK(exact.ess == Approx(1000));

  // Wide samples leave the estimates what they are, and bound the weights that were not: 0.6 * 2 > 1.
  const LogZEstimate defended = estimate_log_z(normal_model(1, 0.6), unit_normal, n, 1);
  CHECK(std::abs(defended.log_z - 0.5 * diffeo::detail::log_two_pi) < 3 * defended.log_z_error);
  CHECK(std::abs(0.5 * diffeo::detail::log_two_pi - defended.elbo - (0.5 * (0.36 - 1) - std::log(0.6))) <
        3 * defended.elbo_error);
  CHECK(defended.k_hat < 0.3);
  CHECK(estimate_log_z(normal_model(1, 0.6), unit_normal, n, 1, 0, plain).k_hat > 0.5);
}

TEMPLATE_TEST_CASE("log Z of U1 after a short training, against quadrature", "[importance]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const diffeo::targets::U1 target;
  TransformedDistribution model(diffeo::StandardNormal<S>(2),
                                diffeo::real_nvp<S>(2, {.layers = 8, .network = {.hidden = {16, 16}}}));
  diffeo::fit(model, diffeo::ReverseKl(target, {.beta_start = 0.01, .anneal_steps = 300}),
              {.steps = 1000, .batch = 256, .rate = {.learning_rate = 5e-3}, .clip_ratio = 3});
  const LogZEstimate estimate = estimate_log_z(model, target, 50000, 3);
  CAPTURE(estimate);
  CHECK(std::abs(estimate.log_z - target.log_z()) < 3 * estimate.log_z_error);
  CHECK(estimate.elbo < target.log_z());
  CHECK(estimate.elbo > target.log_z() - 0.2);
}

TEMPLATE_TEST_CASE("importance samples are the model's samples, on any number of threads", "[importance]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const diffeo::targets::U1 target;
  const TransformedDistribution model(diffeo::StandardNormal<S>(2),
                                      diffeo::real_nvp<S>(2, {.layers = 3, .network = {.hidden = {8}}}));
  const auto one = importance_sample(model, target, 300, 7, 1, {.wide_share = 0});
  CHECK((one.sample == model.sample(300, 7)).all());
  CHECK((one.log_ratio == one.log_weight).all());
  const auto mixed = importance_sample(model, target, 300, 7, 1), two = importance_sample(model, target, 300, 7, 2);
  CHECK((mixed.sample == two.sample).all());
  CHECK((mixed.log_weight == two.log_weight).all());
  CHECK((mixed.log_ratio == two.log_ratio).all());
  CHECK(mixed.log_ratio.rows() == 270);
  int wide = 0;
  for (Index i = 0; i < 300; ++i) {
    const bool moved = (mixed.sample.row(i) != one.sample.row(i)).any();
    CHECK(moved == diffeo::ImportanceOptions{}.wide(i));
    wide += moved;
  }
  CHECK(wide == 30);
  diffeo::Tape<S> tape;
  const Array<double> by_hand = diffeo::as_eigen(target(tape.copy(one.sample)).value()).template cast<double>() -
                                model.log_prob(one.sample).template cast<double>();
  CHECK((by_hand - one.log_weight).abs().maxCoeff() < (std::is_same_v<S, float> ? 1e-4 : 1e-11));
  CHECK(importance_sample(model, target, 0, 7).sample.rows() == 0);
}

TEST_CASE("weighted moments", "[importance]") {
  Array<double> x(4, 2);
  x << 1, 10, 2, 20, 3, 30, 4, 40;
  Array<double> weights(4, 1);
  weights << 1, 0.5, 0.25, 0.25;
  const auto moments = diffeo::weighted_moments(x, weights.log() + 800);
  CHECK(moments.mean(0, 0) == Approx(3.75 / 2));
  CHECK(moments.mean(0, 1) == Approx(37.5 / 2));
  const double variance = (1 + 0.5 * 4 + 0.25 * 9 + 0.25 * 16) / 2 - 3.75 * 3.75 / 4;
  CHECK(moments.standard_deviation(0, 0) == Approx(std::sqrt(variance)));
  CHECK(moments.standard_deviation(0, 1) == Approx(10 * std::sqrt(variance)));

  // Of a standard normal distribution by samples of another.
  const auto drawn = importance_sample(normal_model(2, 1.5), unit_normal, 200000, 2);
  const auto of_target = diffeo::weighted_moments(drawn.sample, drawn.log_weight);
  CHECK(of_target.mean.abs().maxCoeff() < 0.01);
  CHECK((of_target.standard_deviation - 1).abs().maxCoeff() < 0.01);
}

TEST_CASE("importance sampling: bad input", "[importance]") {
  const auto model = normal_model(2, 1);
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const auto message = [&](const auto& target, Index n = 100) {
    return thrown_message<invalid_argument>([&] { estimate_log_z(model, target, n, 1); });
  };
  CHECK(contains(message(unit_normal, -1), "importance_sample: n is -1"));
  CHECK(contains(message(unit_normal, 1), "estimate_log_z: 1 weights, expected at least 2"));
  CHECK(contains(message([](const auto& x) { return x; }), "the target returned 64 x 2 values for 64 samples"));
  CHECK(contains(message([=](const auto& x) { return sum_cols(x) * nan; }), "importance_sample: sample 0 has the"));
  CHECK(contains(message([=](const auto& x) { return sum_cols(x) * 0.0 + inf; }), "the target returned inf"));
  CHECK(
      contains(message([=](const auto& x) { return sum_cols(x) * 0.0 - inf; }), "the target is 0 at all 100 samples"));
  struct OfThree {
    Index dim() const { return 3; }
    diffeo::Var<double> operator()(const diffeo::Var<double>& x) const { return sum_cols(x); }
  };
  CHECK(contains(message(OfThree()), "the target has dimension 3, the flow 2"));

  const auto bad_options = [&](const diffeo::ImportanceOptions& options) {
    return thrown_message<invalid_argument>([&] { estimate_log_z(model, unit_normal, 10, 1, 1, options); });
  };
  CHECK(contains(bad_options({.wide_share = 1}), "wide_share is 1"));
  CHECK(contains(bad_options({.wide_share = nan}), "wide_share is nan"));
  CHECK(contains(bad_options({.wide_scale = 0.5}), "wide_scale is 0.5"));

  Array<double> weights = Array<double>::Zero(10, 1);
  weights(3, 0) = nan;
  CHECK(contains(thrown_message<invalid_argument>([&] { estimate_log_z(weights); }), "log-weight 3 is nan"));
  weights(3, 0) = -inf;
  CHECK(estimate_log_z(weights).log_z == Approx(std::log(0.9)));
  CHECK(contains(thrown_message<invalid_argument>(
                     [&] { diffeo::weighted_moments(Array<double>::Zero(3, 2), Array<double>::Zero(2, 1)); }),
                 "2 weights for 3 rows"));
}

TEST_CASE("importance: a base of bounded support", "[importance]") {
  // The defensive samples leave the box; their weights are finite, and the estimate is right.
  const diffeo::TransformedDistribution model(diffeo::UniformBox<double>::cube(2, -1, 1),
                                              diffeo::planar<double>(2, {.layers = 4}));
  const auto target = [](const auto& x) { return sum_cols(square(x)) * -2.0; };
  const auto estimate = diffeo::estimate_log_z(model, target, 50000, 1);
  // By far the most of the mass lies within reach of the samples.
  CHECK(std::isfinite(estimate.log_z_error));
  CHECK(estimate.log_z < std::log(3.14159265358979 / 2) + 4 * estimate.log_z_error);
  CHECK(estimate.log_z > std::log(3.14159265358979 / 2) - 0.2);
}

TEST_CASE("importance: a part that does not fit is named", "[importance]") {
  diffeo::TransformedDistribution model(diffeo::StandardNormal<double>(2),
                                        diffeo::real_nvp<double>(2, {.layers = 3, .network = {.hidden = {8}}}));
  std::get<0>(model.flow.layers).layers[1].conditioner.layers[0].weight.resize(8, 4);
  const auto target = [](const auto& x) { return sum_cols(square(x)) * -0.5; };
  CHECK(contains(thrown_message<invalid_argument>([&] { estimate_log_z(model, target, 10, 1); }), "flow.layers.0.1"));
}

TEST_CASE("importance: any distribution is a proposal", "[distributions]") {
  // Twice a normal density around (1, -1), by a mixture, a multivariate normal and conditional distributions given c.
  const auto target = [](const auto& x) {
    const Array<double> centre = (Array<double>(1, 2) << 1, -1).finished();
    return sum_cols(diffeo::square(x - centre)) * -0.5 - 1.8378770664093453 + 0.6931471805599453;
  };
  const auto check = [&](const auto& distribution) {
    const auto weighted = diffeo::importance_sample(distribution, target, 20000, 3, 2);
    const auto drawn = distribution.sample_and_log_prob(20000, 3);
    CHECK((weighted.sample == drawn.sample).all());
    diffeo::Tape<double> tape;
    const Array<double> log_p = diffeo::as_eigen(target(tape.copy(drawn.sample)).value());
    CHECK(((weighted.log_weight - (log_p - drawn.log_prob)).abs() < 1e-12).all());
    CHECK((weighted.log_ratio == weighted.log_weight).all());
    const LogZEstimate estimate = diffeo::estimate_log_z(distribution, target, 20000, 3);
    CHECK(estimate.samples == 20000);
    CHECK(std::abs(estimate.log_z - 0.6931471805599453) < 4 * estimate.log_z_error);
    CHECK(estimate.log_z_error < 0.1);
    CHECK(contains(thrown_message<invalid_argument>([&] {
                     diffeo::estimate_log_z(
                         distribution, [](const auto& x) { return x; }, 10, 1);
                   }),
                   "the target returned 10 x 2 values for 10 samples, expected 10 x 1"));
  };
  Array<double> x(300, 2), c(300, 1);
  diffeo::fill_normal(diffeo::view(x), 1, 2);
  diffeo::fill_normal(diffeo::view(c), 1, 3);
  x = x * 1.5;
  x.col(0) += 1;
  x.col(1) -= 1;
  check(diffeo::GaussianMixture<double>::around(3, x, 1));
  check(diffeo::MultivariateNormal<double>::fit(x));
  const auto mixture = diffeo::conditional_mixture(x, c, 2);
  check(mixture.given(c.row(0)));
  check(diffeo::conditional_normal(x, c).given(c.row(0)));
  CHECK(thrown_message<invalid_argument>([&] { diffeo::estimate_log_z(mixture, target, 10, 1); }) ==
        "importance_sample: this distribution takes a context of 1 column, got none: use given(c)");
}

TEST_CASE("importance: a target may make its models and contexts anew for each call", "[importance]") {
  Array<double> contexts(20, 2);
  diffeo::fill_normal(diffeo::view(contexts), 3, 4);
  const auto conditional_model = [&](std::uint64_t seed) {
    const auto flow = diffeo::real_nvp<double>(
        2, {.layers = 2, .network = {.hidden = {5}, .last_scale = 0.5}, .seed = seed, .context_dim = 2});
    return TransformedDistribution(diffeo::StandardNormal<double>(2), diffeo::conditional(flow, contexts));
  };
  const std::vector models = {conditional_model(1), conditional_model(2), conditional_model(3)};
  const auto proposal = normal_model(2, 1.5);
  const auto check = [&](const auto& target, const auto& density) {
    const auto drawn = importance_sample(proposal, target, 400, 5, 1, {.wide_share = 0});
    const Array<double> expected = density(drawn.sample).log() - proposal.log_prob(drawn.sample);
    CHECK((drawn.log_ratio - expected).abs().maxCoeff() < 1e-9);
    // Of any distribution as well.
    const auto of_any = importance_sample(diffeo::StandardNormal<double>(2), target, 400, 5, 1);
    const Array<double> expected_of_any =
        density(of_any.sample).log() - diffeo::StandardNormal<double>(2).log_prob(of_any.sample);
    CHECK((of_any.log_ratio - expected_of_any).abs().maxCoeff() < 1e-9);
  };
  SECTION("one model given several contexts") {
    check(
        [&](const auto& x) {
          auto sum = sum_cols(x) * 0.0;
          for (Index k = 0; k < 3; ++k) sum = sum + exp(models[0].given(contexts.row(k)).log_prob(x));
          return log(sum);
        },
        [&](const Array<double>& x) {
          Array<double> sum = Array<double>::Zero(x.rows(), 1);
          for (Index k = 0; k < 3; ++k) sum += models[0].log_prob(x, contexts.row(k)).exp();
          return sum;
        });
  }
  SECTION("several models given one context") {
    check(
        [&](const auto& x) {
          auto sum = sum_cols(x) * 0.0;
          for (const auto& model : models) sum = sum + exp(model.given(contexts.row(0)).log_prob(x));
          return log(sum);
        },
        [&](const Array<double>& x) {
          Array<double> sum = Array<double>::Zero(x.rows(), 1);
          for (const auto& model : models) sum += model.log_prob(x, contexts.row(0)).exp();
          return sum;
        });
  }
}
