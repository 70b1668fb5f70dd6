// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/data/column_checks.hpp>
#include <diffeo/math/random_fill.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::repetition_warnings;
using diffeo::require_resolved_columns;

namespace {

template <class S>
Array<S> normal_columns(Index rows, Index cols, std::uint64_t seed = 1) {
  Array<S> x(rows, cols);
  diffeo::fill_normal(diffeo::view(x), seed, 0);
  return x;
}

}  // namespace

TEST_CASE("column checks: data that float rounds to a lattice are refused, with the way out", "[data]") {
  const Array<double> x = normal_columns<double>(1000, 2);
  const auto shifted = [&x](double offset, double scale = 1) {
    Array<double> y = x;
    y.col(1) = scale * y.col(1) + offset;
    return y;
  };
  const std::vector<std::string> names{"mass", "time"};
  const Array<float> lattice = shifted(1e7).cast<float>();
  const std::string message = thrown_message<invalid_argument>([&] { require_resolved_columns("fit: data", lattice); });
  CHECK(contains(message, "fit: data: column 1 has a standard deviation of 1"));
  CHECK(contains(message, "the steps of float are 1:"));
  CHECK(contains(message, "Subtract an offset before the conversion, or fit in double"));
  CHECK(contains(thrown_message<invalid_argument>([&] { require_resolved_columns("fit: data", lattice, names); }),
                 "fit: data: column 1 (time) has"));

  // The same numbers are well resolved in double, and in float once the offset is gone.
  CHECK_NOTHROW(require_resolved_columns("fit: data", shifted(1e7)));
  CHECK_NOTHROW(require_resolved_columns("fit: data", Array<float>(shifted(0).cast<float>())));
  const std::string in_double =
      thrown_message<invalid_argument>([&] { require_resolved_columns("fit: data", shifted(1e16)); });
  CHECK(contains(in_double, "the steps of double are 2"));
  CHECK_FALSE(contains(in_double, "fit in double"));

  // The bound is 1000 steps: of 2^-10 between 2^13 and 2^14.
  CHECK_NOTHROW(require_resolved_columns("fit: data", Array<float>(shifted(10000).cast<float>())));
  CHECK_THROWS_AS(require_resolved_columns("fit: data", Array<float>(shifted(10000, 0.9).cast<float>())),
                  invalid_argument);
}

TEST_CASE("column checks: any scale, outliers, and constants", "[data]") {
  for (const double scale : {1e-30, 1e-20, 1.0, 1e12, 1e30})
    CHECK_NOTHROW(
        require_resolved_columns("fit", Array<float>((normal_columns<double>(100, 3) * scale).cast<float>())));
  Array<float> outlier = normal_columns<float>(10000, 1);
  outlier(77, 0) = 1e12F;
  CHECK_NOTHROW(require_resolved_columns("fit", outlier));
  const float largest = std::numeric_limits<float>::max();
  Array<float> extreme(2, 1);
  extreme << -largest, largest;
  CHECK_NOTHROW(require_resolved_columns("fit", extreme));
  CHECK_NOTHROW(require_resolved_columns("fit", Array<float>(0, 3)));

  Array<float> constant = normal_columns<float>(10, 2);
  constant.col(0) = 3;
  CHECK(contains(thrown_message<invalid_argument>([&] { require_resolved_columns("fit: data", constant); }),
                 "fit: data: column 0 is 3 in every row"));
}

