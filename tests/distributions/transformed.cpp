// SPDX-License-Identifier: MIT
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/distributions/uniform.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../layers/laws.hpp"
#include "statistics.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::StandardNormal;
using diffeo::TransformedDistribution;

namespace {

template <diffeo::Real S>
auto some_flow() {
  Array<S> data = diffeo::testing::detail::normal_array<S>(50, 3, 1, 1);
  data.col(1) = data.col(1) * S(4) + S(7);
  return randomised(diffeo::real_nvp(data, {.layers = 3, .network = {.hidden = {12, 9}}}), 1, 0.4);
}
template <diffeo::Real S>
auto some_model() {
  return TransformedDistribution(StandardNormal<S>(3), some_flow<S>());
}

// x = mean + scale z is a normal distribution in closed form.
template <diffeo::Real S>
auto shifted_normal() {
  Array<S> mean(1, 2), scale(1, 2);
  mean << 3, -1;
  scale << 2, S(0.25);
  return TransformedDistribution(StandardNormal<S>(2), diffeo::Standardize<S>::from(mean, scale));
}
double log_normal(double x, double mean, double scale) {
  const double z = (x - mean) / scale;
  return -0.5 * z * z - std::log(scale) - 0.5 * diffeo::detail::log_two_pi;
}

}  // namespace

TEMPLATE_TEST_CASE("transformed distribution: a closed form", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto model = shifted_normal<S>();
  const auto x = model.sample_and_log_prob(20000, 1);
  const Array<S> log_p = model.log_prob(x.sample), score = model.score(x.sample);
  double worst_density = 0, worst_pair = 0, worst_score = 0;
  for (Index i = 0; i < x.sample.rows(); ++i) {
    const auto a = static_cast<double>(x.sample(i, 0)), b = static_cast<double>(x.sample(i, 1));
    const double expected = log_normal(a, 3, 2) + log_normal(b, -1, 0.25);
    worst_density = std::max(worst_density, std::abs(static_cast<double>(log_p(i, 0)) - expected));
    worst_pair = std::max(worst_pair, std::abs(static_cast<double>(x.log_prob(i, 0)) - expected));
    worst_score = std::max({worst_score, std::abs(static_cast<double>(score(i, 0)) + (a - 3) / 4),
                            std::abs(static_cast<double>(score(i, 1)) + (b + 1) / 0.0625)});
  }
  const double tolerance = std::is_same_v<S, float> ? 1e-4 : 1e-12;
  CHECK(worst_density < tolerance);
  CHECK(worst_pair < tolerance);
  CHECK(worst_score < tolerance);
  CHECK(kolmogorov(x.sample.col(0), [](double v) { return normal_cdf((v - 3) / 2); }) < 1.95);
  CHECK(kolmogorov(x.sample.col(1), [](double v) { return normal_cdf((v + 1) / 0.25); }) < 1.95);
}

TEMPLATE_TEST_CASE("log_prob, samples and the flow agree", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto model = some_model<S>();
  const auto pair = model.sample_and_log_prob(500, 3);
  const double tolerance = std::is_same_v<S, float> ? 1e-3 : 1e-10;
  CHECK((pair.sample == model.sample(500, 3)).all());
  CHECK((pair.log_prob - model.log_prob(pair.sample)).abs().maxCoeff() < tolerance);
  const auto z = diffeo::inverse(model.flow, pair.sample);
  CHECK((log_prob_of(model.base, z.value) + z.log_det - model.log_prob(pair.sample)).abs().maxCoeff() < tolerance);
  Array<S> latent(500, 3);
  model.base.sample_into(diffeo::view(latent), 3, model.latent_stream, 0);
  CHECK((diffeo::forward(model.flow, latent).value == pair.sample).all());
  CHECK((model.sample(500, 4) != pair.sample).all());
  CHECK(model.dim() == 3);
}

TEST_CASE("the score is the gradient of log_prob", "[distributions]") {
  const auto model = some_model<double>();
  const Array<double> x = model.sample(100, 1), score = model.score(x);
  const double h = 1e-5;
  for (Index j = 0; j < 3; ++j) {
    Array<double> above = x, below = x;
    above.col(j) += h;
    below.col(j) -= h;
    const Array<double> expected = (model.log_prob(above) - model.log_prob(below)) / (2 * h);
    CHECK(((score.col(j) - expected) / expected.abs().max(1)).abs().maxCoeff() < 1e-6);
  }
  const auto in_float = some_model<float>();
  const Array<float> points = in_float.sample(100, 2);
  const Array<double> expected = diffeo::testing::detail::in_double(in_float).score(points);
  CHECK(((in_float.score(points).cast<double>() - expected) / expected.abs().max(1)).abs().maxCoeff() < 2e-3);
}

