// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/tiles.hpp>
#include <diffeo/training/objective.hpp>
#include <numeric>
#include <span>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Returns the mean loss of an objective over the given rows, without gradients. A solver_error names the row of the
/// data. Throws invalid_argument where there are no rows, or rows that the objective does not have.
template <class Model, class O>
  requires(!DrawsSamples<O>)
double mean_loss(const Model& model, const O& objective, std::span<const Index> rows, std::uint64_t seed = 0,
                 const Execution& execution = {}) {
  using S = typename Model::Scalar;
  const auto count = static_cast<Index>(rows.size());
  require(count > 0, "mean_loss: no rows");
  for (const Index row : rows)
    require(row >= 0 && row < objective.size(), "mean_loss: row ", row, ", the objective has ", objective.size());
  constexpr Index tile = tile_rows_of<Model>;
  std::vector<double> losses(static_cast<std::size_t>((count + tile - 1) / tile));
  try {
    for_each_tile<S>(count, tile, execution, [&](Tape<S>& tape, Index first, Index n) {
      const Minibatch batch{rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)), first, 0, seed};
      const Var<S> loss = detail::loss_of("mean_loss", objective, model, model, tape, batch);
      losses[static_cast<std::size_t>(first / tile)] = as_eigen(loss.value()).template cast<double>().sum();
    });
  } catch (const solver_error& e) {
    e.throw_for(rows[static_cast<std::size_t>(e.sample())]);
  }
  return std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(count);
}

}  // namespace diffeo::inline DIFFEO_ISA
