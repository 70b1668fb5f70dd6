// SPDX-License-Identifier: MIT
#include <array>
#include <cmath>
#include <diffeo/math/simd.hpp>
#include <limits>
#include <vector>

#include "../catch.hpp"

namespace simd = diffeo::simd;
using diffeo::Index;

namespace {

template <class S>
constexpr std::size_t width = static_cast<std::size_t>(simd::lanes<S>);

// Numbers of both signs, distinct, none an integer.
template <class S>
S number(std::size_t i) {
  return static_cast<S>(i % 2 ? 1 : -1) * (static_cast<S>(i) + S(0.25));
}

template <class S>
std::array<S, width<S>> elements(simd::Vec<S> v) {
  std::array<S, width<S>> a;
  simd::store<S>(a.data(), v);
  return a;
}

template <class S>
simd::Vec<S> numbers(std::size_t first = 0) {
  std::array<S, width<S>> a;
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = number<S>(first + i);
  return simd::load<S>(a.data());
}

}  // namespace

TEMPLATE_TEST_CASE("registers: whole and partial loads and stores", "[simd]", float, double) {
  using S = TestType;
  static_assert(simd::register_bytes == width<S> * sizeof(S));
  std::vector<S> from(width<S>), to(width<S>);
  for (std::size_t i = 0; i < width<S>; ++i) from[i] = number<S>(i);
  simd::store<S>(to.data(), simd::load<S>(from.data()));
  CHECK(to == from);
  for (std::size_t n = 0; n <= width<S>; ++n) {
    // The vector's own end is where the address sanitizer would see a read beyond n.
    const std::vector<S> few(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(n));
    const auto v = elements<S>(simd::load<S>(few.data(), static_cast<Index>(n)));
    for (std::size_t i = 0; i < width<S>; ++i) CHECK(v[i] == (i < n ? from[i] : S(0)));
    std::vector<S> out(n);
    simd::store<S>(out.data(), simd::load<S>(from.data()), static_cast<Index>(n));
    CHECK(out == few);
  }
}

TEMPLATE_TEST_CASE("registers: broadcast keeps every bit", "[simd]", float, double) {
  using S = TestType;
  const S inf = std::numeric_limits<S>::infinity();
  for (const S x : {S(1.5), S(-0.0), S(0), inf, -inf, std::numeric_limits<S>::denorm_min()})
    for (const S lane : elements<S>(simd::broadcast<S>(x))) {
      CHECK(lane == x);
      CHECK(std::signbit(lane) == std::signbit(x));
    }
  for (const S lane : elements<S>(simd::broadcast<S>(std::numeric_limits<S>::quiet_NaN()))) CHECK(std::isnan(lane));
}

TEMPLATE_TEST_CASE("registers: elementary functions", "[simd]", float, double) {
  using S = TestType;
  const auto a = numbers<S>(), b = numbers<S>(3), c = numbers<S>(8);
  for (std::size_t i = 0; i < width<S>; ++i) {
    const S x = number<S>(i), y = number<S>(3 + i), z = number<S>(8 + i);
    CHECK(elements<S>(simd::mul_add<S>(a, b, c))[i] == Approx(x * y + z).epsilon(1e-6));
    CHECK(elements<S>(simd::min<S>(a, b))[i] == std::min(x, y));
    CHECK(elements<S>(simd::max<S>(a, b))[i] == std::max(x, y));
    CHECK(elements<S>(simd::abs<S>(a))[i] == std::abs(x));
    CHECK(elements<S>(simd::copy_sign<S>(a, b))[i] == std::copysign(x, y));
    CHECK(elements<S>(simd::sqrt<S>(simd::abs<S>(a)))[i] == std::sqrt(std::abs(x)));
  }
  CHECK(std::isnan(elements<S>(simd::sqrt<S>(simd::broadcast<S>(-1)))[0]));
  const auto nan = simd::broadcast<S>(std::numeric_limits<S>::quiet_NaN()), one = simd::broadcast<S>(1);
  CHECK(elements<S>(simd::max<S>(nan, one))[0] == 1);
  CHECK(std::isnan(elements<S>(simd::max<S>(one, nan))[0]));
  CHECK(elements<S>(simd::min<S>(nan, one))[0] == 1);
  CHECK(std::isnan(elements<S>(simd::min<S>(one, nan))[0]));
}

