// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/settings.hpp>
#include <diffeo/autodiff/tiles.hpp>
#include <diffeo/layers/flow.hpp>
#include <diffeo/nn/context.hpp>

/// Evaluation of flows on arrays.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

/// Throws invalid_argument unless x has the dimension of the flow (0: any) and entries that are finite as S. `what`
/// names the function and its argument.
template <Real S, class Derived>
void require_batch(const char* what, const Eigen::DenseBase<Derived>& x, Index dim, const char* owner) {
  require(dim == 0 || x.cols() == dim, what, " has ", x.cols(), " columns, this ", owner, " has dimension ", dim);
  require_finite(x.derived().template cast<S>(), what);
}

// Returns a context of the caller, N x C or 1 x C, as an array. Throws invalid_argument unless it is finite and fits
// `rows` samples and an owner that takes `dim` columns (0: none).
template <Real S, class Context>
Array<S> context_of_rows(const char* what, const Eigen::DenseBase<Context>& c, Index rows, Index dim,
                         const char* owner = "flow") {
  require(dim > 0, what, ": got a context, but this ", owner, " takes none");
  require(c.cols() == dim, what, ": the context has ", c.cols(), " columns, this ", owner, " takes one of ", dim);
  require_context_rows(what, c.rows(), rows);
  Array<S> context = c.derived().template cast<S>().array();
  require_finite(context, concat_message(what, ": the context").c_str());
  return context;
}

// Returns the rows of a context that belong to a tile.
template <Real S>
Var<S> context_of_tile(Tape<S>& tape, const Array<S>& context, Index first, Index count) {
  return context.rows() == 1 ? tape.constant_of_all_tiles(context) : tape.copy(context.middleRows(first, count));
}

// Returns what is to be known of the rows of a tile; `context` may be null.
template <Real S>
Pass<S> pass_for(Tape<S>& tape, const Array<S>* context, Index first, Index count) {
  Pass<S> pass;
  if (context) pass.context = context_of_tile(tape, *context, first, count);
  return pass;
}

// Fills y tile by tile with what `transform` returns for the rows of the tile.
template <Real S>
void transform_tiles(const char* what, Transformed<Array<S>>& y, Index tile_rows, const Execution& execution,
                     FunctionRef<Transformed<Var<S>>(Tape<S>& tape, Index first, Index count)> transform) {
  for_each_tile<S>(y.value.rows(), tile_rows, execution, [&](Tape<S>& tape, Index first, Index count) {
    const Transformed<Var<S>> tile = transform(tape, first, count);
    require(static_cast<bool>(tile.log_det), what, ": the flow gave no log-determinants");
    require_shapes(tile, count, y.value.cols(), what, ": the flow");
    y.value.middleRows(first, count) = as_eigen(tile.value.value());
    y.log_det.middleRows(first, count) = as_eigen(tile.log_det.value());
  });
}

// Returns what direction(tile, pass) gives for the rows of x; `context` may be null.
template <class F, class Derived, class Direction>
Transformed<Array<typename F::Scalar>> transform_batch(const char* what, const F& flow,
                                                       const Eigen::DenseBase<Derived>& x,
                                                       const Array<typename F::Scalar>* context,
                                                       const Execution& execution, const Direction& direction) {
  using S = typename F::Scalar;
  const auto& points = evaluate_once(x);
  require_batch<S>(what, points, flow.dim(), "flow");
  Transformed<Array<S>> y{Array<S>(x.rows(), x.cols()), Array<S>(x.rows(), 1)};
  evaluate_checked(flow, [&] {
    transform_tiles<S>(what, y, tile_rows_of<F>, execution, [&](Tape<S>& tape, Index first, Index count) {
      return direction(tape.copy(points.middleRows(first, count)), pass_for(tape, context, first, count));
    });
  });
  return y;
}

}  // namespace detail

/// Applies the flow in the generating direction to any Eigen expression z (N x D). Returns values, N x D, and
/// log-determinants, N x 1. Throws invalid_argument for the wrong number of columns, for NaN or infinity, if the flow
/// takes a context, and if it returns results of other shapes.
template <Flow F, class Derived>
auto forward(const F& flow, const Eigen::DenseBase<Derived>& z, const Execution& execution = {}) {
  detail::require_no_context("forward", flow, "flow", "call forward(flow, z, c) or given(flow, c)");
  return detail::transform_batch("forward: z", flow, z, nullptr, execution,
                                 [&flow](const auto& v, const auto& pass) { return call_forward(flow, v, pass); });
}
/// Applies the flow given contexts c, N x C or 1 x C. The result of a row depends on its own z and c alone, and has the
/// same bits whether c is one row for all or a row for each. Throws invalid_argument as well for a context of another
/// shape, with NaN or infinity, and where the flow takes none.
template <Flow F, class Derived, class Context>
auto forward(const F& flow, const Eigen::DenseBase<Derived>& z, const Eigen::DenseBase<Context>& c,
             const Execution& execution = {}) {
  const auto context = detail::context_of_rows<typename F::Scalar>("forward", c, z.rows(), context_dim(flow));
  return detail::transform_batch("forward: z", flow, z, &context, execution,
                                 [&flow](const auto& v, const auto& pass) { return call_forward(flow, v, pass); });
}

/// Applies the inverse of the flow to any Eigen expression x (N x D). Returns values, N x D, and log-determinants, N x
/// 1. Throws as forward() does.
template <Flow F, class Derived>
auto inverse(const F& flow, const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) {
  detail::require_no_context("inverse", flow, "flow", "call inverse(flow, x, c) or given(flow, c)");
  return detail::transform_batch("inverse: x", flow, x, nullptr, execution,
                                 [&flow](const auto& v, const auto& pass) { return call_inverse(flow, v, pass); });
}
/// Applies the inverse of the flow given contexts c, N x C or 1 x C. Throws as forward() does.
template <Flow F, class Derived, class Context>
auto inverse(const F& flow, const Eigen::DenseBase<Derived>& x, const Eigen::DenseBase<Context>& c,
             const Execution& execution = {}) {
  const auto context = detail::context_of_rows<typename F::Scalar>("inverse", c, x.rows(), context_dim(flow));
  return detail::transform_batch("inverse: x", flow, x, &context, execution,
                                 [&flow](const auto& v, const auto& pass) { return call_inverse(flow, v, pass); });
}

}  // namespace diffeo::inline DIFFEO_ISA
