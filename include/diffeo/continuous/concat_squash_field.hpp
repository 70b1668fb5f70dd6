// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/slope.hpp>
#include <diffeo/continuous/vector_field.hpp>
#include <diffeo/nn/concat_squash.hpp>
#include <optional>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Vector field of layers whose outputs are scaled (gated) and shifted by functions of time (FFJORD). If `gate_output`
/// is false, the last layer is shifted only. Then, unlike in FFJORD, the divergence of a field with two hidden layers
/// has a closed form.
template <class T>
struct ConcatSquashField {
  using Scalar = scalar_t<T>;

  std::vector<ConcatSquash<T>> layers;
  Activation activation = Activation::tanh;
  bool gate_output = false;

  Index dim() const { return layers.empty() ? 0 : layers.back().dense.weight.rows(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("layers", self.layers);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "concat squash field", "activation", self.activation, "gate_output",
                            self.gate_output);
  }
  template <class U>
  ConcatSquashField<U> rebind() const {
    return {std::vector<ConcatSquash<U>>(layers.size()), activation, gate_output};
  }

  /// Throws invalid_argument if there is no layer, or if the number of inputs of a layer differs from the outputs of
  /// the layer before it.
  void check() const {
    require(!layers.empty(), "ConcatSquashField: no layers, expected at least one");
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const Index given = (i == 0 ? layers.back() : layers[i - 1]).dense.outputs();
      require(layers[i].dense.inputs() == given, "ConcatSquashField: layer ", i, " has ", layers[i].dense.inputs(),
              " inputs, expected ", given);
    }
  }

  template <Traced X>
  X operator()(const X& t, X x) const {
    detail::require_point("ConcatSquashField", t, x, dim());
    for (std::size_t i = 0; i + 1 < layers.size(); ++i) x = activate(activation, layers[i](t, x));
    return gate_output ? layers.back()(t, x) : layers.back().ungated(t, x);
  }

  std::size_t layer_count() const { return layers.size(); }
  bool gates_output() const { return gate_output; }
  Var<Scalar> weights(Tape<Scalar>& tape, std::size_t i) const { return as_var(tape, layers[i].dense.weight); }

  Linearised<Scalar> linearised(const Var<Scalar>& t, Var<Scalar> x) const {
    using S = Scalar;
    detail::require_point("ConcatSquashField", t, x, dim());
    Tape<S>& tape = x.tape();
    const std::size_t count = layers.size();
    auto* slopes = tape.template allocate<Var<S>>(count);
    auto* matrices = tape.template allocate<Var<S>>(count);
    for (std::size_t i = 0; i < count; ++i) {
      new (matrices + i) Var<S>(weights(tape, i));
      const bool last = i + 1 == count;
      const Var<S> gate = last && !gate_output ? Var<S>() : sigmoid(layers[i].gate(t));
      x = layers[i].dense(x);
      x = (gate ? x * gate : x) + linear(t, layers[i].shift);
      new (slopes + i) Var<S>(gate);
      if (last) break;
      const auto [value, slope] = activate_with_slope(activation, x);
      x = value;
      slopes[i] = slope * gate;
    }
    return {x, count, matrices, slopes};
  }

  MultiDual<Scalar> with_jacobian(const Var<Scalar>& t, const Var<Scalar>& x) const {
    using S = Scalar;
    detail::require_point("ConcatSquashField", t, x, dim());
    Tape<S>& tape = x.tape();
    detail::HiddenInput<S> in{x, detail::identity_matrix(tape, dim()), {}};
    MultiDual<S> y;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      y = detail::hidden_product(in, i == 0 ? Activation::identity : activation, weights(tape, i),
                                 as_var(tape, layers[i].dense.bias));
      const bool gated = i + 1 < layers.size() || gate_output;
      y = scale_shift(y, gated ? sigmoid(layers[i].gate(t)) : Var<S>(), linear(t, layers[i].shift));
      in = {{}, {}, y};
    }
    return y;
  }
};

/// Options of make_concat_squash_field().
///
/// | option         | type               | default                                                |
/// |----------------|--------------------|--------------------------------------------------------|
/// | hidden         | std::vector<Index> | {64, 64}: widths of the hidden layers                  |
/// | activation     | Activation         | tanh                                                   |
/// | initialisation | Initialisation     | by default_initialisation(), of the dense weights      |
/// | last_scale     | double             | 1: factor on the last layer's dense weights and shifts |
/// | gate_output    | bool               | false; true as in FFJORD, see ConcatSquashField        |
struct ConcatSquashOptions {
  std::vector<Index> hidden = {64, 64};
  Activation activation = Activation::tanh;
  std::optional<Initialisation> initialisation = std::nullopt;
  double last_scale = 1;
  bool gate_output = false;
};

/// Returns a field with random weights. Throws invalid_argument for a dimension or width below 1 and for a scale that
/// is not finite.
template <Real S>
ConcatSquashField<S> make_concat_squash_field(Index dim, const ConcatSquashOptions& options = {},
                                              std::uint64_t seed = 0, std::uint64_t stream = 0) {
  require(dim >= 1, "make_concat_squash_field: dim is ", dim, ", expected at least 1");
  require(std::isfinite(options.last_scale), "make_concat_squash_field: last_scale is ", options.last_scale,
          ", expected a finite value");
  const Initialisation how = options.initialisation.value_or(default_initialisation(options.activation));
  ConcatSquashField<S> field{{}, options.activation, options.gate_output};
  Index inputs = dim;
  const auto add = [&](Index outputs) {
    field.layers.push_back(make_concat_squash<S>(inputs, outputs, how, seed, stream));
    stream += 3;
    inputs = outputs;
  };
  for (const Index width : options.hidden) {
    require(width > 0, "make_concat_squash_field: a hidden layer has width ", width, ", expected at least 1");
    add(width);
  }
  add(dim);
  field.layers.back().dense.weight *= static_cast<S>(options.last_scale);
  field.layers.back().shift *= static_cast<S>(options.last_scale);
  return field;
}

}  // namespace diffeo::inline DIFFEO_ISA
