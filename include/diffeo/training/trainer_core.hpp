// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstdint>
#include <diffeo/autodiff/refresh.hpp>
#include <diffeo/autodiff/tape.hpp>
#include <diffeo/autodiff/tiles.hpp>
#include <diffeo/core/parallel.hpp>
#include <diffeo/core/random.hpp>
#include <diffeo/training/adam.hpp>
#include <diffeo/training/loss_watch.hpp>
#include <diffeo/training/objective.hpp>
#include <diffeo/training/options.hpp>
#include <diffeo/training/row_order.hpp>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// How a step of training went.
enum class StepOutcome { taken, non_finite, not_solved, diverged };

namespace detail {

// The part of a Trainer that is compiled once for all models and objectives: the choice of rows, shards and threads,
// the sum of the gradients, clipping, Adam and averages.
template <Real S>
class TrainerCore {
 public:
  virtual ~TrainerCore() = default;
  TrainerCore(const TrainerCore&) = delete;
  TrainerCore& operator=(const TrainerCore&) = delete;

  /// Takes one step and returns the mean loss of its minibatch before the step. Where that or the gradient is not
  /// finite, where the step would make a parameter not finite, or where the training has diverged (see LossWatch), the
  /// step is not taken and the training goes back to the snapshot: the parameters, moments and averages at the lowest
  /// smoothed loss. The result is then not finite, outcome() says what and failure() why. Where an equation of the
  /// model is not solved, the training goes back too, and the solver_error names the row of the data (of the minibatch,
  /// for an objective that draws).
  double step(double learning_rate);

  /// How the last step went.
  StepOutcome outcome() const { return outcome_; }

  /// Goes back to the snapshot, as a step that fails does by itself.
  void go_back();

  /// Compares the parameters that result() returns with the snapshot, by their losses on the last minibatch, or where
  /// that is small on as many more as make 128 rows (1024 where the snapshot is the start), 50 minibatches at most (not
  /// for an objective that chooses its rows: it may have to read them). Returns how the training went, `taken` if the
  /// parameters are good: not where an equation is not solved or a loss is not finite; neither where they are worse
  /// than the snapshot by more than chance, which is FitOptions::divergence standard errors of the differences of rows,
  /// and by more than 1, or where a training of at least 50 steps is worse than its start; nor where the snapshot is
  /// the start and they are worse by more than 0.05 and a standard error. failure() says why not. This ends a training,
  /// or goes before go_back(): it uses up the minibatches.
  StepOutcome judge();

  /// Goes back to the snapshot as end_at_snapshot() does unless the parameters are good. Returns what judge() does.
  StepOutcome settle();

  /// Goes back to the snapshot for good. Where parameters are averaged, result() is then the average of that step, or,
  /// unless the last minibatch shows that it is not much worse, the parameters of the step themselves.
  void end_at_snapshot();

  /// Number of the step that found the parameters of the snapshot, from 0; -1 before there is one.
  long snapshot_step() const { return snapshot_step_; }
  /// The smoothed loss, and its lowest value (infinity while there is none): that of the snapshot.
  const LossWatch& losses() const { return watch_; }

  /// The parameters to use: averaged over steps where ema_decay asks for that.
  const Array<S>& result() const { return average_.size() > 0 ? average_ : values_; }

  /// Norm of the last step's gradient before clipping.
  double gradient_norm() const { return gradient_norm_; }
  Index batch() const { return batch_; }
  /// Returns the number of pieces of a minibatch that have a gradient of their own: as many threads may work on a step.
  /// It may shrink after the first step, when the memory of a row is known.
  Index shards() const { return shards_; }
  /// Returns the position of a shard's first row in the minibatch, 0 <= shard <= shards().
  Index shard_begin(Index shard) const {
    return std::min(batch_, (batch_ + row_unit - 1) / row_unit * shard / shards_ * row_unit);
  }
  /// Most rows that a shard sends through the model at a time.
  Index tile() const { return tile_; }
  /// Returns why the step that failed did: what was not finite, the loss, as the objective explains it (may be empty),
  /// or the parameter whose gradient or value was not; what was not solved; or by how much the training has diverged.
  const std::string& failure() const { return failure_; }

 protected:
  // Without `rows` the objective chooses its rows, of which it has row_count, or draws its samples: 0.
  TrainerCore(Array<S> values, std::vector<Index> rows, Index row_count, Index model_tile_rows,
              const FitOptions& options, double suggested_clip_ratio);

