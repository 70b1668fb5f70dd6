// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/ops/surrogate.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/targets/target.hpp>
#include <diffeo/training/objective.hpp>
#include <sstream>
#include <string>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

/// | option          | type   | default                                                                |
/// |-----------------|--------|------------------------------------------------------------------------|
/// | beta_start      | double | 1: the weight of the target's log-density in the first step            |
/// | anneal_steps    | long   | 0: steps over which that weight grows linearly to 1                    |
/// | path_derivative | bool   | false; true: the gradient of Roeder, Wu & Duvenaud 2017, see ReverseKl |
///
/// With beta_start near 0 the flow first spreads over a tempered target, so that it finds modes that lie apart (Rezende
/// & Mohamed 2015, eq. 20).
struct ReverseKlOptions {
  double beta_start = 1;
  long anneal_steps = 0;
  bool path_derivative = false;

  void check() const {
    require(beta_start >= 0 && beta_start <= 1, "reverse_kl: beta_start is ", beta_start, ", expected 0 to 1");
    require(anneal_steps >= 0, "reverse_kl: anneal_steps is ", anneal_steps, ", expected at least 0");
    require(beta_start == 1 || anneal_steps > 0, "reverse_kl: beta_start is ", beta_start,
            " and anneal_steps 0, expected steps to anneal over");
  }

  /// The weight of the target in step number `step` (from 0).
  double beta(std::uint64_t step) const {
    if (step >= static_cast<std::uint64_t>(anneal_steps)) return 1;
    return beta_start + (1 - beta_start) * static_cast<double>(step) / static_cast<double>(anneal_steps);
  }
};

/// Variational inference (Rezende & Mohamed 2015, eq. 15): samples x of the model q are drawn, and
///
///     log q(x) - log p~(x)
///
/// is made small in the mean, p~ the target's unnormalised density. That mean is KL(q || p) - log Z, the negative
/// evidence lower bound, and it is what a training reports, at every step: while the weight beta of the target grows,
/// its gradient is that of log q(x) - beta log p~(x), the reported loss still that with beta = 1.
///
/// The gradient reaches the parameters through x and through q itself. The second part has mean zero, but not variance
/// zero. With path_derivative it is left out: log q is evaluated at x by a copy of the model with constant parameters
/// (Roeder, Wu & Duvenaud 2017, algorithm 1), which costs the inverse of the flow, and the gradient's variance is zero
/// where q = p. Worth it where q can come close to p; while it is far away the variance may also be larger.
///
/// Sample i of step t depends on (seed, t, i) alone.
///
///     const auto gaussian = [](const auto& x) { return diffeo::sum_cols(diffeo::square(x)) * -0.5F; };
///     diffeo::fit(model, diffeo::ReverseKl(gaussian), {.steps = 2000, .batch = 1024});
///
/// fit() throws invalid_argument when the target has another dimension than the model (where it says so, or by itself),
/// or returns another shape than N x 1, for a model that takes a context, and for options out of range. Where a target
/// is not finite at a sample, the training goes back and on at half the rate, or ends after FitOptions::max_recoveries
/// times; the report names sample and place.
template <class T>
class ReverseKl {
 public:
  static constexpr bool draws_samples = true;
  /// Gradients of samples in the tails are often large and right.
  static constexpr double suggested_clip_ratio = 3;

  explicit ReverseKl(T target, const ReverseKlOptions& options = {}) : target_(std::move(target)), options_(options) {
    options.check();
  }

  const ReverseKlOptions& options() const { return options_; }

  /// Throws invalid_argument for a model that takes a context, which reverse KL does not give.
  template <class Model>
  void check(const Model& model, const char* who = "fit") const {
    detail::require_no_context(who, model, "flow", "fit model.given(c)");
  }

  /// While the weight of the target grows, the loss that is reported is not the one that is made small.
  long comparable_from() const { return options_.beta_start < 1 ? options_.anneal_steps : 0; }