TEST_CASE("column checks: continuous data get no warning", "[data]") {
  CHECK(repetition_warnings(normal_columns<float>(5000, 3)).empty());
  CHECK(repetition_warnings(normal_columns<double>(300'000, 1)).empty());
  // Rounded to two digits, as tables are, each value occurs some ten times.
  CHECK(repetition_warnings(Array<double>((normal_columns<double>(5000, 2) * 100).round() / 100)).empty());
  CHECK(repetition_warnings(Array<float>(0, 2)).empty());
  CHECK(repetition_warnings(normal_columns<float>(1, 2)).empty());
}

TEST_CASE("column checks: few values, one frequent value and equal rows are named", "[data]") {
  Array<double> x = normal_columns<double>(4000, 3);
  for (Index i = 0; i < x.rows(); ++i) x(i, 1) = static_cast<double>(i % 4);
  auto warnings = repetition_warnings(x);
  REQUIRE(warnings.size() == 1);
  CHECK(contains(warnings[0], "column 1 has 4 distinct values in 4000 rows"));
  CHECK(contains(warnings[0], "dequantise"));
  const std::vector<std::string> names{"a", "class", "b"};
  CHECK(contains(repetition_warnings(x, names)[0], "column 1 (class) has 4"));

  // Several columns are one warning.
  for (Index i = 0; i < x.rows(); ++i) x(i, 2) = static_cast<double>(i % 9);
  warnings = repetition_warnings(x);
  REQUIRE(warnings.size() == 1);
  CHECK(contains(warnings[0], "column 1 has 4, column 2 has 9 distinct values in 4000 rows"));

  x = normal_columns<double>(4000, 3);
  for (Index i = 0; i < 1200; ++i) x(3 * i, 2) = i % 2 == 0 ? 0.0 : -0.0;
  warnings = repetition_warnings(x);
  REQUIRE(warnings.size() == 1);
  CHECK(contains(warnings[0], "column 2 is 0 in 30 % of the 4000 rows: a density has no bound there"));

  x = normal_columns<double>(4000, 3);
  x.bottomRows(400) = x.topRows(400).eval();
  warnings = repetition_warnings(x);
  REQUIRE(warnings.size() == 1);
  CHECK(contains(warnings[0], "10 % of the 4000 rows are equal to another one"));
  // Rows that share one value only are not equal.
  x = normal_columns<double>(4000, 2);
  x.bottomRows(300).col(0) = x.topRows(300).col(0).eval();
  CHECK(repetition_warnings(x).empty());

  // Of very many rows a part is looked at.
  x = normal_columns<double>(250'000, 1);
  x = x.sign();
  warnings = repetition_warnings(x);
  REQUIRE(warnings.size() == 1);
  CHECK(contains(warnings[0], "column 0 has 2 distinct values in 20000 rows that were looked at"));
}

TEST_CASE("column checks: rows are spread over data of any period", "[data]") {
  CHECK(diffeo::detail::spread_rows(5, 10) == std::vector<Index>{0, 1, 2, 3, 4});
  CHECK(diffeo::detail::spread_rows(0, 10).empty());
  const auto rows = diffeo::detail::spread_rows(1'000'000, 1000);
  REQUIRE(rows.size() == 1000);
  int even = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i] / 1000 == static_cast<Index>(i));
    even += rows[i] % 2 == 0;
  }
  CHECK(std::abs(even - 500) < 80);
  // A column that is 0 in every 50th row, which evenly spaced rows would take for constant.
  Array<double> x = normal_columns<double>(1'000'000, 1);
  for (Index i = 0; i < x.rows(); i += 50) x(i, 0) = 0;
  CHECK(repetition_warnings(x).empty());
}

TEST_CASE("column checks: a conversion is judged by the exact values", "[data]") {
  const Array<double> x = normal_columns<double>(500, 1);
  const auto message = [](const Array<double>& data) {
    return thrown_message<invalid_argument>([&] { diffeo::converted_columns<float>("fit: data", data); });
  };
  CHECK(contains(message(x + 1e9), "column 0 has a standard deviation of 1"));
  CHECK(contains(message(x * 1e300), "which is too large for float: scale it, or fit in double"));
  Array<double> infinite = x;
  infinite(3, 0) = std::numeric_limits<double>::infinity();
  CHECK(contains(message(infinite), "fit: data is inf at (row 3, column 0)"));
  CHECK((diffeo::converted_columns<float>("fit", x) == x.cast<float>()).all());
  CHECK((diffeo::converted_columns<double>("fit", x + 1e9) == x + 1e9).all());
  CHECK((diffeo::converted_columns<float>("fit", Eigen::ArrayXXi::Constant(4, 2, 7)) == 7.0F).all());
}
