// SPDX-License-Identifier: MIT
#include <diffeo/distributions/conditional_mixture.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/training/fit.hpp>

#include "../arrays.hpp"
#include "statistics.hpp"

using diffeo::Array;
using diffeo::conditional_mixture;
using diffeo::Index;
using diffeo::invalid_argument;

namespace {

// One column of context in -1 ... 1, and points at c + 1 with the probability (2 + c) / 4, else at -c - 1, both in the
// first column with noise of 0.2; the second column is noise of 1 around c.
struct Branches {
  Array<double> contexts, x;

  explicit Branches(Index rows, std::uint64_t stream) : contexts(rows, 1), x(gaussian<double>(rows, 2, stream)) {
    Array<double> u(rows, 2);
    diffeo::fill_uniform(diffeo::view(u), stream, 7);
    for (Index i = 0; i < rows; ++i) {
      const double c = contexts(i, 0) = 2 * u(i, 0) - 1;
      x(i, 0) = x(i, 0) * 0.2 + (u(i, 1) < (2 + c) / 4 ? c + 1 : -c - 1);
      x(i, 1) += c;
    }
  }
  double log_prob(Index i) const {
    const double c = contexts(i, 0), upper = (x(i, 0) - c - 1) / 0.2, lower = (x(i, 0) + c + 1) / 0.2;
    const double density = (2 + c) / 4 * std::exp(-upper * upper / 2) + (2 - c) / 4 * std::exp(-lower * lower / 2);
    return std::log(density / 0.2) - (x(i, 1) - c) * (x(i, 1) - c) / 2 - diffeo::detail::log_two_pi;
  }
  double mean_log_prob() const {
    double sum = 0;
    for (Index i = 0; i < x.rows(); ++i) sum += log_prob(i);
    return sum / double(x.rows());
  }
};

}  // namespace

TEMPLATE_TEST_CASE("conditional mixture: log-density and the order of the outputs", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  // Two components in the plane, whose ten parameters are the context itself, in units of their own.
  Array<S> shift(1, 2), unit(1, 2);
  shift << 10, -3;
  unit << 4, S(0.5);
  const diffeo::ConditionalMixture<S, diffeo::NoEmbedding> d{
      diffeo::Standardize<S>::identity(10), {}, diffeo::Standardize<S>::from(shift, unit), {2, 2}};
  const Array<S> c = gaussian<S>(20, 10, 2) * S(0.5);
  Array<S> x = gaussian<S>(20, 2, 1);
  x.col(0) = x.col(0) * 4 + 10;
  x.col(1) -= 3;
  const Array<S> log_p = d.log_prob(x, c);
  for (Index i = 0; i < x.rows(); ++i) {
    const auto at = [&](Index k) { return double(c(i, k)); };
    const double total = std::exp(at(0)) + std::exp(at(1));
    double density = 0;
    for (const Index k : {0, 1}) {
      const double mean[] = {10 + 4 * at(2 + k), -3 + 0.5 * at(4 + k)};
      const double scale[] = {4 * std::exp(at(6 + k)), 0.5 * std::exp(at(8 + k))};
      const double a = (double(x(i, 0)) - mean[0]) / scale[0], b = (double(x(i, 1)) - mean[1]) / scale[1];
      density += std::exp(at(k)) / total * std::exp(-0.5 * (a * a + b * b)) /
                 (2 * 3.14159265358979323846 * scale[0] * scale[1]);
    }
    CHECK(double(log_p(i, 0)) == Approx(std::log(density)).epsilon(sizeof(S) == 4 ? 1e-4 : 1e-12).margin(1e-5));
  }
}

