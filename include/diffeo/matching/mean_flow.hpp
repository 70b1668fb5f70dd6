// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/continuous/continuous_part.hpp>
#include <diffeo/distributions/conditional_distribution.hpp>
#include <diffeo/matching/flow_matching.hpp>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// | option        | type                | default                                                                  |
/// |---------------|---------------------|--------------------------------------------------------------------------|
/// | matching      | FlowMatchingOptions | how times and points are drawn                                           |
/// | instantaneous | double              | 0.5, share of the rows that learn the velocity itself, s = t             |
/// | weight_power  | double              | 0, least squares; a loss e is multiplied by (e + 1e-3)^-weight_power,    |
/// |               |                     | which is held constant in its gradient (eq. 22)                          |
struct MeanFlowOptions {
  FlowMatchingOptions matching = {};
  double instantaneous = 0.5;
  double weight_power = 0;
};

/// Trains average velocities (Geng et al. 2025, algorithm 1, with the base at time 0): the loss of a row is the
/// weighted square of
///
///     u(t, s, x_t) - [ v_t + (s - t) d/dt u(t, s, x_t) ],
///
/// where d/dt is the derivative along the path, v_t du/dx + du/dt, computed with one forward tangent, and the bracket
/// is held constant. It follows from the definition of u by differentiation with respect to t. Points x_t and
/// velocities v_t are those of FlowMatching; s is uniform between t and 1, or equal to t.
///
///     diffeo::TransformedDistribution model(diffeo::StandardNormal<float>(2), diffeo::mean_flow(x));
///     diffeo::fit(model, diffeo::MeanFlowMatching(model, x), {.steps = 20'000});
///     const auto samples = diffeo::average_samples(model, 1000, /*seed=*/1);
///
/// Validation computes the squares without weights. Data, paths, pairings and contexts are those of FlowMatching, for
/// whose arguments it throws as well; and invalid_argument for options out of range, and in fit() for a model whose
/// field is no AverageField.
template <Real S, MatchingPath Path = LinearPath, Pairing<S> PairingPolicy = IndependentPairing>
class MeanFlowMatching {
 public:
  using Matching = FlowMatching<S, Path, PairingPolicy>;
  using StepState = typename Matching::StepState;

  static constexpr double suggested_learning_rate = Matching::suggested_learning_rate;

  template <class Model>
  MeanFlowMatching(const Model& model, const Dataset<S>& data, Path path = {}, PairingPolicy pairing = {},
                   const MeanFlowOptions& options = {})
      : MeanFlowMatching(Matching(model, data, std::move(path), std::move(pairing), options.matching), options) {}
  template <class Model, DenseExpression Data>
  MeanFlowMatching(const Model& model, const Data& data, Path path = {}, PairingPolicy pairing = {},
                   const MeanFlowOptions& options = {})
      : MeanFlowMatching(Matching(model, data, std::move(path), std::move(pairing), options.matching), options) {}
  template <class Model>
  MeanFlowMatching(const Model& model, const std::vector<Snapshot<S>>& snapshots, Path path = {},
                   PairingPolicy pairing = {}, const MeanFlowOptions& options = {})
      : MeanFlowMatching(Matching(model, snapshots, std::move(path), std::move(pairing), options.matching), options) {}

  Index size() const { return matching_.size(); }
  const Matching& matching() const { return matching_; }
  const MeanFlowOptions& options() const { return options_; }
  double row_weight(Index row) const { return matching_.row_weight(row); }
  template <class Model>
  void check(const Model& model, const char* caller = "fit") const {
    matching_.check(model, caller);
  }
  void begin_step(StepState& state, const Minibatch& whole) const { matching_.begin_step(state, whole); }

  template <class Model>
    requires requires(const Model& model) { model.flow; }
  Var<S> loss(const Model& model, Tape<S>& tape, const Minibatch& batch, const StepState& state) const {
    if constexpr (detail::leads_to_cnf<std::remove_cvref_t<decltype(model.flow)>>()) {
      const MatchingSample<S> at = matching_.sample(tape, batch, state);
      const Var<S> span = spans(tape, batch, state, at.time.value());
      return detail::use_continuous_part(model.flow, tape, at.context, [&](const auto& cnf, const Var<S>& context) {
        static_assert(
            requires { cnf.field.average(at.time, span, at.point, context); },
            "mean flow: expected a field of average velocities, as mean_flow() has");
        const Var<S> none = zeros(at.time, 1);
        const Dual<Var<S>> u = cnf.field.average(Dual<Var<S>>{at.time, none + S(1)}, Dual<Var<S>>{span, none - S(1)},
                                                 Dual<Var<S>>{at.point, at.velocity}, context);
        const Var<S> error = u.value - target(tape, at.velocity.value(), span.value(), u.tangent.value());
        const Var<S> square = row_dot(error, error);
        return batch.training && options_.weight_power > 0 ? square * weights(tape, square.value()) : square;
      });
    } else {
      throw invalid_argument("mean flow: the model is no continuous flow");  // as check() says
    }
  }

