// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/layers/pass.hpp>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// A piece of a minibatch that an objective computes losses for.
struct Minibatch {
  std::span<const Index> rows = {};  ///< which rows of the objective's data, one per loss
  Index first = 0;                   ///< position of the first loss in the whole minibatch
  std::uint64_t step = 0;            ///< number of the training step
  std::uint64_t seed = 0;            ///< of the noise an objective may need: draw it by (seed, step, first + i)
  Index count = static_cast<Index>(rows.size());  ///< losses wanted; objectives that draw their samples have no rows
  bool training = false;  ///< true in a training step, false where a loss is evaluated alone, as in validation

  /// Returns what the model is to know about the call, for log_prob(x, pass) and draw(..., pass). In training the
  /// penalties that its layers ask for are collected in `penalties`, for the objective to add to its losses.
  template <Real S>
  Pass<S> pass(Penalties<S>& penalties) const {
    return {.training = training,
            .seed = seed,
            .step = step,
            .first_row = first,
            .penalties = training ? &penalties : nullptr};
  }
};

/// Marks an objective that draws its samples, so that there are no rows. The mark is explicit, so that a forgotten
/// size() is an error.
template <class O>
concept DrawsSamples = requires { requires bool(O::draws_samples); };

namespace detail {

struct NoStepState {};
template <class O>
struct StepStateOf {
  using type = NoStepState;
};
template <class O>
  requires requires { typename O::StepState; }
struct StepStateOf<O> {
  using type = typename O::StepState;
};
template <class O>
using step_state_t = typename StepStateOf<O>::type;

}  // namespace detail

/// Whether an objective looks at the whole minibatch before its losses are computed.
template <class O>
concept BeginsSteps =
    requires(const O& o, typename O::StepState& state, const Minibatch& whole) { o.begin_step(state, whole); };

/// Whether an objective chooses the rows of a minibatch by itself, such as one whose data are not in memory.
template <class O>
concept ChoosesRows = BeginsSteps<O> && requires(const O& o, typename O::StepState& state, std::span<Index> chosen,
                                                 std::uint64_t seed) { o.choose_rows(state, chosen, seed); };

namespace detail {

// Calls o.loss(arguments...), with the state of the step where the objective has one.
template <class O, class... Args>
auto call_loss(const O& o, const step_state_t<O>& state, Args&&... args)
  requires(BeginsSteps<O> ? requires { o.loss(args..., state); } : requires { o.loss(args...); })
{
  if constexpr (BeginsSteps<O>)
    return o.loss(args..., state);
  else
    return o.loss(args...);
}

template <class O, class Model>
concept HasLoss = requires(const O& o, const step_state_t<O>& state, const Model& model,
                           Tape<typename Model::Scalar>& tape, const Minibatch& batch) {
  { call_loss(o, state, model, tape, batch) } -> std::same_as<Var<typename Model::Scalar>>;
};
template <class O, class Model>
concept HasDetachedLoss = requires(const O& o, const step_state_t<O>& state, const Model& model,
                                   Tape<typename Model::Scalar>& tape, const Minibatch& batch) {
  { call_loss(o, state, model, model, tape, batch) } -> std::same_as<Var<typename Model::Scalar>>;
};
template <class O, class Model>
concept HasValidationLoss =
    requires(const O& o, const Model& model, Tape<typename Model::Scalar>& tape, const Minibatch& batch) {
      { o.validation_loss(model, tape, batch) } -> std::same_as<Var<typename Model::Scalar>>;
    };

}  // namespace detail