  // What knows the types of model and objective. `worker` is the number of the thread that calls.

  // Chooses the rows of a minibatch: the next ones of the order, unless the objective chooses.
  virtual void choose_rows(std::span<Index> chosen) { order_.choose(chosen); }
  // Shows the objective the whole minibatch of a step.
  virtual void begin_step(const Minibatch& whole) = 0;
  // Records the losses of some rows on the tape of the worker.
  virtual Var<S> loss(int worker, const Minibatch& batch) = 0;
  // Recomputes buffers that depend on parameters, such as spectral norms.
  virtual void refresh_buffers(ParameterChange change) = 0;
  // Returns the weight of a row of the data.
  virtual double weight_of(Index row) const = 0;
  // Returns why the losses of some rows are not finite, on the tape of the first worker; empty if it is not known.
  virtual std::string explain_loss(const Minibatch& batch) = 0;
  // Returns path and place of a parameter in the flat vector.
  virtual std::string name_of(Index parameter) const = 0;

  // From now on the losses of rows are multiplied by their weights over this mean.
  void weigh(double mean_weight);
  // The losses of steps before this one say nothing of those after it.
  void compare_from(long step) { comparable_from_ = step; }

  std::span<const Index> rows() const { return order_.rows(); }
  std::uint64_t seed() const { return options_.seed; }
  S* values() { return values_.data(); }
  const Array<S>& current() const { return values_; }
  std::size_t workers() const { return tapes_.size(); }
  Tape<S>& tape(std::size_t worker) { return *tapes_[worker]; }

 private:
  // A shard costs a pass over the parameters and the fixed cost of every operation of a tile. On one thread a step of
  // Real NVP or of a residual flow with shards of 64 rows takes 3 to 6 % longer than with 128, with 32 rows 30 %.
  static constexpr Index least_shard_rows = 64, most_shard_rows = 128;
  // Shards that even a small minibatch is cut into, of the least rows if need be.
  static constexpr Index wanted_shards = 4;
  // The most gradients that are held at once, in numbers, unless there are few shards.
  static constexpr Index most_gradients = Index{1} << 26, always_allowed_shards = 32;
  // Shards begin at multiples of so many rows, of whole registers.
  static constexpr Index row_unit = 16;
  // Steps for which shards are dealt out to the workers evenly.
  static constexpr long dealt_steps = 6;
  // Parameters that one task of the update covers.
  static constexpr Index block_size = Index{1} << 13;

  Index blocks() const { return (values_.size() + block_size - 1) / block_size; }

  std::pair<Index, Index> block_range(Index block) const {
    return {block * block_size, std::min(values_.size(), (block + 1) * block_size)};
  }

  // Cuts the minibatch into shards and these into tiles, the first time without knowing the model's memory, and again
  // after the first step. There are then no more shards than before, nor threads.
  void choose_sharding();

  Index most_shards() const {
    return std::max(always_allowed_shards, most_gradients / std::max<Index>(1, values_.size()));
  }

  // What the gradient is multiplied by. The running mean is of norms after clipping: a burst of steep steps must not
  // raise the bar for the next.
  double clip();

  void move_average();

  Minibatch minibatch(Index first, Index count, long step) const;

  // Sums the losses of one shard and their squares, with the gradient if wanted, else stores them too.
  void run_shard(int worker, Index shard, bool with_gradient);

  double mean_loss() const {
    return std::accumulate(shard_loss_.begin(), shard_loss_.end(), 0.0) / static_cast<double>(batch_);
  }

  // The standard error of the mean loss of a minibatch, 0 for a single row.
  double standard_error(double mean) const;

  // The mean loss of the last minibatch with other parameters, and in row_losses_ those of its rows; NaN, and failure()
  // says why, where an equation of the model is not solved.
  double evaluate(const Array<S>& parameters);

  void keep_snapshot();

  // Parameters stay where they are: workers hold their address.
  static void copy_range(const Array<S>& from, Array<S>& to, Index begin, Index end) {
    std::copy(from.data() + begin, from.data() + end, to.data() + begin);
  }

  // Asks the objective about the step that has just failed, tile by tile until it has an answer.
  void explain();

  // Names the first parameter whose value in a flat vector is not finite.
  std::string first_not_finite(const S* flat) const;

  // Adds the shards' gradients of one block of parameters into the first shard's.
  void add_shards(Index block);

