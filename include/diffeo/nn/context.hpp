// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/parts.hpp>
#include <diffeo/core/error.hpp>

/// Contexts: what samples are conditioned on, c in p(x | c). A context has one row per sample (N x C), or one row for
/// all of them (1 x C).
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

/// Returns the number of columns of a parameter, 0 for a variable that was never set.
template <class P>
Index columns_of(const P& parameter) {
  if constexpr (is_var<P>)
    return parameter ? parameter.cols() : 0;
  else
    return parameter.cols();
}

}  // namespace detail

/// Throws invalid_argument unless the context is rows x dim or 1 x dim, with a message that begins with `who`.
template <Real S>
void require_context(const char* who, const Var<S>& context, Index rows, Index dim) {
  require(static_cast<bool>(context), who, ": expected a context of ", dim, " columns, got none");
  require(context.cols() == dim, who, ": the context has ", context.cols(), " columns, expected ", dim);
  require(context.rows() == 1 || context.rows() == rows, who, ": the context has ", context.rows(), " rows, expected ",
          rows, " or 1");
}

/// Returns the number of columns of the context that a model takes, 0 for none: that of its parts which have a
/// member context_dim(). Throws invalid_argument for parts that differ.
template <class M>
Index context_dim(const M& model, const Path& path = {}) {
  using P = std::remove_const_t<M>;
  Index dim = 0;
  if constexpr (requires { model.context_dim(); }) {
    return model.context_dim();
  } else if constexpr (detail::is_vector<P> || detail::is_tuple<P> || detail::is_named<P> || detail::HasFields<P>) {
    detail::for_each_part(model, path, [&dim](const auto& part, const Path& place) {
      const Index of_part = context_dim(part, place);
      if (of_part == 0) return;
      if (dim != 0 && dim != of_part)
        throw invalid_argument(
            concat_message(place.str(), " takes a context of ", of_part, " columns, another part one of ", dim));
      dim = of_part;
    });
  }
  return dim;
}

}  // namespace diffeo::inline DIFFEO_ISA
