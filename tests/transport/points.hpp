// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/core/error.hpp>
#include <limits>
#include <string>

#include "../arrays.hpp"
#include "../catch.hpp"

/// The distance of two rows, in double.
template <class X, class Y>
double distance_of_rows(const X& x, diffeo::Index i, const Y& y, diffeo::Index j) {
  double sum = 0;
  for (diffeo::Index d = 0; d < x.cols(); ++d)
    sum += std::pow(static_cast<double>(x(i, d)) - static_cast<double>(y(j, d)), 2);
  return std::sqrt(sum);
}

/// Checks that a metric of two sets of points refuses what are no such sets; `what` is its name in messages.
template <class Metric>
void check_refusals(const std::string& what, const Metric& metric) {
  using diffeo::Array;
  const auto message = [](const auto& f) { return thrown_message<diffeo::invalid_argument>(f); };
  const Array<double> x = gaussian<double>(4, 1, 1), wide = gaussian<double>(4, 3, 1), none(0, 1);
  CHECK(message([&] { metric(x, wide); }) == what + ": x has 1 columns, y 3");
  CHECK(message([&] { metric(none, x); }) == what + ": x has no rows");
  CHECK(message([&] { metric(x, none); }) == what + ": y has no rows");
  CHECK(message([&] { metric(Array<double>(4, 0), Array<double>(4, 0)); }) == what + ": x and y have no columns");
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Array<double> with_bad = x;
    with_bad(2, 0) = bad;
    CHECK(contains(message([&] { metric(with_bad, x); }), what + ": x is "));
    CHECK(contains(message([&] { metric(x, with_bad); }), what + ": y is "));
    CHECK(contains(message([&] { metric(x, with_bad); }), " at (row 2, column 0), expected finite values"));
  }
}
