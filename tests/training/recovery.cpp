// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/data/toy2d.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/targets/rezende_mohamed.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/training/reverse_kl.hpp>
#include <limits>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::FitOptions;
using diffeo::FitReport;
using diffeo::Index;
using diffeo::MaximumLikelihood;
using diffeo::Minibatch;
using diffeo::StandardNormal;
using diffeo::StopReason;
using diffeo::Tape;
using diffeo::TransformedDistribution;
using diffeo::Var;

// Trainings that go wrong, and what becomes of them.

namespace {

constexpr double no_bound = std::numeric_limits<double>::infinity();

template <class Model, class S>
double loss_over(const Model& model, const Array<S>& data) {
  return -model.log_prob(data).template cast<double>().mean();
}

// Maximum likelihood that is NaN in one step, or from that step on.
template <diffeo::Real S>
struct TurnsNan {
  MaximumLikelihood<S> good;
  std::uint64_t first, last;
  Index size() const { return good.size(); }
  template <class Model>
  Var<S> loss(const Model& model, Tape<S>& tape, const Minibatch& batch) const {
    const Var<S> y = good.loss(model, tape, batch);
    return batch.step < first || batch.step > last ? y : y * std::numeric_limits<S>::quiet_NaN();
  }
};

// Maximum likelihood, with a large loss in the first step and again from some step on.
struct LosesAgain {
  MaximumLikelihood<double> good;
  std::uint64_t from;
  Index size() const { return good.size(); }
  template <class Model>
  Var<double> loss(const Model& model, Tape<double>& tape, const Minibatch& batch) const {
    return good.loss(model, tape, batch) + (batch.step == 0 ? 1e7 : batch.step >= from ? 1e5 : 0);
  }
};

// Maximum likelihood of rows that it chooses by itself, in turn.
struct InTurn {
  MaximumLikelihood<double> good;
  Index* minibatches;
  struct StepState {
    Index next = 0;
  };
  Index size() const { return good.size(); }
  void choose_rows(StepState& state, std::span<Index> chosen, std::uint64_t) const {
    ++*minibatches;
    for (Index& row : chosen) row = state.next++ % size();
  }
  void begin_step(StepState&, const Minibatch&) const {}
  template <class Model>
  Var<double> loss(const Model& model, Tape<double>& tape, const Minibatch& batch, const StepState&) const {
    return good.loss(model, tape, batch);
  }
};

// Makes the likelihood small.
struct Unlikelihood {
  MaximumLikelihood<double> good;
  Index size() const { return good.size(); }
  template <class Model>
  Var<double> loss(const Model& model, Tape<double>& tape, const Minibatch& batch) const {
    return -good.loss(model, tape, batch);
  }
};

// The lowest mean of as many losses as a smoothed one has, at any step.
double lowest_smoothed(const std::vector<double>& losses, std::size_t end) {
  double lowest = no_bound;
  for (std::size_t last = 1; last <= end; ++last) {
    const std::size_t first = last > 50 ? last - 50 : 0;
    double sum = 0;
    for (std::size_t k = first; k < last; ++k) sum += losses[k];
    lowest = std::min(lowest, sum / static_cast<double>(last - first));
  }
  return lowest;
}

}  // namespace

namespace {

// Samples of Student's t with three degrees of freedom in every direction.
Array<float> student(Index rows, Index dim) {
  Array<double> x(rows, dim), u(rows, 3);
  diffeo::fill_normal(diffeo::view(x), 1, 1);
  diffeo::fill_normal(diffeo::view(u), 1, 2);
  const Array<double> scale = (u.square().rowwise().sum() / 3).sqrt();
  for (Index j = 0; j < dim; ++j) x.col(j) /= scale.col(0);
  return x.cast<float>();
}

}  // namespace

TEST_CASE("recovery: heavy tails, a free log-scale and a high rate", "[training][long]") {
  const Array<float> data = student(10000, 19);
  TransformedDistribution model(StandardNormal<float>(19),
                                diffeo::real_nvp(data, {.layers = 32, .log_scale_bound = no_bound}));
  const double before = loss_over(model, data);
  const FitReport report =
      diffeo::fit(model, data, {.steps = 200, .rate = {.learning_rate = 1e-2, .schedule = diffeo::Schedule::constant}});
  CAPTURE(report);
  CHECK(report.steps == 200);
  CHECK_FALSE(report.recoveries.empty());
  CHECK(loss_over(model, data) < before);
  CHECK(model.sample(1000, 1).allFinite());
}

