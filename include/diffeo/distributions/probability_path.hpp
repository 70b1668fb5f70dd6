// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <diffeo/continuous/continuous_part.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/ode/trajectory.hpp>
#include <tuple>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// What a continuous flow consists of: the equation, the standardisation that follows it, and the context that its field
// gets, 1 x E, empty where there is none.
template <class FieldType>
struct ContinuousParts {
  using Field = FieldType;
  using Scalar = typename Field::Scalar;

  Cnf<Field> cnf;
  Standardize<Scalar> frame;
  Array<Scalar> context;
};

// Whether at most a Standardize follows the continuous flow.
template <class F>
constexpr bool at_most_standardised() {
  if constexpr (is_flow_sequence<F>) {
    using Layers = decltype(F::layers);
    if constexpr (std::tuple_size_v<Layers> == 2)
      return leads_to_cnf<F>() && std::same_as<std::tuple_element_t<1, Layers>, Standardize<typename F::Scalar>>;
    else
      return false;
  } else if constexpr (is_conditional<F> || is_given<F>) {
    return at_most_standardised<decltype(F::flow)>();
  } else {
    return is_cnf<F>;
  }
}

// The Standardize that follows the continuous flow, or one that changes nothing.
template <class F>
Standardize<typename F::Scalar> standardize_behind(const F& flow) {
  if constexpr (is_cnf<F>)
    return Standardize<typename F::Scalar>::identity(flow.dim());
  else if constexpr (is_flow_sequence<F>)
    return std::get<1>(flow.layers);
  else
    return standardize_behind(flow.flow);
}

template <class F>
  requires(at_most_standardised<F>())
auto continuous_parts(const F& flow) {
  Tape<typename F::Scalar> tape;
  return use_continuous_part(flow, tape, {}, [&]<class Field>(const Cnf<Field>& cnf, const auto& context) {
    ContinuousParts<Field> parts{cnf, standardize_behind(flow), {}};
    // A flow that takes no context ignores the one that it is given.
    if (diffeo::context_dim(cnf) > 0) parts.context = as_eigen(context.value());
    return parts;
  });
}

template <class F>
using continuous_parts_t = decltype(continuous_parts(std::declval<const F&>()));

// A flow that moves points along a Field.
template <class F, class Field>
concept ContinuousFlow = std::same_as<typename continuous_parts_t<F>::Field, Field>;

}  // namespace detail

/// Probability path of a continuous flow: points follow dx/dt = v(t, x) from the density p_0 of the base to the density
/// p_1 of the model, with dp_t/dt + div(p_t v) = 0 at all times between.
///
/// If a Standardize follows the flow, it is applied gradually: at time t the points y of the flow correspond to x = t
/// mean + scale^t y. Then p_0 is the base and p_1 the model, in the units of the data.
///
/// A model that takes a context has a path for each context: that of model.given(c).
///
/// It is a plain value. Methods take any Eigen expression and work in tiles on several threads (see Execution). The
/// result of a row does not depend on the other rows. They throw invalid_argument for times outside [0, 1], the wrong
/// number of columns, NaN or infinity, and integration_error as Cnf does.
template <class Base, class Field>
class ProbabilityPath {
 public:
  using Scalar = typename Field::Scalar;
  static_assert(std::is_same_v<Scalar, typename Base::Scalar>, "base and flow are of different scalars");

  /// Throws invalid_argument if the dimensions of base and flow differ, and for a flow whose context is not given.
  ProbabilityPath(Base base, const Cnf<Field>& cnf) : ProbabilityPath(std::move(base), with_context_given(cnf)) {}
  /// Takes base and flow from a model, whose flow is a Cnf, or that and a Standardize, or either of them within
  /// conditional() and given(). Throws as above, and for a base whose context is not given.
  template <class FlowType>
    requires detail::ContinuousFlow<FlowType, Field>
  explicit ProbabilityPath(const TransformedDistribution<Base, FlowType>& model)
      : ProbabilityPath(model.base, with_context_given(model.flow)) {}

  Index dim() const { return base_.dim(); }

  /// Returns the velocities at the points x (N x D) at time t: N x D. Throws invalid_argument if the field is not
  /// finite.
  template <class Derived>
  Array<Scalar> velocity(double t, const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    check("velocity", t);
    const auto& points = evaluate_once(x);
    detail::require_batch<Scalar>("velocity: x", points, dim(), "path");
    const Standardize<Scalar> frame = frame_at(t);
    const Array<Scalar> log_scale = frame_.scale.value.log();
    Array<Scalar> v(x.rows(), dim());
    for_each_tile<Scalar>(x.rows(), execution, [&](Tape<Scalar>& tape, Index first, Index count) {
      const Var<Scalar> y = frame.inverse(tape.copy(points.middleRows(first, count))).value;
      const Var<Scalar> flow = field_at(zeros(y, 1) + static_cast<Scalar>(t), y);
      // d/dt (t mean + scale^t y)
      v.middleRows(first, count) = as_eigen(((flow + y * log_scale) * frame.scale + frame_.mean).value());
    });
    require_finite(v, "velocity: the field");
    return v;
  }

