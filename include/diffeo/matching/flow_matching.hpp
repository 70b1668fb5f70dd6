// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <diffeo/autodiff/ops/row_dot.hpp>
#include <diffeo/continuous/continuous_part.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/matching/denoiser.hpp>
#include <diffeo/matching/pairing.hpp>
#include <diffeo/matching/paths.hpp>
#include <diffeo/matching/times.hpp>
#include <diffeo/training/dataset.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/objective.hpp>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Data at one time of a continuous flow, which is at the base at time 0 and at the model's distribution at time 1.
template <Real S>
struct Snapshot {
  double time = 1;
  Dataset<S> data;
};

/// | option     | type  | default                                                                                     |
/// |------------|-------|---------------------------------------------------------------------------------------------|
/// | times      | Times | UniformTimes                                                                                |
/// | antithetic | bool  | false; true: rows 2 k and 2 k + 1 of a minibatch have the times of u and 1 - u              |
/// | stratified | bool  | true: the uniform number of a time comes from an interval for each row of a minibatch, all  |
/// |            |       | of them of one length; false: from [0, 1)                                                   |
/// | paired     | bool  | false: a source point is drawn from all; true: row i of a snapshot belongs to row i of the  |
/// |            |       | next                                                                                        |
struct FlowMatchingOptions {
  Times times = UniformTimes{};
  bool antithetic = false;
  bool stratified = true;
  bool paired = false;
};

/// Points and targets of some rows of a minibatch, as constants of a tape, in the coordinates of the Cnf.
template <Real S>
struct MatchingSample {
  Var<S> time;      ///< t, N x 1
  Var<S> point;     ///< x_t, N x D
  Var<S> velocity;  ///< u_t, N x D
  Var<S> noise;     ///< e, N x D; empty for a path without noise
  Var<S> context;   ///< of the model, N x C; empty where there is none
};

/// Flow matching (Lipman et al. 2023, eq. 9; Tong et al. 2024, algorithm 2): trains the field v of a continuous flow
/// without solving an equation. The loss of a row is
///
///     |v(t, x_t, c) - u_t|^2,
///
/// the sum over the D columns, not divided by D, where x_t lies on a path from a source point x0 to a target point x1
/// and u_t is the velocity of the path there. The field that minimises its mean is the mean of u_t given x_t, along
/// which the distribution of x0 flows to that of x1.
///
///     diffeo::TransformedDistribution model(diffeo::StandardNormal<float>(2), diffeo::cnf(x));
///     diffeo::fit(model, diffeo::FlowMatching(model, x), {.steps = 20'000});
///
/// The model is a TransformedDistribution whose flow is a Cnf, or a FlowSequence of that and layers without parameters,
/// such as Standardize, or either of them within conditional() and given(). Points are compared in the coordinates of
/// the Cnf: those of the data before these layers. x1 is the row of the data that the trainer chose, x0 a sample of the
/// base or of another data set. The parameters of the base are not trained; an embedding of the context is.
///
/// Snapshots at several times train one field: rows of the snapshot at t_k are the targets of points of the one before,
/// on a path that runs from t_(k-1) to t_k. If the first one is at time 0, its rows take the place of the base, and
/// what the model says about densities, which refer to its base, has no meaning:
///
///     const std::vector<diffeo::Snapshot<float>> snapshots = {{0, {before}}, {0.4, {between}}, {1, {after}}};
///     diffeo::fit(model, diffeo::FlowMatching(model, snapshots));
///
/// Weights multiply the losses of target rows, and are the probabilities of source rows. With more than one interval of
/// time, the rows of each count together as much as it is long.
///
/// A model WithDenoiser has a second field, which learns the mean of the noise of the path and so the score; its loss
/// is added to that of the velocity.
///
/// The field learns from the contexts of target rows. A source point of a data set is drawn whatever its context; a
/// pairing may look at the contexts of both, as OptimalTransportPairing does and IndependentPairing does not.
///
/// Sample i of step k is a function of (seed, k, i). Validation draws its samples by (seed, the first row of a block of
/// 512), the same in each validation, and pairs them within these blocks.
///
/// The objective has a copy of the data and of the base. Throws invalid_argument, where it is made, for models of
/// another form, for data of another number of columns than the model or with a context where it takes none, as
/// Dataset::check() does, for fewer than two rows, times of snapshots that do not ascend from at least 0 to 1, options
/// out of range, `paired` for snapshots of different numbers of rows or a source that is not data, and weights for a
/// pairing that does not allow for them. fit() throws it as well for a model with other layers behind the Cnf than the
/// one that the objective was made with.
template <Real S, MatchingPath Path = LinearPath, Pairing<S> PairingPolicy = IndependentPairing>
class FlowMatching {
 public:
  /// At 1e-2, which suits the likelihood of a Cnf, trainings of more than some 10,000 steps end at a higher loss.
  static constexpr double suggested_learning_rate = 5e-3;

