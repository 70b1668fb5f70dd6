// SPDX-License-Identifier: MIT
#include <diffeo/targets/funnel.hpp>

#include "laws.hpp"
#include "quadrature.hpp"

using diffeo::targets::Funnel;

TEMPLATE_TEST_CASE("funnel: derivatives, rows apart, nothing overflows", "[targets]", DIFFEO_TEST_SCALARS) {
  check_target<TestType>(Funnel(), TestType(1), TestType(50));
  check_target<TestType>(Funnel(10), TestType(1), TestType(50));
}

TEST_CASE("funnel: log Z by quadrature, and bad dimensions", "[targets]") {
  // Along x the width goes with v: the integral is taken in x exp(-v / 2).
  const Funnel funnel;
  const auto even = [&funnel](const auto& x) {
    const auto v = cols(x, 0, 1);
    return funnel(concat(v, cols(x, 1, 1) * exp(v * 0.5))) + v * 0.5;
  };
  CHECK(log_integral(even, -30, 30, 600, -9, 9, 200) == Approx(funnel.log_z()).margin(1e-8).epsilon(0));
  CHECK(Funnel(10).log_z() == Approx(5 * std::log(2 * std::acos(-1.0)) + std::log(3.0)));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] { Funnel(1); }), "dimension 1, expected at least 2"));
}
