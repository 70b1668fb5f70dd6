// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/data/column_checks.hpp>
#include <diffeo/data/dequantise.hpp>
#include <diffeo/math/random_fill.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::dequantise;
using diffeo::Index;
using diffeo::invalid_argument;

TEST_CASE("dequantise: noise is uniform and as wide as the spacing of each column", "[data]") {
  Array<double> x(20000, 3);
  for (Index i = 0; i < x.rows(); ++i) x.row(i) << double(i % 7), 0.25 * double(i % 5) - 3, 10.0 * double(i % 2);
  const Array<double> y = dequantise(x, {.seed = 3});
  const double spacing[] = {1, 0.25, 10};
  for (Index j = 0; j < 3; ++j) {
    INFO("column " << j);
    const Array<double> noise = (y.col(j) - x.col(j)) / spacing[j];
    CHECK(noise.minCoeff() >= -0.5);
    CHECK(noise.maxCoeff() < 0.5);
    CHECK(noise.mean() == Approx(0).margin(5 * std::sqrt(1.0 / 12 / 20000)));
    CHECK(noise.square().mean() == Approx(1.0 / 12).epsilon(0.03));
    // Rounding undoes it.
    CHECK(((noise + (x.col(j) - x.col(j).minCoeff()) / spacing[j]).round() * spacing[j] + x.col(j).minCoeff())
              .isApprox(x.col(j)));
  }
  CHECK_FALSE(diffeo::repetition_warnings(x).empty());
  CHECK(diffeo::repetition_warnings(y).empty());
}

TEST_CASE("dequantise: columns, spacing and seed are chosen", "[data]") {
  Array<float> x(100, 2);
  for (Index i = 0; i < x.rows(); ++i) x.row(i) << float(i % 3), float(i % 4);
  const Array<float> y = dequantise(x, {.columns = {1}, .spacing = {0.5}});
  CHECK((y.col(0) == x.col(0)).all());
  CHECK((y.col(1) != x.col(1)).any());
  CHECK((y.col(1) - x.col(1)).abs().maxCoeff() <= 0.25F);
  // Noise belongs to the row, the column and the seed, and any Eigen expression is taken.
  CHECK((dequantise(x).topRows(10) == dequantise(x.topRows(10))).all());
  CHECK((dequantise(x, {.seed = 1}) != dequantise(x, {.seed = 2})).any());
  CHECK((dequantise(x, {.columns = {1}}).col(1) == dequantise(x).col(1)).all());
  CHECK((dequantise(x).col(0) - x.col(0) != dequantise(x).col(1) - x.col(1)).any());
  CHECK(dequantise(Array<float>(0, 2)).rows() == 0);
}

TEST_CASE("dequantise: mistakes are named", "[data]") {
  Array<double> x(4, 2);
  x << 0, 1, 1, 1, 2, 1, 3, 1;
  const auto message = [&x](const diffeo::DequantiseOptions& options) {
    return thrown_message<invalid_argument>([&] { dequantise(x, options); });
  };
  CHECK(contains(message({.columns = {1}}), "dequantise: the values of column 1 are not multiples of a spacing"));
  CHECK(contains(message({.columns = {2}}), "dequantise: column 2, the data have 2 columns"));
  CHECK(contains(message({.columns = {-1}}), "dequantise: column -1, the data have 2 columns"));
  CHECK(contains(message({.columns = {0}, .spacing = {1, 2}}), "dequantise: got 2 spacings for 1 columns"));
  for (const double wrong : {0.0, -1.0, std::numeric_limits<double>::infinity()})
    CHECK(contains(message({.columns = {0}, .spacing = {wrong}}), "dequantise: the spacing of column 0 is"));
  x(2, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(message({}), "dequantise: data is nan at (row 2, column 1)"));
}

TEST_CASE("dequantise: only columns whose values have a spacing are changed", "[data]") {
  Array<double> x(3000, 5);
  diffeo::fill_normal(diffeo::view(x), 4, 4);
  x.col(1) = x.col(1).max(0.0);                               // zeros among other values
  x.col(2).bottomRows(1500) = x.col(2).topRows(1500).eval();  // every value twice
  for (Index i = 0; i < x.rows(); ++i)                        // a lattice of 0.1, computed in two ways
    x(i, 3) = i % 2 == 0 ? 0.1 * double(i % 13) : double(i % 13) / 10.0;
  x.col(4) = 5;
  const Array<double> y = dequantise(x);
  for (const Index j : {0, 1, 2, 4}) CHECK((y.col(j) == x.col(j)).all());
  const Array<double> noise = y.col(3) - x.col(3);
  CHECK(noise.abs().maxCoeff() < 0.0501);
  CHECK(noise.square().mean() == Approx(0.01 / 12).epsilon(0.1));
  CHECK_FALSE(diffeo::repetition_warnings(y).empty());  // of the zeros
  CHECK_THROWS_AS(dequantise(x, {.columns = {1}}), invalid_argument);

  // Noise that the scalar cannot hold is refused, and not lost.
  Array<float> large(100, 1);
  for (Index i = 0; i < 100; ++i) large(i, 0) = 2e7F + 2 * float(i % 7);
  CHECK(contains(thrown_message<invalid_argument>([&] { dequantise(large, {.columns = {0}, .spacing = {2}}); }),
                 "less than 100 steps of float"));
  CHECK_THROWS_AS(dequantise(large, {.columns = {0}}), invalid_argument);
}
