// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/data/toy2d_density.hpp>
#include <limits>
#include <numbers>

#include "../catch.hpp"

namespace toy = diffeo::toy2d::detail;

TEST_CASE("log of the scaled Bessel function I0", "[toy2d]") {
  // mpmath, 40 digits.
  for (const auto& [z, expected] : {std::pair{0.0, 0.0},
                                    {0.5, -0.4384502808145187},
                                    {5.0, -1.6953182241774666},
                                    {20.0, -2.4103895717557257},
                                    {29.5, -2.6068218779415614},
                                    {30.5, -2.6236339074572933},
                                    {100.0, -3.2202673100574163},
                                    {1406.25, -4.5431905456637736}})
    CHECK(toy::log_scaled_bessel_i0(z) == Approx(expected).epsilon(1e-13).margin(1e-15));
}

TEST_CASE("log of the normal probability of an interval", "[toy2d]") {
  struct Case {
    double a, b, expected;
  };
  // mpmath, 40 digits.
  for (const auto& [a, b, expected] : {Case{-0.5, 1, -0.62959563255286351},
                                       {-1000, 1000, 0},
                                       {3, 5, -6.6079385945968929},
                                       {24.9, 26.5, -314.14041276161316},
                                       {25.1, 26.5, -319.14838740588863},
                                       {38, 40, -726.55721601882013},
                                       {1000, 1002, -500007.82669481218}}) {
    CHECK(toy::log_normal_interval(a, b) == Approx(expected).epsilon(1e-12).margin(1e-14));
    CHECK(toy::log_normal_interval(-b, -a) == toy::log_normal_interval(a, b));
  }
}

TEST_CASE("adaptive quadrature in the log domain", "[toy2d]") {
  const auto no_bound = [](double, double) { return toy::infinity; };
  const auto integral = [&](auto log_f, double a, double b, int panels) {
    return toy::LogIntegral(log_f, no_bound).over(a, b, panels);
  };
  CHECK(integral([](double t) { return t; }, 0, 1, 1) == Approx(std::log(std::numbers::e - 1)).epsilon(1e-13));
  // A narrow peak, far below the range of exp.
  const auto peak = [](double t) { return -1e5 - toy::square((t - 0.3) / 1e-4) / 2; };
  CHECK(std::abs(integral(peak, 0, 1, 7) + 1e5 - std::log(1e-4 * std::sqrt(2 * toy::pi))) < 1e-9);
  const auto spike = [](double t) { return -std::abs(t - 0.3) / 1e-3; };
  CHECK(integral(spike, 0, 1, 4) == Approx(std::log(2e-3)).epsilon(1e-9));
  CHECK(integral([](double) { return -toy::infinity; }, 0, 1, 3) == -toy::infinity);
}

TEST_CASE("sums of exponentials in the log domain", "[toy2d]") {
  toy::LogSum sum;
  CHECK(sum.value() == -toy::infinity);
  sum.add(-toy::infinity);
  CHECK(sum.value() == -toy::infinity);
  for (const double term : {-2000.0, -1000.0, -1000.0, -1001.0}) sum.add(term);
  CHECK(sum.value() == Approx(-1000 + std::log(2 + std::exp(-1))).epsilon(1e-14));
}
