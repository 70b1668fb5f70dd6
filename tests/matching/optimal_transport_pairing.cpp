// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/matching/flow_matching.hpp>
#include <diffeo/matching/optimal_transport_pairing.hpp>
#include <diffeo/training/fit.hpp>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Dataset;
using diffeo::EntropicPairing;
using diffeo::FlowMatching;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::LinearPath;
using diffeo::OptimalTransportPairing;
using diffeo::PairingTask;
using diffeo::Snapshot;
using diffeo::StandardNormal;
using diffeo::TransformedDistribution;

static_assert(diffeo::Pairing<OptimalTransportPairing, float> && diffeo::Pairing<EntropicPairing, double>);

namespace {

struct Points {
  Array<double> source, target;
  Array<double> source_context = {}, target_context = {};
  std::vector<double> weights = {};
};

template <class P>
std::vector<Index> partners(const P& pairing, const Points& of, std::uint64_t stream = 0) {
  std::vector<Index> partner(static_cast<std::size_t>(of.target.rows()), -1);
  typename P::template State<double> state;
  pairing.pair(state, PairingTask<double>{view(of.source), view(of.target), of.weights, 5, stream, partner,
                                          view(of.source_context), view(of.target_context)});
  return partner;
}

double cost(const Points& of, const std::vector<Index>& partner) {
  double sum = 0;
  for (std::size_t i = 0; i < partner.size(); ++i)
    sum += (of.target.row(static_cast<Index>(i)) - of.source.row(partner[i])).square().sum();
  return sum;
}

bool is_permutation(std::vector<Index> partner) {
  std::sort(partner.begin(), partner.end());
  for (std::size_t i = 0; i < partner.size(); ++i)
    if (partner[i] != static_cast<Index>(i)) return false;
  return true;
}

// The least cost of all permutations that `allowed` does not refuse.
template <class Allowed>
double least_cost(const Points& of, const Allowed& allowed) {
  std::vector<Index> order(static_cast<std::size_t>(of.target.rows()));
  std::iota(order.begin(), order.end(), Index{0});
  double least = std::numeric_limits<double>::infinity();
  do {
    if (allowed(order)) least = std::min(least, cost(of, order));
  } while (std::next_permutation(order.begin(), order.end()));
  return least;
}

// A model with a field without parameters that takes a context of C columns, or none.
auto resting_given(Index context_dim) {
  return TransformedDistribution(
      StandardNormal<double>(1),
      diffeo::Cnf(diffeo::make_field<double>(
          1, [](const auto&, const auto& x, const auto&... c) { return ((x * 0.0) + ... + (c * 0.0)); }, context_dim)));
}
auto resting_on_a_line() {
  return TransformedDistribution(
      StandardNormal<double>(1),
      diffeo::Cnf(diffeo::make_field<double>(1, [](const auto&, const auto& x) { return x * 0.0; })));
}

// Source and target points of the rows of an objective on straight lines, in training step `step`.
template <class O>
std::pair<Array<double>, Array<double>> ends(const O& objective, std::uint64_t step = 0) {
  std::vector<Index> rows(static_cast<std::size_t>(objective.size()));
  std::iota(rows.begin(), rows.end(), Index{0});
  typename O::StepState state;
  const diffeo::Minibatch whole{.rows = rows, .step = step, .seed = 1, .training = true};
  objective.begin_step(state, whole);
  diffeo::Tape<double> tape;
  const auto sample = objective.sample(tape, whole, state);
  const Array<double> t = to_array(sample.time), x = to_array(sample.point), u = to_array(sample.velocity);
  return {x - t * u, x + (1 - t) * u};
}

double correlation(const Array<double>& x, const Array<double>& y) {
  const Array<double> a = x - x.mean(), b = y - y.mean();
  return (a * b).mean() / std::sqrt(a.square().mean() * b.square().mean());
}

}  // namespace

TEST_CASE("optimal transport pairing: no permutation costs less", "[matching]") {
  for (const std::uint64_t seed : {1u, 2u, 3u, 4u, 5u}) {
    const Points of{gaussian<double>(7, 2, seed), gaussian<double>(7, 2, seed + 10) * 2.0 + 1.0};
    const std::vector<Index> partner = partners(OptimalTransportPairing{}, of);
    CAPTURE(seed);
    CHECK(is_permutation(partner));
    CHECK(cost(of, partner) == Approx(least_cost(of, [](const auto&) { return true; })).epsilon(1e-12));
  }
}

