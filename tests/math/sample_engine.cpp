// SPDX-License-Identifier: MIT
#include <diffeo/math/random_fill.hpp>
#include <diffeo/math/sample_engine.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using namespace diffeo;

namespace {}  // namespace

TEST_CASE("sample_engine: the bits follow from seed, row and weights", "[sample_engine]") {
  const Array<double> z = gaussian<double>(5, 3, 0), w = gaussian<double>(6, 2, 1);
  const auto first = [](std::uint64_t seed, const Array<double>& at, Index row, const Array<double>& weights) {
    return diffeo::detail::sample_engine<double>(seed, view(at), row, view(weights))();
  };
  const std::uint64_t bits = first(1, z, 2, w);
  CHECK(first(1, z.row(2), 0, w) == bits);
  CHECK(first(2, z, 2, w) != bits);
  CHECK(first(1, z, 3, w) != bits);
  CHECK(first(1, z, 2, -w) != bits);
  CHECK(first(1, z, 2, Array<double>()) != bits);
  Array<double> swapped = z;
  swapped.col(0) = z.col(1);
  swapped.col(1) = z.col(0);
  CHECK(first(1, swapped, 2, w) != bits);
}

TEST_CASE("sample_engine: signs and normal numbers have the moments they should", "[sample_engine]") {
  constexpr Index n = 4000;
  const Array<double> z = gaussian<double>(n, 2, 0);
  const auto draw = [&](const auto& how, Index cols) {
    Array<double> out(n, cols);
    for (Index row = 0; row < n; ++row) {
      PhiloxEngine engine = diffeo::detail::sample_engine<double>(7, view(z), row, {});
      how(engine, view(out), row);
    }
    return out;
  };
  const auto check = [&](const Array<double>& x, double fourth) {
    const double size = std::sqrt(static_cast<double>(x.rows()));
    for (Index a = 0; a < x.cols(); ++a) {
      CHECK(std::abs(x.col(a).mean()) < 4 / size);
      CHECK(std::abs(x.col(a).square().mean() - 1) <= 4 * std::sqrt(fourth - 1) / size);
      for (Index b = 0; b < a; ++b) CHECK(std::abs((x.col(a) * x.col(b)).mean()) < 4.5 / size);
    }
  };
  const Array<double> signs = draw([](auto& e, auto v, Index row) { diffeo::detail::draw_signs(e, v, row); }, 70);
  CHECK((signs.abs() == 1).all());
  check(signs, 1);
  check(draw([](auto& e, auto v, Index row) { diffeo::detail::draw_normal(e, v, row); }, 5), 3);
}