TEMPLATE_TEST_CASE("conditional mixture: it starts near the mixture around the data", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Branches truth(4000, 1);
  const Array<S> x = truth.x.template cast<S>() * S(100) + S(7), c = truth.contexts.template cast<S>();
  const auto model = conditional_mixture(x, c, 3, {.seed = 5});
  const auto around = diffeo::GaussianMixture<S>::around(3, x, 5);
  CHECK((model.log_prob(x, c) - around.log_prob(x)).abs().maxCoeff() < S(0.5));
  CHECK((model.log_prob(x, c) - around.log_prob(x)).abs().mean() < S(0.05));
  const diffeo::ConditionalMixture<S> base = conditional_mixture<S>(2, c, 3, {.seed = 5});
  const auto random = diffeo::GaussianMixture<S>::random(3, 2, 5);
  const Array<S> z = gaussian<S>(100, 2, 3);
  CHECK((base.log_prob(z, c.topRows(100)) - random.log_prob(z)).abs().maxCoeff() < S(0.5));
}

TEST_CASE("conditional mixture: one component is a conditional normal", "[distributions]") {
  const Branches truth(50, 1);
  const diffeo::NetworkDistributionOptions far{.network = {.hidden = {6}, .last_scale = 1}};
  const auto normal = diffeo::conditional_normal(truth.x, truth.contexts, far);
  auto mixture = conditional_mixture(truth.x, truth.contexts, 1, far);
  // The outputs of the mixture behind its one logit are those of the normal.
  auto& last = mixture.network.layers.back();
  mixture.network.layers[0] = normal.network.layers[0];
  last.weight.bottomRows(4) = normal.network.layers.back().weight;
  last.bias.rightCols(4) = normal.network.layers.back().bias;
  CHECK((mixture.log_prob(truth.x, truth.contexts) - normal.log_prob(truth.x, truth.contexts)).abs().maxCoeff() <
        1e-12);
  CHECK((mixture.sample(truth.contexts, 3) - normal.sample(truth.contexts, 3)).abs().maxCoeff() < 1e-12);
}

TEST_CASE("conditional mixture: samples follow weights and components of their contexts", "[distributions]") {
  const Branches truth(50, 1);
  const auto d =
      conditional_mixture(truth.x, truth.contexts, 3, {.network = {.hidden = {6}, .last_scale = 2}, .seed = 4});
  Array<double> c(20000, 1);
  for (Index i = 0; i < c.rows(); ++i) c(i, 0) = i % 2 == 0 ? -0.7 : 0.8;
  const Array<double> x = d.sample(c, 3);
  for (const Index first : {0, 1}) {
    const auto given = d.given(c.row(first));
    const Array<double> shares = given.logits.exp() / given.logits.exp().sum();
    Array<double> own(c.rows() / 2, 2);
    for (Index i = 0; i < own.rows(); ++i) own.row(i) = x.row(2 * i + first);
    for (Index j = 0; j < 2; ++j)
      CHECK(kolmogorov(own.col(j), [&](double v) {
              double f = 0;
              for (Index k = 0; k < 3; ++k)
                f += shares(0, k) * normal_cdf((v - given.means(k, j)) * std::exp(-given.log_scales(k, j)));
              return f;
            }) < 1.95);
  }
}

TEST_CASE("conditional mixture: it learns two branches", "[distributions][long]") {
  const Branches train(20000, 1), test(20000, 2);
  auto model = conditional_mixture(train.x, train.contexts, 2);
  diffeo::fit(model, train.x, train.contexts, {.steps = 2000, .threads = 1});
  const double kl = test.mean_log_prob() - model.log_prob(test.x, test.contexts).mean();
  CAPTURE(kl);
  CHECK(kl < 0.02);
  CHECK(kl > -1e-3);
  // The weights are a function of the context: 3/4 of the points are on one branch for c = 1.
  const auto at_one = model.given(Array<double>::Ones(1, 1));
  const Array<double> shares = at_one.logits.exp() / at_one.logits.exp().sum();
  CHECK(shares.maxCoeff() == Approx(0.75).margin(0.05));
}

TEST_CASE("conditional mixture: as the base of a flow it is trained with it", "[distributions][long]") {
  const Branches train(20000, 1), test(5000, 2);
  diffeo::TransformedDistribution model(conditional_mixture<double>(2, train.contexts, 2),
                                        diffeo::Standardize<double>::fit(train.x));
  diffeo::fit(model, train.x, train.contexts, {.steps = 2000, .threads = 1});
  const double kl = test.mean_log_prob() - model.log_prob(test.x, test.contexts).mean();
  CAPTURE(kl);
  CHECK(kl < 0.03);
  CHECK(kl > -1e-3);
}

