// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/distributions/importance.hpp>
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/layers/diagonal_scale.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/targets/rezende_mohamed.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/training/reverse_kl.hpp>
#include <limits>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::DiagonalNormal;
using diffeo::DiagonalScale;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::Minibatch;
using diffeo::ReverseKl;
using diffeo::ReverseKlOptions;
using diffeo::StandardNormal;
using diffeo::StopReason;
using diffeo::Tape;
using diffeo::TransformedDistribution;

namespace {

// A normal density in each coordinate, less its constant: log Z = sum of log(sd) + D / 2 log(2 pi).
template <diffeo::Real S>
struct Normal {
  Array<S> mean, sd;  // 1 x D
  template <class X>
  X operator()(const X& x) const {
    return sum_cols(square((x - mean) / sd)) * S(-0.5);
  }
  double log_z() const {
    return static_cast<double>(sd.log().sum()) + 0.5 * diffeo::detail::log_two_pi * static_cast<double>(sd.size());
  }
};

template <diffeo::Real S>
Normal<S> some_target() {
  Normal<S> target{Array<S>(1, 2), Array<S>(1, 2)};
  target.mean << S(0.5), S(-1);
  target.sd << S(0.7), S(2);
  return target;
}

// x = mean + exp(base log-scale + log-scale) z: a model with all the target's freedom.
template <diffeo::Real S>
auto gaussian_model() {
  return TransformedDistribution(DiagonalNormal<S>::standard(2), DiagonalScale<S>{Array<S>::Zero(1, 2)});
}

template <diffeo::Real S>
auto some_flow(std::uint64_t seed = 3) {
  return TransformedDistribution(
      StandardNormal<S>(2),
      diffeo::real_nvp<S>(2, {.layers = 4, .network = {.hidden = {16, 16}, .last_scale = 1}, .seed = seed}));
}

// Losses and the gradient of their mean.
struct Evaluated {
  Array<double> loss, gradient;
};
template <class Model, class O>
Evaluated evaluate(const Model& model, const O& objective, const Minibatch& batch) {
  Array<double> values = diffeo::parameters(model), gradient = Array<double>::Zero(values.rows(), 1);
  Tape<double> tape;
  const auto lifted = lift(tape, model, values.data(), gradient.data());
  const auto detached = lift_detached(tape, model, values.data());
  const auto loss = objective.loss(lifted, detached, tape, batch);
  const Array<double> seeds = Array<double>::Constant(batch.count, 1, 1.0 / static_cast<double>(batch.count));
  tape.backward(loss, diffeo::view(seeds));
  tape.finish_parameter_grads();
  return {as_eigen(loss.value()), gradient};
}

using Objective = ReverseKl<Normal<float>>;
static_assert(diffeo::DrawsSamples<Objective> && !diffeo::DrawsSamples<diffeo::MaximumLikelihood<float>>);
static_assert(diffeo::Objective<Objective, decltype(some_flow<float>())>);
static_assert(diffeo::Objective<Objective, decltype(gaussian_model<float>())>);
// A mixture cannot be drawn as a differentiable function of its parameters.
static_assert(
    !diffeo::Objective<Objective, TransformedDistribution<diffeo::GaussianMixture<float>, DiagonalScale<float>>>);

}  // namespace

TEMPLATE_TEST_CASE("reverse KL: a normal target is met, and the loss is minus log Z there", "[training]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto target = some_target<S>();
  for (const bool path_derivative : {false, true}) {
    CAPTURE(path_derivative);
    auto model = gaussian_model<S>();
    const auto report = diffeo::fit(model, ReverseKl(target, {.path_derivative = path_derivative}),
                                    {.steps = 1500, .batch = 256, .rate = {.learning_rate = 0.02}, .threads = 1});
    CHECK(report.steps == 1500);
    CHECK(report.reason == StopReason::completed);
    const Array<S> sd = (model.base.log_scale + model.flow.log_scale).exp();
    const Array<S> mean = model.base.mean * model.flow.log_scale.exp();
    const double tolerance = path_derivative ? 1e-4 : 0.02;  // the path derivative has no noise there
    CHECK((sd / target.sd - S(1)).abs().maxCoeff() < S(tolerance));
    CHECK((mean - target.mean).abs().maxCoeff() < S(tolerance));
    CHECK(report.final_loss() == Approx(-target.log_z()).margin(tolerance).epsilon(0));
  }
}

