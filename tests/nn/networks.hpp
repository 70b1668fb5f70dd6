// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <diffeo/nn/mlp.hpp>
#include <utility>
#include <vector>

#include "../arrays.hpp"

/// Networks that tests of perceptrons share.

/// A network with weights and biases of order 1.
template <diffeo::Real S>
diffeo::Mlp<S> some_network(diffeo::Index inputs, diffeo::Index outputs, std::vector<diffeo::Index> hidden,
                            diffeo::Activation a) {
  auto net = diffeo::make_mlp<S>(inputs, outputs, {.hidden = std::move(hidden), .activation = a, .last_scale = 1}, 4);
  std::uint64_t stream = 50;
  for (auto& layer : net.layers) layer.bias = S(0.5) * gaussian<S>(1, layer.bias.cols(), stream++);
  return net;
}

/// Hidden widths of networks with no hidden layer to three.
inline const std::vector<std::vector<diffeo::Index>> hidden_widths = {{}, {6}, {5, 7}, {6, 3, 5}};
