// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/autodiff/fields.hpp>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/ode/error_norm.hpp>
#include <diffeo/ode/tableau.hpp>
#include <limits>

/// Options of a solve and the choice of step sizes.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Rule for the next step size. `integral` uses the error of the current step; `proportional_integral` also that of the
/// step before, which avoids oscillating steps where stability limits them (Gustafsson 1991; Hairer, Solving ODEs II,
/// IV.2).
enum class Controller { integral, proportional_integral };

/// Returns the name of the controller.
inline const char* to_string(Controller controller) {
  return controller == Controller::integral ? "integral" : "proportional_integral";
}

/// Options of a solve.
///
/// | option             | type       | default                                                                  |
/// |--------------------|------------|--------------------------------------------------------------------------|
/// | method             | Method     | dopri5; see tableau.hpp                                                  |
/// | steps              | Index      | 0: adaptive; else that many equal steps without error control            |
/// | relative_tolerance | double     | 1e-5 per entry; unused if an ErrorControl has groups                     |
/// | absolute_tolerance | double     | 1e-6 per entry; unused if an ErrorControl has groups                     |
/// | controller         | Controller | proportional_integral                                                    |
/// | first_step         | double     | 0: size by Hairer's rule (first_step()); else the size of the first step |
/// | min_step           | double     | 0; a sample that would need a smaller step fails                         |
/// | max_step           | double     | infinity                                                                 |
/// | max_steps          | Index      | 10000 attempted steps per sample, rejected ones included                 |
///
/// integrate() refuses tolerances that are both below four epsilons of the state's type: rounding would then decide
/// which steps are accepted, and results get worse. The last step may be smaller than min_step, and up to 1 % larger
/// than the controller proposes, so that it ends at the end time. The last five options apply to adaptive solves only.
///
/// The integral controller takes a few percent fewer evaluations than the proportional-integral one, and exceeds the
/// tolerance by more. Over 200 solutions of y' = y (1 - y) for 5 units of time, at tolerances from 1e-3 to 1e-10, the
/// largest error in units of the tolerance was, integral against proportional-integral, 11 against 3 with dopri8 and at
/// most 4 against 3 with dopri5 and tsit5. Over the thousands of steps that bosh3 takes at 1e-10, errors add up: 27
/// against 23.
struct SolverOptions {
  Method method = Method::dopri5;
  Index steps = 0;
  double relative_tolerance = 1e-5;
  double absolute_tolerance = 1e-6;
  Controller controller = Controller::proportional_integral;
  double first_step = 0;
  double min_step = 0;
  double max_step = std::numeric_limits<double>::infinity();
  Index max_steps = 10000;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("method", self.method, "steps", self.steps, "relative_tolerance", self.relative_tolerance,
                            "absolute_tolerance", self.absolute_tolerance, "controller", self.controller, "first_step",
                            self.first_step, "min_step", self.min_step, "max_step", self.max_step, "max_steps",
                            self.max_steps);
  }

  /// Returns the two tolerances as a Tolerance.
  Tolerance tolerance() const { return {relative_tolerance, absolute_tolerance}; }

  /// Throws invalid_argument for an option out of range; `what` names the caller.
  void check(const char* what = "SolverOptions") const {
    require(static_cast<int>(method) >= 0 && method <= Method::dopri8, what, ": method is no ",
            static_cast<int>(method), ", which there is not");
    require(controller == Controller::integral || controller == Controller::proportional_integral, what,
            ": controller is no ", static_cast<int>(controller), ", which there is not");
    require(steps >= 0, what, ": steps is ", steps, ", expected at least 0");
    require(steps > 0 || tableau(method).adaptive(), what, ": ", tableau(method).name,
            " has no error estimate, expected a number of steps, steps is 0");
    tolerance().check(what);
    require(first_step >= 0 && std::isfinite(first_step), what, ": first_step is ", first_step,
            ", expected finite and at least 0");
    require(min_step >= 0 && std::isfinite(min_step), what, ": min_step is ", min_step,
            ", expected finite and at least 0");
    require(max_step > 0 && max_step >= min_step, what, ": max_step is ", max_step,
            ", expected greater than 0 and at least min_step, which is ", min_step);
    require(max_steps >= 1, what, ": max_steps is ", max_steps, ", expected at least 1");
  }
};

/// Step size control of Hairer (Solving ODEs I, II.4; II, IV.2; with the constants of his dopri5) for an error estimate
/// O(h^q). The next step is h 0.9 e^-alpha e_before^beta, where e and e_before are the errors of this step and the one
/// before in units of the tolerance; beta = 0.2 / q and alpha = 1 / q - 0.75 beta for the proportional-integral
/// controller, beta = 0 and alpha = 1 / q for the integral one. The factor is at least 0.2 and at most 10, or at most 3
/// for the integral controller: it relies on one estimate, which may be small by chance, and with a factor of 10 the
/// error of some samples exceeded the tolerance a hundredfold.
class StepController {
 public:
  static constexpr double safety = 0.9, smallest_factor = 0.2;
  /// Logarithm of the error that is assumed before the first step.
  static constexpr double first_log_error = -9.2103403719761836;  // log 1e-4

  StepController(Controller controller, int error_order)
      : beta_(controller == Controller::proportional_integral ? 0.2 / error_order : 0),
        alpha_(1.0 / error_order - 0.75 * beta_),
        largest_factor_(controller == Controller::proportional_integral ? 10 : 3) {}

  /// Returns the factor from an accepted step to the next step. log_error is the logarithm of its error, log_before
  /// that of the accepted step before it, as returned by log_kept().
  double accepted(double log_error, double log_before) const {
    return std::clamp(safety * std::exp(beta_ * log_before - alpha_ * log_error), smallest_factor, largest_factor_);
  }
  /// Returns the factor, at most 1, from a rejected step to the next attempt. log_error is the logarithm of its error.
  double rejected(double log_error) const {
    return std::clamp(safety * std::exp(-alpha_ * log_error), smallest_factor, 1.0);
  }
  /// Returns the value to pass as log_before at the next accepted step: log_error, bounded below.
  static double log_kept(double log_error) { return std::max(log_error, first_log_error); }

 private:
  double beta_, alpha_, largest_factor_;
};

/// Returns the size of the explicit Euler step by which the first step is found (Hairer, Solving ODEs I, II.4). norm_y
/// and norm_f are the norms of y and f at the start in units of the tolerance.
inline double trial_step(double norm_y, double norm_f) {
  return norm_y < 1e-5 || norm_f < 1e-5 ? 1e-6 : 0.01 * norm_y / norm_f;
}
/// Returns the size of the first step (Hairer, Solving ODEs I, II.4) for an error estimate O(h^error_order). `trial` is
/// the size of the Euler step of trial_step(), norm_change the norm of the change of f over it.
inline double first_step(double trial, double norm_f, double norm_change, int error_order) {
  const double slope = std::max(norm_f, norm_change / trial);
  if (!std::isfinite(slope)) return 0.01 * trial;  // f is not finite after the Euler step
  const double step = slope <= 1e-15 ? std::max(1e-6, 1e-3 * trial) : std::pow(0.01 / slope, 1.0 / error_order);
  return std::min(100 * trial, step);
}

}  // namespace diffeo::inline DIFFEO_ISA::ode