TEST_CASE("recovery: a rate of 10 with averaged weights", "[training][long]") {
  const Array<float> data = diffeo::toy2d::sample<float>("moons", 2000, 1);
  const TransformedDistribution start(StandardNormal<float>(2),
                                      diffeo::real_nvp(data, {.layers = 8, .log_scale_bound = no_bound}));
  for (const long steps : {1L, 2L, 400L})
    for (const long most : {0L, 10L}) {
      CAPTURE(steps, most);
      auto model = start;
      const FitReport report = diffeo::fit(
          model, data, {.steps = steps, .rate = {.learning_rate = 10}, .ema_decay = 0.9, .max_recoveries = most});
      CAPTURE(report);
      CHECK((report.failed() || !report.recoveries.empty()));
      for (const diffeo::Recovery& recovery : report.recoveries) CHECK(recovery.learning_rate > 0);
      if (steps == 1) {
        // Found at the end: the report is that of a training that gave up.
        CHECK(report.failed());
        CHECK_FALSE(report.failure.empty());
        CHECK(report.final_loss() == report.best_loss);
        CHECK(report.steps == 1);
      }
      const double loss = loss_over(model, data);
      CHECK(loss <= loss_over(start, data) + 1e-4);
      if (steps == 400 && most > 0) CHECK(loss < loss_over(start, data) - 0.3);
      CHECK(model.sample(1000, 1).allFinite());
    }
}

TEST_CASE("recovery: a continuous flow at a rate of 0.5", "[training][long]") {
  const Array<float> data = diffeo::toy2d::sample<float>("checkerboard", 2000, 1);
  diffeo::CnfFlowOptions options{.network = {.hidden = {32, 32}}};
  options.cnf.training.solver.max_steps = 100;
  TransformedDistribution model(StandardNormal<float>(2), diffeo::cnf(data, options));
  const double before = loss_over(model, data);
  const FitReport report = diffeo::fit(model, data, {.steps = 60, .batch = 64, .rate = {.learning_rate = 0.5}});
  CAPTURE(report);
  CHECK_FALSE(report.recoveries.empty());
  CHECK(loss_over(model, data) < before + 0.1);  // 1024 of the 2000 rows are compared
}

TEST_CASE("recovery: a loss that turns NaN leaves a model no worse than the best smoothed loss", "[training]") {
  const Array<float> data = diffeo::toy2d::sample<float>("moons", 1000, 1);
  const TransformedDistribution start(StandardNormal<float>(2),
                                      diffeo::real_nvp(data, {.layers = 4, .network = {.hidden = {16, 16}}}));
  for (std::uint64_t seed = 0; seed < trainings_of(100); ++seed) {
    const auto at = static_cast<std::uint64_t>(1 + diffeo::permutation(120, seed)[0]);
    CAPTURE(seed, at);
    FitOptions options{.steps = 120,
                       .batch = 500,
                       .rate = {.learning_rate = 5e-3, .schedule = diffeo::Schedule::constant},
                       .ema_decay = seed % 2 == 0 ? 0 : 0.9,
                       .seed = seed,
                       .threads = 1};
    // From now on.
    auto model = start;
    options.max_recoveries = static_cast<long>(seed % 3);
    const FitReport ended =
        diffeo::fit(model, TurnsNan<float>{MaximumLikelihood<float>(data), at, ~std::uint64_t{0}}, options);
    CHECK(ended.reason == StopReason::non_finite);
    CHECK(ended.steps == static_cast<long>(at));
    const double lowest = lowest_smoothed(ended.loss, ended.loss.size());
    CHECK(loss_over(model, data) < lowest + 0.1);
    CHECK(ended.best_loss < lowest + 0.1);
    CHECK(ended.best_loss > lowest - 1e-9);
    // Once.
    model = start;
    options.max_recoveries = 3;
    const FitReport once = diffeo::fit(model, TurnsNan<float>{MaximumLikelihood<float>(data), at, at}, options);
    CHECK(once.reason == StopReason::completed);
    CHECK(once.steps == 120);
    CHECK(once.recoveries.size() == (at < 120 ? 1 : 0));
    CHECK(loss_over(model, data) < lowest_smoothed(once.loss, once.loss.size()) + 0.1);
  }
}

