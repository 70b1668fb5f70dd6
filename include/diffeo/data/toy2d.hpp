// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/random.hpp>
#include <diffeo/data/toy2d_density.hpp>
#include <numbers>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

/// The eight two-dimensional toy densities of FFJORD (Grathwohl et al. 2019, https://arxiv.org/abs/1810.01367, the
/// code's lib/toy_data.py) that flows are usually shown on: samples, exact log densities and the best score that a
/// model can reach. U is uniform on [0, 1) and N standard normal, all draws independent:
///
/// | name         | definition                                                                                       |
/// |--------------|--------------------------------------------------------------------------------------------------|
/// | swissroll    | t = 1.5 pi (1 + 2 U); (t cos t + N, t sin t + N) / 5                                             |
/// | circles      | radius 3 or 1.5, uniform angle, plus 0.24 N per coordinate                                       |
/// | rings        | radius 3, 2.25, 1.5 or 0.75, uniform angle, plus 0.08 N per coordinate                           |
/// | moons        | a uniform on [0, pi]; p = (cos a, sin a) or (1 - cos a, 0.5 - sin a), plus 0.1 N; 2 p - (1, 0.2) |
/// | 8gaussians   | 4 (cos k pi/4, sin k pi/4), k = 0 ... 7, plus 0.5 N, all divided by 1.414                        |
/// | pinwheel     | f = (1 + 0.3 N, 0.1 N); 2 f rotated by -(2 pi k / 5 + 0.25 exp(f0)), k = 0 ... 4                 |
/// | 2spirals     | r = 3 pi sqrt(U); d = (-r cos r + 0.5 U, r sin r + 0.5 U); d / 3 or -d / 3, plus 0.1 N           |
/// | checkerboard | a = 4 U - 2; b = U - (2 or 0) + (floor(a) mod 2); 2 (a, b)                                       |
namespace diffeo::inline DIFFEO_ISA::toy2d {

namespace detail {

/// The random numbers of one sample.
class Draws {
 public:
  Draws(std::uint64_t seed, Index i) : engine_(seed, purpose ^ static_cast<std::uint64_t>(i)) {}

  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  int below(int n) { return static_cast<int>(engine_.below(static_cast<std::uint64_t>(n))); }
  /// Two standard normal numbers (Box and Muller), times sigma.
  Point normal(double sigma) {
    const double radius = sigma * std::sqrt(-2 * std::log1p(-uniform())), angle = 2 * pi * uniform();
    return {radius * std::cos(angle), radius * std::sin(angle)};
  }

