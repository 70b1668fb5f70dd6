// SPDX-License-Identifier: MIT
#include <Eigen/Cholesky>
#include <diffeo/autodiff/describe.hpp>
#include <diffeo/distributions/multivariate_normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/testing/gradient_check.hpp>
#include <diffeo/training/fit.hpp>

#include "statistics.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::MultivariateNormal;

namespace {

template <diffeo::Real S>
MultivariateNormal<S> some_full_normal() {
  Array<S> mean(1, 3), factor(3, 3);
  mean << 1, -20, S(0.5);
  factor << 2, 0, 0, S(-1.5), S(0.5), 0, S(0.25), S(0.75), S(1.25);
  return MultivariateNormal<S>::from(mean, factor);
}

template <diffeo::Real S>
double full_tolerance(double in_float, double in_double) {
  return std::is_same_v<S, float> ? in_float : in_double;
}

}  // namespace

TEMPLATE_TEST_CASE("multivariate normal: log-density", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto normal = some_full_normal<S>();
  const Array<S> x = normal.sample(100, 1), log_p = normal.log_prob(x), score = normal.score(x);
  const Eigen::MatrixXd covariance = normal.covariance().template cast<double>().matrix();
  const Eigen::LLT<Eigen::MatrixXd> llt(covariance);
  const double log_det = 2 * llt.matrixLLT().diagonal().array().log().sum();
  double worst = 0, worst_score = 0;
  for (Index i = 0; i < x.rows(); ++i) {
    const Eigen::VectorXd d = (x.row(i) - normal.mean.row(0)).template cast<double>().matrix().transpose(),
                          solved = llt.solve(d);
    const double expected = -0.5 * (d.dot(solved) + log_det + 3 * diffeo::detail::log_two_pi);
    worst = std::max(worst, std::abs(static_cast<double>(log_p(i, 0)) - expected));
    for (Index j = 0; j < 3; ++j)
      worst_score = std::max(worst_score, std::abs(static_cast<double>(score(i, j)) + solved[j]));
  }
  CHECK(worst < full_tolerance<S>(2e-4, 1e-12));
  CHECK(worst_score < full_tolerance<S>(1e-3, 1e-12));
  CHECK(diffeo::parameter_count(normal) == 3 + 3 + 3);
}

TEMPLATE_TEST_CASE("multivariate normal: without correlations it is a diagonal one", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  Array<S> mean(1, 2), scale(1, 2), factor(2, 2);
  mean << 3, -1;
  scale << 2, S(0.25);
  factor << 2, 0, 0, S(0.25);
  const auto full = MultivariateNormal<S>::from(mean, factor);
  const auto diagonal = diffeo::DiagonalNormal<S>::from(mean, scale);
  const Array<S> x = diagonal.sample(200, 1);
  CHECK((full.sample(200, 1) - x).abs().maxCoeff() < full_tolerance<S>(1e-5, 1e-13));
  CHECK((full.log_prob(x) - diagonal.log_prob(x)).abs().maxCoeff() < full_tolerance<S>(1e-4, 1e-12));
  const auto standard = MultivariateNormal<S>::standard(4);
  const diffeo::StandardNormal<S> plain(4);
  const Array<S> z = plain.sample(50, 1);
  CHECK((standard.sample(50, 1) == z).all());
  CHECK((standard.log_prob(z) == plain.log_prob(z)).all());
  const auto line = MultivariateNormal<S>::from(Array<S>::Constant(1, 1, 2), Array<S>::Constant(1, 1, 3));
  CHECK(static_cast<double>(line.log_prob(Array<S>::Constant(1, 1, 5))(0, 0)) ==
        Approx(-0.5 - std::log(3.0) - 0.5 * diffeo::detail::log_two_pi).epsilon(1e-6));
  CHECK(diffeo::parameter_count(line) == 2);
}

TEST_CASE("multivariate normal: the density integrates to 1", "[distributions]") {
  Array<double> mean(1, 2), factor(2, 2);
  mean << 0.5, -1;
  factor << 1.5, 0, -1, 0.5;
  const auto normal = MultivariateNormal<double>::from(mean, factor);
  const Index n = 400;
  const double h = 24.0 / static_cast<double>(n);
  Array<double> grid(n * n, 2);
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < n; ++j)
      grid.row(i * n + j) << -12 + (static_cast<double>(i) + 0.5) * h, -12 + (static_cast<double>(j) + 0.5) * h;
  CHECK(normal.log_prob(grid).exp().sum() * h * h == Approx(1).epsilon(1e-9));
}

