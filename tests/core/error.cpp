// SPDX-License-Identifier: MIT
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <limits>
#include <sstream>

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

TEST_CASE("errors: messages write text and characters as they stand", "[error]") {
  using diffeo::concat_message;
  const std::string text = "a string";
  const char* const pointer = "a pointer";
  char buffer[16] = "a buffer";
  CHECK(concat_message() == "");
  CHECK(concat_message(text, ", ", pointer, ", ", buffer, ", ", std::string_view(text).substr(2, 3)) ==
        "a string, a pointer, a buffer, str");
  CHECK(concat_message('c', static_cast<signed char>('s'), static_cast<unsigned char>('u')) == "csu");
  CHECK(concat_message(std::string("nul\0inside", 10)).size() == 10);
}

TEST_CASE("errors: messages write numbers as output streams do", "[error]") {
  const auto check = [](auto x) {
    std::ostringstream expected;
    expected << x;
    CHECK(diffeo::concat_message(x) == expected.str());
  };
  check(true);
  check(short{-3});
  check(static_cast<unsigned short>(65535));
  check(std::numeric_limits<int>::min());
  check(std::numeric_limits<unsigned>::max());
  check(std::numeric_limits<std::int64_t>::min());
  check(std::numeric_limits<std::int64_t>::max());
  check(std::numeric_limits<std::uint64_t>::max());
  check(std::numeric_limits<long long>::min());
  check(std::numeric_limits<unsigned long long>::max());
  check(std::size_t{0});
  for (const double x : {0.0, 1.0, 0.1, 1.5, 2.5e-5, 1e-4, 123456.0, 1234567.0, 999999.5, 1e6, 1e15, 0.1234567, 3300.0,
                         1e300, 5e-324, std::numeric_limits<double>::max(), std::numeric_limits<double>::infinity(),
                         std::numeric_limits<double>::quiet_NaN()})
    for (const double sign : {1, -1}) {
      check(sign * x);
      check(static_cast<float>(std::abs(x) < 1e38 ? sign * x : 1 / 3.0));
    }
  check(std::numeric_limits<float>::infinity());
  check(-std::numeric_limits<float>::quiet_NaN());
  check(std::numeric_limits<float>::denorm_min());
  CHECK(diffeo::concat_message(1234567.0, ' ', 0.1F, ' ', -std::numeric_limits<double>::infinity()) ==
        "1.23457e+06 0.1 -inf");
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
