// SPDX-License-Identifier: MIT
#include <diffeo/targets/banana.hpp>
#include <limits>

#include "laws.hpp"
#include "quadrature.hpp"

using diffeo::targets::Banana;

TEMPLATE_TEST_CASE("banana: derivatives, rows apart, nothing overflows", "[targets]", DIFFEO_TEST_SCALARS) {
  check_target<TestType>(Banana(), TestType(2), TestType(50));
  check_target<TestType>(Banana(1, -0.2), TestType(1), TestType(50));
}

TEST_CASE("banana: log Z by quadrature, and bad shapes", "[targets]") {
  CHECK(log_integral(Banana(), -14, 14, 400, -15, 110, 2000) == Approx(Banana().log_z()).margin(1e-8).epsilon(0));
  CHECK(log_integral(Banana(1, 0.1), -8, 8, 200, -10, 20, 300) ==
        Approx(Banana(1, 0.1).log_z()).margin(1e-8).epsilon(0));
  const auto message = [](double scale, double curvature) {
    return thrown_message<diffeo::invalid_argument>([&] { Banana(scale, curvature); });
  };
  CHECK(contains(message(0, 1), "scale is 0"));
  CHECK(contains(message(std::numeric_limits<double>::infinity(), 1), "scale is inf"));
  CHECK(contains(message(1, std::numeric_limits<double>::quiet_NaN()), "curvature is nan"));
}
