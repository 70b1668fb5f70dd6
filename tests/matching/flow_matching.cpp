// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/multivariate_normal.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/probability_path.hpp>
#include <diffeo/layers/diagonal_scale.hpp>
#include <diffeo/matching/flow_matching.hpp>
#include <diffeo/training/fit.hpp>
#include <limits>
#include <numeric>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::BrownianBridge;
using diffeo::Cnf;
using diffeo::Dataset;
using diffeo::FlowMatching;
using diffeo::FlowMatchingOptions;
using diffeo::IndependentPairing;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::LinearPath;
using diffeo::Minibatch;
using diffeo::PathWeights;
using diffeo::Snapshot;
using diffeo::StandardNormal;
using diffeo::StochasticInterpolant;
using diffeo::Tape;
using diffeo::TransformedDistribution;
using diffeo::TrigonometricPath;
using diffeo::Var;

namespace {

// Points and targets of a minibatch as arrays.
template <class S>
struct Drawn {
  Array<S> t, x, u, e;
};

std::vector<Index> first_rows(Index n) {
  std::vector<Index> rows(static_cast<std::size_t>(n));
  std::iota(rows.begin(), rows.end(), Index{0});
  return rows;
}

// Of all rows of the objective, in their order, in training step `step`.
template <class O>
auto drawn(const O& objective, std::uint64_t step = 0, std::uint64_t seed = 1) {
  const std::vector<Index> rows = first_rows(objective.size());
  typename O::StepState state;
  const Minibatch whole{.rows = rows, .step = step, .seed = seed, .training = true};
  objective.begin_step(state, whole);
  Tape<double> tape;
  const auto sample = objective.sample(tape, whole, state);
  return Drawn<double>{to_array(sample.time), to_array(sample.point), to_array(sample.velocity),
                       sample.noise ? to_array(sample.noise) : Array<double>()};
}

// The source and target points that a sample was made of, for paths without noise.
template <class O>
std::pair<Array<double>, Array<double>> ends(const O& objective, const Drawn<double>& at) {
  Array<double> x0(at.x.rows(), at.x.cols()), x1 = x0;
  for (Index i = 0; i < at.x.rows(); ++i) {
    const PathWeights w = objective.path().at(at.t(i, 0));
    const double det = w.alpha * w.beta_rate - w.beta * w.alpha_rate;
    x0.row(i) = (w.beta_rate * at.x.row(i) - w.beta * at.u.row(i)) / det;
    x1.row(i) = (w.alpha * at.u.row(i) - w.alpha_rate * at.x.row(i)) / det;
  }
  return {x0, x1};
}

// A continuous flow in D dimensions along a field without parameters.
template <class F>
auto flow_along(Index dim, F field, Index context_dim = 0) {
  return TransformedDistribution(StandardNormal<double>(dim),
                                 Cnf(diffeo::make_field<double>(dim, std::move(field), context_dim)));
}
auto resting(Index dim) {
  return flow_along(dim, [](const auto&, const auto& x) { return x * 0.0; });
}

// All points at one time.
FlowMatchingOptions at_time(double t) {
  return {.times = diffeo::TimeFunction([t](double) { return t; })};
}

// In one dimension, optimal transport joins the points in their order.
struct InOrder {
  static constexpr bool independent = false, takes_weights = false;
  template <class S>
  struct State {
    std::vector<Index> source, target;
  };
  template <diffeo::Real S>
  void pair(State<S>& state, const diffeo::PairingTask<S>& task) const {
    const auto sort = [](std::vector<Index>& order, diffeo::View<const S> x) {
      order.resize(static_cast<std::size_t>(x.rows));
      std::iota(order.begin(), order.end(), Index{0});
      std::sort(order.begin(), order.end(), [x](Index a, Index b) { return x.data[a] < x.data[b]; });
    };
    sort(state.source, task.source);
    sort(state.target, task.target);
    for (std::size_t i = 0; i < state.source.size(); ++i)
      task.partner[static_cast<std::size_t>(state.target[i])] = state.source[i];
  }
  void check() const {}
};
static_assert(diffeo::Pairing<InOrder, float>);

// A pairing of a mistaken author.
struct OutOfRange : InOrder {
  template <class S>
  struct State {};
  template <diffeo::Real S>
  void pair(State<S>&, const diffeo::PairingTask<S>& task) const {
    std::fill(task.partner.begin(), task.partner.end(), task.source.rows);
  }
};

std::vector<double> sorted(const Array<double>& x) {
  std::vector<double> values(x.data(), x.data() + x.size());
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace

TEST_CASE("flow matching: points lie between samples of the base and the data in the coordinates of the flow",
          "[matching]") {
  Array<double> data = gaussian<double>(4000, 2, 1);
  data.col(0) = data.col(0) * 30 + 100;
  const TransformedDistribution model(StandardNormal<double>(2), diffeo::cnf(data, {.network = {.hidden = {4}}}));
  const Array<double> standardised = diffeo::inverse(std::get<1>(model.flow.layers), data).value;
  const FlowMatching objective(model, data);
  CHECK(objective.size() == 4000);
  const Drawn<double> at = drawn(objective);
  const auto [x0, x1] = ends(objective, at);
  CHECK((x1 - standardised).abs().maxCoeff() < 1e-9);
  const double n = 4000;
  for (Index j = 0; j < 2; ++j) {
    CHECK(std::abs(x0.col(j).mean()) < 5 / std::sqrt(n));
    CHECK(std::abs(mean_square(x0.col(j)) - 1) < 5 * std::sqrt(2 / n));
    CHECK(std::abs((x0.col(j) * x1.col(j)).mean()) < 5 / std::sqrt(n));
    CHECK(std::abs((x0.col(j) * at.t.col(0)).mean()) < 5 / std::sqrt(3 * n));
  }
  for (Index i = 0; i < 4000; ++i) {  // one time in each of 4000 intervals
    CHECK(at.t(i, 0) >= static_cast<double>(i) / n);
    CHECK(at.t(i, 0) <= static_cast<double>(i + 1) / n);
  }
  // Others in the next step and by another seed, the same again.
  CHECK(same_bits(drawn(objective).x, at.x));
  for (const Drawn<double>& other : {drawn(objective, 1), drawn(objective, 0, 2)}) {
    CHECK((ends(objective, other).first == x0).count() == 0);
    CHECK((other.t == at.t).count() == 0);
  }
}

TEST_CASE("flow matching: the base of the model is the source", "[matching]") {
  const auto base = diffeo::DiagonalNormal<double>::from(Array<double>{{5.0, -3.0}}, Array<double>{{0.5, 2.0}});
  const TransformedDistribution model(base, resting(2).flow);
  const FlowMatching objective(model, gaussian<double>(4000, 2, 1));
  const Array<double> x0 = ends(objective, drawn(objective)).first;
  for (Index j = 0; j < 2; ++j) {
    const double scale = j == 0 ? 0.5 : 2, centre = j == 0 ? 5 : -3;
    CHECK(std::abs(x0.col(j).mean() - centre) < 5 * scale / std::sqrt(4000.0));
    CHECK(std::sqrt(mean_square(x0.col(j) - centre)) == Approx(scale).epsilon(0.06));
  }
}

TEST_CASE("flow matching: a base that depends on the context is drawn given the row's context", "[matching]") {
  const Array<double> x = gaussian<double>(3000, 1, 1);
  Array<double> c = gaussian<double>(3000, 1, 2);
  auto base = diffeo::conditional_normal<double>(1, c, {.network = {.hidden = {}}});
  const Array<double> values = Array<double>{{2.0, 0.7, 0.3, -0.5}}.transpose();
  REQUIRE(diffeo::parameter_count(base) == 4);
  diffeo::set_parameters(base, values);
  const auto flow = flow_along(
                        1, [](const auto&, const auto& y, const auto& k) { return y * 0.0 + k; }, 1)
                        .flow;
  const TransformedDistribution model(base, flow);
  const FlowMatching objective(model, Dataset<double>{.x = x, .context = c});
  const Array<double> x0 = ends(objective, drawn(objective)).first;
  // Standardised by the base's own log-density: -log p is z^2 / 2 + log(sd) + log(2 pi) / 2.
  const Array<double> log_p = base.log_prob(x0, c);
  const Array<double> shuffled = base.log_prob(x0, c.colwise().reverse());
  const Array<double> own = base.log_prob(base.sample(c, 9), c);
  CHECK(log_p.mean() == Approx(own.mean()).margin(0.1));
  CHECK(shuffled.mean() < own.mean() - 0.3);
}

// Of source N(0, 1) and data with mean m1 and variance v1 in one dimension, at time t: the regression of u_t on x_t is
// the marginal velocity, that of e the score times -gamma, and the loss of the marginal velocity what is left of the
// variance of u_t.
TEST_CASE("flow matching: regressions at one time are the exact velocity and score of normal distributions",
          "[matching]") {
  const Index n = 20000;
  const int steps = 10;
  const Array<double> data = gaussian<double>(n, 1, 1) * 0.6 + 1.5;
  const double m1 = data.mean(), v1 = mean_square(data - m1);
  const auto check = [&](const char* name, const auto& path, double t) {
    CAPTURE(name, t);
    const FlowMatching objective(resting(1), data, path, IndependentPairing{}, at_time(t));
    const double time = path.margin() + (1 - 2 * path.margin()) * t;
    const PathWeights w = path.at(time);
    const double variance = w.alpha * w.alpha + w.beta * w.beta * v1 + w.gamma * w.gamma;
    const double mean = w.beta * m1, mean_velocity = w.beta_rate * m1;
    const double covariance = w.alpha * w.alpha_rate + w.beta * w.beta_rate * v1 + w.gamma * w.gamma_rate;
    const double slope = covariance / variance;
    const double left =
        w.alpha_rate * w.alpha_rate + w.beta_rate * w.beta_rate * v1 + w.gamma_rate * w.gamma_rate - slope * covariance;
    double ux = 0, xx = 0, ex = 0, loss = 0, off = 0;
    const auto exact = flow_along(1, [&](const auto&, const auto& x) { return (x - mean) * slope + mean_velocity; });
    const auto shifted =
        flow_along(1, [&](const auto&, const auto& x) { return (x - mean) * slope + (mean_velocity + 0.5); });
    const std::vector<Index> rows = first_rows(n);
    for (int step = 0; step < steps; ++step) {
      const Drawn<double> at = drawn(objective, static_cast<std::uint64_t>(step));
      CHECK((at.t - time).abs().maxCoeff() < 1e-12);
      const Array<double> x = at.x - mean, u = at.u - mean_velocity;
      ux += (u * x).mean() / steps;
      xx += mean_square(x) / steps;
      if (at.e.size() > 0) ex += (at.e * x).mean() / steps;
      typename std::decay_t<decltype(objective)>::StepState state;
      const Minibatch whole{.rows = rows, .step = static_cast<std::uint64_t>(step), .seed = 1, .training = true};
      objective.begin_step(state, whole);
      Tape<double> tape;
      loss += to_array(objective.loss(exact, tape, whole, state)).mean() / steps;
      off += to_array(objective.loss(shifted, tape, whole, state)).mean() / steps;
    }
    const double total = static_cast<double>(n) * steps;
    const double slope_error = std::sqrt(left / variance / total);
    CHECK(std::abs(ux / xx - slope) < 5 * slope_error);
    CHECK(std::abs(xx / variance - 1) < 5 * std::sqrt(2 / total));
    if (w.gamma > 0) {
      CHECK(std::abs(ex / xx / w.gamma - 1 / variance) < 5 / (w.gamma * std::sqrt(total * variance)));
    }
    CHECK(std::abs(loss / left - 1) < 5 * std::sqrt(2 / total));
    CHECK(off - loss == Approx(0.25).margin(5 * std::sqrt(left / total)));
  };
  for (const double t : {0.2, 0.7}) {
    check("straight lines", LinearPath{}, t);
    check("straight lines with noise", LinearPath{0.4}, t);
    check("gaussian path", diffeo::GaussianPath{0.1}, t);
    check("bridge", BrownianBridge{.sigma = 0.5}, t);
    check("trigonometric path", TrigonometricPath{0.2}, t);
    check("interpolant",
          StochasticInterpolant{.alpha = [](double s) { return (1 - s) * (1 - s); },
                                .alpha_rate = [](double s) { return 2 * s - 2; },
                                .beta = [](double s) { return s * s; },
                                .beta_rate = [](double s) { return 2 * s; },
                                .gamma = [](double s) { return s * (1 - s); },
                                .gamma_rate = [](double s) { return 1 - 2 * s; }},
          t);
  }
}

namespace {

// A conditional flow with an embedding of its context, and data for it.
struct ConditionalCase {
  Array<double> x = gaussian<double>(40, 2, 1) * 3.0 + 1.0, c = gaussian<double>(40, 3, 2) * 2.0;
  TransformedDistribution<StandardNormal<double>,
                          diffeo::Conditional<double, diffeo::CnfFlow<double>, diffeo::Mlp<double>>>
      model{StandardNormal<double>(2),
            diffeo::conditional(
                diffeo::standardized(diffeo::cnf<double>(2, {.network = {.hidden = {6, 5}}, .context_dim = 2}), x), c,
                diffeo::make_mlp<double>(3, 2, {.hidden = {4}, .last_scale = 1}, 5))};
};

}  // namespace

TEST_CASE("flow matching: gradients of field and embedding agree with finite differences", "[matching]") {
  const ConditionalCase of;
  const FlowMatching objective(of.model, Dataset<double>{.x = of.x, .context = of.c}, LinearPath{0.2});
  const std::vector<Index> rows = first_rows(40);
  const Minibatch whole{.rows = rows, .step = 3, .training = true};
  decltype(objective)::StepState state;
  objective.begin_step(state, whole);
  Array<double> values = diffeo::parameters(of.model), grads(values.rows(), 1);
  const Array<double> ones = Array<double>::Ones(40, 1);
  Tape<double> tape;
  const auto lifted = diffeo::lift(tape, of.model, values.data(), grads.data());
  tape.redirect_parameter_grads(grads.data());
  tape.backward(objective.loss(lifted, tape, whole, state), view(ones));
  tape.finish_parameter_grads();
  const auto loss = [&] {
    tape.reset();
    return to_array(objective.loss(lifted, tape, whole, state)).sum();
  };
  CHECK(grads.rows() > 80);
  for (Index k = 0; k < values.rows(); ++k) {
    CAPTURE(k, diffeo::parameter_name(of.model, k));
    const double kept = values(k, 0), h = 1e-5;
    values(k, 0) = kept + h;
    const double above = loss();
    values(k, 0) = kept - h;
    const double below = loss();
    values(k, 0) = kept;
    CHECK(grads(k, 0) == Approx((above - below) / (2 * h)).epsilon(1e-6).margin(1e-6));
  }
  CHECK((grads != 0).all());
}

TEST_CASE("flow matching: the field gets the context standardised, and fixed where it is given", "[matching]") {
  const Array<double> x = gaussian<double>(50, 1, 1), c = gaussian<double>(50, 1, 2) * 4.0 + 7.0;
  const auto plain = flow_along(
      1, [](const auto&, const auto& y, const auto& k) { return y * 0.0 + k; }, 1);
  const auto flow = diffeo::conditional(plain.flow, c);
  const TransformedDistribution model(StandardNormal<double>(1), flow);
  const std::vector<Index> rows = first_rows(50);
  const Minibatch whole{.rows = rows, .training = true};
  const auto loss = [&](const auto& objective, const auto& m) {
    typename std::decay_t<decltype(objective)>::StepState state;
    objective.begin_step(state, whole);
    Tape<double> tape;
    return to_array(objective.loss(m, tape, whole, state));
  };
  const FlowMatching objective(model, {.x = x, .context = c});
  const Array<double> u = drawn(objective, 0, 0).u;
  const Array<double> k = (c - flow.context.mean.value(0, 0)) / flow.context.scale.value(0, 0);
  CHECK((loss(objective, model) - (k - u).square()).abs().maxCoeff() < 1e-12);
  const auto given = model.given(Array<double>{{11.0}});
  const double fixed = (11 - flow.context.mean.value(0, 0)) / flow.context.scale.value(0, 0);
  CHECK((loss(FlowMatching(given, x), given) - (fixed - u).square()).abs().maxCoeff() < 1e-12);
}

TEMPLATE_TEST_CASE("flow matching: a field trained on normal data has the exact density and marginals", "[matching]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  Array<S> data = gaussian<S>(20000, 2, 1), test = gaussian<S>(4000, 2, 2);
  for (Array<S>* x : {&data, &test}) {
    x->col(0) = x->col(0) * S(0.5) + S(1);
    x->col(1) = x->col(1) * S(0.8) - S(0.5) + x->col(0) * S(0.6);
  }
  TransformedDistribution model(StandardNormal<S>(2),
                                diffeo::cnf<S>(2, {.network = {.hidden = {24, 24}, .first_scale = 1}}));
  diffeo::FitOptions options{.steps = 3000, .batch = 256};
  options.rate.learning_rate = 5e-3;
  const auto report = diffeo::fit(model, FlowMatching(model, data), options);
  CHECK(report.recoveries.empty());
  const auto exact = diffeo::MultivariateNormal<S>::fit(data);
  const auto gap = static_cast<double>(exact.log_prob(test).mean() - model.log_prob(test).mean());
  CHECK(gap < 0.01);
  CHECK(gap > -0.005);
  // On the way: mean t m and covariance (1 - t)^2 I + t^2 C.
  const diffeo::ProbabilityPath path(model);
  for (const double t : {0.3, 0.6, 1.0}) {
    const Array<double> x = path.sample(t, 20000, 4).template cast<double>(), y = data.template cast<double>();
    const auto covariance = [](const Array<double>& of, Index i, Index j) {
      return ((of.col(i) - of.col(i).mean()) * (of.col(j) - of.col(j).mean())).mean();
    };
    for (Index i = 0; i < 2; ++i) {
      CAPTURE(t, i);
      CHECK(x.col(i).mean() == Approx(t * y.col(i).mean()).margin(0.04));
      for (Index j = 0; j < 2; ++j) {
        CAPTURE(j);
        const double expected = (1 - t) * (1 - t) * (i == j) + t * t * covariance(y, i, j);
        CHECK(covariance(x, i, j) == Approx(expected).margin(0.04));
      }
    }
  }
}

TEST_CASE("flow matching: a piece of a minibatch has the rows of the whole, on any number of threads", "[matching]") {
  const ConditionalCase of;
  const Dataset<double> data{.x = of.x, .context = of.c};
  const std::vector<Index> rows = first_rows(40);
  const auto check = [&](const auto& objective) {
    typename std::decay_t<decltype(objective)>::StepState state;
    const Minibatch whole{.rows = rows, .step = 5, .seed = 2, .training = true};
    objective.begin_step(state, whole);
    Tape<double> tape;
    const Array<double> all = to_array(objective.loss(of.model, tape, whole, state));
    for (const auto& [first, count] : {std::pair<Index, Index>{0, 16}, {16, 7}, {23, 17}}) {
      const Minibatch piece{.rows = std::span(rows).subspan(std::size_t(first), std::size_t(count)),
                            .first = first,
                            .step = 5,
                            .seed = 2,
                            .training = true};
      CHECK(same_bits(to_array(objective.loss(of.model, tape, piece, state)),
                      Array<double>(all.middleRows(first, count))));
    }
    const auto trained = [&](int threads) {
      auto model = of.model;
      diffeo::fit(model, objective, {.steps = 8, .batch = 30, .threads = threads});
      return diffeo::parameters(model);
    };
    CHECK(same_bits(trained(1), trained(3)));
    CHECK(!same_bits(trained(1), diffeo::parameters(of.model)));
  };
  check(FlowMatching(of.model, data, LinearPath{0.1}));
  check(FlowMatching(of.model, data, TrigonometricPath{}, InOrder{},
                     {.times = diffeo::LogitNormalTimes{}, .antithetic = true}));
  check(
      FlowMatching(of.model, data, BrownianBridge{}, IndependentPairing{}, {.antithetic = true, .stratified = false}));
}

TEST_CASE("flow matching: antithetic pairs and times of the user's own", "[matching]") {
  const Array<double> x = gaussian<double>(100, 1, 1);
  for (const bool stratified : {false, true}) {
    const FlowMatching objective(resting(1), x, LinearPath{}, IndependentPairing{},
                                 {.antithetic = true, .stratified = stratified});
    const Array<double> t = drawn(objective).t;
    for (Index i = 0; i < 100; i += 2) CHECK(t(i, 0) + t(i + 1, 0) == Approx(1));
    CHECK((t.topRows(98) == t.bottomRows(98)).count() == 0);
  }
  const FlowMatching own(resting(1), x, LinearPath{}, IndependentPairing{},
                         {.times = diffeo::TimeFunction([](double u) { return 0.5 + u / 4; })});
  CHECK(drawn(own).t.minCoeff() >= 0.5);
  CHECK(drawn(own).t.maxCoeff() <= 0.75);
  const Array<double> bridge = drawn(FlowMatching(resting(1), x, BrownianBridge{.least_time = 0.1})).t;
  CHECK(bridge.minCoeff() >= 0.1);
  CHECK(bridge.maxCoeff() <= 0.9);
}

TEST_CASE("flow matching: from snapshot to snapshot", "[matching]") {
  // So far apart that a point shows its snapshot.
  const Array<double> a = gaussian<double>(60, 1, 1), b = gaussian<double>(30, 1, 2) + 100.0,
                      c = gaussian<double>(50, 1, 3) + 300.0;
  const FlowMatching objective(resting(1), std::vector<Snapshot<double>>{{0, {a}}, {0.25, {b}}, {1, {c}}});
  CHECK(objective.size() == 80);
  const Drawn<double> at = drawn(objective);
  std::vector<double> used;
  for (Index i = 0; i < 80; ++i) {
    CAPTURE(i);
    const bool first = i < 30;
    const double from = first ? 0 : 0.25, duration = first ? 0.25 : 0.75, s = (at.t(i, 0) - from) / duration;
    CHECK(s >= 0);
    CHECK(s <= 1);
    const double x0 = at.x(i, 0) - s * duration * at.u(i, 0), x1 = x0 + duration * at.u(i, 0);
    const Array<double>& source = first ? a : b;
    CHECK((source - x0).abs().minCoeff() < 1e-9);
    CHECK(x1 == Approx(first ? b(i, 0) : c(i - 30, 0)));
    used.push_back(std::round(x0 * 1e6));
  }
  std::sort(used.begin(), used.end());
  CHECK(std::unique(used.begin(), used.end()) - used.begin() > 20);
  // The rows of an interval count together as much as it is long.
  double weight = 0;
  for (Index i = 0; i < 30; ++i) weight += objective.row_weight(i);
  CHECK(weight == Approx(0.25 * 80));
  CHECK(objective.row_weight(30) == Approx(0.75 * 80 / 50));

  // From the base first where there is no data at time 0; partners within each interval.
  const FlowMatching ordered(resting(1), std::vector<Snapshot<double>>{{0.5, {b}}, {1, {c}}}, LinearPath{}, InOrder{});
  const Drawn<double> in_order = drawn(ordered);
  Array<double> x0(80, 1), x1(80, 1);
  for (Index i = 0; i < 80; ++i) {
    const double s = (in_order.t(i, 0) - (i < 30 ? 0 : 0.5)) / 0.5;
    x0(i, 0) = in_order.x(i, 0) - s * 0.5 * in_order.u(i, 0);
    x1(i, 0) = x0(i, 0) + 0.5 * in_order.u(i, 0);
  }
  CHECK(x0.topRows(30).abs().maxCoeff() < 6);
  CHECK((x0.bottomRows(50) - 100).abs().maxCoeff() < 6);
  for (Index i = 0; i < 80; ++i)
    for (Index j = 0; j < i; ++j)
      if ((i < 30) == (j < 30)) CHECK((x0(i, 0) - x0(j, 0)) * (x1(i, 0) - x1(j, 0)) > -1e-9);
}

TEST_CASE("flow matching: rows that belong together", "[matching]") {
  const Array<double> a = gaussian<double>(30, 2, 1), b = gaussian<double>(30, 2, 2);
  const FlowMatching objective(resting(2), std::vector<Snapshot<double>>{{0, {a}}, {1, {b}}}, TrigonometricPath{},
                               IndependentPairing{}, {.paired = true});
  const auto [x0, x1] = ends(objective, drawn(objective));
  CHECK((x0 - a).abs().maxCoeff() < 1e-12);
  CHECK((x1 - b).abs().maxCoeff() < 1e-12);
}

TEST_CASE("flow matching: a pairing changes the order of the sources alone", "[matching]") {
  const Array<double> data = gaussian<double>(300, 1, 1) + 2.0;
  const FlowMatching independent(resting(1), data);
  const FlowMatching ordered(resting(1), data, LinearPath{}, InOrder{});
  const auto [x0, x1] = ends(independent, drawn(independent));
  const auto [y0, y1] = ends(ordered, drawn(ordered));
  CHECK((x1 - y1).abs().maxCoeff() < 1e-9);
  const std::vector<double> drawn_x = sorted(x0), drawn_y = sorted(y0);
  for (std::size_t i = 0; i < drawn_x.size(); ++i) CHECK(drawn_x[i] == Approx(drawn_y[i]).margin(1e-9));
  for (Index i = 0; i < 300; ++i)
    for (Index j = 0; j < i; ++j) CHECK((y0(i, 0) - y0(j, 0)) * (y1(i, 0) - y1(j, 0)) > -1e-9);
}

TEST_CASE("flow matching: weights of targets and sources", "[matching]") {
  const Array<double> x = gaussian<double>(4000, 1, 1);
  Array<double> weights(4000, 1), values(4, 1), source_weights(4, 1);
  for (Index i = 0; i < 4000; ++i) weights(i, 0) = static_cast<double>(i % 5);
  values << 0, 1, 2, 3;
  source_weights << 1, 0, 5, 2;
  const FlowMatching objective(resting(1), std::vector<Snapshot<double>>{{0, {.x = values, .weights = source_weights}},
                                                                         {1, {.x = x, .weights = weights}}});
  for (Index i = 0; i < 10; ++i) CHECK(objective.row_weight(i) == weights(i, 0));
  const Array<double> x0 = ends(objective, drawn(objective)).first;
  for (int k = 0; k < 4; ++k) {
    const double expected = source_weights(k, 0) / 8;
    const auto share = static_cast<double>(((x0 - values(k, 0)).abs() < 1e-6).count()) / 4000;
    CHECK(share == Approx(expected).margin(5 * std::sqrt(expected * (1 - expected) / 4000)));
  }
  // The trainer and validation use them.
  const std::vector<Index> rows = first_rows(4000);
  std::vector<Index> heavy;
  for (Index i = 0; i < 4000; ++i)
    if (i % 5 > 0) heavy.push_back(i);
  const double all = diffeo::mean_loss(resting(1), objective, rows),
               some = diffeo::mean_loss(resting(1), objective, heavy);
  CHECK(all == some);
}

TEST_CASE("flow matching: weights count by their ratios, however large or small they are", "[matching]") {
  const Array<double> a = gaussian<double>(400, 1, 1), b = gaussian<double>(300, 1, 2);
  Array<double> weights(400, 1);
  for (Index i = 0; i < 400; ++i) weights(i, 0) = static_cast<double>(i % 3);
  const auto of = [&](double unit) {
    const Array<double> scaled = weights * unit;
    return FlowMatching(resting(1),
                        std::vector<Snapshot<double>>{
                            {0, {.x = a, .weights = scaled}}, {0.5, {.x = a, .weights = scaled}}, {1, {.x = b}}});
  };
  const auto ones = of(1);
  const Drawn<double> expected = drawn(ones);
  // Powers of two, so that no product is rounded; the sum of the large ones is beyond double.
  for (const double unit : {0x1p1022, 0x1p-1022}) {
    const auto objective = of(unit);
    for (Index i = 0; i < objective.size(); ++i) {
      CAPTURE(unit, i);
      REQUIRE(objective.row_weight(i) == ones.row_weight(i));
    }
    const Drawn<double> at = drawn(objective);
    CHECK(same_bits(at.x, expected.x));
    CHECK(same_bits(at.u, expected.u));
  }
}

TEST_CASE("flow matching: validation draws the same noise each time, and other noise for other rows", "[matching]") {
  Array<double> data = Array<double>::Constant(2000, 1, 1.0);
  data(0, 0) = 1 + 1e-9;
  const FlowMatching objective(resting(1), data);
  const std::vector<Index> rows = first_rows(2000);
  const auto loss = [&](Index first, Index count) {
    return diffeo::mean_loss(resting(1), objective,
                             std::span<const Index>(rows).subspan(std::size_t(first), std::size_t(count)));
  };
  CHECK(loss(0, 2000) == loss(0, 2000));
  CHECK(loss(0, 512) != loss(512, 512));
  CHECK(loss(0, 1024) == Approx((loss(0, 512) + loss(512, 512)) / 2));
  // E |x1 - x0|^2 = 1 + 1.
  CHECK(loss(0, 2000) == Approx(2).margin(5 * std::sqrt(6.0 / 2000)));
  auto model = ConditionalCase().model;
  const ConditionalCase of;
  const auto report = diffeo::fit(model, FlowMatching(model, {.x = of.x, .context = of.c}),
                                  {.steps = 30, .batch = 16, .validation_fraction = 0.3, .validation_every = 10});
  CHECK(report.validation_loss.size() == 3);
  CHECK(report.best_validation_loss == *std::min_element(report.validation_loss.begin(), report.validation_loss.end()));
}

TEST_CASE("flow matching: bad input", "[matching]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Array<double> x = gaussian<double>(20, 2, 1), c = gaussian<double>(20, 1, 2), wide = gaussian<double>(20, 3, 3);
  const auto model = resting(2);
  using Snapshots = std::vector<Snapshot<double>>;
  const auto refused = [&](const auto& data, const std::string& part) {
    const std::string message = thrown_message<invalid_argument>([&] { FlowMatching(model, data); });
    CAPTURE(message, part);
    CHECK(contains(message, part));
  };
  refused(wide, "flow matching: data has 3 columns, this flow has dimension 2");
  refused(Array<double>(0, 2), "flow matching: data is empty");
  refused(Array<double>(x.topRows(1)), "flow matching: data has 1 row");
  Array<double> broken = x;
  broken(3, 1) = nan;
  refused(broken, "nan");
  refused(Dataset<double>{.x = broken}, "flow matching: data");
  refused(Dataset<double>{.x = x, .context = c}, "got a context, but this model takes none");
  refused(Dataset<double>{.x = x, .weights = c}, "the weight of row");
  refused(Snapshots{}, "no snapshots");
  refused(Snapshots{{0, {x}}}, "the last snapshot is at time 0");
  refused(Snapshots{{0, {wide}}, {1, {x}}}, "flow matching: snapshot 0: data has 3 columns");
  refused(Snapshots{{0, {x}}, {1, {wide}}}, "flow matching: snapshot 1: data has 3 columns");
  refused(Snapshots{{0.5, {x}}, {0.5, {x}}, {1, {x}}}, "snapshot 1: the time is 0.5 after 0.5");
  refused(Snapshots{{0.5, {x}}, {0.2, {x}}, {1, {x}}}, "expected times that ascend");
  refused(Snapshots{{0, {x}}, {1.5, {x}}}, "the time is 1.5, expected one between 0 and 1");
  refused(Snapshots{{-0.5, {x}}, {1, {x}}}, "the time is -0.5");
  refused(Snapshots{{nan, {x}}, {1, {x}}}, "the time is nan");
  refused(Snapshots{{0, {x}}, {0.5, {x}}}, "the last snapshot is at time 0.5, expected 1");

  const auto with = [&](const auto& data, const auto& path, const auto& pairing, const FlowMatchingOptions& options) {
    return thrown_message<invalid_argument>([&] { FlowMatching(model, data, path, pairing, options); });
  };
  const IndependentPairing any;
  CHECK(contains(with(x, LinearPath{-1}, any, {}), "linear path: sigma is -1"));
  CHECK(contains(with(x, LinearPath{}, any, at_time(2)), "expected a time between 0 and 1"));
  CHECK(contains(with(x, LinearPath{}, any, {.times = diffeo::LogitNormalTimes{.scale = 0}}), "scale"));
  CHECK(contains(with(x, LinearPath{}, any, {.paired = true}), "the first source is the base"));
  CHECK(contains(with(Snapshots{{0, {Array<double>(x.topRows(5))}}, {1, {x}}}, LinearPath{}, any, {.paired = true}),
                 "5 rows, the target 20"));
  CHECK(contains(with(Dataset<double>{.x = x, .weights = c.abs()}, LinearPath{}, InOrder{}, {}),
                 "does not allow for weights"));
  const FlowMatching mistaken(model, x, LinearPath{}, OutOfRange{});
  CHECK(contains(thrown_message<invalid_argument>([&] { drawn(mistaken); }), "the pairing gave row 20 of 20"));
}

TEST_CASE("flow matching: models that it cannot train are refused", "[matching]") {
  const Array<double> x = gaussian<double>(20, 2, 1);
  const StandardNormal<double> base(2);
  const auto cnf = resting(2).flow;
  const diffeo::DiagonalScale<double> scale{Array<double>::Zero(1, 2)};
  const auto refused = [&](const auto& flow, const std::string& part) {
    const TransformedDistribution model(base, flow);
    const std::string message = thrown_message<invalid_argument>([&] { FlowMatching(model, x); });
    CAPTURE(message, part);
    CHECK(contains(message, part));
  };
  refused(scale, "flow matching: the model has 0 continuous flows, expected one");
  refused(diffeo::FlowSequence(cnf, cnf), "the model has 2 continuous flows, expected one");
  refused(diffeo::FlowSequence(scale, cnf), "expected the continuous flow as the first layer");
  refused(diffeo::FlowSequence(cnf, scale), "layer 1 behind the continuous flow has parameters");
  refused(diffeo::repeat(1, [&](Index) { return cnf; }), "expected the continuous flow as the first layer");

  // Made with one model, used for another.
  auto model = TransformedDistribution(base, diffeo::cnf(x, {.network = {.hidden = {3}}}));
  const FlowMatching objective(model, x);
  const auto fails = [&](auto other) {
    return thrown_message<invalid_argument>([&] { diffeo::fit(other, objective, {.steps = 1}); });
  };
  CHECK(contains(fails(TransformedDistribution(base, diffeo::cnf<double>(2))), "put the data elsewhere"));
  CHECK(contains(fails(TransformedDistribution(base, scale)), "fit: the model has 0 continuous flows"));
  CHECK(contains(fails(TransformedDistribution(StandardNormal<double>(3), diffeo::cnf<double>(3))),
                 "fit: data has 2 columns, this flow has dimension 3"));
  CHECK(contains(fails(TransformedDistribution(base, diffeo::cnf(x, gaussian<double>(20, 1, 2)))),
                 "takes a context of 1 columns, got none"));
  CHECK(diffeo::fit(model, objective, {.steps = 2, .batch = 8}).steps == 2);
}

TEST_CASE("flow matching: the rate of a training unless another is chosen", "[matching]") {
  const Array<double> x = gaussian<double>(20, 2, 1);
  TransformedDistribution model(StandardNormal<double>(2), diffeo::cnf<double>(2, {.network = {.hidden = {3}}}));
  const auto rate = [&](const auto& objective) {
    double first = 0;
    diffeo::fit(model, objective, {.steps = 1}, [&](const diffeo::FitProgress& p) { first = p.learning_rate; });
    return first;
  };
  CHECK(rate(FlowMatching(model, x)) == 5e-3);
  CHECK(rate(diffeo::MaximumLikelihood<double>(x)) == 1e-2);
}
