// SPDX-License-Identifier: MIT
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/probability_path.hpp>
#include <limits>

#include "../layers/laws.hpp"
#include "statistics.hpp"

using diffeo::Array;
using diffeo::Cnf;
using diffeo::CnfOptions;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::ProbabilityPath;
using diffeo::StandardNormal;
using diffeo::TransformedDistribution;

namespace {

CnfOptions tight(double tolerance) {
  CnfOptions options;
  options.evaluation.solver.relative_tolerance = options.evaluation.solver.absolute_tolerance = tolerance;
  return options;
}

// A random network, whose points are then shifted and scaled.
template <diffeo::Real S>
auto some_model(Index dim, double tolerance, std::uint64_t seed = 1) {
  Array<S> mean(1, dim), scale(1, dim);
  for (Index j = 0; j < dim; ++j) {
    mean(0, j) = S(j == 0 ? 0.75 : -0.5);
    scale(0, j) = S(j == 0 ? 1.5 : 0.625);
  }
  Cnf cnf{diffeo::make_mlp_field<S>(dim, {.hidden = {16, 12}, .last_scale = 1.5}, seed), tight(tolerance)};
  return TransformedDistribution(StandardNormal<S>(dim),
                                 diffeo::FlowSequence(std::move(cnf), diffeo::Standardize<S>::from(mean, scale)));
}

Array<double> grid(Index dim, double low, double high, Index n) {
  const auto at = [&](Index i) { return low + (high - low) * static_cast<double>(i) / static_cast<double>(n - 1); };
  Array<double> x(dim == 1 ? n : n * n, dim);
  for (Index i = 0; i < x.rows(); ++i) {
    x(i, 0) = at(i % n);
    if (dim == 2) x(i, 1) = at(i / n);
  }
  return x;
}

// Its derivative at 0, to fourth order.
template <class F>
Array<double> derivative(const F& f) {
  constexpr double h = 0.005;
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
}

}  // namespace

TEMPLATE_TEST_CASE("probability path: from the base to the model", "[continuous]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = diffeo::testing::detail::normal_array<S>(300, 2, 1, 1);
  const auto check = [&x](const auto& model) {
    const ProbabilityPath path(model);
    CHECK(path.dim() == 2);
    CHECK((path.log_prob(1, x) == model.log_prob(x)).all());
    CHECK((path.log_prob(0, x) == log_prob_of(model.base, x)).all());
    CHECK((path.log_prob(0.5, x) - model.log_prob(x)).abs().maxCoeff() > 0.1);
    CHECK((path.log_prob(0.5, x) - path.log_prob(0, x)).abs().maxCoeff() > 0.1);

    const Array<S> z = path.latent(300, 7);
    CHECK((path.sample(0, 300, 7) == z).all());
    CHECK((path.sample(1, 300, 7) == model.sample(300, 7)).all());
    CHECK((path.sample(0.5, 300, 7) - model.sample(300, 7)).abs().maxCoeff() > 0.1);
  };
  const auto model = some_model<S>(2, 1e-5);
  check(model);
  const auto& cnf = std::get<0>(model.flow.layers);
  check(TransformedDistribution(model.base, cnf));
  CHECK((ProbabilityPath(model.base, cnf).velocity(0.25, x) ==
         ProbabilityPath(TransformedDistribution(model.base, cnf)).velocity(0.25, x))
            .all());
}

