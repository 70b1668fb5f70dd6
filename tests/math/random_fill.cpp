// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <diffeo/math/random_fill.hpp>
#include <numbers>
#include <utility>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::Philox;
using diffeo::View;

namespace {

template <class S>
void fill(bool normal, View<S> x, std::uint64_t seed, std::uint64_t stream, Index first_row) {
  normal ? diffeo::fill_normal(x, seed, stream, first_row) : diffeo::fill_uniform(x, seed, stream, first_row);
}

// The definition, word by word.
template <class S>
std::uint64_t element_bits(std::uint64_t seed, std::uint64_t stream, Index row, Index column) {
  const Index group = sizeof(S) == 4 ? 64 : 32;
  const auto block = static_cast<std::uint64_t>(row / group * 16 + row % 16) | static_cast<std::uint64_t>(column) << 44;
  const auto words = Philox{seed, stream}.block(block);
  const auto run = static_cast<std::size_t>(row % group / 16);
  return sizeof(S) == 4 ? words[run] : std::uint64_t{words[2 * run + 1]} << 32 | words[2 * run];
}

double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

// Kolmogorov and Smirnov's distance times sqrt(n): above 2.2 with probability 1.3e-4.
template <class S, class F>
double kolmogorov_smirnov(std::vector<S> x, F distribution) {
  std::sort(x.begin(), x.end());
  const auto n = static_cast<double>(x.size());
  double distance = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double p = distribution(static_cast<double>(x[i])), rank = static_cast<double>(i);
    distance = std::max({distance, p - rank / n, (rank + 1) / n - p});
  }
  return distance * std::sqrt(n);
}

}  // namespace

TEMPLATE_TEST_CASE("uniform numbers are the leading bits of Philox's words", "", float, double) {
  using S = TestType;
  const Index first = 77;
  Array<S> x(300, 3);
  diffeo::fill_uniform(diffeo::view(x), 0x123456789ABCDEF0, 0xFEDCBA9876543210, first);
  bool same = true;
  for (Index j = 0; j < x.cols(); ++j)
    for (Index i = 0; i < x.rows(); ++i) {
      const auto bits = element_bits<S>(0x123456789ABCDEF0, 0xFEDCBA9876543210, first + i, j);
      const double expected =
          sizeof(S) == 4 ? static_cast<double>(bits >> 8) * 0x1p-24 : static_cast<double>(bits >> 11) * 0x1p-53;
      same = same && static_cast<double>(x(i, j)) == expected;
    }
  CHECK(same);
}

TEMPLATE_TEST_CASE("normal numbers follow Box and Muller's formula", "", float, double) {
  using S = TestType;
  constexpr bool single = sizeof(S) == 4;
  const Index group = single ? 64 : 32;
  Array<S> x(group * 4, 2);
  diffeo::fill_normal(diffeo::view(x), 8, 1);
  double worst = 0;
  for (Index j = 0; j < x.cols(); ++j)
    for (Index i = 0; i < x.rows(); ++i) {
      if (i % 32 >= 16) continue;
      const auto a = element_bits<S>(8, 1, i, j), b = element_bits<S>(8, 1, i + 16, j);
      const int width = single ? 32 : 64;
      const double u =
          single ? static_cast<double>(a >> 1) * 0x1p-31 + 0x1p-32 : 1 - static_cast<double>(a >> 12) * 0x1p-52;
      const std::uint64_t rest = (b << 2) & (single ? 0xFFFFFFFF : ~std::uint64_t{0});
      const double turn = std::ldexp(static_cast<double>(rest), -width);  // of a quarter circle
      const double angle = single ? (turn < 0.5 ? turn : turn - 1) : turn - 0.5;
      const double radius = ((b >> (width - 1)) & 1 ? -1 : 1) * std::sqrt(-2 * std::log(u));
      double first = std::cos(angle * std::numbers::pi / 2), second = std::sin(angle * std::numbers::pi / 2);
      if ((b >> (width - 2)) & 1) std::swap(first, second);
      worst = std::max({worst, std::abs(static_cast<double>(x(i, j)) - radius * first),
                        std::abs(static_cast<double>(x(i + 16, j)) - radius * second)});
    }
  // u near 1 in float loses what a rounding to 24 bits takes away.
  CHECK(worst < (single ? 2e-4 : 1e-9));
}

