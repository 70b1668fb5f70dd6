// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/transport/distances.hpp>
#include <limits>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::squared_distances;

TEMPLATE_TEST_CASE("distances: sums of squared differences", "[transport]", float, double) {
  using S = TestType;
  for (const Index rows : {1, 5, 8, 37})
    for (const Index dim : {1, 2, 19}) {
      INFO("N = " << rows << ", D = " << dim);
      const Array<S> x = gaussian<S>(rows, dim, 1), y = gaussian<S>(23, dim, 2);
      const Array<S> found = squared_distances(x, y);
      REQUIRE(found.rows() == rows);
      REQUIRE(found.cols() == 23);
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < 23; ++j) {
          double sum = 0;
          for (Index d = 0; d < dim; ++d)
            sum += std::pow(static_cast<double>(x(i, d)) - static_cast<double>(y(j, d)), 2);
          CHECK(std::abs(static_cast<double>(found(i, j)) - sum) <=
                static_cast<double>(dim + 2) * static_cast<double>(std::numeric_limits<S>::epsilon()) * sum);
          CHECK(squared_distances(x.row(i), y.row(j))(0, 0) == found(i, j));
        }
    }
  // Points close to each other and far from 0: the differences are exact.
  Array<S> x(1, 2), y(1, 2);
  x << S(1000), S(-2000);
  y << S(1000.5), S(-2000.25);
  CHECK(squared_distances(x, y)(0, 0) == S(0.3125));
  const Array<S> z = gaussian<S>(9, 3, 4);
  CHECK((squared_distances(z, z).matrix().diagonal().array() == S(0)).all());
}

TEST_CASE("distances: bad input", "[transport]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const Array<double> x = gaussian<double>(4, 2, 1), none(0, 2);
  CHECK(message([&] { squared_distances(x, gaussian<double>(4, 3, 1)); }) == "squared_distances: x has 2 columns, y 3");
  CHECK(message([&] { squared_distances(none, x); }) == "squared_distances: x has no rows");
  CHECK(message([&] { squared_distances(x, none); }) == "squared_distances: y has no rows");
  CHECK(message([&] { squared_distances(Array<double>(3, 0), Array<double>(3, 0)); }) ==
        "squared_distances: x and y have no columns");
  Array<double> bad = x;
  bad(2, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(message([&] { squared_distances(x, bad); }), "squared_distances: y is nan at (row 2, column 1)"));
  Array<double> out(3, 4);
  CHECK(message([&] { diffeo::squared_distances_into<double>(view(x), view(x), view(out)); }) ==
        "squared_distances: the result is 3 x 4, expected 4 x 4");
}
