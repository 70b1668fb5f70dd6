// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/transport/pair_sums.hpp>

#include "points.hpp"

using diffeo::Array;
using diffeo::Index;

TEST_CASE("pair sums: by a double loop, on any number of threads", "[transport]") {
  const auto f = [](diffeo::simd::Vec<double> square) { return square * square + 0.25; };
  for (const Index n : {1, 2, 7, 128, 129, 300})
    for (const Index m : {1, 5, 140}) {
      INFO(n << " and " << m);
      const Array<double> x = gaussian<double>(n, 3, 1), y = gaussian<double>(m, 3, 2);
      double between = 0, within = 0;
      for (Index i = 0; i < n; ++i) {
        for (Index j = 0; j < m; ++j) between += std::pow(distance_of_rows(x, i, y, j), 4) + 0.25;
        for (Index j = 0; j < n; ++j)
          if (i != j) within += std::pow(distance_of_rows(x, i, x, j), 4) + 0.25;
      }
      const double found = diffeo::detail::sum_between(view(x), view(y), 1, f);
      CHECK(found == Approx(between).epsilon(1e-12));
      CHECK(diffeo::detail::sum_within(view(x), 1, f) == Approx(within).epsilon(1e-12).margin(1e-12));
      for (const int threads : {2, 5}) {
        CHECK(diffeo::detail::sum_between(view(x), view(y), threads, f) == found);
        CHECK(diffeo::detail::sum_within(view(x), threads, f) == diffeo::detail::sum_within(view(x), 1, f));
      }
    }
}
