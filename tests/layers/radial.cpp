// SPDX-License-Identifier: MIT
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/radial.hpp>

#include "laws.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::Radial;

static_assert(diffeo::Flow<Radial<float>>);
static_assert(diffeo::Flow<Radial<double>>);
static_assert(diffeo::HasForward<Radial<double>, diffeo::Dual<diffeo::Var<double>>>);
static_assert(diffeo::HasInverse<Radial<double>, diffeo::Dual<diffeo::Var<double>>>);

TEMPLATE_TEST_CASE("radial: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  for (const Index dim : {1, 2, 5}) {
    require_laws("D = " + std::to_string(dim), randomised(diffeo::make_radial<S>(dim), std::uint64_t(dim), 1.0));
    require_laws(
        "8 layers, D = " + std::to_string(dim),
        randomised(diffeo::repeat(8, [&](Index) { return diffeo::make_radial<S>(dim); }), std::uint64_t(dim), 1.0));
  }
}

TEST_CASE("radial by hand", "[layers]") {
  // alpha = 1, beta = 2: at r = 1 the point moves from r to r (1 + 2 / 2) = 2 r.
  Radial<double> layer{Array<double>(1, 2), Array<double>(1, 1), Array<double>(1, 1)};
  layer.centre << 1, -1;
  layer.raw_alpha << std::log(std::expm1(1.0));
  layer.raw_kappa << std::log(std::expm1(3.0));
  Array<double> z(2, 2), expected(2, 2), log_det(2, 1);
  z << 1.6, -0.2, 1, -1;
  expected << 2.2, 0.6, 1, -1;
  log_det << std::log(2 * (2 - 2.0 / 4)), std::log(9.0);
  const auto x = diffeo::forward(layer, z);
  CHECK((x.value - expected).abs().maxCoeff() < 1e-15);
  CHECK((x.log_det - log_det).abs().maxCoeff() < 1e-15);
  const auto back = diffeo::inverse(layer, x.value);
  CHECK((back.value - z).abs().maxCoeff() < 1e-15);
  CHECK((back.log_det + log_det).abs().maxCoeff() < 1e-15);
}

TEMPLATE_TEST_CASE("radial: the inverse of strong contraction and expansion", "[layers]", float, double) {
  using S = TestType;
  for (const double alpha : {-12.0, 0.5, 30.0})
    for (const double kappa : {-12.0, 0.5, 30.0})
      for (const Index dim : {1, 3}) {
        INFO("raw alpha " << alpha << ", raw kappa " << kappa << ", D = " << dim);
        const Radial<S> layer{Array<S>::Zero(1, dim), Array<S>::Constant(1, 1, S(alpha)),
                              Array<S>::Constant(1, 1, S(kappa))};
        Array<S> x = diffeo::testing::detail::normal_array<S>(300, dim, 1, 1);
        for (Index i = 0; i < x.rows(); ++i) x.row(i) *= static_cast<S>(std::pow(10.0, double(i % 13) - 6));
        const auto z = diffeo::inverse(layer, x);
        const auto back = diffeo::forward(layer, z.value);
        const Array<double> error = (back.value - x).template cast<double>().abs(),
                            size = x.template cast<double>().abs();
        CHECK((error / size).maxCoeff() < 64 * double(std::numeric_limits<S>::epsilon()));
        CHECK((back.log_det + z.log_det).abs().maxCoeff() < 300 * std::numeric_limits<S>::epsilon());
      }
}

TEMPLATE_TEST_CASE("radial: gradients at the centre are finite", "[layers]", float, double) {
  using S = TestType;
  const auto layer = diffeo::make_radial<S>(3, 4);
  for (const bool forwards : {true, false}) {
    Array<S> values = diffeo::parameters(layer), grads(values.rows(), 1);
    diffeo::Tape<S> tape;
    const auto lifted = diffeo::lift(tape, layer, values.data(), grads.data());
    Array<S> at = layer.centre.replicate(2, 1);
    at(1, 0) += 1;
    const auto x = tape.variable(at);
    const diffeo::Dual<diffeo::Var<S>> dual{x, tape.variable(Array<S>::Ones(2, 3))};
    const auto y = forwards ? lifted.forward(dual) : lifted.inverse(dual);
    const Array<S> seed = Array<S>::Ones(2, 3), seed1 = Array<S>::Ones(2, 1);
    tape.backward(y.value.value, diffeo::view(seed));
    tape.backward(y.log_det.value, diffeo::view(seed1));
    tape.backward(y.value.tangent, diffeo::view(seed));
    tape.backward(y.log_det.tangent, diffeo::view(seed1));
    CHECK(diffeo::as_eigen(x.grad()).allFinite());
    CHECK(grads.allFinite());
    CHECK(diffeo::as_eigen(y.value.tangent.value()).allFinite());
  }
}