TEMPLATE_TEST_CASE("multivariate normal: samples", "[distributions]", DIFFEO_TEST_SCALARS) {
  const auto normal = some_full_normal<TestType>();
  require_rows_by_index(normal);
  const Index n = 40000;
  const Array<double> x = normal.sample(n, 1).template cast<double>(),
                      covariance = normal.covariance().template cast<double>();
  for (Index j = 0; j < 3; ++j) {
    const double mean = static_cast<double>(normal.mean(0, j)), scale = std::sqrt(covariance(j, j));
    CHECK(kolmogorov(x.col(j), [=](double v) { return normal_cdf((v - mean) / scale); }) < 1.95);
    for (Index k = 0; k <= j; ++k) {
      const double expected = covariance(j, k),
                   found = ((x.col(j) - mean) * (x.col(k) - static_cast<double>(normal.mean(0, k)))).mean(),
                   error = std::sqrt((covariance(j, j) * covariance(k, k) + expected * expected) / double(n));
      CHECK(std::abs(found - expected) < 4 * error);
    }
  }
}

TEST_CASE("multivariate normal: derivatives", "[distributions]") {
  const auto log_prob = [](const auto& model, auto x) { return model.log_prob(x[0]); };
  const auto normal = some_full_normal<double>();
  const std::vector<Array<double>> x{normal.sample(20, 5)};
  const auto gradients = diffeo::testing::check_gradients(normal, log_prob, x);
  INFO(gradients.where);
  CHECK(gradients.max_error < 1e-6);
  CHECK(diffeo::testing::check_tangents(normal, log_prob, x).max_error < 1e-6);
  CHECK(diffeo::testing::check_tangent_gradients(normal, log_prob, x).max_error < 1e-6);
  const auto line = MultivariateNormal<double>::standard(1);
  CHECK(diffeo::testing::check_gradients(line, log_prob, std::vector{Array<double>(x[0].col(2))}).max_error < 1e-6);
}

TEMPLATE_TEST_CASE("multivariate normal: draws are the samples, with gradients", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto normal = some_full_normal<S>();
  Array<S> sample(40, 3);
  diffeo::Tape<S> tape;
  normal.sample_into(diffeo::view(sample), 3, 4, 17);
  CHECK((as_eigen(normal.draw(tape, 40, 3, 4, 17).value()) - sample).abs().maxCoeff() < full_tolerance<S>(1e-5, 1e-13));
  const auto draw = [](const auto& model, auto x) { return model.draw(x[0].tape(), 20, 1, 2, 5) + x[0]; };
  const auto result = diffeo::testing::check_gradients(normal, draw, std::vector{Array<S>(sample.topRows(20))});
  CHECK(result.max_error < full_tolerance<S>(2e-2, 1e-6));
}

TEMPLATE_TEST_CASE("multivariate normal: the fit has the mean and covariance of the data", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  Array<double> data = some_full_normal<double>().sample(1237, 3);
  data.col(1) *= 1e4;  // columns of any scale
  data.col(2) = data.col(2) * 1e-3 + 5e-2;
  const Array<S> given = data.template cast<S>();
  const auto normal = MultivariateNormal<S>::fit(given);
  const Eigen::MatrixXd x = given.template cast<double>().matrix();
  const Eigen::RowVectorXd mean = x.colwise().mean();
  const Eigen::MatrixXd centred = x.rowwise() - mean, covariance = centred.transpose() * centred / 1237.0;
  const Array<S> found = normal.covariance();
  for (Index j = 0; j < 3; ++j) {
    CHECK(static_cast<double>(normal.mean(0, j)) == Approx(mean[j]).epsilon(full_tolerance<S>(1e-6, 1e-12)).margin(0));
    for (Index k = 0; k < 3; ++k)
      CHECK(std::abs(static_cast<double>(found(j, k)) - covariance(j, k)) <
            full_tolerance<S>(1e-5, 1e-12) * std::sqrt(covariance(j, j) * covariance(k, k)));
  }
  // Any Eigen expression will do, and no other parameters are likelier.
  CHECK((MultivariateNormal<S>::fit(given.matrix()).below == normal.below).all());
  const double best = normal.log_prob(given).template cast<double>().mean();
  for (const double step : {-0.02, 0.02}) {
    auto moved = normal;
    moved.log_diagonal += S(step);
    CHECK(moved.log_prob(given).template cast<double>().mean() < best);
    moved = normal;
    moved.below *= S(1 + step);
    CHECK(moved.log_prob(given).template cast<double>().mean() < best);
  }
}

