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

/// Which steps a solve makes.
namespace diffeo::inline DIFFEO_ISA::ode {

/// From the error of a step to the next step: by this error alone, or also by the one before, which keeps steps even
/// where stability limits them (Gustafsson 1991; Hairer, Solving ODEs II, IV.2).
enum class Controller { integral, proportional_integral };

inline const char* to_string(Controller controller) {
  return controller == Controller::integral ? "integral" : "proportional_integral";
}

/// | option             | type       | default                                                                  |
/// |--------------------|------------|--------------------------------------------------------------------------|
/// | method             | Method     | dopri5; see tableau.hpp                                                  |
/// | steps              | Index      | 0: adaptive; else that many equal steps without error control            |
/// | relative_tolerance | double     | 1e-5, of an entry, where no ErrorControl says otherwise                  |
/// | absolute_tolerance | double     | 1e-6, of an entry, where no ErrorControl says otherwise                  |
/// | controller         | Controller | proportional_integral                                                    |
/// | first_step         | double     | 0: Hairer's choice; else the size of the first step                      |
/// | min_step           | double     | 0; a sample whose error asks for less fails                              |
/// | max_step           | double     | infinity                                                                 |
/// | max_steps          | Index      | 10000 attempts a sample, rejected ones included                          |
///
/// Tolerances below four epsilons of the type of the state, both, are refused: steps that rounding decides on make
/// results worse. The last step may be smaller than min_step, and up to 1 % larger than the error asks for, to land on
/// the end time. The five last options are for adaptive solves alone.
///
/// The integral controller takes a few percent fewer evaluations than the other, and misses the tolerance by more: of
/// 200 solutions of y' = y (1 - y) over 5 units of time, at tolerances from 1e-3 to 1e-10, the worst error of dopri8
/// was 11 times the tolerance asked for, the other's 3 times; of dopri5 and tsit5 within 4 and 3 times. Over thousands
/// of steps, which bosh3 takes at 1e-10, errors add up: 27 and 23 times.
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

/// Hairer's step size control (Solving ODEs I, II.4; II, IV.2; the constants of his dopri5), for an error estimate
/// O(h^q): the next step is h 0.9 e^-alpha e_before^beta, with beta = 0.2 / q and alpha = 1 / q - 0.75 beta, or beta =
/// 0 and alpha = 1 / q; between a fifth of h and ten times h, or three times where a single estimate, which may be
/// small by chance, decides: with ten, some samples missed the tolerance a hundredfold.
class StepController {
 public:
  static constexpr double safety = 0.9, smallest_factor = 0.2;
  /// The logarithm of the error before the first one.
  static constexpr double first_log_error = -9.2103403719761836;  // log 1e-4

  StepController(Controller controller, int error_order)
      : beta_(controller == Controller::proportional_integral ? 0.2 / error_order : 0),
        alpha_(1.0 / error_order - 0.75 * beta_),
        largest_factor_(controller == Controller::proportional_integral ? 10 : 3) {}

  /// What the size of an accepted step is multiplied with. Then `log_before` becomes log_kept(log_error).
  double accepted(double log_error, double log_before) const {
    return std::clamp(safety * std::exp(beta_ * log_before - alpha_ * log_error), smallest_factor, largest_factor_);
  }
  /// The same for a rejected one, at most 1.
  double rejected(double log_error) const {
    return std::clamp(safety * std::exp(-alpha_ * log_error), smallest_factor, 1.0);
  }
  static double log_kept(double log_error) { return std::max(log_error, first_log_error); }

 private:
  double beta_, alpha_, largest_factor_;
};

/// The first step (Hairer, Solving ODEs I, II.4), from the norms, in units of the tolerance, of y and f at the start.
/// It is tried with Euler's method,
inline double trial_step(double norm_y, double norm_f) {
  return norm_y < 1e-5 || norm_f < 1e-5 ? 1e-6 : 0.01 * norm_y / norm_f;
}
/// and where that changes f by norm_change this follows, for an error estimate O(h^error_order).
inline double first_step(double trial, double norm_f, double norm_change, int error_order) {
  const double slope = std::max(norm_f, norm_change / trial);
  if (!std::isfinite(slope)) return 0.01 * trial;  // the field ends nearby
  const double step = slope <= 1e-15 ? std::max(1e-6, 1e-3 * trial) : std::pow(0.01 / slope, 1.0 / error_order);
  return std::min(100 * trial, step);
}

}  // namespace diffeo::inline DIFFEO_ISA::ode
