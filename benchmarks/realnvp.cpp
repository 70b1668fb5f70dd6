// SPDX-License-Identifier: MIT

#include "workloads.hpp"

/// Real NVP of 32 couplings with (64, 64) tanh units on the two moons, D = 2: a training step, densities, samples and
/// the density of one point, all through the interface a user has. And a training step of wider couplings in more
/// dimensions.
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
  static const Model<S> fresh(StandardNormal<S>(2),
                              real_nvp(data<S>(), {.layers = couplings, .network = {.hidden = {64, 64}}}));
  return fresh;
}

template <Real S>
Work work(const RealNvp<S>& flow) {
  Work total;
  for (const auto& coupling : std::get<0>(flow.layers).layers) {
    const auto& layers = coupling.conditioner.layers;
    const auto& context = coupling.conditioner.context_weight;
    if (context.size() > 0) total.flops += product_flops(1, context.cols(), context.rows());
    for (const auto& layer : layers) {
      total.flops += product_flops(1, layer.weight.cols(), layer.weight.rows());
      if (&layer != &layers.back()) total.activations += static_cast<double>(layer.weight.rows());
    }
  }
  return total;
}

template <Real S>
Work work(const Model<S>& model) {
  return work(model.flow);
}

template <Real S>
void train_step(benchmark::State& state, int threads) {
  const double seconds = time_train_step<S>(state, model<S>(), data<S>(), batch, threads, 1e-3);
  set_counters<S>(state, work(model<S>()), batch, true, threads, seconds);
}

template <Real S>
void log_prob(benchmark::State& state, Index points, int threads) {
  const double seconds = time_log_prob<S>(state, model<S>(), toy2d::sample<S>("moons", points, /*seed=*/2), threads);
  set_counters<S>(state, work(model<S>()), points, false, threads, seconds);
}

template <Real S>
void sample(benchmark::State& state, Index points, int threads) {
  const double seconds = time_sample<S>(state, model<S>(), points, threads);
  set_counters<S>(state, work(model<S>()), points, false, threads, seconds);
}

// 16 couplings with (128, 128) units in 10 dimensions, small batches: many parameters for the rows of a step.
template <Real S>
void wide_step(benchmark::State& state, int threads) {
  constexpr Index rows = 20000, dim = 10, small_batch = 256;
  Array<S> points(rows, dim);
  fill_normal(view(points), /*seed=*/1, /*stream=*/1);
  const Model<S> wide(StandardNormal<S>(dim), real_nvp(points, {.layers = 16, .network = {.hidden = {128, 128}}}));
  const double seconds = time_train_step<S>(state, wide, points, small_batch, threads, 1e-3);
  set_counters<S>(state, work(wide), small_batch, true, threads, seconds);
}

// The same flow with a context of C columns for each row of the data.
template <Real S>
auto conditional_model(const Array<S>& context) {
  return TransformedDistribution(StandardNormal<S>(2),
                                 real_nvp(data<S>(), context, {.layers = couplings, .network = {.hidden = {64, 64}}}));
}
template <Real S>
Array<S> contexts(Index columns) {
  Array<S> c(data<S>().rows(), columns);
  fill_normal(view(c), /*seed=*/3, /*stream=*/1);
  return c;
}
template <Real S>
void conditional_step(benchmark::State& state, int threads) {
  const Array<S> context = contexts<S>(4);
  const auto given = conditional_model<S>(context);
  const double seconds = time_train_step(state, given, MaximumLikelihood<S>(data<S>(), context), batch, threads, 1e-3);
  set_counters<S>(state, work(given.flow.flow), batch, true, threads, seconds);
}
template <Real S>
void conditional_sample(benchmark::State& state, Index points, int threads) {
  const Array<S> context = contexts<S>(64);
  const auto given = conditional_model<S>(context).given(context.row(0));
  const double seconds = time_sample<S>(state, given, points, threads);
  set_counters<S>(state, work(model<S>()), points, false, threads, seconds);
}

template <Real S>
void add() {
  using benchmark::State;
  for (const int threads : {1, 2}) {
    const auto ms = benchmark::kMillisecond;
    add_benchmark<S>("realnvp32_b512_step", threads, ms, [=](State& state) { train_step<S>(state, threads); });
    add_benchmark<S>("realnvp16_wide_b256_step", threads, ms, [=](State& state) { wide_step<S>(state, threads); });
    add_benchmark<S>("realnvp32_context4_b512_step", threads, ms,
                     [=](State& state) { conditional_step<S>(state, threads); });
    add_benchmark<S>("realnvp32_given64_sample8192", threads, ms,
                     [=](State& state) { conditional_sample<S>(state, 8192, threads); });
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