  template <class Model>
  FlowMatching(const Model& model, const Dataset<S>& data, Path path = {}, PairingPolicy pairing = {},
               const FlowMatchingOptions& options = {})
      : FlowMatching(model, std::vector<const Dataset<S>*>{&data}, {1.0}, std::move(path), std::move(pairing),
                     options) {}
  /// Data without contexts and weights: any Eigen expression, N x D. Throws invalid_argument as well for columns that S
  /// rounds to a lattice.
  template <class Model, DenseExpression Data>
  FlowMatching(const Model& model, const Data& data, Path path = {}, PairingPolicy pairing = {},
               const FlowMatchingOptions& options = {})
      : FlowMatching(model, Dataset<S>{.x = converted_columns<S>("flow matching: data", data)}, std::move(path),
                     std::move(pairing), options) {}
  template <class Model>
  FlowMatching(const Model& model, const std::vector<Snapshot<S>>& snapshots, Path path = {},
               PairingPolicy pairing = {}, const FlowMatchingOptions& options = {})
      : FlowMatching(model, data_of(snapshots), times_of(snapshots), std::move(path), std::move(pairing), options) {}

  /// Number of target rows.
  Index size() const { return target_.rows(); }
  const Path& path() const { return path_; }
  const FlowMatchingOptions& options() const { return options_; }
  /// Returns the weight of a target row, 1 where there are neither weights nor several intervals of time.
  double row_weight(Index row) const { return weights_.empty() ? 1 : weights_[static_cast<std::size_t>(row)]; }

  /// Throws invalid_argument where the model has another dimension than the data, takes another context, has another
  /// form, puts the data elsewhere than the model that the objective was made with, or has a denoiser and the path no
  /// noise.
  template <class Model>
  void check(const Model& model, const char* caller = "fit") const {
    detail::require_columns_of_model(model, target_.cols(), context_.cols(), caller);
    const auto& flow = detail::distribution_of(model).flow;
    using Flow = std::remove_cvref_t<decltype(flow)>;
    detail::require_continuous_part<Flow>(caller);
    if constexpr (detail::leads_to_cnf<Flow>())
      require((detail::data_side(caller, flow, example_) == target_.topRows(1)).all(), caller,
              ": the layers behind the continuous flow put the data elsewhere than those of the model that the "
              "objective was made with");
    if constexpr (detail::has_denoiser<Model>) {
      model.check();
      require(path_.noisy(), caller, ": the model has a denoiser, but the path no noise");
    }
  }

  /// What is known of a whole minibatch.
  struct StepState {
    Index count = 0;
    std::uint64_t step = 0;  ///< number that random numbers depend on
    // Of pairings: the points of the minibatch, and memory.
    Array<S> source;
    std::vector<Index> rows, partner;
    std::vector<double> weights;
    typename PairingPolicy::template State<S> pairing;
    Tape<S> tape;
  };

  void begin_step(StepState& state, const Minibatch& whole) const {
    state.count = whole.count;
    state.step = whole.training || whole.rows.empty()
                     ? whole.step
                     : detail::mix_bits(validation_stream + static_cast<std::uint64_t>(whole.rows.front()));
    if constexpr (!PairingPolicy::independent) pair(state, whole);
  }

