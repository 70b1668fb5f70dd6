// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/nn/context.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/options.hpp>
#include <diffeo/training/progress.hpp>
#include <diffeo/training/report.hpp>
#include <diffeo/training/trainer.hpp>
#include <diffeo/training/validate.hpp>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// The model as it is after a step of fit(), for callbacks that score, draw or save while it trains: calling it sets
/// the parameters of the model that is trained to those that the training would end with without validation, the
/// averages where FitOptions::ema_decay asks for them, and returns it. A callback that does not call it costs nothing.
///
///     diffeo::fit(model, data, {}, [&](const diffeo::FitProgress& progress, const auto& latest) {
///       if (progress.step % 1000 == 0) std::cout << latest().log_prob(test).mean() << '\n';
///     });
template <class Model>
class LatestModel {
 public:
  LatestModel(Model& model, const Array<typename Model::Scalar>& parameters)
      : model_(&model), parameters_(&parameters) {}
  const Model& operator()() const {
    set_parameters(*model_, *parameters_);
    return *model_;
  }

 private:
  Model* model_;
  const Array<typename Model::Scalar>* parameters_;
};

namespace detail {

// A callback takes the progress alone, or also the latest model. It may return nothing, or whether to go on.
template <class F, class Model>
bool goes_on(F& callback, const FitProgress& progress, const LatestModel<Model>& latest) {
  const auto call = [&] {
    if constexpr (std::is_invocable_v<F&, const FitProgress&>)
      return callback(progress);
    else
      return callback(progress, latest);
  };
  if constexpr (std::is_void_v<decltype(call())>) {
    call();
    return true;
  } else {
    return static_cast<bool>(call());
  }
}

// Throws invalid_argument unless the data have the model's dimension and at least so many rows.
template <class Model, class Derived>
void require_training_data(const Model& model, const Eigen::DenseBase<Derived>& data, const char* who = "fit",
                           Index least_rows = 2) {
  const char* const plural = least_rows == 1 ? "" : "s";
  require(data.rows() > 0, who, ": data is empty, expected at least ", least_rows, " row", plural);
  require(data.cols() == model.dim(), who, ": data has ", data.cols(), " columns, this flow has dimension ",
          model.dim());
  require(data.rows() >= least_rows, who, ": data has 1 row, expected at least ", least_rows);
}

// Returns the rows of an objective that have a weight, in random order.
template <class O>
std::vector<Index> shuffled_rows(const O& objective, std::uint64_t seed) {
  if constexpr (!HasRowWeights<O>) {
    return permutation(objective.size(), seed, split_stream);
  } else {
    std::vector<Index> rows(static_cast<std::size_t>(objective.size()));
    std::iota(rows.begin(), rows.end(), Index{0});
    if (!rows.empty()) drop_rows_without_weight("fit", objective, rows);
    // So that a row without weight changes as little as one that is not there.
    std::vector<Index> order = permutation(static_cast<Index>(rows.size()), seed, split_stream);
    for (Index& row : order) row = rows[static_cast<std::size_t>(row)];
    return order;
  }
}

// Returns what an objective warns of, and prints it on stderr if wanted.
template <class O>
std::vector<std::string> inspected([[maybe_unused]] const O& objective, [[maybe_unused]] bool print) {
  std::vector<std::string> warnings;
  if constexpr (requires { objective.inspect(); }) {
    warnings = objective.inspect();
    for (const std::string& warning : warnings)
      if (print) std::fputs(("warning: " + warning + "\n").c_str(), stderr);
  }
  return warnings;
}

// How a training goes: the steps of a trainer, with validation on the rows `held_out` of an objective of its own unless
// there are none.
template <class Model, class O, class V, class... Callbacks>
FitReport train(Model& model, Trainer<Model, O>& trainer, const V& validation, std::span<const Index> held_out,
                const FitOptions& options, std::vector<std::string> warnings, Callbacks&... callbacks) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [start] { return std::chrono::duration<double>(Clock::now() - start).count(); };

  LearningRate schedule = options.rate;
  if (!schedule.learning_rate)
    schedule.learning_rate = std::min(suggested_learning_rate<Model>, suggested_rate_bound<O>);
  Plateau plateau(schedule);
  double scale = 1;  // halved in each recovery