TEST_CASE("reverse KL: the mean loss has the closed form of two normal distributions", "[training]") {
  const auto target = some_target<double>();
  auto model = gaussian_model<double>();
  model.base.mean << 0.3, -0.4;
  model.base.log_scale << 0.2, 0.1;
  double kl = 0;
  for (Index j = 0; j < 2; ++j) {
    const double sd = std::exp(model.base.log_scale(0, j)), s = target.sd(0, j);
    kl += std::log(s / sd) + (sd * sd + std::pow(model.base.mean(0, j) - target.mean(0, j), 2)) / (2 * s * s) - 0.5;
  }
  const auto e = evaluate(model, ReverseKl(target), {.seed = 5, .count = 100000});
  const double error = std::sqrt((e.loss - e.loss.mean()).square().mean() / 1e5);
  CHECK(std::abs(e.loss.mean() - (kl - target.log_z())) < 4 * error);

  // Gradients of KL: in the mean, and in the log-scale.
  for (const bool path_derivative : {false, true}) {
    const auto g =
        evaluate(model, ReverseKl(target, {.path_derivative = path_derivative}), {.seed = 6, .count = 100000});
    for (Index j = 0; j < 2; ++j) {
      const double sd = std::exp(model.base.log_scale(0, j)), s = target.sd(0, j);
      const double offset = model.base.mean(0, j) - target.mean(0, j);
      CHECK(g.gradient(j, 0) == Approx(offset / (s * s)).margin(0.02));
      CHECK(g.gradient(2 + j, 0) == Approx(sd * sd / (s * s) - 1).margin(0.05));
    }
  }
}

TEST_CASE("reverse KL: gradients against differences with common random numbers", "[training]") {
  const diffeo::targets::U1 target;
  auto model = some_flow<double>();
  const Minibatch batch{.first = 32, .step = 4, .seed = 9, .count = 50};
  for (const double beta_start : {1.0, 0.2}) {
    CAPTURE(beta_start);
    const ReverseKlOptions options{.beta_start = beta_start, .anneal_steps = 8};
    const ReverseKl objective(target, options);
    const Array<double> values = diffeo::parameters(model), gradient = evaluate(model, objective, batch).gradient;
    CHECK(options.beta(4) == Approx(beta_start + (1 - beta_start) / 2));
    // What the gradient is of, from samples and densities alone.
    const auto tempered = [&](const Array<double>& at) {
      auto moved = model;
      set_parameters(moved, at);
      const auto with = evaluate(moved, ReverseKl(target), batch).loss;  // log q - log p
      const auto flat = [](const auto& x) { return sum_cols(x) * 0.0; };
      const auto without = evaluate(moved, ReverseKl(flat), batch).loss;  // log q
      return (without - options.beta(4) * (without - with)).mean();
    };
    for (std::uint64_t k = 0; k < 5; ++k) {
      Array<double> direction(values.rows(), 1);
      diffeo::fill_normal(diffeo::view(direction), 8, k);
      const double h = 1e-6;
      const double expected = (tempered(values + h * direction) - tempered(values - h * direction)) / (2 * h);
      CHECK((gradient * direction).sum() == Approx(expected).epsilon(1e-5).margin(1e-6));
    }
  }
}

TEST_CASE("reverse KL: the loss reported is the same with annealing and with the path derivative", "[training]") {
  const diffeo::targets::U1 target;
  const auto model = some_flow<double>();
  const Minibatch batch{.step = 3, .seed = 1, .count = 70};
  const Array<double> loss = evaluate(model, ReverseKl(target), batch).loss;
  CHECK((evaluate(model, ReverseKl(target, {.beta_start = 0, .anneal_steps = 10}), batch).loss == loss).all());
  CHECK((evaluate(model, ReverseKl(target, {.path_derivative = true}), batch).loss == loss).all());
}

