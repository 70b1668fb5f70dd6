// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/transport/mmd.hpp>
#include <vector>

#include "points.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::median_distance;
using diffeo::squared_mmd;

TEMPLATE_TEST_CASE("mmd: by direct double loops", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const Index n : {2, 10, 150})
    for (const Index m : {2, 33, 260})
      for (const std::vector<double>& bandwidths : {std::vector<double>{0.7}, std::vector<double>{0.3, 1, 4}}) {
        INFO(n << " and " << m << " points, " << bandwidths.size() << " bandwidths");
        const Array<S> x = gaussian<S>(n, 3, 1), y = gaussian<S>(m, 3, 2) * S(1.5) + S(0.5);
        const auto mean = [&bandwidths](const auto& a, const auto& b, bool same) {
          double sum = 0;
          for (Index i = 0; i < a.rows(); ++i)
            for (Index j = 0; j < b.rows(); ++j)
              for (const double s : bandwidths)
                if (!same || i != j) sum += std::exp(-0.5 * std::pow(distance_of_rows(a, i, b, j) / s, 2));
          return sum / static_cast<double>(a.rows() * (same ? a.rows() - 1 : b.rows())) /
                 static_cast<double>(bandwidths.size());
        };
        const double expected = mean(x, x, true) + mean(y, y, true) - 2 * mean(x, y, false);
        CHECK(std::abs(squared_mmd(x, y, bandwidths) - expected) < 1e-13);
        CHECK(squared_mmd(x, y, bandwidths, 3) == squared_mmd(x, y, bandwidths, 1));
      }
}

TEST_CASE("mmd: the estimate has no bias", "[transport]") {
  // Of normal distributions with variance 1, d apart, and a bandwidth s: the kernel's mean is sqrt(v) exp(-d^2 v / (2
  // s^2)) with v = s^2 / (s^2 + 2), in one dimension.
  constexpr double d = 0.8, s = 1.1, v = s * s / (s * s + 2);
  const double expected = 2 * std::sqrt(v) * (1 - std::exp(-d * d * v / (2 * s * s)));
  constexpr int sets = 4000;
  double sum = 0, squares = 0, least = 1;
  for (int k = 0; k < sets; ++k) {
    const auto stream = static_cast<std::uint64_t>(k);
    const Array<double> x = gaussian<double>(5, 1, 2 * stream + 1), y = gaussian<double>(7, 1, 2 * stream + 2) + d;
    const std::vector<double> bandwidth = {s};
    const double value = squared_mmd(x, y, bandwidth, 1);
    sum += value;
    squares += value * value;
    least = std::min(least, value);
  }
  const double mean = sum / sets, error = std::sqrt((squares / sets - mean * mean) / sets);
  CHECK(error < 0.01);
  CHECK(std::abs(mean - expected) < 4 * error);
  CHECK(least < 0);
}

TEMPLATE_TEST_CASE("mmd: the median of distances", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const Index n : {1, 2, 9, 40})
    for (const Index m : {1, 6, 31}) {
      const Array<S> x = gaussian<S>(n, 2, 1), y = gaussian<S>(m, 2, 2) + S(1);
      Array<S> all(n + m, 2);
      all.topRows(n) = x;
      all.bottomRows(m) = y;
      std::vector<double> distances;
      for (Index i = 0; i < n + m; ++i)
        for (Index j = 0; j < i; ++j) distances.push_back(distance_of_rows(all, i, all, j));
      std::sort(distances.begin(), distances.end());
      CHECK(median_distance(x, y) == Approx(distances[distances.size() / 2]).epsilon(1e-12));
    }
  // Of many points a part: the median of |a - b| for normal a and b in the plane is 2 sqrt(log 2).
  const Array<S> x = gaussian<S>(5000, 2, 1), y = gaussian<S>(3000, 2, 2);
  CHECK(median_distance(x, y) == Approx(2 * std::sqrt(std::log(2.0))).epsilon(0.05));
  const std::vector<double> bandwidth = {median_distance(x.topRows(300), y.topRows(200))};
  CHECK(squared_mmd(x.topRows(300), y.topRows(200)) == squared_mmd(x.topRows(300), y.topRows(200), bandwidth));
}

TEST_CASE("mmd: bad input", "[transport]") {
  check_refusals("squared_mmd", [](const auto& x, const auto& y) { squared_mmd(x, y); });
  check_refusals("median_distance", [](const auto& x, const auto& y) { median_distance(x, y); });
  const auto message = [](const auto& f) { return thrown_message<diffeo::invalid_argument>(f); };
  const Array<double> x = gaussian<double>(4, 2, 1), one = x.topRows(1);
  CHECK(message([&] { squared_mmd(one, x); }) == "squared_mmd: x has 1 row, expected at least 2");
  CHECK(message([&] { squared_mmd(x, one); }) == "squared_mmd: y has 1 row, expected at least 2");
  const std::vector<double> zero = {1, 0}, tiny = {1e-200};
  CHECK(message([&] { squared_mmd(x, x, zero); }) ==
        "squared_mmd: bandwidth 1 is 0, expected finite and greater than 0");
  CHECK(contains(message([&] { squared_mmd(x, x, tiny); }), "a bandwidth is out of the range of double"));
  CHECK(message([&] { median_distance(x, x * 1e200); }) == "median_distance: a squared distance overflows");
  CHECK(message([&] { squared_mmd(x, x * 1e200); }) == "median_distance: a squared distance overflows");
  const Array<double> same = Array<double>::Ones(4, 2);
  CHECK(message([&] { squared_mmd(same, same); }) == "squared_mmd: the median distance is 0, choose a bandwidth");
}
