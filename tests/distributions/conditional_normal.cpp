// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/describe.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/training/fit.hpp>
#include <sstream>

#include "../arrays.hpp"
#include "statistics.hpp"

using diffeo::Array;
using diffeo::conditional_normal;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::Pass;

namespace {

// x = offset + c A' + scales n for a standard normal n: D = 2, C = 3.
template <diffeo::Real S>
struct LinearGaussian {
  Array<S> offset{1, 2}, matrix{2, 3}, scales{1, 2}, contexts;

  explicit LinearGaussian(Index rows) {
    offset << 7, S(-0.5);
    matrix << 1, -2, S(0.5), S(0.25), S(0.5), 0;
    scales << S(0.5), S(0.1);
    contexts = gaussian<S>(rows, 3, 1);
    contexts.col(1) = contexts.col(1) * S(0.5) + S(3);
  }
  Array<S> mean() const {
    Array<S> result = (contexts.matrix() * matrix.matrix().transpose()).array();
    return result.rowwise() + offset.row(0);
  }
  Array<S> sample(std::uint64_t stream) const {
    Array<S> noise = gaussian<S>(contexts.rows(), 2, stream);
    noise.rowwise() *= scales.row(0);
    return mean() + noise;
  }
  double entropy() const { return scales.log().sum() + 1 + diffeo::detail::log_two_pi; }
};

// A conditional normal in the plane whose network is an affine map of two columns of context.
template <diffeo::Real S>
auto affine_conditional() {
  diffeo::Linear<S> network{Array<S>(4, 2), Array<S>(1, 4)};
  network.weight << 1, 0, S(-0.5), 2, S(0.25), S(0.5), 0, S(-0.25);
  network.bias << S(0.5), -1, S(0.125), S(-0.25);
  Array<S> mean(1, 2), scale(1, 2), shift(1, 2), unit(1, 2);
  mean << 1, -2;
  scale << 2, S(0.5);
  shift << 10, -3;
  unit << 4, S(0.5);
  return diffeo::ConditionalNormal<S, diffeo::Linear<S>>{
      diffeo::Standardize<S>::from(mean, scale), network, diffeo::Standardize<S>::from(shift, unit), {2}};
}

}  // namespace

TEMPLATE_TEST_CASE("conditional normal: log-density, mean and scale", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto d = affine_conditional<S>();
  const Array<S> x = gaussian<S>(20, 2, 1) * S(5), c = gaussian<S>(20, 2, 2);
  const Array<S> log_p = d.log_prob(x, c);
  for (Index i = 0; i < x.rows(); ++i) {
    const double a = (double(c(i, 0)) - 1) / 2, b = (double(c(i, 1)) + 2) / 0.5;
    const double mean[] = {10 + 4 * (a + 0.5), -3 + 0.5 * (-0.5 * a + 2 * b - 1)};
    const double scale[] = {4 * std::exp(0.25 * a + 0.5 * b + 0.125), 0.5 * std::exp(-0.25 * b - 0.25)};
    double expected = 0;
    const auto given = d.given(c.row(i));
    for (Index j = 0; j < 2; ++j) {
      CHECK(double(given.mean(0, j)) == Approx(mean[j]).epsilon(1e-5).margin(1e-5));
      CHECK(double(given.log_scale(0, j)) == Approx(std::log(scale[j])).epsilon(1e-5).margin(1e-5));
      const double z = (double(x(i, j)) - mean[j]) / scale[j];
      expected -= 0.5 * z * z + std::log(scale[j]) + 0.5 * std::log(2 * 3.14159265358979323846);
    }
    CHECK(double(log_p(i, 0)) == Approx(expected).epsilon(sizeof(S) == 4 ? 1e-4 : 1e-12));
  }
}

