// SPDX-License-Identifier: MIT
#include <diffeo/layers/coupling.hpp>
#include <limits>

#include "laws.hpp"

using diffeo::Activation;
using diffeo::AdditiveTransform;
using diffeo::AffineTransform;
using diffeo::Array;
using diffeo::Coupling;
using diffeo::Index;
using diffeo::Mask;

static_assert(diffeo::Flow<Coupling<float>>);
static_assert(diffeo::Flow<Coupling<double>>);
static_assert(diffeo::Flow<Coupling<float, AdditiveTransform>>);
static_assert(diffeo::Flow<Coupling<double, AdditiveTransform>>);
static_assert(diffeo::HasForward<Coupling<float>, diffeo::Dual<diffeo::Var<float>>>);
static_assert(diffeo::HasInverse<Coupling<float>, diffeo::Dual<diffeo::Var<float>>>);

TEMPLATE_TEST_CASE("affine coupling: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  require_laws("D = 2, even, tanh", random_coupling<S>(Mask::keep_even(2), Activation::tanh, 1));
  require_laws("D = 2, odd, relu", random_coupling<S>(Mask::keep_odd(2), Activation::relu, 2));
  require_laws("D = 3, even, softplus", random_coupling<S>(Mask::keep_even(3), Activation::softplus, 3));
  require_laws("D = 3, odd, silu", random_coupling<S>(Mask::keep_odd(3), Activation::silu, 4));
  require_laws("D = 3, first half, leaky relu",
               random_coupling<S>(Mask::keep_first_half(3), Activation::leaky_relu, 5));
  require_laws("D = 3, moving 2 and 0, elu", random_coupling<S>(Mask::moving(3, {2, 0}), Activation::elu, 6));
  require_laws("D = 5, even, sin", random_coupling<S>(Mask::keep_even(5), Activation::sin, 7));
  require_laws("D = 5, odd, selu", random_coupling<S>(Mask::keep_odd(5), Activation::selu, 8));
  require_laws("D = 5, first half, tanh", random_coupling<S>(Mask::keep_first_half(5), Activation::tanh, 9));
  require_laws("D = 5, second half, tanh", random_coupling<S>(Mask::keep_second_half(5), Activation::tanh, 10));
  require_laws("D = 5, moving 4, 0 and 3, tanh", random_coupling<S>(Mask::moving(5, {4, 0, 3}), Activation::tanh, 11));
  require_laws("D = 9, halves, tanh", random_coupling<S>(Mask::keep_first_half(9), Activation::tanh, 12));

  const double free = std::numeric_limits<double>::infinity();
  require_laws("free log-scale", randomised(random_coupling<S>(Mask::keep_even(3), Activation::tanh, 0,
                                                               AffineTransform{.log_scale_bound = free}),
                                            13, 0.3));
  require_laws("a bound of 0.1",
               random_coupling<S>(Mask::keep_even(3), Activation::tanh, 14, AffineTransform{.log_scale_bound = 0.1}));
  require_laws("no hidden layer", randomised(diffeo::make_coupling<S>(Mask::keep_odd(4), {.hidden = {}}, 0), 15));
}

TEMPLATE_TEST_CASE("additive coupling: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const AdditiveTransform add;
  require_laws("D = 2, odd, tanh", random_coupling<S>(Mask::keep_odd(2), Activation::tanh, 1, add));
  require_laws("D = 3, even, relu", random_coupling<S>(Mask::keep_even(3), Activation::relu, 2, add));
  require_laws("D = 5, second half, silu", random_coupling<S>(Mask::keep_second_half(5), Activation::silu, 3, add));
  require_laws("D = 5, moving 1 and 4, tanh", random_coupling<S>(Mask::moving(5, {1, 4}), Activation::tanh, 4, add));
}

TEST_CASE("affine coupling by hand", "[layers]") {
  // Without hidden layers: log-scale 1.5 tanh((0.5 a + 0.25) / 1.5) and shift -2 a + 3 of the kept coordinate a.
  auto layer = diffeo::make_coupling<double>(Mask::keep_even(2), {.hidden = {}}, 0);
  auto& dense = layer.conditioner.layers[0];
  REQUIRE(dense.weight.rows() == 2);
  REQUIRE(dense.weight.cols() == 1);
  dense.weight << 0.5, -2;
  dense.bias << 0.25, 3;
  Array<double> z(3, 2);
  z << 1, 2, -0.5, 7, 40, -1;
  const auto x = diffeo::forward(layer, z);
  for (Index i = 0; i < z.rows(); ++i) {
    const double a = z(i, 0), s = 1.5 * std::tanh((0.5 * a + 0.25) / 1.5);
    CHECK(x.value(i, 0) == a);
    CHECK(x.value(i, 1) == Approx(z(i, 1) * std::exp(s) - 2 * a + 3).epsilon(1e-14));
    CHECK(x.log_det(i, 0) == Approx(s).margin(1e-15));
  }
  const auto back = diffeo::inverse(layer, x.value);
  CHECK((back.value - z).abs().maxCoeff() < 1e-14);
  CHECK((back.log_det + x.log_det).abs().maxCoeff() < 1e-15);
}

