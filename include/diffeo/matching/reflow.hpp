// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <diffeo/continuous/continuous_part.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/matching/flow_matching.hpp>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// `contexts` may be null.
template <class Base, class Flow>
std::vector<Snapshot<typename Base::Scalar>> pairs_of_flow(const TransformedDistribution<Base, Flow>& model, Index n,
                                                           const Array<typename Base::Scalar>* contexts,
                                                           std::uint64_t seed, const Execution& execution) {
  using S = typename Base::Scalar;
  const char* const who = "reflow_pairs";
  require_continuous_part<Flow>(who);
  require(n >= 2, who, ": n is ", n, ", expected at least 2");
  Array<S> z(n, model.dim());
  for_each_tile<S>(n, execution, [&](Tape<S>& tape, Index first, Index count) {
    const Pass<S> pass = pass_for(tape, contexts, first, count);
    z.middleRows(first, count) = as_eigen(base_sample(model.base, tape, first, count, seed, pass).value());
  });
  if constexpr (leads_to_cnf<Flow>()) z = data_side(who, model.flow, std::move(z), true);
  Dataset<S> target{.x = contexts ? model.sample(*contexts, seed, execution) : model.sample(n, seed, execution)};
  if (contexts) target.context = *contexts;
  return {{0, {.x = std::move(z)}}, {1, std::move(target)}};
}

}  // namespace detail

/// Returns n pairs of a sample z of the base and the point x to which the continuous flow moves it, as snapshots at the
/// times 0 and 1, both in the units of the data: what rectified flow trains on ("reflow", Liu, Gong & Liu 2023, "Flow
/// straight and fast: learning to generate and transfer data with rectified flow", algorithm 1). A flow that is trained
/// on them has the same distribution, up to the errors of training, and straighter paths, so that it needs fewer steps:
///
///     const auto pairs = diffeo::reflow_pairs(model, 100'000, /*seed=*/1);
///     diffeo::fit(model, diffeo::FlowMatching(model, pairs, diffeo::LinearPath{}, diffeo::IndependentPairing{},
///                                             {.paired = true}));
///
/// The points x are those of model.sample(n, seed), by the solver and with the tolerance of the model's evaluation.
/// Throws invalid_argument for n < 2, models without a continuous flow at their beginning and such that take a context,
/// and integration_error as Cnf does.
template <class Base, class Flow>
auto reflow_pairs(const TransformedDistribution<Base, Flow>& model, Index n, std::uint64_t seed,
                  const Execution& execution = {}) {
  detail::require_no_context("reflow_pairs", model, "model", "call reflow_pairs(model, c, seed)");
  return detail::pairs_of_flow(model, n, nullptr, seed, execution);
}
/// Returns a pair for each row of the contexts c, N x C, which the second snapshot has. Throws as above, and for a
/// context of another number of columns, with NaN or infinity.
template <class Base, class Flow, class Context>
auto reflow_pairs(const TransformedDistribution<Base, Flow>& model, const Eigen::DenseBase<Context>& c,
                  std::uint64_t seed, const Execution& execution = {}) {
  const auto contexts =
      detail::context_of_rows<typename Base::Scalar>("reflow_pairs", c, c.rows(), context_dim(model), "model");
  return detail::pairs_of_flow(model, c.rows(), &contexts, seed, execution);
}

}  // namespace diffeo::inline DIFFEO_ISA