TEMPLATE_TEST_CASE("probability path: of a model given a context", "[continuous]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = diffeo::testing::detail::normal_array<S>(150, 2, 1, 1),
                 c = diffeo::testing::detail::normal_array<S>(150, 3, 1, 2) * S(2) + S(1);
  const auto check = [&x, &c](const auto& model) {
    const auto given = model.given(c.row(4));
    const ProbabilityPath path(given), other(model.given(c.row(5)));
    CHECK((path.log_prob(1, x) == given.log_prob(x)).all());
    CHECK((path.log_prob(0, x) == log_prob_of(given.base, x)).all());
    CHECK((path.sample(1, 150, 7) == given.sample(150, 7)).all());
    CHECK((path.log_prob(0.5, x) - other.log_prob(0.5, x)).abs().maxCoeff() > S(1e-2));
    CHECK((path.velocity(0.5, x) - other.velocity(0.5, x)).abs().maxCoeff() > S(1e-2));
    // The velocity is the derivative of the trajectories, by differences of order 2.
    const double h = sizeof(S) == 4 ? 1e-2 : 1e-3;
    const auto at = path.trajectories(path.latent(150, 7), {0.5 - h, 0.5, 0.5 + h});
    CHECK(((at[2] - at[0]) / S(2 * h) - path.velocity(0.5, at[1])).abs().maxCoeff() < S(sizeof(S) == 4 ? 2e-2 : 1e-3));
  };
  const CnfOptions options = tight(1e-6);
  check(TransformedDistribution(StandardNormal<S>(2),
                                diffeo::cnf(x, c, {.network = {.hidden = {12}, .first_scale = 1}, .cnf = options})));
  check(TransformedDistribution(
      StandardNormal<S>(2),
      diffeo::conditional(
          diffeo::cnf<S>(2, {.network = {.hidden = {12}, .first_scale = 1}, .cnf = options, .context_dim = 2}), c,
          diffeo::make_mlp<S>(3, 2, {.hidden = {5}, .last_scale = 1}, 1))));
  const TransformedDistribution plain(StandardNormal<S>(2),
                                      Cnf(diffeo::make_mlp_field<S>(2, {.hidden = {12}}, 0, 0, 3), options));
  check(plain);
  check(TransformedDistribution(
      StandardNormal<S>(2),
      Cnf(diffeo::make_field<S>(
              2, [](const auto& t, const auto& at, const auto& k) { return sin(at + cols(k, 0, 2)) * cos(t); }, 3),
          options)));
  // The layers of a recipe without the recipe's Conditional.
  const auto layers =
      diffeo::cnf<S>(2, {.network = {.hidden = {12}, .first_scale = 1}, .cnf = options, .context_dim = 3});
  check(TransformedDistribution(StandardNormal<S>(2), layers));
  check(TransformedDistribution(StandardNormal<S>(2), diffeo::conditional(plain.flow, c)));
  // A base that depends on the context, below a flow that does or does not.
  const auto base = diffeo::conditional_normal<S>(2, c, {.network = {.hidden = {8}, .last_scale = 1}});
  check(TransformedDistribution(base, layers));
  check(TransformedDistribution(base, diffeo::cnf(x, c, {.network = {.hidden = {12}}, .cnf = options})));
  const auto below = [&](const auto& flow) {
    const TransformedDistribution model(base, flow);
    const auto given = model.given(c.row(4));
    const ProbabilityPath path(given);
    CHECK((path.log_prob(1, x) == given.log_prob(x)).all());
    CHECK((path.log_prob(0, x) == log_prob_of(base.given(c.row(4)), x)).all());
    CHECK((path.sample(1, 150, 7) == given.sample(150, 7)).all());
    CHECK(contains(thrown_message<invalid_argument>([&] { ProbabilityPath{model}; }),
                   "probability path: this base takes a context of 3 columns, got none: use model.given(c)"));
  };
  below(diffeo::cnf(x, {.network = {.hidden = {12}, .first_scale = 1}, .cnf = options}));
  below(Cnf(diffeo::make_mlp_field<S>(2, {.hidden = {12}}), options));
  const std::string none = "probability path: this flow takes a context of 3 columns, got none: use model.given(c)";
  CHECK(thrown_message<invalid_argument>([&] { ProbabilityPath(StandardNormal<S>(2), plain.flow); }) == none);
  CHECK(thrown_message<invalid_argument>([&] { ProbabilityPath{plain}; }) == none);
  CHECK(thrown_message<invalid_argument>([&] {
          ProbabilityPath{TransformedDistribution(StandardNormal<S>(2), diffeo::conditional(plain.flow, c))};
        }) == none);
}

