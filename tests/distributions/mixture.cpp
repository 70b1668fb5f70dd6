// SPDX-License-Identifier: MIT
#include <diffeo/data/toy2d.hpp>
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/multivariate_normal.hpp>
#include <diffeo/testing/gradient_check.hpp>
#include <diffeo/training/fit.hpp>

#include "statistics.hpp"

using diffeo::Array;
using diffeo::GaussianMixture;
using diffeo::Index;
using diffeo::invalid_argument;

namespace {

template <diffeo::Real S>
GaussianMixture<S> some_mixture() {
  GaussianMixture<S> m{Array<S>(1, 3), Array<S>(3, 2), Array<S>(3, 2)};
  m.logits << 5, S(5 + std::log(2.0)), 5;  // weights 1/4, 1/2, 1/4: a common summand does not matter
  m.means << -2, 0, 1, 3, 4, -1;
  m.log_scales << 0, -1, S(-0.5), S(0.5), -1, 0;
  return m;
}
constexpr double weights[] = {0.25, 0.5, 0.25};

double log_density(const GaussianMixture<double>& m, double x, double y) {
  double p = 0;
  for (Index k = 0; k < 3; ++k) {
    const double a = (x - m.means(k, 0)) * std::exp(-m.log_scales(k, 0)),
                 b = (y - m.means(k, 1)) * std::exp(-m.log_scales(k, 1));
    p += weights[k] * std::exp(-0.5 * (a * a + b * b) - m.log_scales(k, 0) - m.log_scales(k, 1)) /
         (2 * 3.14159265358979323846);
  }
  return std::log(p);
}

}  // namespace

TEMPLATE_TEST_CASE("gaussian mixture: log-density", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto m = some_mixture<S>();
  const Array<S> x = draw(m, 100, 1), log_p = log_prob_of(m, x);
  for (Index i = 0; i < x.rows(); ++i)
    CHECK(log_p(i, 0) ==
          Approx(log_density(some_mixture<double>(), static_cast<double>(x(i, 0)), static_cast<double>(x(i, 1))))
              .epsilon(std::is_same_v<S, float> ? 1e-5 : 1e-13)
              .margin(1e-5));
  // Where all densities underflow the logarithm does not.
  Array<S> far(2, 2);
  far << 1000, -1000, -300, 300;
  const Array<S> log_far = log_prob_of(m, far);
  CHECK(log_far.allFinite());
  CHECK(log_far(0, 0) < -1e5);
  CHECK(diffeo::parameter_count(m) == 3 + 6 + 6);
}

TEMPLATE_TEST_CASE("gaussian mixture: one component is a normal distribution", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const GaussianMixture<S> m{Array<S>::Constant(1, 1, S(7)), Array<S>::Constant(1, 1, S(2)),
                             Array<S>::Constant(1, 1, S(std::log(3.0)))};
  CHECK(log_prob_of(m, Array<S>::Constant(1, 1, S(5)))(0, 0) ==
        Approx(-0.5 - std::log(3.0) - 0.5 * diffeo::detail::log_two_pi).epsilon(1e-6));
  CHECK(kolmogorov(draw(m, 10000, 1), [](double v) { return normal_cdf((v - 2) / 3); }) < 1.95);
}

TEMPLATE_TEST_CASE("gaussian mixture: samples", "[distributions]", DIFFEO_TEST_SCALARS) {
  const auto m = some_mixture<TestType>();
  const auto exact = some_mixture<double>();
  require_rows_by_index(m);
  const Index n = 20000;
  const Array<TestType> x = draw(m, n, 1);
  for (Index j = 0; j < 2; ++j)
    CHECK(kolmogorov(x.col(j), [&](double v) {
            double f = 0;
            for (Index k = 0; k < 3; ++k)
              f += weights[k] * normal_cdf((v - exact.means(k, j)) * std::exp(-exact.log_scales(k, j)));
            return f;
          }) < 1.95);
  // Coordinates of one sample come from the same component: means weigh (x y) to -0, 3 and -4.
  CHECK(std::abs((x.col(0) * x.col(1)).template cast<double>().mean() - (0.5 * 3 - 0.25 * 4)) < 0.1);
}

TEST_CASE("gaussian mixture: derivatives", "[distributions]") {
  const auto log_prob = [](const auto& model, auto x) { return model.log_prob(x[0]); };
  const auto m = some_mixture<double>();
  const std::vector<Array<double>> x{draw(m, 20, 5)};
  const auto gradients = diffeo::testing::check_gradients(m, log_prob, x);
  INFO(gradients.where);
  CHECK(gradients.max_error < 1e-6);
  CHECK(diffeo::testing::check_tangents(m, log_prob, x).max_error < 1e-6);
  CHECK(diffeo::testing::check_tangent_gradients(m, log_prob, x).max_error < 1e-6);
}