  FitReport report;
  report.warnings = std::move(warnings);
  // So that steps allocate nothing, within reason.
  report.loss.reserve(static_cast<std::size_t>(std::min(options.steps, 1L << 22)));
  const auto rate_now = [&] { return schedule.at(report.steps, options.steps) * plateau.scale() * scale; };
  auto best = trainer.result();
  double loss_at_start = std::numeric_limits<double>::quiet_NaN();  // of validation
  long without_improvement = 0, kept_after = 0;
  // Generic, so that it is compiled for objectives with rows alone.
  [[maybe_unused]] const auto validate = [&](const auto& rows) {
    set_parameters(model, trainer.result());
    const double loss = mean_loss(model, validation, rows, options.seed, options.threads);
    if (report.validation_step.empty()) report.best_validation_loss = loss_at_start;
    report.validation_step.push_back(report.steps);
    report.validation_loss.push_back(loss);
    plateau.add(report.steps, loss);
    if (std::isfinite(loss) && !(loss >= report.best_validation_loss)) {  // which is NaN at first
      report.best_validation_loss = loss;
      report.best_step = report.steps;
      best = trainer.result();
      without_improvement = 0;
    } else {
      ++without_improvement;
    }
  };

  const auto keep_best_or_latest = [&] {
    set_parameters(model, std::isnan(report.best_validation_loss) ? trainer.result() : best);
  };
  const auto give_up = [&](StopReason reason, const std::string& failure) {
    report.reason = reason;
    report.failure = failure;
    if (reason == StopReason::diverged)
      report.failure += " (if the loss is to grow: divergence = 0, or a comparable_from() of the objective)";
  };
  // Goes on at half the rate after the trainer went back, unless that is in vain.
  const auto recovers = [&](StopReason reason, const std::string& failure) {
    if (static_cast<long>(report.recoveries.size()) >= options.max_recoveries || trainer.snapshot_step() < 0) {
      give_up(reason, failure);
      trainer.end_at_snapshot();
      return false;
    }
    scale /= 2;
    without_improvement = 0;
    plateau.restart(report.steps);
    report.recoveries.push_back({report.steps, kept_after, reason, failure, rate_now()});
    return true;
  };
  const auto stop_reason = [](StepOutcome outcome) {
    return outcome == StepOutcome::not_solved ? StopReason::not_solved
           : outcome == StepOutcome::diverged ? StopReason::diverged
                                              : StopReason::non_finite;
  };
  ProgressBar bar(options.progress);
  try {
    if constexpr (!DrawsSamples<V>) {
      if (!held_out.empty() && options.steps > 0) {
        try {
          const double loss = mean_loss(model, validation, held_out, options.seed, options.threads);
          if (std::isfinite(loss)) loss_at_start = loss;
        } catch (const solver_error&) {  // so there is no such loss
        }
      }
    }
    while (report.steps < options.steps) {
      const double rate = rate_now();
      const long snapshot = trainer.snapshot_step();
      double loss = 0;
      try {
        evaluate_checked(model, [&] { loss = trainer.step(rate); });
      } catch (const solver_error&) {  // the trainer says so
      }
      if (trainer.snapshot_step() != snapshot) kept_after = report.steps;
      if (trainer.outcome() != StepOutcome::taken) {
        if (recovers(stop_reason(trainer.outcome()), trainer.failure())) continue;
        break;
      }
      report.loss.push_back(loss);
      ++report.steps;
      if (held_out.empty() && trainer.losses().full()) plateau.add(report.steps, trainer.losses().smoothed());
      const FitProgress progress{report.steps,
                                 options.steps,
                                 loss,
                                 trainer.gradient_norm(),
                                 rate,
                                 elapsed(),
                                 static_cast<long>(report.recoveries.size())};
      bar(progress);
      [[maybe_unused]] const LatestModel<Model> latest(model, trainer.result());
      bool on = true;
      ((on = goes_on(callbacks, progress, latest) && on), ...);
      if (!on) {
        report.reason = StopReason::callback;
        break;
      }
      if constexpr (!DrawsSamples<V>) {
        if (held_out.empty() || (report.steps % options.validation_every != 0 && report.steps != options.steps))
          continue;
        try {
          validate(held_out);
        } catch (const solver_error& e) {
          trainer.go_back();
          if (recovers(StopReason::not_solved, e.what())) continue;
          break;
        }
        if (options.patience > 0 && without_improvement >= options.patience) {
          if (const StepOutcome outcome = trainer.judge(); outcome != StepOutcome::taken) {
            const std::string why = trainer.failure();
            trainer.go_back();
            if (recovers(stop_reason(outcome), why)) continue;
            break;
          }
          report.reason = StopReason::early_stopping;
          break;
        }
      }
    }
    // Nothing has looked at the parameters after the last step yet, nor at averages.
    if (std::isnan(report.best_validation_loss) && report.steps > 0 && !report.failed())
      if (const StepOutcome end = trainer.settle(); end != StepOutcome::taken)
        give_up(stop_reason(end), concat_message(trainer.failure(), "; back to step ", kept_after));
  } catch (...) {
    keep_best_or_latest();
    throw;
  }
  keep_best_or_latest();
  if (std::isfinite(trainer.losses().best())) report.best_loss = trainer.losses().best();
  report.seconds = elapsed();
  return report;
}

}  // namespace detail