TEMPLATE_TEST_CASE("conditional mixture: for contexts far from those of the data nothing is NaN", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Branches train(1000, 1);
  const Array<S> x = train.x.template cast<S>(), contexts = train.contexts.template cast<S>();
  auto model =
      conditional_mixture(x, contexts, 3, {.network = {.hidden = {16}, .activation = diffeo::Activation::relu}});
  diffeo::fit(model, x, contexts, {.steps = 100, .threads = 1});
  for (const double distance : {1e1, 1e3, 1e6, 1e8})
    for (const double grow : {1.0, 1e3}) {  // of all outputs but the means
      CAPTURE(distance, grow);
      auto far = model;
      far.network.layers.back().weight.topRows(3) *= static_cast<S>(grow);
      far.network.layers.back().weight.bottomRows(6) *= static_cast<S>(grow);
      const Array<S> c = contexts.topRows(20) * static_cast<S>(distance), at = x.topRows(20);
      CHECK_FALSE(far.log_prob(at, c).isNaN().any());
      CHECK_FALSE(far.score(at, c).isNaN().any());
      CHECK_FALSE(far.context_score(at, c).isNaN().any());
      CHECK(far.sample(c, 5).allFinite());
      const auto drawn = far.sample_and_log_prob(c, 5);
      CHECK(drawn.sample.allFinite());
      CHECK_FALSE(drawn.log_prob.isNaN().any());
    }
}

TEMPLATE_TEST_CASE("conditional mixture: huge logits choose one component", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  // The context is all parameters: two logits, means, log standard deviations.
  const diffeo::ConditionalMixture<S, diffeo::NoEmbedding> d{
      diffeo::Standardize<S>::identity(6), {}, diffeo::Standardize<S>::identity(1), {1, 2}};
  Array<S> c(2, 6);
  c << S(1e30), 0, 1, -1, S(0.5), S(-0.5), S(-1e30), S(1e30), 1, -1, S(0.5), S(-0.5);
  const Array<S> x = Array<S>::Constant(2, 1, S(0.25)), log_p = d.log_prob(x, c);
  const auto log_normal = [](double v, double mean, double s) {
    const double z = (v - mean) * std::exp(-s);
    return -0.5 * z * z - s - 0.5 * diffeo::detail::log_two_pi;
  };
  CHECK(double(log_p(0, 0)) == Approx(log_normal(0.25, 1, 0.5)));
  CHECK(double(log_p(1, 0)) == Approx(log_normal(0.25, -1, -0.5)));
  CHECK(d.context_score(x, c).allFinite());
}

TEST_CASE("conditional mixture: what does not fit is refused", "[distributions]") {
  const Array<double> x = gaussian<double>(6, 2, 1), c = gaussian<double>(6, 3, 2);
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([&] { conditional_mixture(x, c.topRows(5), 2); }) ==
        "conditional_mixture: the context has 5 rows, the data 6");
  CHECK(contains(message([&] { conditional_mixture(x, c, 0); }), "0 components"));
  CHECK(contains(message([&] { conditional_mixture(x, c, 7); }), "data has 6 rows for 7 components"));
  CHECK(contains(message([&] { conditional_mixture<double>(2, c, 0); }), "0 components of dimension 2"));
  CHECK(contains(message([&] { conditional_mixture<double>(0, c, 2); }), "2 components of dimension 0"));
  CHECK(message([&] { conditional_mixture(x, c, 0, diffeo::NoEmbedding()); }) ==
        "conditional_mixture: 0 components, expected at least 1");
  CHECK(message([&] { conditional_mixture(x, c, 2, diffeo::NoEmbedding()); }) ==
        "conditional mixture: the network gave 1 x 3 values for 1 contexts, expected 1 x 10");
}
