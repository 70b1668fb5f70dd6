// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/ode/step_log.hpp>
#include <diffeo/ode/tape_system.hpp>

/// Solutions of initial value problems as values of a tape, with gradients with respect to the initial state and the
/// parameters of the system.
namespace diffeo::ode {

/// How a solve is differentiated. `discrete`: exactly, as the sequence of accepted steps that it was, their sizes held
/// fixed. `adjoint`: by the adjoint equation (Chen et al. 2018, section 2), solved backwards together with the state
/// itself in memory that does not grow with the number of steps; exact but for the errors of both solves.
enum class Differentiation { discrete, adjoint };

/// | option        | type            | default                                                                       |
/// |---------------|-----------------|-------------------------------------------------------------------------------|
/// | method        | Differentiation | discrete                                                                      |
/// | memory_budget | std::size_t     | 64 MiB for the states that a solve (of one tile of rows) keeps for its        |
/// |               |                 | gradient; beyond that it keeps fewer and computes the ones between again      |
///
/// The gradient's bits do not depend on the budget. Time and step size are kept of every step, 16 bytes. Errors of the
/// adjoint equation are controlled in state and adjoint; the gradients of the parameters are integrals along the
/// solution, have no part in the error (the seminorm of Kidger, Chen & Lyons 2021), and take no memory either.
struct GradientOptions {
  Differentiation method = Differentiation::discrete;
  std::size_t memory_budget = std::size_t{64} << 20;
};

namespace detail {

/// What the solves of a tape share: a tape on which systems are evaluated and steps differentiated, and the solver's
/// memory.
template <Real S>
struct SolverCompanion {
  Tape<S> tape;
  Workspace<S> workspace;
  std::vector<SolveStatistics> statistics;
  StepLog<S> log;
};

/// A solve, for its gradient. Plain values that may live on a tape.
template <Real S, class System, class Norm>
struct RecordedSolve {
  const System* system;
  Var<S> start, end, context;
  Times t0, t1;
  SolverOptions options;
  ErrorControl<Norm> control;
  StepRecord<S> steps;

  View<const S> context_values() const { return context ? context.value() : View<const S>{}; }
};

// out = y + h sum_i weight_i slopes_i, h one a row: the arithmetic of advance(), for blocks of any stride.
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

// The same of values of a tape.
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

// Stages that the state at the end of a step depends on.
inline std::size_t stages_of_state(const Tableau& method) {
  std::size_t count = method.stages;
  while (count > 0 && method.b[count - 1] == 0) --count;
  return count;
}

struct StepTimes {
  double t, step, end;
};

// The state after one step from y, written over the op vocabulary.
template <Real S, class System>
Var<S> step_on_tape(const System& system, const Tableau& method, Var<S> y, const Index* sample, const StepTimes* times,
                    View<const S> context) {
  Tape<S>& tape = y.tape();
  const Index rows = y.rows();
  const std::size_t stages = stages_of_state(method);
  const View<S> sizes = tape.mutable_value(tape.make(rows, 1, false));
  for (Index i = 0; i < rows; ++i) sizes.data[i] = static_cast<S>(times[i].step);
  std::array<Var<S>, max_stages> slopes;
  auto* at = tape.template storage<double>(static_cast<std::size_t>(rows));
  for (std::size_t s = 0; s < stages; ++s) {
    for (Index i = 0; i < rows; ++i) at[i] = stage_time(method.c[s], times[i].t, times[i].step, times[i].end);
    const auto [time, own] = block_input(tape, rows, sample, at, context);
    slopes[s] = system(time, s == 0 ? y : combined<S>(y, sizes, Combination<S>(method.a[s]), slopes), own);
  }
  return combined<S>(y, sizes, Combination<S>(method.b), slopes);
}

/// Goes through the recorded steps of all samples backwards, each sample at its own pace, a block of rows at a time.
template <Real S, class System, class Norm>
class ReversedSteps {
 public:
  explicit ReversedSteps(const RecordedSolve<S, System, Norm>& solve)
      : solve_(solve),
        record_(solve.steps),
        method_(tableau(solve.options.method)),
        tape_(solve.end.tape().template companion<SolverCompanion<S>>().tape) {
    tape_.reset();
    recorded_ = &mirrored(tape_, *solve.system, true);
    if (record_.every > 1) constant_ = &mirrored(tape_, *solve.system, false);
    const Index n = record_.width, stride = Tape<S>::stride_for(block_rows);
    adjoint_ = {tape_.scratch(stride * n), block_rows, n, stride};
    math::map(adjoint_, [] { return simd::Vec<S>{}; });
    segments_ = tape_.scratch(record_.every > 1 ? block_rows * record_.every * n : 0);
    if (solve_.start.requires_grad()) start_ = solve_.start.tape().grad_target(solve_.start);
  }

