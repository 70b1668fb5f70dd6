// SPDX-License-Identifier: MIT
#include <algorithm>
#include <diffeo/data/toy2d.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/training/fit.hpp>
#include <limits>
#include <set>
#include <sstream>
#include <stdexcept>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::FitOptions;
using diffeo::FitProgress;
using diffeo::FitReport;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::MaximumLikelihood;
using diffeo::Minibatch;
using diffeo::StopReason;
using diffeo::Tape;
using diffeo::Var;

namespace {

template <diffeo::Real S>
Array<S> moons(Index n, std::uint64_t seed = 1) {
  return diffeo::toy2d::sample<S>("moons", n, seed);
}
template <diffeo::Real S>
auto some_model(const Array<S>& data, Index layers = 4) {
  return diffeo::TransformedDistribution(diffeo::StandardNormal<S>(2),
                                         diffeo::real_nvp(data, {.layers = layers, .network = {.hidden = {16, 16}}}));
}
// Maximum likelihood that goes wrong at one step of a training, in one way.
struct Failing {
  enum class How { nan_loss, infinite_loss, nan_gradient };
  MaximumLikelihood<float> good;
  std::uint64_t at_step;
  How how;
  Index size() const { return good.size(); }
  template <class Model>
  Var<float> loss(const Model& model, Tape<float>& tape, const Minibatch& batch) const {
    const Var<float> y = good.loss(model, tape, batch);
    if (batch.step != at_step) return y;
    switch (how) {
      case How::nan_loss:
        return y * std::numeric_limits<float>::quiet_NaN();
      case How::infinite_loss:
        return y + std::numeric_limits<float>::infinity();
      case How::nan_gradient:
        break;
    }
    return sqrt(square(y * 0.0F));  // 0, with the derivative 0 / 0
  }
};

// Maximum likelihood that throws at one step.
struct Throwing {
  MaximumLikelihood<float> good;
  std::uint64_t at_step;
  Index size() const { return good.size(); }
  template <class Model>
  Var<float> loss(const Model& model, Tape<float>& tape, const Minibatch& batch) const {
    if (batch.step == at_step) throw std::runtime_error("enough");
    return good.loss(model, tape, batch);
  }
};

// Maximum likelihood for which one row of the data is never solved from some step on.
template <class Error>
struct Unsolved {
  MaximumLikelihood<float> good;
  std::uint64_t from_step;
  Index row;
  Error error;
  Index size() const { return good.size(); }
  template <class Model>
  Var<float> loss(const Model& model, Tape<float>& tape, const Minibatch& batch) const {
    const auto found = std::find(batch.rows.begin(), batch.rows.end(), row);
    if (batch.step >= from_step && found != batch.rows.end()) error.throw_for(found - batch.rows.begin());
    return good.loss(model, tape, batch);
  }
};

// Maximum likelihood whose first validation goes wrong.
struct FirstValidationFails {
  MaximumLikelihood<float> good;
  mutable int validations = 0;
  Index size() const { return good.size(); }
  template <class Model>
  Var<float> loss(const Model& model, Tape<float>& tape, const Minibatch& batch) const {
    const Var<float> y = good.loss(model, tape, batch);
    if (y.requires_grad() || validations++ > 0) return y;
    return y * std::numeric_limits<float>::quiet_NaN();
  }
};

// Maximum likelihood that writes down which rows are trained on and which are held out.
template <diffeo::Real S>
struct Watched {
  MaximumLikelihood<S> likelihood;
  mutable std::set<Index> trained{}, validated{};
  Index size() const { return likelihood.size(); }
  template <class Model>
  Var<S> loss(const Model& model, Tape<S>& tape, const Minibatch& batch) const {
    constexpr bool plain = std::is_same_v<std::remove_cvref_t<decltype(model.flow.layers)>,
                                          std::remove_cvref_t<decltype(diffeo::RealNvp<S>().layers)>>;
    (plain ? validated : trained).insert(batch.rows.begin(), batch.rows.end());
    return likelihood.loss(model, tape, batch);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("fit improves a flow beyond a Gaussian", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> data = moons<S>(3000), test = moons<S>(3000, 2);
  auto model = some_model(data, 6);
  const double before = static_cast<double>(model.log_prob(test).mean());
  const FitReport report =
      diffeo::fit(model, data, {.steps = 400, .batch = 256, .rate = {.learning_rate = 5e-3}, .threads = 1});
  CHECK(report.steps == 400);
  CHECK(report.reason == StopReason::completed);
  CHECK(report.loss.size() == 400);
  CHECK(report.seconds > 0);
  CHECK(report.final_loss() < report.loss.front());
  CHECK(std::isnan(report.best_validation_loss));
  CHECK(report.validation_loss.empty());

  // The best normal distribution has the data's mean and covariance.
  const Eigen::MatrixXd x = data.template cast<double>().matrix();
  const Eigen::MatrixXd centred = x.rowwise() - x.colwise().mean();
  const Eigen::MatrixXd cov = centred.transpose() * centred / 3000.0;
  const double gaussian =
      -1 - diffeo::detail::log_two_pi - 0.5 * std::log(cov(0, 0) * cov(1, 1) - cov(0, 1) * cov(1, 0));
  const double after = static_cast<double>(model.log_prob(test).mean());
  CHECK(before < gaussian + 0.1);
  CHECK(after > gaussian + 0.5);
  CHECK(after < -2.3);  // the best possible is -2.390
}

TEMPLATE_TEST_CASE("fit: same seed, same bits, on any number of threads", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> data = moons<S>(1000);
  const auto start = some_model(data);
  const auto trained = [&](int threads, std::uint64_t seed) {
    auto model = start;
    const auto report = diffeo::fit(model, data,
                                    {.steps = 30,
                                     .batch = 700,
                                     .clip_norm = 1,
                                     .ema_decay = 0.9,
                                     .validation_fraction = 0.2,
                                     .validation_every = 10,
                                     .seed = seed,
                                     .threads = threads});
    return std::pair(diffeo::parameters(model), report);
  };
  const auto [values, report] = trained(1, 5);
  for (const int threads : {1, 2, 3, 0}) {
    CAPTURE(threads);
    const auto [others, other_report] = trained(threads, 5);
    CHECK((others == values).all());
    CHECK(other_report.loss == report.loss);
    CHECK(other_report.validation_loss == report.validation_loss);
  }
  CHECK((trained(1, 6).first != values).any());
  CHECK((diffeo::parameters(start) != values).any());
}

TEST_CASE("fit with validation keeps the best parameters", "[training]") {
  const Array<double> data = moons<double>(60);
  const Watched<double> objective{MaximumLikelihood<double>(data)};
  auto model = some_model(data);
  // So few rows and so high a rate overfit soon.
  const FitReport report = diffeo::fit(model, objective,
                                       {.steps = 2000,
                                        .rate = {.learning_rate = 0.02, .schedule = diffeo::Schedule::constant},
                                        .validation_fraction = 0.25,
                                        .validation_every = 10,
                                        .patience = 5,
                                        .threads = 1});
  CHECK(report.reason == StopReason::early_stopping);
  CHECK(report.steps < 2000);
  REQUIRE(report.validation_loss.size() == report.validation_step.size());
  REQUIRE(report.validation_loss.size() > 5);
  for (std::size_t k = 0; k < report.validation_step.size(); ++k)
    CHECK(report.validation_step[k] == 10 * static_cast<long>(k + 1));
  const auto best = std::min_element(report.validation_loss.begin(), report.validation_loss.end());
  CHECK(*best == report.best_validation_loss);
  CHECK(report.validation_step[std::size_t(best - report.validation_loss.begin())] == report.best_step);
  CHECK(report.steps == report.best_step + 50);

  // 15 of the 60 rows were held out, and the parameters are those of the best step.
  CHECK(objective.validated.size() == 15);
  CHECK(objective.trained.size() == 45);
  for (const Index row : objective.validated) CHECK(objective.trained.count(row) == 0);
  const std::vector<Index> held_out(objective.validated.begin(), objective.validated.end());
  CHECK(diffeo::mean_loss(model, objective.likelihood, held_out) == Approx(report.best_validation_loss).epsilon(1e-12));
  double by_hand = 0;
  for (const Index row : held_out) by_hand -= model.log_prob(data.row(row))(0, 0) / 15;
  CHECK(by_hand == Approx(report.best_validation_loss).epsilon(1e-12));
}

TEST_CASE("fit validates every so many steps and after the last", "[training]") {
  const Array<float> data = moons<float>(100);
  auto model = some_model(data, 1);
  const auto report = diffeo::fit(model, data, {.steps = 25, .validation_fraction = 0.1, .validation_every = 10});
  CHECK(report.validation_step == std::vector<long>{10, 20, 25});
}

TEST_CASE("fit with averaged weights ends with the average", "[training]") {
  const Array<double> data = moons<double>(300);
  auto plain = some_model(data, 2), averaged = plain;
  Array<double> average = diffeo::parameters(plain);
  for (long steps = 1; steps <= 10; ++steps) {
    auto model = plain;
    const diffeo::LearningRate rate{.learning_rate = 0.01, .schedule = diffeo::Schedule::constant};
    diffeo::fit(model, data, {.steps = steps, .batch = 100, .rate = rate});
    const double decay = std::min(0.99, (1.0 + double(steps)) / (10.0 + double(steps)));
    average = decay * average + (1 - decay) * diffeo::parameters(model);
    if (steps == 10) diffeo::fit(averaged, data, {.steps = steps, .batch = 100, .rate = rate, .ema_decay = 0.99});
  }
  CHECK((diffeo::parameters(averaged) - average).abs().maxCoeff() < 1e-12);
}

TEST_CASE("callbacks", "[training]") {
  const Array<float> data = moons<float>(200);
  const auto start = some_model(data, 1);
  std::vector<FitProgress> seen;
  const FitOptions options{.steps = 20, .rate = {.learning_rate = 0.01, .warmup_steps = 4}};

  auto model = start;
  int calls = 0;
  auto report = diffeo::fit(
      model, data, options, [&seen](const FitProgress& p) { seen.push_back(p); }, [&calls](auto&&...) { ++calls; });
  CHECK(report.reason == StopReason::completed);
  REQUIRE(seen.size() == 20);
  CHECK(calls == 20);
  for (std::size_t k = 0; k < seen.size(); ++k) {
    CHECK(seen[k].step == static_cast<long>(k) + 1);
    CHECK(seen[k].steps == 20);
    CHECK(seen[k].loss == report.loss[k]);
    CHECK(seen[k].learning_rate == options.rate.at(static_cast<long>(k), 20));
    CHECK(seen[k].gradient_norm > 0);
    CHECK(seen[k].seconds >= (k == 0 ? 0 : seen[k - 1].seconds));
  }

  auto stopped = start;
  report = diffeo::fit(stopped, data, options, [](const FitProgress& p) { return p.step < 7; });
  CHECK(report.reason == StopReason::callback);
  CHECK(report.steps == 7);
  CHECK(report.loss.size() == 7);
  CHECK_FALSE(same_parameters(stopped, start));
  CHECK_FALSE(same_parameters(stopped, model));

  // One that stops before the first validation leaves the latest parameters.
  auto early = start;
  FitOptions with_validation = options;
  with_validation.validation_fraction = 0.5;
  report = diffeo::fit(early, data, with_validation, [](const FitProgress&) { return false; });
  CHECK(report.steps == 1);
  CHECK(report.validation_loss.empty());
  CHECK_FALSE(same_parameters(early, start));
}

TEST_CASE("a callback that throws leaves the best or the latest parameters", "[training]") {
  const Array<float> data = moons<float>(200);
  const auto start = some_model(data, 1);
  const diffeo::LearningRate rate{.learning_rate = 0.01, .schedule = diffeo::Schedule::constant};
  const auto throws_after = [](long steps) {
    return [steps](const FitProgress& p) {
      if (p.step == steps) throw std::runtime_error("enough");
    };
  };
  auto latest = start, expected = start;
  CHECK(thrown_message<std::runtime_error>(
            [&] { diffeo::fit(latest, data, {.steps = 20, .batch = 50, .rate = rate}, throws_after(7)); }) == "enough");
  diffeo::fit(expected, data, {.steps = 7, .batch = 50, .rate = rate});
  CHECK(same_parameters(latest, expected));
  // With validation: the best were those of step 10, or 5 where the loss went up since.
  auto best = start;
  expected = start;
  const FitOptions validated{.steps = 20, .batch = 50, .rate = rate, .validation_fraction = 0.2, .validation_every = 5};
  CHECK(thrown_message<std::runtime_error>([&] { diffeo::fit(best, data, validated, throws_after(13)); }) == "enough");
  FitOptions short_one = validated;
  short_one.steps = 10;
  diffeo::fit(expected, data, short_one);
  CHECK(same_parameters(best, expected));
}

TEST_CASE("an objective that throws leaves the latest parameters", "[training]") {
  const Array<float> data = moons<float>(200);
  const auto start = some_model(data, 1);
  const diffeo::LearningRate rate{.learning_rate = 0.01, .schedule = diffeo::Schedule::constant};
  auto latest = start, expected = start;
  CHECK(thrown_message<std::runtime_error>([&] {
          diffeo::fit(latest, Throwing{MaximumLikelihood<float>(data), 3}, {.steps = 20, .batch = 50, .rate = rate});
        }) == "enough");
  diffeo::fit(expected, data, {.steps = 3, .batch = 50, .rate = rate});
  CHECK(same_parameters(latest, expected));
}

TEST_CASE("a callback may assign to the model", "[training]") {
  const Array<float> data = moons<float>(200);
  const auto start = some_model(data, 1), other = some_model(data, 2);
  auto model = start, expected = start;
  diffeo::fit(expected, data, {.steps = 6, .batch = 50});
  diffeo::fit(model, data, {.steps = 6, .batch = 50}, [&](const FitProgress&) { model = start; });
  CHECK(same_parameters(model, expected));
  CHECK(thrown_message<invalid_argument>([&] {
          diffeo::fit(model, data, {.steps = 6, .batch = 50}, [&](const FitProgress&) { model = other; });
        }) != "");
}

TEST_CASE("a loss that is not finite because of a parameter names it", "[training]") {
  const Array<float> data = moons<float>(200);
  auto model = some_model(data, 2);
  std::get<0>(model.flow.layers).layers[1].conditioner.layers[0].bias(0, 2) = std::numeric_limits<float>::quiet_NaN();
  const FitReport report = diffeo::fit(model, data, {.steps = 6, .batch = 50});
  CHECK(report.reason == StopReason::non_finite);
  CHECK(report.failure == "the parameter flow.layers.0.1.conditioner.layers.0.bias(row 0, col 2) is nan");
}

TEST_CASE("the progress bar is a callback", "[training]") {
  const Array<float> data = moons<float>(50);
  auto model = some_model(data, 1);
  CHECK_FALSE(FitOptions().progress);
  CHECK(diffeo::fit(model, data, {.steps = 3}, diffeo::ProgressBar(false)).steps == 3);
}

TEST_CASE("a loss or gradient that is not finite: the training goes back and on at half the rate", "[training]") {
  const Array<float> data = moons<float>(200);
  const auto start = some_model(data, 2);
  const diffeo::LearningRate rate{.learning_rate = 0.01, .schedule = diffeo::Schedule::constant};
  for (const auto how : {Failing::How::nan_loss, Failing::How::infinite_loss, Failing::How::nan_gradient}) {
    CAPTURE(static_cast<int>(how));
    for (const long at : {1L, 6L}) {
      CAPTURE(at);
      const Failing objective{MaximumLikelihood<float>(data), static_cast<std::uint64_t>(at), how};
      auto model = start;
      std::vector<double> rates;
      const auto report =
          diffeo::fit(model, objective, {.steps = 20, .batch = 50, .rate = rate}, [&](const FitProgress& p) {
            rates.push_back(p.learning_rate);
            CHECK(p.recoveries == (p.step > at ? 1 : 0));
          });
      CHECK(report.reason == StopReason::completed);
      CHECK(report.steps == 20);
      CHECK(report.loss.size() == 20);
      REQUIRE(report.recoveries.size() == 1);
      const diffeo::Recovery& recovery = report.recoveries.front();
      CHECK(recovery.step == at);
      CHECK(recovery.back_to < at);
      CHECK(recovery.reason == StopReason::non_finite);
      CHECK(recovery.failure != "");
      CHECK(recovery.learning_rate == 0.005);
      for (std::size_t k = 0; k < rates.size(); ++k) CHECK(rates[k] == (static_cast<long>(k) < at ? 0.01 : 0.005));
      CHECK(model.log_prob(data).allFinite());
      std::ostringstream text;
      text << report;
      CHECK(contains(text.str(), diffeo::concat_message(
                                     "\n  after step ", at, ": the loss or its gradient was not finite (",
                                     recovery.failure, "); back to step ", recovery.back_to, ", learning rate 0.005")));

      // None allowed: the training ends with the snapshot.
      auto ended = start, expected = start;
      const auto end = diffeo::fit(ended, objective, {.steps = 20, .batch = 50, .rate = rate, .max_recoveries = 0});
      CHECK(end.reason == StopReason::non_finite);
      CHECK(end.steps == at);
      CHECK(end.recoveries.empty());
      CHECK(end.failure == recovery.failure);
      diffeo::fit(expected, data, {.steps = recovery.back_to, .batch = 50, .rate = rate});
      CHECK(same_parameters(ended, expected));
      text.str("");
      text << end;
      CHECK(contains(text.str(), "not finite; the best parameters were restored: " + end.failure));
    }
    // At first there is nothing to go back to.
    auto model = start;
    const auto report = diffeo::fit(model, Failing{MaximumLikelihood<float>(data), 0, how}, {.steps = 20, .batch = 50});
    CHECK(report.reason == StopReason::non_finite);
    CHECK(report.steps == 0);
    CHECK(report.recoveries.empty());
    CHECK(same_parameters(model, start));
  }
}

TEST_CASE("an equation that is not solved stops, after some recoveries, and names the row", "[training]") {
  const Array<float> data = moons<float>(200);
  const auto start = some_model(data, 2);
  const auto check = [&](const auto& error, const std::string& message) {
    auto model = start;
    const Unsolved<std::remove_cvref_t<decltype(error)>> objective{MaximumLikelihood<float>(data), 4, 123, error};
    const auto report = diffeo::fit(model, objective, {.steps = 100, .batch = 50, .max_recoveries = 2});
    CHECK(report.reason == StopReason::not_solved);
    CHECK(report.failure == message);
    CHECK(report.steps >= 4);  // every row comes within four steps
    CHECK(report.steps < 20);
    REQUIRE(report.recoveries.size() == 2);
    for (const diffeo::Recovery& recovery : report.recoveries) {
      CHECK(recovery.reason == StopReason::not_solved);
      CHECK(recovery.failure == message);
    }
    CHECK(model.log_prob(data).allFinite());
    CHECK_FALSE(same_parameters(model, start));
  };
  check(diffeo::convergence_error("root", 0, 0.5, 9),
        "root: row 123 did not converge: residual 0.5 after 9 iterations");
  check(diffeo::integration_error("ode", 0, {.reason = "why", .t = 0.5}),
        "ode: row 123 was not integrated: why at t = 0.5, step 0, error 0, stiffness unknown");
}

TEMPLATE_TEST_CASE("no learning rate makes a model non-finite", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> data = moons<S>(200);
  for (const double rate : {1e10, std::is_same_v<S, float> ? 1e38 : 1e308})
    for (const long steps : {1, 2, 10})
      for (const double held_out : {0.0, 0.2}) {
        CAPTURE(rate, steps, held_out);
        auto model = some_model(data, 2);
        const auto report = diffeo::fit(model, data,
                                        {.steps = steps,
                                         .rate = {.learning_rate = rate, .schedule = diffeo::Schedule::constant},
                                         .validation_fraction = held_out,
                                         .validation_every = 1});
        CHECK(diffeo::parameters(model).allFinite());
      }
}

TEST_CASE("a first validation loss that is not finite does not count as the best", "[training]") {
  const Array<float> data = moons<float>(200);
  const FirstValidationFails objective{MaximumLikelihood<float>(data)};
  auto model = some_model(data, 1);
  const auto report = diffeo::fit(
      model, objective,
      {.steps = 40, .rate = {.learning_rate = 0.01}, .validation_fraction = 0.2, .validation_every = 10, .threads = 1});
  CHECK(std::isfinite(report.best_validation_loss));
  CHECK(report.best_step > 10);
}

TEST_CASE("the report as text", "[training]") {
  FitReport report;
  report.steps = 3;
  report.seconds = 0.5;
  report.loss = {4, 3, 2};
  const auto text = [&report] {
    std::ostringstream out;
    out << report;
    return out.str();
  };
  CHECK(text() == "3 steps in 0.5 s, loss 3 (all steps done)");
  report.validation_step = {2};
  report.validation_loss = {2.5};
  report.best_validation_loss = 2.5;
  report.best_step = 2;
  report.reason = StopReason::early_stopping;
  CHECK(text() ==
        "3 steps in 0.5 s, loss 3, best validation loss 2.5 after step 2 (validation loss no longer improved)");
  report.reason = StopReason::callback;
  CHECK(contains(text(), "a callback asked to stop"));
  report.recoveries = {{2, 1, StopReason::diverged, "why", 1e-3}, {3, 2, StopReason::not_solved, "", 5e-4}};
  CHECK(contains(text(),
                 "(a callback asked to stop)\n  after step 2: the loss diverged (why); back to step 1, learning "
                 "rate 0.001\n  after step 3: an equation was not solved; back to step 2, learning rate 0.0005"));
  // A training that gave up ends with other parameters than those of its last losses.
  CHECK_FALSE(report.failed());
  report.reason = StopReason::diverged;
  report.best_loss = 1.5;
  CHECK(report.failed());
  CHECK(contains(text(),
                 "3 steps in 0.5 s, loss 1.5, best validation loss 2.5 after step 2 (the loss diverged; the best "
                 "parameters were restored)"));
  report.loss.assign(150, 1.0);
  report.loss.insert(report.loss.end(), 100, 7.0);
  CHECK(report.final_loss() == 1.5);
  report.reason = StopReason::completed;
  CHECK(report.final_loss() == 7);
  CHECK(std::isnan(FitReport{}.final_loss()));
}

TEST_CASE("no step, and a batch larger than the data", "[training]") {
  const Array<float> data = moons<float>(50);
  const auto start = some_model(data, 1);
  for (const double ema : {0.0, 0.9}) {
    auto model = start;
    const auto report = diffeo::fit(model, data, {.steps = 0, .ema_decay = ema, .validation_fraction = 0.2});
    CHECK(report.steps == 0);
    CHECK(report.reason == StopReason::completed);
    CHECK(same_parameters(model, start));
  }
  auto all = start, more = start;
  diffeo::fit(all, data, {.steps = 3, .batch = 50});
  diffeo::fit(more, data, {.steps = 3, .batch = 1000000});
  CHECK(same_parameters(all, more));
  CHECK_FALSE(same_parameters(all, start));
}

TEST_CASE("fit takes any Eigen expression", "[training]") {
  const Array<float> data = moons<float>(64);
  const auto start = some_model(data, 1);
  auto plain = start, mapped = start, from_double = start;
  const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = data.matrix();
  diffeo::fit(plain, data, {.steps = 3});
  diffeo::fit(mapped, Eigen::Map<const decltype(rows)>(rows.data(), 64, 2), {.steps = 3});
  diffeo::fit(from_double, data.cast<double>(), {.steps = 3});
  CHECK(same_parameters(plain, mapped));
  CHECK(same_parameters(plain, from_double));
}

TEST_CASE("fit: bad data and options are refused and leave the model as it was", "[training]") {
  Array<double> data = moons<double>(20);
  const auto start = some_model(data, 1);
  auto model = start;
  const auto message = [&model](const auto& x, const FitOptions& options = {}) {
    return thrown_message<invalid_argument>([&] { diffeo::fit(model, x, options); });
  };
  CHECK(message(Array<double>::Zero(20, 3)) == "fit: data has 3 columns, this flow has dimension 2");
  CHECK(message(Array<double>::Zero(0, 2)) == "fit: data is empty, expected at least 2 rows");
  CHECK(message(Array<double>(0, 0)) == "fit: data is empty, expected at least 2 rows");
  CHECK(message(data.topRows(1)) == "fit: data has 1 row, expected at least 2");

  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  CHECK(contains(message(data, {.steps = -1}), "steps is -1"));
  CHECK(contains(message(data, {.batch = 0}), "batch is 0"));
  CHECK(contains(message(data, {.rate = {.learning_rate = -1e-3}}), "learning_rate is -0.001"));
  CHECK(contains(message(data, {.rate = {.learning_rate = nan}}), "learning_rate is nan"));
  CHECK(contains(message(data, {.rate = {.final_fraction = 2}}), "final_fraction is 2"));
  CHECK(contains(message(data, {.rate = {.warmup_steps = -2}}), "warmup_steps is -2"));
  CHECK(contains(message(data, {.adam = {.beta1 = 1}}), "beta1 is 1"));
  CHECK(contains(message(data, {.adam = {.beta2 = -1}}), "beta2 is -1"));
  CHECK(contains(message(data, {.adam = {.epsilon = 0}}), "epsilon is 0"));
  CHECK(contains(message(data, {.adam = {.weight_decay = inf}}), "weight_decay is inf"));
  CHECK(contains(message(data, {.clip_norm = -0.5}), "clip_norm is -0.5"));
  CHECK(contains(message(data, {.ema_decay = 1}), "ema_decay is 1"));
  CHECK(contains(message(data, {.validation_fraction = 1.5}), "validation_fraction is 1.5"));
  CHECK(contains(message(data, {.validation_fraction = -0.1}), "validation_fraction is -0.1"));
  CHECK(contains(message(data, {.validation_fraction = nan}), "validation_fraction is nan"));
  CHECK(contains(message(data, {.validation_fraction = 0.001}), "leaves nothing to validate"));
  CHECK(contains(message(data, {.validation_fraction = 0.999}), "leaves nothing to validate"));
  CHECK(contains(message(data, {.validation_fraction = 0.2, .validation_every = 0}), "validation_every is 0"));
  CHECK(contains(message(data, {.patience = 3}), "patience needs validation_fraction"));
  CHECK(contains(message(data, {.validation_fraction = 0.2, .patience = -1}), "patience is -1"));
  CHECK(contains(message(data, {.max_recoveries = -1}), "max_recoveries is -1"));
  CHECK(contains(message(data, {.divergence = -1}), "divergence is -1"));
  CHECK(contains(message(data, {.divergence = nan}), "divergence is nan"));
  CHECK(contains(message(data, {.threads = -1}), "threads is -1"));

  data(13, 1) = nan;
  CHECK(message(data) == "fit: data is nan at (row 13, column 1), expected finite values");
  data(4, 0) = inf;
  CHECK(message(data) == "fit: data is inf at (row 4, column 0), expected finite values");
  CHECK(same_parameters(model, start));
}

TEST_CASE("after training no point of size 10 sigma, nor raw, gives a non-finite value", "[training]") {
  const Array<float> data = moons<float>(2000);
  auto model = some_model(data, 8);
  diffeo::fit(model, data, {.steps = 150, .batch = 256, .rate = {.learning_rate = 5e-3}, .threads = 1});
  Array<float> points(5000, 2);
  diffeo::fill_normal(diffeo::view(points), 3, 3);
  points *= 10;
  const auto& standard = std::get<1>(model.flow.layers);
  const Array<float> in_data_units =
      (points.rowwise() * standard.scale.value.row(0)).rowwise() + standard.mean.value.row(0);
  for (const Array<float>& x : {points, in_data_units}) {
    const auto z = diffeo::inverse(model.flow, x), y = diffeo::forward(model.flow, x);
    CHECK(z.value.allFinite());
    CHECK(z.log_det.allFinite());
    CHECK(y.value.allFinite());
    CHECK(y.log_det.allFinite());
    CHECK(model.log_prob(x).allFinite());
    CHECK(model.score(x).allFinite());
    const Array<float> back = diffeo::forward(model.flow, z.value).value;
    CHECK(((back - x).abs() / x.abs().max(1)).maxCoeff() < 0.02F);
  }
  CHECK(model.sample(20000, 1).allFinite());
}

TEST_CASE("fit: every callback is called after every step, also when one ends the training", "[fit]") {
  const Array<float> data = moons<float>(200);
  auto model = some_model(data, 1);
  long first = 0, second = 0;
  const FitReport report = fit(
      model, data, {.steps = 10, .batch = 16}, [&](const FitProgress&) { return ++first < 3; },
      [&](const FitProgress&) { ++second; });
  CHECK(report.steps == 3);
  CHECK(first == 3);
  CHECK(second == 3);
}

TEST_CASE("callbacks may ask for the model as it is after a step", "[fit]") {
  const Array<float> data = moons<float>(200);
  const auto start = some_model(data, 2);
  const diffeo::LearningRate rate{.learning_rate = 0.01, .schedule = diffeo::Schedule::constant};
  for (const double ema : {0.0, 0.9}) {
    auto model = start, plain = start;
    std::vector<Array<float>> seen;
    double loss = 0;
    const FitOptions options{.steps = 5, .batch = 50, .rate = rate, .ema_decay = ema};
    diffeo::fit(
        model, data, options,
        [&](const FitProgress& p, const diffeo::LatestModel<decltype(model)>& latest) {
          if (p.step % 2 == 1) seen.push_back(diffeo::parameters(latest()));
          return true;
        },
        [&](const auto&, const auto& latest) { loss = -static_cast<double>(latest().log_prob(data).mean()); },
        [&](const FitProgress& p) { CHECK(p.recoveries == 0); });
    REQUIRE(seen.size() == 3);
    for (long steps : {1L, 3L, 5L}) {
      auto expected = start;
      FitOptions shorter = options;
      shorter.steps = steps;
      diffeo::fit(expected, data, shorter);
      CHECK((seen[static_cast<std::size_t>(steps / 2)] == diffeo::parameters(expected)).all());
    }
    CHECK(loss == -static_cast<double>(model.log_prob(data).mean()));
    // Looking changes nothing.
    diffeo::fit(plain, data, options);
    CHECK(same_parameters(model, plain));
  }
  auto model = start;
  CHECK(diffeo::fit(model, data, {.steps = 9}, [](const FitProgress& p, const auto&) { return p.step < 4; }).steps ==
        4);
}

TEST_CASE("the rate is lowered where the loss stays on a plateau", "[fit]") {
  const Array<double> data = moons<double>(500);
  auto model = some_model(data, 1);
  const diffeo::LearningRate rate{.learning_rate = 0.02,
                                  .schedule = diffeo::Schedule::plateau,
                                  .final_fraction = 0.1,
                                  .plateau_steps = 40,
                                  .plateau_factor = 0.25};
  for (const double held_out : {0.0, 0.2}) {
    CAPTURE(held_out);
    std::vector<double> rates;
    const FitReport report = diffeo::fit(
        model, data,
        {.steps = 2000, .batch = 100, .rate = rate, .validation_fraction = held_out, .validation_every = 20},
        [&](const FitProgress& p) { rates.push_back(p.learning_rate); });
    CHECK(report.recoveries.empty());
    CHECK(rates.front() == 0.02);
    CHECK(rates[50] == 0.02);
    CHECK(rates.back() == 0.002);
    std::set<double> all(rates.begin(), rates.end());
    CHECK(all == std::set<double>{0.02, 0.005, 0.002});
    CHECK(std::is_sorted(rates.rbegin(), rates.rend()));
    if (held_out == 0) continue;
    // By hand: from the validation losses.
    double lowest = report.validation_loss.front();
    long since = 20, lowered = 0;
    for (std::size_t k = 1; k < report.validation_loss.size() && lowered == 0; ++k) {
      if (report.validation_loss[k] < lowest) {
        lowest = report.validation_loss[k];
        since = report.validation_step[k];
      } else if (report.validation_step[k] - since >= 40) {
        lowered = report.validation_step[k];
      }
    }
    REQUIRE(lowered > 0);
    CHECK(rates[static_cast<std::size_t>(lowered - 1)] == 0.02);
    CHECK(rates[static_cast<std::size_t>(lowered)] == 0.005);
  }
}