TEST_CASE("optimal transport pairing: its memory serves minibatches of all sizes", "[matching]") {
  OptimalTransportPairing::State<float> state;
  for (const Index n : {9, 40, 1, 40, 3}) {
    const Array<float> x = gaussian<float>(n, 1, 1), y = gaussian<float>(n, 1, 2);
    std::vector<Index> partner(static_cast<std::size_t>(n), -1);
    OptimalTransportPairing().pair(state, PairingTask<float>{view(x), view(y), {}, 0, 0, partner});
    for (Index i = 0; i < n; ++i)
      for (Index j = 0; j < i; ++j)
        CHECK((x(partner[std::size_t(i)], 0) - x(partner[std::size_t(j)], 0)) * (y(i, 0) - y(j, 0)) >= 0);
  }
}

TEST_CASE("optimal transport pairing: within classes, unless contexts do not matter", "[matching]") {
  Points of{gaussian<double>(7, 2, 1), gaussian<double>(7, 2, 2) * 2.0};
  // One-hot, in units of standard deviations.
  Array<double> classes = Array<double>::Zero(7, 2);
  for (Index i = 0; i < 7; ++i) classes(i, i % 3 == 0 ? 0 : 1) = 2;
  of.source_context = of.target_context = classes;
  const auto same_class = [&](const std::vector<Index>& order) {
    for (std::size_t i = 0; i < order.size(); ++i)
      if (classes(static_cast<Index>(i), 0) != classes(order[i], 0)) return false;
    return true;
  };
  const std::vector<Index> partner = partners(OptimalTransportPairing{}, of);
  CHECK(is_permutation(partner));
  CHECK(same_class(partner));
  const double within = least_cost(of, same_class), least = least_cost(of, [](const auto&) { return true; });
  CHECK(cost(of, partner) == Approx(within).epsilon(1e-12));
  REQUIRE(within > least * 1.01);
  CHECK(cost(of, partners(OptimalTransportPairing{.context_weight = 0}, of)) == Approx(least).epsilon(1e-12));
  for (std::uint64_t stream = 0; stream < 50; ++stream) CHECK(same_class(partners(EntropicPairing{}, of, stream)));
}

TEST_CASE("entropic pairing: source points are drawn from the plan, by the weights of the target", "[matching]") {
  Points of{gaussian<double>(4, 2, 1), gaussian<double>(4, 2, 2) + 0.5};
  of.weights = {1, 5, 2, 0.5};
  const Array<double> costs = diffeo::squared_distances(of.target, of.source);
  const double regularisation = 1.5;
  const auto plan = diffeo::sinkhorn(costs, of.weights, {}, {.regularisation = regularisation, .tolerance = 1e-10});
  REQUIRE(plan.converged);
  const int draws = 20000;
  Array<double> share = Array<double>::Zero(4, 4);
  EntropicPairing pairing{.regularisation = regularisation, .relative = false, .tolerance = 1e-8};
  for (int k = 0; k < draws; ++k) {
    const std::vector<Index> partner = partners(pairing, of, static_cast<std::uint64_t>(k));
    for (Index i = 0; i < 4; ++i) share(i, partner[static_cast<std::size_t>(i)]) += 1.0 / draws;
  }
  for (Index i = 0; i < 4; ++i)
    for (Index j = 0; j < 4; ++j) {
      const double p = plan.plan(i, j) / plan.plan.row(i).sum();
      CAPTURE(i, j, p);
      CHECK(share(i, j) == Approx(p).margin(5 * std::sqrt(p * (1 - p) / draws) + 1e-6));
    }
  // In units of the mean cost.
  const EntropicPairing relative{.regularisation = regularisation / costs.mean(), .tolerance = 1e-8};
  int equal = 0;
  for (std::uint64_t k = 0; k < 200; ++k) equal += partners(relative, of, k) == partners(pairing, of, k);
  CHECK(equal == 200);
  CHECK(partners(pairing, of, 0) == partners(pairing, of, 0));
}