/// Trains the model on an objective, by Adam on shuffled minibatches. Each callback is called after every step with a
/// FitProgress, or with that and a LatestModel; one that returns false ends the training. With validation the
/// parameters of the lowest validation loss are kept; an objective that draws its samples has nothing to hold out.
///
/// While it trains it keeps a snapshot of the parameters and the optimiser at the lowest smoothed loss (see LossWatch).
/// Where a loss or gradient is not finite, an equation of the model is not solved (solver_error), or the loss has left
/// the best by far, it goes back to the snapshot and on at half the rate, FitOptions::max_recoveries times at most;
/// then it ends there. What goes wrong before the first step ends it at once. The step that failed does not count as
/// one, and the report lists all that happened. Without validation, the parameters at the end are compared with the
/// snapshot on the last minibatch, or on a few where that is small, and the training ends with the snapshot where they
/// are much worse or no good. So a model whose losses are finite at first ends with parameters whose losses are.
///
/// With validation the initial parameters are validated, too, and kept where those of no step validated are better.
/// Where patience runs out, it goes back as above if the loss of the training has left the best by far.
///
/// An exception of a callback or of the objective comes through and leaves the parameters of the lowest validation
/// loss, or without validation the latest ones. While it runs the model holds its initial parameters or those that were
/// last asked for, by validation or by a callback. Throws invalid_argument for options out of range; the model is then
/// as before.
template <class Model, class O, class... Callbacks>
  requires Objective<O, Model> && (!std::is_const_v<Model>)
FitReport fit(Model& model, const O& objective, const FitOptions& options = {}, Callbacks&&... callbacks) {
  options.check();
  require(options.patience == 0 || options.validation_fraction > 0,
          "fit: patience needs validation_fraction > 0 or a validation set");
  std::vector<std::string> warnings = detail::inspected(objective, options.progress);
  if constexpr (DrawsSamples<O> || ChoosesRows<O>) {
    require(options.validation_fraction == 0, "fit: validation_fraction is ", options.validation_fraction,
            DrawsSamples<O> ? ", but this objective draws its samples and has no rows to hold out"
                            : ", but this objective chooses its rows: give a validation set");
    Trainer<Model, O> trainer(model, objective, options);
    return detail::train(model, trainer, objective, {}, options, std::move(warnings), callbacks...);
  } else {
    std::vector<Index> rows = detail::shuffled_rows(objective, options.seed), held_out;
    if (options.validation_fraction > 0) {
      const auto all = static_cast<Index>(rows.size());
      const auto count = static_cast<Index>(options.validation_fraction * static_cast<double>(all) + 0.5);
      require(count >= 1 && count < all, "fit: validation_fraction ", options.validation_fraction, " of ", all,
              " rows leaves nothing to validate or to train on");
      held_out.assign(rows.end() - count, rows.end());
      rows.resize(rows.size() - static_cast<std::size_t>(count));
    }
    Trainer<Model, O> trainer(model, objective, std::move(rows), options);
    return detail::train(model, trainer, objective, held_out, options, std::move(warnings), callbacks...);
  }
}

/// Trains as above and validates on all rows of another objective, which may be of another type: data of the user's own
/// choice, say, for a training that draws its samples. Throws invalid_argument for a validation_fraction, too.
template <class Model, class O, class V, class... Callbacks>
  requires Objective<O, Model> && Objective<V, Model> && (!DrawsSamples<V>) && (!std::is_const_v<Model>)
