// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/math/activation.hpp>
#include <string>

#include "../catch.hpp"

using namespace diffeo;
using diffeo::detail::ActivationKernel;
using diffeo::detail::CurvatureFromResult;
using diffeo::detail::SlopeFromResult;

namespace {

template <Activation A>
constexpr bool slope_follows = SlopeFromResult<ActivationKernel<float, A>>;
template <Activation A>
constexpr bool curvature_follows = CurvatureFromResult<ActivationKernel<float, A>>;

}  // namespace

// A kernel that cannot give its slope by the result has no such function: asking for it does not compile.
static_assert(slope_follows<Activation::tanh> && slope_follows<Activation::softplus> &&
              slope_follows<Activation::leaky_relu> && slope_follows<Activation::identity>);
static_assert(!slope_follows<Activation::silu> && !slope_follows<Activation::lip_swish> &&
              !slope_follows<Activation::sin>);
static_assert(curvature_follows<Activation::sin> && curvature_follows<Activation::selu>);
static_assert(!curvature_follows<Activation::silu> && !curvature_follows<Activation::lip_swish>);
static_assert(lipschitz_constant(Activation::lip_swish) < 1);

TEMPLATE_TEST_CASE("activations: all ways to a slope and a curvature agree", "[activation]", float, double) {
  using S = TestType;
  constexpr double tolerance = sizeof(S) == 4 ? 2e-6 : 4e-15;
  for (std::size_t i = 0; i < std::size(activation_names); ++i)
    diffeo::detail::with_activation<S>(static_cast<Activation>(i), [&]<class K>(K kernel) {
      for (double at = -9.987; at < 10; at += 0.0371) {
        const auto x = simd::broadcast<S>(S(at)), g = simd::broadcast<S>(3);
        const auto y = kernel.value(x);
        const auto all = kernel.derivatives(x);
        const auto same = [&](simd::Vec<S> a, simd::Vec<S> b) {
          return std::abs(double(a[0]) - double(b[0])) <= tolerance * (1 + std::abs(double(b[0])));
        };
        CAPTURE(std::string(activation_names[i]), at);
        REQUIRE(same(y, all.value));
        REQUIRE(same(kernel.times_slope(g, y, x), g * all.slope));
        if constexpr (SlopeFromResult<K>) REQUIRE(same(kernel.times_slope(g, y), g * all.slope));
        if constexpr (CurvatureFromResult<K>) REQUIRE(same(kernel.curvature(y, all.slope), all.curvature));
        REQUIRE(std::abs(double(all.slope[0])) <= kernel.lipschitz);
      }
    });
}

TEST_CASE("activations: the slope by the result is refused where it does not follow", "[activation]") {
  for (std::size_t i = 0; i < std::size(activation_names); ++i) {
    const auto a = static_cast<Activation>(i);
    int calls = 0;
    const auto ask = [&] { diffeo::detail::with_slope<float>(a, [&](auto) { ++calls; }); };
    CAPTURE(std::string(activation_names[i]));
    if (a == Activation::silu || a == Activation::lip_swish || a == Activation::sin) {
      CHECK(thrown_message<invalid_argument>(ask) ==
            "with_slope: the slope of " + std::string(activation_names[i]) + " does not follow from its result");
      CHECK(calls == 0);
    } else {
      ask();
      CHECK(calls == 1);
    }
    CHECK(diffeo::detail::slope_from_result(a) == (calls == 1));
  }
}
