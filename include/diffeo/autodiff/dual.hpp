// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/tape.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Forward-mode differentiation: a value and its derivative along one direction per row, of the same shape. Over
/// constants it yields Jacobian-vector products; over recorded values reverse-over-forward, the gradient of such a
/// product.
template <class X>
struct Dual {
  using Scalar = typename X::Scalar;

  X value;
  X tangent;

  Index rows() const { return value.rows(); }
  Index cols() const { return value.cols(); }
  bool requires_grad() const { return value.requires_grad() || tangent.requires_grad(); }
  auto& tape() const { return value.tape(); }
};

namespace detail {
template <class T>
inline constexpr bool is_var = false;
template <Real S>
inline constexpr bool is_var<Var<S>> = true;
template <class T>
inline constexpr bool is_dual = false;
template <class X>
inline constexpr bool is_dual<Dual<X>> = true;
}  // namespace detail

/// What a layer's mathematics is written over: Var or Dual<Var>.
template <class X>
concept Traced = detail::is_var<X> || detail::is_dual<X>;

/// The value without any tangents.
template <Real S>
Var<S> innermost(Var<S> x) {
  return x;
}
template <class X>
auto innermost(const Dual<X>& x) {
  return innermost(x.value);
}

}  // namespace diffeo::inline DIFFEO_ISA
