// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/diffeo.hpp>
#include <numeric>

#include "machine.hpp"

/// What the benchmarks of flows do, all through the interface a user has.
namespace diffeo::bench {

/// A step of fit() by maximum likelihood: the choice of a minibatch, loss, gradient and Adam. Returns its seconds.
template <Real S, class Model>
double time_train_step(benchmark::State& state, const Model& model, const Array<S>& data, Index batch, int threads,
                       double rate) {
  const MaximumLikelihood<S> objective(data);
  std::vector<Index> rows(static_cast<std::size_t>(data.rows()));
  std::iota(rows.begin(), rows.end(), Index{0});
  Trainer trainer(model, objective, rows, {.batch = batch, .threads = threads});
  for (int i = 0; i < 3; ++i) trainer.step(rate);  // allocate
  return time_iterations(state, [&] { benchmark::DoNotOptimize(trainer.step(rate)); });
}

/// Seconds for the densities of the points x.
template <Real S, class Model>
double time_log_prob(benchmark::State& state, const Model& model, const Array<S>& x, int threads) {
  return time_iterations(state, [&] {
    const Array<S> result = model.log_prob(x, threads);
    benchmark::DoNotOptimize(result.data());
  });
}

/// Seconds for that many samples, other ones each time.
template <Real S, class Model>
double time_sample(benchmark::State& state, const Model& model, Index points, int threads) {
  std::uint64_t seed = 0;
  return time_iterations(state, [&] {
    const Array<S> result = model.sample(points, seed++, threads);
    benchmark::DoNotOptimize(result.data());
  });
}

}  // namespace diffeo::bench
