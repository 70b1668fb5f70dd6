// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <numbers>
#include <vector>

namespace diffeo::inline DIFFEO_ISA::math {

/// Places and weights of a quadrature rule.
struct Quadrature {
  std::vector<double> places;   ///< in ascending order
  std::vector<double> weights;  ///< their sum is the length of the interval
};

/// Returns the rule of Gauss and Legendre with n places in (0, 1), which integrates polynomials of degree 2 n - 1
/// exactly. The places are the roots of a Legendre polynomial, found by Newton's method. Throws invalid_argument unless
/// 1 <= n <= 1000.
inline Quadrature gauss_legendre(Index n) {
  require(n >= 1 && n <= 1000, "gauss_legendre: n is ", n, ", expected 1 to 1000");
  Quadrature rule{std::vector<double>(static_cast<std::size_t>(n)), std::vector<double>(static_cast<std::size_t>(n))};
  for (Index i = 0; i < n; ++i) {
    double x = -std::cos(std::numbers::pi * (static_cast<double>(i) + 0.75) / (static_cast<double>(n) + 0.5));
    double slope = 1;
    for (int step = 0; step < 10; ++step) {
      // P_n and its derivative by the recurrence of three terms.
      double before = 1, value = x;
      for (Index k = 2; k <= n; ++k) {
        const auto degree = static_cast<double>(k);
        const double next = ((2 * degree - 1) * x * value - (degree - 1) * before) / degree;
        before = value;
        value = next;
      }
      slope = static_cast<double>(n) * (x * value - before) / (x * x - 1);
      x -= value / slope;
    }
    rule.places[static_cast<std::size_t>(i)] = 0.5 * (1 + x);
    rule.weights[static_cast<std::size_t>(i)] = 1 / ((1 - x * x) * slope * slope);
  }
  return rule;
}

}  // namespace diffeo::inline DIFFEO_ISA::math
