// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstddef>
#include <diffeo/math/gauss_legendre.hpp>

#include "../catch.hpp"

using diffeo::Index;
using diffeo::math::gauss_legendre;

TEST_CASE("gauss_legendre: polynomials and a smooth function", "[math]") {
  for (const Index n : {1, 2, 3, 4, 7, 16, 33, 100}) {
    INFO("n = " << n);
    const auto rule = gauss_legendre(n);
    REQUIRE(rule.places.size() == static_cast<std::size_t>(n));
    const auto integral = [&rule](const auto& f) {
      double sum = 0;
      for (std::size_t i = 0; i < rule.places.size(); ++i) sum += rule.weights[i] * f(rule.places[i]);
      return sum;
    };
    for (std::size_t i = 0; i < rule.places.size(); ++i) {
      CHECK(rule.places[i] > (i == 0 ? 0 : rule.places[i - 1]));
      CHECK(rule.places[i] < 1);
      CHECK(rule.weights[i] > 0);
    }
    for (Index degree = 0; degree <= 2 * n - 1; ++degree)
      CHECK(std::abs(integral([&](double x) { return std::pow(x, degree); }) - 1 / static_cast<double>(degree + 1)) <
            1e-13);
    // One degree more is not exact: the error is n!^4 / ((2 n + 1) (2 n)!^2).
    if (n <= 4) {
      const auto k = static_cast<double>(n);
      const double error = std::pow(std::tgamma(k + 1), 4) / ((2 * k + 1) * std::pow(std::tgamma(2 * k + 1), 2));
      CHECK(1 / (2 * k + 1) - integral([&](double x) { return std::pow(x, 2 * n); }) == Approx(error));
    }
    if (n >= 7) CHECK(integral([](double x) { return std::exp(x); }) == Approx(std::exp(1.0) - 1).epsilon(1e-13));
  }
  const auto three = gauss_legendre(3);
  CHECK(three.places[0] == Approx(0.5 - 0.5 * std::sqrt(0.6)).epsilon(1e-15));
  CHECK(three.weights[1] == Approx(4.0 / 9).epsilon(1e-14));
}

TEST_CASE("gauss_legendre: bad input", "[math]") {
  CHECK(thrown_message<diffeo::invalid_argument>([] { gauss_legendre(0); }) ==
        "gauss_legendre: n is 0, expected 1 to 1000");
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] { gauss_legendre(1001); }), "n is 1001"));
}