TEST_CASE("entropic pairing: optimal without regularisation, independent with much, and any for equal points",
          "[matching]") {
  // Points on a line, where swapping two partners costs at least 2 more.
  Points of{Array<double>(40, 1), Array<double>(40, 1)};
  for (Index i = 0; i < 40; ++i) {
    of.source(i, 0) = static_cast<double>(i * 7 % 40);
    of.target(i, 0) = static_cast<double>(i * 11 % 40) + 0.3;
  }
  const std::vector<Index> exact = partners(OptimalTransportPairing{}, of);
  for (Index i = 0; i < 40; ++i)
    CHECK(of.target(i, 0) - of.source(exact[static_cast<std::size_t>(i)], 0) == Approx(0.3));
  CHECK(partners(EntropicPairing{.regularisation = 0.05, .relative = false}, of) == exact);
  int hits = 0;
  for (std::uint64_t k = 0; k < 500; ++k) {
    const std::vector<Index> drawn = partners(EntropicPairing{.regularisation = 1e4}, of, k);
    for (std::size_t i = 0; i < 40; ++i) hits += drawn[i] == exact[i];
  }
  CHECK(hits == Approx(500).margin(5 * std::sqrt(500.0)));  // 20,000 / 40
  const Points equal{Array<double>::Constant(5, 2, 3.0), Array<double>::Constant(5, 2, 3.0)};
  for (const Index partner : partners(EntropicPairing{}, equal)) CHECK((partner >= 0 && partner < 5));
}

TEST_CASE("optimal transport pairing: sources given a context are the base, on shorter paths", "[matching]") {
  // Without the contexts' part of the cost, x0 would follow c.
  const Index n = 512;
  const Array<double> c = gaussian<double>(n, 1, 1) * 30.0 + 100.0,
                      x = (c - 100.0) / 15.0 + gaussian<double>(n, 1, 2) * 0.5;
  const Dataset<double> data{.x = x, .context = c};
  const auto model = resting_given(1);
  double correlated = 0, ignored = 0, cost_paired = 0, cost_independent = 0;
  const int steps = 8;
  for (int step = 0; step < steps; ++step) {
    const auto at = [&](const auto& pairing) {
      return ends(FlowMatching(model, data, LinearPath{}, pairing), static_cast<std::uint64_t>(step));
    };
    const auto [x0, x1] = at(OptimalTransportPairing{});
    const auto [y0, y1] = at(OptimalTransportPairing{.context_weight = 0});
    const auto [z0, z1] = at(diffeo::IndependentPairing{});
    CHECK((x1 - x).abs().maxCoeff() < 1e-9);
    correlated += correlation(x0, c) / steps;
    ignored += correlation(y0, c) / steps;
    cost_paired += (x1 - x0).square().mean() / steps;
    cost_independent += (z1 - z0).square().mean() / steps;
  }
  CHECK(ignored > 0.9);
  CHECK(std::abs(correlated) < 0.1);
  CHECK(cost_paired < 0.95 * cost_independent);
}

TEST_CASE("optimal transport pairing: sources that are data have their own contexts, and other sources the target's",
          "[matching]") {
  // Points show their class by the sign.
  const Index n = 60;
  Array<double> from_class(n, 1), to_class(n, 1);
  for (Index i = 0; i < n; ++i) from_class(i, 0) = i % 3 == 0 ? -1 : 1, to_class(i, 0) = i % 4 == 0 ? -1 : 1;
  const Array<double> from = gaussian<double>(n, 1, 1) + 100.0 * from_class,
                      to = gaussian<double>(n, 1, 2) - 20.0 * to_class;
  const auto model = resting_given(1);
  const auto same = [&](const Dataset<double>& source, double weight) {
    const FlowMatching objective(model, std::vector<Snapshot<double>>{{0, source}, {1, {.x = to, .context = to_class}}},
                                 LinearPath{}, OptimalTransportPairing{.context_weight = weight});
    const auto [x0, x1] = ends(objective);
    return std::pair(((x0 > 0) == (to_class > 0)).count(), (x0 < 0).count());
  };
  // Targets are 15 of class -1 and 45 of class 1, whose points are lower. By the points alone sources of class -1 go to
  // targets of class 1 and the rest of the sources to all others.
  const auto [by_class, low] = same({.x = from, .context = from_class}, 1e5);
  CHECK(by_class == n - std::abs(low - 15));
  const auto [by_points, low_again] = same({.x = from, .context = from_class}, 0);
  CHECK(by_points == 45 - low_again);
  const Index independent = same({.x = from}, 1e5).first;
  CHECK((independent > 20 && independent < 50));  // 35 on average
}