FitReport fit(Model& model, const O& objective, const V& validation, const FitOptions& options = {},
              Callbacks&&... callbacks) {
  options.check();
  require(options.validation_fraction == 0, "fit: validation_fraction is ", options.validation_fraction,
          ", but there is a validation set; expected 0");
  detail::require_suitable(validation, model, "fit: validation");
  std::vector<std::string> warnings = detail::inspected(objective, options.progress);
  std::vector<Index> held_out(static_cast<std::size_t>(std::max<Index>(0, validation.size())));
  require(!held_out.empty(), "fit: the validation set has no rows");
  std::iota(held_out.begin(), held_out.end(), Index{0});
  detail::drop_rows_without_weight("fit: validation", validation, held_out);
  if constexpr (DrawsSamples<O> || ChoosesRows<O>) {
    Trainer<Model, O> trainer(model, objective, options);
    return detail::train(model, trainer, validation, held_out, options, std::move(warnings), callbacks...);
  } else {
    Trainer<Model, O> trainer(model, objective, detail::shuffled_rows(objective, options.seed), options);
    return detail::train(model, trainer, validation, held_out, options, std::move(warnings), callbacks...);
  }
}

/// Fits the model to the rows of any Eigen expression (N x D) by maximum likelihood. Throws invalid_argument for the
/// wrong number of columns, fewer than two rows, NaN or infinity (with row and column), and options out of range.
template <class Model, class Derived, class... Callbacks>
  requires Objective<MaximumLikelihood<typename Model::Scalar>, Model> && (!std::is_const_v<Model>)
FitReport
    fit(Model& model, const Eigen::DenseBase<Derived>& data, const FitOptions& options = {}, Callbacks&&... callbacks) {
  using S = typename Model::Scalar;
  detail::require_training_data(model, data);
  const Index wanted = context_dim(model);
  require(wanted == 0, "fit: this model takes a context of ", wanted, " columns: call fit(model, data, context)");
  const Array<S> rows = converted_columns<S>("fit: data", data);
  return fit(model, MaximumLikelihood<S>(rows), options, callbacks...);
}

/// Fits a model of p(x | c) to the rows of data (N x D) given those of context (N x C), both any Eigen expression, by
/// maximum likelihood. Throws invalid_argument as above, for a model that takes no context or one of another number of
/// columns, another number of rows, and NaN or infinity in the context.
template <class Model, class Derived, class Context, class... Callbacks>
  requires Objective<MaximumLikelihood<typename Model::Scalar>, Model> && (!std::is_const_v<Model>)
FitReport fit(Model& model, const Eigen::DenseBase<Derived>& data, const Eigen::DenseBase<Context>& context,
              const FitOptions& options = {}, Callbacks&&... callbacks) {
  using S = typename Model::Scalar;
  detail::require_training_data(model, data);
  const Array<S> rows = converted_columns<S>("fit: data", data),
                 contexts = converted_columns<S>("fit: the context", context);
  return fit(model, MaximumLikelihood<S>(rows, contexts), options, callbacks...);
}

/// Fits the model to data by maximum likelihood, with contexts and weights where there are any:
///
///     diffeo::fit(model, {.x = x, .weights = weights}, {.steps = 2000});
///
/// The loss of a row counts by its weight over the mean weight; rows of weight 0 are left out. Throws invalid_argument
/// for data or contexts of another number of columns than the model takes, and as above and Dataset::check() do.
template <class Model, class... Callbacks>
  requires Objective<MaximumLikelihood<typename Model::Scalar>, Model> && (!std::is_const_v<Model>)
FitReport fit(Model& model, const Dataset<typename Model::Scalar>& data, const FitOptions& options = {},
              Callbacks&&... callbacks) {
  detail::require_training_data(model, data.x);
  return fit(model, MaximumLikelihood<typename Model::Scalar>(data), options, callbacks...);
}

/// Fits as above with a validation set of the user's own, whose weights count too:
///
///     diffeo::fit(model, {.x = x}, {.x = validation}, {.patience = 10});
///
/// Throws invalid_argument as above, for the validation set with messages that begin with "fit: validation:".
template <class Model, class... Callbacks>
  requires Objective<MaximumLikelihood<typename Model::Scalar>, Model> && (!std::is_const_v<Model>)
FitReport
    fit(Model& model, const Dataset<typename Model::Scalar>& data, const Dataset<typename Model::Scalar>& validation,
        const FitOptions& options = {}, Callbacks&&... callbacks) {
  using S = typename Model::Scalar;
  detail::require_training_data(model, data.x);
  detail::require_training_data(model, validation.x, "fit: validation", 1);
  return fit(model, MaximumLikelihood<S>(data), MaximumLikelihood<S>(validation, "fit: validation"), options,
             callbacks...);
}

}  // namespace diffeo::inline DIFFEO_ISA
