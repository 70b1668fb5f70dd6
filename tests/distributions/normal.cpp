// SPDX-License-Identifier: MIT
#include <diffeo/distributions/normal.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "statistics.hpp"

using diffeo::Array;
using diffeo::DiagonalNormal;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::StandardNormal;

namespace {
template <diffeo::Real S>
DiagonalNormal<S> some_diagonal() {
  DiagonalNormal<S> d{Array<S>(1, 3), Array<S>(1, 3)};
  d.mean << 1, -20, S(0.5);
  d.log_scale << 0, 2, -1;
  return d;
}
double log_density(double x, double mean, double log_scale) {
  const double z = (x - mean) * std::exp(-log_scale);
  return -0.5 * z * z - log_scale - 0.5 * std::log(2 * 3.14159265358979323846);
}
}  // namespace

TEMPLATE_TEST_CASE("standard normal: log-density", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  Array<S> z(4, 3);
  z << 0, 0, 0, 1, -2, 3, S(0.1), S(0.2), S(-0.3), 40, -40, 40;
  const Array<S> log_p = log_prob_of(StandardNormal<S>(3), z);
  REQUIRE(log_p.rows() == 4);
  REQUIRE(log_p.cols() == 1);
  for (Index i = 0; i < 4; ++i) {
    double expected = 0;
    for (Index j = 0; j < 3; ++j) expected += log_density(static_cast<double>(z(i, j)), 0, 0);
    CHECK(log_p(i, 0) == Approx(expected).epsilon(std::is_same_v<S, float> ? 1e-6 : 1e-14));
  }
}

TEMPLATE_TEST_CASE("standard normal: samples", "[distributions]", DIFFEO_TEST_SCALARS) {
  const StandardNormal<TestType> normal(2);
  require_rows_by_index(normal);
  const Index n = 20000;
  const Array<double> z = draw(normal, n, 1).template cast<double>();
  for (Index j = 0; j < 2; ++j) {
    CHECK(std::abs(z.col(j).mean()) < 4 / std::sqrt(double(n)));
    CHECK(std::abs(z.col(j).square().mean() - 1) < 4 * std::sqrt(2 / double(n)));
    CHECK(kolmogorov(z.col(j), normal_cdf) < 1.95);
  }
  CHECK(std::abs((z.col(0) * z.col(1)).mean()) < 4 / std::sqrt(double(n)));
  CHECK(std::abs((z.col(0).topRows(n - 1) * z.col(0).bottomRows(n - 1)).mean()) < 4 / std::sqrt(double(n)));
}

TEMPLATE_TEST_CASE("diagonal normal: log-density", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto d = some_diagonal<S>();
  const Array<S> x = draw(d, 50, 3), log_p = log_prob_of(d, x);
  for (Index i = 0; i < x.rows(); ++i) {
    double expected = 0;
    for (Index j = 0; j < 3; ++j)
      expected += log_density(static_cast<double>(x(i, j)), static_cast<double>(d.mean(0, j)),
                              static_cast<double>(d.log_scale(0, j)));
    CHECK(log_p(i, 0) == Approx(expected).epsilon(std::is_same_v<S, float> ? 1e-5 : 1e-13));
  }
  const auto standard = DiagonalNormal<S>::standard(3);
  CHECK((log_prob_of(standard, x) - log_prob_of(StandardNormal<S>(3), x)).abs().maxCoeff() == 0);
  CHECK(diffeo::parameter_count(d) == 6);
  CHECK(diffeo::parameter_count(StandardNormal<S>(3)) == 0);
}

TEMPLATE_TEST_CASE("diagonal normal: samples", "[distributions]", DIFFEO_TEST_SCALARS) {
  const auto d = some_diagonal<TestType>();
  require_rows_by_index(d);
  const Array<double> x = draw(d, 20000, 1).template cast<double>();
  for (Index j = 0; j < 3; ++j) {
    const double mean = static_cast<double>(d.mean(0, j)), scale = std::exp(static_cast<double>(d.log_scale(0, j)));
    CHECK(kolmogorov(x.col(j), [=](double v) { return normal_cdf((v - mean) / scale); }) < 1.95);
  }
}

