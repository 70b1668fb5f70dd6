// SPDX-License-Identifier: MIT
#include <diffeo/data/csv.hpp>
#include <diffeo/data/dequantise.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/training/dataset.hpp>
#include <diffeo/training/fit.hpp>
#include <limits>
#include <sstream>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Dataset;
using diffeo::DiagonalNormal;
using diffeo::Index;
using diffeo::invalid_argument;

namespace {

template <class S>
Array<S> normal_pairs(Index rows) {
  Array<S> x(rows, 2);
  diffeo::fill_normal(diffeo::view(x), 3, 3);
  return x;
}

template <class S>
DiagonalNormal<S> centred_normal() {
  return {Array<S>::Zero(1, 2), Array<S>::Zero(1, 2)};
}

}  // namespace

TEST_CASE("dataset: fit refuses what float rounds to a lattice, however the data come", "[training]") {
  Array<double> exact = normal_pairs<double>(2000);
  exact.col(1) += 1e7;
  const Array<float> x = exact.cast<float>();
  auto model = centred_normal<float>();
  const auto before = diffeo::parameters(model);
  const std::string of_array = thrown_message<invalid_argument>([&] { diffeo::fit(model, exact, {.steps = 3}); });
  CHECK(contains(of_array, "fit: data: column 1 has a standard deviation of 1"));
  CHECK(contains(of_array, "Subtract an offset before the conversion, or fit in double"));
  CHECK_THROWS_AS(diffeo::fit(model, diffeo::MaximumLikelihood<float>(x), {.steps = 3}), invalid_argument);
  CHECK(contains(thrown_message<invalid_argument>([&] {
                   diffeo::fit(model, {.x = x, .names = {"mass", "time"}}, {.steps = 3});
                 }),
                 "column 1 (time) has a standard deviation"));
  CHECK((diffeo::parameters(model) == before).all());
  // Both ways out that the message names.
  auto in_double = centred_normal<double>();
  CHECK(diffeo::fit(in_double, exact, {.steps = 3}).warnings.empty());
  exact.col(1) -= 1e7;
  CHECK(diffeo::fit(model, exact, {.steps = 3}).warnings.empty());
}

TEST_CASE("dataset: contexts may be constant, but not rounded to a lattice", "[training]") {
  const Array<double> x = normal_pairs<double>(500);
  Array<double> c = Array<double>::Constant(500, 1, 4);
  CHECK_NOTHROW(diffeo::MaximumLikelihood<double>(x, c).inspect());
  const Array<float> stamps = (1.7e9 + 1e3 * x.col(0)).cast<float>();
  CHECK(contains(
      thrown_message<invalid_argument>([&] { diffeo::MaximumLikelihood<float>(x.cast<float>(), stamps).inspect(); }),
      "fit: the context: column 0 has a standard deviation of"));
}

TEST_CASE("dataset: the report warns of repeated values by the names of a file, until noise is added", "[training]") {
  std::ostringstream text;
  text << "size,class\n";
  const Array<double> noise = normal_pairs<double>(400);
  for (Index i = 0; i < noise.rows(); ++i) text << noise(i, 0) << ',' << i % 4 << '\n';
  const auto table = diffeo::parse_csv<double>(text.str());
  auto model = centred_normal<double>();
  const auto report = diffeo::fit(model, {.x = table.values, .names = table.columns}, {.steps = 5});
  REQUIRE(report.warnings.size() == 1);
  CHECK(contains(report.warnings[0], "column 1 (class) has 4 distinct values in 400 rows"));
  std::ostringstream told;
  told << report;
  CHECK(contains(told.str(), "\n  warning: column 1 (class)"));
  CHECK(diffeo::fit(model, diffeo::dequantise(table.values, {.columns = {1}}), {.steps = 5}).warnings.empty());
}

TEST_CASE("dataset: NaN and names of another number are told with the name of the column", "[training]") {
  Array<double> x = normal_pairs<double>(20);
  auto model = centred_normal<double>();
  CHECK(contains(thrown_message<invalid_argument>([&] { diffeo::fit(model, {.x = x, .names = {"a"}}); }),
                 "fit: got 1 names for 2 columns"));
  x(7, 1) = std::numeric_limits<double>::infinity();
  CHECK(contains(thrown_message<invalid_argument>([&] {
                   diffeo::fit(model, {.x = x, .names = {"a", "b"}});
                 }),
                 "fit: data is inf at (row 7, column 1 (b)), expected finite values"));
}
