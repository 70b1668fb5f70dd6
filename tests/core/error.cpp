// SPDX-License-Identifier: MIT
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Array;

static_assert(std::is_base_of_v<std::invalid_argument, diffeo::invalid_argument>);
static_assert(std::is_base_of_v<std::runtime_error, diffeo::io_error>);

TEST_CASE("errors: require puts its message together", "[error]") {
  CHECK_NOTHROW(diffeo::require(true, "never"));
  CHECK(thrown_message<diffeo::invalid_argument>([] {
          diffeo::require(false, "log_prob: x has ", 3, " columns, this flow has dimension ", 2.5, '.');
        }) == "log_prob: x has 3 columns, this flow has dimension 2.5.");
  CHECK_THROWS_AS(diffeo::require(false, "as the standard's"), std::invalid_argument);
}

TEMPLATE_TEST_CASE("errors: require_finite names the first bad entry in row order", "[error]", float, double) {
  using S = TestType;
  const S nan = std::numeric_limits<S>::quiet_NaN(), inf = std::numeric_limits<S>::infinity();
  Array<S> x = Array<S>::Constant(50, 3, std::numeric_limits<S>::max());
  CHECK_NOTHROW(diffeo::require_finite(x, "fit: data"));
  CHECK_NOTHROW(diffeo::require_finite(Array<S>(0, 3), "fit: data"));
  CHECK_NOTHROW(diffeo::require_finite(Array<S>(3, 0), "fit: data"));
  const auto message = [](const auto& data) {
    return thrown_message<diffeo::invalid_argument>([&] { diffeo::require_finite(data, "fit: data"); });
  };
  x(40, 0) = nan;
  CHECK(message(x) == "fit: data is nan at (row 40, column 0), expected finite values");
  x(7, 2) = -inf;  // an earlier row, a later column
  CHECK(message(x) == "fit: data is -inf at (row 7, column 2), expected finite values");
  x(7, 1) = inf;
  CHECK(message(x) == "fit: data is inf at (row 7, column 1), expected finite values");
  // Any expression: rows and columns are the expression's own.
  CHECK(message(x.bottomRows(20)) == "fit: data is nan at (row 10, column 0), expected finite values");
  CHECK(message((x * S(2)).transpose()) == "fit: data is inf at (row 0, column 0), expected finite values");
}
