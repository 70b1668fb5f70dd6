// SPDX-License-Identifier: MIT

#include <diffeo/data/toy2d.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/transport/assignment.hpp>
#include <diffeo/transport/distances.hpp>
#include <diffeo/transport/sinkhorn.hpp>
#include <vector>

#include "machine.hpp"

/// Optimal transport between 256 points of the standard normal distribution in the plane and as many of the two moons,
/// with squared distances as costs: what a step of training with minibatch couplings adds. Each iteration takes another
/// of several problems, because the work depends on the points.
namespace diffeo::bench {
namespace {

constexpr Index points = 256;

template <Real S>
std::vector<Array<S>> problems() {
  std::vector<Array<S>> costs;
  for (std::uint64_t seed = 0; seed < 32; ++seed) {
    Array<S> x(points, 2);
    fill_normal(view(x), seed, /*stream=*/1);
    costs.push_back(squared_distances(x, toy2d::sample<S>("moons", points, seed)));
  }
  return costs;
}

template <class Solve>
void run(benchmark::State& state, const Solve& solve) {
  std::size_t next = 0;
  const double seconds = time_iterations(state, [&] { benchmark::DoNotOptimize(solve(next++ % 32)); });
  state.counters["points_per_s"] = static_cast<double>(points) / seconds;
}

template <Real S>
void assign(benchmark::State& state) {
  const std::vector<Array<S>> costs = problems<S>();
  AssignmentSolver<S> solver;
  run(state, [&](std::size_t k) {
    solver.solve(costs[k]);
    return solver.cost();
  });
}

template <Real S>
void iterate(benchmark::State& state) {
  const std::vector<Array<S>> costs = problems<S>();
  SinkhornSolver<S> solver({.regularisation = 0.1});
  double iterations = 0, solves = 0;
  run(state, [&](std::size_t k) {
    iterations += solver.solve(costs[k]).iterations;
    ++solves;
    return solver.statistics().cost;
  });
  state.counters["iterations"] = iterations / solves;
}

template <Real S>
void add() {
  add_benchmark<S>("assignment256", 1, benchmark::kMicrosecond, assign<S>);
  add_benchmark<S>("sinkhorn256", 1, benchmark::kMillisecond, iterate<S>);
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
