// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/targets/target.hpp>
#include <limits>
#include <numbers>

/// Four test energies U of Rezende & Mohamed 2015, table 1 (https://arxiv.org/abs/1505.05770), as unnormalised
/// log-densities -U(z) on the plane. With s(x) = exp(-x^2 / 2), w1 = sin(2 pi z1 / 4), w2 = 3 s((z1 - 1) / 0.6) and
/// w3 = 3 sigmoid((z1 - 1) / 0.3):
///
/// | target | U(z)                                                                 | log Z  |
/// |--------|----------------------------------------------------------------------|--------|
/// | U1     | ((|z| - 2) / 0.4)^2 / 2 - log(s((z1 - 2) / 0.6) + s((z1 + 2) / 0.6)) | 1.8775 |
/// | U2     | ((z2 - w1) / 0.4)^2 / 2                                              | 2.1429 |
/// | U3     | -log(s((z2 - w1) / 0.35) + s((z2 - w1 + w2) / 0.35))                 | 2.7025 |
/// | U4     | -log(s((z2 - w1) / 0.4) + s((z2 - w1 + w3) / 0.35))                  | 2.7608 |
///
/// The integrals of U2 to U4 over the plane diverge, because they do not decay along z1. Here they are confined to the
/// box [-4, 4]^2 by adding
///
///     U_wall(z) = sum over both coordinates of (max(|z_j| - 4, 0) / 0.2)^2 / 2,
///
/// which is 0 within the box and has a continuous derivative. log Z includes the wall; it was computed by
/// Gauss-Legendre quadrature and is correct to all digits given. The formulas are evaluated in a form that does not
/// overflow. Each target maps N x 2 to N x 1, and throws invalid_argument for another number of columns.
namespace diffeo::inline DIFFEO_ISA::targets {

namespace detail {

inline void require_plane(const char* name, Index columns) {
  require(columns == 2, name, ": x has ", columns, " columns, this target has dimension 2");
}

inline constexpr double box = 4, wall_width = 0.2;

// Returns -U_wall, N x 2 -> N x 1.
template <Traced X>
X wall(const X& x) {
  using S = typename X::Scalar;
  return sum_cols(square(relu(abs(x) - S(box)))) * S(-0.5 / (wall_width * wall_width));
}
// Returns the logarithm of a normal density without its constant, log s(offset / sigma).
template <Traced X>
X log_bump(const X& offset, double sigma) {
  return square(offset) * static_cast<typename X::Scalar>(-0.5 / (sigma * sigma));
}
// Returns w1.
template <Traced X>
X wave(const X& z1) {
  return sin(z1 * (std::numbers::pi_v<typename X::Scalar> / 2));
}

// Returns -U1. Fused into one op for speed: training steps are benchmarked on this target.
template <Real S>
Var<S> ring_with_two_modes(Var<S> x) {
  // log(exp(-((a - 2) / s)^2 / 2) + exp(-((a + 2) / s)^2 / 2)) = -((|a| - 2) / s)^2 / 2 + log(1 + exp(-4 |a| / s^2)),
  // whose derivative with respect to a is (2 tanh(2 a / s^2) - a) / s^2.
  const S ring = S(1 / (0.4 * 0.4)), mode = S(1 / (0.6 * 0.6));
  const auto radius = [](auto a, auto b) { return simd::sqrt<S>(simd::mul_add<S>(a, a, b * b)); };
  // Derivative of the ring's term divided by the coordinate. At the centre, where the term has no derivative, the
  // product with the coordinate is 0.
  const auto pull = [radius, ring](auto a, auto b) {
    const auto r = simd::max<S>(simd::broadcast<S>(std::numeric_limits<S>::epsilon()), radius(a, b));
    return ring * (S(2) - r) / r;
  };
  return make_elementwise<S>(
      "targets::U1",
      [radius, ring, mode](auto a, auto b) {
        const auto from_ring = radius(a, b) - S(2), size = simd::abs<S>(a), from_mode = size - S(2);
        return S(-0.5) * (ring * from_ring * from_ring + mode * from_mode * from_mode) +
               simd::log1p_exp<S>(S(-4) * mode * size);
      },
      std::tuple(
          [pull, mode](auto g, auto, auto a, auto b) {
            return g * (pull(a, b) * a + mode * (S(2) * simd::tanh<S>(S(2) * mode * a) - a));
          },
          [pull](auto g, auto, auto a, auto b) { return g * (pull(a, b) * b); }),
      cols(x, 0, 1), cols(x, 1, 1));
}
template <class X>
Dual<X> ring_with_two_modes(const Dual<X>& x) {
  using S = typename X::Scalar;
  const Dual<X> size = abs(cols(x, 0, 1));
  return log_bump(sqrt(sum_cols(square(x))) - S(2), 0.4) + log_bump(size - S(2), 0.6) +
         softplus(size * S(-4 / (0.6 * 0.6)));
}

}  // namespace detail

/// Target U1: two modes on a ring.
struct U1 {
  Index dim() const { return 2; }
  double log_z() const { return 1.87750163; }

  template <Traced X>
  X operator()(const X& x) const {
    detail::require_plane("targets::U1", x.cols());
    return detail::ring_with_two_modes(x);
  }
};

/// Target U2: a sine wave.
struct U2 {
  Index dim() const { return 2; }
  double log_z() const { return 2.14286991; }

  template <Traced X>
  X operator()(const X& x) const {
    detail::require_plane("targets::U2", x.cols());
    return detail::log_bump(cols(x, 1, 1) - detail::wave(cols(x, 0, 1)), 0.4) + detail::wall(x);
  }
};

/// Target U3: a sine wave that splits in two and joins again.
struct U3 {
  Index dim() const { return 2; }
  double log_z() const { return 2.70248570; }

  template <Traced X>
  X operator()(const X& x) const {
    using S = typename X::Scalar;
    detail::require_plane("targets::U3", x.cols());
    const X z1 = cols(x, 0, 1), upper = cols(x, 1, 1) - detail::wave(z1);
    const X lower = upper + exp(detail::log_bump(z1 - S(1), 0.6)) * S(3);
    return log_sum_exp(concat(detail::log_bump(upper, 0.35), detail::log_bump(lower, 0.35))) + detail::wall(x);
  }
};

/// Target U4: a sine wave that splits in two.
struct U4 {
  Index dim() const { return 2; }
  double log_z() const { return 2.76075642; }

  template <Traced X>
  X operator()(const X& x) const {
    using S = typename X::Scalar;
    detail::require_plane("targets::U4", x.cols());
    const X z1 = cols(x, 0, 1), upper = cols(x, 1, 1) - detail::wave(z1);
    const X lower = upper + sigmoid((z1 - S(1)) * S(1 / 0.3)) * S(3);
    return log_sum_exp(concat(detail::log_bump(upper, 0.4), detail::log_bump(lower, 0.35))) + detail::wall(x);
  }
};

}  // namespace diffeo::inline DIFFEO_ISA::targets