TEST_CASE("recovery: the same bits on any number of threads, and none of them change without trouble", "[training]") {
  const Array<float> data = diffeo::toy2d::sample<float>("moons", 700, 1);
  const TransformedDistribution start(StandardNormal<float>(2),
                                      diffeo::real_nvp(data, {.layers = 4, .network = {.hidden = {16, 16}}}));
  const FitOptions options{.steps = 60, .batch = 300, .ema_decay = 0.9};
  const auto trained = [&](const auto& objective, FitOptions how, int threads) {
    auto model = start;
    how.threads = threads;
    const FitReport report = diffeo::fit(model, objective, how);
    return std::pair(diffeo::parameters(model), report.loss);
  };
  const TurnsNan<float> once{MaximumLikelihood<float>(data), 40, 40};
  const auto [values, losses] = trained(once, options, 1);
  for (const int threads : {2, 3}) {
    const auto [others, other_losses] = trained(once, options, threads);
    CHECK((others == values).all());
    CHECK(other_losses == losses);
  }
  // After it has gone back, the training goes on from where it was: from the same parameters, moments and averages.
  FitOptions off = options;
  off.max_recoveries = 0;
  off.divergence = 0;
  const auto plain = trained(MaximumLikelihood<float>(data), options, 1),
             without = trained(MaximumLikelihood<float>(data), off, 1);
  CHECK((plain.first == without.first).all());
  CHECK(plain.second == without.second);
  CHECK(std::equal(losses.begin(), losses.begin() + 40, plain.second.begin()));
}

TEST_CASE("recovery: parameters, moments and averages go back together", "[training]") {
  // Minibatches are all rows, so that a training that goes back is one that had never gone on, but for its rate.
  const Array<double> data = diffeo::toy2d::sample<double>("moons", 100, 1);
  const TransformedDistribution start(StandardNormal<double>(2),
                                      diffeo::real_nvp(data, {.layers = 2, .network = {.hidden = {8}}}));
  const TurnsNan<double> objective{MaximumLikelihood<double>(data), 4, 4};
  const std::vector<Index> rows = diffeo::permutation(100, 1);
  for (const double ema : {0.0, 0.9}) {
    const FitOptions options{.batch = 100, .clip_ratio = 1.2, .ema_decay = ema, .threads = 1};
    diffeo::Trainer failing(start, objective, rows, options);
    diffeo::Trainer plain(start, objective.good, rows, options);
    for (int k = 0; k < 4; ++k) failing.step(1e-3);
    REQUIRE(failing.snapshot_step() == 3);
    failing.step(1e-3);
    CHECK(failing.outcome() == diffeo::StepOutcome::non_finite);
    CHECK((failing.failure() == "the loss is nan" || failing.failure() == "the loss is -nan"));
    for (int k = 0; k < 3; ++k) plain.step(1e-3);
    CHECK((failing.result() == plain.result()).all());
    if (ema > 0) continue;  // averages forget by the number of the step
    for (int k = 0; k < 3; ++k) CHECK(failing.step(5e-4) == Approx(plain.step(5e-4)).epsilon(1e-9));
    CHECK(failing.outcome() == diffeo::StepOutcome::taken);
    CHECK((failing.result() - plain.result()).abs().maxCoeff() < 1e-9);  // rows are added in another order
  }
}

TEST_CASE("recovery: with validation the best parameters are those of the lowest validation loss", "[training]") {
  const Array<float> data = diffeo::toy2d::sample<float>("moons", 1000, 1),
                     held_out = diffeo::toy2d::sample<float>("moons", 500, 2);
  TransformedDistribution model(StandardNormal<float>(2),
                                diffeo::real_nvp(data, {.layers = 4, .network = {.hidden = {16, 16}}}));
  const TurnsNan<float> broken{MaximumLikelihood<float>(data), 57, ~std::uint64_t{0}};
  const FitReport report =
      diffeo::fit(model, broken, MaximumLikelihood<float>(held_out), {.steps = 200, .validation_every = 10});
  CHECK(report.reason == StopReason::non_finite);
  CHECK(report.recoveries.size() == 10);
  CHECK(report.validation_step == std::vector<long>{10, 20, 30, 40, 50});
  CHECK(report.best_step == 50);
  CHECK(loss_over(model, held_out) == Approx(report.best_validation_loss).epsilon(1e-5));
}