  /// Returns points and targets of the rows of a piece of a minibatch.
  MatchingSample<S> sample(Tape<S>& tape, const Minibatch& batch, const StepState& state) const {
    const auto n = static_cast<Index>(batch.rows.size());
    MatchingSample<S> result;
    if (context_.cols() > 0) result.context = chosen(tape, context_, batch.rows);
    const Var<S> x1 = chosen(tape, target_, batch.rows);
    const Var<S> x0 = [&] {
      if constexpr (PairingPolicy::independent)
        return draw_source(tape, batch, state.step, result.context);
      else
        return tape.copy(state.source.middleRows(batch.first, n));
    }();
    if (path_.noisy()) {
      result.noise = tape.make(n, target_.cols(), false);
      fill_normal(tape.mutable_value(result.noise), batch.seed, noise_stream + state.step, batch.first);
    }
    result.time = tape.make(n, 1, false);
    const Var<S> weights = tape.make(n, 6, false);
    weigh_path(tape, batch, state, tape.mutable_value(result.time), tape.mutable_value(weights));
    result.point = combined(tape, weights, 0, x0, x1, result.noise);
    result.velocity = combined(tape, weights, 3, x0, x1, result.noise);
    return result;
  }

  template <class Model>
    requires requires(const Model& model) { detail::distribution_of(model).flow; }
  Var<S> loss(const Model& model, Tape<S>& tape, const Minibatch& batch, const StepState& state) const {
    const auto& flow = detail::distribution_of(model).flow;
    if constexpr (detail::leads_to_cnf<std::remove_cvref_t<decltype(flow)>>()) {
      const MatchingSample<S> at = sample(tape, batch, state);
      return detail::use_continuous_part(flow, tape, at.context, [&](const auto& cnf, const Var<S>& context) {
        const Var<S> of_velocity = squared_error("field", cnf.field, at, context, at.velocity);
        if constexpr (detail::has_denoiser<Model>) {
          require(static_cast<bool>(at.noise), who, ": the model has a denoiser, but the path no noise");
          return of_velocity + squared_error("denoiser", model.denoiser, at, context, at.noise);
        } else {
          return of_velocity;
        }
      });
    } else {
      throw invalid_argument("flow matching: the model is no continuous flow");  // as check() says
    }
  }

 private:
  // Of the noise of base, path and times, apart from all other uses of a seed; steps are added.
  static constexpr std::uint64_t source_stream = 0x666d5f7372630000, noise_stream = 0x666d5f6e6f690000,
                                 time_stream = 0x666d5f74696d0000, choice_stream = 0x666d5f63686f0000,
                                 pairing_stream = 0x666d5f7061690000, validation_stream = 0x666d5f76616c0000;

  // The way from one snapshot to the next.
  struct Interval {
    double from = 0, duration = 1;
    Index first = 0, count = 0;      // rows of the target
    Array<S> source;                 // empty: the base
    Array<S> source_context;         // empty where the source has none, or the pairing does not ask for it
    std::vector<double> cumulative;  // weights of the source, added up; empty: all count the same
  };

  static std::vector<const Dataset<S>*> data_of(const std::vector<Snapshot<S>>& snapshots) {
    std::vector<const Dataset<S>*> data;
    for (const Snapshot<S>& snapshot : snapshots) data.push_back(&snapshot.data);
    return data;
  }
  static std::vector<double> times_of(const std::vector<Snapshot<S>>& snapshots) {
    std::vector<double> times;
    for (const Snapshot<S>& snapshot : snapshots) times.push_back(snapshot.time);
    return times;
  }

