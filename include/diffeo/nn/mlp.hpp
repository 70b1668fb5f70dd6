// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/nn/context.hpp>
#include <diffeo/nn/linear.hpp>
#include <optional>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// A multi-layer perceptron: dense layers with an activation between them, none after the last. The first layer may
/// also take a context c: c V' is added before its activation.
template <class T>
struct Mlp {
  using Scalar = scalar_t<T>;

  std::vector<Linear<T>> layers;
  Activation activation = Activation::tanh;
  param_t<T> context_weight{};  ///< V, outputs of the first layer x C; empty for a network without context

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("layers", self.layers, "context_weight", self.context_weight);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "perceptron", "activation", self.activation);
  }
  template <class U>
  Mlp<U> rebind() const {
    return {std::vector<Linear<U>>(layers.size()), activation, {}};
  }

  Index inputs() const { return layers.empty() ? 0 : layers.front().inputs(); }
  Index outputs() const { return layers.empty() ? 0 : layers.back().outputs(); }

  /// Number of columns C of the context; 0 for a network that takes none.
  Index context_dim() const { return detail::columns_of(context_weight); }

  /// Throws invalid_argument where there is no layer, or a layer does not take what the one before it gives.
  void check() const {
    require(!layers.empty(), "perceptron: no layers, expected at least one");
    for (std::size_t i = 1; i < layers.size(); ++i)
      require(layers[i].inputs() == layers[i - 1].outputs(), "perceptron: layer ", i, " has ", layers[i].inputs(),
              " inputs, the layer before it ", layers[i - 1].outputs(), " outputs");
    require(context_dim() == 0 || context_weight.rows() == layers.front().outputs(),
            "perceptron: the weights of the context have ", context_dim() == 0 ? 0 : context_weight.rows(),
            " rows, the first layer ", layers.front().outputs(), " outputs");
  }

  /// Returns the outputs for x, N x inputs -> N x outputs. The context, N x C or 1 x C, is ignored by a network that
  /// takes none. Throws invalid_argument where it is missing or of another shape.
  template <Traced X>
  X operator()(const X& x, const Var<Scalar>& context = {}) const {
    if (context_dim() == 0) return with_bias(x, {});
    require_context("perceptron", context, x.rows(), context_dim());
    return with_bias(x, context_bias(context));
  }

  /// Returns the bias b + c V' of the first layer given a context c, N x C or 1 x C: N x M or 1 x M.
  Var<Scalar> context_bias(const Var<Scalar>& context) const {
    return once_for_context(context, &context_weight,
                            [&] { return affine(context, context_weight, layers.front().bias); });
  }
  /// Returns the outputs for x with a bias of the first layer as context_bias() returns it. An empty Var leaves that of
  /// the layer.
  template <Traced X>
  X with_bias(const X& x, const Var<Scalar>& bias) const {
    return perceptron(x, layers.size(), activation, [&](std::size_t i, const X& in, Activation a) {
      return i == 0 ? layers[i].with_bias(in, bias, a) : layers[i](in, a);
    });
  }
};

/// | option         | type                 | default                                               |
/// |----------------|----------------------|-------------------------------------------------------|
/// | hidden         | widths of the layers | {64, 64}                                              |
/// | activation     | Activation           | tanh                                                  |
/// | initialisation | Initialisation       | by default_initialisation()                           |
/// | last_scale     | double               | what suits the recipe; for make_mlp() 0.01, near zero |
/// | first_scale    | double               | what suits the recipe; for make_mlp() 1               |
///
/// last_scale is a factor on the last layer's weights; first_scale one on the first layer's weights, and the standard
/// deviation of its biases.
/// With random biases the hidden units bend at different places of the input range instead of all at 0. For few inputs
/// of order 1 a first_scale of 2 to 8 resolves sharp structure in far fewer steps; with many inputs it saturates tanh.
struct MlpOptions {
  std::vector<Index> hidden = {64, 64};
  Activation activation = Activation::tanh;
  std::optional<Initialisation> initialisation = std::nullopt;
  std::optional<double> last_scale = std::nullopt;
  std::optional<double> first_scale = std::nullopt;

  /// Returns these options with the given scales where none were chosen.
  MlpOptions with_scales(double last, double first) const {
    MlpOptions chosen = *this;
    chosen.last_scale = last_scale.value_or(last);
    chosen.first_scale = first_scale.value_or(first);
    return chosen;
  }
};

namespace detail {

// Returns the factor on the first layer's weights in `dim` dimensions, given the one for two: it falls as 1 / dim,
// because units sum over their inputs and saturate.
inline double first_scale_for(Index dim, double in_the_plane) {
  return std::max(1.0, in_the_plane * std::min(1.0, 2 / static_cast<double>(dim)));
}

}  // namespace detail

/// Streams of random numbers that make_mlp uses, counted from its own.
inline std::uint64_t streams_of(const MlpOptions& options) { return options.hidden.size() + 2; }

/// A fresh network, with a context of context_dim columns where that is above 0. The last layer is near zero, so that
/// what it parametrises starts close to the identity. Throws invalid_argument for a width below 1, a negative
/// context_dim or a scale that is not finite.
template <Real S>
Mlp<S> make_mlp(Index inputs, Index outputs, const MlpOptions& options, std::uint64_t seed, std::uint64_t stream = 0,
                Index context_dim = 0) {
  const double first_scale = options.first_scale.value_or(1), last_scale = options.last_scale.value_or(0.01);
  require(std::isfinite(first_scale) && std::isfinite(last_scale), "make_mlp: first_scale is ", first_scale,
          " and last_scale ", last_scale, ", expected finite values");
  const Initialisation how = options.initialisation.value_or(default_initialisation(options.activation));
  require(context_dim >= 0, "make_mlp: context_dim is ", context_dim, ", expected at least 0");
  Mlp<S> mlp{{}, options.activation, {}};
  for (const Index width : options.hidden) {
    require(width > 0, "make_mlp: a hidden layer has width ", width, ", expected at least 1");
    mlp.layers.push_back(make_linear<S>(inputs, width, how, seed, stream++));
    inputs = width;
  }
  mlp.layers.push_back(make_linear<S>(inputs, outputs, how, seed, stream++));
  if (mlp.layers.size() > 1) {
    Linear<S>& first = mlp.layers.front();
    fill_normal(view(first.bias), seed, stream);
    first.bias *= static_cast<S>(first_scale);
    first.weight *= static_cast<S>(first_scale);
  }
  if (context_dim > 0)
    mlp.context_weight = detail::make_context_weight<S>(mlp.layers.front().outputs(), context_dim, how, seed, stream,
                                                        mlp.layers.size() > 1 ? first_scale : last_scale);
  mlp.layers.back().weight *= static_cast<S>(last_scale);
  return mlp;
}

}  // namespace diffeo::inline DIFFEO_ISA