TEMPLATE_TEST_CASE("a mixture fitted to two clusters finds them", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  GaussianMixture<S> truth{Array<S>(1, 2), Array<S>(2, 2), Array<S>(2, 2)};
  truth.logits << S(std::log(0.3)), S(std::log(0.7));
  truth.means << -3, 0, 2, 4;
  truth.log_scales << S(-0.7), 0, S(0.3), S(-1);
  const Array<S> data = draw(truth, 4000, 1);
  auto m = GaussianMixture<S>::random(2, 2, 3, 3);
  diffeo::fit(m, data, {.steps = 1000, .batch = 256, .rate = {.learning_rate = 0.05}, .threads = 1});
  const Index first = m.means(0, 0) < m.means(1, 0) ? 0 : 1;  // which component took the left cluster
  CHECK(m.logits(0, 1 - first) - m.logits(0, first) == Approx(std::log(0.7 / 0.3)).margin(0.15));
  for (Index k = 0; k < 2; ++k) {
    const Index found = k == 0 ? first : 1 - first;
    for (Index j = 0; j < 2; ++j) {
      CHECK(m.means(found, j) == Approx(truth.means(k, j)).margin(0.1));
      CHECK(m.log_scales(found, j) == Approx(truth.log_scales(k, j)).margin(0.1));
    }
  }
}

TEST_CASE("gaussian mixture: random start and bad input", "[distributions]") {
  using M = GaussianMixture<double>;
  const M m = M::random(40, 3, 1, 5.0);
  CHECK(m.components() == 40);
  CHECK(m.dim() == 3);
  CHECK((m.logits == 0).all());
  CHECK((m.log_scales == 0).all());
  CHECK(m.means.square().mean() == Approx(25).epsilon(0.5));
  CHECK((M::random(40, 3, 1, 5.0).means == m.means).all());
  CHECK((M::random(40, 3, 2, 5.0).means != m.means).all());
  CHECK(contains(thrown_message<invalid_argument>([] { M::random(0, 3, 1); }), "0 components of dimension 3"));
  CHECK(contains(thrown_message<invalid_argument>([] { M::random(2, 0, 1); }), "2 components of dimension 0"));
  CHECK(thrown_message<invalid_argument>([&] { log_prob_of(m, Array<double>::Zero(1, 2)); }) ==
        "gaussian mixture: z has 2 columns, this distribution has dimension 3");
}

TEST_CASE("gaussian mixture: of given weights, means and scales", "[distributions]") {
  const auto exact = some_mixture<double>();
  Array<double> w(1, 3);
  w << 1, 2, 1;
  const auto m = GaussianMixture<double>::from(w, exact.means, exact.log_scales.exp());
  const Array<double> x = draw(exact, 50, 1);
  CHECK((log_prob_of(m, x) - log_prob_of(exact, x)).abs().maxCoeff() < 1e-13);
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const Array<double> scales = exact.log_scales.exp();
  CHECK(message([&] { GaussianMixture<double>::from(w.transpose(), exact.means, scales); }) ==
        "gaussian mixture: weights is 3 x 1, means is 3 x 2, expected 1 x K and K x D");
  CHECK(message([&] { GaussianMixture<double>::from(w, exact.means, scales.topRows(2)); }) ==
        "gaussian mixture: scales is 2 x 2, means is 3 x 2, expected both K x D");
  CHECK(message([&] { GaussianMixture<double>::from(w, exact.means, -scales); }) ==
        "gaussian mixture: scales is -1 at (row 0, column 0), expected finite and greater than 0");
  w(0, 2) = -1;
  CHECK(message([&] { GaussianMixture<double>::from(w, exact.means, scales); }) ==
        "gaussian mixture: weights is -1 at (row 0, column 2), expected finite and greater than 0");
  auto wrong = exact;
  wrong.logits = Array<double>::Zero(3, 1);
  CHECK(message([&] { log_prob_of(wrong, x.topRows(3)); }) ==
        "gaussian mixture: logits is 3 x 1, means is 3 x 2, expected 1 x K and K x D");
  CHECK_THROWS_AS(draw(wrong, 3, 1), invalid_argument);
}

TEMPLATE_TEST_CASE("gaussian mixture: where squares overflow the density is 0", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const S far = std::sqrt(std::numeric_limits<S>::max()) * 10;
  const Array<S> log_p = log_prob_of(some_mixture<S>(), Array<S>::Constant(2, 2, far));
  CHECK((log_p == -std::numeric_limits<S>::infinity()).all());
}