TEMPLATE_TEST_CASE("results do not depend on threads or other rows", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto model = some_model<S>();
  const Index n = 200;
  const Array<S> x = model.sample(n, 5, 1);
  const Array<S> log_p = model.log_prob(x, 1), score = model.score(x, 1);
  const auto pair = model.sample_and_log_prob(n, 5, 1);
  for (const int threads : {0, 2, 3}) {
    CHECK((model.sample(n, 5, threads) == x).all());
    CHECK((model.log_prob(x, threads) == log_p).all());
    CHECK((model.score(x, threads) == score).all());
    const auto again = model.sample_and_log_prob(n, 5, threads);
    CHECK((again.sample == x).all());
    CHECK((again.log_prob == pair.log_prob).all());
  }
  for (const Index size : {1, 2, 3, 7, 16, 33, 63, 64, 65, 129}) {
    CAPTURE(size);
    CHECK((model.sample(size, 5) == x.topRows(size)).all());
    CHECK((model.sample_and_log_prob(size, 5).log_prob == pair.log_prob.topRows(size)).all());
    for (const Index first : {0, 1, 5, 40}) {
      CHECK((model.log_prob(x.middleRows(first, size)) == log_p.middleRows(first, size)).all());
      CHECK((model.score(x.middleRows(first, size)) == score.middleRows(first, size)).all());
    }
  }
}

TEMPLATE_TEST_CASE("transformed distribution: any Eigen expression", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  using RowMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto model = some_model<S>();
  const Array<S> x = model.sample(70, 1), log_p = model.log_prob(x), score = model.score(x);
  const auto check = [&](const auto& expression) {
    CHECK((model.log_prob(expression) == log_p).all());
    CHECK((model.score(expression) == score).all());
  };
  const RowMajor rows = x.matrix();
  check(Eigen::Map<const RowMajor>(rows.data(), 70, 3));
  const Array<S> turned = x.transpose();
  check(turned.transpose());
  Array<S> large = Array<S>::Zero(100, 5);
  large.block(9, 1, 70, 3) = x;
  check(large.block(9, 1, 70, 3));
  check(x.template cast<double>());
  check(x + S(0));
  const Eigen::Matrix<S, 1, 3> one = x.row(4).matrix();
  CHECK(model.log_prob(one)(0, 0) == log_p(4, 0));
}

TEMPLATE_TEST_CASE("transformed distribution: no row and one row", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto model = some_model<S>();
  const Array<S> none(0, 3), one = Array<S>::Ones(1, 3);
  CHECK(model.log_prob(none).rows() == 0);
  CHECK(model.log_prob(none).cols() == 1);
  CHECK(model.score(none).rows() == 0);
  CHECK(model.score(none).cols() == 3);
  CHECK(model.sample(0, 1).rows() == 0);
  CHECK(model.sample(0, 1).cols() == 3);
  CHECK(model.sample_and_log_prob(0, 1).sample.rows() == 0);
  CHECK(model.sample_and_log_prob(0, 1).log_prob.rows() == 0);
  CHECK(model.log_prob(one).rows() == 1);
  CHECK(model.log_prob(one).allFinite());
  CHECK(model.score(one).rows() == 1);
  CHECK(model.score(one).allFinite());
  CHECK(model.sample(1, 1).rows() == 1);
}

TEST_CASE("a base and a flow are learnt together", "[distributions]") {
  diffeo::GaussianMixture<double> base = diffeo::GaussianMixture<double>::random(4, 3, 1);
  const TransformedDistribution model(base, some_flow<double>());
  CHECK(diffeo::parameter_count(model) == diffeo::parameter_count(base) + diffeo::parameter_count(model.flow));
  const auto log_prob = [](const auto& m, auto x) { return m.log_prob(x[0]); };
  const std::vector<Array<double>> x{model.sample(40, 2)};
  const auto gradients = diffeo::testing::check_gradients(model, log_prob, x);
  INFO(gradients.where);
  CHECK(gradients.max_error < 1e-6);
  CHECK(diffeo::testing::check_tangents(model, log_prob, x).max_error < 1e-6);
}