 private:
  MeanFlowMatching(Matching matching, const MeanFlowOptions& options)
      : matching_(std::move(matching)), options_(options) {
    require(options.instantaneous >= 0 && options.instantaneous <= 1, who, ": instantaneous is ", options.instantaneous,
            ", expected a share between 0 and 1");
    require(options.weight_power >= 0 && std::isfinite(options.weight_power), who, ": weight_power is ",
            options.weight_power, ", expected finite and at least 0");
  }

  static constexpr const char* who = "mean flow";
  static constexpr std::uint64_t span_stream = 0x6d665f7370610000;  // apart from all other uses of a seed

  // Returns s - t for each row.
  Var<S> spans(Tape<S>& tape, const Minibatch& batch, const StepState& state, View<const S> time) const {
    const Var<S> span = tape.make(time.rows, 1, false);
    const View<S> out = tape.mutable_value(span);
    fill_uniform(out, batch.seed, span_stream + state.step, batch.first);
    const S share = static_cast<S>(options_.instantaneous);
    for (Index i = 0; i < out.rows; ++i) {
      const S u = out.data[i];
      out.data[i] = u < share ? S(0) : (u - share) / (S(1) - share) * std::max(S(0), S(1) - time.data[i]);
    }
    return span;
  }

  // Returns v + (s - t) du/dt, a constant.
  static Var<S> target(Tape<S>& tape, View<const S> velocity, View<const S> span, View<const S> derivative) {
    const Var<S> y = tape.make(velocity.rows, velocity.cols, false);
    for (Index j = 0; j < y.cols(); ++j)
      math::map(
          tape.mutable_value(y).cols_block(j, 1), [](auto v, auto h, auto d) { return simd::mul_add<S>(h, d, v); },
          velocity.cols_block(j, 1), span, derivative.cols_block(j, 1));
    return y;
  }

  Var<S> weights(Tape<S>& tape, View<const S> square) const {
    const Var<S> w = tape.make(square.rows, 1, false);
    for (Index i = 0; i < square.rows; ++i)
      tape.mutable_value(w).data[i] = std::pow(square.data[i] + S(1e-3), static_cast<S>(-options_.weight_power));
    return w;
  }

  Matching matching_;
  MeanFlowOptions options_;
};

template <class Model, class P = LinearPath, class Q = IndependentPairing>
MeanFlowMatching(const Model&, const Dataset<typename Model::Scalar>&, P = {}, Q = {}, const MeanFlowOptions& = {})
    -> MeanFlowMatching<typename Model::Scalar, P, Q>;
template <class Model, DenseExpression Data, class P = LinearPath, class Q = IndependentPairing>
MeanFlowMatching(const Model&, const Data&, P = {}, Q = {}, const MeanFlowOptions& = {})
    -> MeanFlowMatching<typename Model::Scalar, P, Q>;
template <class Model, class P = LinearPath, class Q = IndependentPairing>
MeanFlowMatching(const Model&, const std::vector<Snapshot<typename Model::Scalar>>&, P = {}, Q = {},
                 const MeanFlowOptions& = {}) -> MeanFlowMatching<typename Model::Scalar, P, Q>;

namespace detail {

// `context` may be null.
template <class Model>
Array<typename Model::Scalar> average_samples_of(const Model& model, Index n,
                                                 const Array<typename Model::Scalar>* context, std::uint64_t seed,
                                                 Index steps, const Execution& execution) {
  using S = typename Model::Scalar;
  const char* const who = "average_samples";
  require(steps >= 1, who, ": steps is ", steps, ", expected at least 1");
  require_continuous_part<decltype(model.flow)>(who);
  Array<S> y = sample_rows(model, n, execution, [&](Tape<S>& tape, Index first, Index count) {
    const Pass<S> pass = pass_for(tape, context, first, count);
    const Var<S> z = base_sample(model.base, tape, first, count, seed, pass);
    return use_continuous_part(model.flow, tape, pass.context, [&](const auto& cnf, const Var<S>& c) {
      Var<S> x = z;
      const S h = S(1) / static_cast<S>(steps);
      const Var<S> none = zeros(z, 1), span = none + h;
      for (Index k = 0; k < steps; ++k) x = x + cnf.field.average(none + static_cast<S>(k) * h, span, x, c) * h;
      return x;
    });
  });
  return data_side(who, model.flow, std::move(y), true);
}

}  // namespace detail

/// Draws n samples by following average velocities from time 0 to 1 in equal steps, one by default: n x D. Each step is
/// one evaluation of the field. They begin at the samples of the base that model.sample(n, seed) begins at. Throws
/// invalid_argument for n < 0, steps < 1, and models that take a context.
template <class Model>
auto average_samples(const Model& model, Index n, std::uint64_t seed, Index steps = 1,
                     const Execution& execution = {}) {
  detail::require_no_context("average_samples", model, "flow", "call average_samples(model, n, c, seed)");
  return detail::average_samples_of(model, n, nullptr, seed, steps, execution);
}
/// Draws n samples given one context c (1 x C) or one for each of them (n x C).
template <class Model, class Context>
auto average_samples(const Model& model, Index n, const Eigen::DenseBase<Context>& c, std::uint64_t seed,
                     Index steps = 1, const Execution& execution = {}) {
  const auto context = detail::checked_context(model, "flow", "average_samples", c, n);
  return detail::average_samples_of(model, n, &context, seed, steps, execution);
}

}  // namespace diffeo::inline DIFFEO_ISA
