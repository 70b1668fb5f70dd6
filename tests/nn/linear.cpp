// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/nn/linear.hpp>
#include <vector>

#include "../catch.hpp"

using namespace diffeo;

TEMPLATE_TEST_CASE("linear: x W' + b", "[linear]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Linear<S> layer{Array<S>{{1, 2}, {3, 4}, {5, 6}}, Array<S>{{-1, 0, 1}}};
  const Array<S> x{{1, 0}, {0, 1}, {1, -1}, {0, 0}};
  Tape<S> tape;
  const Array<S> expected{{0, 3, 6}, {1, 4, 7}, {-2, -1, 0}, {-1, 0, 1}};
  CHECK((as_eigen(layer(tape.copy(x)).value()) == expected).all());
  CHECK((as_eigen(layer(tape.copy(x), Activation::relu).value()) == expected.max(0)).all());
  CHECK(thrown_message<invalid_argument>([&] { layer(tape.copy(Array<S>::Zero(4, 3))); }) ==
        "affine: x has 3 columns, the weights expect 2");
}

TEMPLATE_TEST_CASE("linear: a fresh layer", "[linear]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Linear<S> layer = make_linear<S>(4, 3, Initialisation::lecun_normal, 5, 1);
  CHECK(layer.weight.rows() == 3);
  CHECK(layer.weight.cols() == 4);
  CHECK((layer.weight != 0).all());
  CHECK(layer.bias.rows() == 1);
  CHECK(layer.bias.cols() == 3);
  CHECK((layer.bias == 0).all());
  CHECK((make_linear<S>(4, 3, Initialisation::lecun_normal, 5, 1).weight == layer.weight).all());
  CHECK((make_linear<S>(4, 3, Initialisation::lecun_normal, 6, 1).weight != layer.weight).all());
  CHECK(thrown_message<invalid_argument>([] { make_linear<S>(0, 3, Initialisation::zeros, 0, 0); }) ==
        "make_linear: 0 inputs and 3 outputs, expected at least one of each");
  CHECK_THROWS_AS(make_linear<S>(3, -1, Initialisation::zeros, 0, 0), invalid_argument);
}

TEST_CASE("linear: parameters are the weights, then the bias", "[linear]") {
  const Linear<double> layer{Array<double>{{1, 2}, {3, 4}}, Array<double>{{5, 6}}};
  std::vector<double> first;
  for_each_parameter(layer, [&first](const auto& p) { first.push_back(p(0)); });
  CHECK(first == std::vector<double>{1, 5});
  CHECK(parameter_count(layer) == 6);
}
