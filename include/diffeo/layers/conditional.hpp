// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/data/column_checks.hpp>
#include <diffeo/layers/flow.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/nn/context.hpp>

/// Flows that depend on a context: p(x | c).
namespace diffeo::inline DIFFEO_ISA {

/// Embedding of a context that leaves it as it is.
struct NoEmbedding {
  template <class Self>
  static auto fields(Self&) {
    return std::tuple<>();
  }
  template <class U>
  NoEmbedding rebind() const {
    return {};
  }
  template <class X>
  const X& operator()(const X& c) const {
    return c;
  }
};

namespace detail {

/// Whether M is a Conditional.
template <class M>
inline constexpr bool is_conditional = false;

/// Returns whether a part of a model that takes a context standardises it.
template <class M>
bool standardises_context(const M& model, const Path& path = {}) {
  using P = std::remove_const_t<M>;
  bool found = is_conditional<P>;
  // A part whose context is given looks at no other.
  if constexpr (requires { model.context_dim(); }) {
    if (model.context_dim() == 0) return false;
  }
  if constexpr (is_vector<P> || is_tuple<P> || is_named<P> || HasFields<P>)
    for_each_part(model, path, [&found](const auto& part, const Path& place) {
      found = found || standardises_context(part, place);
    });
  return found;
}

}  // namespace detail

/// A flow whose layers get the context standardised to mean 0 and standard deviation 1, as x is by Standardize, and
/// then through an embedding network. The embedding is any callable over the operations that maps N x C to N x E, with
/// fields() and rebind() as a layer has them, for instance an Mlp; it is trained with the flow.
template <class T, class F, class Embedding = NoEmbedding>
struct Conditional {
  using Scalar = scalar_t<T>;

  Standardize<T> context;  ///< mean and scale of the context, 1 x C
  Embedding embedding;
  F flow;

  Index dim() const { return flow.dim(); }
  /// Number of columns C of the context.
  Index context_dim() const { return context.dim(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("context", self.context, "embedding", self.embedding, "flow", self.flow);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "conditional");
  }
  template <class U>
  auto rebind() const {
    return Conditional<U, decltype(flow.template rebind<U>()), decltype(embedding.template rebind<U>())>{
        {}, embedding.template rebind<U>(), flow.template rebind<U>()};
  }

  /// Throws invalid_argument where the layers take no context, one of another number of columns than the embedding
  /// gives, or one that they standardise themselves.
  void check() const {
    require(!detail::standardises_context(flow),
            "conditional: this flow standardises its context already; pass a flow of the option context_dim");
    const Index taken = diffeo::context_dim(flow);
    require(taken > 0, "conditional: no layer takes a context; recipes make such layers with the option context_dim");
    if constexpr (Real<T>) {
      Tape<T> tape;
      const Array<T> mean = context.mean.value;
      const Index given = embedding(tape.constant(mean)).cols();
      require(taken == given, "conditional: the layers take a context of ", taken, " columns, this one has ", given);
    }
  }

