// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/ode/step_log.hpp>
#include <diffeo/ode/tape_system.hpp>

/// Record of a finished solve, and a Runge-Kutta step written with tape ops; gradients of the solve need both.
namespace diffeo::inline DIFFEO_ISA::ode::detail {

/// State that all solves on one tape share: a second tape, on which systems are evaluated and steps are differentiated,
/// and the memory of the solver.
template <Real S>
struct SharedSolverState {
  Tape<S> tape;
  Workspace<S> workspace;
  std::vector<SolveStatistics> statistics;
  StepLog<S> log;
};

/// Arguments and result of one solve, kept for its gradient. Trivially destructible, so that a tape can hold it.
template <Real S, class System, class Norm>
struct RecordedSolve {
  const System* system;
  Var<S> start, end, context;
  Times t0, t1;
  SolverOptions options;
  ErrorControl<Norm> control;
  const char* what;
  StepRecord<S> steps;

  View<const S> context_values() const { return context ? context.value() : View<const S>{}; }
  bool records_context() const { return context && context.requires_grad(); }
  // Returns the adjoint of the context, to which the solve adds its own; empty unless records_context().
  View<S> context_gradient() const {
    if (!records_context()) return {};
    const GradTarget<S> target = context.tape().grad_target(context);
    if (target.assign) math::map(target.grad, [] { return simd::Vec<S>{}; });
    return target.grad;
  }
};

// Computes out = y + h sum_i weight_i slopes_i, with one h per row, by the same operations as advance(), for views of
// any stride.
template <Real S>
void combine(View<S> out, View<const S> y, const S* h, const Combination<S>& sum, const View<const S>* slopes) {
  constexpr Index lanes = simd::lanes<S>;
  for (Index j = 0; j < out.cols; ++j) {
    const auto piece = [&](Index i, auto... n) {
      simd::Vec<S> total{};
      for (std::size_t k = 0; k < sum.count; ++k) {
        const auto slope = simd::load<S>(slopes[sum.stage[k]].col(j) + i, n...);
        const auto weight = simd::broadcast<S>(sum.weight[k]);
        total = k == 0 ? weight * slope : simd::mul_add<S>(weight, slope, total);
      }
      simd::store<S>(out.col(j) + i,
                     simd::mul_add<S>(simd::load<S>(h + i, n...), total, simd::load<S>(y.col(j) + i, n...)), n...);
    };
    Index i = 0;
    for (; i + lanes <= out.rows; i += lanes) piece(i);
    if (i < out.rows) piece(i, out.rows - i);
  }
}

// Returns y + step sum_i weight_i slopes_i as a tape value with its gradient; `step` holds one step size per row.
template <Real S>
Var<S> combined(Var<S> y, View<const S> step, const Combination<S>& sum, const std::array<Var<S>, max_stages>& slopes) {
  Tape<S>& tape = y.tape();
  std::array<View<const S>, max_stages> values;
  bool recorded = y.requires_grad();
  for (std::size_t k = 0; k < sum.count; ++k) {
    values[sum.stage[k]] = slopes[sum.stage[k]].value();
    recorded = recorded || slopes[sum.stage[k]].requires_grad();
  }
  const Var<S> out = tape.make(y.rows(), y.cols(), recorded);
  combine<S>(tape.mutable_value(out), y.value(), step.data, sum, values.data());
  if (recorded)
    tape.on_backward({out}, [out, y, step, sum, slopes] {
      add_grad(
          y, [](auto g) { return g; }, out.grad());
      for (std::size_t k = 0; k < sum.count; ++k) {
        const Var<S> slope = slopes[sum.stage[k]];
        if (!slope.requires_grad()) continue;
        const GradTarget<S> target = y.tape().grad_target(slope);
        for (Index c = 0; c < out.cols(); ++c)
          math::map_add(
              target.grad.cols_block(c, 1), target.assign,
              [weight = sum.weight[k]](auto g, auto h) { return g * (h * weight); }, out.grad().cols_block(c, 1), step);
      }
    });
  return out;
}

// Returns the number of leading stages that the state at the end of a step depends on.
inline std::size_t stages_of_state(const Tableau& method) {
  std::size_t count = method.stages;
  while (count > 0 && method.b[count - 1] == 0) --count;
  return count;
}

// Start, size and end of one step of one sample.
struct StepTimes {
  double t, step, end;
};

// Returns the states after one step from y, computed with tape ops: row i makes the step times[i]. `own` holds the
// context of each row.
template <Real S, class System>
Var<S> step_on_tape(const System& system, const Tableau& method, Var<S> y, const StepTimes* times, Var<S> own) {
  Tape<S>& tape = y.tape();
  const Index rows = y.rows();
  const std::size_t stages = stages_of_state(method);
  const View<S> sizes = tape.mutable_value(tape.make(rows, 1, false));
  for (Index i = 0; i < rows; ++i) sizes.data[i] = static_cast<S>(times[i].step);
  std::array<Var<S>, max_stages> slopes;
  auto* at = tape.template allocate<double>(static_cast<std::size_t>(rows));
  for (std::size_t s = 0; s < stages; ++s) {
    for (Index i = 0; i < rows; ++i) at[i] = stage_time(method.c[s], times[i].t, times[i].step, times[i].end);
    const Var<S> time = block_times(tape, rows, at);
    slopes[s] = system(time, s == 0 ? y : combined<S>(y, sizes, Combination<S>(method.a[s]), slopes), own);
  }
  return combined<S>(y, sizes, Combination<S>(method.b), slopes);
}

}  // namespace diffeo::inline DIFFEO_ISA::ode::detail