TEMPLATE_TEST_CASE("conditional normal: samples", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto d = affine_conditional<S>();
  const Array<S> c = gaussian<S>(20000, 2, 2), x = d.sample(c, 3);
  // Standardised by the mean and scale of its own context each sample is standard normal.
  Array<double> z(x.rows(), 2);
  for (Index i = 0; i < x.rows(); ++i) {
    const auto given = d.given(c.row(i));
    for (Index j = 0; j < 2; ++j)
      z(i, j) = double(x(i, j) - given.mean(0, j)) * std::exp(-double(given.log_scale(0, j)));
  }
  for (Index j = 0; j < 2; ++j) CHECK(kolmogorov(z.col(j), normal_cdf) < 1.95);
  CHECK(std::abs((z.col(0) * z.col(1)).mean()) < 0.03);
}

TEMPLATE_TEST_CASE("conditional normal: samples on a tape are those of arrays", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto d = affine_conditional<S>();
  const diffeo::TransformedDistribution flow(d, diffeo::Standardize<S>::identity(2));
  for (const Index contexts : {1, 40}) {
    const Array<S> c = gaussian<S>(contexts, 2, 2);
    diffeo::Tape<S> tape;
    Pass<S> pass;
    pass.context = tape.copy(c);
    const auto pair = d.sample_and_log_prob(40, c, 5);
    const Array<S> drawn = to_array(d.draw(tape, 40, 5, diffeo::sample_stream, 0, pass));
    CHECK((drawn - pair.sample).abs().maxCoeff() < (sizeof(S) == 4 ? S(1e-3) : S(1e-12)));
    const auto of_flow = flow.draw(tape, 40, 5, diffeo::sample_stream, 0, pass);
    CHECK((to_array(of_flow.sample) - drawn).abs().maxCoeff() == 0);
    CHECK((to_array(of_flow.log_prob) - pair.log_prob).abs().maxCoeff() < (sizeof(S) == 4 ? S(1e-3) : S(1e-11)));
  }
}

TEMPLATE_TEST_CASE("conditional normal: a linear network recovers a linear Gaussian", "[distributions][long]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const LinearGaussian<S> truth(20000);
  const Array<S> x = truth.sample(2);
  auto model = conditional_normal(x, truth.contexts, {.network = {.hidden = {}}});
  // At the start the distribution is the normal one with the moments of x.
  const auto start = model.given(Array<S>(truth.contexts.colwise().mean()));
  CHECK((start.mean - x.colwise().mean()).abs().maxCoeff() < S(1e-2));
  const Array<S> spread = (x.rowwise() - x.colwise().mean()).square().colwise().mean().sqrt();
  CHECK((start.log_scale.exp() / spread - S(1)).abs().maxCoeff() < S(1e-2));
  diffeo::fit(model, x, truth.contexts, {.steps = 1500, .rate = {.learning_rate = 1e-2}, .threads = 1});
  // E[x | c] = offset + A c at unit vectors, and the scales, whatever c.
  const auto at = [&](Index column) {
    Array<S> c = Array<S>::Zero(1, 3);
    if (column >= 0) c(0, column) = 1;
    return model.given(c);
  };
  const auto origin = at(-1);
  for (Index j = 0; j < 2; ++j) {
    CHECK(double(origin.mean(0, j)) == Approx(double(truth.offset(0, j))).margin(0.05));
    for (Index k = 0; k < 3; ++k) {
      const auto moved = at(k);
      CHECK(double(moved.mean(0, j) - origin.mean(0, j)) == Approx(double(truth.matrix(j, k))).margin(0.02));
    }
    CHECK(double(model.given(truth.contexts.row(5)).log_scale(0, j)) ==
          Approx(std::log(double(truth.scales(0, j)))).margin(0.05));
  }
}

TEST_CASE("conditional normal: the default network comes near a linear Gaussian", "[distributions][long]") {
  const LinearGaussian<float> truth(20000);
  const Array<float> x = truth.sample(2), fresh = truth.sample(3);
  auto model = conditional_normal(x, truth.contexts);
  CHECK(diffeo::context_dim(model) == 3);
  diffeo::fit(model, x, truth.contexts, {.steps = 1500, .threads = 1});
  const double gap = -truth.entropy() - double(model.log_prob(fresh, truth.contexts).mean());
  CAPTURE(gap);
  CHECK(gap < 0.03);
  CHECK(gap > -0.03);
}