TEST_CASE("probability path: a closed form", "[continuous]") {
  // y(t) = e^(a t) z is seen at t m + s^t y(t).
  constexpr double a = -0.7, m = 2, s = 3;
  const auto field = diffeo::make_field<double>(1, [](const auto&, const auto& x) { return x * a; });
  const auto frame =
      diffeo::Standardize<double>::from(Array<double>::Constant(1, 1, m), Array<double>::Constant(1, 1, s));
  const TransformedDistribution model(StandardNormal<double>(1), diffeo::FlowSequence(Cnf{field, tight(1e-10)}, frame));
  const ProbabilityPath path(model);
  const Array<double> x = grid(1, -3, 5, 41);
  for (const double t : {0.0, 0.2, 0.5, 0.9, 1.0}) {
    INFO("t = " << t);
    const double mean = t * m, log_scale = t * (std::log(s) + a);
    const Array<double> u = (x - mean) * std::exp(-log_scale);
    const Array<double> expected = -0.5 * u.square() - log_scale - 0.5 * diffeo::detail::log_two_pi;
    CHECK((path.log_prob(t, x) - expected).abs().maxCoeff() < 1e-8);
    CHECK((path.velocity(t, x) - (m + (std::log(s) + a) * (x - mean))).abs().maxCoeff() < 1e-13);
    const Array<double> moved = path.trajectories(x, {t}).front();
    CHECK((moved - (mean + std::exp(log_scale) * x)).abs().maxCoeff() < 1e-8);
  }
}

TEST_CASE("probability path: the continuity equation", "[continuous]") {
  for (const Index dim : {1, 2}) {
    INFO("D = " << dim);
    const ProbabilityPath path(some_model<double>(dim, 1e-11));
    const Array<double> x = grid(dim, -2, 2.5, dim == 1 ? 61 : 13);
    for (const double t : {0.2, 0.5, 0.8}) {
      const Array<double> change = derivative([&](double h) { return Array<double>(path.log_prob(t + h, x).exp()); });
      Array<double> divergence = Array<double>::Zero(x.rows(), 1);
      for (Index j = 0; j < dim; ++j)
        divergence += derivative([&](double h) {
          Array<double> moved = x;
          moved.col(j) += h;
          return Array<double>(path.log_prob(t, moved).exp() * path.velocity(t, moved).col(j));
        });
      CHECK(change.abs().maxCoeff() > 0.05);
      CHECK((change + divergence).abs().maxCoeff() < 1e-6);
    }
  }
}

TEST_CASE("probability path: mass 1 at any time", "[continuous]") {
  for (const Index dim : {1, 2}) {
    const ProbabilityPath path(some_model<double>(dim, 1e-8));
    const Index n = dim == 1 ? 400 : 110;
    const double low = -11, high = 12.5, cell = (high - low) / static_cast<double>(n - 1);
    const Array<double> x = grid(dim, low, high, n);
    for (const double t : {0.0, 0.3, 0.7, 1.0}) {
      INFO("D = " << dim << ", t = " << t);
      // The sum over a grid is exact to rounding for smooth densities that end within it.
      CHECK(path.log_prob(t, x).exp().sum() * std::pow(cell, dim) == Approx(1).margin(1e-6));
    }
  }
}

