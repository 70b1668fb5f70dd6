// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/nn/linear.hpp>
#include <optional>
#include <vector>

namespace diffeo {

/// A multi-layer perceptron: dense layers with an activation between them, none after the last.
template <class T>
struct Mlp {
  std::vector<Linear<T>> layers;
  Activation activation = Activation::tanh;

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.layers);
  }
  template <class U>
  Mlp<U> rebind() const {
    return {std::vector<Linear<U>>(layers.size()), activation};
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
struct MlpOptions {
  std::vector<Index> hidden = {64, 64};
  Activation activation = Activation::tanh;
  std::optional<Initialisation> initialisation = std::nullopt;
  double last_scale = 0.01;
};

/// A fresh network. The last layer is near zero, so that what it parametrises starts close to the identity. Throws
/// invalid_argument for a width below 1.
template <Real S>
Mlp<S> make_mlp(Index inputs, Index outputs, const MlpOptions& options, std::uint64_t seed, std::uint64_t stream = 0) {
  const Initialisation how = options.initialisation.value_or(default_initialisation(options.activation));
  Mlp<S> mlp{{}, options.activation};
  for (const Index width : options.hidden) {
    require(width > 0, "make_mlp: a hidden layer has width ", width, ", expected at least 1");
    mlp.layers.push_back(make_linear<S>(inputs, width, how, seed, stream++));
    inputs = width;
  }
  mlp.layers.push_back(make_linear<S>(inputs, outputs, how, seed, stream));
  mlp.layers.back().weight *= static_cast<S>(options.last_scale);
  return mlp;
}

}  // namespace diffeo
