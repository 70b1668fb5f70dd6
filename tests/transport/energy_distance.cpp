// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/transport/energy_distance.hpp>
#include <numbers>

#include "points.hpp"

using diffeo::Array;
using diffeo::energy_distance;
using diffeo::Index;

TEMPLATE_TEST_CASE("energy distance: by direct sums", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto mean = [](const auto& x, const auto& y) {
    double sum = 0;
    for (Index i = 0; i < x.rows(); ++i)
      for (Index j = 0; j < y.rows(); ++j) sum += distance_of_rows(x, i, y, j);
    return sum / static_cast<double>(x.rows() * y.rows());
  };
  for (const Index n : {1, 10, 150})
    for (const Index m : {1, 33, 260})
      for (const Index dim : {1, 2, 7}) {
        INFO(n << " and " << m << " points, D = " << dim);
        const Array<S> x = gaussian<S>(n, dim, 1), y = gaussian<S>(m, dim, 2) * S(1.5) + S(0.5);
        const double expected = 2 * mean(x, y) - mean(x, x) - mean(y, y);
        CHECK(energy_distance(x, y) == Approx(expected).epsilon(1e-11));
        CHECK(energy_distance(y, x) == Approx(expected).epsilon(1e-11));
        CHECK(energy_distance(x, y, 3) == energy_distance(x, y, 1));
        CHECK(energy_distance((x + S(0)).matrix(), y) == energy_distance(x, y));
      }
}

TEST_CASE("energy distance: equal sets and closed forms", "[transport]") {
  const Array<double> x = gaussian<double>(300, 4, 1);
  CHECK(energy_distance(x, x) < 1e-13);
  CHECK(energy_distance(x, x.colwise().reverse()) < 1e-13);
  CHECK(energy_distance(x, x + 1e-3) > 1e-8);
  // Single points at distance r.
  CHECK(energy_distance(Array<double>{{1, 2}}, Array<double>{{4, 6}}) == 10);
  // Of normal distributions in one dimension with variance 1, a distance d apart: E|N(m, v)| of the differences.
  const double d = 1.5;
  const auto folded = [](double m, double v) {
    return std::sqrt(2 * v / std::numbers::pi) * std::exp(-m * m / (2 * v)) + m * std::erf(m / std::sqrt(2 * v));
  };
  const double expected = 2 * folded(d, 2) - 2 * folded(0, 2);
  const Array<double> many = gaussian<double>(4000, 1, 3), others = gaussian<double>(4000, 1, 4) + d;
  CHECK(energy_distance(many, others) == Approx(expected).epsilon(0.1));
}

TEST_CASE("energy distance: bad input", "[transport]") {
  check_refusals("energy_distance", [](const auto& x, const auto& y) { energy_distance(x, y); });
  CHECK(thrown_message<diffeo::invalid_argument>([] {
          energy_distance(Array<double>{{1e200}}, Array<double>{{-1e200}});
        }) == "energy_distance: a squared distance overflows");
}
