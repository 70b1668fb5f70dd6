// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/parts.hpp>
#include <diffeo/autodiff/tape.hpp>
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

// Throws invalid_argument unless a context has one row or as many as there are samples.
inline void require_context_rows(const char* who, Index rows, Index samples) {
  require(rows == 1 || rows == samples, who, ": the context has ", rows, " rows, expected ", samples,
          samples == 1 ? "" : " or 1");
}

}  // namespace detail

/// Throws invalid_argument unless the context is rows x dim or 1 x dim, with a message that begins with `who`.
template <Real S>
void require_context(const char* who, const Var<S>& context, Index rows, Index dim) {
  require(static_cast<bool>(context), who, ": expected a context of ", dim, " columns, got none");
  require(context.cols() == dim, who, ": the context has ", context.cols(), " columns, expected ", dim);
  detail::require_context_rows(who, context.rows(), rows);
}

/// Returns compute(), a Var that is to depend on the context and on parameters of type P alone. Evaluations compute it
/// once for all tiles of a call where the context is one row for all samples. The key is the address of one of the
/// parameters, which must exist unchanged until the call ends, see Tape::once().
template <class P, Real S, class F>
Var<S> once_for_context(const Var<S>& context, const P* key, const F& compute) {
  if constexpr (!detail::is_var<P>)
    if (context) return context.tape().once(context, key, compute);
  return compute();
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

namespace detail {

// Throws invalid_argument where a model takes a context, for a call without one. `what` names the call, `owner` what
// takes the context, and `instead` what to call.
template <class M>
void require_no_context(const char* what, const M& model, const char* owner, const char* instead) {
  const Index dim = diffeo::context_dim(model);
  require(dim == 0, what, ": this ", owner, " takes a context of ", dim, " column", dim == 1 ? "" : "s",
          ", got none: ", instead);
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