TEST_CASE("a uniform base has bounded support", "[distributions]") {
  Array<double> mean(1, 2), scale(1, 2), x(3, 2);
  mean << 0, 1;
  scale << 2, 1;
  x << 1, 1, 4.1, 1, -3.9, 1.9;
  const TransformedDistribution model(diffeo::UniformBox<double>::cube(2, -2, 2),
                                      diffeo::Standardize<double>::from(mean, scale));
  const Array<double> log_p = model.log_prob(x);
  CHECK(log_p(0, 0) == Approx(-std::log(32.0)));
  CHECK(log_p(1, 0) == -std::numeric_limits<double>::infinity());
  CHECK(log_p(2, 0) == Approx(-std::log(32.0)));
  CHECK((model.score(x) == 0).all());
}

TEST_CASE("a distribution is a plain value", "[distributions]") {
  auto a = some_model<float>();
  const auto b = a;
  const Array<float> x = a.sample(20, 1), before = a.log_prob(x);
  diffeo::set_parameters(a, Array<float>(diffeo::parameters(a) * 0.5F));
  CHECK((b.log_prob(x) == before).all());
  CHECK((a.log_prob(x) != before).any());
  a = b;
  CHECK((a.log_prob(x) == before).all());
}

TEST_CASE("transformed distribution: bad input", "[distributions]") {
  const auto model = shifted_normal<double>();
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  Array<double> x = Array<double>::Zero(70, 3);
  CHECK(message([&] { model.log_prob(x); }) == "log_prob: x has 3 columns, this flow has dimension 2");
  CHECK(message([&] { model.score(x); }) == "score: x has 3 columns, this flow has dimension 2");
  CHECK(message([&] { model.log_prob(Array<double>(0, 0)); }) ==
        "log_prob: x has 0 columns, this flow has dimension 2");
  Array<double> y = Array<double>::Zero(70, 2);
  y(67, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK(message([&] { model.log_prob(y); }) == "log_prob: x is nan at (row 67, column 1), expected finite values");
  CHECK(message([&] { model.score(y.bottomRows(5)); }) ==
        "score: x is nan at (row 2, column 1), expected finite values");
  CHECK(message([&] { model.sample(-1, 0); }) == "sample: n is -1, expected at least 0");
  CHECK(message([&] { model.sample_and_log_prob(-3, 0); }) == "sample_and_log_prob: n is -3, expected at least 0");
  CHECK(contains(message([&] { model.sample(3, 0, -1); }), "threads is -1"));
  CHECK(contains(message([&] { model.log_prob(y.topRows(3), -2); }), "threads is -2"));
  CHECK(message([] { TransformedDistribution(StandardNormal<double>(3), diffeo::Standardize<double>::identity(2)); }) ==
        "transformed distribution: the base has dimension 3, the flow 2");
}

namespace {

// A base that does not add up the columns.
struct WideBase : StandardNormal<double> {
  using StandardNormal<double>::StandardNormal;
  template <diffeo::Traced X>
  X log_prob(const X& z) const {
    return square(z);
  }
};

}  // namespace

TEST_CASE("transformed distribution: parts that give other shapes", "[distributions]") {
  const Array<double> x = Array<double>::Zero(5, 2);
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const TransformedDistribution narrow(StandardNormal<double>(2), Misshapen<double>{1, 0, 1}),
      short_one(StandardNormal<double>(2), Misshapen<double>{2, 1, 1});
  CHECK(message([&] { narrow.sample(5, 1); }) == "sample: the flow gave 5 x 1 values for 5 x 2");
  CHECK(message([&] { narrow.log_prob(x); }) == "transformed distribution: the flow gave 5 x 1 values for 5 x 2");
  CHECK(message([&] { short_one.log_prob(x); }) ==
        "transformed distribution: the flow gave 1 x 1 log-determinants for 5 rows, expected 5 x 1");
  CHECK_THROWS_AS(short_one.sample_and_log_prob(5, 1), invalid_argument);
  CHECK_THROWS_AS(short_one.score(x), invalid_argument);
  const TransformedDistribution wide(WideBase(2), diffeo::Standardize<double>::identity(2));
  CHECK(message([&] { wide.log_prob(x); }) ==
        "transformed distribution: the base gave 5 x 2 log-densities for 5 rows, expected 5 x 1");
}