  /// Returns log p_t in nats at the points x (N x D): N x 1. It may be -infinity far from the mass of the distribution.
  template <class Derived>
  Array<Scalar> log_prob(double t, const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    check("log_prob", t);
    const auto& points = evaluate_once(x);
    detail::require_batch<Scalar>("log_prob: x", points, dim(), "path");
    const Standardize<Scalar> frame = frame_at(t);
    Array<Scalar> log_p(x.rows(), 1);
    for_each_tile<Scalar>(x.rows(), tile, execution, [&](Tape<Scalar>& tape, Index first, Index count) {
      const Transformed<Var<Scalar>> y = frame.inverse(tape.copy(points.middleRows(first, count)));
      Pass<Scalar> pass;
      if (context_.size() > 0) pass.context = tape.constant_of_all_tiles(context_);
      const Transformed<Var<Scalar>> z = cnf_.transport(y.value, t, 0, pass);
      log_p.middleRows(first, count) = as_eigen((base_.log_prob(z.value) + (y.log_det + z.log_det)).value());
    });
    return log_p;
  }

  /// Returns n samples of p_t, n x D: the samples of the model at time t of their path. Sample i depends on (seed, i)
  /// alone.
  Array<Scalar> sample(double t, Index n, std::uint64_t seed, const Execution& execution = {}) const {
    check("sample", t);
    return trajectories(latent(n, seed), {t}, execution).front();
  }

  /// Returns the positions at each of the times, in ascending order, of points that are at z (N x D) at time 0: N x D
  /// for each time. There is one solve, with the options for evaluation and without the log-determinant. At the last
  /// time the points equal those of sample(), and at time 1 those of the model, bit for bit. States between the ends of
  /// steps come from the dense output of the method.
  template <class Derived>
  std::vector<Array<Scalar>> trajectories(const Eigen::DenseBase<Derived>& z, const std::vector<double>& times,
                                          const Execution& execution = {}) const {
    detail::require_batch<Scalar>("trajectories: z", z, dim(), "path");
    std::vector<double> from_start = {0};
    for (std::size_t i = 0; i < times.size(); ++i) {
      check("trajectories", times[i]);
      require(times[i] >= from_start.back(), "trajectories: time ", i, " is ", times[i], " after ", from_start.back(),
              ", expected times that ascend");
      from_start.push_back(times[i]);
    }
    cnf_.options.check();
    std::vector<Array<Scalar>> paths(times.size(), Array<Scalar>(z.rows(), dim()));
    for_each_tile<Scalar>(z.rows(), tile, execution, [&](Tape<Scalar>& tape, Index first, Index count) {
      const auto velocity = [&](const ode::Stage<Scalar>& in, View<Scalar> dy) {
        const auto mark = tape.mark();
        const Var<Scalar> t = tape.make(in.y.rows, 1, false);
        std::transform(in.t, in.t + in.y.rows, tape.mutable_value(t).data,
                       [](double v) { return static_cast<Scalar>(v); });
        as_eigen(dy) = as_eigen(field_at(t, tape.constant(in.y)).value());
        tape.release(mark);
      };
      const Array<Scalar> start = z.derived().middleRows(first, count);
      const auto states = ode::trajectory(velocity, start, from_start, cnf_.options.evaluation.solver).states;
      for (std::size_t i = 0; i < times.size(); ++i) {
        const Standardize<Scalar> frame = frame_at(times[i]);
        paths[i].middleRows(first, count) = as_eigen(frame.forward(tape.copy(states[i + 1])).value.value());
      }
    });
    return paths;
  }

  /// Returns n samples of the base, from which sample() continues.
  Array<Scalar> latent(Index n, std::uint64_t seed) const {
    require(n >= 0, "probability path: n is ", n, ", expected at least 0");
    Array<Scalar> z(n, dim());
    base_.sample_into(view(z), seed, TransformedDistribution<Base, Cnf<Field>>::latent_stream, 0);
    return z;
  }

 private:
  ProbabilityPath(Base base, detail::ContinuousParts<Field> parts)
      : base_(std::move(base)),
        cnf_(std::move(parts.cnf)),
        frame_(std::move(parts.frame)),
        context_(std::move(parts.context)) {
    require(base_.dim() == cnf_.dim(), "probability path: the base has dimension ", base_.dim(), ", the flow ",
            cnf_.dim());
    if constexpr (detail::BaseTakesPass<Base>)
      detail::require_no_context("probability path", base_, "base", "use model.given(c)");
  }

  template <class FlowType>
  static detail::ContinuousParts<Field> with_context_given(const FlowType& flow) {
    detail::require_no_context("probability path", flow, "flow", "use model.given(c)");
    return detail::continuous_parts(flow);
  }

  Var<Scalar> field_at(const Var<Scalar>& t, const Var<Scalar>& y) const {
    const Var<Scalar> context = context_.size() > 0 ? y.tape().constant(context_) : Var<Scalar>();
    return detail::velocity_of_field(cnf_.field, t, y, context);
  }

  static void check(const char* what, double t) {
    require(t >= 0 && t <= 1, what, ": t is ", t, ", expected a time between 0 and 1");
  }

  // How points are seen at time t.
  Standardize<Scalar> frame_at(double t) const {
    const auto time = static_cast<Scalar>(t);
    const Array<Scalar> scale = frame_.scale.value.unaryExpr([time](Scalar s) { return std::pow(s, time); });
    return {{frame_.mean.value * time}, {scale}};
  }

  static constexpr Index tile = tile_rows_of<Cnf<Field>>;

  Base base_;
  Cnf<Field> cnf_;
  Standardize<Scalar> frame_;
  Array<Scalar> context_;  // what the field gets, 1 x E; empty without context
};

template <class Base, class FlowType>
ProbabilityPath(const TransformedDistribution<Base, FlowType>&)
    -> ProbabilityPath<Base, typename detail::continuous_parts_t<FlowType>::Field>;

}  // namespace diffeo::inline DIFFEO_ISA