TEMPLATE_TEST_CASE("registers: a square is transposed", "[simd]", float, double) {
  using S = TestType;
  simd::Vec<S> square[width<S>];
  for (std::size_t i = 0; i < width<S>; ++i) square[i] = numbers<S>(i * width<S>);
  simd::transpose<S>(square);
  for (std::size_t i = 0; i < width<S>; ++i)
    for (std::size_t j = 0; j < width<S>; ++j) CHECK(elements<S>(square[i])[j] == number<S>(j * width<S> + i));
}

TEMPLATE_TEST_CASE("registers: sums of lanes", "[simd]", float, double) {
  using S = TestType;
  S expected = 0;
  for (std::size_t i = 0; i < width<S>; ++i) expected += number<S>(i);
  CHECK(simd::sum<S>(numbers<S>()) == Approx(expected).epsilon(1e-6));
  simd::Vec<S> rows[width<S>];
  for (std::size_t i = 0; i < width<S>; ++i) rows[i] = numbers<S>() * static_cast<S>(i + 1);
  const auto sums = elements<S>(simd::sum_lanes<S>(rows));
  for (std::size_t i = 0; i < width<S>; ++i) CHECK(sums[i] == Approx(expected * static_cast<S>(i + 1)).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("registers: transform maps runs of any length", "[simd]", float, double) {
  using S = TestType;
  for (std::size_t n = 0; n < 3 * width<S> + 2; ++n) {
    std::vector<S> x(n), y(n), z(n, S(-1));
    for (std::size_t i = 0; i < n; ++i) {
      x[i] = number<S>(i);
      y[i] = number<S>(i + 5);
    }
    simd::transform<S>(
        static_cast<Index>(n), z.data(), [](auto a, auto b) { return a - b; }, x.data(), y.data());
    for (std::size_t i = 0; i < n; ++i) REQUIRE(z[i] == x[i] - y[i]);
  }
}

TEMPLATE_TEST_CASE("registers: doubles from either scalar", "[simd]", float, double) {
  using S = TestType;
  constexpr std::size_t n = width<double>;
  for (std::size_t count = 0; count <= n; ++count) {
    std::vector<S> few;
    for (std::size_t i = 0; i < count; ++i) few.push_back(number<S>(i) / S(3));
    const auto v = elements<double>(count == n ? simd::load_double<S>(few.data())
                                               : simd::load_double<S>(few.data(), static_cast<Index>(count)));
    for (std::size_t i = 0; i < n; ++i) CHECK(v[i] == (i < count ? static_cast<double>(few[i]) : 0));
  }
}

TEMPLATE_TEST_CASE("registers: lanes rotated", "[simd]", float, double) {
  using S = TestType;
  const auto check = [](auto moved, std::size_t shift) {
    for (std::size_t i = 0; i < width<S>; ++i) CHECK(moved[i] == number<S>((i + shift) % width<S>));
  };
  check(elements<S>(simd::rotate<S, 1>(numbers<S>())), 1);
  check(elements<S>(simd::rotate<S, simd::lanes<S> / 2>(numbers<S>())), width<S> / 2);
}

TEMPLATE_TEST_CASE("registers: the smallest lane", "[simd]", float, double) {
  using S = TestType;
  for (std::size_t least = 0; least < width<S>; ++least) {
    std::array<S, width<S>> a;
    simd::IntVec<S> integers{};
    for (std::size_t i = 0; i < a.size(); ++i) {
      const std::size_t rank = (i + width<S> - least) % width<S>;
      a[i] = static_cast<S>(rank) - S(2.5);
      integers[static_cast<int>(i)] = static_cast<simd::integer_t<S>>(rank) - 3;
    }
    for (const S lane : elements<S>(simd::min_lane<S>(simd::load<S>(a.data())))) CHECK(lane == S(-2.5));
    const simd::IntVec<S> smallest = simd::min_lane_integer<S>(integers);
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(smallest[static_cast<int>(i)] == -3);
  }
}
