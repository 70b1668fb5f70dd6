// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/continuous/cnf.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/ode/trajectory.hpp>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// What a continuous flow does on its way: points follow dx/dt = v(t, x) from the base's density p_0 to that of the
/// model, p_1, and dp_t/dt + div(p_t v) = 0 at every time between. For pictures and for laws.
///
/// A standardisation behind the flow takes part from 0 to 1 too: at time t the flow's points y are seen at
/// x = t mean + scale^t y. So p_0 is the base and p_1 the model, in the units of the data.
///
/// A plain value. Methods take any Eigen expression and work in tiles on several threads (see Execution); a row's
/// result does not depend on the others. They throw invalid_argument for times outside [0, 1], the wrong number of
/// columns, NaN or infinity, and integration_error as Cnf does.
template <class Base, class Field>
class ProbabilityPath {
 public:
  using Scalar = typename Field::Scalar;
  static_assert(std::is_same_v<Scalar, typename Base::Scalar>, "base and flow are of different scalars");

  /// Throws invalid_argument when the dimensions differ.
  ProbabilityPath(Base base, const Cnf<Field>& cnf)
      : ProbabilityPath(std::move(base), cnf, Standardize<Scalar>::identity(cnf.dim())) {}
  explicit ProbabilityPath(const TransformedDistribution<Base, Cnf<Field>>& model)
      : ProbabilityPath(model.base, model.flow) {}
  explicit ProbabilityPath(const TransformedDistribution<Base, FlowSequence<Cnf<Field>, Standardize<Scalar>>>& model)
      : ProbabilityPath(model.base, std::get<0>(model.flow.layers), std::get<1>(model.flow.layers)) {}

  Index dim() const { return base_.dim(); }

  /// Velocities at the points x (N x D) at time t: N x D. Throws invalid_argument where the field is not finite.
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
      const Var<Scalar> flow = cnf_.field(zeros(y, 1) + static_cast<Scalar>(t), y);
      // d/dt (t mean + scale^t y)
      v.middleRows(first, count) = as_eigen(((flow + y * log_scale) * frame.scale + frame_.mean).value());
    });
    require_finite(v, "velocity: the field");
    return v;
  }

  /// log p_t in nats at the points x (N x D): N x 1. Far out the result may be -infinity.
  template <class Derived>
  Array<Scalar> log_prob(double t, const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    check("log_prob", t);
    const auto& points = evaluate_once(x);
    detail::require_batch<Scalar>("log_prob: x", points, dim(), "path");
    const Standardize<Scalar> frame = frame_at(t);
    Array<Scalar> log_p(x.rows(), 1);
    for_each_tile<Scalar>(x.rows(), tile, execution, [&](Tape<Scalar>& tape, Index first, Index count) {
      const Transformed<Var<Scalar>> y = frame.inverse(tape.copy(points.middleRows(first, count)));
      const Transformed<Var<Scalar>> z = cnf_.transport(y.value, t, 0);
      log_p.middleRows(first, count) = as_eigen((base_.log_prob(z.value) + (y.log_det + z.log_det)).value());
    });
    return log_p;
  }

  /// n samples of p_t (n x D): those of the model on their way, sample i a function of (seed, i) alone.
  Array<Scalar> sample(double t, Index n, std::uint64_t seed, const Execution& execution = {}) const {
    check("sample", t);
    return trajectories(latent(n, seed), {t}, execution).front();
  }

  /// Where points that are at z (N x D) at time 0 are at each of the times, which ascend: N x D for each. One solve,
  /// with the options for evaluation and without the log-determinant: at the last time the points are those of
  /// sample(), and at 1 those of the model's own, bit for bit; states between the ends of steps come from the method's
  /// dense output.
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
        as_eigen(dy) = as_eigen(cnf_.field(t, tape.constant(in.y)).value());
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

  /// n samples of the base, from which sample() goes on.
  Array<Scalar> latent(Index n, std::uint64_t seed) const {
    require(n >= 0, "probability path: n is ", n, ", expected at least 0");
    Array<Scalar> z(n, dim());
    base_.sample_into(view(z), seed, TransformedDistribution<Base, Cnf<Field>>::latent_stream, 0);
    return z;
  }

 private:
  ProbabilityPath(Base base, Cnf<Field> cnf, Standardize<Scalar> frame)
      : base_(std::move(base)), cnf_(std::move(cnf)), frame_(std::move(frame)) {
    require(base_.dim() == cnf_.dim(), "probability path: the base has dimension ", base_.dim(), ", the flow ",
            cnf_.dim());
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
};

}  // namespace diffeo::inline DIFFEO_ISA
