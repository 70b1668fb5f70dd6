// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/diffeo.hpp>
#include <numeric>

#include "machine.hpp"

/// Workloads of the benchmarks of flows, which use only the library's public interface.
namespace diffeo::bench {

/// Returns the seconds per step of training on an objective.
template <class Model, class Objective>
double time_train_step(benchmark::State& state, const Model& model, const Objective& objective, Index batch,
                       int threads, double rate) {
  std::vector<Index> rows(static_cast<std::size_t>(objective.size()));
  std::iota(rows.begin(), rows.end(), Index{0});
  Trainer trainer(model, objective, rows, {.batch = batch, .threads = threads});
  for (int i = 0; i < 3; ++i) trainer.step(rate);  // allocates all memory before the measurement
  return time_iterations(state, [&] { benchmark::DoNotOptimize(trainer.step(rate)); });
}

/// Returns the seconds per step of maximum likelihood on the data.
template <Real S, class Model>
double time_train_step(benchmark::State& state, const Model& model, const Array<S>& data, Index batch, int threads,
                       double rate) {
  return time_train_step(state, model, MaximumLikelihood<S>(data), batch, threads, rate);
}

/// Returns the seconds per evaluation of the densities of the points x.
template <Real S, class Model>
double time_log_prob(benchmark::State& state, const Model& model, const Array<S>& x, int threads) {
  return time_iterations(state, [&] {
    const Array<S> result = model.log_prob(x, threads);
    benchmark::DoNotOptimize(result.data());
  });
}

/// Returns the seconds for drawing `points` samples, with a new seed in each call.
template <Real S, class Model>
double time_sample(benchmark::State& state, const Model& model, Index points, int threads) {
  std::uint64_t seed = 0;
  return time_iterations(state, [&] {
    const Array<S> result = model.sample(points, seed++, threads);
    benchmark::DoNotOptimize(result.data());
  });
}

}  // namespace diffeo::bench