TEMPLATE_TEST_CASE("probability path: trajectories", "[continuous]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 1e-5 : 1e-10;
  const auto model = some_model<S>(2, tolerance);
  const ProbabilityPath path(model);
  const Array<S> z = path.latent(500, 3);
  const auto x = path.trajectories(z, {0, 0.49, 0.49, 0.5, 0.51, 1});
  REQUIRE(x.size() == 6);
  CHECK((x[0] == z).all());
  CHECK((x[1] == x[2]).all());
  CHECK((x[5] == model.sample(500, 3)).all());
  // In units of the tolerance; between the ends of steps Dopri5 has one order less.
  const auto error = [&](const Array<S>& a, const Array<S>& b) {
    return static_cast<double>(((a - b) / (1 + b.abs())).abs().maxCoeff()) / tolerance;
  };
  CHECK(error(x[3], path.sample(0.5, 500, 3)) < 100);
  CHECK(error(x[5], diffeo::forward(model.flow, z).value) < 10);
  CHECK((x[5] - z).abs().maxCoeff() > 0.1);
  if constexpr (std::is_same_v<S, double>) {
    const Array<S> slope = (x[4] - x[2]) / 0.02, v = path.velocity(0.5, x[3]);
    CHECK((slope - v).abs().maxCoeff() < 1e-3);  // 0.01^2 / 6 of a third derivative
    CHECK(v.abs().maxCoeff() > 0.1);
  }
  CHECK(path.trajectories(z, {}).empty());
}

TEMPLATE_TEST_CASE("probability path: neither batch nor threads change a row", "[continuous]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const ProbabilityPath path(some_model<S>(2, 1e-5));
  const Array<S> x = path.latent(601, 5);
  const std::vector<double> times = {0.3, 1};
  const Array<S> log_p = path.log_prob(0.7, x, 1), v = path.velocity(0.7, x, 1);
  const auto moved = path.trajectories(x, times, 1);
  CHECK((path.log_prob(0.7, x, 3) == log_p).all());
  CHECK((path.velocity(0.7, x, 3) == v).all());
  CHECK((path.trajectories(x, times, 3)[1] == moved[1]).all());
  CHECK((path.sample(0.7, 601, 5, 3) == path.sample(0.7, 601, 5, 1)).all());
  CHECK((path.sample(0.7, 100, 5) == path.sample(0.7, 601, 5).topRows(100)).all());
  for (const Index i : {0, 63, 64, 600}) {
    CHECK(path.log_prob(0.7, x.row(i))(0, 0) == log_p(i, 0));
    CHECK((path.velocity(0.7, x.row(i)) == v.row(i)).all());
    CHECK((path.trajectories(x.row(i), times)[0] == moved[0].row(i)).all());
  }
}

TEST_CASE("probability path: bad input", "[continuous]") {
  const auto model = some_model<double>(2, 1e-5);
  const ProbabilityPath path(model);
  Array<double> x = Array<double>::Zero(5, 2);
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([&] { path.log_prob(1.5, x); }) == "log_prob: t is 1.5, expected a time between 0 and 1");
  CHECK(message([&] { path.velocity(-0.5, x); }) == "velocity: t is -0.5, expected a time between 0 and 1");
  CHECK(contains(message([&] { path.sample(std::numeric_limits<double>::quiet_NaN(), 5, 1); }), "sample: t is nan"));
  CHECK(contains(message([&] { path.trajectories(x, {0.5, 2}); }), "trajectories: t is 2"));
  CHECK(message([&] {
          path.trajectories(x, {0.5, 0.25});
        }) == "trajectories: time 1 is 0.25 after 0.5, expected times that ascend");
  CHECK(contains(message([&] { path.sample(0.5, -1, 1); }), "n is -1"));
  const Array<double> wide = Array<double>::Zero(5, 3);
  CHECK(message([&] { path.log_prob(0.5, wide); }) == "log_prob: x has 3 columns, this path has dimension 2");
  CHECK(contains(message([&] { path.velocity(0.5, wide); }), "velocity: x has 3 columns"));
  CHECK(contains(message([&] { path.trajectories(wide, {1}); }), "trajectories: z has 3 columns"));
  x(3, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(message([&] { path.log_prob(0.5, x); }), "log_prob: x is nan at (row 3, column 1)"));
  CHECK(contains(message([&] { path.velocity(0.5, x); }), "velocity: x is nan"));
  CHECK(contains(message([&] { path.trajectories(x, {1}); }), "trajectories: z is nan"));
  const auto& cnf = std::get<0>(model.flow.layers);
  CHECK(contains(message([&] { ProbabilityPath(StandardNormal<double>(3), cnf); }),
                 "the base has dimension 3, the flow 2"));
}