TEST_CASE("entropic pairing: weighted targets leave the distribution of the sources", "[matching]") {
  const Index n = 300;
  Array<double> x = gaussian<double>(n, 1, 1) * 0.1, weights(n, 1);
  for (Index i = 0; i < n; ++i) {
    x(i, 0) += i % 2 == 0 ? 3 : -3;
    weights(i, 0) = i % 2 == 0 ? 3 : 1;
  }
  const Dataset<double> data{.x = x, .weights = weights};
  double mean = 0, square = 0, unweighted = 0;
  const int steps = 20;
  for (int step = 0; step < steps; ++step) {
    const auto [x0, x1] = ends(FlowMatching(resting_on_a_line(), data, LinearPath{}, EntropicPairing{}),
                               static_cast<std::uint64_t>(step));
    mean += (weights * x0).mean() / weights.mean() / steps;
    square += (weights * x0.square()).mean() / weights.mean() / steps;
    unweighted += x0.mean() / steps;
  }
  CHECK(std::abs(mean) < 5 / std::sqrt(1.0 * n * steps));
  CHECK(square == Approx(1).margin(5 * std::sqrt(2.0 / (n * steps))));
  CHECK(unweighted < -0.2);  // the rows themselves are paired unequally
}

TEST_CASE("optimal transport pairing: trained parameters do not depend on the number of threads", "[matching]") {
  const Array<float> x = gaussian<float>(400, 2, 1) * 0.5F + 1.0F;
  const auto trained = [&](const auto& pairing, int threads) {
    TransformedDistribution model(StandardNormal<float>(2), diffeo::cnf<float>(2, {.network = {.hidden = {8}}}));
    diffeo::fit(model, FlowMatching(model, x, LinearPath{}, pairing), {.steps = 20, .batch = 256, .threads = threads});
    return diffeo::parameters(model);
  };
  CHECK(same_bits(trained(OptimalTransportPairing{}, 1), trained(OptimalTransportPairing{}, 3)));
  CHECK(same_bits(trained(EntropicPairing{}, 1), trained(EntropicPairing{}, 3)));
}

TEST_CASE("optimal transport pairing: bad input", "[matching]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [](const auto& pairing, const std::string& part) {
    const std::string message = thrown_message<invalid_argument>([&] { pairing.check(); });
    CAPTURE(message, part);
    CHECK(contains(message, part));
  };
  refused(OptimalTransportPairing{.context_weight = -1}, "optimal transport pairing: context_weight is -1");
  refused(EntropicPairing{.regularisation = 0}, "entropic pairing: regularisation is 0");
  refused(EntropicPairing{.regularisation = nan}, "regularisation is nan");
  refused(EntropicPairing{.context_weight = nan}, "entropic pairing: context_weight is nan");
  refused(EntropicPairing{.tolerance = 0}, "entropic pairing: tolerance is 0");
  refused(EntropicPairing{.max_iterations = 0}, "entropic pairing: max_iterations is 0");
  const Array<double> x = gaussian<double>(10, 1, 1), far = x * 1e200;
  const auto with = [&](const auto& data, const auto& pairing, const diffeo::FlowMatchingOptions& options = {}) {
    return thrown_message<invalid_argument>(
        [&] { FlowMatching(resting_on_a_line(), data, LinearPath{}, pairing, options); });
  };
  CHECK(contains(with(x, EntropicPairing{.regularisation = 0}), "regularisation is 0"));
  CHECK(contains(with(Dataset<double>{.x = x, .weights = x.abs()}, OptimalTransportPairing{}),
                 "does not allow for weights of the data"));
  CHECK(contains(with(std::vector<Snapshot<double>>{{0, {x}}, {1, {x}}}, OptimalTransportPairing{}, {.paired = true}),
                 "the pairing chooses partners itself"));
  const FlowMatching overflows(resting_on_a_line(), far, LinearPath{}, OptimalTransportPairing{});
  CHECK(contains(thrown_message<invalid_argument>([&] { ends(overflows); }), "assignment: the cost"));
  const auto conditional = resting_given(2);
  const Array<double> c = gaussian<double>(10, 2, 2);
  const std::string message = thrown_message<invalid_argument>([&] {
    FlowMatching(conditional, std::vector<Snapshot<double>>{{0, {.x = x, .context = x}}, {1, {.x = x, .context = c}}},
                 LinearPath{}, OptimalTransportPairing{});
  });
  CHECK(contains(message, "the source has a context of 1 columns, the target one of 2"));
}