/// What training minimises: the mean over a minibatch of one loss per row.
///
/// | expression                            | type        | meaning                                               |
/// |---------------------------------------|-------------|-------------------------------------------------------|
/// | o.size()                              | Index       | number of rows of data to choose minibatches from     |
/// | O::draws_samples                      | bool        | true, in place of size(): there are no rows           |
/// | o.loss(model, tape, batch)            | Var<S>      | batch.count x 1; model of arrays or of tape variables |
/// | o.loss(model, detached, tape, batch)  | Var<S>      | or this: `detached` is the model made of constants    |
/// | O::StepState                          | type        | optional, default-constructible: shared by a step     |
/// | o.begin_step(state, whole)            | void        | with StepState: fills it from the whole minibatch     |
/// | o.loss(..., state)                    | Var<S>      | with StepState, in place of the two losses above      |
/// | o.choose_rows(state, chosen, seed)    | void        | optional, with StepState: fills the span of rows that |
/// |                                       |             | is the next minibatch, before begin_step()            |
/// | o.validation_loss(model, tape, batch) | Var<S>      | optional: what validation computes, batch.count x 1   |
/// | O::suggested_clip_ratio               | double      | optional: FitOptions::clip_ratio by default, else 1.2 |
/// | O::suggested_learning_rate            | double      | optional: bound of the rate that the model suggests   |
/// | o.explain(model, tape, batch)         | std::string | optional: why a loss is not finite; may be empty      |
/// | o.row_weight(row)                     | double      | optional: weight of the loss of a row of data, >= 0   |
/// | o.check(model, who)                   | void        | optional: throws invalid_argument, with a message     |
/// |                                       |             | that begins with `who`, where the model does not suit |
/// | o.inspect()                           | std::vector | optional: warnings about the data (std::string), for  |
/// |                                       |             | the report; throws where training would be in vain    |
/// | o.comparable_from()                   | long        | optional: the first step whose loss may be compared   |
/// |                                       |             | with those after it, where the objective changes      |
///
/// A minibatch is cut into pieces that never meet, so a loss is a function of its own row, of its noise and of the
/// state of the step. **loss() is called from several threads at once**, on different pieces of one minibatch, and so
/// are validation_loss() and every target or field that they call: they must not change anything they share.
/// begin_step() is called once a step, by one thread, before all of them; the state is kept from step to step, so that
/// it may use its memory again. It is the place for what needs all rows, such as pairings by optimal transport. For a
/// loss of training hand batch.pass(penalties) on to the model, so that its layers know of it (see Pass).
///
/// Validation calls validation_loss() where there is one, else loss(), with batch.training false; an objective with a
/// StepState and no validation_loss() is validated in minibatches of at most 512 consecutive rows, each with a state of
/// its own.
///
/// The loss of a row counts by its weight over the mean weight of the rows that are trained on, so that the learning
/// rate need not follow the weights; validation computes the weighted mean. Rows of weight 0 are left out, and weights
/// that are all equal are as good as none.
///
/// Models: MaximumLikelihood, FileLikelihood, ReverseKl, FlowMatching.
template <class O, class Model>
concept Objective = (DrawsSamples<O> || requires(const O& o) {
                      { o.size() } -> std::convertible_to<Index>;
                    }) && (detail::HasLoss<O, Model> || detail::HasDetachedLoss<O, Model>);

/// The FitOptions::clip_ratio that suits an objective: its static member `suggested_clip_ratio`, else 1.2.
template <class O>
inline constexpr double suggested_clip_ratio = [] {
  if constexpr (requires { O::suggested_clip_ratio; })
    return double{O::suggested_clip_ratio};
  else
    return 1.2;
}();

/// The learning rate that suits an objective at most: its static member `suggested_learning_rate`, else infinity.
template <class O>
inline constexpr double suggested_rate_bound = [] {
  if constexpr (requires { O::suggested_learning_rate; })
    return double{O::suggested_learning_rate};
  else
    return std::numeric_limits<double>::infinity();
}();

/// Whether an objective weighs the rows of its data.
template <class O>
concept HasRowWeights = requires(const O& o, Index row) {
  { o.row_weight(row) } -> std::convertible_to<double>;
};

namespace detail {

// Drops the rows whose weight is 0, in place. Throws invalid_argument for weights that are negative or not finite, and
// where no row is left.
template <class O>
void drop_rows_without_weight([[maybe_unused]] const char* who, [[maybe_unused]] const O& objective,
                              [[maybe_unused]] std::vector<Index>& rows) {
  if constexpr (HasRowWeights<O>) {
    std::erase_if(rows, [&](Index row) {
      const double weight = objective.row_weight(row);
      require(weight >= 0 && std::isfinite(weight), who, ": the weight of row ", row, " is ", weight,
              ", expected a finite number >= 0");
      return weight == 0;
    });
    require(!rows.empty(), who, ": the weights of all rows are 0");
  }
}

// Returns the mean weight of the rows, or 0 if all weights are equal.
template <class O>
double mean_weight_if_unequal([[maybe_unused]] const O& objective, [[maybe_unused]] std::span<const Index> rows) {
  if constexpr (HasRowWeights<O>) {
    if (rows.empty()) return 0;
    const double first = objective.row_weight(rows.front());
    bool equal = true;
    double mean = 0;
    for (const Index row : rows) {
      const double weight = objective.row_weight(row);
      equal = equal && weight == first;
      mean += weight / static_cast<double>(rows.size());  // the sum may be too large for a number
    }
    return equal ? 0 : mean;
  } else {
    return 0;
  }
}

// Asks an objective whether it suits the model. Messages begin with `who`.
template <class O, class Model>
void require_suitable([[maybe_unused]] const O& objective, [[maybe_unused]] const Model& model,
                      [[maybe_unused]] const char* who) {
  if constexpr (requires { objective.check(model, who); }) objective.check(model, who);
}

template <Real S>
void require_losses(const char* what, const Var<S>& loss, const Minibatch& batch) {
  require(loss.rows() == batch.count && loss.cols() == 1, what, ": the objective returned ", loss.rows(), " x ",
          loss.cols(), " losses, expected ", batch.count, " x 1");
}

template <class O, class Model, Real S>
Var<S> loss_of(const char* what, const O& objective, const step_state_t<O>& state, const Model& model,
               const Model& detached, Tape<S>& tape, const Minibatch& batch) {
  const Var<S> loss = [&] {
    if constexpr (HasDetachedLoss<O, Model>)
      return call_loss(objective, state, model, detached, tape, batch);
    else
      return call_loss(objective, state, model, tape, batch);
  }();
  require_losses(what, loss, batch);
  return loss;
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
