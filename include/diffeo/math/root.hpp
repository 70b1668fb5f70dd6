// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>
#include <limits>
#include <type_traits>

/// Roots of increasing functions of one unknown, a register of equations at a time: Newton's method inside a bracket
/// that every evaluation narrows, with bisection where a Newton step leaves it or stops being worth its while.
namespace diffeo {

/// | option         | type | default                                                                              |
/// |----------------|------|--------------------------------------------------------------------------------------|
/// | tolerance      | S    | 0: as the arithmetic allows; else the largest |error| of a root, certified by a bracket |
/// | max_iterations | int  | 200: evaluations; bisection alone would need 64 (double) between any two numbers     |
template <Real S>
struct RootOptions {
  S tolerance = 0;
  int max_iterations = 200;

  void check(const char* what) const {
    require(tolerance >= 0 && tolerance < std::numeric_limits<S>::infinity(), what, ": tolerance is ", tolerance,
            ", expected finite and at least 0");
    require(max_iterations >= 1, what, ": max_iterations is ", max_iterations, ", expected at least 1");
  }
};

namespace simd {

/// An equation's left side at a point, value = 0 being wanted, and its derivative there.
template <class S>
struct Equation {
  Vec<S> value;
  Vec<S> slope;
};

/// Where to look for a root: low <= root <= high, both may be infinite, and where to begin.
template <class S>
struct Bracket {
  Vec<S> low;
  Vec<S> high;
  Vec<S> start;
};

/// `residual` is the value of the equation at `root`, NaN where one was met; `converged` is a mask.
template <class S>
struct Roots {
  Vec<S> root;
  Vec<S> residual;
  IntVec<S> converged;
};

namespace detail {

// Integers in the order of the numbers, neighbours one apart: -0 and 0 are neighbours too.
template <class S>
inline IntVec<S> ordinal(Vec<S> x) {
  const IntVec<S> i = bits<S>(x);
  return i ^ ((i >> (8 * static_cast<int>(sizeof(S)) - 1)) & std::numeric_limits<integer_t<S>>::max());
}
template <class S>
inline Vec<S> from_ordinal(IntVec<S> n) {
  return from_bits<S>(n ^ ((n >> (8 * static_cast<int>(sizeof(S)) - 1)) & std::numeric_limits<integer_t<S>>::max()));
}

template <class S>
inline bool any_lane(IntVec<S> mask) {
  integer_t<S> lane[lanes<S>], all = 0;
  std::memcpy(lane, &mask, sizeof mask);
  for (Index i = 0; i < lanes<S>; ++i) all |= lane[i];
  return all != 0;
}

}  // namespace detail

/// The root of f in each lane. f maps a register to an Equation, increasing and with the sign of its value right within
/// the arithmetic; where it is flat or its slope is wrong the root is still found, by bisection in the order of the
/// floating-point numbers, which takes as many steps as a number has bits whatever the size of the bracket. A lane ends
/// when the ends of its bracket, at which the computed f differs in sign, lie within the tolerance or four neighbouring
/// numbers; it is then frozen, so that its result does not depend on the other lanes. A lane fails where f is NaN,
/// where f has one sign at both ends, and at the iteration bound.
template <class S, class F>
Roots<S> find_root(const F& f, const Bracket<S>& bracket, S tolerance, int max_iterations) {
  using V = Vec<S>;
  using I = IntVec<S>;
  using Unsigned = typename detail::Register<std::make_unsigned_t<integer_t<S>>>::type;
  constexpr integer_t<S> neighbours = 4;
  constexpr S infinity = std::numeric_limits<S>::infinity();

  const V start = max<S>(bracket.low, min<S>(bracket.high, bracket.start));
  I low = detail::ordinal<S>(bracket.low), high = detail::ordinal<S>(bracket.high), at = detail::ordinal<S>(start);
  V low_value = broadcast<S>(-infinity), high_value = broadcast<S>(infinity);  // until evaluated
  V last_step = broadcast<S>(infinity);
  I active = I{} - 1, failed{};
  V failed_value{};
  for (int k = 0; k < max_iterations; ++k) {
    const V x = detail::from_ordinal<S>(at);
    const Equation<S> y = f(x);
    const I is_nan = active & (y.value != y.value);
    failed |= is_nan;
    failed_value = is_nan ? y.value : failed_value;
    const I below = active & (y.value <= S(0)), above = active & (y.value >= S(0));
    low = below ? at : low;
    low_value = below ? y.value : low_value;
    high = above ? at : high;
    high_value = above ? y.value : high_value;
    const I narrow = I((Unsigned(high) - Unsigned(low)) <= Unsigned(I{} + neighbours)) |
                     I((detail::from_ordinal<S>(high) - detail::from_ordinal<S>(low)) <= tolerance);
    active &= ~(narrow | is_nan);
    if (!detail::any_lane<S>(active)) break;

    // Newton goes a little too far: near the root that brings the other end of the bracket close too.
    const V step = copy_sign<S>(max<S>(broadcast<S>(tolerance / 2), abs<S>(y.value / y.slope)), y.value);
    const I newton = detail::ordinal<S>(x - step) + (y.value > S(0) ? I{} - 2 : I{} + 2);
    const I middle = (low & high) + ((low ^ high) >> 1);
    I good = I(newton > low) & I(newton < high) & I(y.slope > S(0)) & I(abs<S>(step) <= last_step * S(0.75));
    if (k >= 8 && k % 2 == 0) good = I{};
    at = active ? (good ? newton : middle) : at;
    last_step = abs<S>(detail::from_ordinal<S>(at) - x);
  }
  // An end that was never evaluated proves nothing.
  I open = ~(active | failed) & (I(low_value == -infinity) | I(high_value == infinity));
  if (detail::any_lane<S>(open)) {
    const V at_low = f(detail::from_ordinal<S>(low)).value, at_high = f(detail::from_ordinal<S>(high)).value;
    const I no_low = open & I(low_value == -infinity) & ~I(at_low <= S(0));
    const I no_high = open & I(high_value == infinity) & ~I(at_high >= S(0));
    low_value = open & I(low_value == -infinity) ? at_low : low_value;
    high_value = open & I(high_value == infinity) ? at_high : high_value;
    active |= no_low | no_high;
  }
  const I lower = I(abs<S>(low_value) < abs<S>(high_value)) | I(high_value != high_value);
  const V residual = lower ? low_value : high_value;
  return {detail::from_ordinal<S>(lower ? low : high), failed ? failed_value : residual, ~(active | failed)};
}

/// Throws convergence_error for the first of `count` lanes that did not converge; `what` names the solver, lane 0 is
/// row `first`.
template <class S>
inline void require_converged(const char* what, const Roots<S>& roots, Index first, Index count, int iterations) {
  if (!detail::any_lane<S>(~roots.converged)) [[likely]]
    return;
  for (Index i = 0; i < count; ++i)
    if (roots.converged[i] == 0)
      throw convergence_error(what, first + i, static_cast<double>(roots.residual[i]), iterations);
}

}  // namespace simd

namespace math {

/// out(i, j) = the root x of f(x, in(i, j)...), for blocks of one shape. f maps registers to a simd::Equation,
/// increasing in x; bracket(in...) gives a simd::Bracket. Each element's bits depend on its own operands alone. Throws
/// convergence_error with the row and residual of the first element, column by column, of which no root is found, and
/// invalid_argument for options out of range; `what` names the caller.
template <class S, class F, class B, class... In>
void find_roots(const char* what, View<S> out, const F& f, const B& bracket, const RootOptions<S>& options, In... in) {
  options.check(what);
  for (Index j = 0; j < out.cols; ++j)
    for (Index i = 0; i < out.rows; i += simd::lanes<S>) {
      const Index count = std::min(simd::lanes<S>, out.rows - i);
      const auto load = [&](const View<const S>& x) {
        return count == simd::lanes<S> ? simd::load<S>(x.col(j) + i) : simd::load<S>(x.col(j) + i, count);
      };
      [&](auto... operand) {
        const auto roots = simd::find_root<S>([&](simd::Vec<S> x) { return f(x, operand...); }, bracket(operand...),
                                              options.tolerance, options.max_iterations);
        simd::require_converged<S>(what, roots, i, count, options.max_iterations);
        simd::store<S>(out.col(j) + i, roots.root, count);
      }(load(View<const S>(in))...);
    }
}

}  // namespace math
}  // namespace diffeo
