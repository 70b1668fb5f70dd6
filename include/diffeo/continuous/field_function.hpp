// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/continuous/vector_field.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// A field without parameters from a function f(t, x) over the op vocabulary, for instance
///
///     make_field<double>(2, [](const auto& t, const auto& x) { return x * sin(t) - 1; });
///
/// t (N x 1) and x (N x D) are both Var or both Dual<Var>, and so must be the result, N x D. A field with parameters of
/// its own is a structure that models VectorField.
template <class T, class F>
struct FieldFunction {
  using Scalar = scalar_t<T>;

  Index dimension = 0;
  F function;

  Index dim() const { return dimension; }

  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "field function", "dim", self.dimension);
  }
  template <class U>
  FieldFunction<U, F> rebind() const {
    return {dimension, function};
  }

  template <Traced X>
  X operator()(const X& t, const X& x) const {
    detail::require_point("FieldFunction", t, x, dimension);
    const X v = function(t, x);
    require(v.rows() == x.rows() && v.cols() == dimension, "FieldFunction: the function gave ", v.rows(), " x ",
            v.cols(), ", expected ", x.rows(), " x ", dimension);
    return v;
  }
};

template <Real S, class F>
FieldFunction<S, F> make_field(Index dim, F function) {
  require(dim >= 1, "make_field: dim is ", dim, ", expected at least 1");
  return {dim, std::move(function)};
}

}  // namespace diffeo::inline DIFFEO_ISA