  void run() {
    const auto mark = tape_.mark();
    while (active_ < block_rows && take_next(active_)) ++active_;
    while (active_ > 0) {
      for (Index i = 0; i < active_; ++i) {
        times_[i] = times(sample_[i], place_[i]);
      }
      if (record_.every > 1) fill_segments();
      const Var<S> y = tape_.make(active_, record_.width, true);
      const View<S> state = tape_.mutable_value(y);
      for (Index i = 0; i < active_; ++i) put(state_before(i), state, i);
      const Var<S> next = step_on_tape<S>(*recorded_, method_, y, sample_, times_, solve_.context_values());
      const View<S> g{adjoint_.data, active_, adjoint_.cols, adjoint_.stride};
      tape_.backward(next, g);
      copy_block(y.grad(), g);  // the state itself is part of the next
      tape_.rewind(mark);
      for (Index i = 0; i < active_;) {
        if (--place_[i] >= 0 || finish(i)) {
          ++i;
        } else {
          --active_;  // the last lane comes in its place, and has its step still to be counted
          if (i < active_) move(active_, i);
        }
      }
    }
  }

 private:
  // Takes the next sample into a lane; false when there is none. A sample without a step is done at once.
  bool take_next(Index lane) {
    for (; next_ < record_.samples; ++next_) {
      sample_[lane] = next_;
      place_[lane] = record_.steps(next_) - 1;
      segment_[lane] = -1;
      for (Index j = 0; j < adjoint_.cols; ++j) adjoint_.col(j)[lane] = solve_.end.grad().col(j)[next_];
      if (place_[lane] >= 0) {
        ++next_;
        return true;
      }
      write(lane);
    }
    return false;
  }

  void write(Index lane) {
    if (!start_.grad.data) return;
    for (Index j = 0; j < adjoint_.cols; ++j) {
      S& to = start_.grad.col(j)[sample_[lane]];
      to = start_.assign ? adjoint_.col(j)[lane] : to + adjoint_.col(j)[lane];
    }
  }
  bool finish(Index lane) {
    write(lane);
    return take_next(lane);
  }
  void move(Index from, Index to) {
    sample_[to] = sample_[from];
    place_[to] = place_[from];
    segment_[to] = segment_[from];
    for (Index j = 0; j < adjoint_.cols; ++j) adjoint_.col(j)[to] = adjoint_.col(j)[from];
    if (record_.every > 1) std::copy_n(segment(from), record_.every * record_.width, segment(to));
  }

  void put(const S* values, View<S> block, Index row) const {
    for (Index j = 0; j < block.cols; ++j) block.col(j)[row] = values[j];
  }

  StepTimes times(Index sample, Index number) const {
    const Index step = record_.first[sample] + number;
    return {record_.t[step], record_.step[step], record_.end[step]};
  }

  // Of each lane, the states before the steps from segment_[lane] on.
  S* segment(Index lane) { return segments_ + lane * record_.every * record_.width; }

  const S* state_before(Index lane) {
    const Index within = place_[lane] % record_.every;
    if (within == 0) return record_.state(sample_[lane], place_[lane]);
    return segment(lane) + within * record_.width;
  }

  // Computes again the states between the kept ones, for lanes that come into a new segment.
  void fill_segments() {
    const Index n = record_.width;
    Index lanes[block_rows], count = 0;
    for (Index i = 0; i < active_; ++i) {
      const Index begin = place_[i] - place_[i] % record_.every;
      if (begin == place_[i] || segment_[i] == begin) continue;
      segment_[i] = begin;
      std::copy_n(record_.state(sample_[i], begin), n, segment(i));
      lanes[count++] = i;
    }
    Index sample[block_rows];
    StepTimes at[block_rows];
    for (Index done = 0; count > 0; ++done) {
      Index left = 0;
      for (Index k = 0; k < count; ++k)
        if (segment_[lanes[k]] + done < place_[lanes[k]]) lanes[left++] = lanes[k];
      count = left;
      if (count == 0) return;
      const auto mark = tape_.mark();
      const Var<S> y = tape_.make(count, n, false);
      for (Index k = 0; k < count; ++k) {
        const Index lane = lanes[k];
        sample[k] = sample_[lane];
        at[k] = times(sample_[lane], segment_[lane] + done);
        put(segment(lane) + done * n, tape_.mutable_value(y), k);
      }
      const View<const S> next = step_on_tape<S>(*constant_, method_, y, sample, at, solve_.context_values()).value();
      for (Index k = 0; k < count; ++k)
        for (Index j = 0; j < n; ++j) segment(lanes[k])[(done + 1) * n + j] = next.col(j)[k];
      tape_.release(mark);
    }
  }

