// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstring>
#include <diffeo/ode/adjoint.hpp>
#include <diffeo/ode/discrete_gradient.hpp>

/// Solutions of initial value problems as values of a tape, with gradients with respect to the initial state, the
/// context of each sample and the parameters of the system.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Ways to differentiate a solve. `discrete`: the exact gradient of the discrete solution, the sequence of accepted
/// steps with their sizes held fixed. `adjoint`: by the adjoint equation (Chen et al. 2018, section 2), which is solved
/// backwards together with the state, in memory that does not grow with the number of steps; it has the errors of both
/// solves.
enum class Differentiation { discrete, adjoint };

inline const char* to_string(Differentiation method) {
  return method == Differentiation::discrete ? "discrete" : "adjoint";
}

/// | option        | type            | default                                                                   |
/// |---------------|-----------------|---------------------------------------------------------------------------|
/// | method        | Differentiation | discrete                                                                  |
/// | memory_budget | std::size_t     | 64 MiB for the states that a solve (of one tile of rows) keeps for its    |
/// |               |                 | gradient; beyond that it keeps fewer, at least one of every 64 steps, and |
/// |               |                 | computes those between again                                              |
///
/// The bits of the gradient do not depend on the budget, which limits the memory of states only. Times and sizes of all
/// steps take another 16 bytes per step and sample until the gradient has been computed, and 20 bytes in the memory of
/// the solver. The step size of the adjoint equation controls the errors of state and adjoint. The gradients of the
/// parameters are integrals along the solution that are ignored by error control (the seminorm of Kidger, Chen & Lyons
/// 2021) and take no memory.
struct GradientOptions {
  Differentiation method = Differentiation::discrete;
  std::size_t memory_budget = std::size_t{64} << 20;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("method", self.method);
  }
};

/// Returns the solution at t1 of y' = system(t, y, context), y(t0) = y0: N x n. t0 and t1 may differ between samples,
/// and t1 may be before t0. Each row has its own steps. statistics(tape) returns the statistics of the solve until the
/// next one. Throws integration_error, which names the row, if a row cannot be solved, and invalid_argument for options
/// out of range. `caller`, which is copied, names the caller in messages, including those of the backward pass.
template <Real S, TapeSystem<S> System, class Norm>
Var<S> solve_on_tape(const System& system, Var<S> y0, Times t0, Times t1, Var<S> context, const SolverOptions& options,
                     const ErrorControl<Norm>& control, const GradientOptions& gradient, const char* caller = "ode") {
  Tape<S>& tape = y0.tape();
  // The adjoint names the caller too, when its string may be gone.
  const std::size_t length = std::strlen(caller) + 1;
  char* const what = tape.template allocate<char>(length);
  std::copy_n(caller, length, what);
  const Index rows = y0.rows();
  auto& shared = tape.template singleton<detail::SharedSolverState<S>>();
  const bool recorded =
      y0.requires_grad() || (context && context.requires_grad()) || detail::records_parameters(system);
  require(!context || context.rows() == rows, what, ": context has ", context ? context.rows() : 0,
          " rows, expected one for each of ", rows, " samples");
  require(gradient.method == Differentiation::discrete || 2 * control.count <= ErrorControl<Norm>::max_groups, what,
          ": ", control.count, " groups of columns, expected at most ", ErrorControl<Norm>::max_groups / 2,
          " for the adjoint equation");
  const bool discrete = recorded && gradient.method == Differentiation::discrete;
  shared.tape.reset();
  shared.statistics.assign(static_cast<std::size_t>(rows), {});
  const System& constants = detail::mirrored(shared.tape, system, false);
  const Var<S> y1 = tape.make(rows, y0.cols(), recorded);
  const View<const S> own = context ? context.value() : View<const S>{};
  if (discrete) shared.log.begin(rows, y0.cols(), gradient.memory_budget);
  integrate<S>(detail::right_hand_side<S>(shared.tape, constants, own), y0.value(), t0, t1, tape.mutable_value(y1),
               options, control, shared.statistics, shared.workspace, [&](const AcceptedSteps<S>& steps) {
                 if (discrete) shared.log.add(steps);
               });
  throw_failed(what, shared.statistics);
  if (!recorded) return y1;

  const auto kept = [&tape, rows](Times times) {
    if (!times.each()) return times;
    auto* copy = tape.template allocate<double>(static_cast<std::size_t>(rows));
    std::copy_n(times.each(), rows, copy);
    return Times(copy);
  };
  detail::RecordedSolve<S, System, Norm> solve{
      &tape.pooled_copy(system), y0, y1, context, kept(t0), kept(t1), options, control, what, {}};
  if (discrete) solve.steps = shared.log.keep(tape);
  tape.on_backward({y1}, [solve, discrete] {
    if (discrete)
      detail::ReversedSteps<S, System, Norm>(solve).run();
    else
      detail::AdjointSolve<S, System, Norm>(solve).run();
  });
  return y1;
}

/// Returns the statistics of the latest solve on this tape, one entry per row.
template <Real S>
std::span<const SolveStatistics> statistics(Tape<S>& tape) {
  return tape.template singleton<detail::SharedSolverState<S>>().statistics;
}

}  // namespace diffeo::inline DIFFEO_ISA::ode
