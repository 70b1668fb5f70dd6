// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/nn/concat_squash.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using namespace diffeo;

namespace {}  // namespace

TEST_CASE("concat_squash: the formula of FFJORD", "[concat_squash]") {
  ConcatSquash<double> layer = make_concat_squash<double>(3, 2, Initialisation::lecun_normal, 1, 5);
  layer.dense.bias = gaussian<double>(1, 2, 1);
  layer.gate.bias = gaussian<double>(1, 2, 2);
  const Array<double> t = gaussian<double>(4, 1, 3), x = gaussian<double>(4, 3, 4);
  Tape<double> tape;
  const Array<double> gated = as_eigen(layer(tape.copy(t), tape.copy(x)).value()),
                      plain = as_eigen(layer.ungated(tape.copy(t), tape.copy(x)).value());
  for (Index n = 0; n < 4; ++n)
    for (Index m = 0; m < 2; ++m) {
      const double dense = (layer.dense.weight.row(m) * x.row(n)).sum() + layer.dense.bias(m);
      const double gate = 1 / (1 + std::exp(-(layer.gate.weight(m) * t(n) + layer.gate.bias(m))));
      CHECK(gated(n, m) == Approx(dense * gate + layer.shift(m) * t(n)).epsilon(1e-13));
      CHECK(plain(n, m) == Approx(dense + layer.shift(m) * t(n)).epsilon(1e-13));
    }
  const auto f = [](const auto& model, auto in) { return model(in[0], in[1]); };
  CHECK(testing::check_gradients(layer, f, std::vector{t, x}).max_error < 1e-8);
  CHECK(testing::check_tangents(layer, f, std::vector{t, x}).max_error < 1e-8);
}

TEST_CASE("concat_squash: a fresh layer", "[concat_squash]") {
  const auto layer = make_concat_squash<float>(3, 50, Initialisation::he_normal, 1, 5);
  CHECK(parameter_count(layer) == 50 * 3 + 50 + 50 + 50 + 50);
  CHECK((layer.dense.weight == make_linear<float>(3, 50, Initialisation::he_normal, 1, 5).weight).all());
  CHECK((layer.dense.bias == 0).all());
  CHECK((layer.gate.bias == 0).all());
  for (const Array<float>& w : {layer.gate.weight, layer.shift}) {
    CHECK(w.abs().maxCoeff() <= 1);
    CHECK(w.minCoeff() < -0.5f);
    CHECK(w.maxCoeff() > 0.5f);
  }
  CHECK_FALSE((layer.gate.weight == layer.shift).any());
  CHECK_THROWS_AS(make_concat_squash<float>(0, 5, Initialisation::he_normal, 1, 5), invalid_argument);
}
