// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/matching/times.hpp>
#include <limits>
#include <numbers>
#include <vector>

#include "../catch.hpp"

using diffeo::invalid_argument;
using diffeo::LogitNormalTimes;
using diffeo::TimeFunction;
using diffeo::Times;
using diffeo::UniformTimes;
using diffeo::detail::check_times;
using diffeo::detail::normal_quantile;
using diffeo::detail::time_of;
using diffeo::detail::TimePlan;

TEST_CASE("normal quantile: the inverse of the distribution function", "[matching]") {
  for (const double p : {1e-300, 1e-20, 1e-7, 0.001, 0.02424, 0.02426, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1 - 1e-9}) {
    CAPTURE(p);
    CHECK(0.5 * std::erfc(-normal_quantile(p) / std::numbers::sqrt2) == Approx(p).epsilon(1e-12));
  }
  CHECK(normal_quantile(0.5) == 0);
  CHECK(normal_quantile(0.975) == Approx(1.959963984540054).epsilon(1e-14));
}

TEST_CASE("matching times: distributions", "[matching]") {
  CHECK(time_of(UniformTimes{}, 0.3) == 0.3);
  CHECK(time_of(TimeFunction([](double u) { return u * u; }), 0.3) == Approx(0.09));
  const Times logit = LogitNormalTimes{.mean = 0.4, .scale = 0.8};
  for (const double u : {0.01, 0.3, 0.9}) {
    const double t = time_of(logit, u);
    // The distribution function at t.
    const double z = (std::log(t / (1 - t)) - 0.4) / 0.8;
    CHECK(0.5 * std::erfc(-z / std::numbers::sqrt2) == Approx(u));
  }
  for (const Times& times : {Times(UniformTimes{}), logit}) {
    CHECK(time_of(times, 0) == 0);
    CHECK(time_of(times, 1) == 1);
  }
}

TEST_CASE("matching times: strata and antithetic pairs", "[matching]") {
  const double u = 0.3;
  const auto numbers = [u](const TimePlan& plan) {
    std::vector<double> all;
    for (std::ptrdiff_t row = 0; row < plan.count; ++row) all.push_back(plan.number(row, u));
    return all;
  };
  CHECK(numbers({.antithetic = false, .stratified = false, .count = 3}) == std::vector<double>{u, u, u});
  for (const std::ptrdiff_t count : {1, 2, 7, 8})
    for (const bool antithetic : {false, true}) {
      CAPTURE(count, antithetic);
      const TimePlan plan{.antithetic = antithetic, .stratified = true, .count = count};
      std::vector<double> all = numbers(plan);
      if (antithetic)
        for (std::size_t i = 1; i < all.size(); i += 2) {
          CHECK(all[i] + all[i - 1] == Approx(1));
          CHECK(plan.index(static_cast<std::ptrdiff_t>(i)) == plan.index(static_cast<std::ptrdiff_t>(i) - 1));
        }
      // Each interval has one of them; an odd one out of pairs leaves one empty.
      std::sort(all.begin(), all.end());
      const double strata = static_cast<double>(antithetic ? 2 * ((count + 1) / 2) : count);
      for (std::size_t i = 0; i < all.size(); ++i) {
        CHECK(all[i] >= 0);
        CHECK(all[i] <= 1);
        if (i > 0) CHECK(std::floor(all[i] * strata) > std::floor(all[i - 1] * strata));
      }
    }
  const TimePlan pairs{.antithetic = true, .stratified = false, .count = 4};
  CHECK(pairs.number(2, u) == u);
  CHECK(pairs.number(3, u) == 1 - u);
}

TEST_CASE("matching times: bad input", "[matching]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(check_times(LogitNormalTimes{.mean = nan}), invalid_argument);
  for (const double scale : {0.0, -1.0, nan})
    CHECK_THROWS_AS(check_times(LogitNormalTimes{.scale = scale}), invalid_argument);
  CHECK_THROWS_AS(check_times(TimeFunction{}), invalid_argument);
  CHECK_THROWS_AS(check_times(TimeFunction([nan](double) { return nan; })), invalid_argument);
  CHECK(thrown_message<invalid_argument>([] { check_times(TimeFunction([](double u) { return 2 * u; })); }) ==
        "flow matching: the time of u = 0.51 is 1.02, expected a time between 0 and 1");
  CHECK_NOTHROW(check_times(TimeFunction([](double u) { return u * u; })));
}
