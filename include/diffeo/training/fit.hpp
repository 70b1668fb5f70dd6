// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/progress.hpp>
#include <diffeo/training/schedule.hpp>
#include <diffeo/training/trainer.hpp>
#include <limits>
#include <ostream>

namespace diffeo::inline DIFFEO_ISA {

/// | option              | type          | default                                                               |
/// |---------------------|---------------|-----------------------------------------------------------------------|
/// | steps               | long          | 2000                                                                  |
/// | batch               | Index         | 512                                                                   |
/// | rate                | LearningRate  | 2e-3, cosine                                                          |
/// | adam                | AdamOptions   |                                                                       |
/// | clip_norm           | double        | 0: off                                                                |
/// | clip_ratio          | double        | 0: off; see TrainerOptions                                            |
/// | ema_decay           | double        | 0: off; else the model ends with parameters averaged over the steps   |
/// | validation_fraction | double        | 0: none; else this share of the rows, chosen by seed, is held out     |
/// | validation_every    | long          | 100 steps                                                             |
/// | patience            | long          | 0: off; else stop after so many validations without improvement       |
/// | seed                | std::uint64_t | 0, of the split, the order of rows and noise                          |
/// | threads             | int           | 0: all; at most one for every 128 rows of the batch is used           |
/// | progress            | bool          | true: a bar on stderr, if that is a terminal                          |
struct FitOptions {
  long steps = 2000;
  Index batch = 512;
  LearningRate rate = {};
  AdamOptions adam = {};
  double clip_norm = 0;
  double clip_ratio = 0;
  double ema_decay = 0;
  double validation_fraction = 0;
  long validation_every = 100;
  long patience = 0;
  std::uint64_t seed = 0;
  int threads = 0;
  bool progress = true;

  void check() const {
    require(steps >= 0, "fit: steps is ", steps, ", expected at least 0");
    require(validation_fraction >= 0 && validation_fraction < 1, "fit: validation_fraction is ", validation_fraction,
            ", expected 0 <= validation_fraction < 1");
    require(validation_every >= 1, "fit: validation_every is ", validation_every, ", expected at least 1");
    require(patience >= 0, "fit: patience is ", patience, ", expected at least 0");
    require(patience == 0 || validation_fraction > 0, "fit: patience needs validation_fraction > 0");
    rate.check();
  }
};

/// Why a training ended.
enum class StopReason { completed, early_stopping, callback, non_finite, not_solved };

inline const char* to_string(StopReason reason) {
  switch (reason) {
    case StopReason::early_stopping:
      return "validation loss no longer improved";
    case StopReason::callback:
      return "a callback asked to stop";
    case StopReason::non_finite:
      return "the loss or its gradient was not finite; the last good parameters were restored";
    case StopReason::not_solved:
      return "an equation of the model could not be solved; the last good parameters were restored";
    case StopReason::completed:
      break;
  }
  return "all steps done";
}

/// What a training did.
struct FitReport {
  long steps = 0;      ///< steps taken
  double seconds = 0;  ///< wall-clock time
  StopReason reason = StopReason::completed;
  std::vector<double> loss;             ///< mean loss of each step's minibatch, before the step
  std::vector<long> validation_step;    ///< steps after which the validation loss was taken
  std::vector<double> validation_loss;  ///< that loss
  double best_validation_loss = std::numeric_limits<double>::quiet_NaN();  ///< NaN without validation
  long best_step = 0;   ///< after which step it was reached; these parameters were kept
  std::string failure;  ///< after non_finite: what the objective has to say about it; may be empty

