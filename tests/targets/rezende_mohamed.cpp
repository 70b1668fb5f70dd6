// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/targets/rezende_mohamed.hpp>

#include "laws.hpp"
#include "quadrature.hpp"

using namespace diffeo::targets;

TEMPLATE_TEST_CASE("U1 to U4: derivatives, rows apart, nothing overflows", "[targets]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  check_target<S>(U1{}, S(2), S(50));
  check_target<S>(U2{}, S(2), S(50));
  check_target<S>(U3{}, S(2), S(50));
  check_target<S>(U4{}, S(2), S(50));
}

TEST_CASE("U1 to U4: the formulas of the table", "[targets]") {
  diffeo::Array<double> x(5, 2);
  x << 0.3, -0.2, -1.5, 1.1, 2, 0.4, 3.9, -3.2, -0.8, 2.7;
  diffeo::Tape<double> tape;
  const auto v = tape.copy(x);
  const auto s = [](double t) { return std::exp(-t * t / 2); };
  for (diffeo::Index i = 0; i < 5; ++i) {
    const double a = x(i, 0), b = x(i, 1), w1 = std::sin(2 * std::acos(-1.0) * a / 4), w2 = 3 * s((a - 1) / 0.6),
                 w3 = 3 / (1 + std::exp(-(a - 1) / 0.3));
    CHECK(-U1{}(v).value().data[i] ==
          Approx(std::pow((std::hypot(a, b) - 2) / 0.4, 2) / 2 - std::log(s((a - 2) / 0.6) + s((a + 2) / 0.6))));
    CHECK(-U2{}(v).value().data[i] == Approx(std::pow((b - w1) / 0.4, 2) / 2));
    CHECK(-U3{}(v).value().data[i] == Approx(-std::log(s((b - w1) / 0.35) + s((b - w1 + w2) / 0.35))));
    CHECK(-U4{}(v).value().data[i] == Approx(-std::log(s((b - w1) / 0.4) + s((b - w1 + w3) / 0.35))));
  }
}

TEST_CASE("U1 to U4: log Z by quadrature", "[targets]") {
  // The walls bend at +-4, which 80 cells to a unit put on edges.
  const auto by_quadrature = [](const auto& u) { return log_integral(u, -6, 6, 960, -6, 6, 960); };
  CHECK(by_quadrature(U1{}) == Approx(U1{}.log_z()).margin(1e-7).epsilon(0));
  CHECK(by_quadrature(U2{}) == Approx(U2{}.log_z()).margin(1e-5).epsilon(0));
  CHECK(by_quadrature(U3{}) == Approx(U3{}.log_z()).margin(1e-5).epsilon(0));
  CHECK(by_quadrature(U4{}) == Approx(U4{}.log_z()).margin(1e-5).epsilon(0));
  CHECK(U1{}.log_z() == Approx(1.8775).margin(5e-5).epsilon(0));  // as published
}
