// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/core/error.hpp>
#include <functional>
#include <numbers>
#include <variant>

/// Distributions of the times at which flow matching compares velocities.
namespace diffeo::inline DIFFEO_ISA {

/// Times that are uniform between 0 and 1.
struct UniformTimes {};

/// Times t whose log(t / (1 - t)) is normal (Esser et al. 2024, "Scaling rectified flow transformers for
/// high-resolution image synthesis", section 3.1): more of them in the middle, where velocities are hardest to learn.
///
/// | option | type   | default |
/// |--------|--------|---------|
/// | mean   | double | 0       |
/// | scale  | double | 1       |
struct LogitNormalTimes {
  double mean = 0;
  double scale = 1;
};

/// Times t = f(u) for uniform numbers 0 <= u <= 1: the inverse of the distribution function that is wanted. It is
/// called from several threads and must return times from 0 to 1.
using TimeFunction = std::function<double(double)>;

/// The distributions to choose from.
using Times = std::variant<UniformTimes, LogitNormalTimes, TimeFunction>;

namespace detail {

// Returns the x below which a standard normal number lies with probability 0 < p < 1: the rational approximation of
// Acklam (2003), with a step of Halley's method that makes it exact up to rounding.
inline double normal_quantile(double p) {
  const auto tail = [](double q) {
    return (((((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838e+00) * q -
              2.549732539343734e+00) *
                 q +
             4.374664141464968e+00) *
                q +
            2.938163982698783e+00) /
           ((((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996e+00) * q +
             3.754408661907416e+00) *
                q +
            1);
  };
  if (p > 0.5) return -normal_quantile(1 - p);
  double x;
  if (p < 0.02425) {
    x = tail(std::sqrt(-2 * std::log(p)));
  } else {
    const double q = p - 0.5, r = q * q;
    x = (((((-3.969683028665376e+01 * r + 2.209460984245205e+02) * r - 2.759285104469687e+02) * r +
           1.383577518672690e+02) *
              r -
          3.066479806614716e+01) *
             r +
         2.506628277459239e+00) *
        q /
        (((((-5.447609879822406e+01 * r + 1.615858368580409e+02) * r - 1.556989798598866e+02) * r +
           6.680131188771972e+01) *
              r -
          1.328068155288572e+01) *
             r +
         1);
  }
  const double error = 0.5 * std::erfc(-x / std::numbers::sqrt2) - p;
  const double step = error * std::sqrt(2 * std::numbers::pi) * std::exp(x * x / 2);
  return x - step / (1 + x * step / 2);
}

/// Returns the time of a uniform number 0 <= u <= 1. Throws invalid_argument where a function of the user's own returns
/// a time outside [0, 1].
inline double time_of(const Times& times, double u) {
  if (const auto* logit = std::get_if<LogitNormalTimes>(&times)) {
    if (u <= 0 || u >= 1) return u;
    return 1 / (1 + std::exp(-(logit->mean + logit->scale * normal_quantile(u))));
  }
  if (const auto* function = std::get_if<TimeFunction>(&times)) {
    const double t = (*function)(u);
    require(t >= 0 && t <= 1, "flow matching: the time of u = ", u, " is ", t, ", expected a time between 0 and 1");
    return t;
  }
  return u;
}

/// Throws invalid_argument for options out of range, no function, and a function that returns a time outside [0, 1] for
/// one of 101 numbers.
inline void check_times(const Times& times) {
  if (const auto* logit = std::get_if<LogitNormalTimes>(&times)) {
    require(std::isfinite(logit->mean), "flow matching: the mean of logit-normal times is ", logit->mean,
            ", expected a finite value");
    require(logit->scale > 0 && std::isfinite(logit->scale), "flow matching: the scale of logit-normal times is ",
            logit->scale, ", expected finite and above 0");
  }
  if (const auto* function = std::get_if<TimeFunction>(&times)) {
    require(static_cast<bool>(*function), "flow matching: the function of times is empty");
    for (int i = 0; i <= 100; ++i) time_of(times, i / 100.0);
  }
}

/// Where the time of a row of a minibatch comes from: number(u) for the uniform number u with the index `index`.
struct TimePlan {
  bool antithetic = false, stratified = true;
  std::ptrdiff_t count = 1;  // rows of the minibatch

  std::ptrdiff_t index(std::ptrdiff_t row) const { return antithetic ? row / 2 : row; }
  double number(std::ptrdiff_t row, double u) const {
    if (stratified) u = (static_cast<double>(index(row)) + u) / static_cast<double>(strata());
    return antithetic && row % 2 == 1 ? 1 - u : u;
  }

 private:
  // Pairs share the lower half of [0, 1], which the second of each leaves for the upper one.
  std::ptrdiff_t strata() const { return antithetic ? 2 * ((count + 1) / 2) : count; }
};

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