TEMPLATE_TEST_CASE("gaussian mixture: components around the data", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> data = diffeo::toy2d::sample<S>("8gaussians", 4000, 1);
  const auto m = GaussianMixture<S>::around(8, data, 1);
  // One component at each corner of the octagon of radius 4 / 1.414, with its standard deviation 0.5 / 1.414.
  for (Index k = 0; k < 8; ++k) {
    const double angle = static_cast<double>(k) * 3.14159265358979323846 / 4;
    const Array<S> x = m.means.col(0) - S(4 / 1.414 * std::cos(angle)),
                   y = m.means.col(1) - S(4 / 1.414 * std::sin(angle));
    CHECK((x.square() + y.square()).minCoeff() < S(0.01));
  }
  CHECK((m.logits.exp() - S(0.125)).abs().maxCoeff() < S(0.03));
  CHECK((m.log_scales.exp() - S(0.5 / 1.414)).abs().maxCoeff() < S(0.05));
  // Columns of other units give the same components in these units, whatever the expression.
  Array<S> moved = data;
  moved.col(0) = data.col(0) * S(1024);
  const auto far = GaussianMixture<S>::around(8, moved.matrix() + Eigen::Matrix<S, 4000, 2>::Zero(), 1);
  CHECK((far.means.col(0) / S(1024) - m.means.col(0)).abs().maxCoeff() < S(1e-4));
  CHECK((far.log_scales.col(1) - m.log_scales.col(1)).abs().maxCoeff() < S(1e-4));
  CHECK((GaussianMixture<S>::around(8, data, 1).means == m.means).all());
  CHECK((GaussianMixture<S>::around(8, data, 2).means != m.means).any());
  // A row for each component, rows that coincide, and one component.
  CHECK(GaussianMixture<S>::around(4, data.topRows(4), 1).log_prob(data).allFinite());
  Array<S> twice(4, 1);
  twice << 1, 1, 1, 2;
  CHECK(GaussianMixture<S>::around(4, twice, 1).log_prob(twice).allFinite());
  const auto one = GaussianMixture<S>::around(1, data, 1);
  const Array<S> normal = diffeo::MultivariateNormal<S>::fit(data).factor();
  CHECK(static_cast<double>(one.log_scales(0, 0)) == Approx(std::log(static_cast<double>(normal(0, 0)))).margin(1e-4));
}

TEST_CASE("gaussian mixture: fitted to the eight gaussians it comes near the density", "[distributions]") {
  const Array<float> data = diffeo::toy2d::sample<float>("8gaussians", 10000, 1),
                     test = diffeo::toy2d::sample<float>("8gaussians", 10000, 2);
  const double full = static_cast<double>(diffeo::MultivariateNormal<float>::fit(data).log_prob(test).mean());
  const double best = static_cast<double>(diffeo::toy2d::log_prob("8gaussians", test).mean());
  CHECK(full < best - 1);
  auto m = GaussianMixture<float>::around(8, data, 1);
  diffeo::fit(m, data, {.steps = 500, .threads = 1});
  CHECK(static_cast<double>(m.log_prob(test).mean()) > best - 0.01);
  // From a random start, too.
  auto random = GaussianMixture<float>::random(8, 2, 1, 3);
  diffeo::fit(random, data, {.steps = 1500, .threads = 1});
  CHECK(static_cast<double>(random.log_prob(test).mean()) > full + 1);
}

TEST_CASE("gaussian mixture: data that components cannot lie around", "[distributions]") {
  using M = GaussianMixture<double>;
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  Array<double> x = M::random(3, 2, 1).sample(10, 1);
  CHECK(message([&] { M::around(0, x, 1); }) == "gaussian mixture: 0 components, expected at least 1");
  CHECK(message([&] { M::around(11, x, 1); }) ==
        "gaussian mixture: data has 10 rows for 11 components, expected at least 11");
  CHECK(message([&] { M::around(1, x.topRows(1), 1); }) ==
        "gaussian mixture: data has 1 rows for 1 components, expected at least 2");
  x.col(1).setConstant(0.1);
  CHECK(message([&] { M::around(2, x, 1); }) ==
        "gaussian mixture: column 1 of data has standard deviation 0, expected finite and greater than 0");
  x(3, 0) = std::nan("");
  CHECK(message([&] { M::around(2, x, 1); }) ==
        "gaussian mixture: data is nan at (row 3, column 0), expected finite values");
}
