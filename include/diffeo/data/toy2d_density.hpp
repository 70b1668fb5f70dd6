// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <diffeo/core/instruction_set.hpp>
#include <limits>
#include <numbers>

/// Exact log densities of the two-dimensional toys of data/toy2d.hpp, at one point, in double precision: in closed form
/// or, for noise around a curve, by quadrature along the curve. The error of a log density l is below 1e-8 (1 + |l|),
/// also far out.
namespace diffeo::inline DIFFEO_ISA::toy2d::detail {

using std::numbers::pi;

struct Point {
  double x, y;
};

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline double square(double x) { return x * x; }

/// log of a sum of exponentials, for terms too small for exp.
struct LogSum {
  double largest = -infinity, sum = 0;
  void add(double log_term) {
    if (log_term > largest) {
      sum = sum * std::exp(largest - log_term) + 1;
      largest = log_term;
    } else if (log_term > -infinity) {
      sum += std::exp(log_term - largest);
    }
  }
  double value() const { return largest + std::log(sum); }
};

/// log(exp(-z) I_0(z)) for z >= 0, I_0 the modified Bessel function: power series (all terms positive) and asymptotic
/// series, Abramowitz and Stegun 9.6.12 and 9.7.1. Relative error of I_0 below 1e-14.
inline double log_scaled_bessel_i0(double z) {
  double term = 1, sum = 1;
  const bool large = z > 30;
  for (int k = 1; k < 100 && term > 1e-17 * sum; ++k) {
    term *= large ? square(2 * k - 1) / (8 * z * k) : square(z / (2 * k));
    sum += term;
  }
  return std::log(sum) - (large ? std::log(2 * pi * z) / 2 : z);
}

/// log(Phi(b) - Phi(a)) for a < b, at least one apart, Phi the standard normal distribution function. Relative error of
/// the difference below 1e-10.
inline double log_normal_interval(double a, double b) {
  if (a + b < 0) return log_normal_interval(-b, -a);
  if (a < 25) return std::log((std::erfc(a / std::numbers::sqrt2) - std::erfc(b / std::numbers::sqrt2)) / 2);
  const double s = 1 / square(a);  // Abramowitz and Stegun 26.2.12; Phi(-b) is nothing beside Phi(-a)
  return -square(a) / 2 - std::log(a * std::sqrt(2 * pi)) + std::log1p(-s * (1 - 3 * s * (1 - 5 * s * (1 - 7 * s))));
}

/// log of the integral of exp(log_f(t)) over [a, b], by adaptive bisection with the Gauss-Kronrod pair of 7 and 15
/// nodes (QUADPACK qk15). log_bound(t, h) is an upper bound of log_f in [t - h, t + h]; where it is e^-45 below the
/// largest value, nothing is evaluated.
template <class F, class B>
class LogIntegral {
 public:
  LogIntegral(F log_f, B log_bound) : log_f_(log_f), log_bound_(log_bound) {}

  double over(double a, double b, int panels) {
    const double half = (b - a) / (2 * panels);
    for (int i = 0; i < panels; ++i) largest_ = std::max(largest_, log_f_(a + half * (2 * i + 1)));
    if (largest_ == -infinity) return -infinity;
    for (int i = 0; i < panels; ++i) add(a + half * (2 * i + 1), half, 40);
    return total_.value();
  }

 private:
  void add(double middle, double half, int depth) {
    static constexpr std::array<double, 8> node = {
        0.991455371120812639206854697526329, 0.949107912342758524526189684047851,
        0.864864423359769072789712788640926, 0.741531185599394439863864773280788,
        0.586087235467691130294144691693013, 0.405845151377397166906606412076961,
        0.207784955007898467600689403773245, 0};
    static constexpr std::array<double, 8> kronrod = {
        0.022935322010529224963732008058970, 0.063092092629978553290700663189204, 0.104790010322250183839876322541518,
        0.140653259715525918745189590510238, 0.169004726639267902826583426598550, 0.190350578064785409913256402421014,
        0.204432940075298892414161999234649, 0.209482141084727828012999174891714};
    static constexpr std::array<double, 4> gauss = {
        0.129484966168869693270611432679082, 0.279705391489276667901467771423780, 0.381830050505118944950369775488975,
        0.417959183673469387755102040816327};
    if (log_bound_(middle, half) < largest_ - 36) return;
    std::array<double, 15> value;
    for (std::size_t i = 0; i < 8; ++i) {
      value[i] = log_f_(middle - half * node[i]);
      if (i < 7) value[14 - i] = log_f_(middle + half * node[i]);
    }
    const double top = *std::max_element(value.begin(), value.end());
    if (top == -infinity) return;
    largest_ = std::max(largest_, top);
    double fine = 0, coarse = 0;
    for (std::size_t i = 0; i < 15; ++i) {
      const std::size_t k = std::min(i, 14 - i);
      const double f = std::exp(value[i] - top);
      fine += kronrod[k] * f;
      if (k % 2 == 1) coarse += gauss[k / 2] * f;
    }
    // The difference bounds the error of the coarse rule; the fine one's is about its square.
    const double error = std::abs(fine - coarse);
    if (error < 1e-6 * fine || error * half * std::exp(top - largest_) < 1e-13 || depth == 0) {
      total_.add(top + std::log(fine * half));
    } else {
      add(middle - half / 2, half / 2, depth - 1);
      add(middle + half / 2, half / 2, depth - 1);
    }
  }