  const RecordedSolve<S, System, Norm>& solve_;
  const StepRecord<S>& record_;
  const Tableau& method_;
  Tape<S>& tape_;
  const System* recorded_ = nullptr;
  const System* constant_ = nullptr;
  View<S> adjoint_;
  S* segments_ = nullptr;
  GradTarget<S> start_{};
  Index active_ = 0, next_ = 0;
  Index sample_[block_rows], place_[block_rows], segment_[block_rows];
  StepTimes times_[block_rows];
};

/// Solves the adjoint equation from the end of a solve to its start, for the state y and the adjoint a together:
///
///     y' = f(t, y),  a' = -(df/dy)' a,  gradient of the parameters = integral of a' df/dp over time.
template <Real S, class System, class Norm>
class AdjointSolve {
 public:
  explicit AdjointSolve(const RecordedSolve<S, System, Norm>& solve)
      : solve_(solve),
        method_(tableau(solve.options.method)),
        companion_(solve.end.tape().template companion<SolverCompanion<S>>()),
        tape_(companion_.tape) {
    tape_.reset();
    constant_ = &mirrored(tape_, *solve.system, false);
    if (records_parameters(*solve.system)) recorded_ = &mirrored(tape_, *solve.system, true);
  }

  void run() {
    const Index rows = solve_.end.rows(), n = solve_.end.cols(), stride = Tape<S>::stride_for(rows);
    const View<S> both{tape_.scratch(2 * n * stride), rows, 2 * n, stride};
    copy_block(solve_.end.value(), both.cols_block(0, n));
    copy_block(solve_.end.grad(), both.cols_block(n, n));
    const auto mark = tape_.mark();
    const auto slope = [&](const Stage<S>& in, View<S> out) {
      const auto [t, own] = block_input(tape_, in.y.rows, in.sample, in.t, solve_.context_values());
      const Var<S> y = tape_.make(in.y.rows, n, true);
      copy_block(in.y.cols_block(0, n), tape_.mutable_value(y));
      const Var<S> f = (*constant_)(t, y, own);
      copy_block(f.value(), out.cols_block(0, n));
      tape_.backward(f, in.y.cols_block(n, n));
      const View<S> a = out.cols_block(n, n);
      if (y.has_grad())
        math::map(
            a, [](auto g) { return -g; }, y.grad());
      else
        math::map(a, [] { return simd::Vec<S>{}; });
      tape_.rewind(mark);
    };
    companion_.statistics.assign(static_cast<std::size_t>(rows), {});
    integrate<S>(slope, View<const S>(both), solve_.t1, solve_.t0, both, solve_.options, with_adjoint(n),
                 companion_.statistics, companion_.workspace, [&](const AcceptedSteps<S>& steps) {
                   if (!recorded_) return;
                   add_parameter_gradients(steps, n);
                   tape_.rewind(mark);
                 });
    throw_failed("ode adjoint", companion_.statistics);
    if (!solve_.start.requires_grad()) return;
    const GradTarget<S> target = solve_.start.tape().grad_target(solve_.start);
    math::map_add(
        target.grad, target.assign, [](auto g) { return g; }, View<const S>(both.cols_block(n, n)));
  }

 private:
  // The groups of the state once more for the adjoint.
  ErrorControl<Norm> with_adjoint(Index n) const {
    ErrorControl<Norm> control = solve_.control;
    for (std::size_t g = 0; g < solve_.control.count; ++g) {
      control.groups[control.count] = solve_.control.groups[g];
      control.groups[control.count++].first += n;
    }
    return control;
  }

