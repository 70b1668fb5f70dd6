// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/autodiff/tiles.hpp>
#include <diffeo/math/elementwise.hpp>
#include <diffeo/math/matmul.hpp>

#include "harness.hpp"

/// Speed of one core of this machine, measured in the same run as the workloads: the peak that `peak_fraction` refers
/// to, and the rates that `limit_fraction` is computed from. Each is measured once per process and scalar type.
namespace diffeo::bench {

/// Returns the number of floating-point operations of a product N x K times K x M: two per multiply-add.
inline double product_flops(Index rows, Index inner, Index outer) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(inner) * static_cast<double>(outer);
}

/// Compiler barrier: the compiler must assume that the memory behind p is read and written here.
inline void touch(void* p) { asm volatile("" : : "r"(p) : "memory"); }

/// Returns the seconds of one f(): the best of several runs of about a millisecond, to reduce the influence of other
/// programs.
template <class F>
double best_seconds(const F& f) {
  constexpr int runs = 40;
  constexpr double run_seconds = 1e-3;
  long calls = 1;
  double best = 0;
  for (int run = 0; run < runs;) {
    const auto start = Clock::now();
    for (long i = 0; i < calls; ++i) f();
    const double elapsed = seconds_since(start);
    if (elapsed < run_seconds / 4) {
      calls *= 2;
      continue;
    }
    const double seconds = elapsed / static_cast<double>(calls);
    best = run == 0 ? seconds : std::min(best, seconds);
    ++run;
  }
  return best;
}

/// Returns the flops per second of fused multiply-adds in registers, with enough independent chains to hide their
/// latency. On machines without fused multiply-add a product and a sum take its place.
template <Real S>
double fma_peak() {
  static const double peak = [] {
    constexpr int chains = simd::register_count > 16 ? 20 : 12;
    constexpr long steps = 1024;
    simd::Vec<S> state[std::size_t{chains}];
    // x -> x / 2 + 1 stays near 2: no overflow, no denormal numbers. Only memory is opaque to the compiler; within the
    // loop it may not reorder floating-point operations.
    simd::Vec<S> factors[2] = {simd::broadcast<S>(S(0.5)), simd::broadcast<S>(S(1))};
    for (int c = 0; c < chains; ++c) state[c] = simd::broadcast<S>(static_cast<S>(c));
    const double seconds = best_seconds([&] {
      touch(state);
      touch(factors);
      const simd::Vec<S> a = factors[0], b = factors[1];
      simd::Vec<S> x[std::size_t{chains}];
#pragma GCC unroll 32
      for (int c = 0; c < chains; ++c) x[c] = state[c];
      for (long i = 0; i < steps; ++i)
#pragma GCC unroll 32
        for (int c = 0; c < chains; ++c) x[c] = simd::mul_add<S>(x[c], a, b);
#pragma GCC unroll 32
      for (int c = 0; c < chains; ++c) state[c] = x[c];
      touch(state);
    });
    return 2.0 * chains * static_cast<double>(simd::lanes<S> * steps) / seconds;
  }();
  return peak;
}

/// The three products of a dense layer on one tile, rows x inner -> rows x outer, by the library and by Eigen. Values
/// are stored as on a tape.
template <Real S>
class LayerProducts {
 public:
  LayerProducts(Index rows, Index inner, Index outer)
      : x(Array<S>::Random(rows, inner)),
        weight(Array<S>::Random(outer, inner)),
        bias(Array<S>::Random(1, outer)),
        y(Array<S>::Random(rows, outer)),
        y_transposed(y.transpose()),
        x_grad(rows, inner),
        weight_grad(outer, inner) {}

  double flops() const { return product_flops(x.rows(), x.cols(), weight.rows()); }

