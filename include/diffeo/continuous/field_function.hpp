// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/continuous/vector_field.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// A field without parameters from a function f(t, x) over the op vocabulary, for instance
///
///     make_field<double>(2, [](const auto& t, const auto& x) { return x * sin(t) - 1; });
///
/// t (N x 1) and x (N x D) are both Var or both Dual<Var>, and so must be the result, N x D. A function f(t, x, c)
/// takes a context besides, N x C, of the same type as t and x:
///
///     make_field<double>(2, [](const auto& t, const auto& x, const auto& c) { return c - x * t; }, 2);
///
/// A field with parameters of its own is a structure that models VectorField.
template <class T, class F>
struct FieldFunction {
  using Scalar = scalar_t<T>;

  Index dimension = 0;
  F function;
  Index context = 0;  ///< C; 0 for a function of t and x alone

  Index dim() const { return dimension; }
  /// Number of columns C of the context; 0 for a field that takes none.
  Index context_dim() const { return context; }

  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "field function", "dim", self.dimension, "context", self.context);
  }
  template <class U>
  FieldFunction<U, F> rebind() const {
    return {dimension, function, context};
  }

  /// Returns the velocities. The context, N x C or 1 x C, is ignored where the function takes none. Throws
  /// invalid_argument where it is missing or of another shape.
  template <Traced X>
  X operator()(const X& t, const X& x, const Var<Scalar>& c = {}) const {
    detail::require_point("FieldFunction", t, x, dimension);
    const X v = velocity(t, x, c);
    require(v.rows() == x.rows() && v.cols() == dimension, "FieldFunction: the function gave ", v.rows(), " x ",
            v.cols(), ", expected ", x.rows(), " x ", dimension);
    return v;
  }

 private:
  template <Traced X>
  X velocity(const X& t, const X& x, const Var<Scalar>& c) const {
    if constexpr (std::invocable<const F&, const X&, const X&, const X&>) {
      if constexpr (std::invocable<const F&, const X&, const X&>)
        if (context == 0) return function(t, x);
      require_context("FieldFunction", c, x.rows(), context);
      const Var<Scalar> each = detail::row_for_each(c, x.rows());
      if constexpr (detail::is_dual<X>)
        return function(t, x, X{each, zeros(each, context)});
      else
        return function(t, x, each);
    } else {
      return function(t, x);
    }
  }
};

/// Returns the field of dimension `dim` of a function f(t, x), or f(t, x, c) with a context c of context_dim columns.
/// Throws invalid_argument for a dimension below 1, for a function of c without a context_dim, and for one without c
/// with a context_dim.
template <Real S, class F>
FieldFunction<S, F> make_field(Index dim, F function, Index context_dim = 0) {
  require(dim >= 1, "make_field: dim is ", dim, ", expected at least 1");
  using X = Var<S>;
  constexpr bool of_context = std::invocable<const F&, const X&, const X&, const X&>;
  constexpr bool without = std::invocable<const F&, const X&, const X&>;
  require(context_dim >= (without ? 0 : 1), "make_field: context_dim is ", context_dim, ", expected at least ",
          without ? "0" : "1 for a function of c");
  require(of_context || context_dim == 0, "make_field: context_dim is ", context_dim,
          ", but the function takes no context");
  return {dim, std::move(function), context_dim};
}

}  // namespace diffeo::inline DIFFEO_ISA
