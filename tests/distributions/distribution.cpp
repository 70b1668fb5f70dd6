// SPDX-License-Identifier: MIT
#include <diffeo/distributions/distribution.hpp>
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/multivariate_normal.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/distributions/uniform.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "statistics.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;

static_assert(diffeo::Distribution<diffeo::StandardNormal<float>>);
static_assert(diffeo::Distribution<diffeo::DiagonalNormal<double>>);
static_assert(diffeo::Distribution<diffeo::MultivariateNormal<float>>);
static_assert(diffeo::Distribution<diffeo::UniformBox<double>>);
static_assert(diffeo::Distribution<diffeo::GaussianMixture<float>>);
static_assert(diffeo::Distribution<
              diffeo::TransformedDistribution<diffeo::MultivariateNormal<double>, diffeo::Standardize<double>>>);
static_assert(!diffeo::Distribution<diffeo::Standardize<float>>);

namespace {

// Calls f for a distribution of each kind on R^3.
template <diffeo::Real S, class F>
void for_each_distribution(const F& f) {
  Array<S> mean(1, 3), scale(1, 3), factor(3, 3);
  mean << 1, -20, S(0.5);
  scale << 1, 7, S(0.25);
  factor << 2, 0, 0, S(-1.5), S(0.5), 0, S(0.25), S(0.75), S(1.25);
  f(diffeo::StandardNormal<S>(3));
  f(diffeo::DiagonalNormal<S>::from(mean, scale));
  f(diffeo::MultivariateNormal<S>::from(mean, factor));
  f(diffeo::UniformBox<S>::from(mean, mean + scale));
  f(diffeo::GaussianMixture<S>::random(4, 3, 1, 2));
  f(diffeo::TransformedDistribution(diffeo::MultivariateNormal<S>::from(mean, factor),
                                    diffeo::Standardize<S>::from(mean, scale)));
}

}  // namespace

TEMPLATE_TEST_CASE("distributions: samples and log-densities of arrays", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for_each_distribution<S>([](const auto& d) {
    const auto pair = d.sample_and_log_prob(300, 3);
    const Array<S> log_p = d.log_prob(pair.sample);
    CHECK((d.sample(300, 3) == pair.sample).all());
    CHECK((d.sample(300, 4) != pair.sample).any());
    CHECK(log_p.allFinite());
    CHECK((log_prob_of(d, pair.sample) - log_p).abs().maxCoeff() == 0);
    CHECK((pair.log_prob - log_p).abs().maxCoeff() < (std::is_same_v<S, float> ? S(1e-3) : S(1e-11)));
  });
}

TEMPLATE_TEST_CASE("distributions: samples of a base are the latent points of a flow", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for_each_distribution<S>([]<class D>(const D& d) {
    if constexpr (diffeo::BaseDistribution<D>) {
      CHECK((draw(d, 100, 5, diffeo::sample_stream) == d.sample(100, 5)).all());
      const diffeo::TransformedDistribution model(d, diffeo::Standardize<S>::identity(3));
      CHECK((model.sample(100, 5) == d.sample(100, 5)).all());
      CHECK((model.log_prob(d.sample(100, 5)) == d.log_prob(d.sample(100, 5))).all());
    }
  });
}

TEST_CASE("distributions: the score is the gradient of the log-density", "[distributions]") {
  for_each_distribution<double>([](const auto& d) {
    const Array<double> x = d.sample(100, 1), score = d.score(x);
    const double h = 1e-5;
    for (Index j = 0; j < 3; ++j) {
      Array<double> above = x, below = x;
      above.col(j) += h;
      below.col(j) -= h;
      const Array<double> expected = (d.log_prob(above) - d.log_prob(below)) / (2 * h);
      // Where a step leaves the box there is no gradient.
      for (Index i = 0; i < x.rows(); ++i)
        if (std::isfinite(expected(i, 0)))
          CHECK(std::abs(score(i, j) - expected(i, 0)) < 1e-5 * std::max(1.0, std::abs(expected(i, 0))));
    }
  });
}

