// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/layers/pass.hpp>
#include <span>
#include <string>

namespace diffeo::inline DIFFEO_ISA {

/// A piece of a minibatch that an objective computes losses for.
struct Minibatch {
  std::span<const Index> rows = {};  ///< which rows of the objective's data, one per loss
  Index first = 0;                   ///< position of the first loss in the whole minibatch
  std::uint64_t step = 0;            ///< number of the training step
  std::uint64_t seed = 0;            ///< of the noise an objective may need: draw it by (seed, step, first + i)
  Index count = static_cast<Index>(rows.size());  ///< losses wanted; objectives that draw their samples have no rows
  bool training = false;  ///< true in a training step, false where a loss is evaluated alone, as in validation

  /// Returns what the model is to know about the call, for log_prob(x, pass) and draw(..., pass). Penalties that its
  /// layers ask for are collected in `penalties`, for the objective to add to its losses.
  template <Real S>
  Pass<S> pass(Penalties<S>& penalties) const {
    return {.training = training, .seed = seed, .step = step, .first_row = first, .penalties = &penalties};
  }
};

/// Marks an objective that draws its samples, so that there are no rows. It is said and not left out: a forgotten
/// size() is an error.
template <class O>
concept DrawsSamples = requires { requires bool(O::draws_samples); };

namespace detail {

template <class O, class Model>
concept HasLoss = requires(const O& o, const Model& model, Tape<typename Model::Scalar>& tape, const Minibatch& batch) {
  { o.loss(model, tape, batch) } -> std::same_as<Var<typename Model::Scalar>>;
};
template <class O, class Model>
concept HasDetachedLoss =
    requires(const O& o, const Model& model, Tape<typename Model::Scalar>& tape, const Minibatch& batch) {
      { o.loss(model, model, tape, batch) } -> std::same_as<Var<typename Model::Scalar>>;
    };

}  // namespace detail

/// What training makes small: the mean over a minibatch of one loss per row.
///
/// | expression                           | type        | meaning                                              |
/// |--------------------------------------|-------------|------------------------------------------------------|
/// | o.size()                             | Index       | rows of data to choose minibatches from              |
/// | O::draws_samples                     | bool        | true, in place of size(): there are no rows          |
/// | o.loss(model, tape, batch)           | Var<S>      | batch.count x 1; model of arrays or of tape variables |
/// | o.loss(model, detached, tape, batch) | Var<S>      | or this: `detached` is the model made of constants   |
/// | o.explain(model, tape, batch)        | std::string | optional: why a loss is not finite; may be empty     |
///
/// A loss is a function of its own row and noise alone, because minibatches are cut into tiles that never meet.
/// Models: MaximumLikelihood, ReverseKl.
template <class O, class Model>
concept Objective = (DrawsSamples<O> || requires(const O& o) {
                      { o.size() } -> std::convertible_to<Index>;
                    }) && (detail::HasLoss<O, Model> || detail::HasDetachedLoss<O, Model>);

namespace detail {

template <class O, class Model, Real S>
Var<S> loss_of(const char* what, const O& objective, const Model& model, const Model& detached, Tape<S>& tape,
               const Minibatch& batch) {
  const Var<S> loss = [&] {
    if constexpr (HasDetachedLoss<O, Model>)
      return objective.loss(model, detached, tape, batch);
    else
      return objective.loss(model, tape, batch);
  }();
  require(loss.rows() == batch.count && loss.cols() == 1, what, ": the objective returned ", loss.rows(), " x ",
          loss.cols(), " losses, expected ", batch.count, " x 1");
  return loss;
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