  template <class Model>
  FlowMatching(const Model& model, const std::vector<const Dataset<S>*>& data, const std::vector<double>& times,
               Path path, PairingPolicy pairing, const FlowMatchingOptions& options)
      : path_(std::move(path)), pairing_(std::move(pairing)), options_(options) {
    const auto& distribution = detail::distribution_of(model);
    using Flow = std::remove_cvref_t<decltype(distribution.flow)>;
    detail::require_continuous_part<Flow>(who);
    path_.check();
    pairing_.check();
    detail::check_times(options_.times);
    check_snapshots(model.dim(), data, times);
    if constexpr (detail::leads_to_cnf<Flow>()) {
      example_ = data[first_target(times)]->x.topRows(1);
      add_intervals(data, times, [&](const Array<S>& x) { return detail::data_side(who, distribution.flow, x); });
    }
    detail::require_columns_of_model(model, target_.cols(), context_.cols(), who);
    base_ = [base = distribution.base](View<S> out, std::uint64_t seed, std::uint64_t stream, Index first,
                                       [[maybe_unused]] const Pass<S>& pass) {
      if constexpr (detail::BaseTakesPass<std::remove_cvref_t<decltype(base)>>)
        base.sample_into(out, seed, stream, first, pass);
      else
        base.sample_into(out, seed, stream, first);
    };
  }

  static constexpr const char* who = "flow matching";
  static std::size_t first_target(const std::vector<double>& times) { return times.front() == 0 ? 1 : 0; }

  void check_snapshots(Index dim, const std::vector<const Dataset<S>*>& data, const std::vector<double>& times) const {
    require(!data.empty(), who, ": no snapshots, expected at least one");
    for (std::size_t k = 0; k < data.size(); ++k) {
      const std::string name = data.size() > 1 ? concat_message(who, ": snapshot ", k) : std::string(who);
      require(data[k]->x.rows() == 0 || data[k]->x.cols() == dim, name, ": data has ", data[k]->x.cols(),
              " columns, this flow has dimension ", dim);
      data[k]->check(name);
      require(data[k]->x.rows() >= 2, name, ": data has 1 row, expected at least 2");
      require(times[k] >= 0 && times[k] <= 1, name, ": the time is ", times[k], ", expected one between 0 and 1");
      require(k == 0 || times[k] > times[k - 1], name, ": the time is ", times[k], " after ", times[k - 1],
              ", expected times that ascend");
    }
    require(times.back() == 1, who, ": the last snapshot is at time ", times.back(), ", expected 1");
    require(times.size() > first_target(times), who, ": got a source at time 0 without a target");
  }

  template <class DataSide>
  void add_intervals(const std::vector<const Dataset<S>*>& data, const std::vector<double>& times,
                     const DataSide& data_side) {
    Index rows = 0;
    const std::size_t first = first_target(times);
    const Index context_dim = data[first]->context.cols();
    for (std::size_t k = first; k < data.size(); ++k) {
      rows += data[k]->x.rows();
      require(data[k]->context.cols() == context_dim, who, ": snapshot ", k, " has a context of ",
              data[k]->context.cols(), " columns, snapshot ", first, " one of ", context_dim);
      require(PairingPolicy::takes_weights || !data[k]->has_weights(), who,
              ": this pairing does not allow for weights of the data");
    }
    target_.resize(rows, data[first]->x.cols());
    context_.resize(rows, context_dim);
    const bool weighted = data.size() > first + 1 || data[first]->has_weights();
    if (weighted) weights_.reserve(static_cast<std::size_t>(rows));
    Index at = 0;
    for (std::size_t k = first; k < data.size(); ++k) {
      const Dataset<S>& to = *data[k];
      const Index count = to.x.rows();
      const double from = k == 0 ? 0 : times[k - 1];
      Interval interval{from, times[k] - from, at, count, {}, {}, {}};
      if (k > 0) {
        interval.source = data_side(data[k - 1]->x);
        if (!PairingPolicy::independent && data[k - 1]->context.size() > 0) {
          require(data[k - 1]->context.cols() == context_dim, who, ": the source has a context of ",
                  data[k - 1]->context.cols(), " columns, the target one of ", context_dim);
          interval.source_context = data[k - 1]->context;
        }
        double sum = 0;
        if (data[k - 1]->has_weights())
          for (const double weight : scaled_weights(*data[k - 1])) interval.cumulative.push_back(sum += weight);
      }
      if (options_.paired) {
        require(PairingPolicy::independent, who, ": paired, but the pairing chooses partners itself");
        require(k > 0, who, ": paired, but the first source is the base");
        require(interval.source.rows() == count, who, ": paired, but the source of snapshot ", k, " has ",
                interval.source.rows(), " rows, the target ", count);
        require(!data[k - 1]->has_weights(), who, ": paired, but the source has weights: give them to the target");
      }
      target_.middleRows(at, count) = data_side(to.x);
      if (context_dim > 0) context_.middleRows(at, count) = to.context;
      if (weighted) {
        // As long as the interval, whatever the rows; one interval leaves the weights as they are.
        const Eigen::ArrayXd given = data.size() > first + 1 ? scaled_weights(to) : unscaled_weights(to);
        const double factor = data.size() > first + 1 ? interval.duration * static_cast<double>(rows) / given.sum() : 1;
        for (const double weight : given) weights_.push_back(factor * weight);
      }
      at += count;
      intervals_.push_back(std::move(interval));
    }
    if constexpr (!PairingPolicy::independent) scale_contexts();
  }