 private:
  // Sample i has the Philox stream (purpose, i): no other use of a seed draws the same numbers.
  static constexpr std::uint64_t purpose = 0x746F793264000000;  // "toy2d"
  PhiloxEngine engine_;
};

inline Point operator+(Point a, Point b) { return {a.x + b.x, a.y + b.y}; }
inline Point operator*(double s, Point a) { return {s * a.x, s * a.y}; }
inline Point polar(double radius, double angle) { return {radius * std::cos(angle), radius * std::sin(angle)}; }

inline constexpr std::array<double, 2> circles_radii = {3, 1.5};
inline constexpr std::array<double, 4> rings_radii = {3, 2.25, 1.5, 0.75};

template <std::size_t N>
Point draw_circles(Draws& draws, const std::array<double, N>& radii, double sigma) {
  const double radius = radii[static_cast<std::size_t>(draws.below(N))], angle = 2 * pi * draws.uniform();
  return polar(radius, angle) + draws.normal(sigma);
}

inline Point draw_swissroll(Draws& draws) {
  const double t = 1.5 * pi * (1 + 2 * draws.uniform());
  return 0.2 * (polar(t, t) + draws.normal(1));
}

inline Point draw_moons(Draws& draws) {
  const bool lower = draws.below(2) == 1;
  const Point arc = polar(1, pi * draws.uniform());
  return 2 * ((lower ? Point{1 - arc.x, 0.5 - arc.y} : arc) + draws.normal(0.1)) + Point{-1, -0.2};
}

inline Point draw_eight_gaussians(Draws& draws) {
  const Point centre = polar(4, draws.below(8) * pi / 4);
  return 1 / 1.414 * (centre + draws.normal(0.5));
}

inline Point draw_pinwheel(Draws& draws) {
  const int arm = draws.below(5);
  const Point n = draws.normal(1), f = {1 + 0.3 * n.x, 0.1 * n.y};
  const double a = 2 * pi * arm / 5 + 0.25 * std::exp(f.x), c = std::cos(a), s = std::sin(a);
  return 2 * Point{f.x * c + f.y * s, -f.x * s + f.y * c};
}

inline Point draw_two_spirals(Draws& draws) {
  const double sign = draws.below(2) == 1 ? 1 : -1, r = 3 * pi * std::sqrt(draws.uniform());
  const double across = draws.uniform(), up = draws.uniform();
  return sign / 3 * Point{-r * std::cos(r) + 0.5 * across, r * std::sin(r) + 0.5 * up} + draws.normal(0.1);
}

inline Point draw_checkerboard(Draws& draws) {
  const double a = 4 * draws.uniform() - 2, row = 2 * draws.below(2);
  const double b = draws.uniform() - row + (static_cast<int>(std::floor(a)) & 1);
  return {2 * a, 2 * b};
}

inline constexpr std::array<std::string_view, 8> toy_names = {"swissroll",  "circles",  "rings",    "moons",
                                                              "8gaussians", "pinwheel", "2spirals", "checkerboard"};

// One table for each use, in the order of the names: a program that only draws samples does not hold the densities.
inline constexpr std::array<Point (*)(Draws&), 8> samplers = {
    draw_swissroll,
    [](Draws& d) { return draw_circles(d, circles_radii, 0.24); },
    [](Draws& d) { return draw_circles(d, rings_radii, 0.08); },
    draw_moons,
    draw_eight_gaussians,
    draw_pinwheel,
    draw_two_spirals,
    draw_checkerboard};

inline constexpr std::array<double (*)(Point), 8> log_densities = {
    swissroll,
    [](Point p) { return circles(p, circles_radii, 0.24); },
    [](Point p) { return circles(p, rings_radii, 0.08); },
    moons,
    eight_gaussians,
    pinwheel,
    two_spirals,
    checkerboard};

inline constexpr std::array<double, 8> best_log_probs = {-2.66965, -3.26814, -2.62318, -2.39388,
                                                         -2.83188, -2.31779, -2.64545, -5 * std::numbers::ln2};

inline std::size_t find(const char* function, std::string_view name) {
  std::string known;
  for (std::size_t i = 0; i < toy_names.size(); ++i) {
    if (toy_names[i] == name) return i;
    known.append(known.empty() ? "" : ", ").append(toy_names[i]);
  }
  throw_invalid_argument({function, ": no toy density is named '", name, "', expected one of ", known});
}

}  // namespace detail

/// Returns the eight names.
inline std::array<std::string_view, 8> names() { return detail::toy_names; }

/// Returns n samples, n x 2. Sample i depends on (seed, i) alone and is drawn in double precision; samples of float are
/// those of double, rounded. Throws `invalid_argument` for an unknown name and for n < 0.
template <Real S>
Array<S> sample(std::string_view name, Index n, std::uint64_t seed) {
  const auto draw = detail::samplers[detail::find("toy2d::sample", name)];
  require(n >= 0, "toy2d::sample: n is ", n, ", expected n >= 0");
  Array<S> x(n, 2);
  for (Index i = 0; i < n; ++i) {
    detail::Draws draws(seed, i);
    const detail::Point p = draw(draws);
    x(i, 0) = static_cast<S>(p.x);
    x(i, 1) = static_cast<S>(p.y);
  }
  return x;
}

/// Returns whether `log_prob` knows the density: true for all eight names, false for any other.
inline bool has_log_prob(std::string_view name) {
  for (const std::string_view known : detail::toy_names)
    if (known == name) return true;
  return false;
}

/// Returns the exact log density at each row of x (N x 2, any Eigen expression): N x 1, in the precision of x or that
/// of S. It is computed in double precision; swissroll, moons and 2spirals take some ten microseconds a point, the
/// others less. Throws `invalid_argument` for an unknown name, another number of columns, NaN and infinity in x.
template <class S = void, class Derived>
auto log_prob(std::string_view name, const Eigen::DenseBase<Derived>& x) {
  using Result = std::conditional_t<std::is_void_v<S>, typename Derived::Scalar, S>;
  const auto log_density = detail::log_densities[detail::find("toy2d::log_prob", name)];
  require(x.cols() == 2, "toy2d::log_prob: x has ", x.cols(), " columns, expected 2");
  const Array<typename Derived::Scalar> points = x.derived().array();
  require_finite(points, "toy2d::log_prob: x");
  Array<Result> values(points.rows(), 1);
  for (Index i = 0; i < points.rows(); ++i)
    values(i, 0) = static_cast<Result>(log_density({double(points(i, 0)), double(points(i, 1))}));
  return values;
}

/// Returns the best mean test log-likelihood that a model can reach, in nats: minus the entropy of the density, from
/// the quadrature of log_prob on a grid, to 1e-5 (exact for the checkerboard). What a model's mean falls short of it is
/// its gap. Throws `invalid_argument` for an unknown name.
inline double best_log_prob(std::string_view name) {
  return detail::best_log_probs[detail::find("toy2d::best_log_prob", name)];
}

}  // namespace diffeo::inline DIFFEO_ISA::toy2d