TEST_CASE("normal distributions: derivatives", "[distributions]") {
  const auto log_prob = [](const auto& model, auto x) { return model.log_prob(x[0]); };
  const std::vector<Array<double>> x{draw(some_diagonal<double>(), 20, 5)};
  const auto d = some_diagonal<double>();
  const auto gradients = diffeo::testing::check_gradients(d, log_prob, x);
  INFO(gradients.where);
  CHECK(gradients.max_error < 1e-6);
  CHECK(diffeo::testing::check_tangents(d, log_prob, x).max_error < 1e-6);
  CHECK(diffeo::testing::check_tangent_gradients(d, log_prob, x).max_error < 1e-6);
  const StandardNormal<double> standard(3);
  CHECK(diffeo::testing::check_gradients(standard, log_prob, x).max_error < 1e-6);
  CHECK(diffeo::testing::check_tangents(standard, log_prob, x).max_error < 1e-6);
}

TEMPLATE_TEST_CASE("normal distributions: draws are the samples, with gradients", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  auto d = diffeo::DiagonalNormal<S>::standard(3);
  d.mean << 1, -2, S(0.5);
  d.log_scale << S(0.3), -1, 0;
  diffeo::Array<S> sample(40, 3);
  diffeo::Tape<S> tape;
  d.sample_into(diffeo::view(sample), 3, 4, 17);
  CHECK((as_eigen(d.draw(tape, 40, 3, 4, 17).value()) - sample).abs().maxCoeff() < S(1e-6));
  const diffeo::StandardNormal<S> standard(3);
  standard.sample_into(diffeo::view(sample), 3, 4, 17);
  CHECK((as_eigen(standard.draw(tape, 40, 3, 4, 17).value()) == sample).all());

  const auto draw = [](const auto& model, auto x) { return model.draw(x[0].tape(), 20, 1, 2, 5) + x[0]; };
  const auto result = diffeo::testing::check_gradients(d, draw, std::vector{diffeo::Array<S>(sample.topRows(20))});
  CHECK(result.max_error < (std::is_same_v<S, float> ? 2e-2 : 1e-6));
}

TEST_CASE("normal distributions: bad input", "[distributions]") {
  CHECK(contains(thrown_message<invalid_argument>([] { StandardNormal<float>(0); }), "dimension 0"));
  CHECK(contains(thrown_message<invalid_argument>([] { StandardNormal<float>(-2); }), "dimension -2"));
  CHECK(contains(thrown_message<invalid_argument>([] { DiagonalNormal<float>::standard(0); }), "dimension 0"));
  const Array<double> z = Array<double>::Zero(2, 4);
  CHECK(thrown_message<invalid_argument>([&] { log_prob_of(StandardNormal<double>(3), z); }) ==
        "standard normal: z has 4 columns, this distribution has dimension 3");
  CHECK(thrown_message<invalid_argument>([&] { log_prob_of(some_diagonal<double>(), z); }) ==
        "diagonal normal: z has 4 columns, this distribution has dimension 3");
}

TEST_CASE("diagonal normal: of given mean and scale", "[distributions]") {
  Array<double> mean(1, 2), scale(1, 2), z(1, 2);
  mean << 1, -2;
  scale << 3, 0.5;
  z << 4, -2.5;
  CHECK(log_prob_of(DiagonalNormal<double>::from(mean, scale), z)(0, 0) ==
        Approx(log_density(4, 1, std::log(3.0)) + log_density(-2.5, -2, std::log(0.5))));
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([&] { DiagonalNormal<double>::from(mean, scale.leftCols(1)); }) ==
        "diagonal normal: mean is 1 x 2, scale is 1 x 1, expected both 1 x D");
  scale(0, 1) = 0;
  CHECK(message([&] { DiagonalNormal<double>::from(mean, scale); }) ==
        "diagonal normal: scale is 0 at (row 0, column 1), expected finite and greater than 0");
  mean(0, 0) = std::nan("");
  CHECK(contains(message([&] { DiagonalNormal<double>::from(mean, scale); }), "diagonal normal: mean is nan"));
  const DiagonalNormal<double> wrong{Array<double>::Zero(1, 2), Array<double>::Zero(1, 1)};
  CHECK(message([&] { log_prob_of(wrong, z); }) ==
        "diagonal normal: mean is 1 x 2, log_scale is 1 x 1, expected both 1 x D");
  CHECK_THROWS_AS(draw(wrong, 3, 1), invalid_argument);
}