TEMPLATE_TEST_CASE("conditional normal: for contexts far from those of the data nothing is NaN", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const LinearGaussian<S> truth(1000);
  auto model = conditional_normal(truth.sample(2), truth.contexts,
                                  {.network = {.hidden = {16}, .activation = diffeo::Activation::relu}});
  diffeo::fit(model, truth.sample(2), truth.contexts, {.steps = 100, .threads = 1});
  const Array<S> x = truth.sample(3).topRows(20);
  for (const double distance : {1e1, 1e3, 1e6, 1e8})
    for (const double grow : {1.0, 1e3}) {  // of the log standard deviations
      CAPTURE(distance, grow);
      auto far = model;
      far.network.layers.back().weight.bottomRows(2) *= static_cast<S>(grow);
      const Array<S> c = truth.contexts.topRows(20) * static_cast<S>(distance);
      CHECK_FALSE(far.log_prob(x, c).isNaN().any());
      CHECK_FALSE(far.score(x, c).isNaN().any());
      CHECK_FALSE(far.context_score(x, c).isNaN().any());
      CHECK(far.sample(c, 5).allFinite());
      const auto drawn = far.sample_and_log_prob(c, 5);
      CHECK(drawn.sample.allFinite());
      CHECK_FALSE(drawn.log_prob.isNaN().any());
    }
}

TEMPLATE_TEST_CASE("conditional normal: limits of the standard deviations", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  // The context is mean and log standard deviation.
  const diffeo::ConditionalNormal<S, diffeo::NoEmbedding> d{
      diffeo::Standardize<S>::identity(2), {}, diffeo::Standardize<S>::identity(1), {1}};
  const double limit = std::log(double(std::numeric_limits<S>::max())) / 4;
  Array<S> c = Array<S>::Zero(5, 2);
  const Array<S> x = Array<S>::Constant(5, 1, S(0.5));
  c.col(1) << S(-1e4), S(-3), S(3), S(0.9 * limit), S(1e4);
  const Array<S> log_p = d.log_prob(x, c), slope = d.context_score(x, c);
  for (Index i = 0; i < 5; ++i) {
    const double s = std::min(std::max(double(c(i, 1)), -limit), limit), square = 0.25 * std::exp(-2 * s);
    CHECK(double(log_p(i, 0)) == Approx(-0.5 * square - s - 0.5 * diffeo::detail::log_two_pi).epsilon(1e-4));
    CHECK(double(slope(i, 1)) == Approx(i == 0 || i == 4 ? 0 : square - 1).epsilon(1e-4));
  }
}

TEST_CASE("conditional normal: what does not fit is refused", "[distributions]") {
  const Array<double> x = gaussian<double>(6, 2, 1), c = gaussian<double>(6, 3, 2);
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([&] { conditional_normal(x, c.topRows(5)); }) ==
        "conditional_normal: the context has 5 rows, the data 6");
  CHECK(
      contains(message([&] { conditional_normal(x, Array<double>(Array<double>::Ones(6, 1))); }), "context: column 0"));
  CHECK(contains(message([&] { conditional_normal(Array<double>(Array<double>::Ones(6, 1)), c); }), "column 0"));
  CHECK(message([&] { conditional_normal(x, c, diffeo::make_linear<double>(3, 5, {}, 1, 2)); }) ==
        "conditional normal: the network gave 1 x 5 values for 1 contexts, expected 1 x 4");
  CHECK(message([&] { conditional_normal<double>(0, c); }) == "conditional_normal: dimension 0, expected at least 1");
  // Parts that do not fit are named.
  auto model = conditional_normal(x, c, {.network = {.hidden = {4}}});
  model.family.dim = 3;
  CHECK(contains(message([&] { model.log_prob(gaussian<double>(6, 3, 1), c); }),
                 "conditional normal: the units have dimension 2, the family 3"));
  model.family.dim = 2;
  std::ostringstream text;
  text << diffeo::describe(model);
  CHECK(contains(text.str(), "family.dim"));
}
