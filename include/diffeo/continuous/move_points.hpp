// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/continuous/continuous_part.hpp>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// `context` may be null.
template <class F, class Derived>
Array<typename F::Scalar> moved_points(const F& flow, const Eigen::DenseBase<Derived>& x,
                                       const Array<typename F::Scalar>* context, double from, double to,
                                       const Execution& execution) {
  using S = typename F::Scalar;
  const char* const who = "move_points";
  require_continuous_part<F>(who);
  for (const auto& [name, time] : {std::pair("from", from), std::pair("to", to)})
    require(time >= 0 && time <= 1, who, ": ", name, " is ", time, ", expected a time between 0 and 1");
  const auto& points = evaluate_once(x);
  require_batch<S>("move_points: x", points, flow.dim(), "flow");
  Array<S> y = points.template cast<S>().array();
  if constexpr (leads_to_cnf<F>()) {
    y = data_side(who, flow, std::move(y));
    evaluate_checked(flow, [&] {
      for_each_tile<S>(y.rows(), tile_rows_of<F>, execution, [&](Tape<S>& tape, Index first, Index count) {
        const Pass<S> outer = pass_for(tape, context, first, count);
        const Var<S> start = tape.copy(y.middleRows(first, count));
        const Var<S> end = use_continuous_part(flow, tape, outer.context, [&](const auto& cnf, const Var<S>& c) {
          Pass<S> pass = outer;
          pass.context = c;
          return cnf.move(start, from, to, pass);
        });
        y.middleRows(first, count) = as_eigen(end.value());
      });
    });
    y = data_side(who, flow, std::move(y), true);
  }
  return y;
}

}  // namespace detail

/// Moves points x (N x D, any Eigen expression) along the field of a continuous flow from time `from` to time `to`, in
/// the units of the data at all times: N x D. It is what a flow that was trained on snapshots is asked. The flow is a
/// Cnf, or a FlowSequence of that and layers without parameters, such as Standardize, or either of them within
/// conditional() and given(). The result of a row does not depend on the other rows. Throws invalid_argument for flows
/// of another form or with a context, times outside [0, 1], the wrong number of columns, NaN or infinity, and
/// integration_error as Cnf does.
template <Flow F, class Derived>
auto move_points(const F& flow, const Eigen::DenseBase<Derived>& x, double from, double to,
                 const Execution& execution = {}) {
  detail::require_no_context("move_points", flow, "flow", "call move_points(flow, x, c, from, to)");
  return detail::moved_points(flow, x, nullptr, from, to, execution);
}
/// Moves points given contexts c, N x C or 1 x C. Throws invalid_argument as well for a context of another shape, with
/// NaN or infinity, and where the flow takes none.
template <Flow F, class Derived, class Context>
auto move_points(const F& flow, const Eigen::DenseBase<Derived>& x, const Eigen::DenseBase<Context>& c, double from,
                 double to, const Execution& execution = {}) {
  const auto context = detail::context_of_rows<typename F::Scalar>("move_points", c, x.rows(), context_dim(flow));
  return detail::moved_points(flow, x, &context, from, to, execution);
}

}  // namespace diffeo::inline DIFFEO_ISA
