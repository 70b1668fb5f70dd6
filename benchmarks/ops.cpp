// SPDX-License-Identifier: MIT

#include <cmath>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/training/adam.hpp>

#include "machine.hpp"

/// The parts a flow's time is made of, on one tile each.
namespace diffeo::bench {
namespace {

using benchmark::State;

constexpr Index rows = 64, width = 64;

template <Real S, class F>
void add_op(const std::string& name, const F& run) {
  add_benchmark<S>("op_" + name, 1, benchmark::kNanosecond, run);
}

void set_elements(State& state, Index elements, double seconds) {
  state.counters["ns_per_element"] = 1e9 * seconds / static_cast<double>(elements);
}

template <Real S>
void set_flops(State& state, double flops, double seconds) {
  state.counters["gflops"] = 1e-9 * flops / seconds;
  state.counters["peak_fraction"] = flops / seconds / fma_peak<S>();
}

// y = f(x), elements of x uniform on [low, high].
template <Real S, class F>
void elementwise(State& state, S low, S high, const F& f) {
  const Array<S> x = (Array<S>::Random(rows, width) + S(1)) * ((high - low) / 2) + low;
  Array<S> y(rows, width);
  const double seconds = time_iterations(state, [&] {
    math::map<S>(view(y), f, view(x));
    touch(y.data());
  });
  set_elements(state, y.size(), seconds);
}

template <Real S, class F>
void fill(State& state, const F& f) {
  Array<S> x(rows, width);
  std::uint64_t seed = 0;
  const double seconds = time_iterations(state, [&] {
    f(view(x), seed++);
    touch(x.data());
  });
  set_elements(state, x.size(), seconds);
}

// A dense layer as an op on a tape; with gradients of input, weights and bias where wanted.
template <Real S>
void layer(State& state, Index inputs, Index outputs, Activation activation, bool gradients) {
  Array<S> x = Array<S>::Random(rows, inputs);
  Array<S> w = Array<S>::Random(outputs, inputs) / std::sqrt(static_cast<S>(inputs));
  Array<S> b = Array<S>::Random(1, outputs);
  Array<S> grads(x.size() + w.size() + b.size(), 1);
  const Array<S> seed = Array<S>::Ones(rows, outputs);
  Tape<S> tape;
  const auto lift = [&](Array<S>& a) {
    return gradients ? tape.parameter(view(a), nullptr) : tape.persistent_constant(view(a));
  };
  const Var<S> vx = lift(x), vw = lift(w), vb = lift(b);
  const double seconds = time_iterations(state, [&] {
    tape.reset();
    tape.redirect_parameter_grads(grads.data());
    const Var<S> y = affine(vx, vw, vb, activation);
    touch(tape.mutable_value(y).data);
    if (gradients) tape.backward(y, view(seed));
    touch(grads.data());
  });
  set_flops<S>(state, (gradients ? 3 : 1) * product_flops(rows, inputs, outputs), seconds);
}

template <Real S>
void product(State& state, void (LayerProducts<S>::*run)()) {
  LayerProducts<S> products(rows, width, width);
  const double seconds = time_iterations(state, [&] { (products.*run)(); });
  set_flops<S>(state, products.flops(), seconds);
}

// As many parameters as Real NVP of 32 couplings with (64, 64) units has.
template <Real S>
void adam(State& state) {
  constexpr Index parameters = 141376;
  Array<S> values = Array<S>::Random(parameters, 1);
  const Array<S> grads = Array<S>::Random(parameters, 1);
  Adam<S> optimiser(parameters, {});
  const double seconds = time_iterations(state, [&] {
    optimiser.begin_step(1e-3);
    optimiser.update(values.data(), grads.data(), 0, parameters, S(1));
    touch(values.data());
  });
  set_elements(state, parameters, seconds);
}

template <Real S>
void add() {
  const auto add_elementwise = [](const char* name, double low, double high, auto f) {
    add_op<S>(name, [=](State& s) { elementwise<S>(s, static_cast<S>(low), static_cast<S>(high), f); });
  };
  add_elementwise("tanh", -5, 5, [](auto v) { return simd::tanh<S>(v); });
  add_elementwise("exp", -10, 10, [](auto v) { return simd::exp<S>(v); });
  add_elementwise("log", 0.01, 10, [](auto v) { return simd::log<S>(v); });
  add_elementwise("softplus", -10, 10, [](auto v) { return simd::log1p_exp<S>(v); });
  add_elementwise("sigmoid", -10, 10, [](auto v) { return simd::sigmoid<S>(v); });
  add_elementwise("log_sigmoid", -10, 10, [](auto v) { return simd::log_sigmoid<S>(v); });
  add_elementwise("sin", -10, 10, [](auto v) { return simd::sin<S>(v); });

  add_op<S>("uniform", [](State& s) { fill<S>(s, [](View<S> x, std::uint64_t seed) { fill_uniform(x, seed); }); });
  add_op<S>("normal", [](State& s) { fill<S>(s, [](View<S> x, std::uint64_t seed) { fill_normal(x, seed); }); });

  using Products = LayerProducts<S>;
  const auto add_product = [](const char* name, void (Products::*run)()) {
    add_op<S>(name, [run](State& s) { product<S>(s, run); });
  };
  add_product("product_forward", &Products::forward);
  add_product("product_input_gradient", &Products::input_gradient);
  add_product("product_weight_gradient", &Products::weight_gradient);
  add_product("eigen_product_forward", &Products::eigen_forward);
  add_product("eigen_product_input_gradient", &Products::eigen_input_gradient);
  add_product("eigen_product_weight_gradient", &Products::eigen_weight_gradient);

  const auto add_layer = [](const std::string& name, Index inputs, Index outputs, Activation activation) {
    add_op<S>(name, [=](State& s) { layer<S>(s, inputs, outputs, activation, false); });
    add_op<S>(name + "_gradients", [=](State& s) { layer<S>(s, inputs, outputs, activation, true); });
  };
  add_layer("affine_64_64", width, width, Activation::identity);
  add_layer("affine_64_64_tanh", width, width, Activation::tanh);
  add_layer("affine_1_64_tanh", 1, width, Activation::tanh);
  add_layer("affine_64_2", width, 2, Activation::identity);

  add_op<S>("adam", [](State& s) { adam<S>(s); });
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