TEST_CASE("reverse KL: the path derivative has no variance where q = p, and the same mean elsewhere", "[training]") {
  // The target is a flow itself, and the model starts as its copy.
  const auto truth = some_flow<double>();
  const auto target = [&truth](const auto& x) { return truth.log_prob(x); };
  const ReverseKl plain(target), path(target, {.path_derivative = true});
  const Minibatch batch{.seed = 2, .count = 100};
  CHECK(evaluate(truth, path, batch).gradient.abs().maxCoeff() < 1e-10);
  CHECK(evaluate(truth, plain, batch).gradient.abs().maxCoeff() > 1e-3);

  const auto model = some_flow<double>(4);
  const int rounds = 200;
  Array<double> sum = Array<double>::Zero(diffeo::parameter_count(model), 1), squares = sum;
  for (int round = 0; round < rounds; ++round) {
    const Minibatch other{.step = static_cast<std::uint64_t>(round), .seed = 3, .count = 100};
    const Array<double> d = evaluate(model, plain, other).gradient - evaluate(model, path, other).gradient;
    sum += d;
    squares += d.square();
  }
  const Array<double> mean = sum / rounds, error = ((squares / rounds - mean.square()) / rounds).sqrt();
  const Array<double> z = (mean / error.max(1e-12)).abs();
  CHECK(z.square().mean() < 1.5);  // 1 is expected
  CHECK(z.maxCoeff() < 5);         // of several hundred
}

TEMPLATE_TEST_CASE("reverse KL: same seed, same bits, on any number of threads", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const diffeo::targets::U1 target;
  const auto start = some_flow<S>();
  const auto trained = [&](int threads, std::uint64_t seed) {
    auto model = start;
    const auto report = diffeo::fit(model, ReverseKl(target, {.anneal_steps = 5, .path_derivative = true}),
                                    {.steps = 20, .batch = 900, .seed = seed, .threads = threads});
    return std::pair(diffeo::parameters(model), report.loss);
  };
  const auto [values, loss] = trained(1, 5);
  for (const int threads : {2, 3, 0}) {
    const auto [others, other_loss] = trained(threads, 5);
    CHECK((others == values).all());
    CHECK(other_loss == loss);
  }
  CHECK(trained(1, 6).second != loss);
  CHECK(loss[3] != loss[2]);
}

TEST_CASE("reverse KL: every sample of a step is drawn once, whatever the tiles", "[training]") {
  // The mean loss of the first step is that of the whole batch at once.
  const diffeo::targets::U1 target;
  const auto model = some_flow<double>();
  const ReverseKl objective(target);
  diffeo::Trainer trainer(model, objective, diffeo::FitOptions{.batch = 700, .seed = 8, .threads = 1});
  CHECK(trainer.batch() == 700);
  CHECK(trainer.tile() == diffeo::tile_rows<double>);
  const double loss = trainer.step(1e-9);
  CHECK(loss == Approx(evaluate(model, objective, {.seed = 8, .count = 700}).loss.mean()).epsilon(1e-12));
  CHECK(trainer.tile() > diffeo::tile_rows<double>);  // so small a model
  CHECK(trainer.step(1e-9) ==
        Approx(evaluate(model, objective, {.step = 1, .seed = 8, .count = 700}).loss.mean()).epsilon(1e-5));
}