TEST_CASE("radial: bad input", "[layers]") {
  using diffeo::invalid_argument;
  auto layer = diffeo::make_radial<float>(3);
  diffeo::Tape<float> tape;
  const auto x = tape.copy(Array<float>::Zero(4, 2));
  CHECK(thrown_message<invalid_argument>([&] { layer.forward(x); }) ==
        "radial: x has 2 columns, this layer has dimension 3");
  CHECK(thrown_message<invalid_argument>([&] { layer.inverse(x); }) ==
        "radial: x has 2 columns, this layer has dimension 3");
  CHECK(contains(thrown_message<invalid_argument>([] { diffeo::make_radial<float>(0); }), "make_radial: dimension 0"));
  const auto y = tape.copy(Array<float>::Zero(4, 3));
  layer.raw_kappa(0, 0) = -200;
  CHECK(contains(thrown_message<invalid_argument>([&] { layer.forward(y); }), "alpha + beta 0, expected > 0"));
  layer.raw_alpha.resize(1, 2);
  CHECK(contains(thrown_message<invalid_argument>([&] { layer.inverse(y); }), "1 x 2 and 1 x 1"));
}

TEMPLATE_TEST_CASE("radial: numbers whose squares overflow", "[layers]", float, double) {
  using S = TestType;
  const S far = std::numeric_limits<S>::max() / 1000;
  for (const Index dim : {1, 2, 5}) {
    const auto layer = randomised(diffeo::make_radial<S>(dim, 4), 3);
    const Array<S> x = Array<S>::Random(20, dim) * far;
    const auto there = diffeo::forward(layer, x), back = diffeo::inverse(layer, there.value);
    CHECK(there.log_det.allFinite());
    CHECK((there.log_det + back.log_det).abs().maxCoeff() <= S(1e-5));
    CHECK(((back.value - x) / far).abs().maxCoeff() <= S(1e-6));
    CHECK(diffeo::inverse(layer, x).value.allFinite());
  }
}

TEMPLATE_TEST_CASE("radial: a layer given a context is the one with shifted parameters", "[layers]", float, double) {
  using S = TestType;
  auto layer = diffeo::make_radial<S>(3, 1, 2, 2, {.hidden = {5}, .last_scale = 1});
  const Array<S> x = diffeo::testing::detail::normal_array<S>(70, 3, 1, 1),
                 c = diffeo::testing::detail::normal_array<S>(70, 2, 1, 2);
  diffeo::Tape<S> tape;
  diffeo::Pass<S> pass;
  pass.context = tape.copy(c);
  const auto forward = layer.forward(tape.copy(x), pass), inverse = layer.inverse(tape.copy(x), pass);
  const Array<S> shifts = as_eigen(layer.shift.network[0](pass.context).value());
  for (Index n = 0; n < 70; ++n) {
    CAPTURE(n);
    const auto shift = [&](Index k) {
      const double by = double(shifts(n, k));
      return static_cast<S>(by / std::sqrt(1 + by * by / 64));
    };
    const Radial<S> plain{layer.centre + shifts.row(n).leftCols(3), layer.raw_alpha + shift(3),
                          layer.raw_kappa + shift(4)};
    const auto same = [n](const auto& results, const auto& own) {
      constexpr S near = 100 * std::numeric_limits<S>::epsilon();
      CHECK((as_eigen(results.value.value()).row(n) - own.value).abs().maxCoeff() < near);
      CHECK(std::abs(as_eigen(results.log_det.value())(n, 0) - own.log_det(0, 0)) < near);
    };
    same(forward, diffeo::forward(plain, Array<S>(x.row(n))));
    same(inverse, diffeo::inverse(plain, Array<S>(x.row(n))));
  }
}

