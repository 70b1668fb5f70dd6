// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/concat_squash_field.hpp>

#include "fields.hpp"

using namespace diffeo;
using namespace fields;

TEST_CASE("concat_squash_field: velocities by FFJORD's formula", "[concat_squash_field]") {
  const bool gated = GENERATE(false, true);
  const ConcatSquashField<double> field = concat_squash<double>(2, {4}, Activation::tanh, gated);
  const Array<double> x = gaussian<double>(3, 2, 0), t = times<double>(3);
  Tape<double> tape;
  const Array<double> v = to_array(field(tape.copy(t), tape.copy(x)));
  const auto layer = [&](std::size_t i, double time, const std::vector<double>& in, bool gate) {
    const auto& l = field.layers[i];
    std::vector<double> out;
    for (Index o = 0; o < l.dense.weight.rows(); ++o) {
      double sum = l.dense.bias(o);
      for (std::size_t k = 0; k < in.size(); ++k) sum += l.dense.weight(o, static_cast<Index>(k)) * in[k];
      if (gate) sum /= 1 + std::exp(-(l.gate.weight(o, 0) * time + l.gate.bias(o)));
      out.push_back(sum + l.shift(o, 0) * time);
    }
    return out;
  };
  for (Index n = 0; n < 3; ++n) {
    std::vector<double> h = layer(0, t(n), {x(n, 0), x(n, 1)}, true);
    for (double& u : h) u = std::tanh(u);
    h = layer(1, t(n), h, gated);
    for (Index i = 0; i < 2; ++i) CHECK(v(n, i) == Approx(h[static_cast<std::size_t>(i)]).epsilon(1e-12));
  }
}

TEST_CASE("concat_squash_field: fresh fields", "[concat_squash_field]") {
  const auto squash = make_concat_squash_field<double>(3, {.hidden = {8, 4}, .last_scale = 0.5}, 7);
  REQUIRE(squash.dim() == 3);
  REQUIRE(squash.layer_count() == 3);
  CHECK(parameter_count(squash) == (3 * 8 + 4 * 8) + (8 * 4 + 4 * 4) + (4 * 3 + 4 * 3));
  const auto other = make_concat_squash_field<double>(3, {.hidden = {8, 4}}, 7);
  CHECK((squash.layers[2].dense.weight == other.layers[2].dense.weight * 0.5).all());
  CHECK((squash.layers[2].shift == other.layers[2].shift * 0.5).all());
  // No two arrays hold the same numbers.
  CHECK(other.layers[0].gate.weight(0, 0) != other.layers[0].shift(0, 0));
  CHECK(other.layers[0].gate.weight(0, 0) != other.layers[1].gate.weight(0, 0));
}

TEST_CASE("concat_squash_field: what does not fit is refused", "[concat_squash_field]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([] { make_concat_squash_field<double>(0); }) ==
        "make_concat_squash_field: dim is 0, expected at least 1");
  CHECK(message([] { make_concat_squash_field<double>(2, {.hidden = {0}}); }) ==
        "make_concat_squash_field: a hidden layer has width 0, expected at least 1");
  CHECK(message([] { make_concat_squash_field<double>(2, {.last_scale = std::nan("")}); }) ==
        "make_concat_squash_field: last_scale is nan, expected a finite value");
  Tape<double> tape;
  const Var<double> x = tape.copy(gaussian<double>(4, 3, 0)), short_t = tape.copy(times<double>(1));
  const auto squash = concat_squash<double>(3, {4}, Activation::tanh, true);
  const std::string wrong_t = "ConcatSquashField: t is 1 x 1, expected 4 x 1";
  CHECK(message([&] { squash(short_t, x); }) == wrong_t);
  CHECK(message([&] { squash.linearised(short_t, x); }) == wrong_t);
  CHECK(message([&] { squash.with_jacobian(short_t, x); }) == wrong_t);
}
