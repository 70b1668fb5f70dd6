// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/nn/init.hpp>

#include "../catch.hpp"

using namespace diffeo;

TEMPLATE_TEST_CASE("initialisation: means, variances and ranges", "[init]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  using enum Initialisation;
  struct Line {
    Initialisation how;
    double variance;  // for fan-in 150, fan-out 250
    bool uniform;
  };
  for (const Line& line : {Line{glorot_uniform, 2.0 / 400, true}, Line{glorot_normal, 2.0 / 400, false},
                           Line{he_uniform, 2.0 / 150, true}, Line{he_normal, 2.0 / 150, false},
                           Line{lecun_uniform, 1.0 / 150, true}, Line{lecun_normal, 1.0 / 150, false}}) {
    CAPTURE(static_cast<int>(line.how));
    Array<S> weights(250, 150);
    initialise(weights, line.how, 7, 3);
    const Array<double> w = weights.template cast<double>() / std::sqrt(line.variance);
    const double n = static_cast<double>(w.size());
    CHECK(std::abs(w.mean()) < 4 / std::sqrt(n));
    CHECK(std::abs(w.square().mean() - 1) < 4 * std::sqrt(2 / n));
    const double largest = w.abs().maxCoeff();
    if (line.uniform) {
      CHECK(largest <= std::sqrt(3.0) * (1 + 1e-6));
      CHECK(largest > std::sqrt(3.0) * 0.999);
    } else {
      CHECK(largest > 3.5);
      CHECK(largest < 6);
    }
  }
  Array<S> weights = Array<S>::Ones(3, 2);
  initialise(weights, zeros, 7, 3);
  CHECK((weights == 0).all());
}

TEMPLATE_TEST_CASE("initialisation: depends on seed and stream alone", "[init]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const auto how : {Initialisation::he_normal, Initialisation::glorot_uniform}) {
    Array<S> a(7, 5), b(7, 5), other_seed(7, 5), other_stream(7, 5);
    initialise(a, how, 1, 2);
    initialise(b, how, 1, 2);
    initialise(other_seed, how, 2, 2);
    initialise(other_stream, how, 1, 3);
    CHECK((a == b).all());
    CHECK((a != other_seed).all());
    CHECK((a != other_stream).all());
  }
}

TEST_CASE("initialisation: the usual choice for an activation", "[init]") {
  CHECK(default_initialisation(Activation::tanh) == Initialisation::lecun_normal);
  CHECK(default_initialisation(Activation::selu) == Initialisation::lecun_normal);
  CHECK(default_initialisation(Activation::relu) == Initialisation::he_normal);
  CHECK(default_initialisation(Activation::silu) == Initialisation::he_normal);
}
