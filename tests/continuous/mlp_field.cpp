// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/mlp_field.hpp>

#include "fields.hpp"

using namespace diffeo;
using namespace fields;

TEST_CASE("mlp_field: velocities are the network of x and time", "[mlp_field]") {
  const MlpField<double> field = mlp<double>(2, {4}, Activation::tanh);
  const Array<double> x = gaussian<double>(3, 2, 0), t = times<double>(3);
  Tape<double> tape;
  const Array<double> v = to_array(field(tape.copy(t), tape.copy(x)));
  const auto& [first, last] = std::tie(field.network.layers[0], field.network.layers[1]);
  for (Index n = 0; n < 3; ++n)
    for (Index i = 0; i < 2; ++i) {
      double expected = last.bias(i);
      for (Index h = 0; h < 4; ++h)
        expected += last.weight(i, h) * std::tanh(first.bias(h) + first.weight(h, 0) * x(n, 0) +
                                                  first.weight(h, 1) * x(n, 1) + first.weight(h, 2) * t(n));
      CHECK(v(n, i) == Approx(expected).epsilon(1e-12));
    }
}

TEST_CASE("mlp_field: fresh fields", "[mlp_field]") {
  const auto field = make_mlp_field<float>(3, {.hidden = {8, 4}, .activation = Activation::elu, .last_scale = 0.5}, 7);
  REQUIRE(field.dim() == 3);
  REQUIRE(field.layer_count() == 3);
  CHECK(field.network.layers[0].weight.cols() == 4);
  CHECK(field.network.activation == Activation::elu);
  const auto again = make_mlp_field<float>(3, {.hidden = {8, 4}, .activation = Activation::elu, .last_scale = 1}, 7);
  CHECK((field.network.layers[2].weight == again.network.layers[2].weight * 0.5f).all());
  CHECK((field.network.layers[0].weight == again.network.layers[0].weight).all());
  // Velocities of order 1 without options.
  Tape<float> tape;
  const Array<float> v =
      to_array(make_mlp_field<float>(2)(tape.copy(times<float>(500)), tape.copy(gaussian<float>(500, 2, 0))));
  CHECK(v.square().mean() > 0.05);
  CHECK(v.square().mean() < 5);
}

TEST_CASE("mlp_field: what does not fit is refused", "[mlp_field]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([] { make_mlp_field<double>(0); }) == "make_mlp_field: dim is 0, expected at least 1");
  Tape<double> tape;
  const Var<double> t = tape.copy(times<double>(4)), x = tape.copy(gaussian<double>(4, 3, 0));
  const auto field = mlp<double>(2, {4}, Activation::tanh);
  const std::string wrong_x = "MlpField: x has 3 columns, this field has dimension 2";
  CHECK(message([&] { field(t, x); }) == wrong_x);
  CHECK(message([&] { field.linearised(t, x); }) == wrong_x);
  CHECK(message([&] { field.with_jacobian(t, x); }) == wrong_x);
}

TEST_CASE("make_mlp_field: velocities are of order 1 whatever other options are chosen", "[continuous]") {
  for (const MlpOptions& options : {MlpOptions{}, MlpOptions{.hidden = {32}}}) {
    const auto field = make_mlp_field<double>(2, options);
    CHECK(field.network.layers.back().weight.abs().maxCoeff() > 0.1);
  }
}