TEMPLATE_TEST_CASE("distributions: results do not depend on threads or other rows", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for_each_distribution<S>([](const auto& d) {
    const Array<S> x = d.sample(200, 5, 1), log_p = d.log_prob(x, 1), score = d.score(x, 1);
    const auto pair = d.sample_and_log_prob(200, 5, 1);
    diffeo::ThreadPool pool(2);
    for (const diffeo::Execution& execution : {diffeo::Execution(0), diffeo::Execution(3), diffeo::Execution(pool)}) {
      CHECK((d.sample(200, 5, execution) == x).all());
      CHECK((d.log_prob(x, execution) == log_p).all());
      CHECK((d.score(x, execution) == score).all());
      const auto again = d.sample_and_log_prob(200, 5, execution);
      CHECK((again.sample == x).all());
      CHECK((again.log_prob == pair.log_prob).all());
    }
    for (const Index size : {1, 2, 7, 33, 64, 65, 129}) {
      CAPTURE(size);
      CHECK((d.sample(size, 5) == x.topRows(size)).all());
      CHECK((d.sample_and_log_prob(size, 5).log_prob == pair.log_prob.topRows(size)).all());
      for (const Index first : {0, 1, 40}) {
        CHECK((d.log_prob(x.middleRows(first, size)) == log_p.middleRows(first, size)).all());
        CHECK((d.score(x.middleRows(first, size)) == score.middleRows(first, size)).all());
      }
    }
  });
}

TEMPLATE_TEST_CASE("distributions: any Eigen expression", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  using RowMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  for_each_distribution<S>([](const auto& d) {
    const Array<S> x = d.sample(70, 1), log_p = d.log_prob(x), score = d.score(x);
    const auto check = [&](const auto& expression) {
      CHECK((d.log_prob(expression) == log_p).all());
      CHECK((d.score(expression) == score).all());
    };
    const RowMajor rows = x.matrix();
    check(Eigen::Map<const RowMajor>(rows.data(), 70, 3));
    const Array<S> turned = x.transpose();
    check(turned.transpose());
    check(x.template cast<double>());
    check(x + S(0));
  });
}

TEMPLATE_TEST_CASE("distributions: no row and one row", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for_each_distribution<S>([](const auto& d) {
    const Array<S> none(0, 3), one = d.sample(1, 1);
    CHECK(d.log_prob(none).rows() == 0);
    CHECK(d.log_prob(none).cols() == 1);
    CHECK(d.score(none).rows() == 0);
    CHECK(d.score(none).cols() == 3);
    CHECK(d.sample(0, 1).rows() == 0);
    CHECK(d.sample(0, 1).cols() == 3);
    CHECK(d.sample_and_log_prob(0, 1).log_prob.rows() == 0);
    CHECK(one.rows() == 1);
    CHECK(d.log_prob(one).rows() == 1);
    CHECK(d.log_prob(one).allFinite());
    CHECK(d.score(one).rows() == 1);
    CHECK(d.score(one).allFinite());
  });
}

TEST_CASE("distributions: bad input", "[distributions]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const Array<double> narrow = Array<double>::Zero(70, 2);
  Array<double> y = Array<double>::Zero(70, 3);
  y(67, 1) = std::numeric_limits<double>::quiet_NaN();
  for_each_distribution<double>([&]<class D>(const D& d) {
    const std::string owner = diffeo::BaseDistribution<D> ? "distribution" : "flow";
    CHECK(message([&] { d.log_prob(narrow); }) == "log_prob: x has 2 columns, this " + owner + " has dimension 3");
    CHECK(message([&] { d.score(narrow); }) == "score: x has 2 columns, this " + owner + " has dimension 3");
    CHECK(message([&] { d.log_prob(y); }) == "log_prob: x is nan at (row 67, column 1), expected finite values");
    CHECK(message([&] { d.score(y.bottomRows(5)); }) == "score: x is nan at (row 2, column 1), expected finite values");
    CHECK(message([&] { d.sample(-1, 0); }) == "sample: n is -1, expected at least 0");
    CHECK(message([&] { d.sample_and_log_prob(-3, 0); }) == "sample_and_log_prob: n is -3, expected at least 0");
    CHECK(contains(message([&] { d.sample(3, 0, -1); }), "threads is -1"));
  });
}