  template <class Model>
    requires Target<T, Var<typename Model::Scalar>> &&
             requires(const Model& m, Tape<typename Model::Scalar>& tape) { m.draw(tape, 1, 0, 0, 0); }
  Var<typename Model::Scalar> loss(const Model& model, const Model& detached, Tape<typename Model::Scalar>& tape,
                                   const Minibatch& batch) const {
    using S = typename Model::Scalar;
    Penalties<S> penalties;
    const Draw<S> drawn = draw(model, tape, batch, penalties);
    const Var<S> penalty = penalties.sum(), log_target = evaluate(model, drawn.sample);
    const double beta = options_.beta(batch.step);
    Var<S> value = drawn.log_prob - log_target;
    if (penalty) value = value + penalty;
    if (beta == 1 && !options_.path_derivative) return value;
    const Var<S> log_prob = options_.path_derivative ? log_prob_at(detached, drawn.sample) : drawn.log_prob;
    const Var<S> source = log_prob - log_target * static_cast<S>(beta);
    return with_gradient_of(value, penalty ? source + penalty : source);
  }

  /// Returns which sample has no finite loss, where it lies and the value of the target there.
  template <class Model>
  std::string explain(const Model& model, Tape<typename Model::Scalar>& tape, const Minibatch& batch) const {
    Penalties<typename Model::Scalar> penalties;
    const auto drawn = draw(model, tape, batch, penalties);
    const auto log_target = evaluate(model, drawn.sample).value();
    const auto x = drawn.sample.value();
    for (Index i = 0; i < batch.count; ++i) {
      bool finite_sample = true;
      for (Index j = 0; j < x.cols; ++j) finite_sample = finite_sample && std::isfinite(x.col(j)[i]);
      const auto log_prob = drawn.log_prob.value().data[i], t = log_target.data[i];
      if (finite_sample && std::isfinite(log_prob) && std::isfinite(t)) continue;
      std::ostringstream out;
      out << "sample " << batch.first + i << " of step " << batch.step << " is (";
      for (Index j = 0; j < x.cols; ++j) out << (j > 0 ? ", " : "") << x.col(j)[i];
      out << ") with log-density " << log_prob << ", where the target returned " << t;
      return out.str();
    }
    return {};
  }

 private:
  // Apart from all other uses of a seed.
  static constexpr std::uint64_t stream = 0x7265766572736500;

  template <class Model>
  static Draw<typename Model::Scalar> draw(const Model& model, Tape<typename Model::Scalar>& tape,
                                           const Minibatch& batch, Penalties<typename Model::Scalar>& penalties) {
    const auto pass = batch.pass(penalties);
    if constexpr (requires { model.draw(tape, 1, 0, 0, 0, pass); })
      return model.draw(tape, batch.count, batch.seed, stream + batch.step, batch.first, pass);
    else
      return model.draw(tape, batch.count, batch.seed, stream + batch.step, batch.first);
  }

  template <class Model, Real S>
  Var<S> evaluate(const Model& model, Var<S> x) const {
    if constexpr (requires { target_.dim(); })
      require(target_.dim() == model.dim(), "reverse_kl: the target has dimension ", target_.dim(), ", the flow ",
              model.dim());
    const Var<S> y = target_(x);
    require(y.rows() == x.rows() && y.cols() == 1, "reverse_kl: the target returned ", y.rows(), " x ", y.cols(),
            " values for ", x.rows(), " samples, expected ", x.rows(), " x 1");
    return y;
  }

  template <class Model, Real S>
  static Var<S> log_prob_at(const Model& model, Var<S> x) {
    if constexpr (HasInverse<decltype(model.flow), Var<S>>) {
      return model.log_prob(x);
    } else {
      throw invalid_argument("reverse_kl: path_derivative needs a flow with an inverse");
    }
  }

  T target_;
  ReverseKlOptions options_;
};

}  // namespace diffeo::inline DIFFEO_ISA
