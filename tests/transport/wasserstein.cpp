// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/transport/wasserstein.hpp>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <vector>

#include "points.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::sliced_wasserstein2;
using diffeo::wasserstein1;
using diffeo::wasserstein2;
using diffeo::wasserstein_1d;

TEMPLATE_TEST_CASE("wasserstein: a translated set", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const double epsilon = sizeof(S) == 4 ? 1e-6 : 1e-14;
  for (const Index n : {1, 2, 50, 200}) {
    const Array<S> x = gaussian<S>(n, 3, 1);
    Array<S> moved = x.colwise().reverse();
    moved.col(0) += S(2);
    moved.col(1) -= S(3);
    moved.col(2) += S(6);
    CHECK(wasserstein2(x, moved) == Approx(7).epsilon(epsilon));
    CHECK(wasserstein1(x, moved) == Approx(7).epsilon(epsilon));
    CHECK(wasserstein2(x, x.colwise().reverse()) == 0);
  }
}

TEST_CASE("wasserstein: the best of all permutations", "[transport]") {
  const Array<double> x = gaussian<double>(7, 2, 1), y = gaussian<double>(7, 2, 2);
  std::vector<Index> order(7);
  std::iota(order.begin(), order.end(), Index{0});
  double least1 = 1e9, least2 = 1e9;
  do {
    double sum1 = 0, sum2 = 0;
    for (Index i = 0; i < 7; ++i) {
      const double distance = distance_of_rows(x, i, y, order[static_cast<std::size_t>(i)]);
      sum1 += distance / 7;
      sum2 += distance * distance / 7;
    }
    least1 = std::min(least1, sum1);
    least2 = std::min(least2, sum2);
  } while (std::next_permutation(order.begin(), order.end()));
  CHECK(wasserstein1(x, y) == Approx(least1).epsilon(1e-13));
  CHECK(wasserstein2(x, y) == Approx(std::sqrt(least2)).epsilon(1e-13));
}

TEMPLATE_TEST_CASE("wasserstein: numbers", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  // Equally many: by assignment.
  const Array<S> x = gaussian<S>(40, 1, 1), y = gaussian<S>(40, 1, 2) * S(2) + S(1);
  CHECK(wasserstein_1d(x, y, 1) == Approx(wasserstein1(x, y)).epsilon(1e-12));
  CHECK(wasserstein_1d(x, y) == Approx(wasserstein2(x, y)).epsilon(1e-12));
  // Sets of any sizes are as good as sets of equal size in which each number occurs several times.
  for (const Index n : {1, 4, 6, 40})
    for (const Index m : {1, 6, 9}) {
      const Index common = std::lcm(n, m);
      Array<S> a(common, 1), b(common, 1);
      for (Index i = 0; i < common; ++i) {
        a(i, 0) = x(i % n, 0);
        b(i, 0) = y(i % m, 0);
      }
      for (const double order : {1.0, 1.5, 2.0, 3.0}) {
        INFO(n << " and " << m << ", order " << order);
        double sum = 0;
        std::vector<double> left(a.data(), a.data() + common), right(b.data(), b.data() + common);
        std::sort(left.begin(), left.end());
        std::sort(right.begin(), right.end());
        for (std::size_t i = 0; i < left.size(); ++i) sum += std::pow(std::abs(left[i] - right[i]), order);
        CHECK(wasserstein_1d(x.topRows(n), y.topRows(m), order) ==
              Approx(std::pow(sum / static_cast<double>(common), 1 / order)).epsilon(1e-12));
      }
    }
  // Of normal distributions: W2^2 = (difference of means)^2 + (difference of standard deviations)^2.
  const Array<S> many = gaussian<S>(200000, 1, 3), others = gaussian<S>(100000, 1, 4) * S(2) + S(1);
  CHECK(wasserstein_1d(many, others) == Approx(std::sqrt(2.0)).epsilon(0.02));
}