TEST_CASE("multivariate normal: fit of data that has no likeliest normal", "[distributions]") {
  using M = MultivariateNormal<double>;
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  Array<double> x = some_full_normal<double>().sample(50, 3);
  CHECK(message([&] { M::fit(x.topRows(3)); }) ==
        "multivariate normal: data has 3 rows and 3 columns, expected at least 4 rows");
  CHECK_NOTHROW(M::fit(x.topRows(4)));
  CHECK(message([&] { M::fit(x.topRows(0)); }) ==
        "multivariate normal: data has 0 rows and 3 columns, expected at least 4 rows");
  CHECK(message([&] { M::fit(x.leftCols(0)); }) == "multivariate normal: data has no columns");
  Array<double> wrong = x;
  wrong(7, 1) = std::nan("");
  CHECK(message([&] { M::fit(wrong); }) ==
        "multivariate normal: data is nan at (row 7, column 1), expected finite values");
  wrong = x;
  wrong.col(1).setConstant(0.1);
  CHECK(message([&] { M::fit(wrong); }) ==
        "multivariate normal: column 1 of data has standard deviation 0, expected finite and greater than 0");
  wrong = x;
  wrong.col(2) = 3 * x.col(0) - x.col(1) + 7;
  CHECK(contains(message([&] { M::fit(wrong); }),
                 "multivariate normal: column 2 of data is a linear combination of the columns before it"));
  CHECK(
      contains(message([&] { MultivariateNormal<float>::fit(wrong.cast<float>()); }), "column 2 of data is a linear"));
  CHECK(contains(message([&] { M::fit(wrong.cast<float>()); }), "column 2 of data is a linear"));
  wrong.col(2) += 1e-3 * x.col(2);
  CHECK_NOTHROW(M::fit(wrong));
  CHECK_NOTHROW(MultivariateNormal<float>::fit(wrong.cast<float>()));
  // A column that float resolves coarsely is no combination of others.
  wrong = x;
  wrong.col(0) += 3e7;
  CHECK_NOTHROW(MultivariateNormal<float>::fit(wrong));
}

TEMPLATE_TEST_CASE("multivariate normal: a base that is trained", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> data = some_full_normal<S>().sample(2000, 3);
  const double best = MultivariateNormal<S>::fit(data).log_prob(data).template cast<double>().mean();
  diffeo::TransformedDistribution model(MultivariateNormal<S>::standard(3), diffeo::Standardize<S>::fit(data));
  diffeo::fit(model, data, {.steps = 1500, .batch = 256, .rate = {.learning_rate = 0.02}, .threads = 1});
  CHECK(model.log_prob(data).template cast<double>().mean() == Approx(best).margin(2e-3));
}

TEST_CASE("multivariate normal: what it says about itself", "[distributions]") {
  const auto normal = some_full_normal<double>();
  const auto settings = diffeo::settings_of(normal);
  REQUIRE(settings.size() == 1);
  CHECK(settings[0].path == "kind");
  CHECK(diffeo::to_string(settings[0].value) == "multivariate normal");
  const auto leaves = diffeo::leaves(normal);
  REQUIRE(leaves.size() == 3);
  CHECK(leaves[0].path == "mean");
  CHECK(leaves[1].path == "log_diagonal");
  CHECK(leaves[2].path == "below");
  std::ostringstream text;
  text << diffeo::describe(normal);
  CHECK(contains(text.str(), "multivariate normal"));
  // A copy with other parameters.
  auto other = MultivariateNormal<double>::standard(3);
  diffeo::set_parameters(other, diffeo::parameters(normal));
  const Array<double> x = normal.sample(5, 1);
  CHECK((other.log_prob(x) == normal.log_prob(x)).all());
}

TEST_CASE("multivariate normal: bad input", "[distributions]") {
  using M = MultivariateNormal<double>;
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const auto normal = some_full_normal<double>();
  Array<double> mean = normal.mean, factor = normal.factor();
  CHECK(message([] { M::standard(0); }) == "multivariate normal: dimension 0, expected at least 1");
  CHECK(message([&] { M::from(mean, factor.topRows(2)); }) ==
        "multivariate normal: mean is 1 x 3, factor is 2 x 3, expected 1 x D and D x D");
  factor(2, 1) = std::nan("");
  CHECK(message([&] { M::from(mean, factor); }) ==
        "multivariate normal: factor is nan at (row 2, column 1), expected finite values");
  factor(1, 1) = -1;
  CHECK(message([&] { M::from(mean, factor); }) ==
        "multivariate normal: factor is -1 at (row 1, column 1), expected finite and greater than 0");
  mean(0, 2) = std::numeric_limits<double>::infinity();
  CHECK(contains(message([&] { M::from(mean, factor); }), "multivariate normal: mean is inf"));
  auto wrong = normal;
  wrong.below = Array<double>::Zero(1, 2);
  CHECK(message([&] { wrong.log_prob(Array<double>::Zero(2, 3)); }) ==
        "multivariate normal: mean is 1 x 3, below is 1 x 2, expected 1 x 3");
  CHECK_THROWS_AS(wrong.sample(3, 1), invalid_argument);
  CHECK_THROWS_AS(wrong.covariance(), invalid_argument);
  wrong = normal;
  wrong.log_diagonal = Array<double>::Zero(1, 2);
  CHECK(message([&] { wrong.score(Array<double>::Zero(2, 3)); }) ==
        "multivariate normal: mean is 1 x 3, log_diagonal is 1 x 2, expected both 1 x D");
}