  FitOptions options_;
  double clip_ratio_ = 0;
  RowOrder order_;
  std::vector<Index> chosen_;
  Index model_tile_rows_ = 0, batch_ = 0, row_count_ = 0, tile_ = 0, shards_ = 0, bytes_per_row_ = 0;
  double effective_rows_ = 0;  // of a minibatch, as their weights say
  long step_ = 0;
  Array<S> values_, average_, gradients_, seeds_, row_weights_;
  Adam<S> adam_;
  // What a training that goes wrong goes back to.
  struct Snapshot {
    Array<S> values, average;
    Adam<S> adam;
    double mean_norm = 0;
  };
  Snapshot snapshot_;
  long snapshot_step_ = -1, comparable_from_ = 0;
  LossWatch watch_;
  std::vector<double> shard_loss_, shard_square_, block_norm_, row_losses_;
  double gradient_norm_ = 0, mean_norm_ = 0, mean_weight_ = 0, last_loss_ = 0;
  bool measured_ = false;  // the memory that a row takes
  StepOutcome outcome_ = StepOutcome::taken;
  std::string failure_;
  std::vector<std::unique_ptr<Tape<S>>> tapes_;
  std::optional<ThreadPool> pool_;
};

template <Real S>
TrainerCore<S>::TrainerCore(Array<S> values, std::vector<Index> rows, Index row_count, Index model_tile_rows,
                            const FitOptions& options, double suggested_clip_ratio)
    : options_(options),
      clip_ratio_(options.clip_ratio.value_or(suggested_clip_ratio)),
      order_(std::move(rows), options.seed),
      model_tile_rows_(model_tile_rows),
      batch_(row_count == 0 ? options.batch : std::min(options.batch, row_count)),
      row_count_(row_count == 0 ? std::numeric_limits<Index>::max() : row_count),
      effective_rows_(static_cast<double>(batch_)),
      values_(std::move(values)),
      adam_(values_.size(), options.adam),
      snapshot_{values_, {}, adam_},
      watch_(options.divergence, effective_rows_) {
  options.check();
  if (row_count > 0) chosen_.resize(static_cast<std::size_t>(batch_));
  block_norm_.resize(static_cast<std::size_t>(blocks()));
  if (options.ema_decay > 0) snapshot_.average = average_ = values_;
  choose_sharding();
  for (int worker = 0; worker < pool_->size(); ++worker) tapes_.push_back(std::make_unique<Tape<S>>());
}

template <Real S>
double TrainerCore<S>::step(double learning_rate) {
  if (!chosen_.empty()) choose_rows(chosen_);
  outcome_ = StepOutcome::not_solved;
  failure_.clear();
  try {
    begin_step(minibatch(0, batch_, step_));
    const auto run = [this](Index shard, int worker) { run_shard(worker, shard, true); };
    // At first every worker gets shards of every size, so that all of them find out what memory they need.
    if (step_ < dealt_steps)
      pool_->run_dealt(shards_, step_, run);
    else
      pool_->run(shards_, run);
  } catch (const solver_error& e) {
    failure_ = e.what();
    ++step_;
    go_back();
    throw;
  }
  const double loss = mean_loss();
  pool_->run(blocks(), [this](Index block, int) { add_shards(block); });
  gradient_norm_ = std::sqrt(std::accumulate(block_norm_.begin(), block_norm_.end(), 0.0));
  ++step_;
  constexpr double not_taken = std::numeric_limits<double>::quiet_NaN();
  outcome_ = StepOutcome::non_finite;
  if (!std::isfinite(loss) || !std::isfinite(gradient_norm_)) {
    if (std::isfinite(loss))
      failure_ = "the gradient of " + first_not_finite(gradients_.data());
    else
      explain();
    if (failure_.empty() && !current().allFinite()) failure_ = "the parameter " + first_not_finite(values_.data());
    if (failure_.empty()) failure_ = concat_message("the loss is ", loss);
    go_back();
    return not_taken;
  }
  const bool comparable = step_ > comparable_from_;
  const bool keep = comparable ? watch_.add(loss, standard_error(loss)) : watch_.add_incomparable();
  if (comparable && watch_.diverged()) {
    outcome_ = StepOutcome::diverged;
    failure_ = concat_message("the mean of the last losses is ", watch_.smoothed(), ", the lowest was ", watch_.best());
    go_back();
    return not_taken;
  }
  if (keep) keep_snapshot();
  adam_.begin_step(learning_rate);
  const double scale = clip();
  pool_->run(blocks(), [&](Index block, int) {
    const auto [begin, end] = block_range(block);
    block_norm_[static_cast<std::size_t>(block)] =
        adam_.update(values_.data(), gradients_.data(), begin, end, static_cast<S>(scale)) ? 0 : 1;
  });
  if (std::accumulate(block_norm_.begin(), block_norm_.end(), 0.0) > 0) {
    failure_ = "the step of " + first_not_finite(values_.data());
    go_back();
    return not_taken;
  }
  if (average_.size() > 0) move_average();
  refresh_buffers(ParameterChange::small_step);
  if (!measured_) {
    measured_ = true;
    choose_sharding();
  }
  last_loss_ = loss;
  outcome_ = StepOutcome::taken;
  return loss;
}

template <Real S>
void TrainerCore<S>::go_back() {
  if (snapshot_step_ < 0) return;  // nothing has changed
  pool_->run(blocks(), [&](Index block, int) {
    const auto [begin, end] = block_range(block);
    copy_range(snapshot_.values, values_, begin, end);
    if (average_.size() > 0) copy_range(snapshot_.average, average_, begin, end);
    adam_.copy_moments(snapshot_.adam, begin, end);
  });
  adam_.copy_count(snapshot_.adam);
  mean_norm_ = snapshot_.mean_norm;
  watch_.restart();
  refresh_buffers(ParameterChange::any);
}

template <Real S>
StepOutcome TrainerCore<S>::judge() {
  outcome_ = StepOutcome::taken;
  failure_.clear();
  if (snapshot_step_ < 0) return outcome_;
  // An objective that chooses its rows may have to read them.
  const bool more = chosen_.empty() || !order_.rows().empty();
  const Index most = more ? std::clamp<Index>(row_count_ / batch_, 1, LossWatch::window) : 1;
  // Where no loss was lower than that of the start, there is nothing to lose: smaller differences count.
  const bool from_start = snapshot_step_ == 0;
  constexpr double least_from_start = 0.05;  // nats
  const double wanted = from_start ? 1024 : 128;
  const auto minibatches =
      static_cast<long>(std::clamp(std::ceil(wanted / effective_rows_), 1.0, static_cast<double>(most)));
  std::vector<double> ended;
  double sum = 0, squares = 0, rows = 0, kept_sum = 0, estimate = 0;
  for (long k = 0; k < minibatches; ++k) {
    if (k > 0) {
      if (!chosen_.empty()) choose_rows(chosen_);
      begin_step(minibatch(0, batch_, step_));
      ++step_;
    }
    const double loss = evaluate(result());
    std::swap(ended, row_losses_);
    const std::string unsolved = std::exchange(failure_, {});
    const double kept = evaluate(snapshot_.values);
    failure_.clear();
    // A later minibatch that has no loss either way says nothing.
    if (!std::isfinite(loss) && (k == 0 || std::isfinite(kept))) {
      outcome_ = unsolved.empty() ? StepOutcome::non_finite : StepOutcome::not_solved;
      failure_ = unsolved.empty() ? concat_message("the loss at the end is ", loss) : unsolved;
      return outcome_;
    }
    // A change on one minibatch has less noise than a loss.
    if (k == 0) estimate = watch_.smoothed() + (loss - last_loss_);
    if (!std::isfinite(loss) || !std::isfinite(kept)) continue;
    for (std::size_t i = 0; i < ended.size(); ++i) {
      const double worse = ended[i] - row_losses_[i];
      sum += worse;
      squares += worse * worse;
    }
    kept_sum += kept * static_cast<double>(batch_);
    rows += static_cast<double>(batch_);
  }
  const auto enough = static_cast<double>(std::min<Index>(16, row_count_));
  if (options_.divergence == 0 || step_ <= comparable_from_ || rows < enough) return outcome_;
  const double worse = sum / rows, error = std::sqrt(std::max(0.0, squares / rows - worse * worse) / rows);
  const bool surely = worse > options_.divergence * error;
  if ((from_start && worse > std::max(least_from_start, error)) ||
      (surely && (worse > 1 || watch_.is_worse_than_start(estimate)))) {
    outcome_ = StepOutcome::diverged;
    failure_ = concat_message("the loss at the end is ", (kept_sum + sum) / rows, ", with the best parameters ",
                              kept_sum / rows);
  }
  return outcome_;
}

template <Real S>
StepOutcome TrainerCore<S>::settle() {
  if (judge() != StepOutcome::taken) {
    const std::string why = failure_;
    end_at_snapshot();
    failure_ = why;
  }
  return outcome_;
}

template <Real S>
void TrainerCore<S>::end_at_snapshot() {
  go_back();
  if (average_.size() == 0) return;
  const bool told = outcome_ != StepOutcome::not_solved;  // else it may not have seen the minibatch
  if (!told || !(evaluate(average_) <= evaluate(values_) + watch_.margin())) average_ = values_;
}

template <Real S>
void TrainerCore<S>::weigh(double mean_weight) {
  mean_weight_ = mean_weight;
  double squares = 0;
  for (const Index row : rows()) squares += std::pow(weight_of(row) / mean_weight, 2);
  // The effective number of samples (Kish 1965).
  effective_rows_ = static_cast<double>(batch_) * static_cast<double>(rows().size()) / squares;
  watch_ = LossWatch(options_.divergence, effective_rows_);
  row_weights_.resize(tile_, pool_->size());
}

template <Real S>
void TrainerCore<S>::choose_sharding() {
  // The memory on the tape says nothing of a model that asks for long tiles, a solver: its rows are dear.
  const bool measured = measured_ && model_tile_rows_ == tile_rows<S>;
  const Index suitable = measured ? tile_rows_for<S>(bytes_per_row_, (batch_ + 1) / 2) : tile_rows<S>;
  const Index fair = (batch_ + wanted_shards - 1) / wanted_shards;
  const Index rows = std::max(
      {suitable, std::clamp(fair, least_shard_rows, most_shard_rows), (batch_ + most_shards() - 1) / most_shards()});
  shards_ = (batch_ + rows - 1) / rows;
  Index longest = 0;
  for (Index shard = 0; shard < shards_; ++shard)
    longest = std::max(longest, shard_begin(shard + 1) - shard_begin(shard));
  tile_ = std::min(longest, std::max(model_tile_rows_, suitable));
  seeds_ = Array<S>::Constant(tile_, 1, S(1) / static_cast<S>(batch_));
  gradients_.resize(values_.size(), shards_);
  shard_loss_.resize(static_cast<std::size_t>(shards_));
  shard_square_.resize(static_cast<std::size_t>(shards_));
  const int threads = std::min(thread_count(options_.threads), static_cast<int>(std::min<Index>(shards_, max_threads)));
  if (!pool_ || threads < pool_->size()) pool_.emplace(threads);
  if (mean_weight_ > 0) row_weights_.resize(tile_, pool_->size());
}

template <Real S>
double TrainerCore<S>::clip() {
  double limit = options_.clip_norm > 0 ? options_.clip_norm : std::numeric_limits<double>::infinity();
  if (clip_ratio_ > 0 && mean_norm_ > 0) limit = std::min(limit, clip_ratio_ * mean_norm_);
  const double norm = std::min(gradient_norm_, limit);
  // A plain mean at first, of about the last hundred steps later.
  mean_norm_ += std::max(0.01, 1 / static_cast<double>(step_)) * (norm - mean_norm_);
  return norm < gradient_norm_ ? norm / gradient_norm_ : 1;
}

template <Real S>
void TrainerCore<S>::move_average() {
  // Early averages forget faster, so that the start does not linger.
  const double done = static_cast<double>(step_), decay = std::min(options_.ema_decay, (1 + done) / (10 + done));
  pool_->run(blocks(), [&](Index block, int) {
    const auto [begin, end] = block_range(block);
    auto average = average_.middleRows(begin, end - begin);
    average += static_cast<S>(1 - decay) * (values_.middleRows(begin, end - begin) - average);
  });
}

template <Real S>
Minibatch TrainerCore<S>::minibatch(Index first, Index count, long step) const {
  std::span<const Index> rows(chosen_);  // of an objective that draws there are none
  if (!rows.empty()) rows = rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  return {rows, first, static_cast<std::uint64_t>(step), options_.seed, count, true};
}

template <Real S>
void TrainerCore<S>::run_shard(int worker, Index shard, bool with_gradient) {
  Tape<S>& tape = *tapes_[static_cast<std::size_t>(worker)];
  if (with_gradient) tape.redirect_parameter_grads(gradients_.col(shard).data());
  const Index first = shard_begin(shard), last = shard_begin(shard + 1);
  // The first step that was taken has changed the steps' number, but not that of the minibatch.
  const long step = with_gradient ? step_ : step_ - 1;
  double total = 0, squares = 0;
  for (Index at = first; at < last; at += tile_) {
    const Index count = std::min(tile_, last - at);
    tape.reset();
    try {
      const Var<S> losses = loss(worker, minibatch(at, count, step));
      const auto values = as_eigen(losses.value()).template cast<double>();
      const auto add = [&](const auto& of_rows) {
        total += of_rows.sum();
        squares += of_rows.square().sum();
        for (Index i = 0; !with_gradient && i < count; ++i) row_losses_[static_cast<std::size_t>(at + i)] = of_rows(i);
      };
      View<const S> seeds{seeds_.data(), count, 1, count};
      if (mean_weight_ > 0) {
        auto weights = row_weights_.col(worker).head(count);
        for (Index i = 0; i < count; ++i)
          weights(i) = static_cast<S>(weight_of(chosen_[static_cast<std::size_t>(at + i)]) / mean_weight_);
        add(values.col(0) * weights.template cast<double>());
        weights *= seeds_(0, 0);
        seeds = {weights.data(), count, 1, count};
      } else {
        add(values.col(0));
      }
      if (with_gradient) tape.backward(losses, seeds);
    } catch (const solver_error& e) {
      const std::ptrdiff_t place = at + e.sample();
      e.throw_for(chosen_.empty() ? place : chosen_[static_cast<std::size_t>(place)]);
    }
    if (at == 0 && !measured_) bytes_per_row_ = tape.value_bytes() / count;
  }
  if (with_gradient) tape.finish_parameter_grads();
  shard_loss_[static_cast<std::size_t>(shard)] = total;
  shard_square_[static_cast<std::size_t>(shard)] = squares;
}

template <Real S>
double TrainerCore<S>::standard_error(double mean) const {
  const double count = static_cast<double>(batch_);
  const double squares = std::accumulate(shard_square_.begin(), shard_square_.end(), 0.0);
  const double variance = std::max(0.0, squares / count - mean * mean);
  return std::isfinite(variance) ? std::sqrt(variance / count) : std::abs(mean);
}

template <Real S>
double TrainerCore<S>::evaluate(const Array<S>& parameters) {
  row_losses_.resize(static_cast<std::size_t>(batch_));
  const bool others = &parameters != &values_;
  Array<S> own;
  const auto use = [this](const Array<S>& used) {
    copy_range(used, values_, 0, values_.size());
    refresh_buffers(ParameterChange::any);
  };
  if (others) {
    own = values_;
    use(parameters);
  }
  double loss = std::numeric_limits<double>::quiet_NaN();
  try {
    pool_->run(shards_, [this](Index shard, int worker) { run_shard(worker, shard, false); });
    loss = mean_loss();
  } catch (const solver_error& e) {
    failure_ = e.what();
  }
  if (others) use(own);
  return loss;
}

template <Real S>
void TrainerCore<S>::keep_snapshot() {
  pool_->run(blocks(), [&](Index block, int) {
    const auto [begin, end] = block_range(block);
    copy_range(values_, snapshot_.values, begin, end);
    if (average_.size() > 0) copy_range(average_, snapshot_.average, begin, end);
    snapshot_.adam.copy_moments(adam_, begin, end);
  });
  snapshot_.adam.copy_count(adam_);
  snapshot_.mean_norm = mean_norm_;
  snapshot_step_ = step_ - 1;
}

template <Real S>
void TrainerCore<S>::explain() {
  for (Index at = 0; at < batch_ && failure_.empty(); at += tile_) {
    tapes_.front()->reset();
    failure_ = explain_loss(minibatch(at, std::min(tile_, batch_ - at), step_ - 1));
  }
}

template <Real S>
std::string TrainerCore<S>::first_not_finite(const S* flat) const {
  Index at = 0;
  while (at + 1 < values_.size() && std::isfinite(flat[at])) ++at;
  return concat_message(name_of(at), " is ", flat[at]);
}

template <Real S>
void TrainerCore<S>::add_shards(Index block) {
  const auto [begin, end] = block_range(block);
  const Index count = end - begin;
  auto total = gradients_.col(0).segment(begin, count);
  for (Index shard = 1; shard < shards_; ++shard) total += gradients_.col(shard).segment(begin, count);
  block_norm_[static_cast<std::size_t>(block)] = static_cast<double>(total.square().sum());
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
