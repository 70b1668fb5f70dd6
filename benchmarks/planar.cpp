// SPDX-License-Identifier: MIT

#include <diffeo/diffeo.hpp>

#include "machine.hpp"

/// 32 planar layers, D = 2, on the target U1 of Rezende & Mohamed 2015: a step of reverse KL, samples, and densities,
/// which need the solved inverse.
namespace diffeo::bench {
namespace {

constexpr Index layers = 32, batch = 1024;

template <Real S>
using Model = TransformedDistribution<StandardNormal<S>, PlanarFlow<S>>;

template <Real S>
const Model<S>& model() {
  static const Model<S> fresh(StandardNormal<S>(2), planar<S>(2, {.layers = layers, .seed = 1}));
  return fresh;
}

// Of w'z and of u h, for one point.
Work work() { return {layers * 2 * product_flops(1, 2, 1), static_cast<double>(layers)}; }

template <Real S>
void rkl_step(benchmark::State& state, int threads) {
  const ReverseKl objective(targets::U1{});
  Trainer trainer(model<S>(), objective, {.batch = batch, .threads = threads});
  constexpr double rate = 1e-3;
  for (int i = 0; i < 3; ++i) trainer.step(rate);  // allocate
  const double seconds = time_iterations(state, [&] { benchmark::DoNotOptimize(trainer.step(rate)); });
  set_counters<S>(state, work(), batch, true, threads, seconds);
}

template <Real S>
void sample(benchmark::State& state, Index points, int threads) {
  std::uint64_t seed = 0;
  const double seconds = time_iterations(state, [&] {
    const Array<S> result = model<S>().sample(points, seed++, threads);
    benchmark::DoNotOptimize(result.data());
  });
  set_counters<S>(state, work(), points, false, threads, seconds);
}

template <Real S>
void log_prob(benchmark::State& state, Index points, int threads) {
  const Array<S> x = toy2d::sample<S>("moons", points, /*seed=*/2);
  const double seconds = time_iterations(state, [&] {
    const Array<S> result = model<S>().log_prob(x, threads);
    benchmark::DoNotOptimize(result.data());
  });
  set_counters<S>(state, work(), points, false, threads, seconds);
}

template <Real S>
void add() {
  using benchmark::State;
  for (const int threads : {1, 2}) {
    add_benchmark<S>("planar32_b1024_rkl_step", threads, benchmark::kMicrosecond,
                     [=](State& state) { rkl_step<S>(state, threads); });
    add_benchmark<S>("planar32_sample8192", threads, benchmark::kMicrosecond,
                     [=](State& state) { sample<S>(state, 8192, threads); });
    add_benchmark<S>("planar32_logprob8192", threads, benchmark::kMillisecond,
                     [=](State& state) { log_prob<S>(state, 8192, threads); });
  }
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