  // Returns the weights of the rows of the data, 1 where there are none.
  static Eigen::ArrayXd unscaled_weights(const Dataset<S>& data) {
    if (!data.has_weights()) return Eigen::ArrayXd::Ones(data.x.rows());
    return data.weights.col(0).template cast<double>();
  }
  // Returns them times a power of two, so that they are below 2 and their sum does not overflow.
  static Eigen::ArrayXd scaled_weights(const Dataset<S>& data) {
    const Eigen::ArrayXd weights = unscaled_weights(data);
    const int exponent = std::ilogb(weights.maxCoeff());
    return weights.unaryExpr([exponent](double weight) { return std::ldexp(weight, -exponent); });
  }

  // Finds what makes contexts comparable: 1 over the standard deviation of each column, 1 where that is 0.
  void scale_contexts() {
    for (Index j = 0; j < context_.cols(); ++j) {
      const Eigen::ArrayXd column = context_.col(j).template cast<double>();
      const double deviation = std::sqrt((column - column.mean()).square().mean());
      context_scale_.push_back(static_cast<S>(deviation > 0 ? 1 / deviation : 1));
    }
  }

  std::size_t interval_of(Index row) const {
    std::size_t k = 0;
    while (row >= intervals_[k].first + intervals_[k].count) ++k;
    return k;
  }

  static Var<S> chosen(Tape<S>& tape, const Array<S>& from, std::span<const Index> rows) {
    const Var<S> x = tape.make(static_cast<Index>(rows.size()), from.cols(), false);
    gather(tape.mutable_value(x), view(from), rows);
    return x;
  }
  static void gather(View<S> to, View<const S> from, std::span<const Index> rows) {
    for (Index j = 0; j < to.cols; ++j) {
      const S* column = from.col(j);
      for (std::size_t i = 0; i < rows.size(); ++i) to.col(j)[i] = column[rows[i]];
    }
  }

  // Draws a source point for each row, before they are paired. If the source has contexts, writes those of the points,
  // scaled, to `source_context` unless that is empty.
  Var<S> draw_source(Tape<S>& tape, const Minibatch& batch, std::uint64_t step, const Var<S>& context,
                     [[maybe_unused]] View<S> source_context = {}) const {
    const Var<S> x = tape.make(static_cast<Index>(batch.rows.size()), target_.cols(), false);
    const View<S> out = tape.mutable_value(x);
    if (intervals_.front().source.rows() == 0)  // for all rows, so that each is a function of its place
      base_(out, batch.seed, source_stream + step, batch.first, Pass<S>{.context = context});
    if (intervals_.size() == 1 && intervals_.front().source.rows() == 0) return x;
    for (Index i = 0; i < out.rows; ++i) {
      const Index row = batch.rows[static_cast<std::size_t>(i)];
      const Interval& interval = intervals_[interval_of(row)];
      if (interval.source.rows() == 0) continue;
      const Index from = options_.paired ? row - interval.first : source_row(interval, batch, step, batch.first + i);
      for (Index j = 0; j < out.cols; ++j) out.col(j)[i] = interval.source(from, j);
      if (interval.source_context.rows() > 0)
        for (Index j = 0; j < source_context.cols; ++j)
          source_context.col(j)[i] = context_scale_[static_cast<std::size_t>(j)] * interval.source_context(from, j);
    }
    return x;
  }

