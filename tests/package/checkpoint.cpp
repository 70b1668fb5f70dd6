// SPDX-License-Identifier: MIT
// Saves a model and loads it, in a project that has the component io.
#include <diffeo/diffeo.hpp>
#include <diffeo/io/checkpoint.hpp>

int main() {
  const auto model = diffeo::planar<float>(2, {.layers = 2, .seed = 1});
  auto loaded = diffeo::planar<float>(2, {.layers = 2, .seed = 2});
  diffeo::save(model, "checkpoint.safetensors");
  diffeo::load("checkpoint.safetensors", loaded);
  return (diffeo::parameters(model) == diffeo::parameters(loaded)).all() ? 0 : 1;
}
