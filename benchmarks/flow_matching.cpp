// SPDX-License-Identifier: MIT

#include "workloads.hpp"

/// Flow matching of a continuous flow, D = 2, field of (64, 64, 64) tanh units, on the two moons: a training step of
/// 256 rows, on straight paths from the base with uniform times, with independent pairs and with those of optimal
/// transport.
namespace diffeo::bench {
namespace {

constexpr Index batch = 256;

template <Real S, class PairingPolicy>
void train_step(benchmark::State& state, int threads, const PairingPolicy& pairing) {
  const Array<S> x = toy2d::sample<S>("moons", 20000, 1);
  const TransformedDistribution model(StandardNormal<S>(2), cnf(x));
  const FlowMatching objective(model, x, LinearPath{}, pairing);
  const double seconds = time_train_step(state, model, objective, batch, threads, 1e-4);
  Work work;
  const auto& layers = std::get<0>(model.flow.layers).field.network.layers;
  for (const auto& layer : layers) {
    work.flops += product_flops(1, layer.weight.cols(), layer.weight.rows());
    if (&layer != &layers.back()) work.activations += static_cast<double>(layer.weight.rows());
  }
  set_counters<S>(state, work, batch, true, threads, seconds);
}

template <Real S>
void add() {
  for (const int threads : {1, 2}) {
    add_benchmark<S>("fm_b256_step", threads, benchmark::kMicrosecond,
                     [=](benchmark::State& state) { train_step<S>(state, threads, IndependentPairing{}); });
    add_benchmark<S>("otcfm_b256_step", threads, benchmark::kMicrosecond,
                     [=](benchmark::State& state) { train_step<S>(state, threads, OptimalTransportPairing{}); });
  }
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
