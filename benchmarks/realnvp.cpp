// SPDX-License-Identifier: MIT

#include <diffeo/diffeo.hpp>
#include <numeric>

#include "machine.hpp"

/// Real NVP of 32 couplings with (64, 64) tanh units on the two moons, D = 2: a training step, densities, samples and
/// the density of one point, all through the interface a user has.
namespace diffeo::bench {
namespace {

constexpr int couplings = 32;
constexpr Index batch = 512;

template <Real S>
using Model = TransformedDistribution<StandardNormal<S>, RealNvp<S>>;

template <Real S>
const Array<S>& data() {
  static const Array<S> points = toy2d::sample<S>("moons", 20000, /*seed=*/1);
  return points;
}

template <Real S>
const Model<S>& model() {
  static const Model<S> fresh(StandardNormal<S>(2), real_nvp(data<S>(), {.layers = couplings}));
  return fresh;
}

template <Real S>
Work work(const Model<S>& flow) {
  Work total;
  for (const auto& coupling : std::get<0>(flow.flow.layers).layers) {
    const auto& layers = coupling.conditioner.layers;
    for (const auto& layer : layers) {
      total.flops += product_flops(1, layer.weight.cols(), layer.weight.rows());
      if (&layer != &layers.back()) total.activations += static_cast<double>(layer.weight.rows());
    }
  }
  return total;
}

// A step of fit(): the choice of a minibatch, loss, gradient and Adam.
template <Real S>
void train_step(benchmark::State& state, int threads) {
  const MaximumLikelihood<S> objective(data<S>());
  std::vector<Index> rows(static_cast<std::size_t>(data<S>().rows()));
  std::iota(rows.begin(), rows.end(), Index{0});
  Trainer trainer(model<S>(), objective, rows, {.batch = batch, .threads = threads});
  constexpr double rate = 1e-3;
  for (int i = 0; i < 3; ++i) trainer.step(rate);  // allocate
  const double seconds = time_iterations(state, [&] { benchmark::DoNotOptimize(trainer.step(rate)); });
  set_counters<S>(state, work(model<S>()), batch, true, threads, seconds);
}

template <Real S>
void log_prob(benchmark::State& state, Index points, int threads) {
  const Array<S> x = toy2d::sample<S>("moons", points, /*seed=*/2);
  const double seconds = time_iterations(state, [&] {
    const Array<S> result = model<S>().log_prob(x, threads);
    benchmark::DoNotOptimize(result.data());
  });
  set_counters<S>(state, work(model<S>()), points, false, threads, seconds);
}

template <Real S>
void sample(benchmark::State& state, Index points, int threads) {
  std::uint64_t seed = 0;
  const double seconds = time_iterations(state, [&] {
    const Array<S> result = model<S>().sample(points, seed++, threads);
    benchmark::DoNotOptimize(result.data());
  });
  set_counters<S>(state, work(model<S>()), points, false, threads, seconds);
}

template <Real S>
void add() {
  using benchmark::State;
  for (const int threads : {1, 2}) {
    const auto ms = benchmark::kMillisecond;
    add_benchmark<S>("realnvp32_b512_step", threads, ms, [=](State& state) { train_step<S>(state, threads); });
    for (const Index points : {8192, 100000})
      add_benchmark<S>("realnvp32_logprob" + std::to_string(points), threads, ms,
                       [=](State& state) { log_prob<S>(state, points, threads); });
    add_benchmark<S>("realnvp32_sample8192", threads, ms, [=](State& state) { sample<S>(state, 8192, threads); });
  }
  add_benchmark<S>("realnvp32_onepoint", 1, benchmark::kMicrosecond, [](State& state) { log_prob<S>(state, 1, 1); });
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
