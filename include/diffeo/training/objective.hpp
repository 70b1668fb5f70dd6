// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/autodiff/lift.hpp>
#include <span>

namespace diffeo {

/// A piece of a minibatch that an objective computes losses for.
struct Minibatch {
  std::span<const Index> rows;  ///< which rows of the objective's data, one per loss
  Index first = 0;              ///< position of rows[0] in the whole minibatch
  std::uint64_t step = 0;       ///< number of the training step
  std::uint64_t seed = 0;       ///< of the noise an objective may need: draw it by (seed, step, first + i)
};

/// What training makes small: the mean over a minibatch of one loss per row.
///
/// | expression                   | type   | meaning                                                          |
/// |------------------------------|--------|------------------------------------------------------------------|
/// | o.size()                     | Index  | rows of data to choose minibatches from                          |
/// | o.loss(model, tape, batch)   | Var<S> | batch.rows.size() x 1 losses; `model` holds arrays or tape variables |
///
/// A loss is a function of its own row and noise alone, because minibatches are cut into tiles that never meet.
/// Model: MaximumLikelihood.
template <class O, class Model>
concept Objective =
    requires(const O& o, const Model& model, Tape<typename Model::Scalar>& tape, const Minibatch& batch) {
      { o.size() } -> std::convertible_to<Index>;
      { o.loss(model, tape, batch) } -> std::same_as<Var<typename Model::Scalar>>;
    };

}  // namespace diffeo
