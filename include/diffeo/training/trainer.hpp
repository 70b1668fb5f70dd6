// SPDX-License-Identifier: MIT
#pragma once

#include <cassert>
#include <cstdint>
#include <diffeo/autodiff/leaves.hpp>
#include <diffeo/training/trainer_core.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Steps of stochastic gradient descent on a copy of a model's parameters. A minibatch is cut into shards, which the
/// threads share out among themselves, by the number of its rows and by the memory that a row takes, which the first
/// step finds out: never by the threads or the machine. The shards' gradients are added in one order, so that the
/// number of threads does not change a bit. After the first few steps nothing is allocated.
template <class Model, class O>
  requires Objective<O, Model>
class Trainer final : public detail::TrainerCore<typename Model::Scalar> {
  using Core = detail::TrainerCore<typename Model::Scalar>;

 public:
  using S = typename Model::Scalar;

  /// Trains on the rows `rows` of the objective, except those of weight 0. The trainer copies the model; the objective
  /// must outlive it. Throws invalid_argument for options out of range, no rows, rows that the objective does not have,
  /// and weights that are negative, not finite or all 0.
  Trainer(const Model& model, const O& objective, std::vector<Index> rows, const FitOptions& options)
    requires(!DrawsSamples<O> && !ChoosesRows<O>)
      : Trainer(model, objective, checked(std::move(rows), objective), options, 0) {}
  /// Trains on an objective that draws its samples, options.batch of them a step, or that chooses its rows.
  Trainer(const Model& model, const O& objective, const FitOptions& options)
    requires(DrawsSamples<O> || ChoosesRows<O>)
      : Trainer(model, objective, {}, options, 0) {}

 private:
  using Lifted = decltype(lift(std::declval<Tape<S>&>(), std::declval<const Model&>(), nullptr, nullptr));

  // A begin_step that training could not call is a mistake.
  static constexpr bool names_begin_step = requires { typename O::StepState; } || requires { &O::begin_step; };
  // So are a validation_loss that validation could not call and an explain.
  static constexpr bool names_validation_loss =
      requires { &O::validation_loss; } ||
      requires(const O& o, const Model& model, Tape<S>& tape, const Minibatch& batch,
               const detail::step_state_t<O>& s) { o.validation_loss(model, tape, batch, s); };
  static constexpr bool detaches = detail::HasDetachedLoss<O, Lifted>;
  static constexpr bool explains = requires(const O& o, const Lifted& model, Tape<S>& tape, const Minibatch& batch) {
    { o.explain(model, tape, batch) } -> std::convertible_to<std::string>;
  };

  // The model over the variables of one thread.
  struct Worker {
    Worker(Tape<S>& tape, const Model& model, S* values) : lifted(lift(tape, model, values, nullptr)) {
      if constexpr (detaches) detached.emplace(lift_detached(tape, model, values));
    }
    Lifted lifted;
    std::optional<Lifted> detached;
  };

  static std::vector<Index> checked(std::vector<Index> rows, const O& objective) {
    const Index size = objective.size();
    require(!rows.empty(), "fit: no rows to train on");
    for (const Index row : rows)
      require(row >= 0 && row < size, "fit: row ", row, ", the objective has ", size, " rows");
    detail::drop_rows_without_weight("fit", objective, rows);
    return rows;
  }

  static Index row_count([[maybe_unused]] const std::vector<Index>& rows, [[maybe_unused]] const O& objective) {
    if constexpr (ChoosesRows<O>)
      return objective.size();
    else
      return static_cast<Index>(rows.size());
  }

  // The last argument only tells this constructor from the public ones.
  Trainer(const Model& model, const O& objective, std::vector<Index> rows, const FitOptions& options, int)
      : Core(parameters(model), rows, row_count(rows, objective), tile_rows_of<Model>, options,
             suggested_clip_ratio<O>),
        model_(model),
        objective_(objective) {
    static_assert(BeginsSteps<O> || !names_begin_step,
                  "fit: expected a StepState and void begin_step(StepState&, const Minibatch&) const");
    static_assert(detail::HasValidationLoss<O, Model> || !names_validation_loss,
                  "fit: expected Var validation_loss(model, tape, batch) const");
    static_assert(
        explains || !requires { &O::explain; }, "fit: expected std::string explain(model, tape, batch) const");
    detail::require_suitable(objective, model, "fit");
    if constexpr (HasRowWeights<O> && !DrawsSamples<O> && !ChoosesRows<O>)
      if (const double mean = detail::mean_weight_if_unequal(objective, Core::rows()); mean > 0) Core::weigh(mean);
    if constexpr (requires { objective.comparable_from(); }) Core::compare_from(objective.comparable_from());
    workers_.reserve(Core::workers());
    for (std::size_t w = 0; w < Core::workers(); ++w) workers_.emplace_back(Core::tape(w), model_, Core::values());
    addresses_ = addresses();
  }

  void choose_rows(std::span<Index> chosen) override {
    if constexpr (ChoosesRows<O>)
      objective_.choose_rows(state_, chosen, Core::seed());
    else
      Core::choose_rows(chosen);
  }

  void begin_step([[maybe_unused]] const Minibatch& whole) override {
    if constexpr (BeginsSteps<O>) objective_.begin_step(state_, whole);
  }

  Var<S> loss(int worker, const Minibatch& batch) override {
    const auto w = static_cast<std::size_t>(worker);
    const Worker& model = workers_[w];
    return detail::loss_of("fit", objective_, state_, model.lifted, detaches ? *model.detached : model.lifted,
                           Core::tape(w), batch);
  }

  // Workers hold the addresses of the model's buffers and of the parameters, which therefore must stay where they are.
  void refresh_buffers([[maybe_unused]] ParameterChange change) override {
    if constexpr (refreshes<Model>) set_parameters(model_, Core::current(), change);
    assert(addresses() == addresses_);
  }

  double weight_of([[maybe_unused]] Index row) const override {
    if constexpr (HasRowWeights<O>)
      return objective_.row_weight(row);
    else
      return 1;
  }

  std::string explain_loss([[maybe_unused]] const Minibatch& batch) override {
    if constexpr (explains)
      return objective_.explain(workers_.front().lifted, Core::tape(0), batch);
    else
      return {};
  }

  std::string name_of(Index parameter) const override { return parameter_name(std::as_const(model_), parameter); }

  // Sum of the addresses that workers hold, to notice one that changes.
  std::uintptr_t addresses() const {
    auto sum = reinterpret_cast<std::uintptr_t>(Core::current().data());
    for_each_leaf(std::as_const(model_), [&sum](const auto&, LeafKind kind, const auto& leaf) {
      if (kind == LeafKind::buffer) sum += reinterpret_cast<std::uintptr_t>(leaf.data());
    });
    return sum;
  }

  // Buffers are read from here, and follow where they depend on parameters; the parameters are those of the core. A
  // copy, so that a callback may do with the model what it likes.
  Model model_;
  const O& objective_;
  std::uintptr_t addresses_ = 0;
  detail::step_state_t<O> state_{};
  std::vector<Worker> workers_;
};

}  // namespace diffeo::inline DIFFEO_ISA
