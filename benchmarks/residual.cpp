// SPDX-License-Identifier: MIT

#include "workloads.hpp"

/// A residual flow of 16 blocks with (128, 128) units on the two moons, D = 2, with exact log-determinants: a training
/// step, densities, and samples by either inverse.
namespace diffeo::bench {
namespace {

constexpr Index blocks = 16, batch = 512;

template <Real S>
using Model = TransformedDistribution<StandardNormal<S>, ResidualFlow<S>>;

template <Real S>
const Array<S>& data() {
  static const Array<S> points = toy2d::sample<S>("moons", 20000, /*seed=*/1);
  return points;
}

// With weights as large as training makes them.
template <Real S>
Model<S> make_model(InverseMethod method) {
  return Model<S>(StandardNormal<S>(2),
                  residual(data<S>(), {.layers = blocks,
                                       .block = {.last_scale = 1, .inverse = {.tolerance = 1e-6, .method = method}}}));
}
template <Real S>
const Model<S>& model() {
  static const Model<S> fresh = make_model<S>(InverseMethod::automatic);
  return fresh;
}

// Products of the value and of two columns of the Jacobian, which the first layer has for nothing.
template <Real S>
Work work(const ResidualFlow<S>& flow) {
  Work total;
  for (const auto& block : std::get<0>(flow.layers).layers) {
    const auto& layers = block.layer.network.layers;
    const auto& context = block.layer.network.context_weight;
    if (context.size() > 0) total.flops += product_flops(1, context.cols(), context.rows());
    for (const auto& layer : layers) {
      const double passes = &layer == &layers.front() ? 1 : 3;
      total.flops += passes * product_flops(1, layer.weight.cols(), layer.weight.rows());
      if (&layer != &layers.back()) total.activations += static_cast<double>(layer.weight.rows());
    }
  }
  return total;
}
template <Real S>
Work work() {
  return work(model<S>().flow);
}

template <Real S>
void train_step(benchmark::State& state, int threads) {
  const double seconds = time_train_step<S>(state, model<S>(), data<S>(), batch, threads, 1e-4);
  set_counters<S>(state, work<S>(), batch, true, threads, seconds);
}

template <Real S>
void log_prob(benchmark::State& state, Index points, int threads) {
  const double seconds = time_log_prob<S>(state, model<S>(), toy2d::sample<S>("moons", points, /*seed=*/2), threads);
  set_counters<S>(state, work<S>(), points, false, threads, seconds);
}

template <Real S>
void sample(benchmark::State& state, Index points, int threads, InverseMethod method) {
  const double seconds = time_sample<S>(state, make_model<S>(method), points, threads);
  state.counters["points_per_s"] = static_cast<double>(points) / seconds;
}

// The step with a context of 4 columns for each row of the data.
template <Real S>
void conditional_step(benchmark::State& state, int threads) {
  Array<S> context(data<S>().rows(), 4);
  fill_normal(view(context), /*seed=*/3, /*stream=*/1);
  const TransformedDistribution given(StandardNormal<S>(2),
                                      residual(data<S>(), context, {.layers = blocks, .block = {.last_scale = 1}}));
  const double seconds = time_train_step(state, given, MaximumLikelihood<S>(data<S>(), context), batch, threads, 1e-4);
  set_counters<S>(state, work(given.flow.flow), batch, true, threads, seconds);
}

template <Real S>
void add() {
  using benchmark::State;
  const auto ms = benchmark::kMillisecond;
  for (const int threads : {1, 2}) {
    add_benchmark<S>("residual16_b512_step", threads, ms, [=](State& state) { train_step<S>(state, threads); });
    add_benchmark<S>("residual16_context4_b512_step", threads, ms,
                     [=](State& state) { conditional_step<S>(state, threads); });
    add_benchmark<S>("residual16_logprob8192", threads, ms, [=](State& state) { log_prob<S>(state, 8192, threads); });
  }
  add_benchmark<S>("residual16_sample1024_newton", 1, ms,
                   [](State& state) { sample<S>(state, 1024, 1, InverseMethod::newton); });
  add_benchmark<S>("residual16_sample1024_fixed_point", 1, ms,
                   [](State& state) { sample<S>(state, 1024, 1, InverseMethod::fixed_point); });
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
