// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/dual.hpp>
#include <diffeo/autodiff/fields.hpp>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {
template <class T>
struct Held;
template <Real S>
struct Held<S> {
  using type = Array<S>;
  using scalar = S;
};
template <Real S>
struct Held<Var<S>> {
  using type = Var<S>;
  using scalar = S;
};
}  // namespace detail

/// How a layer holds a parameter: an array for T = float or double, a tape variable for T = Var.
template <class T>
using param_t = typename detail::Held<T>::type;

/// float or double, whichever T is made of.
template <class T>
using scalar_t = typename detail::Held<T>::scalar;

/// A value that belongs to a layer but is not trained, like the mean and scale of a standardisation.
template <class T>
struct Buffer {
  param_t<T> value;
};

/// Returns an operand of an op as a Var. Arrays become constants that refer to the array; temporary ones are copied.
template <Real S>
Var<S> as_var(Tape<S>&, Var<S> x) {
  return x;
}
template <Real S>
Var<S> as_var(Tape<S>& tape, const Array<S>& x) {
  return tape.constant(x);
}
template <Real S>
Var<S> as_var(Tape<S>& tape, const Array<S>&& x) {
  return tape.copy(x);
}
/// Returns a copy of an array of Eigen's own as a constant.
template <Real S, int Rows, int Cols, int Options, int MaxRows, int MaxCols>
Var<S> as_var(Tape<S>& tape, const Eigen::Array<S, Rows, Cols, Options, MaxRows, MaxCols>& x) {
  return tape.copy(x);
}
template <Real S, class T>
Var<S> as_var(Tape<S>& tape, const Buffer<T>& x) {
  return as_var(tape, x.value);
}
template <Real S, class T>
Var<S> as_var(Tape<S>& tape, const Buffer<T>&& x) {
  return as_var(tape, std::move(x.value));
}

namespace detail {
template <class P>
struct ScalarOfOperand {};
template <Real S>
struct ScalarOfOperand<Array<S>> {
  using type = S;
};
template <Real S, int Rows, int Cols, int Options, int MaxRows, int MaxCols>
struct ScalarOfOperand<Eigen::Array<S, Rows, Cols, Options, MaxRows, MaxCols>> {
  using type = S;
};
template <Real S>
struct ScalarOfOperand<Var<S>> {
  using type = S;
};
template <class T>
struct ScalarOfOperand<Buffer<T>> {
  using type = scalar_t<T>;
};
}  // namespace detail

/// A parameter or buffer P that may stand beside a traced value X: an array or buffer, or a Var beside a Dual.
template <class P, class X>
concept ParameterFor = Traced<X> && !std::is_same_v<P, X> && !detail::is_dual<P> &&
                       std::is_same_v<typename detail::ScalarOfOperand<P>::type, typename X::Scalar>;

}  // namespace diffeo::inline DIFFEO_ISA