  /// Mean of the last losses, at most 100.
  double final_loss() const {
    const auto n = static_cast<std::ptrdiff_t>(std::min<std::size_t>(100, loss.size()));
    return n == 0 ? std::numeric_limits<double>::quiet_NaN()
                  : std::accumulate(loss.end() - n, loss.end(), 0.0) / static_cast<double>(n);
  }
};

inline std::ostream& operator<<(std::ostream& out, const FitReport& report) {
  out << report.steps << " steps in " << report.seconds << " s, loss " << report.final_loss();
  if (!report.validation_loss.empty())
    out << ", best validation loss " << report.best_validation_loss << " after step " << report.best_step;
  out << " (" << to_string(report.reason);
  if (!report.failure.empty()) out << ": " << report.failure;
  return out << ")";
}

/// What a callback is told after each step.
struct FitProgress {
  long step = 0;  ///< steps taken
  long steps = 0;
  double loss = 0;
  double gradient_norm = 0;
  double learning_rate = 0;
  double seconds = 0;
};

/// Mean loss of an objective over the given rows, without gradients. A solver_error names the row of the data. Throws
/// invalid_argument where there are no rows, or rows that the objective does not have.
template <class Model, class O>
  requires(!DrawsSamples<O>)
double mean_loss(const Model& model, const O& objective, std::span<const Index> rows, std::uint64_t seed = 0,
                 int threads = 0) {
  using S = typename Model::Scalar;
  const auto count = static_cast<Index>(rows.size());
  require(count > 0, "mean_loss: no rows");
  for (const Index row : rows)
    require(row >= 0 && row < objective.size(), "mean_loss: row ", row, ", the objective has ", objective.size());
  constexpr Index tile = tile_rows_of<Model>;
  std::vector<double> losses(static_cast<std::size_t>((count + tile - 1) / tile));
  try {
    for_each_tile<S>(count, tile, threads, [&](Tape<S>& tape, Index first, Index n) {
      const Minibatch batch{rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)), first, 0, seed};
      const Var<S> loss = detail::loss_of("mean_loss", objective, model, model, tape, batch);
      losses[static_cast<std::size_t>(first / tile)] = as_eigen(loss.value()).template cast<double>().sum();
    });
  } catch (const solver_error& e) {
    e.throw_for(rows[static_cast<std::size_t>(e.sample())]);
  }
  return std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(count);
}

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

}  // namespace detail

/// Trains the model on an objective, by Adam on shuffled minibatches. Each callback is called after every step with a
/// FitProgress; one that returns false ends the training. With validation the parameters of the lowest validation loss
/// are kept; an objective that draws its samples has nothing to hold out. Whatever happens the model ends with finite
/// parameters: a loss or gradient that is not finite, or an equation of the model that is not solved
/// (solver_error), stops the training with the last good ones. While it runs the model holds its initial
/// parameters or those of the last validation, and keeps them when a callback throws. Throws invalid_argument for
/// options out of range; the model is then as before.
template <class Model, class O, class... Callbacks>
  requires Objective<O, Model> && (!std::is_const_v<Model>)
FitReport fit(Model& model, const O& objective, const FitOptions& options, Callbacks&&... callbacks) {
  options.check();
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [start] { return std::chrono::duration<double>(Clock::now() - start).count(); };

  const TrainerOptions trainer_options{options.batch,     options.adam, options.clip_norm, options.clip_ratio,
                                       options.ema_decay, options.seed, options.threads};
  std::vector<Index> held_out;
  std::optional<Trainer<Model, O>> training;
  if constexpr (DrawsSamples<O>) {
    require(options.validation_fraction == 0, "fit: validation_fraction is ", options.validation_fraction,
            ", but this objective draws its samples and has no rows to hold out");
    training.emplace(model, objective, trainer_options);
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
    training.emplace(model, objective, std::move(rows), trainer_options);
  }
  Trainer<Model, O>& trainer = *training;

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

  ProgressBar bar(options.steps, options.progress);
  while (report.steps < options.steps) {
    const double rate = options.rate.at(report.steps, options.steps);
    double loss = 0;
    try {
      loss = trainer.step(rate);
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
    bar.update(report.steps, loss);
    [[maybe_unused]] const FitProgress progress{report.steps, options.steps, loss, trainer.gradient_norm(),
                                                rate,         elapsed()};
    if (!(detail::goes_on(callbacks, progress) && ...)) {
      report.reason = StopReason::callback;
      break;
    }
    if constexpr (!DrawsSamples<O>) {
      if (held_out.empty() || (report.steps % options.validation_every != 0 && report.steps != options.steps)) continue;
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
  set_parameters(model, std::isnan(report.best_validation_loss) ? trainer.result() : best);
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
  require(data.rows() > 0, "fit: data is empty, expected at least 2 rows");
  require(data.cols() == model.dim(), "fit: data has ", data.cols(), " columns, this flow has dimension ", model.dim());
  require(data.rows() > 1, "fit: data has 1 row, expected at least 2");
  const Array<S> rows = data.derived().template cast<S>().array();
  return fit(model, MaximumLikelihood<S>(rows), options, callbacks...);
}

}  // namespace diffeo::inline DIFFEO_ISA
