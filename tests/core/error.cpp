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

TEST_CASE("errors: what was not solved names its row, and another one when thrown again", "[error]") {
  const auto of_block = [](const diffeo::solver_error& e) { return [&e] { e.throw_for(64 + e.sample()); }; };
  const diffeo::convergence_error root("solver", 3, 0.5, 7);
  CHECK(root.sample() == 3);
  CHECK(thrown_message<diffeo::convergence_error>(of_block(root)) ==
        "solver: row 67 did not converge: residual 0.5 after 7 iterations");

  const diffeo::integration_error ode(
      "flow", 2, {.reason = "max_steps were not enough", .t = 0.25, .step = -1e-3, .error = 1.5, .stiffness = 3300});
  CHECK(
      std::string(ode.what()) ==
      "flow: row 2 was not integrated: max_steps were not enough at t = 0.25, step -0.001, error 1.5, stiffness 3300");
  try {
    of_block(ode)();
    FAIL("no exception was thrown");
  } catch (const diffeo::integration_error& e) {
    CHECK(e.solver() == "flow");
    CHECK(e.sample() == 66);
    CHECK(e.reason() == "max_steps were not enough");
    CHECK(e.t() == 0.25);
    CHECK(e.step() == -1e-3);
    CHECK(e.error() == 1.5);
    CHECK(e.stiffness() == 3300);
    CHECK(contains(e.what(), "flow: row 66 was not integrated"));
  }
}