TEST_CASE("recovery: a large loss long ago excuses no divergence", "[training]") {
  const Array<double> data = diffeo::toy2d::sample<double>("moons", 200, 1);
  auto model = diffeo::DiagonalNormal<double>::standard(2);
  const LosesAgain objective{MaximumLikelihood<double>(data), 500};
  const FitOptions options{.steps = 1500, .batch = 100, .max_recoveries = 2, .threads = 1};
  const FitReport report = diffeo::fit(model, objective, options);
  CAPTURE(report);
  CHECK(report.reason == StopReason::diverged);
  CHECK(report.recoveries.size() == 2);
  CHECK(report.steps < 700);
  CHECK(report.final_loss() < 100);
  // The way out, for losses that are to grow.
  CHECK(report.failure.find("divergence = 0") != std::string::npos);
  CHECK(report.failure.find("comparable_from()") != std::string::npos);
}

TEST_CASE("recovery: unequal weights do not throw away a training at its end", "[training]") {
  for (std::uint64_t seed = 0; seed < trainings_of(30); ++seed) {
    CAPTURE(seed);
    Array<double> x(5000, 2), weights(5000, 1);
    diffeo::fill_normal(diffeo::view(x), seed, 1);
    diffeo::fill_normal(diffeo::view(weights), seed, 2);
    x = 2 * x + 1;
    weights = (2 * weights).exp();
    const Array<double> share = weights / weights.sum();
    double optimum = 0;
    for (Index j = 0; j < 2; ++j) {
      const double mean = (share * x.col(j)).sum(), variance = (share * (x.col(j) - mean).square()).sum();
      optimum += 0.5 * std::log(2 * std::numbers::pi * variance) + 0.5;
    }
    auto model = diffeo::DiagonalNormal<double>::standard(2);
    const FitReport report =
        diffeo::fit(model, {.x = x, .weights = weights},
                    {.steps = 3000, .batch = 16, .rate = {.learning_rate = 0.01}, .seed = seed, .threads = 1});
    CAPTURE(report);
    CHECK_FALSE(report.failed());
    CHECK(report.recoveries.empty());
    CHECK(-(share * model.log_prob(x)).sum() < optimum + 0.3);
  }
}

TEST_CASE("recovery: patience that runs out far from the best parameters goes back", "[training]") {
  const Array<float> data = diffeo::toy2d::sample<float>("moons", 2000, 1),
                     held_out = diffeo::toy2d::sample<float>("moons", 500, 2);
  const TransformedDistribution start(StandardNormal<float>(2),
                                      diffeo::real_nvp(data, {.layers = 8, .log_scale_bound = no_bound}));
  for (const long most : {0L, 10L}) {
    CAPTURE(most);
    auto model = start;
    // Sooner than the last losses could tell.
    const FitReport report = diffeo::fit(model, MaximumLikelihood<float>(data), MaximumLikelihood<float>(held_out),
                                         {.steps = 400,
                                          .batch = 256,
                                          .rate = {.learning_rate = 0.05},
                                          .validation_every = 1,
                                          .patience = 10,
                                          .max_recoveries = most,
                                          .seed = 1});
    CAPTURE(report);
    CHECK(report.validation_step.size() >= 10);
    CHECK(loss_over(model, held_out) <= loss_over(start, held_out) + 1e-5);
    CHECK(report.best_validation_loss == Approx(loss_over(model, held_out)).epsilon(1e-5));
    if (most == 0) {
      CHECK(report.reason == StopReason::diverged);
    } else {
      REQUIRE_FALSE(report.recoveries.empty());
      CHECK(report.recoveries.front().reason == StopReason::diverged);
      CHECK(report.recoveries.front().step < 50);
      CHECK(report.steps > report.recoveries.front().step);
    }
  }
}