  F log_f_;
  B log_bound_;
  double largest_ = -infinity;
  LogSum total_;
};

/// log of the integral over t in [a, b] of exp(-|p - curve(t)|^2 / (2 sigma^2)), for a curve with |curve'| <= speed.
template <class Curve>
double log_blurred_curve(Point p, Curve curve, double speed, double sigma, double a, double b, int panels) {
  const auto distance = [=](double t) {
    const Point c = curve(t);
    return std::hypot(p.x - c.x, p.y - c.y);
  };
  const auto log_kernel = [=](double d) { return -square(d / sigma) / 2; };
  return LogIntegral([=](double t) { return log_kernel(distance(t)); },
                     [=](double t, double h) { return log_kernel(std::max(0.0, distance(t) - speed * h)); })
      .over(a, b, panels);
}

inline double swissroll(Point p) {
  const auto curve = [](double t) { return Point{t * std::cos(t) / 5, t * std::sin(t) / 5}; };
  const double a = 1.5 * pi, b = 4.5 * pi, sigma = 0.2;
  return log_blurred_curve(p, curve, std::hypot(1, b) / 5, sigma, a, b, 30) -
         std::log((b - a) * 2 * pi * square(sigma));
}

/// Circles of the given radii with equal odds and noise sigma: the integral over the angle is a Bessel function.
template <std::size_t N>
double circles(Point p, const std::array<double, N>& radii, double sigma) {
  const double r = std::hypot(p.x, p.y);
  LogSum sum;
  for (const double radius : radii)
    sum.add(-square((r - radius) / sigma) / 2 + log_scaled_bessel_i0(r * radius / square(sigma)));
  return sum.value() - std::log(double(N) * 2 * pi * square(sigma));
}

inline double moons(Point p) {
  const Point q{(p.x + 1) / 2, (p.y + 0.2) / 2};
  const double sigma = 0.1;
  LogSum sum;
  sum.add(log_blurred_curve(
      q,
      [](double a) {
        return Point{std::cos(a), std::sin(a)};
      },
      1, sigma, 0, pi, 12));
  sum.add(log_blurred_curve(
      q,
      [](double a) {
        return Point{1 - std::cos(a), 0.5 - std::sin(a)};
      },
      1, sigma, 0, pi, 12));
  return sum.value() - std::log(2 * pi * 2 * pi * square(sigma) * 4);
}

inline double eight_gaussians(Point p) {
  const double scale = 1.414, sigma = 0.5 / scale;  // not sqrt(2): the data set's own number
  LogSum sum;
  for (int k = 0; k < 8; ++k)
    sum.add(-(square(p.x - 4 / scale * std::cos(k * pi / 4)) + square(p.y - 4 / scale * std::sin(k * pi / 4))) /
            (2 * square(sigma)));
  return sum.value() - std::log(8 * 2 * pi * square(sigma));
}

/// Arms of a pinwheel. In polar coordinates (r, phi) of f = (1 + 0.3 N, 0.1 N), f goes to the angle
/// h(phi) = phi - exp(r cos phi) / 4 less a multiple of 2 pi / 5, at the radius 2 r: the density is a sum over all phi
/// with h(phi) = angle of p modulo 2 pi / 5, each divided by the Jacobian determinant |h'(phi)|. Beyond |p| = 24 (36
/// standard deviations, log density below -670), where thousands of folds lie side by side, it is their mean over the
/// angle.
inline double pinwheel(Point p) {
  const double r = std::hypot(p.x, p.y) / 2, angle = std::atan2(p.y, p.x), arm = 2 * pi / 5;
  const auto log_f = [=](double phi) {
    return -square((r * std::cos(phi) - 1) / 0.3) / 2 - square(r * std::sin(phi) / 0.1) / 2;
  };
  const auto h = [=](double phi) { return phi - std::exp(r * std::cos(phi)) / 4; };
  const auto h_slope = [=](double phi) { return 1 + std::exp(r * std::cos(phi)) * r * std::sin(phi) / 4; };
  const double scale = std::log(5 * 2 * pi * 0.3 * 0.1 * 4);
  // Only for small r do all angles count: log_f(0) - log_f(phi) > 44 (r sin phi)^2, and from r = 6 on, h takes all
  // values modulo 2 pi / 5 within the window.
  const double window = r > 6 ? std::asin(1.1 / r) : pi;
  if (r > 12)
    return LogIntegral(log_f, [](double, double) { return infinity; }).over(-window, window, 8) - std::log(2 * pi / 5) -
           scale;

  const auto bisect = [](const auto& f, double lo, double hi) {
    const bool rising = f(lo) < f(hi);
    for (double mid = 0; mid = lo + (hi - lo) / 2, lo < mid && mid < hi;) ((f(mid) < 0) == rising ? lo : hi) = mid;
    return lo;
  };
  // h rises but between two places of (-pi, 0) at most; its slope is smallest where r sin^2 = cos.
  const double steepest = -std::acos(r > 1e-4 ? (std::sqrt(1 + 4 * r * r) - 1) / (2 * r) : r);
  std::array<double, 4> ends = {-window, -window, -window, window};
  if (h_slope(steepest) < 0) {
    ends[1] = std::max(-window, bisect(h_slope, -pi, steepest));
    ends[2] = std::max(-window, bisect(h_slope, steepest, 0));
  }
  LogSum sum;
  for (std::size_t piece = 0; piece < 3; ++piece) {
    const double a = ends[piece], b = ends[piece + 1];
    const auto [low, high] = std::minmax({h(a), h(b)});
    for (double target = angle + arm * std::ceil((low - angle) / arm); target < high; target += arm) {
      const double phi = bisect([&](double t) { return h(t) - target; }, a, b);
      sum.add(log_f(phi) - std::log(std::abs(h_slope(phi))));
    }
  }
  return sum.value() - scale;
}

/// The mean of the spiral at p and at -p: the sign is common to curve and noise. Each coordinate's noise U / 6 + 0.1 N
/// has a difference of normal distribution functions as density; the integral over r = 3 pi sqrt(U) is left.
inline double two_spirals(Point p) {
  const double sigma = 0.1, width = 1.0 / 6, end = 3 * pi;
  LogSum sum;
  for (const double sign : {1.0, -1.0}) {
    const auto offset = [=](double r) {
      return Point{sign * p.x + r * std::cos(r) / 3, sign * p.y - r * std::sin(r) / 3};
    };
    const auto log_kernel = [=](double u) { return log_normal_interval((u - width) / sigma, u / sigma); };
    const auto log_f = [=](double r) {
      const Point d = offset(r);
      return std::log(r) + log_kernel(d.x) + log_kernel(d.y);
    };
    const auto log_bound = [=](double r, double half) {
      const Point d = offset(r);
      const double outside = std::hypot(std::max({0.0, -d.x, d.x - width}), std::max({0.0, -d.y, d.y - width})) -
                             std::hypot(1, end) / 3 * half;
      return std::log(end) - square(std::max(0.0, outside) / sigma) / 2;
    };
    sum.add(LogIntegral(log_f, log_bound).over(0, end, 30));
  }
  return sum.value() - std::log(square(end * width));
}

/// Squares of side 2 count with their edges: a sample that rounding put on an edge keeps its density.
inline double checkerboard(Point p) {
  const double i = std::floor(p.x / 2), j = std::floor(p.y / 2);
  for (const double a : {i, std::ceil(p.x / 2) - 1})
    for (const double b : {j, std::ceil(p.y / 2) - 1})
      if (a >= -2 && a < 2 && b >= -2 && b < 2 && std::fmod(a + b, 2) == 0) return -5 * std::numbers::ln2;
  return -infinity;
}

}  // namespace diffeo::inline DIFFEO_ISA::toy2d::detail
