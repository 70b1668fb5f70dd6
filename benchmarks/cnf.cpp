// SPDX-License-Identifier: MIT

#include "workloads.hpp"

/// A continuous flow with a field of (64, 64) elu units on the two moons, D = 2, Dopri5 with tolerances 1e-5 relative
/// and 1e-6 absolute, exact log-determinants: a training step, densities and samples. The weights are as fresh ones of
/// the peers.
namespace diffeo::bench {
namespace {

constexpr Index batch = 512;

template <Real S>
using Model = TransformedDistribution<StandardNormal<S>, Cnf<MlpField<S>>>;

// Of the size that the peers draw them in.
template <Real S>
Array<S> points(Index count, std::uint64_t seed) {
  Array<S> x = toy2d::sample<S>("moons", count, seed);
  x.col(0) = (x.col(0) + S(1)) / S(2);
  x.col(1) = (x.col(1) + S(0.2)) / S(2);
  return x;
}

template <Real S>
const Model<S>& model() {
  static const Model<S> fresh = [] {
    MlpField<S> field = make_mlp_field<S>(2, {.hidden = {64, 64}, .activation = Activation::elu, .last_scale = 1});
    std::uint64_t stream = 0;
    for (Linear<S>& layer : field.network.layers) {
      fill_normal(view(layer.weight), /*seed=*/3, stream++);
      layer.weight /= std::sqrt(static_cast<S>(layer.weight.cols()));
      layer.bias.setZero();
    }
    return Model<S>(StandardNormal<S>(2), Cnf(field));
  }();
  return fresh;
}

// Of one point on average: evaluations of its solve times the products of the velocity and, in closed form, of the
// divergence. What a context takes, one product per solve, is not counted.
template <Real S>
Work work(const std::vector<ode::SolveStatistics>& solves, bool divergence) {
  double evaluations = 0;
  for (const auto& solve : solves) evaluations += static_cast<double>(solve.evaluations);
  evaluations /= static_cast<double>(solves.size());
  Work total;
  const auto& layers = model<S>().flow.field.network.layers;
  for (const auto& layer : layers) {
    total.flops += evaluations * product_flops(1, layer.weight.cols(), layer.weight.rows());
    if (&layer != &layers.back()) total.activations += evaluations * static_cast<double>(layer.weight.rows());
  }
  if (divergence) total.flops += evaluations * product_flops(1, layers[1].weight.cols(), layers[1].weight.rows());
  return total;
}

// A density follows its points from data to base.
template <Real S>
Work work_of_density() {
  return work<S>(model<S>().flow.solve_statistics(points<S>(2048, 2), 1, 0), true);
}

// Samples begin at points of the base, and their steps are chosen for the points alone.
template <Real S>
Work work_of_sample() {
  Array<S> z(2048, 2);
  fill_normal(view(z), /*seed=*/2, /*stream=*/0);
  std::vector<ode::SolveStatistics> solves;
  for_each_tile<S>(z.rows(), tile_rows_of<Model<S>>, 1, [&](Tape<S>& tape, Index first, Index count) {
    generate(model<S>().flow, tape.copy(z.middleRows(first, count)));
    const auto tile = ode::statistics(tape);
    solves.insert(solves.end(), tile.begin(), tile.end());
  });
  return work<S>(solves, false);
}

template <Real S>
void train_step(benchmark::State& state, int threads) {
  const double seconds = time_train_step<S>(state, model<S>(), points<S>(20000, 1), batch, threads, 1e-4);
  set_counters<S>(state, work_of_density<S>(), batch, true, threads, seconds);
}

// The same with a context of 4 columns for each point.
template <Real S>
void conditional_step(benchmark::State& state, int threads) {
  Array<S> context(20000, 4);
  fill_normal(view(context), /*seed=*/4, /*stream=*/0);
  Model<S> conditional = model<S>();
  Array<S>& weight = conditional.flow.field.network.context_weight;
  weight.resize(64, context.cols());
  fill_normal(view(weight), /*seed=*/3, /*stream=*/9);
  weight /= std::sqrt(static_cast<S>(weight.cols()));
  const MaximumLikelihood<S> objective(points<S>(20000, 1), context);
  const double seconds = time_train_step(state, conditional, objective, batch, threads, 1e-4);
  const auto solves = conditional.flow.solve_statistics(points<S>(2048, 2), context.topRows(2048));
  set_counters<S>(state, work<S>(solves, true), batch, true, threads, seconds);
}

template <Real S>
void log_prob(benchmark::State& state, Index count, int threads) {
  const double seconds = time_log_prob<S>(state, model<S>(), points<S>(count, 2), threads);
  set_counters<S>(state, work_of_density<S>(), count, false, threads, seconds);
}

template <Real S>
void sample(benchmark::State& state, Index count, int threads) {
  const double seconds = time_sample<S>(state, model<S>(), count, threads);
  set_counters<S>(state, work_of_sample<S>(), count, false, threads, seconds);
}

template <Real S>
void add() {
  using benchmark::State;
  const auto ms = benchmark::kMillisecond;
  for (const int threads : {1, 2}) {
    add_benchmark<S>("cnf_b512_step", threads, ms, [=](State& state) { train_step<S>(state, threads); });
    add_benchmark<S>("cnf_context4_b512_step", threads, ms, [=](State& state) { conditional_step<S>(state, threads); });
    add_benchmark<S>("cnf_logprob4096", threads, ms, [=](State& state) { log_prob<S>(state, 4096, threads); });
    add_benchmark<S>("cnf_sample4096", threads, ms, [=](State& state) { sample<S>(state, 4096, threads); });
  }
  add_benchmark<S>("cnf_onepoint", 1, benchmark::kMicrosecond, [](State& state) { log_prob<S>(state, 1, 1); });
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
