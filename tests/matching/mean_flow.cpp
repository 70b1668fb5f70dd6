// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/matching/mean_flow.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/training/validate.hpp>
#include <limits>
#include <numbers>
#include <numeric>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::average_samples;
using diffeo::AverageField;
using diffeo::Cnf;
using diffeo::FlowMatching;
using diffeo::IndependentPairing;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::LinearPath;
using diffeo::make_average_field;
using diffeo::make_mlp_field;
using diffeo::mean_flow;
using diffeo::MeanFlowMatching;
using diffeo::MeanFlowOptions;
using diffeo::Snapshot;
using diffeo::StandardNormal;
using diffeo::Traced;
using diffeo::TransformedDistribution;
using diffeo::TrigonometricPath;

namespace {

// The flow along the trigonometric path from x0 to x1 = ratio x0: x_t = g(t) x0 with g(t) = cos(a t) + ratio sin(a t)
// and a = pi / 2, whose velocity is g'(t) / g(t) x and whose average velocity (g(s) / g(t) - 1) / (s - t) x.
template <class T>
struct CurvedField {
  using Scalar = diffeo::scalar_t<T>;

  double ratio = 3;

  Index dim() const { return 2; }
  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "curved", "ratio", self.ratio);
  }
  template <class U>
  CurvedField<U> rebind() const {
    return {ratio};
  }

  template <Traced X>
  X scale(const X& t) const {
    const X angle = t * Scalar(std::numbers::pi / 2);
    return cos(angle) + sin(angle) * Scalar(ratio);
  }
  template <Traced X>
  X average(const X& t, const X& span, const X& x, const diffeo::Var<Scalar>& = {}) const {
    return x * ((scale(t + span) / scale(t) - Scalar(1)) / span);
  }
  template <Traced X>
  X operator()(const X& t, const X& x) const {
    const X angle = t * Scalar(std::numbers::pi / 2);
    return x * ((cos(angle) * Scalar(ratio) - sin(angle)) * Scalar(std::numbers::pi / 2) / scale(t));
  }
};

TransformedDistribution<StandardNormal<double>, Cnf<CurvedField<double>>> curved_model() {
  diffeo::CnfOptions options;
  options.evaluation.solver.relative_tolerance = options.evaluation.solver.absolute_tolerance = 1e-10;
  return {StandardNormal<double>(2), Cnf{CurvedField<double>{}, options}};
}

}  // namespace

TEST_CASE("mean flow: the exact average velocities of a curved path have no loss", "[matching]") {
  const auto model = curved_model();
  const Array<double> x0 = diffeo::StandardNormal<double>(2).sample(200, 1);
  const Array<double> x1 = 3 * x0;
  const std::vector<Snapshot<double>> snapshots = {{0, {x0}}, {1, {x1}}};
  const auto objective_of = [&](double instantaneous, double power) {
    return MeanFlowMatching(
        model, snapshots, TrigonometricPath{}, IndependentPairing{},
        MeanFlowOptions{.matching = {.paired = true}, .instantaneous = instantaneous, .weight_power = power});
  };
  std::vector<Index> rows(200);
  std::iota(rows.begin(), rows.end(), Index{0});
  CHECK(mean_loss(model, objective_of(0, 0), rows, 1) < 1e-12);
  // With the wrong ratio the target is another.
  auto wrong = model;
  wrong.flow.field.ratio = 2;
  CHECK(mean_loss(wrong, objective_of(0, 0), rows, 1) > 0.1);
}

TEST_CASE("mean flow: samples by average velocities are those of the equation", "[matching]") {
  const auto model = curved_model();
  const Array<double> solved = model.sample(70, 3);
  for (const Index steps : {1, 2, 7}) CHECK((average_samples(model, 70, 3, steps) - solved).abs().maxCoeff() < 1e-8);
  CHECK(same_bits(average_samples(model, 70, 3, 2, 1), average_samples(model, 70, 3, 2, 2)));
  CHECK(average_samples(model, 0, 3).rows() == 0);
}

TEST_CASE("mean flow: learns a normal distribution that one evaluation samples", "[matching][training]") {
  const diffeo::DiagonalNormal<float> truth{(Array<float>(1, 2) << 3, -1).finished(),
                                            (Array<float>(1, 2) << 0.7f, -0.7f).finished()};
  const Array<float> x = truth.sample(4000, 1);
  TransformedDistribution model(StandardNormal<float>(2),
                                mean_flow(x, {.network = {.hidden = {32, 32}, .first_scale = 1}}));
  diffeo::fit(model, MeanFlowMatching(model, x), {.steps = 1500, .batch = 256, .seed = 1});
  const Array<float> fresh = truth.sample(2000, 2);
  // Against the distribution itself, by both ways to samples, and the density.
  for (const Array<float>& y : {average_samples(model, 4000, 5), model.sample(4000, 5)}) {
    const Array<float> mean = y.colwise().mean();
    const Array<float> sd = (y.rowwise() - mean.row(0)).square().colwise().mean().sqrt();
    CHECK(mean(0, 0) == Approx(3).margin(0.15));
    CHECK(mean(0, 1) == Approx(-1).margin(0.05));
    CHECK(sd(0, 0) == Approx(std::exp(0.7)).epsilon(0.06));
    CHECK(sd(0, 1) == Approx(std::exp(-0.7)).epsilon(0.06));
  }
  CHECK((truth.log_prob(fresh) - model.log_prob(fresh)).mean() == Approx(0).margin(0.03));
}

TEST_CASE("mean flow: with a context", "[matching]") {
  const Array<float> x = Array<float>::Random(50, 2), c = Array<float>::Random(50, 3);
  const TransformedDistribution model(StandardNormal<float>(2), mean_flow(x, c, {.network = {.hidden = {8}}}));
  const Array<float> one = average_samples(model, 20, c.topRows(1), 1);
  CHECK(same_bits(one, average_samples(model.given(c.topRows(1)), 20, 1)));
  CHECK((average_samples(model, 50, c, 1).row(0) == one.row(0)).all());
  CHECK_THROWS_AS(average_samples(model, 20, 1), invalid_argument);
  CHECK_THROWS_AS(average_samples(model, 20, c.topRows(2), 1), invalid_argument);
  const diffeo::Dataset<float> data = {.x = x, .context = c};
  const MeanFlowMatching objective(model, data);
  CHECK(objective.size() == 50);
  std::vector<Index> rows(50);
  std::iota(rows.begin(), rows.end(), Index{0});
  CHECK(std::isfinite(mean_loss(model, objective, rows, 1)));
}

TEST_CASE("mean flow: bad input", "[matching]") {
  const Array<float> x = Array<float>::Random(50, 2);
  const TransformedDistribution model(StandardNormal<float>(2), mean_flow(x, {.network = {.hidden = {8}}}));
  const auto with = [&](MeanFlowOptions options) {
    return MeanFlowMatching(model, x, LinearPath{}, IndependentPairing{}, options);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double share : {-0.1, 1.1, nan}) CHECK_THROWS_AS(with({.instantaneous = share}), invalid_argument);
  for (const double power : {-1.0, nan}) CHECK_THROWS_AS(with({.weight_power = power}), invalid_argument);
  CHECK_THROWS_AS(average_samples(model, 10, 1, 0), invalid_argument);
  CHECK_THROWS_AS(average_samples(model, -1, 1), invalid_argument);
  CHECK_THROWS_AS(MeanFlowMatching(model, Array<float>(Array<float>::Random(50, 3))), invalid_argument);
}