TEST_CASE("reverse KL: a target that is not finite stops the training and is named", "[training]") {
  // NaN right of 3, which only samples of a moved flow reach.
  const auto broken = [](const auto& x) {
    const auto a = cols(x, 0, 1);
    return square(a - 10.0) * -0.5 - square(cols(x, 1, 1)) + sqrt(3.0 - a) * 0.0;
  };
  auto model = gaussian_model<double>();
  model.base.mean << -3, 0;
  model.base.log_scale << -2, -2;
  const auto report =
      diffeo::fit(model, ReverseKl(broken), {.steps = 5000, .batch = 100, .rate = {.learning_rate = 0.05}});
  CHECK(report.reason == StopReason::non_finite);
  CHECK(report.steps > 10);
  CHECK(report.steps < 5000);
  CHECK(diffeo::parameters(model).isFinite().all());
  CHECK(model.base.mean(0, 0) > -2.5);  // it kept what it had learned
  INFO(report.failure);
  CHECK(contains(report.failure, "sample "));
  REQUIRE(report.recoveries.size() == 10);  // they do not help: the mode is where the target is not defined
  const std::string& first = report.recoveries.front().failure;
  CHECK(contains(first, " of step " + std::to_string(report.recoveries.front().step) + " is (3."));
  CHECK((contains(first, "the target returned nan") || contains(first, "the target returned -nan")));
  CHECK((contains(report.failure, "the target returned nan") || contains(report.failure, "the target returned -nan")));
  std::ostringstream printed;
  printed << report;
  CHECK(contains(printed.str(), report.failure));

  // From the start: nothing is learned, nothing is lost.
  const auto nowhere = [](const auto& x) { return sum_cols(x) * std::numeric_limits<double>::quiet_NaN(); };
  const auto before = model;
  const auto second = diffeo::fit(model, ReverseKl(nowhere), {.steps = 10});
  CHECK(second.reason == StopReason::non_finite);
  CHECK(second.steps == 0);
  CHECK(contains(second.failure, "sample 0 of step 0"));
  CHECK(same_parameters(model, before));

  // Outside of the support.
  const auto outside = [](const auto& x) { return sum_cols(x) * 0.0 - std::numeric_limits<double>::infinity(); };
  CHECK(contains(diffeo::fit(model, ReverseKl(outside), {.steps = 10}).failure, "the target returned -inf"));
}

TEST_CASE("reverse KL: bad targets and options", "[training]") {
  const auto message = [](const auto& target, const ReverseKlOptions& options = {},
                          const diffeo::FitOptions& fit_options = {.steps = 3}) {
    auto model = some_flow<float>();
    const auto before = model;
    const auto text =
        thrown_message<invalid_argument>([&] { diffeo::fit(model, ReverseKl(target, options), fit_options); });
    CHECK(same_parameters(model, before));
    return text;
  };
  const diffeo::targets::U1 good;
  CHECK(contains(message([](const auto& x) { return x; }), "the target returned 64 x 2 values for 64 samples"));
  CHECK(contains(message([](const auto& x) { return sum(x); }), "the target returned 1 x 1 values for 64 samples"));
  // One that says its dimension, and one that finds out.
  struct OfThree {
    Index dim() const { return 3; }
    diffeo::Var<float> operator()(const diffeo::Var<float>& x) const { return sum_cols(x); }
  };
  CHECK(message(OfThree()) == "reverse_kl: the target has dimension 3, the flow 2");
  CHECK(contains(message([](const auto& x) { return cols(x, 2, 1); }), "cols: columns 2 to 3 of a block with 2"));

  CHECK(contains(message(good, {.beta_start = -0.1}), "reverse_kl: beta_start is -0.1"));
  CHECK(contains(message(good, {.beta_start = 0.5}), "reverse_kl: beta_start is 0.5 and anneal_steps 0"));
  CHECK(contains(message(good, {.beta_start = 1.5}), "reverse_kl: beta_start is 1.5"));
  CHECK(contains(message(good, {.beta_start = std::numeric_limits<double>::quiet_NaN()}), "beta_start is nan"));
  CHECK(contains(message(good, {.anneal_steps = -1}), "reverse_kl: anneal_steps is -1"));
  CHECK(contains(message(good, {}, {.validation_fraction = 0.1}), "draws its samples and has no rows to hold out"));
  CHECK(contains(message(good, {}, {.batch = 0}), "fit: batch is 0"));
  CHECK(contains(message(good, {}, {.patience = 3}), "patience needs validation_fraction"));
}

TEST_CASE("reverse KL: annealing is linear and ends at 1", "[training]") {
  const ReverseKlOptions options{.beta_start = 0.1, .anneal_steps = 9};
  CHECK(options.beta(0) == Approx(0.1));
  CHECK(options.beta(1) == Approx(0.2));
  CHECK(options.beta(8) == Approx(0.9));
  CHECK(options.beta(9) == 1);
  CHECK(options.beta(100) == 1);
}
