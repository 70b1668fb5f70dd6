// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/targets/eight_schools.hpp>

#include "laws.hpp"

using diffeo::Index;
using diffeo::targets::EightSchools;

TEMPLATE_TEST_CASE("eight schools: derivatives, rows apart, nothing overflows", "[targets]", DIFFEO_TEST_SCALARS) {
  check_target<TestType>(EightSchools<TestType>(), TestType(1), TestType(20));
}

TEST_CASE("eight schools: the model's density", "[targets]") {
  const double pi = std::acos(-1.0);
  const auto log_normal = [pi](double x, double mean, double sd) {
    return -0.5 * std::pow((x - mean) / sd, 2) - std::log(sd) - 0.5 * std::log(2 * pi);
  };
  diffeo::Array<double> x(1, 10);
  x << 0.5, -1, 0.2, 1.5, -0.3, 0, 0.8, -2, 3, 1.2;
  const double mu = x(0, 8), tau = std::exp(x(0, 9));
  double expected = log_normal(mu, 0, 5) + std::log(2 / (pi * 5 * (1 + tau * tau / 25))) + x(0, 9);
  for (Index j = 0; j < 8; ++j) {
    const auto k = static_cast<std::size_t>(j);
    expected += log_normal(x(0, j), 0, 1) +
                log_normal(EightSchools<double>::effects[k], mu + tau * x(0, j), EightSchools<double>::errors[k]);
  }
  diffeo::Tape<double> tape;
  const EightSchools<double> target;
  CHECK(target(tape.copy(x)).value().data[0] == Approx(expected).epsilon(1e-13));
  const diffeo::Array<double> theta = EightSchools<double>::constrained(x);
  for (Index j = 0; j < 8; ++j) CHECK(theta(0, j) == Approx(mu + tau * x(0, j)));
  CHECK(theta(0, 8) == mu);
  CHECK(theta(0, 9) == Approx(tau));
}

TEST_CASE("eight schools: the evidence by quadrature over tau", "[targets]") {
  // Given tau the effects are normal around mu, and so is the prior of mu: both integrals are known.
  const double pi = std::acos(-1.0);
  double sum = 0;
  const double step = 1e-3;
  for (double log_tau = -20; log_tau < 20; log_tau += step) {
    const double tau = std::exp(log_tau);
    double precision = 1.0 / 25, weighted = 0, log_p = -0.5 * std::log(25.0);
    for (std::size_t j = 0; j < 8; ++j) {
      const double y = EightSchools<double>::effects[j],
                   variance = std::pow(EightSchools<double>::errors[j], 2) + tau * tau;
      precision += 1 / variance;
      weighted += y / variance;
      log_p -= 0.5 * (std::log(2 * pi * variance) + y * y / variance);
    }
    log_p += 0.5 * (weighted * weighted / precision - std::log(precision));
    sum += step * std::exp(log_p) * 2 / (pi * 5 * (1 + tau * tau / 25)) * tau;
  }
  CHECK(std::log(sum) == Approx(EightSchools<double>().log_z()).margin(1e-7).epsilon(0));
}
