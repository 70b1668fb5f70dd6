// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/continuous/divergence.hpp>
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/ode/solve_on_tape.hpp>
#include <optional>

namespace diffeo::inline DIFFEO_ISA {

/// Options of the solver of a continuous flow.
///
/// | option     | type                          | default                                                |
/// |------------|-------------------------------|--------------------------------------------------------|
/// | solver     | ode::SolverOptions            | Dopri5, tolerances 1e-5 relative and 1e-6 absolute     |
/// | log_det    | std::optional<ode::Tolerance> | none: tolerances of the log-determinant are those of x |
/// | divergence | Divergence                    | ExactDivergence, in closed form if the field has one   |
struct CnfSolver {
  ode::SolverOptions solver = {};
  std::optional<ode::Tolerance> log_det = std::nullopt;
  Divergence divergence = ExactDivergence{};

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("solver", self.solver, "log_det", self.log_det, "divergence", self.divergence);
  }

  /// Throws invalid_argument for options out of range; `what` names the caller.
  void check(const char* what) const {
    solver.check(what);
    if (log_det) log_det->check(concat_message(what, ": log_det").c_str());
    std::visit([](const auto& of) { of.check(); }, divergence);
  }
};

/// Options of a continuous flow.
///
/// | option     | type                 | default                                                                |
/// |------------|----------------------|------------------------------------------------------------------------|
/// | training   | CnfSolver            | solver in training (see Pass), at most 1000 attempted steps a sample,  |
/// |            |                      | so that training stops if the flow becomes stiff                       |
/// | evaluation | CnfSolver            | solver otherwise                                                       |
/// | gradient   | ode::GradientOptions | exact gradient of the discrete solution                                |
/// | kinetic    | double               | 0; weight of the integral of |v|^2 in the training loss                |
/// | frobenius  | double               | 0; weight of the integral of |dv/dx|_F^2 in the training loss; with    |
/// |            |                      | ExactDivergence it is computed by tangents                             |
/// | steer      | double               | 0; in training, the end time of solves between 0 and 1 is shifted by a |
/// |            |                      | number uniform in [-steer, steer], drawn for each sample               |
/// | seed       | std::uint64_t        | 0; seed of these numbers                                               |
///
/// kinetic and frobenius are the regularisation of RNODE (Finlay et al. 2020, "How to train your neural ODE", eqs. 10
/// and 12); error control ignores their integrals. steer is the regularisation STEER (Ghosh et al. 2020). It does not
/// apply to a copy of the model with constant parameters, as ReverseKl uses for path_derivative: such a copy is
/// evaluated, by `evaluation` and up to the end time.
struct CnfOptions {
  CnfSolver training = {.solver = {.max_steps = 1000}};
  CnfSolver evaluation = {};
  ode::GradientOptions gradient = {};
  double kinetic = 0;
  double frobenius = 0;
  double steer = 0;
  std::uint64_t seed = 0;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("training", self.training, "evaluation", self.evaluation, "gradient", self.gradient,
                            "kinetic", self.kinetic, "frobenius", self.frobenius, "steer", self.steer, "seed",
                            self.seed);
  }

  /// Throws invalid_argument for options out of range.
  void check() const {
    require(kinetic >= 0 && std::isfinite(kinetic), "cnf: kinetic is ", kinetic, ", expected finite and at least 0");
    require(frobenius >= 0 && std::isfinite(frobenius), "cnf: frobenius is ", frobenius,
            ", expected finite and at least 0");
    require(steer >= 0 && steer < 1, "cnf: steer is ", steer, ", expected 0 <= steer < 1");
    training.check("cnf: training");
    evaluation.check("cnf: evaluation");
    const auto* exact = std::get_if<ExactDivergence>(&training.divergence);
    require(frobenius == 0 || !exact || exact->method != ExactDivergence::Method::closed_form, "cnf: frobenius is ",
            frobenius, ", but the closed form of training's divergence does not give that norm");
  }
};

namespace detail {

// State of a continuous flow: position, log-determinant and, where asked for, the integrals of the two penalties. Each
// sample has its noise and, where samples have contexts of their own, its row of the prepared context.
template <class P>
struct CnfSystem {
  using Scalar = typename P::Scalar;

  P field;
  FieldTerms terms;
  Index dim = 0;

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("field", self.field);
  }

  Index width() const { return dim + (terms.divergence ? 1 : 0) + (terms.kinetic ? 1 : 0) + (terms.frobenius ? 1 : 0); }

  Var<Scalar> operator()(const Var<Scalar>& t, const Var<Scalar>& y, const Var<Scalar>& own) const {
    const Index probes = terms.divergence || terms.frobenius ? field.noise_columns() : 0;
    Var<Scalar> noise, context;
    if (probes > 0)  // constants, also where the context is not
      noise = own.requires_grad() ? y.tape().constant(own.value().cols_block(0, probes)) : cols(own, 0, probes);
    if (own && own.cols() > probes) context = cols(own, probes, own.cols() - probes);
    const FieldValue<Scalar> f = field(t, cols(y, 0, dim), noise, terms, context);
    require(f.velocity.rows() == y.rows() && f.velocity.cols() == dim, "cnf: the field gave ", f.velocity.rows(), " x ",
            f.velocity.cols(), " velocities, expected ", y.rows(), " x ", dim);
    Var<Scalar> slope = f.velocity;
    if (terms.divergence) slope = concat(slope, f.divergence);
    if (terms.kinetic) slope = concat(slope, f.kinetic);
    if (terms.frobenius) slope = concat(slope, f.frobenius);
    return slope;
  }
};

}  // namespace detail

