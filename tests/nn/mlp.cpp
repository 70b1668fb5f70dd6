// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/nn/mlp.hpp>
#include <diffeo/testing/gradient_check.hpp>
#include <limits>

#include "../catch.hpp"

using namespace diffeo;

TEMPLATE_TEST_CASE("mlp: shapes of a fresh network", "[mlp]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Mlp<S> mlp = make_mlp<S>(3, 5, {.hidden = {8, 4}, .activation = Activation::relu}, 1);
  REQUIRE(mlp.layers.size() == 3);
  const Index widths[] = {3, 8, 4, 5};
  for (std::size_t k = 0; k < 3; ++k) {
    CHECK(mlp.layers[k].weight.rows() == widths[k + 1]);
    CHECK(mlp.layers[k].weight.cols() == widths[k]);
    CHECK(mlp.layers[k].bias.cols() == widths[k + 1]);
  }
  CHECK(mlp.activation == Activation::relu);
  CHECK(parameter_count(mlp) == 3 * 8 + 8 + 8 * 4 + 4 + 4 * 5 + 5);
  Tape<S> tape;
  for (const Index n : {0, 1, 17}) {
    const Var<S> y = mlp(tape.copy(Array<S>::Random(n, 3)));
    CHECK(y.rows() == n);
    CHECK(y.cols() == 5);
  }
  CHECK(make_mlp<S>(3, 5, {.hidden = {}}, 1).layers.size() == 1);
}

TEMPLATE_TEST_CASE("mlp: the last layer is near zero", "[mlp]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Mlp<S> mlp = make_mlp<S>(2, 6, {}, 1);
  REQUIRE(mlp.layers.size() == 3);
  // Weights of variance 1 / 64, times 0.01.
  CHECK(mlp.layers[2].weight.abs().maxCoeff() < S(0.01 * 5 / 8));
  CHECK((mlp.layers[2].weight != 0).any());
  CHECK(mlp.layers[1].weight.abs().maxCoeff() > S(2.0 / 8));
  Tape<S> tape;
  CHECK(as_eigen(mlp(tape.copy(Array<S>::Random(100, 2))).value()).abs().maxCoeff() < S(0.05));
  const Mlp<S> zero = make_mlp<S>(2, 6, {.last_scale = 0}, 1);
  CHECK((as_eigen(zero(tape.copy(Array<S>::Random(100, 2))).value()) == 0).all());
}

TEMPLATE_TEST_CASE("mlp: the first layer's scale", "[mlp]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Mlp<S> one = make_mlp<S>(3, 2, {.hidden = {2000, 8}}, 1),
               four = make_mlp<S>(3, 2, {.hidden = {2000, 8}, .first_scale = 4}, 1);
  CHECK((four.layers[0].weight == 4 * one.layers[0].weight).all());
  CHECK((four.layers[0].bias == 4 * one.layers[0].bias).all());
  CHECK((four.layers[1].weight == one.layers[1].weight).all());
  CHECK((one.layers[1].bias == 0).all());
  CHECK(one.layers[0].bias.square().mean() == Approx(1).epsilon(0.15));
  CHECK(one.layers[0].weight.square().mean() == Approx(1.0 / 3).epsilon(0.15));
  // A single layer is the last one, and not the first.
  const Mlp<S> single = make_mlp<S>(3, 2, {.hidden = {}, .first_scale = 4}, 1);
  CHECK((single.layers[0].bias == 0).all());
}

TEMPLATE_TEST_CASE("mlp: equal seeds give equal networks, layers and streams differ", "[mlp]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const MlpOptions options{.hidden = {4, 4}, .last_scale = 1};
  const auto flat = [&](std::uint64_t seed, std::uint64_t stream) {
    return parameters(make_mlp<S>(4, 4, options, seed, stream));
  };
  CHECK((flat(1, 0) == flat(1, 0)).all());
  CHECK((flat(1, 0) != flat(2, 0)).any());
  CHECK((flat(1, 0) != flat(1, 3)).any());
  const Mlp<S> mlp = make_mlp<S>(4, 4, options, 1);
  CHECK((mlp.layers[0].weight != mlp.layers[1].weight).all());
  CHECK((mlp.layers[1].weight != mlp.layers[2].weight).all());
}

TEST_CASE("mlp: the value is that of the formula", "[mlp]") {
  Mlp<double> mlp = make_mlp<double>(3, 2, {.hidden = {5}, .last_scale = 1}, 4);
  for (auto& layer : mlp.layers) layer.bias.setRandom();
  const Array<double> x = Array<double>::Random(20, 3);
  const auto dense = [&mlp](const Array<double>& in, std::size_t k) {
    Array<double> y = in.matrix().lazyProduct(mlp.layers[k].weight.matrix().transpose()).array();
    y.rowwise() += mlp.layers[k].bias.row(0);
    return y;
  };
  Tape<double> tape;
  CHECK((as_eigen(mlp(tape.copy(x)).value()) - dense(dense(x, 0).tanh(), 1)).abs().maxCoeff() < 1e-14);
}

TEST_CASE("mlp: gradients, tangents and their gradients are central differences", "[mlp]") {
  using enum Activation;
  for (const Activation a : {identity, tanh, relu, leaky_relu, elu, selu, silu, softplus, sin, lip_swish}) {
    CAPTURE(std::string(to_string(a)));
    Mlp<double> net = make_mlp<double>(3, 2, {.hidden = {6, 5}, .activation = a, .last_scale = 1}, 4);
    for (auto& layer : net.layers) layer.bias.setRandom();
    const auto f = [](const auto& model, auto x) { return model(x[0]); };
    for (const Index n : {1, 19}) {
      const std::vector<Array<double>> x{Array<double>::Random(n, 3)};
      const auto gradients = testing::check_gradients(net, f, x);
      INFO(gradients.where);
      CHECK(gradients.max_error < 1e-6);
      const auto tangents = testing::check_tangents(net, f, x);
      INFO(tangents.where);
      CHECK(tangents.max_error < 1e-6);
      const auto mixed = testing::check_tangent_gradients(net, f, x);
      INFO(mixed.where);
      CHECK(mixed.max_error < 1e-6);
    }
  }
}

TEST_CASE("mlp: bad widths are refused", "[mlp]") {
  CHECK(thrown_message<invalid_argument>([] {
          make_mlp<double>(2, 2, {.hidden = {8, 0}}, 0);
        }) == "make_mlp: a hidden layer has width 0, expected at least 1");
  CHECK(contains(thrown_message<invalid_argument>(
                     [] { make_mlp<double>(2, 2, {.first_scale = std::numeric_limits<double>::infinity()}, 0); }),
                 "make_mlp: first_scale is inf"));
  CHECK_THROWS_AS(make_mlp<double>(0, 2, {}, 0), invalid_argument);
  CHECK_THROWS_AS(make_mlp<double>(2, 0, {}, 0), invalid_argument);
}