  static Index source_row(const Interval& interval, const Minibatch& batch, std::uint64_t step, Index place) {
    PhiloxEngine engine(batch.seed, detail::mix_bits(choice_stream + step) + static_cast<std::uint64_t>(place));
    const auto rows = static_cast<std::uint64_t>(interval.source.rows());
    if (interval.cumulative.empty()) return static_cast<Index>(engine.below(rows));
    // In (0, sum], so that a row of weight 0 is never the first to reach it.
    const double mass = detail::uniform(engine) * interval.cumulative.back();
    return std::lower_bound(interval.cumulative.begin(), interval.cumulative.end(), mass) - interval.cumulative.begin();
  }

  // Fills the times of the whole flow, and alpha, beta, gamma and their derivatives with respect to these times.
  void weigh_path(Tape<S>& tape, const Minibatch& batch, const StepState& state, View<S> time, View<S> weights) const {
    const detail::TimePlan plan{options_.antithetic, options_.stratified, state.count};
    const Index first = plan.index(batch.first);
    const Var<S> numbers = tape.make(plan.index(batch.first + time.rows - 1) - first + 1, 1, false);
    fill_uniform(tape.mutable_value(numbers), batch.seed, time_stream + state.step, first);
    const double margin = path_.margin();
    for (Index i = 0; i < time.rows; ++i) {
      const Index place = batch.first + i;
      const double u = static_cast<double>(numbers.value().data[plan.index(place) - first]);
      const double t = margin + (1 - 2 * margin) * detail::time_of(options_.times, plan.number(place, u));
      const Interval& interval = intervals_[interval_of(batch.rows[static_cast<std::size_t>(i)])];
      const PathWeights w = path_.at(t);
      time.data[i] = static_cast<S>(interval.from + interval.duration * t);
      const double values[] = {w.alpha,
                               w.beta,
                               w.gamma,
                               w.alpha_rate / interval.duration,
                               w.beta_rate / interval.duration,
                               w.gamma_rate / interval.duration};
      for (Index j = 0; j < 6; ++j) weights.col(j)[i] = static_cast<S>(values[j]);
    }
  }

  // Returns the sum of x0, x1 and the noise, by three columns of the weights from `first` on.
  static Var<S> combined(Tape<S>& tape, const Var<S>& weights, Index first, const Var<S>& x0, const Var<S>& x1,
                         const Var<S>& noise) {
    const Var<S> y = tape.make(x0.rows(), x0.cols(), false);
    const View<S> out = tape.mutable_value(y);
    const auto weight = [&](Index j) { return weights.value().cols_block(first + j, 1); };
    for (Index j = 0; j < y.cols(); ++j) {
      const View<const S> a = x0.value().cols_block(j, 1), b = x1.value().cols_block(j, 1);
      if (noise)
        math::map(
            out.cols_block(j, 1),
            [](auto wa, auto wb, auto wn, auto va, auto vb, auto vn) {
              return simd::mul_add<S>(wa, va, simd::mul_add<S>(wb, vb, wn * vn));
            },
            weight(0), weight(1), weight(2), a, b, noise.value().cols_block(j, 1));
      else
        math::map(
            out.cols_block(j, 1), [](auto wa, auto wb, auto va, auto vb) { return simd::mul_add<S>(wa, va, wb * vb); },
            weight(0), weight(1), a, b);
    }
    return y;
  }

  // Returns |field(t, x_t, c) - target|^2 of each row.
  template <class Field>
  static Var<S> squared_error(const char* name, const Field& field, const MatchingSample<S>& at, const Var<S>& context,
                              const Var<S>& target) {
    const Var<S> v = detail::velocity_of_field(field, at.time, at.point, context);
    require(v.shape() == target.shape(), who, ": the ", name, " gave ", v.rows(), " x ", v.cols(), " values, expected ",
            target.rows(), " x ", target.cols());
    const Var<S> error = v - target;
    return row_dot(error, error);
  }

