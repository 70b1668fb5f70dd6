// SPDX-License-Identifier: MIT
#include <diffeo/layers/diagonal_scale.hpp>

#include "laws.hpp"

using diffeo::Array;
using diffeo::DiagonalScale;
using diffeo::Index;

static_assert(diffeo::Flow<DiagonalScale<float>>);
static_assert(diffeo::Flow<DiagonalScale<double>>);

TEMPLATE_TEST_CASE("diagonal scale: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  for (const Index dim : {1, 2, 3, 5})
    require_laws("D = " + std::to_string(dim),
                 randomised(DiagonalScale<TestType>{Array<TestType>::Zero(1, dim)}, std::uint64_t(dim), 1.0));
}

TEST_CASE("diagonal scale by hand", "[layers]") {
  DiagonalScale<double> layer{Array<double>(1, 3)};
  layer.log_scale << std::log(2.0), 0, std::log(0.25);
  Array<double> z(2, 3), expected(2, 3);
  z << 1, 2, 3, -4, 0, 8;
  expected << 2, 2, 0.75, -8, 0, 2;
  const auto x = diffeo::forward(layer, z);
  CHECK((x.value - expected).abs().maxCoeff() < 1e-15);
  CHECK((x.log_det - std::log(0.5)).abs().maxCoeff() < 1e-15);
  const auto back = diffeo::inverse(layer, x.value);
  CHECK((back.value - z).abs().maxCoeff() < 1e-15);
  CHECK((back.log_det + std::log(0.5)).abs().maxCoeff() < 1e-15);
}

TEST_CASE("diagonal scale: bad input", "[layers]") {
  const DiagonalScale<double> layer{Array<double>::Zero(1, 3)};
  const Array<double> x = Array<double>::Zero(4, 2);
  const auto text = thrown_message<diffeo::invalid_argument>([&] { diffeo::inverse(layer, x); });
  CHECK(text == "inverse: x has 2 columns, this flow has dimension 3");
  diffeo::Tape<double> tape;
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { layer.forward(tape.copy(x)); }),
                 "x has 2 columns, this layer has dimension 3"));
}