TEST_CASE("affine coupling moves the listed coordinates in the listed order", "[layers]") {
  // Kept: 1. Outputs of the network: log-scales of 2 and 0, then shifts of 2 and 0.
  auto layer = diffeo::make_coupling<double>(Mask::moving(3, {2, 0}), {.hidden = {}}, 0, 0,
                                             AffineTransform{std::numeric_limits<double>::infinity()});
  auto& dense = layer.conditioner.layers[0];
  dense.weight << 0.1, 0.2, 10, 100;
  dense.bias << 0, 0, 0, 0;
  Array<double> z(1, 3);
  z << 3, 2, 5;
  const auto x = diffeo::forward(layer, z);
  CHECK(x.value(0, 0) == Approx(3 * std::exp(0.4) + 200).epsilon(1e-14));
  CHECK(x.value(0, 1) == 2);
  CHECK(x.value(0, 2) == Approx(5 * std::exp(0.2) + 20).epsilon(1e-14));
  CHECK(x.log_det(0, 0) == Approx(0.6).epsilon(1e-14));
}

TEST_CASE("additive coupling by hand", "[layers]") {
  auto layer = diffeo::make_coupling<double>(Mask::keep_odd(2), {.hidden = {}}, 0, 0, AdditiveTransform{});
  layer.conditioner.layers[0].weight << 3;
  layer.conditioner.layers[0].bias << -1;
  Array<double> z(1, 2), expected(1, 2);
  z << 0.5, 2;
  expected << 5.5, 2;
  const auto x = diffeo::forward(layer, z), back = diffeo::inverse(layer, expected);
  CHECK((x.value == expected).all());
  CHECK(x.log_det(0, 0) == 0);
  CHECK((back.value == z).all());
  CHECK(back.log_det(0, 0) == 0);
}

TEMPLATE_TEST_CASE("a fresh coupling is close to the identity", "[layers]", float, double) {
  for (const Activation a : {Activation::tanh, Activation::relu, Activation::silu, Activation::sin}) {
    const auto layer = diffeo::make_coupling<TestType>(Mask::keep_even(4), {.activation = a}, 3);
    const Array<TestType> z = diffeo::testing::detail::normal_array<TestType>(100, 4, 1, 1);
    const auto x = diffeo::forward(layer, z);
    CHECK((x.value - z).abs().maxCoeff() < 0.2);
    CHECK((x.value - z).abs().maxCoeff() > 0);
    CHECK(x.log_det.abs().maxCoeff() < 0.2);
  }
}

TEMPLATE_TEST_CASE("no input makes a bounded coupling overflow", "[layers]", float, double) {
  using S = TestType;
  const auto layer = randomised(random_coupling<S>(Mask::keep_even(2), Activation::relu, 1), 2, 3.0);
  Array<S> x(6, 2);
  x << 1e6, -1e6, -1e6, 1e6, 1e4, 0, 0, 1e4, -1e5, -1e5, 0, 0;
  for (const auto& y : {diffeo::forward(layer, x), diffeo::inverse(layer, x)}) {
    CHECK(y.value.allFinite());
    CHECK(y.log_det.abs().maxCoeff() <= S(1.5001));
  }
}

TEST_CASE("coupling: bad input", "[layers]") {
  using diffeo::invalid_argument;
  CHECK(contains(thrown_message<invalid_argument>([] { diffeo::make_coupling<float>(Mask::keep_even(1), {}, 0); }),
                 "dimension 1 leaves nothing to condition on"));
  CHECK(contains(thrown_message<invalid_argument>([] {
                   diffeo::make_coupling<float>(Mask{{0, 1}, {}}, {}, 0);
                 }),
                 "keeps 2 and moves 0"));
  CHECK(contains(thrown_message<invalid_argument>([] {
                   diffeo::make_coupling<float>(Mask{{}, {0}}, {}, 0);
                 }),
                 "keeps 0 and moves 1"));
  CHECK(contains(thrown_message<invalid_argument>([] {
                   diffeo::make_coupling<float>(Mask::keep_even(2), {.hidden = {8, 0}}, 0);
                 }),
                 "width 0"));
  const auto layer = diffeo::make_coupling<float>(Mask::keep_even(2), {}, 0);
  const Array<float> x = Array<float>::Zero(4, 3);
  CHECK(thrown_message<invalid_argument>([&] { diffeo::forward(layer, x); }) ==
        "forward: z has 3 columns, this flow has dimension 2");
  diffeo::Tape<float> tape;
  CHECK(thrown_message<invalid_argument>([&] { layer.inverse(tape.copy(x)); }) ==
        "coupling: x has 3 columns, this layer has dimension 2");
}