/// Continuous normalizing flow (Chen et al. 2018; FFJORD, Grathwohl et al. 2019): points move along a vector field,
/// dx/dt = v(t, x), from time 0 (latent) to time 1 (data), with d log_det / dt = div v. forward and inverse solve the
/// same equation in opposite directions at the same cost. Every row has its own steps, so that the bits of its result
/// do not depend on the other rows of the batch.
///
/// Values on a tape refer to the arrays of the field, as all constants of a tape do, so that the flow must outlive
/// them.
///
/// Where the field takes a context c, dx/dt = v(t, x, c) with the context of the Pass, N x C or 1 x C. Error control
/// does not know it.
///
/// forward(), inverse(), generate() and transport() throw integration_error, which names the row, if a row needs too
/// many steps, its step becomes too small or its velocity is not finite.
template <class Field>
struct Cnf {
  using Scalar = typename Field::Scalar;

  Field field;  ///< v
  CnfOptions options = {};

  /// Number of rows that are solved together. A row that has reached its end time is replaced by another.
  static constexpr Index tile_rows = 256;
  static constexpr double suggested_learning_rate = 1e-2;

  Index dim() const { return field.dim(); }
  /// Number of columns C of the context; 0 for a flow that takes none.
  Index context_dim() const { return diffeo::context_dim(field); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("field", self.field);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "continuous flow", "options", self.options);
  }
  template <class U>
  auto rebind() const {
    return Cnf<decltype(field.template rebind<U>())>{field.template rebind<U>(), options};
  }

  /// Throws invalid_argument for options out of range.
  void check() const { options.check(); }

  /// Returns the points at time 1 that are at z (N x D) at time 0, and log|det dx/dz|.
  Transformed<Var<Scalar>> forward(const Var<Scalar>& z, const Pass<Scalar>& pass = {}) const {
    return transport(z, 0, 1, pass);
  }
  /// Returns the points at time 0 that are at x (N x D) at time 1, and log|det dz/dx|.
  Transformed<Var<Scalar>> inverse(const Var<Scalar>& x, const Pass<Scalar>& pass = {}) const {
    return transport(x, 1, 0, pass);
  }

  /// Returns the value of forward() without the log-determinant, at about half the cost.
  Var<Scalar> generate(const Var<Scalar>& z, const Pass<Scalar>& pass = {}) const { return move(z, 0, 1, pass); }

  /// Returns the positions of transport() without the log-determinant, at about half the cost.
  Var<Scalar> move(const Var<Scalar>& x, double from, double to, const Pass<Scalar>& pass = {}) const {
    return cols(solve(x, from, to, {.divergence = false}, pass), 0, dim());
  }

  /// Moves points from x (N x D) at time `from` to time `to`. Returns their positions and log|det| of this map. In
  /// training the weighted integrals of the two penalties are added to pass.penalties. Throws invalid_argument for
  /// times outside [0, 1], for options out of range and where the context is missing or of another shape.
  Transformed<Var<Scalar>> transport(const Var<Scalar>& x, double from, double to,
                                     const Pass<Scalar>& pass = {}) const {
    const bool penalised = pass.training && pass.penalties;
    const FieldTerms terms{.divergence = true,
                           .kinetic = penalised && options.kinetic > 0,
                           .frobenius = penalised && options.frobenius > 0};
    const Var<S> state = solve(x, from, to, terms, pass);
    const Index d = dim();
    Index at = d + 1;
    const auto penalise = [&](double weight) {
      // Time may run backwards.
      pass.penalties->add(cols(state, at++, 1) * static_cast<S>(to >= from ? weight : -weight));
    };
    if (terms.kinetic) penalise(options.kinetic);
    if (terms.frobenius) penalise(options.frobenius);
    return {cols(state, 0, d), cols(state, d, 1)};
  }

  /// Returns the statistics of the solves for each row of x (N x D) from time `from` to `to`, as in evaluation. Throws
  /// as transport() does, and invalid_argument for NaN or infinity.
  template <class Derived>
  std::vector<ode::SolveStatistics> solve_statistics(const Eigen::DenseBase<Derived>& x, double from = 1, double to = 0,
                                                     const Execution& execution = {}) const {
    const auto& points = evaluate_once(x);
    detail::require_batch<Scalar>("solve_statistics: x", points, dim(), "flow");
    detail::require_no_context("solve_statistics", *this, "flow", "call solve_statistics(x, c)");
    return statistics_of(points, nullptr, from, to, execution);
  }
  /// Returns the statistics of the solves given contexts c, N x C or 1 x C. Throws invalid_argument as well for a
  /// context of another shape, with NaN or infinity, and where the flow takes none.
  template <class Derived, class Context>
  std::vector<ode::SolveStatistics> solve_statistics(const Eigen::DenseBase<Derived>& x,
                                                     const Eigen::DenseBase<Context>& c, double from = 1, double to = 0,
                                                     const Execution& execution = {}) const {
    const auto& points = evaluate_once(x);
    detail::require_batch<Scalar>("solve_statistics: x", points, dim(), "flow");
    const Array<Scalar> contexts = detail::context_of_rows<Scalar>("solve_statistics", c, x.rows(), context_dim());
    return statistics_of(points, &contexts, from, to, execution);
  }

 private:
  using S = Scalar;

  // `contexts` may be null.
  template <class Points>
  std::vector<ode::SolveStatistics> statistics_of(const Points& points, const Array<S>* contexts, double from,
                                                  double to, const Execution& execution) const {
    std::vector<ode::SolveStatistics> all(static_cast<std::size_t>(points.rows()));
    for_each_tile<S>(points.rows(), tile_rows, execution, [&](Tape<S>& tape, Index first, Index count) {
      transport(tape.copy(points.middleRows(first, count)), from, to, detail::pass_for(tape, contexts, first, count));
      const auto tile = ode::statistics(tape);
      std::copy(tile.begin(), tile.end(), all.begin() + first);
    });
    return all;
  }

  // Returns the position at time `to`, then a column for each of the terms.
  Var<S> solve(const Var<S>& x, double from, double to, const FieldTerms& terms, const Pass<S>& pass) const {
    require(x.cols() == dim(), "cnf: x has ", x.cols(), " columns, this flow has dimension ", dim());
    require(from >= 0 && from <= 1, "cnf: from is ", from, ", expected a time between 0 and 1");
    require(to >= 0 && to <= 1, "cnf: to is ", to, ", expected a time between 0 and 1");
    options.check();
    Tape<S>& tape = x.tape();
    const CnfSolver& how = pass.training ? options.training : options.evaluation;
    if (context_dim() > 0) require_context("cnf", pass.context, x.rows(), context_dim());
    auto& system = make_system(tape, how.divergence, terms, pass.context);
    const Index d = dim();

    Var<S> noise;
    const Index columns = terms.divergence || terms.frobenius ? system.field.noise_columns() : 0;
    if (columns > 0) {
      noise = tape.make(x.rows(), columns, false);
      system.field.draw_noise(tape, from, x.value(), tape.mutable_value(noise), pass);
    }
    // A row of its own for each sample goes with the sample, also where there is but one, so that the gradient of a
    // context has the same bits in any batch; one row for all is a part of the system.
    Var<S> own = noise;
    if (auto& context = system.field.context; !context.empty() && context.front().rows() == x.rows()) {
      own = noise ? concat(noise, context.front()) : context.front();
      context.clear();
    }
    ode::Times end = to;
    if (pass.training && options.steer > 0 && std::abs(to - from) == 1) end = steered(x, to, pass);

    const ode::Tolerance tolerance = how.solver.tolerance();
    ode::ErrorControl<> control{{0, d, tolerance}};
    if (terms.divergence) control = {{0, d, tolerance}, {d, 1, how.log_det.value_or(tolerance)}};
    const Index extra = system.width() - d;
    const Var<S> y0 = extra > 0 ? concat(x, zeros(x, extra)) : x;
    return ode::solve_on_tape<S>(system, y0, from, end, own, how.solver, control, options.gradient,
                                 to > from ? "cnf forward" : "cnf inverse");
  }

  // Returns the system of the flow as a pooled object of the tape, so that a training step does not allocate.
  auto& make_system(Tape<S>& tape, const Divergence& divergence, FieldTerms terms, const Var<S>& context) const {
    using Lifted = decltype(field.template rebind<Var<S>>());
    using System = detail::CnfSystem<PreparedField<Lifted>>;
    auto& system = tape.template pooled_object<System>([&] {
      return System{{field.template rebind<Var<S>>(), {}, divergence, {}}, terms, dim()};
    });
    // The pooled object may have another shape.
    if constexpr (std::is_same_v<Lifted, Field>)
      detail::replace_object(system.field.field, field);
    else
      detail::replace_object(system.field.field, field.template rebind<Var<S>>());
    prepare_field(tape, field, divergence, terms, system.field, context);
    system.terms = terms;
    system.dim = dim();
    return system;
  }

  const double* steered(const Var<S>& x, double to, const Pass<S>& pass) const {
    auto* end = x.tape().template allocate<double>(static_cast<std::size_t>(x.rows()));
    for (Index i = 0; i < x.rows(); ++i) {
      PhiloxEngine engine = pass.noise(options.seed + 0x7374656572212121, x.value(), i);
      end[i] = to + options.steer * (2 * detail::uniform(engine) - 1);
    }
    return end;
  }
};

template <class Field>
Cnf(Field) -> Cnf<Field>;
template <class Field>
Cnf(Field, CnfOptions) -> Cnf<Field>;

}  // namespace diffeo::inline DIFFEO_ISA
