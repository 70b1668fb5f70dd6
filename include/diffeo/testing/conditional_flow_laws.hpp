// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/layers/conditional.hpp>
#include <diffeo/testing/flow_laws.hpp>

/// Tests of the laws of flows that take a context: see check_conditional_flow_laws().
namespace diffeo::inline DIFFEO_ISA::testing {

/// A flow of x given c as a flow of (c, x), of dimension C + D, that leaves c as it is. Its log-determinant is that of
/// the flow of x, its input gradients are those in x and in c, and its rows have contexts of their own.
template <class F>
struct ContextAsCoordinates {
  using Scalar = typename F::Scalar;

  F flow;
  Index context = 0;  ///< C

  Index dim() const { return context + flow.dim(); }
  Index context_dim() const { return 0; }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("flow", self.flow);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "context as coordinates", "context", self.context);
  }
  template <class U>
  auto rebind() const {
    return ContextAsCoordinates<decltype(flow.template rebind<U>())>{flow.template rebind<U>(), context};
  }

  Transformed<Var<Scalar>> forward(const Var<Scalar>& z, const Pass<Scalar>& pass = {}) const {
    return apply(z, pass, [this](const auto& v, const auto& p) { return call_forward(flow, v, p); });
  }
  Transformed<Var<Scalar>> inverse(const Var<Scalar>& x, const Pass<Scalar>& pass = {}) const {
    return apply(x, pass, [this](const auto& v, const auto& p) { return call_inverse(flow, v, p); });
  }

 private:
  template <class Direction>
  Transformed<Var<Scalar>> apply(const Var<Scalar>& both, const Pass<Scalar>& pass, const Direction& direction) const {
    Pass<Scalar> inner = pass;
    inner.context = cols(both, 0, context);
    const Transformed<Var<Scalar>> y = direction(cols(both, context, both.cols() - context), inner);
    return {concat(inner.context, y.value), y.log_det};
  }
};

/// Checks the laws of a flow that takes a context of C columns: those of check_flow_laws() for the flow given one
/// context, drawn from N(0, 1) by options.seed; the same for the flow of (c, x), where every row has a context of its
/// own and gradients with respect to contexts count as input gradients; and that a context shared by all rows gives the
/// same bits as one for each row. Throws invalid_argument for a flow that takes no context.
template <Flow F>
FlowLawReport check_conditional_flow_laws(const F& flow, const FlowLawOptions<typename F::Scalar>& options = {}) {
  using S = typename F::Scalar;
  const Index dim = context_dim(flow);
  require(dim > 0, "check_conditional_flow_laws: this flow takes no context");
  const Array<S> c = detail::normal_array<S>(1, dim, options.seed, 6);
  const auto given_c = given(flow, c);
  const ContextAsCoordinates<F> with_contexts{flow, dim};
  FlowLawReport report;
  const auto append = [&report](const FlowLawReport& part, const char* name) {
    for (FlowLaw law : part.laws) {
      law.name = name + law.name;
      report.laws.push_back(std::move(law));
    }
  };
  append(check_flow_laws(given_c, options), "given a context: ");
  append(check_flow_laws(with_contexts, options), "with contexts: ");
  FlowLaw same{"a shared context gives the bits of one for each row", 0, 0};
  for (const bool forwards : {true, false}) {
    const Array<S> x = detail::normal_array<S>(options.rows, flow.dim(), options.seed, 7);
    Array<S> both(x.rows(), dim + x.cols());
    both << c.replicate(x.rows(), 1), x;
    const auto shared = forwards ? diffeo::forward(given_c, x) : diffeo::inverse(given_c, x);
    const auto own = forwards ? diffeo::forward(with_contexts, both) : diffeo::inverse(with_contexts, both);
    if (!shared.value.allFinite() || !shared.log_det.allFinite() ||
        !(own.value.rightCols(x.cols()) == shared.value).all() || !(own.log_det == shared.log_det).all())
      same.error = std::numeric_limits<double>::infinity();
  }
  report.laws.push_back(same);
  return report;
}

}  // namespace diffeo::inline DIFFEO_ISA::testing
