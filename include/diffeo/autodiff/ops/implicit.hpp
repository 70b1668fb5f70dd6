// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/elementwise.hpp>

/// Solutions of equations as values of a tape. A solver works on plain numbers. Its result enters the tape as one op,
/// differentiated by the implicit function theorem, so that the steps of the solver are not differentiated.
namespace diffeo::inline DIFFEO_ISA {

/// Returns y with r(y, p) = 0 as a value of the tape. `solution` is y as found by a solver. `residual` is r recorded at
/// that y, as a function of the parameters p; its value is not read. With A = dr/dy, dy = -A^-1 dr: solve_transposed(g,
/// v) must write v = A^-T g, where g and v have the shape of y, and be trivially destructible. Throws invalid_argument
/// if the shapes of solution and residual differ.
template <Real S, class Solve>
Var<S> implicit(View<const S> solution, Var<S> residual, const Solve& solve_transposed) {
  Tape<S>& tape = residual.tape();
  require(solution.rows == residual.rows() && solution.cols == residual.cols(), "implicit: the solution is ",
          solution.rows, " x ", solution.cols, ", its residual ", residual.rows(), " x ", residual.cols());
  const Var<S> y = tape.make(solution.rows, solution.cols, residual.requires_grad());
  math::copy(tape.mutable_value(y), solution);
  if (y.requires_grad())
    tape.on_backward({y}, [y, residual, solve_transposed] {
      Tape<S>& t = y.tape();
      const View<S> g = t.mutable_grad(y);
      const ScratchBuffer<S> memory(t, g.stride * g.cols);
      const View<S> v{memory.data(), g.rows, g.cols, g.stride};
      solve_transposed(View<const S>(g), v);
      add_grad(
          residual, [](auto x) { return -x; }, View<const S>(v));
    });
  return y;
}

/// Value of an equation with one unknown per element, and its derivative with respect to the unknown.
template <class X>
struct RootEquation {
  X value;
  X slope;
};

namespace detail {

template <class P>
const P& without_tangent(const P& p) {
  return p;
}
template <class X>
const X& without_tangent(const Dual<X>& p) {
  return p.value;
}

template <class X>
Dual<X> with_zero_tangent(const X& x) {
  return {x, zeros(x, x.cols())};
}

}  // namespace detail

/// Returns y whose elements each solve one equation, residual(y, p...) = 0, as a value of type X. `residual` is written
/// with tape ops and returns a RootEquation of the shape of y. `solution`, found by a solver, must outlive the backward
/// sweep. Operands p are values, at least one of type X, or parameters.
template <Traced X, class R, class... P>
X implicit_root(View<const typename X::Scalar> solution, const R& residual, const P&... p) {
  static_assert((std::is_same_v<P, X> || ...), "implicit_root: at least one operand must be of the type of the result");
  using S = typename X::Scalar;
  if constexpr (detail::is_dual<X>) {
    using Inner = decltype(X::value);
    const Inner y = implicit_root<Inner>(solution, residual, detail::without_tangent(p)...);
    const RootEquation<X> moved = residual(detail::with_zero_tangent(y), p...);
    return {y, -(moved.value.tangent / moved.slope.value)};
  } else {
    Tape<S>* tape = nullptr;
    const auto look = [&tape](const auto& operand) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(operand)>, X>) tape = &operand.tape();
    };
    (look(p), ...);
    const RootEquation<X> r = residual(tape->constant(solution), p...);
    require(r.slope.rows() == solution.rows && r.slope.cols() == solution.cols, "implicit_root: the solution is ",
            solution.rows, " x ", solution.cols, ", the slope ", r.slope.rows(), " x ", r.slope.cols());
    return implicit(solution, r.value, [slope = r.slope](View<const S> g, View<S> v) {
      math::map(
          v, [](auto x, auto s) { return x / s; }, g, slope.value());
    });
  }
}

}  // namespace diffeo::inline DIFFEO_ISA
