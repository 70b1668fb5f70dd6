// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/nn/context.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/options.hpp>
#include <diffeo/training/progress.hpp>
#include <diffeo/training/report.hpp>
#include <diffeo/training/trainer.hpp>
#include <diffeo/training/validate.hpp>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// A callback may return nothing, or whether to go on.
template <class F>
bool goes_on(F& callback, const FitProgress& progress) {
  if constexpr (std::is_void_v<decltype(callback(progress))>) {
    callback(progress);
    return true;
  } else {
    return static_cast<bool>(callback(progress));
  }
}

// Throws invalid_argument unless the data have the model's dimension and at least two rows.
template <class Model, class Derived>
void require_training_data(const Model& model, const Eigen::DenseBase<Derived>& data) {
  require(data.rows() > 0, "fit: data is empty, expected at least 2 rows");
  require(data.cols() == model.dim(), "fit: data has ", data.cols(), " columns, this flow has dimension ", model.dim());
  require(data.rows() > 1, "fit: data has 1 row, expected at least 2");
}

}  // namespace detail

/// Trains the model on an objective, by Adam on shuffled minibatches. Each callback is called after every step with a
/// FitProgress; one that returns false ends the training. With validation the parameters of the lowest validation loss
/// are kept; an objective that draws its samples has nothing to hold out. A model that begins with finite parameters
/// ends with finite ones: a loss or gradient that is not finite, or an equation of the model that is not solved
/// (solver_error), stops the training with the last good ones. An exception of a callback or of the objective comes
/// through and leaves the same parameters as if the training had ended there. While it runs the model holds its initial
/// parameters or those of the last validation. Throws invalid_argument for options out of range; the model is then as
/// before.
template <class Model, class O, class... Callbacks>
  requires Objective<O, Model> && (!std::is_const_v<Model>)
FitReport fit(Model& model, const O& objective, const FitOptions& options = {}, Callbacks&&... callbacks) {
  options.check();
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [start] { return std::chrono::duration<double>(Clock::now() - start).count(); };

  std::vector<Index> held_out;
  std::optional<Trainer<Model, O>> training;
  if constexpr (DrawsSamples<O>) {
    require(options.validation_fraction == 0, "fit: validation_fraction is ", options.validation_fraction,
            ", but this objective draws its samples and has no rows to hold out");
    training.emplace(model, objective, options);
  } else {
    constexpr std::uint64_t split_stream = 0x73706c6974212121;  // apart from those of the trainer
    std::vector<Index> rows = permutation(objective.size(), options.seed, split_stream);
    if (options.validation_fraction > 0) {
      const auto count = static_cast<Index>(options.validation_fraction * static_cast<double>(rows.size()) + 0.5);
      require(count >= 1 && count < objective.size(), "fit: validation_fraction ", options.validation_fraction, " of ",
              objective.size(), " rows leaves nothing to validate or to train on");
      held_out.assign(rows.end() - count, rows.end());
      rows.resize(rows.size() - static_cast<std::size_t>(count));
    }
    training.emplace(model, objective, std::move(rows), options);
  }
  Trainer<Model, O>& trainer = *training;

  LearningRate schedule = options.rate;
  if (!schedule.learning_rate) schedule.learning_rate = suggested_learning_rate<Model>;

  FitReport report;
  // So that steps allocate nothing, within reason.
  report.loss.reserve(static_cast<std::size_t>(std::min(options.steps, 1L << 22)));
  auto best = trainer.result();
  long without_improvement = 0;
  // Generic, so that it is compiled for objectives with rows alone.
  [[maybe_unused]] const auto validate = [&](const auto& rows) {
    set_parameters(model, trainer.result());
    const double loss = mean_loss(model, objective, rows, options.seed, options.threads);
    report.validation_step.push_back(report.steps);
    report.validation_loss.push_back(loss);
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
  ProgressBar bar(options.progress);
  try {
    while (report.steps < options.steps) {
      const double rate = schedule.at(report.steps, options.steps);
      double loss = 0;
      try {
        detail::evaluate_checked(model, [&] { loss = trainer.step(rate); });
      } catch (const solver_error& e) {
        report.reason = StopReason::not_solved;
        report.failure = e.what();
        break;
      }
      if (!std::isfinite(loss)) {
        report.reason = StopReason::non_finite;
        report.failure = trainer.failure();
        break;
      }
      report.loss.push_back(loss);
      ++report.steps;
      const FitProgress progress{report.steps, options.steps, loss, trainer.gradient_norm(), rate, elapsed()};
      bar(progress);
      bool on = true;
      ((on = detail::goes_on(callbacks, progress) && on), ...);
      if (!on) {
        report.reason = StopReason::callback;
        break;
      }
      if constexpr (!DrawsSamples<O>) {
        if (held_out.empty() || (report.steps % options.validation_every != 0 && report.steps != options.steps))
          continue;
        try {
          validate(held_out);
        } catch (const solver_error& e) {
          report.reason = StopReason::not_solved;
          report.failure = e.what();
          break;
        }
        if (options.patience > 0 && without_improvement >= options.patience) {
          report.reason = StopReason::early_stopping;
          break;
        }
      }
    }
  } catch (...) {
    keep_best_or_latest();
    throw;
  }
  keep_best_or_latest();
  report.seconds = elapsed();
  return report;
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
  const Array<S> rows = data.derived().template cast<S>().array();
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
  const Index wanted = context_dim(model);
  require(wanted > 0, "fit: got a context, but this model takes none");
  require(context.cols() == wanted, "fit: the context has ", context.cols(), " columns, this model takes one of ",
          wanted);
  const Array<S> rows = data.derived().template cast<S>().array(),
                 contexts = context.derived().template cast<S>().array();
  return fit(model, MaximumLikelihood<S>(rows, contexts), options, callbacks...);
}

}  // namespace diffeo::inline DIFFEO_ISA
