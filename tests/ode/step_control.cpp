// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/ode/step_control.hpp>
#include <limits>
#include <string>

#include "../catch.hpp"

using diffeo::ode::Controller;
using diffeo::ode::Method;
using diffeo::ode::SolverOptions;
using diffeo::ode::StepController;

TEST_CASE("step control: dopri5's controllers are Hairer's", "[ode]") {
  const StepController pi(Controller::proportional_integral, 5), i(Controller::integral, 5);
  for (const double error : {0.02, 0.3, 0.9}) {
    CHECK(i.accepted(std::log(error), std::log(0.1)) == Approx(0.9 * std::pow(error, -0.2)));
    CHECK(pi.accepted(std::log(error), std::log(0.1)) ==
          Approx(0.9 * std::pow(error, -(0.2 - 0.75 * 0.04)) * std::pow(0.1, 0.04)));
  }
  CHECK(i.rejected(std::log(4.0)) == Approx(0.9 * std::pow(4.0, -0.2)));
  CHECK(pi.rejected(std::log(4.0)) == Approx(0.9 * std::pow(4.0, -0.17)));
  for (const StepController& c : {pi, i}) {
    CHECK(c.rejected(std::log(1e30)) == 0.2);
    CHECK(c.rejected(std::log(1.0001)) < 0.91);
  }
  CHECK(pi.accepted(std::log(1e-30), 0) == 10);
  CHECK(i.accepted(std::log(1e-30), 0) == 3);  // one estimate alone may be small by chance
  CHECK(StepController::log_kept(-100) == Approx(std::log(1e-4)));
  CHECK(StepController::log_kept(-0.5) == -0.5);
}

TEST_CASE("step control: the error that it leads to is a little below the tolerance", "[ode]") {
  // Where a step h has the error (h / 0.1)^q, both controllers settle at 0.9 of what would be exact or above.
  for (const int q : {2, 3, 5, 8})
    for (const Controller kind : {Controller::integral, Controller::proportional_integral}) {
      const StepController controller(kind, q);
      double h = 1e-3, before = StepController::first_log_error;
      for (int k = 0; k < 200; ++k) {
        const double log_error = q * std::log(h / 0.1);
        h *= log_error <= 0 ? controller.accepted(log_error, before) : controller.rejected(log_error);
        if (log_error <= 0) before = StepController::log_kept(log_error);
      }
      CHECK(h > 0.08);
      CHECK(h <= 0.1);
    }
}

TEST_CASE("step control: the first step", "[ode]") {
  using diffeo::ode::first_step;
  using diffeo::ode::trial_step;
  CHECK(trial_step(2, 4) == Approx(0.005));
  CHECK(trial_step(0, 4) == 1e-6);
  CHECK(trial_step(2, 0) == 1e-6);
  CHECK(first_step(0.005, 4, 0.01, 5) == Approx(std::pow(0.01 / 4, 0.2)));
  CHECK(first_step(0.005, 4, 0.05, 5) == Approx(std::pow(0.01 / 10, 0.2)));
  CHECK(first_step(1e-6, 4, 0, 5) == Approx(1e-4));  // at most 100 trial steps
  CHECK(first_step(1e-6, 0, 0, 5) == Approx(1e-6));
  CHECK(first_step(0.5, 0, 0, 5) == Approx(5e-4));
  CHECK(first_step(0.5, 1, std::nan(""), 5) > 0);
  CHECK(first_step(0.5, 1, std::numeric_limits<double>::infinity(), 5) < 0.5);
}

TEST_CASE("step control: options out of range are refused by name", "[ode]") {
  const auto refused = [](const SolverOptions& options) {
    return thrown_message<diffeo::invalid_argument>([&] { options.check("solve"); });
  };
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  CHECK_NOTHROW(SolverOptions{}.check());
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] { SolverOptions{.max_steps = 0}.check(); }),
                 "SolverOptions: max_steps is 0, expected at least 1"));
  CHECK(refused({.relative_tolerance = 0}) == "solve: the relative tolerance is 0, expected finite and greater than 0");
  CHECK(contains(refused({.relative_tolerance = -1e-3}), "the relative tolerance is -0.001"));
  CHECK(contains(refused({.relative_tolerance = nan}), "the relative tolerance is nan"));
  CHECK(contains(refused({.absolute_tolerance = 0}), "the absolute tolerance is 0"));
  CHECK(contains(refused({.absolute_tolerance = infinity}), "the absolute tolerance is inf"));
  CHECK(contains(refused({.steps = -1}), "steps is -1"));
  CHECK(contains(refused({.first_step = -1}), "first_step is -1"));
  CHECK(contains(refused({.first_step = nan}), "first_step is nan"));
  CHECK(contains(refused({.min_step = nan}), "min_step is nan"));
  CHECK(contains(refused({.min_step = 1, .max_step = 0.5}), "max_step is 0.5, expected greater than 0 and at least"));
  CHECK(contains(refused({.max_step = 0}), "max_step is 0"));
  CHECK(contains(refused({.max_step = nan}), "max_step is nan"));
  CHECK(contains(refused({.max_steps = -5}), "max_steps is -5"));
  for (const Method method : {Method::euler, Method::midpoint, Method::rk4}) {
    CHECK(contains(refused({.method = method}), "has no error estimate, expected a number of steps"));
    CHECK_NOTHROW(SolverOptions{.method = method, .steps = 1}.check());
  }
}