  /// Returns what the layers get for the context c, N x C or 1 x C: standardised and embedded. Throws invalid_argument
  /// where the embedding returns another number of rows.
  Var<Scalar> embedded(const Var<Scalar>& c) const {
    const Var<Scalar> e = once_for_context(c, &context.mean.value,
                                           [&] { return Var<Scalar>(embedding((c - context.mean) / context.scale)); });
    require(e.rows() == c.rows(), "conditional: the embedding returned ", e.rows(), " rows for ", c.rows(),
            " contexts");
    return e;
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const
    requires HasForward<F, X>
  {
    return call_forward(flow, z, embedded(pass, z.rows()));
  }
  template <Traced X>
  X generate(const X& z, const Pass<Scalar>& pass = {}) const
    requires HasGenerate<F, X>
  {
    return diffeo::generate(flow, z, embedded(pass, z.rows()));
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const
    requires HasInverse<F, X>
  {
    return call_inverse(flow, x, embedded(pass, x.rows()));
  }

 private:
  Pass<Scalar> embedded(const Pass<Scalar>& pass, Index rows) const {
    require_context("flow", pass.context, rows, context_dim());
    Pass<Scalar> inner = pass;
    inner.context = embedded(pass.context);
    return inner;
  }
};

namespace detail {

template <class T, class F, class Embedding>
inline constexpr bool is_conditional<Conditional<T, F, Embedding>> = true;

/// Returns the standardisation of contexts (N x C, any Eigen expression). Throws invalid_argument for no columns, fewer
/// than two rows, NaN or infinity, constant columns, and columns that S rounds to a lattice.
template <Real S, class Derived>
Standardize<S> standardize_context(const Eigen::DenseBase<Derived>& contexts) {
  require(contexts.cols() > 0, "the context has no columns, expected at least one");
  require(contexts.rows() >= 2, "the context has ", contexts.rows(), " rows, expected at least 2");
  const auto& values = evaluate_once(contexts);
  const Array<S> converted = converted_columns<S>("the context", values);
  for (Index j = 0; j < converted.cols(); ++j)
    require(converted.col(j).minCoeff() < converted.col(j).maxCoeff(), "the context: column ", j, " is constant, ",
            converted(0, j), " in every row: leave it out");
  require_resolved_columns("the context", converted);
  return Standardize<S>::fit(values, "the context");
}

}  // namespace detail

/// Returns the flow with its context standardised to the columns of `contexts` (N x C, any Eigen expression). Throws
/// invalid_argument where the flow takes a context of another number of columns or standardises it already, and for
/// contexts of no columns, fewer than two rows, NaN or infinity, constant columns, and columns that S rounds to a
/// lattice (see require_resolved_columns()).
template <class F, class Derived>
auto conditional(F flow, const Eigen::DenseBase<Derived>& contexts) {
  using S = typename F::Scalar;
  Conditional<S, F> result{detail::standardize_context<S>(contexts), {}, std::move(flow)};
  result.check();
  return result;
}
/// Returns the flow with its context standardised and then embedded, where the flow takes a context of as many columns
/// as the embedding gives. Throws as above.
template <class F, class Derived, class Embedding>
auto conditional(F flow, const Eigen::DenseBase<Derived>& contexts, Embedding embedding) {
  using S = typename F::Scalar;
  Conditional<S, F, Embedding> result{detail::standardize_context<S>(contexts), std::move(embedding), std::move(flow)};
  result.check();
  return result;
}

/// A flow with its context fixed: x = flow.forward(z) given c. It is a flow without context.
template <class T, class F>
struct Given {
  using Scalar = scalar_t<T>;

  F flow;
  Buffer<T> context;  ///< 1 x C

  Index dim() const { return flow.dim(); }
  /// Returns 0: the context is given.
  Index context_dim() const { return 0; }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("flow", self.flow, "context", self.context);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "given a context");
  }
  template <class U>
  auto rebind() const {
    return Given<U, decltype(flow.template rebind<U>())>{flow.template rebind<U>(), {}};
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const
    requires HasForward<F, X>
  {
    return call_forward(flow, z, with_context(pass, z));
  }
  template <Traced X>
  X generate(const X& z, const Pass<Scalar>& pass = {}) const
    requires HasGenerate<F, X>
  {
    return diffeo::generate(flow, z, with_context(pass, z));
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const
    requires HasInverse<F, X>
  {
    return call_inverse(flow, x, with_context(pass, x));
  }

 private:
  template <Traced X>
  Pass<Scalar> with_context(const Pass<Scalar>& pass, const X& x) const {
    Pass<Scalar> inner = pass;
    if constexpr (Real<T>)
      inner.context = innermost(x).tape().constant_of_all_tiles(context.value);
    else
      inner.context = context.value;
    return inner;
  }
};

namespace detail {

// Returns the caller's context c as an array. Throws invalid_argument unless it is 1 x dim and finite, and for a dim of
// 0, that of an owner that takes none.
template <Real S, class Derived>
Array<S> one_context(const char* owner, Index dim, const Eigen::DenseBase<Derived>& c) {
  require(dim > 0, "given: this ", owner, " takes no context");
  require(c.rows() == 1 && c.cols() == dim, "given: the context is ", c.rows(), " x ", c.cols(), ", expected 1 x ",
          dim);
  Array<S> context = c.derived().template cast<S>().array();
  require_finite(context, "given: the context");
  return context;
}

}  // namespace detail

/// Returns the flow for one context c, 1 x C. Throws invalid_argument for another shape, NaN or infinity, and where the
/// flow takes no context.
template <class F, class Derived>
auto given(F flow, const Eigen::DenseBase<Derived>& c) {
  using S = typename F::Scalar;
  Array<S> context = detail::one_context<S>("flow", context_dim(flow), c);
  return Given<S, F>{std::move(flow), {std::move(context)}};
}

}  // namespace diffeo::inline DIFFEO_ISA