  // x W' + b
  void forward() {
    math::product<S>(view(y), in(x), {weight.data(), weight.rows(), 1}, bias.data(), math::Start::bias);
    touch(y.data());
  }
  // g W, for the gradient g of the result; y is used as g
  void input_gradient() {
    math::product<S>(view(x_grad), in(y), {weight.data(), 1, weight.rows()}, nullptr, math::Start::zero);
    touch(x_grad.data());
  }
  // g' x; the library transposes g beforehand, which is not measured here
  void weight_gradient() {
    math::product<S>(view(weight_grad), in(y_transposed), {x.data(), 1, x.rows()}, nullptr, math::Start::zero);
    touch(weight_grad.data());
  }

  void eigen_forward() {
    y.matrix().noalias() = x.matrix() * weight.matrix().transpose();
    touch(y.data());
  }
  void eigen_input_gradient() {
    x_grad.matrix().noalias() = y.matrix() * weight.matrix();
    touch(x_grad.data());
  }
  void eigen_weight_gradient() {
    weight_grad.matrix().noalias() = y.matrix().transpose() * x.matrix();
    touch(weight_grad.data());
  }

 private:
  static View<const S> in(const Array<S>& a) { return view(a); }

  Array<S> x, weight, bias, y, y_transposed, x_grad, weight_grad;
};

/// Seconds per flop of a layer's products, and seconds per element of its activation, on one core.
struct LayerRates {
  double eigen_forward, eigen_gradients;
  double own_forward, own_gradients;
  double tanh;
};

/// Returns the costs measured on one tile of a layer 64 -> 64 with tanh.
template <Real S>
const LayerRates& layer_rates() {
  static const LayerRates rates = [] {
    constexpr Index rows = tile_rows<S>, width = 64;
    LayerProducts<S> layer(rows, width, width);
    const double flops = layer.flops();
    const Array<S> x = Array<S>::Random(rows, width) * S(3);
    Array<S> y(rows, width);
    const double tanh = best_seconds([&] {
      math::map<S>(
          view(y), [](auto v) { return simd::tanh<S>(v); }, view(x));
      touch(y.data());
    });
    return LayerRates{
        best_seconds([&] { layer.eigen_forward(); }) / flops,
        (best_seconds([&] { layer.eigen_input_gradient(); }) + best_seconds([&] { layer.eigen_weight_gradient(); })) /
            (2 * flops),
        best_seconds([&] { layer.forward(); }) / flops,
        (best_seconds([&] { layer.input_gradient(); }) + best_seconds([&] { layer.weight_gradient(); })) / (2 * flops),
        tanh / static_cast<double>(rows * width)};
  }();
  return rates;
}

/// Work for one point: flops of the products in one direction, and number of activations.
struct Work {
  double flops = 0;
  double activations = 0;
};

/// The counters of a workload that does `points` points in `seconds` on `threads` threads:
/// - points_per_s;
/// - peak_fraction: flops per second, over the peak of one core times the threads. The gradients count twice the flops
///   of the values;
/// - limit_fraction: the time of the products at Eigen's rate and of the activations at the library's, divided evenly
///   among the threads, over the measured time. It may exceed 1, because the library's own products are faster;
/// - own_limit_fraction: limit_fraction with the rate of the library's products.
template <Real S>
void set_counters(benchmark::State& state, const Work& per_point, Index points, bool gradients, int threads,
                  double seconds) {
  const LayerRates& rates = layer_rates<S>();
  const double rate = static_cast<double>(points) / seconds;  // points per second
  const double forward = per_point.flops, backward = gradients ? 2 * per_point.flops : 0;
  const double activations = per_point.activations * rates.tanh;
  const double eigen = forward * rates.eigen_forward + backward * rates.eigen_gradients + activations;
  const double own = forward * rates.own_forward + backward * rates.own_gradients + activations;
  state.counters["points_per_s"] = rate;
  state.counters["peak_fraction"] = (forward + backward) * rate / (fma_peak<S>() * threads);
  state.counters["limit_fraction"] = eigen * rate / threads;
  state.counters["own_limit_fraction"] = own * rate / threads;
}

}  // namespace diffeo::bench