TEMPLATE_TEST_CASE("wasserstein: slices", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  // In one dimension all directions are alike, and sets may be of different sizes.
  const Array<S> line = gaussian<S>(50, 1, 1), other = gaussian<S>(31, 1, 2) + S(1);
  CHECK(sliced_wasserstein2(line, other, 3, 1) == Approx(wasserstein_1d(line, other)).epsilon(1e-12));
  // The projections of a set that is translated by s are translated by theta . s, whose square is |s|^2 / D on average
  // and has the variance 2 (D - 1) / (D^2 (D + 2)) |s|^4.
  for (const Index dim : {2, 5}) {
    const Array<S> x = gaussian<S>(100, dim, 3);
    Array<S> moved = x.colwise().reverse();
    moved.col(0) += S(3);
    moved.col(1) += S(4);
    constexpr Index projections = 4000;
    const double square = std::pow(sliced_wasserstein2(x, moved, projections, 1), 2), d = static_cast<double>(dim);
    const double deviation = 25 * std::sqrt(2 * (d - 1) / (d * d * (d + 2)) / projections);
    CHECK(std::abs(square - 25 / d) < 4 * deviation);
    CHECK(std::abs(square - 25 / d) > 1e-9);  // they are random
  }
  const Array<S> x = gaussian<S>(130, 3, 1), y = gaussian<S>(70, 3, 2);
  const double first = sliced_wasserstein2(x, y, 20, 1, 1);
  CHECK(sliced_wasserstein2(x, y, 20, 1, 3) == first);
  CHECK(sliced_wasserstein2(x, y, 20, 2, 1) != first);
  CHECK(sliced_wasserstein2(x, x, 20, 1) == 0);
  // One slice is never longer than the distance itself.
  const Array<S> z = gaussian<S>(130, 3, 5) * S(2);
  CHECK(sliced_wasserstein2(x, z, 50, 1) < wasserstein2(x, z));
}

TEST_CASE("wasserstein: numbers at high orders and of any size", "[transport]") {
  const auto numbers = [](std::initializer_list<double> values) {
    Array<double> x(static_cast<Index>(values.size()), 1);
    std::copy(values.begin(), values.end(), x.data());
    return x;
  };
  for (const double distance : {1e-300, 1e-3, 0.1, 10.0, 1e5, 1e300})
    for (const double order : {1.0, 2.0, 50.0, 400.0, 1e5}) {
      INFO(distance << ", order " << order);
      CHECK(wasserstein_1d(numbers({0}), numbers({distance}), order) == Approx(distance).epsilon(1e-12).margin(0));
      // Half of the mass moves.
      CHECK(wasserstein_1d(numbers({0, 0}), numbers({0, distance}), order) ==
            Approx(distance * std::pow(0.5, 1 / order)).epsilon(1e-12).margin(0));
    }
  CHECK(wasserstein_1d(numbers({3, -2}), numbers({-2, 3}), 400) == 0);
}

TEST_CASE("wasserstein: bad input", "[transport]") {
  check_refusals("wasserstein1", [](const auto& x, const auto& y) { wasserstein1(x, y); });
  check_refusals("wasserstein2", [](const auto& x, const auto& y) { wasserstein2(x, y); });
  check_refusals("wasserstein_1d", [](const auto& x, const auto& y) { wasserstein_1d(x, y); });
  check_refusals("sliced_wasserstein2", [](const auto& x, const auto& y) { sliced_wasserstein2(x, y, 5, 1); });
  const auto message = [](const auto& f) { return thrown_message<diffeo::invalid_argument>(f); };
  const Array<double> x = gaussian<double>(5, 2, 1), line = x.col(0);
  CHECK(message([&] { wasserstein2(x, x.topRows(4)); }) ==
        "wasserstein2: x has 5 rows, y 4, expected equally many (sliced_wasserstein2 takes any numbers)");
  CHECK(contains(message([&] { wasserstein1(x.topRows(1), x); }), "wasserstein1: x has 1 rows, y 5"));
  CHECK(message([&] { wasserstein2(x, x * 1e200); }) == "wasserstein2: a squared distance overflows");
  CHECK(message([&] { wasserstein_1d(x, x); }) == "wasserstein_1d: x and y have 2 columns, expected 1");
  CHECK(message([&] { wasserstein_1d(line * 0 + 1e308, line * 0 - 1e308, 1); }) ==
        "wasserstein_1d: a difference overflows");
  CHECK(message([&] { sliced_wasserstein2(x, x * 1e200, 5, 1); }) ==
        "sliced_wasserstein2: a squared distance overflows");
  for (const double order : {0.5, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
    CHECK(contains(message([&] { wasserstein_1d(line, line, order); }), "wasserstein_1d: order is "));
  CHECK(message([&] { sliced_wasserstein2(x, x, 0, 1); }) ==
        "sliced_wasserstein2: projections is 0, expected at least 1");
}
