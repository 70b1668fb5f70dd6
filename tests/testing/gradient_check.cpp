// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../catch.hpp"

using namespace diffeo;
using testing::check_gradients;
using testing::check_tangent_gradients;
using testing::check_tangents;

namespace {

// x^3, with an adjoint and a tangent that may be wrong by a factor.
template <Real S>
Var<S> cube(Var<S> x, S adjoint_factor) {
  return diffeo::detail::unary(
      "cube", x, [](auto v) { return v * v * v; },
      [adjoint_factor](auto g, auto, auto v) { return g * v * v * (3 * adjoint_factor); });
}

template <class T>
struct Cubic {
  using Scalar = scalar_t<T>;
  param_t<T> a, b;
  Scalar factor = 1;

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.a, self.b);
  }
  template <class U>
  Cubic<U> rebind() const {
    return {{}, {}, factor};
  }
};

const std::vector<Array<double>> inputs() {
  return {Array<double>{{1, -2}, {0.5, 3}, {-0.7, 0.2}}, Array<double>{{0.3, 2}}};
}

}  // namespace

TEST_CASE("gradient check: passes what is right and names what is wrong", "[gradient_check]") {
  const auto op = [](double factor) { return [factor](auto x) { return x[0] * 2.0 + cube(x[1], factor); }; };
  const auto good = check_gradients(op(1.0), inputs());
  CHECK(good.max_error < 1e-8);
  for (const double factor : {1.001, 0.0, -1.0}) {
    const auto bad = check_gradients(op(factor), inputs());
    CHECK(bad.max_error > 3e-4);
    CHECK(contains(bad.where, "gradient of input 1 along direction "));
    CHECK(contains(bad.where, ", by central differences "));
  }
  CHECK(std::isinf(check_gradients(op(std::numeric_limits<double>::quiet_NaN()), inputs()).max_error));
}

TEST_CASE("gradient check: parameters of a model", "[gradient_check]") {
  const auto f = [](const auto& model, auto x) {
    const auto& like = x[0];
    return like * model.a + cube(as_var(like.tape(), model.b), model.factor);
  };
  Cubic<double> model{Array<double>{{1, 2}}, Array<double>{{0.5, -0.5}}, 1};
  const std::vector<Array<double>> x{inputs()[0]};
  CHECK(check_gradients(model, f, x).max_error < 1e-8);
  model.factor = 1.01;
  const auto bad = check_gradients(model, f, x);
  CHECK(bad.max_error > 3e-3);
  CHECK(contains(bad.where, "gradient of parameter 1 along direction "));
}

TEST_CASE("gradient check: a recorded value that differs from the plain one", "[gradient_check]") {
  const auto f = [](auto x) { return x[0].requires_grad() ? x[0] + 0.5 : x[0] + 0.0; };
  const auto bad = check_gradients(f, inputs());
  CHECK(bad.max_error == Approx(0.5));
  CHECK(contains(bad.where, "recorded value at (row "));
}

TEST_CASE("gradient check: tangents", "[gradient_check]") {
  const auto op = [](double tangent_factor) {
    return [tangent_factor](auto x) {
      auto y = exp(x[0]) * x[1];
      if constexpr (diffeo::detail::is_dual<decltype(y)>) y.tangent = y.tangent * tangent_factor;
      return y;
    };
  };
  CHECK(check_tangents(op(1), inputs()).max_error < 1e-8);
  const auto bad = check_tangents(op(1.01), inputs());
  CHECK(bad.max_error > 5e-3);
  CHECK(contains(bad.where, "tangent at (row "));
  CHECK(check_tangent_gradients(op(1), inputs()).max_error < 1e-8);
  // A wrong tangent with the gradient that belongs to it: not for this check to see.
  CHECK(check_tangent_gradients(op(1.01), inputs()).max_error < 1e-8);

  // A tangent whose own adjoint is wrong.
  const auto mixed = [](double factor) {
    return [factor](auto x) {
      if constexpr (diffeo::detail::is_dual<std::remove_cvref_t<decltype(x[0])>>)
        return std::remove_cvref_t<decltype(x[0])>{cube(x[0].value, 1.0), cube(x[0].value, factor) * x[0].tangent};
      else
        return cube(x[0], 1.0);
    };
  };
  CHECK(check_tangent_gradients(mixed(1), inputs()).max_error < 1e-8);
  const auto wrong = check_tangent_gradients(mixed(1.5), inputs());
  CHECK(wrong.max_error > 0.1);
  CHECK(contains(wrong.where, "gradient of input 0 along direction "));
}

TEST_CASE("gradient check: float, options, nothing to check", "[gradient_check]") {
  const auto op = [](auto x) { return exp(x[0]) * x[0]; };
  const std::vector<Array<float>> x{Array<float>::Random(5, 2)};
  CHECK(check_gradients(op, x).max_error < 0.01);
  CHECK(check_tangents(op, x).max_error < 0.01);
  CHECK(check_gradients(op, x, {.directions = 5, .step = 1e-2, .seed = 3}).max_error < 0.01);
  CHECK_THROWS_AS(check_gradients(op, x, {.directions = 0}), invalid_argument);
  CHECK_THROWS_AS(check_gradients(op, x, {.step = -1}), invalid_argument);
  const auto none = check_gradients(op, std::vector<Array<double>>{Array<double>(0, 2)});
  CHECK(none.max_error == 0);
  CHECK(none.where.empty());
}
