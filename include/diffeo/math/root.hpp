// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>
#include <limits>
#include <type_traits>

/// Roots of increasing functions of one unknown, one register of equations at a time: Newton's method inside a bracket
/// that every evaluation narrows, with bisection where a Newton step leaves the bracket or converges too slowly.
namespace diffeo::inline DIFFEO_ISA {

/// Options of find_roots().
///
/// | option         | type | default                                                                                  |
/// |----------------|------|------------------------------------------------------------------------------------------|
/// | tolerance      | S    | 0: the best that rounding allows; else largest |error| of a root, certified by a bracket |
/// | max_iterations | int  | 200 evaluations; bisection alone needs 64 (double) between any two numbers               |
template <Real S>
struct RootOptions {
  S tolerance = 0;
  int max_iterations = 200;

  /// Throws invalid_argument for an option out of range; `what` names the caller.
  void check(const char* what) const {
    require(tolerance >= 0 && tolerance < std::numeric_limits<S>::infinity(), what, ": tolerance is ", tolerance,
            ", expected finite and at least 0");
    require(max_iterations >= 1, what, ": max_iterations is ", max_iterations, ", expected at least 1");
  }
};

namespace simd {

/// Value and derivative at a point of the function whose root is wanted.
template <class S>
struct Equation {
  Vec<S> value;
  Vec<S> slope;
};

/// Interval low <= root <= high, whose ends may be infinite, and the first point to evaluate.
template <class S>
struct Bracket {
  Vec<S> low;
  Vec<S> high;
  Vec<S> start;
};

/// Result of find_root(). `residual` is the value of the function at `root`, or NaN if the function was NaN at a point;
/// `converged` is a mask of lanes.
template <class S>
struct Roots {
  Vec<S> root;
  Vec<S> residual;
  IntVec<S> converged;
};

namespace detail {

// Maps floating-point numbers to integers in increasing order, so that neighbouring numbers differ by 1 (-0 and 0 too).
template <class S>
inline IntVec<S> ordinal(Vec<S> x) {
  const IntVec<S> i = bits<S>(x);
  return i ^ ((i >> (8 * static_cast<int>(sizeof(S)) - 1)) & std::numeric_limits<integer_t<S>>::max());
}
// Inverse of ordinal().
template <class S>
inline Vec<S> from_ordinal(IntVec<S> n) {
  return from_bits<S>(n ^ ((n >> (8 * static_cast<int>(sizeof(S)) - 1)) & std::numeric_limits<integer_t<S>>::max()));
}

// Returns whether any lane of the mask is set.
template <class S>
inline bool any_lane(IntVec<S> mask) {
  std::uint64_t word[sizeof mask / sizeof(std::uint64_t)], all = 0;
  std::memcpy(word, &mask, sizeof mask);
  for (const std::uint64_t w : word) all |= w;
  return all != 0;
}

}  // namespace detail

/// Finds the root of f in each lane. f(r, x) returns the Equation of register r at x; its value must increase with x
/// and have the right sign up to rounding. Where f is flat or its slope is wrong, the root is found by bisection on the
/// ordinals of the floating-point numbers, which takes at most as many steps as a number has bits, whatever the size of
/// the bracket. A lane converges when the ends of its bracket, at which the computed f has opposite signs, are within
/// the tolerance or at most four floating-point numbers apart. It is then frozen, so that its result does not depend on
/// the other lanes. A lane fails if f is NaN, if f has the same sign at both ends, or after max_iterations.
///
/// R registers are processed together to hide latency, because the iterations of one register depend on each other. The
/// result of a lane does not depend on R.
template <class S, std::size_t R, class F>
void find_root(const F& f, const Bracket<S> (&bracket)[R], S tolerance, int max_iterations, Roots<S> (&roots)[R]) {
  using V = Vec<S>;
  using I = IntVec<S>;
  using Unsigned = typename detail::Register<std::make_unsigned_t<integer_t<S>>>::type;
  constexpr integer_t<S> neighbours = 4;
  constexpr S infinity = std::numeric_limits<S>::infinity();

  struct State {
    I low, high, at;
    V low_value, high_value;
    V last_step;
    I active, failed;
    V failed_value;
  } state[R];
  for (std::size_t r = 0; r < R; ++r) {
    const V start = max<S>(bracket[r].low, min<S>(bracket[r].high, bracket[r].start));
    state[r] = {detail::ordinal<S>(bracket[r].low),
                detail::ordinal<S>(bracket[r].high),
                detail::ordinal<S>(start),
                broadcast<S>(-infinity),  // until evaluated
                broadcast<S>(infinity),
                broadcast<S>(infinity),
                I{} - 1,
                I{},
                V{}};
  }
  for (int k = 0; k < max_iterations; ++k) {
    I any_active{};
    for (std::size_t r = 0; r < R; ++r) {
      State& s = state[r];
      const V x = detail::from_ordinal<S>(s.at);
      const Equation<S> y = f(r, x);
      const I is_nan = s.active & (y.value != y.value);
      s.failed |= is_nan;
      s.failed_value = is_nan ? y.value : s.failed_value;
      const I below = s.active & (y.value <= S(0)), above = s.active & (y.value >= S(0));
      s.low = below ? s.at : s.low;
      s.low_value = below ? y.value : s.low_value;
      s.high = above ? s.at : s.high;
      s.high_value = above ? y.value : s.high_value;
      const I narrow = I((Unsigned(s.high) - Unsigned(s.low)) <= Unsigned(I{} + neighbours)) |
                       I((detail::from_ordinal<S>(s.high) - detail::from_ordinal<S>(s.low)) <= tolerance);
      s.active &= ~(narrow | is_nan);
      any_active |= s.active;

      // Newton's step is made at least tolerance / 2 long and extended by two floating-point numbers: near the root it
      // then lands beyond it, and the other end of the bracket comes close as well.
      const V step = copy_sign<S>(max<S>(broadcast<S>(tolerance / 2), abs<S>(y.value / y.slope)), y.value);
      const I newton = detail::ordinal<S>(x - step) + (y.value > S(0) ? I{} - 2 : I{} + 2);
      const I middle = (s.low & s.high) + ((s.low ^ s.high) >> 1);
      I good = I(newton > s.low) & I(newton < s.high) & I(y.slope > S(0)) & I(abs<S>(step) <= s.last_step * S(0.75));
      if (k >= 8 && k % 2 == 0) good = I{};
      s.at = s.active ? (good ? newton : middle) : s.at;
      s.last_step = abs<S>(detail::from_ordinal<S>(s.at) - x);
    }
    if (!detail::any_lane<S>(any_active)) break;
  }
  for (std::size_t r = 0; r < R; ++r) {
    State& s = state[r];
    // An end of the bracket that was never evaluated certifies nothing: evaluate it now.
    const I open = ~(s.active | s.failed) & (I(s.low_value == -infinity) | I(s.high_value == infinity));
    if (detail::any_lane<S>(open)) {
      const V at_low = f(r, detail::from_ordinal<S>(s.low)).value,
              at_high = f(r, detail::from_ordinal<S>(s.high)).value;
      const I no_low = open & I(s.low_value == -infinity) & ~I(at_low <= S(0));
      const I no_high = open & I(s.high_value == infinity) & ~I(at_high >= S(0));
      s.low_value = open & I(s.low_value == -infinity) ? at_low : s.low_value;
      s.high_value = open & I(s.high_value == infinity) ? at_high : s.high_value;
      s.active |= no_low | no_high;
    }
    const I lower = I(abs<S>(s.low_value) < abs<S>(s.high_value)) | I(s.high_value != s.high_value);
    const V residual = lower ? s.low_value : s.high_value;
    roots[r] = {detail::from_ordinal<S>(lower ? s.low : s.high), s.failed ? s.failed_value : residual,
                ~(s.active | s.failed)};
  }
}
/// Finds the root of f in each lane of one register; f(x) returns the Equation at x.
template <class S, class F>
Roots<S> find_root(const F& f, const Bracket<S>& bracket, S tolerance, int max_iterations) {
  Roots<S> roots[1];
  find_root<S, 1>([&f](std::size_t, Vec<S> x) { return f(x); }, {bracket}, tolerance, max_iterations, roots);
  return roots[0];
}

/// Throws convergence_error for the first of `count` lanes that did not converge; `what` names the solver, and lane 0
/// is reported as row `first`.
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

/// Computes out(i, j), the root x of f(x, in(i, j)...), for views of one shape. f maps registers to a simd::Equation
/// that increases with x, and bracket(in...) returns a simd::Bracket. The bits of an element depend on its own operands
/// alone. Throws convergence_error, with row and residual, for the first element (column by column) whose root is not
/// found, and invalid_argument for options out of range; `what` names the caller.
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
}  // namespace diffeo::inline DIFFEO_ISA