TEMPLATE_TEST_CASE("radial: alpha and kappa are positive for every context", "[layers]", float, double) {
  using S = TestType;
  auto layer = diffeo::make_radial<S>(2, 1, 0, 1);
  // Outputs [0, 0, +-c, +-c] at c, for the shifts of alpha and kappa.
  auto& network = layer.shift.network[0];
  network = diffeo::make_mlp<S>(1, 4, {.hidden = {}}, 1);
  network.layers[0].weight.setZero();
  network.layers[0].bias.setZero();
  Array<S> c(9, 1);
  c << 0, 1, -1, 100, -100, S(1e6), S(-1e6), S(1e18), S(-1e18);
  const Array<S> x = diffeo::testing::detail::normal_array<S>(9, 2, 1, 1);
  for (const S of_kappa : {S(1), S(-1)}) {
    network.layers[0].weight(2, 0) = 1;
    network.layers[0].weight(3, 0) = of_kappa;
    diffeo::Tape<S> tape;
    const auto context = tape.variable(c), from = tape.variable(x);
    diffeo::Pass<S> pass;
    pass.context = context;
    const auto z = layer.inverse(from, pass), back = layer.forward(z.value, pass);
    CHECK(as_eigen(z.log_det.value()).allFinite());
    // Rounding of z, of size eps, is expanded by up to kappa / alpha; log_det changes by up to 2 / alpha + 2 / kappa.
    for (Index n = 0; n < 9; ++n) {
      CAPTURE(n, double(of_kappa));
      const double shift = double(c(n, 0)) / std::sqrt(1 + double(c(n, 0)) * double(c(n, 0)) / 64);
      const double alpha = std::log1p(std::exp(double(layer.raw_alpha(0, 0)) + shift)),
                   kappa = std::log1p(std::exp(double(layer.raw_kappa(0, 0)) + double(of_kappa) * shift));
      const double rounding = 8 * double(std::numeric_limits<S>::epsilon());
      CHECK(double((as_eigen(back.value.value()).row(n) - x.row(n)).abs().maxCoeff()) < rounding * (1 + kappa / alpha));
      CHECK(std::abs(double(as_eigen((back.log_det + z.log_det).value())(n, 0))) <
            rounding * (1 + 2 / alpha + 2 / kappa));
    }
    // The farthest contexts have the limits: raw values 8 from those of the layer.
    for (const Index n : {7, 8}) {
      const S by = n == 7 ? 8 : -8;
      const Radial<S> limit{layer.centre, layer.raw_alpha + by, layer.raw_kappa + by * of_kappa};
      const auto own = diffeo::inverse(limit, Array<S>(x.row(n)));
      CHECK(std::abs(as_eigen(z.log_det.value())(n, 0) - own.log_det(0, 0)) < S(1e-4));
    }
    const Array<S> one = Array<S>::Ones(1, 1);
    tape.backward(sum(z.log_det) - sum(square(z.value)) * S(0.5), diffeo::view(one));
    CHECK(as_eigen(from.grad()).allFinite());
    CHECK(as_eigen(context.grad()).allFinite());
  }
}

TEST_CASE("radial: contexts that do not fit are refused", "[layers]") {
  auto layer = diffeo::make_radial<float>(2, 0, 0, 3);
  diffeo::Tape<float> tape;
  const auto x = tape.copy(diffeo::testing::detail::normal_array<float>(6, 2, 1, 1));
  const auto message = [&](Index rows, Index cols) {
    return thrown_message<diffeo::invalid_argument>([&] {
      diffeo::Pass<float> pass;
      if (rows > 0) pass.context = tape.copy(diffeo::testing::detail::normal_array<float>(rows, cols, 1, 2));
      layer.forward(x, pass);
    });
  };
  CHECK(message(0, 0) == "radial: expected a context of 3 columns, got none");
  CHECK(message(6, 2) == "radial: the context has 2 columns, expected 3");
  CHECK(message(5, 3) == "radial: the context has 5 rows, expected 6 or 1");
  layer.shift.network[0] = diffeo::make_mlp<float>(3, 5, {.hidden = {}}, 1);
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { diffeo::check_structure(layer); }),
                 "the network of the context has 5 outputs, expected 4"));
}
