// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstring>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/slope.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using namespace diffeo;

namespace {

constexpr Index row_counts[] = {0, 1, 7, 64, 65};

}  // namespace

TEMPLATE_TEST_CASE("slope: values are the activation's, slopes the tangents'", "[slope]", float, double) {
  using S = TestType;
  constexpr S eps = 20 * std::numeric_limits<S>::epsilon();
  for (std::size_t i = 0; i < std::size(activation_names); ++i)
    for (const Index n : row_counts) {
      const auto a = static_cast<Activation>(i);
      CAPTURE(std::string(to_string(a)), n);
      Tape<S> tape;
      const Var<S> x = tape.copy(gaussian<S>(n, 5, 0));
      const Array<S> w = gaussian<S>(3, 5, 1), b = gaussian<S>(1, 3, 2);
      const Array<S> unit = Array<S>::Ones(n, 5);
      const WithSlope<S> plain = activate_with_slope(a, x), dense = affine_with_slope(x, w, b, a);
      CHECK(same_bits(to_array(plain.value), to_array(activate(a, x))));
      CHECK(same_bits(to_array(dense.value), to_array(affine(x, w, b, a))));
      CHECK(same_bits(to_array(dense.slope), to_array(activate_with_slope(a, affine(x, w, b)).slope)));
      const Array<S> expected = to_array(activate(a, Dual<Var<S>>{x, tape.copy(unit)}).tangent);
      REQUIRE(plain.slope.rows() == n);
      if (n > 0) CHECK((to_array(plain.slope) - expected).abs().maxCoeff() < eps);
      CHECK(tape.size() == 0);
    }
}

TEST_CASE("slope: gradients are central differences", "[slope]") {
  for (std::size_t i = 0; i < std::size(activation_names); ++i)
    for (const Index n : row_counts) {
      const auto a = static_cast<Activation>(i);
      CAPTURE(std::string(to_string(a)), n);
      const std::vector in{gaussian<double>(n, 5, 0), gaussian<double>(6, 5, 1), gaussian<double>(1, 6, 2)};
      const auto check = [&](const auto& f) {
        const auto result = testing::check_gradients(f, in);
        INFO(result.where);
        CHECK(result.max_error < 1e-7);
      };
      const auto both = [](const WithSlope<double>& y) { return concat(y.value, y.slope); };
      check([&](auto x) { return both(activate_with_slope(a, x[0])); });
      check([&](auto x) { return activate_with_slope(a, x[0]).slope; });
      check([&](auto x) { return activate_with_slope(a, x[0]).value; });
      check([&](auto x) { return both(affine_with_slope(x[0], x[1], x[2], a)); });
      check([&](auto x) { return affine_with_slope(x[0], x[1], x[2], a).slope; });
      check([&](auto x) { return affine_with_slope(x[0], x[1], x[2], a).value; });
      // Results used twice, and an argument that has other uses.
      check([&](auto x) {
        const auto y = affine_with_slope(x[0] * x[0], x[1], x[2], a);
        return concat(y.value * y.slope + y.slope, x[0]);
      });
    }
}

TEMPLATE_TEST_CASE("slope: a bias with a row for each sample", "[slope]", float, double) {
  using S = TestType;
  for (std::size_t i = 0; i < std::size(activation_names); ++i)
    for (const Index n : row_counts) {
      const auto a = static_cast<Activation>(i);
      CAPTURE(std::string(to_string(a)), n);
      Tape<S> tape;
      const Var<S> x = tape.copy(gaussian<S>(n, 5, 0));
      const Array<S> w = gaussian<S>(6, 5, 1), b = gaussian<S>(1, 6, 2);
      const auto shared = affine_with_slope(x, w, b, a), each = affine_with_slope(x, w, Array<S>(b.replicate(n, 1)), a);
      CHECK(same_bits(to_array(each.value), to_array(shared.value)));
      CHECK(same_bits(to_array(each.slope), to_array(shared.slope)));
      if constexpr (std::is_same_v<S, double>) {
        const std::vector in{gaussian<double>(n, 5, 0), gaussian<double>(6, 5, 1), gaussian<double>(n, 6, 2)};
        const auto result = testing::check_gradients(
            [a](auto v) {
              const auto y = affine_with_slope(v[0], v[1], v[2], a);
              return concat(y.value, y.slope);
            },
            in);
        INFO(result.where);
        CHECK(result.max_error < 1e-7);
      }
    }
}

TEST_CASE("slope: only what wants a gradient gets one", "[slope]") {
  for (const Activation a : {Activation::tanh, Activation::silu})
    for (unsigned wanted = 0; wanted < 8; ++wanted) {
      CAPTURE(wanted, std::string(to_string(a)));
      const Array<double> arrays[] = {gaussian<double>(7, 5, 0), gaussian<double>(6, 5, 1), gaussian<double>(1, 6, 2)};
      const auto gradients = [&](unsigned mask) {
        Tape<double> tape;
        Var<double> in[3];
        for (unsigned k = 0; k < 3; ++k) in[k] = (mask >> k) & 1 ? tape.variable(arrays[k]) : tape.copy(arrays[k]);
        const auto y = affine_with_slope(in[0], in[1], in[2], a);
        REQUIRE(y.slope.requires_grad() == (mask != 0));
        REQUIRE((tape.size() > 0) == (mask != 0));
        const Array<double> seed = gaussian<double>(7, 6, 4);
        tape.backward(y.value * y.slope, view(seed));
        std::vector<Array<double>> result;
        for (unsigned k = 0; k < 3; ++k) {
          REQUIRE(in[k].has_grad() == (((mask >> k) & 1) != 0));
          result.push_back(in[k].has_grad() ? Array<double>(as_eigen(in[k].grad())) : Array<double>());
        }
        return result;
      };
      const auto all = gradients(7), some = gradients(wanted);
      for (unsigned k = 0; k < 3; ++k)
        if ((wanted >> k) & 1) CHECK(same_bits(some[k], all[k]));
    }
}

TEMPLATE_TEST_CASE("slope: a row's bits do not depend on the other rows", "[slope]", float, double) {
  using S = TestType;
  const Array<S> x = gaussian<S>(65, 5, 0), w = gaussian<S>(6, 5, 1), b = gaussian<S>(1, 6, 2);
  for (std::size_t i = 0; i < std::size(activation_names); ++i) {
    const auto result = [&](const Array<S>& at) {
      Tape<S> tape;
      const auto y = affine_with_slope(tape.copy(at), w, b, static_cast<Activation>(i));
      return to_array(concat(y.value, y.slope));
    };
    const Array<S> whole = result(x);
    for (const Index row : {0, 13, 64}) {
      CHECK(same_bits<S>(whole.row(row), result(x.row(row))));
      CHECK(same_bits<S>(whole.bottomRows(65 - row), result(x.bottomRows(65 - row))));
    }
  }
}

TEST_CASE("slope: shapes that do not fit are refused", "[slope]") {
  Tape<double> tape;
  const Var<double> x = tape.copy(gaussian<double>(7, 5, 0));
  CHECK(thrown_message<invalid_argument>([&] {
          affine_with_slope(x, gaussian<double>(6, 4, 0), gaussian<double>(1, 6, 0), Activation::tanh);
        }) == "affine: x has 5 columns, the weights are 6 x 4, the bias 1 x 6");
  CHECK(thrown_message<invalid_argument>([&] {
          affine_with_slope(x, gaussian<double>(6, 5, 0), gaussian<double>(1, 5, 0), Activation::tanh);
        }) == "affine: x has 5 columns, the weights are 6 x 5, the bias 1 x 5");
}