TEST_CASE("recovery: validation keeps the initial parameters where no others are better", "[training]") {
  const Array<double> data = diffeo::toy2d::sample<double>("moons", 500, 1);
  const auto start = diffeo::DiagonalNormal<double>::standard(2);
  const double before = loss_over(start, data);
  const MaximumLikelihood<double> good(data);
  auto model = start;
  const FitReport report =
      diffeo::fit(model, Unlikelihood{good}, good, {.steps = 400, .validation_every = 10, .patience = 4});
  CAPTURE(report);
  CHECK(report.reason == StopReason::early_stopping);
  CHECK(report.steps == 40);
  CHECK(report.validation_step == std::vector<long>{10, 20, 30, 40});
  CHECK(report.best_step == 0);
  CHECK(report.best_validation_loss == Approx(before));
  CHECK((diffeo::parameters(model) == diffeo::parameters(start)).all());
  // Until a step is validated there is nothing to choose from: the latest parameters are kept.
  model = start;
  const FitReport stopped = diffeo::fit(model, good, good, {.steps = 400},
                                        [](const diffeo::FitProgress& progress) { return progress.step < 50; });
  CHECK(stopped.reason == StopReason::callback);
  CHECK(std::isnan(stopped.best_validation_loss));
  CHECK(loss_over(model, data) < before);
}

TEST_CASE("recovery: at the end an objective that chooses its rows is not asked for more of them", "[training]") {
  // They may have to be read, and what they are read from may be at fault.
  const Array<double> data = diffeo::toy2d::sample<double>("moons", 500, 1);
  for (const Index batch : {1, 8, 64}) {
    CAPTURE(batch);
    Index minibatches = 0;
    auto model = diffeo::DiagonalNormal<double>::standard(2);
    const double before = loss_over(model, data);
    const FitReport report = diffeo::fit(model, InTurn{MaximumLikelihood<double>(data), &minibatches},
                                         {.steps = 500, .batch = batch, .rate = {.learning_rate = 0.01}});
    CAPTURE(report);
    CHECK(minibatches == 500);
    CHECK(report.recoveries.empty());
    CHECK_FALSE(report.failed());
    CHECK(loss_over(model, data) < before - 0.3);
  }
}

TEST_CASE("recovery: trainings with the defaults are left alone", "[training][long]") {
  // So are those without clipping, with small minibatches, with the rate of continuous flows, and of reverse KL while
  // its target is annealed.
  for (const char* name : {"moons", "rings", "checkerboard"}) {
    CAPTURE(name);
    const Array<float> data = diffeo::toy2d::sample<float>(name, 3000, 1);
    const auto check = [&](const auto& flow, const FitOptions& options) {
      TransformedDistribution model(StandardNormal<float>(2), flow);
      const FitReport report = diffeo::fit(model, data, options);
      CAPTURE(report);
      CHECK(report.recoveries.empty());
      CHECK(report.reason == StopReason::completed);
    };
    const auto real_nvp = diffeo::real_nvp(data, {.layers = 8, .network = {.hidden = {24, 24}}});
    check(real_nvp, {.steps = 400});
    check(real_nvp, {.steps = 400, .batch = 32, .clip_ratio = 0});
    check(real_nvp, {.steps = 400, .rate = {.learning_rate = 1e-2}, .clip_ratio = 0});
    check(real_nvp, {.steps = 400, .batch = 1});
    check(diffeo::planar(data), {.steps = 400});
    check(diffeo::nice(data, {.layers = 8, .network = {.hidden = {24, 24}}}), {.steps = 400});
  }
  TransformedDistribution model(StandardNormal<float>(2), diffeo::planar<float>(2));
  const FitReport report = diffeo::fit(
      model, diffeo::ReverseKl(diffeo::targets::U4(), {.beta_start = 0.01, .anneal_steps = 500}), {.steps = 1000});
  CAPTURE(report);
  CHECK(report.recoveries.empty());
}

TEST_CASE("recovery: a few steps from the optimum are no divergence", "[training]") {
  const Array<double> data = gaussian<double>(2000, 2, 3);
  diffeo::DiagonalNormal<double> model{data.colwise().mean(), Array<double>::Zero(1, 2)};
  model.log_scale = ((data.rowwise() - model.mean.row(0)).square().colwise().mean().log() / 2).eval();
  for (const long steps : {1, 3, 20}) {
    auto trained = model;
    const FitReport report = diffeo::fit(trained, data, {.steps = steps});
    CAPTURE(report);
    CHECK_FALSE(report.failed());
    CHECK(report.recoveries.empty());
    CHECK((diffeo::parameters(trained) != diffeo::parameters(model)).any());
  }
}