TEMPLATE_TEST_CASE("an element depends on its row, column, seed and stream alone", "", float, double) {
  using S = TestType;
  const std::uint64_t seed = 11, stream = 3;
  for (const bool normal : {false, true}) {
    Array<S> whole(500, 5);
    fill<S>(normal, diffeo::view(whole), seed, stream, 0);
    bool same = true;
    // Blocks of any extent, place and alignment, with a gap between columns that must stay as it was.
    for (const Index rows : {1, 2, 15, 16, 17, 63, 64, 65, 130}) {
      for (Index first = 0; first + rows <= whole.rows(); first += 37) {
        for (const Index shift : {0, 1, 3}) {
          const Index stride = rows + 3;
          std::vector<S> memory(static_cast<std::size_t>(stride * 5 + shift), S(9));
          const View<S> part{memory.data() + shift, rows, 5, stride};
          fill<S>(normal, part, seed, stream, first);
          for (Index j = 0; j < 5; ++j) {
            same = same && same_bits(part.col(j), whole.data() + j * whole.rows() + first, rows);
            for (Index i = rows; i < stride && shift + j * stride + i < static_cast<Index>(memory.size()); ++i)
              same = same && part.col(j)[i] == 9;
          }
        }
      }
    }
    CHECK(same);
    Array<S> other(500, 5);
    fill<S>(normal, diffeo::view(other), seed + 1, stream, 0);
    CHECK((other == whole).count() < 5);
    fill<S>(normal, diffeo::view(other), seed, stream + 1, 0);
    CHECK((other == whole).count() < 5);
    fill<S>(normal, diffeo::view(other), seed, stream, Index{1} << 40);
    CHECK((other == whole).count() < 5);
    for (const Index row : {0, 63, 499}) {
      const S one = normal ? diffeo::normal<S>(seed, stream, row, 4) : diffeo::uniform<S>(seed, stream, row, 4);
      CHECK(one == whole(row, 4));
    }
  }
}

TEMPLATE_TEST_CASE("moments and distribution of normal numbers", "", float, double) {
  using S = TestType;
  Array<S> x(100000, 4);
  diffeo::fill_normal(diffeo::view(x), 2024);
  const Array<double> d = x.template cast<double>();
  const double n = static_cast<double>(d.size());
  // Five standard errors each.
  CHECK(std::abs(d.mean()) < 5 / std::sqrt(n));
  CHECK(std::abs(d.square().mean() - 1) < 5 * std::sqrt(2 / n));
  CHECK(std::abs(d.cube().mean()) < 5 * std::sqrt(15 / n));
  CHECK(std::abs(d.square().square().mean() - 3) < 5 * std::sqrt(96 / n));
  CHECK(d.abs().maxCoeff() > 4);
  CHECK(d.abs().maxCoeff() < 7);
  CHECK(kolmogorov_smirnov(std::vector<S>(x.data(), x.data() + x.size()), normal_distribution) < 2.2);
  // Columns, the two numbers of a pair, and their squares are uncorrelated.
  const auto correlation = [](const Array<double>& a, const Array<double>& b) {
    return std::abs((a * b).mean()) * std::sqrt(static_cast<double>(a.size()));
  };
  const Index rows = d.rows() - 16;
  CHECK(correlation(d.col(0), d.col(1)) < 5);
  CHECK(correlation(d.block(0, 0, rows, 1), d.block(16, 0, rows, 1)) < 5);
  CHECK(correlation(d.block(0, 0, rows, 1).square() - 1, d.block(16, 0, rows, 1).square() - 1) < 10);
}

TEMPLATE_TEST_CASE("uniform numbers fill the unit interval without its end", "", float, double) {
  using S = TestType;
  Array<S> x(100000, 4);
  diffeo::fill_uniform(diffeo::view(x), 99);
  CHECK(x.minCoeff() >= 0);
  CHECK(x.minCoeff() < S(1e-4));
  CHECK(x.maxCoeff() < 1);
  CHECK(x.maxCoeff() > S(1 - 1e-4));
  CHECK(kolmogorov_smirnov(std::vector<S>(x.data(), x.data() + x.size()), [](double p) { return p; }) < 2.2);
}

TEST_CASE("rows and columns out of range are refused") {
  float value = 0;
  const View<float> one{&value, 1, 1, 1};
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { diffeo::fill_normal(one, 1, 0, -1); }),
                 "fill_normal: rows -1"));
  CHECK_THROWS_AS(diffeo::fill_uniform(one, 1, 0, Index{1} << 44), diffeo::invalid_argument);
  CHECK_THROWS_AS(diffeo::normal<float>(1, 0, 0, Index{1} << 20), diffeo::invalid_argument);
  CHECK_NOTHROW(diffeo::fill_normal(one, 1, 0, (Index{1} << 44) - 1));
  CHECK_NOTHROW(diffeo::fill_normal(View<float>{nullptr, 0, 3, 0}, 1));
}
