// SPDX-License-Identifier: MIT

#include <diffeo/diffeo.hpp>

#include "machine.hpp"

/// A planar flow of 32 layers, D = 2, trained towards the first test energy of Rezende & Mohamed 2015 by the reverse
/// Kullback-Leibler divergence, batch 1024: samples drawn, target, loss, gradient and Adam.
namespace diffeo::bench {
namespace {

constexpr Index layers = 32, batch = 1024;

template <Real S>
void train_step(benchmark::State& state, int threads) {
  const TransformedDistribution model(StandardNormal<S>(2), repeat(layers, [](Index i) {
                                        return make_planar<S>(2, Activation::tanh, 0, static_cast<std::uint64_t>(i));
                                      }));
  const ReverseKl objective{targets::U1()};
  Trainer trainer(model, objective, FitOptions{.batch = batch, .threads = threads});
  constexpr double rate = 1e-3;
  for (int i = 0; i < 4; ++i) trainer.step(rate);  // allocate
  const double seconds = time_iterations(state, [&] { benchmark::DoNotOptimize(trainer.step(rate)); });
  // Of a layer: w.z + b and z + u' h.
  const Work per_point{.flops = layers * 4.0 * 2, .activations = layers};
  set_counters<S>(state, per_point, batch, true, threads, seconds);
}

template <Real S>
void add() {
  using benchmark::State;
  for (const int threads : {1, 2})
    add_benchmark<S>("planar32_b1024_rkl_step", threads, benchmark::kMicrosecond,
                     [=](State& state) { train_step<S>(state, threads); });
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
