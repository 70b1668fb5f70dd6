// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/autodiff/tiles.hpp>
#include <diffeo/training/objective.hpp>
#include <numeric>
#include <span>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Returns the mean loss of an objective over the given rows as validation computes it (see Objective), without
/// gradients, by the weights of the rows where there are any. A solver_error names the row of the data. Throws
/// invalid_argument where there are no rows, or rows that the objective does not have, and for weights that are
/// negative, not finite or all 0.
template <class Model, class O>
  requires(!DrawsSamples<O>)
double mean_loss(const Model& model, const O& objective, std::span<const Index> rows, std::uint64_t seed = 0,
                 const Execution& execution = {}) {
  if constexpr (HasRowWeights<O>) {
    const auto valid = [&objective](Index row) { return row >= 0 && row < objective.size(); };
    const auto has_none = [&](Index row) { return valid(row) && !(objective.row_weight(row) > 0); };
    if (std::any_of(rows.begin(), rows.end(), has_none)) {
      std::vector<Index> kept(rows.begin(), rows.end());
      detail::drop_rows_without_weight("mean_loss", objective, kept);
      return mean_loss(model, objective, kept, seed, execution);
    }
  }
  using S = typename Model::Scalar;
  constexpr bool in_minibatches = BeginsSteps<O> && !detail::HasValidationLoss<O, Model>;
  constexpr Index longest_minibatch = 512, tile = tile_rows_of<Model>;
  const auto count = static_cast<Index>(rows.size());
  require(count > 0, "mean_loss: no rows");
  for (const Index row : rows)
    require(row >= 0 && row < objective.size(), "mean_loss: row ", row, ", the objective has ", objective.size());
  const auto piece = [&rows, seed](Index first, Index n, Index at) {
    return Minibatch{rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)), at, 0, seed};
  };
  const double mean_weight = detail::mean_weight_if_unequal(objective, rows);
  double total = 0;
  detail::step_state_t<O> state{};
  const auto add_losses = [&](Index begin, Index size) {
    if constexpr (in_minibatches) objective.begin_step(state, piece(begin, size, 0));
    std::vector<double> losses(static_cast<std::size_t>((size + tile - 1) / tile));
    try {
      for_each_tile<S>(size, tile, execution, [&](Tape<S>& tape, Index first, Index n) {
        const Minibatch batch = piece(begin + first, n, first);
        const Var<S> loss = [&] {
          if constexpr (detail::HasValidationLoss<O, Model>) {
            const Var<S> given = objective.validation_loss(model, tape, batch);
            detail::require_losses("mean_loss", given, batch);
            return given;
          } else {
            return detail::loss_of("mean_loss", objective, state, model, model, tape, batch);
          }
        }();
        const auto values = as_eigen(loss.value()).template cast<double>();
        double& sum = losses[static_cast<std::size_t>(first / tile)];
        if (mean_weight == 0) {
          sum = values.sum();
        } else if constexpr (HasRowWeights<O>) {
          for (Index i = 0; i < n; ++i)
            sum += values(i, 0) * (objective.row_weight(batch.rows[static_cast<std::size_t>(i)]) / mean_weight);
        }
      });
    } catch (const solver_error& e) {
      e.throw_for(rows[static_cast<std::size_t>(begin + e.sample())]);
    }
    total = std::accumulate(losses.begin(), losses.end(), total);
  };
  const Index longest = in_minibatches ? longest_minibatch : count;
  detail::evaluate_checked(model, [&] {
    for (Index begin = 0; begin < count; begin += longest) add_losses(begin, std::min(longest, count - begin));
  });
  return total / static_cast<double>(count);
}

}  // namespace diffeo::inline DIFFEO_ISA
