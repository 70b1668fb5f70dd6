// SPDX-License-Identifier: MIT
#include <diffeo/layers/diagonal_scale.hpp>
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/standardize.hpp>

#include "laws.hpp"

using diffeo::Activation;
using diffeo::Array;
using diffeo::Invert;
using diffeo::Mask;
using diffeo::Var;

static_assert(diffeo::Flow<Invert<diffeo::Coupling<float>>>);
static_assert(diffeo::Flow<Invert<diffeo::Coupling<double>>>);
static_assert(diffeo::Flow<Invert<Invert<diffeo::Coupling<double>>>>);
static_assert(diffeo::HasForward<Generator, Var<float>> && !diffeo::HasInverse<Generator, Var<float>>);
static_assert(!diffeo::HasForward<Invert<Generator>, Var<float>> && diffeo::HasInverse<Invert<Generator>, Var<float>>);

TEMPLATE_TEST_CASE("invert: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const auto coupling = random_coupling<S>(Mask::keep_even(3), Activation::tanh, 1);
  require_laws("an inverted coupling", Invert{coupling});
  require_laws("twice inverted", Invert<Invert<diffeo::Coupling<S>>>{{coupling}});
  Array<S> mean(1, 3), scale(1, 3);
  mean << 1, 2, 3;
  scale << 1, 2, S(0.7);
  require_laws("an inverted sequence",
               Invert{diffeo::FlowSequence(coupling, Invert{coupling}, diffeo::Standardize<S>::from(mean, scale))});
}

TEST_CASE("invert exchanges the directions", "[layers]") {
  const auto coupling = random_coupling<double>(Mask::keep_even(3), Activation::tanh, 1);
  const Invert inverted{coupling};
  const Array<double> x = diffeo::testing::detail::normal_array<double>(20, 3, 1, 1);
  const auto a = diffeo::forward(inverted, x), b = diffeo::inverse(coupling, x);
  const auto c = diffeo::inverse(inverted, x), d = diffeo::forward(coupling, x);
  CHECK((a.value == b.value).all());
  CHECK((a.log_det == b.log_det).all());
  CHECK((c.value == d.value).all());
  CHECK((c.log_det == d.log_det).all());
  CHECK(inverted.dim() == 3);
  CHECK((diffeo::parameters(inverted) == diffeo::parameters(coupling)).all());
}

TEST_CASE("invert: twice is a flow of its own", "[layers]") {
  const diffeo::DiagonalScale<double> scale{diffeo::Array<double>::Constant(1, 2, 0.5)};
  const auto twice = diffeo::Invert(diffeo::Invert(scale));
  static_assert(std::is_same_v<decltype(twice), const diffeo::Invert<diffeo::Invert<diffeo::DiagonalScale<double>>>>);
  const diffeo::Array<double> z = diffeo::Array<double>::Ones(3, 2);
  CHECK((diffeo::forward(twice, z).value == diffeo::forward(scale, z).value).all());
}