  // Draws the sources of the whole minibatch and puts them in the order of their targets, interval by interval.
  void pair(StepState& state, const Minibatch& whole) const {
    const auto n = static_cast<Index>(whole.rows.size());
    Tape<S>& tape = state.tape;
    tape.reset();
    Var<S> context, target_context, source_context;
    View<S> of_source;
    if (context_.cols() > 0) {
      context = chosen(tape, context_, whole.rows);
      target_context = tape.make(n, context_.cols(), false);
      const View<S> scaled = tape.mutable_value(target_context);
      for (Index j = 0; j < scaled.cols; ++j)
        for (Index i = 0; i < n; ++i)
          scaled.col(j)[i] = context_scale_[static_cast<std::size_t>(j)] * context.value().col(j)[i];
      source_context = tape.copy(as_eigen(target_context.value()));
      of_source = tape.mutable_value(source_context);
    }
    const Var<S> x0 = draw_source(tape, whole, state.step, context, of_source), x1 = chosen(tape, target_, whole.rows);
    state.source.resize(n, target_.cols());
    for (std::size_t k = 0; k < intervals_.size(); ++k) {
      state.rows.clear();  // places in the minibatch
      for (Index i = 0; i < n; ++i)
        if (interval_of(whole.rows[static_cast<std::size_t>(i)]) == k) state.rows.push_back(i);
      if (state.rows.empty()) continue;
      const auto count = static_cast<Index>(state.rows.size());
      const auto of_interval = [&](const Var<S>& all) -> View<const S> {
        if (!all) return {};
        const Var<S> part = tape.make(count, all.cols(), false);
        gather(tape.mutable_value(part), all.value(), state.rows);
        return part.value();
      };
      const View<const S> from = of_interval(x0), to = of_interval(x1);
      state.weights.clear();
      if (!weights_.empty())
        for (const Index place : state.rows)
          state.weights.push_back(row_weight(whole.rows[static_cast<std::size_t>(place)]));
      state.partner.assign(state.rows.size(), Index{-1});
      pairing_.pair(state.pairing, PairingTask<S>{from, to, state.weights, whole.seed,
                                                  detail::mix_bits(pairing_stream + state.step) + k, state.partner,
                                                  of_interval(source_context), of_interval(target_context)});
      for (Index i = 0; i < count; ++i) {
        const Index partner = state.partner[static_cast<std::size_t>(i)];
        require(partner >= 0 && partner < count, who, ": the pairing gave row ", partner, " of ", count);
        for (Index j = 0; j < from.cols; ++j)
          state.source(state.rows[static_cast<std::size_t>(i)], j) = from.col(j)[partner];
      }
    }
  }

  Path path_;
  PairingPolicy pairing_;
  FlowMatchingOptions options_;
  std::function<void(View<S>, std::uint64_t, std::uint64_t, Index, const Pass<S>&)> base_;
  std::vector<Interval> intervals_;
  Array<S> target_, context_;
  Array<S> example_;              // the first row of the data as it was given
  std::vector<S> context_scale_;  // of each column, where the pairing may ask for contexts
  std::vector<double> weights_;
};

template <class Model, class P = LinearPath, class Q = IndependentPairing>
FlowMatching(const Model&, const Dataset<typename Model::Scalar>&, P = {}, Q = {}, const FlowMatchingOptions& = {})
    -> FlowMatching<typename Model::Scalar, P, Q>;
template <class Model, DenseExpression Data, class P = LinearPath, class Q = IndependentPairing>
FlowMatching(const Model&, const Data&, P = {}, Q = {}, const FlowMatchingOptions& = {})
    -> FlowMatching<typename Model::Scalar, P, Q>;
template <class Model, class P = LinearPath, class Q = IndependentPairing>
FlowMatching(const Model&, const std::vector<Snapshot<typename Model::Scalar>>&, P = {}, Q = {},
             const FlowMatchingOptions& = {}) -> FlowMatching<typename Model::Scalar, P, Q>;

}  // namespace diffeo::inline DIFFEO_ISA
