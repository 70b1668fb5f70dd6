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
/// has a closed form. A context c enters as the coordinates do: c V' is added to the first layer's bias, before its
/// gate.
template <class T>
struct ConcatSquashField {
  using Scalar = scalar_t<T>;

  std::vector<ConcatSquash<T>> layers;
  Activation activation = Activation::tanh;
  bool gate_output = false;
  param_t<T> context_weight{};  ///< V, outputs of the first layer x C; empty for a field without context

  Index dim() const { return layers.empty() ? 0 : layers.back().dense.weight.rows(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("layers", self.layers, "context_weight", self.context_weight);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "concat squash field", "activation", self.activation, "gate_output",
                            self.gate_output);
  }
  template <class U>
  ConcatSquashField<U> rebind() const {
    return {std::vector<ConcatSquash<U>>(layers.size()), activation, gate_output, {}};
  }

  /// Number of columns C of the context; 0 for a field that takes none.
  Index context_dim() const { return detail::columns_of(context_weight); }

  /// Throws invalid_argument if there is no layer, or if the number of inputs of a layer differs from the outputs of
  /// the layer before it.
  void check() const {
    require(!layers.empty(), "ConcatSquashField: no layers, expected at least one");
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const Index given = (i == 0 ? layers.back() : layers[i - 1]).dense.outputs();
      require(layers[i].dense.inputs() == given, "ConcatSquashField: layer ", i, " has ", layers[i].dense.inputs(),
              " inputs, expected ", given);
    }
    require(context_dim() == 0 || context_weight.rows() == layers.front().dense.outputs(),
            "ConcatSquashField: the weights of the context have ", context_dim() == 0 ? 0 : context_weight.rows(),
            " rows, the first layer ", layers.front().dense.outputs(), " outputs");
  }

  /// Returns the velocities. The context, N x C or 1 x C, is ignored by a field that takes none. Throws
  /// invalid_argument where it is missing or of another shape.
  template <Traced X>
  X operator()(const X& t, const X& x, const Var<Scalar>& context = {}) const {
    if (context_dim() == 0) return with_bias(t, x, {});
    require_context("ConcatSquashField", context, x.rows(), context_dim());
    return with_bias(t, x, context_bias(context));
  }

  Var<Scalar> context_bias(const Var<Scalar>& context) const {
    return once_for_context(context, &context_weight,
                            [&] { return affine(context, context_weight, layers.front().dense.bias); });
  }
  template <Traced X>
  X with_bias(const X& t, X x, Var<Scalar> bias) const {
    detail::require_point("ConcatSquashField", t, x, dim());
    for (std::size_t i = 0; i + 1 < layers.size(); ++i) {
      x = activate(activation, layers[i](t, x, bias));
      bias = {};
    }
    return gate_output ? layers.back()(t, x, bias) : layers.back().ungated(t, x, bias);
  }

  std::size_t layer_count() const { return layers.size(); }
  bool gates_output() const { return gate_output; }
  Var<Scalar> weights(Tape<Scalar>& tape, std::size_t i) const { return as_var(tape, layers[i].dense.weight); }

  Linearised<Scalar> linearised(const Var<Scalar>& t, Var<Scalar> x, const Var<Scalar>& bias = {}) const {
    using S = Scalar;
    detail::require_point("ConcatSquashField", t, x, dim());
    detail::require_context_bias("ConcatSquashField", bias, context_dim());
    Tape<S>& tape = x.tape();
    const std::size_t count = layers.size();
    auto* slopes = tape.template allocate<Var<S>>(count);
    auto* matrices = tape.template allocate<Var<S>>(count);
    for (std::size_t i = 0; i < count; ++i) {
      new (matrices + i) Var<S>(weights(tape, i));
      const bool last = i + 1 == count;
      const Var<S> gate = last && !gate_output ? Var<S>() : sigmoid(layers[i].gate(t));
      x = layers[i].dense.with_bias(x, i == 0 ? bias : Var<S>());
      x = (gate ? x * gate : x) + linear(t, layers[i].shift);
      new (slopes + i) Var<S>(gate);
      if (last) break;
      const auto [value, slope] = activate_with_slope(activation, x);
      x = value;
      slopes[i] = slope * gate;
    }
    return {x, count, matrices, slopes};
  }

  MultiDual<Scalar> with_jacobian(const Var<Scalar>& t, const Var<Scalar>& x, const Var<Scalar>& bias = {}) const {
    using S = Scalar;
    detail::require_point("ConcatSquashField", t, x, dim());
    detail::require_context_bias("ConcatSquashField", bias, context_dim());
    Tape<S>& tape = x.tape();
    detail::HiddenInput<S> in{x, detail::identity_matrix(tape, dim()), {}};
    MultiDual<S> y;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      y = detail::hidden_product(in, i == 0 ? Activation::identity : activation, weights(tape, i),
                                 i == 0 && bias ? bias : as_var(tape, layers[i].dense.bias));
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

/// Returns a field with random weights, which takes a context of context_dim columns where that is above 0. Throws
/// invalid_argument for a dimension or width below 1, a negative context_dim and a scale that is not finite.
template <Real S>
ConcatSquashField<S> make_concat_squash_field(Index dim, const ConcatSquashOptions& options = {},
                                              std::uint64_t seed = 0, std::uint64_t stream = 0, Index context_dim = 0) {
  require(dim >= 1, "make_concat_squash_field: dim is ", dim, ", expected at least 1");
  require(context_dim >= 0, "make_concat_squash_field: context_dim is ", context_dim, ", expected at least 0");
  require(std::isfinite(options.last_scale), "make_concat_squash_field: last_scale is ", options.last_scale,
          ", expected a finite value");
  const Initialisation how = options.initialisation.value_or(default_initialisation(options.activation));
  ConcatSquashField<S> field{{}, options.activation, options.gate_output, {}};
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
  if (context_dim > 0)
    field.context_weight = detail::make_context_weight<S>(field.layers.front().dense.outputs(), context_dim, how, seed,
                                                          stream, options.hidden.empty() ? options.last_scale : 1);
  field.layers.back().dense.weight *= static_cast<S>(options.last_scale);
  field.layers.back().shift *= static_cast<S>(options.last_scale);
  return field;
}

}  // namespace diffeo::inline DIFFEO_ISA
