// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/nn/linear.hpp>
#include <optional>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// A multi-layer perceptron: dense layers with an activation between them, none after the last.
template <class T>
struct Mlp {
  using Scalar = scalar_t<T>;

  std::vector<Linear<T>> layers;
  Activation activation = Activation::tanh;

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("layers", self.layers);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "perceptron", "activation", self.activation);
  }
  template <class U>
  Mlp<U> rebind() const {
    return {std::vector<Linear<U>>(layers.size()), activation};
  }

  Index inputs() const { return layers.empty() ? 0 : layers.front().inputs(); }
  Index outputs() const { return layers.empty() ? 0 : layers.back().outputs(); }

  /// Throws invalid_argument where there is no layer, or a layer does not take what the one before it gives.
  void check() const {
    require(!layers.empty(), "perceptron: no layers, expected at least one");
    for (std::size_t i = 1; i < layers.size(); ++i)
      require(layers[i].inputs() == layers[i - 1].outputs(), "perceptron: layer ", i, " has ", layers[i].inputs(),
              " inputs, the layer before it ", layers[i - 1].outputs(), " outputs");
  }

  /// N x inputs -> N x outputs.
  template <Traced X>
  X operator()(X x) const {
    for (std::size_t i = 0; i < layers.size(); ++i)
      x = layers[i](x, i + 1 < layers.size() ? activation : Activation::identity);
    return x;
  }
};

/// | option         | type                 | default                      |
/// |----------------|----------------------|------------------------------|
/// | hidden         | widths of the layers | {64, 64}                     |
/// | activation     | Activation           | tanh                         |
/// | initialisation | Initialisation       | by default_initialisation()  |
/// | last_scale     | factor on the last layer's weights | 0.01, near zero |
/// | first_scale    | factor on the first layer's weights, and standard deviation of its biases | 1 |
///
/// With random biases the hidden units bend at different places of the input range instead of all at 0. For few inputs
/// of order 1 a first_scale of 4 to 8 resolves sharp structure in far fewer steps; with many inputs it saturates tanh.
struct MlpOptions {
  std::vector<Index> hidden = {64, 64};
  Activation activation = Activation::tanh;
  std::optional<Initialisation> initialisation = std::nullopt;
  double last_scale = 0.01;
  double first_scale = 1;
};

/// Streams of random numbers that make_mlp uses, counted from its own.
inline std::uint64_t streams_of(const MlpOptions& options) { return options.hidden.size() + 2; }

/// A fresh network. The last layer is near zero, so that what it parametrises starts close to the identity. Throws
/// invalid_argument for a width below 1 or a scale that is not finite.
template <Real S>
Mlp<S> make_mlp(Index inputs, Index outputs, const MlpOptions& options, std::uint64_t seed, std::uint64_t stream = 0) {
  require(std::isfinite(options.first_scale) && std::isfinite(options.last_scale), "make_mlp: first_scale is ",
          options.first_scale, " and last_scale ", options.last_scale, ", expected finite values");
  const Initialisation how = options.initialisation.value_or(default_initialisation(options.activation));
  Mlp<S> mlp{{}, options.activation};
  for (const Index width : options.hidden) {
    require(width > 0, "make_mlp: a hidden layer has width ", width, ", expected at least 1");
    mlp.layers.push_back(make_linear<S>(inputs, width, how, seed, stream++));
    inputs = width;
  }
  mlp.layers.push_back(make_linear<S>(inputs, outputs, how, seed, stream++));
  if (mlp.layers.size() > 1) {
    Linear<S>& first = mlp.layers.front();
    fill_normal(view(first.bias), seed, stream);
    first.bias *= static_cast<S>(options.first_scale);
    first.weight *= static_cast<S>(options.first_scale);
  }
  mlp.layers.back().weight *= static_cast<S>(options.last_scale);
  return mlp;
}

}  // namespace diffeo::inline DIFFEO_ISA
