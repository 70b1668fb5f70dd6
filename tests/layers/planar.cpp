// SPDX-License-Identifier: MIT
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/planar.hpp>

#include "laws.hpp"

using diffeo::Activation;
using diffeo::Array;
using diffeo::Index;
using diffeo::Planar;

static_assert(diffeo::Flow<Planar<float>>);
static_assert(diffeo::Flow<Planar<double>>);
static_assert(diffeo::HasInverse<Planar<double>, diffeo::Dual<diffeo::Var<double>>>);

TEMPLATE_TEST_CASE("planar: laws", "[layers]", float, double) {
  using S = TestType;
  for (const Activation activation : {Activation::tanh, Activation::leaky_relu})
    for (const Index dim : {1, 2, 5})
      require_laws(std::string(to_string(activation)) + ", D = " + std::to_string(dim),
                   randomised(diffeo::make_planar<S>(dim, activation), std::uint64_t(dim), 1.0));
}