  // The step's quadrature of a' df/dp, from the stages that it had.
  void add_parameter_gradients(const AcceptedSteps<S>& steps, Index n) {
    const Index rows = steps.count;
    const View<S> size = tape_.mutable_value(tape_.make(rows, 1, false));
    auto* sample = tape_.template storage<Index>(static_cast<std::size_t>(rows));
    auto* t = tape_.template storage<double>(static_cast<std::size_t>(rows));
    for (Index i = 0; i < rows; ++i) {
      sample[i] = steps.sample[steps.row[i]];
      size.data[i] = static_cast<S>(steps.step[steps.row[i]]);
    }
    const auto gathered = [&](View<const S> block) {
      const View<S> to = tape_.mutable_value(tape_.make(rows, 2 * n, false));
      for (Index j = 0; j < to.cols; ++j)
        for (Index i = 0; i < rows; ++i) to.col(j)[i] = block.col(j)[steps.row[i]];
      return View<const S>(to);
    };
    const View<const S> before = gathered(steps.before);
    std::array<View<const S>, max_stages> slopes;
    for (std::size_t s = 0; s < stages_of_state(method_); ++s) {
      const Var<S> state = tape_.make(rows, 2 * n, false);
      combine<S>(tape_.mutable_value(state), before, size.data, Combination<S>(method_.a[s]), slopes.data());
      slopes[s] = gathered(steps.stage(s));
      if (method_.b[s] == 0) continue;
      for (Index i = 0; i < rows; ++i) {
        const Index r = steps.row[i];
        t[i] = stage_time(method_.c[s], steps.t[r], steps.step[r], steps.end[r]);
      }
      const auto [time, own] = block_input(tape_, rows, sample, t, solve_.context_values());
      const Var<S> f = (*recorded_)(time, tape_.constant(state.value().cols_block(0, n)), own);
      const View<S> seed = tape_.mutable_value(tape_.make(rows, n, false));
      const S weight = -static_cast<S>(method_.b[s]);  // the step runs backwards
      for (Index j = 0; j < n; ++j)
        math::map(
            seed.cols_block(j, 1), [weight](auto a, auto h) { return a * (h * weight); },
            state.value().cols_block(n + j, 1), View<const S>(size));
      tape_.backward(f, seed);
    }
  }

  const RecordedSolve<S, System, Norm>& solve_;
  const Tableau& method_;
  SolverCompanion<S>& companion_;
  Tape<S>& tape_;
  const System* constant_ = nullptr;
  const System* recorded_ = nullptr;
};

}  // namespace detail

/// The solution at t1 of y' = system(t, y, context), y(t0) = y0: N x n. t1 (N values) may differ by sample, and lie
/// before t0. Each row is solved by steps of its own. The statistics of the solve are those of `statistics(tape)` until
/// the next solve. Throws integration_error, with the row, where a row cannot be solved, and invalid_argument for
/// options out of range.
template <Real S, TapeSystem<S> System, class Norm>
Var<S> solve_on_tape(const System& system, Var<S> y0, Times t0, Times t1, Var<S> context, const SolverOptions& options,
                     const ErrorControl<Norm>& control, const GradientOptions& gradient) {
  Tape<S>& tape = y0.tape();
  const Index rows = y0.rows();
  auto& companion = tape.template companion<detail::SolverCompanion<S>>();
  const bool recorded = y0.requires_grad() || detail::records_parameters(system);
  const bool discrete = recorded && gradient.method == Differentiation::discrete;
  companion.tape.reset();
  companion.statistics.assign(static_cast<std::size_t>(rows), {});
  const System& constants = detail::mirrored(companion.tape, system, false);
  const Var<S> y1 = tape.make(rows, y0.cols(), recorded);
  const View<const S> own = context ? context.value() : View<const S>{};
  if (discrete) companion.log.begin(rows, y0.cols(), gradient.memory_budget);
  integrate<S>(detail::right_hand_side<S>(companion.tape, constants, own), y0.value(), t0, t1, tape.mutable_value(y1),
               options, control, companion.statistics, companion.workspace, [&](const AcceptedSteps<S>& steps) {
                 if (discrete) companion.log.add(steps);
               });
  throw_failed("ode", companion.statistics);
  if (!recorded) return y1;

  const auto kept = [&tape, rows](Times times) {
    if (!times.each()) return times;
    auto* copy = tape.template storage<double>(static_cast<std::size_t>(rows));
    std::copy_n(times.each(), rows, copy);
    return Times(copy);
  };
  detail::RecordedSolve<S, System, Norm> solve{&tape.keep(system), y0,      y1,      context, kept(t0),
                                               kept(t1),           options, control, {}};
  if (discrete) solve.steps = companion.log.keep(tape);
  tape.on_backward({y1}, [solve, discrete] {
    if (discrete)
      detail::ReversedSteps<S, System, Norm>(solve).run();
    else
      detail::AdjointSolve<S, System, Norm>(solve).run();
  });
  return y1;
}

/// What the latest solve on this tape did, one entry a row.
template <Real S>
std::span<const SolveStatistics> statistics(Tape<S>& tape) {
  return tape.template companion<detail::SolverCompanion<S>>().statistics;
}

}  // namespace diffeo::ode
