// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/ode/recorded_solve.hpp>

/// Gradient of a solve by the adjoint equation.
namespace diffeo::inline DIFFEO_ISA::ode::detail {

/// Solves the adjoint equation (Chen et al. 2018, section 2) from the end of a solve to its start, for the state y and
/// the adjoint a together:
///
///     y' = f(t, y),  a' = -(df/dy)' a,  gradient of the parameters = integral of a' df/dp over time,
///
/// and that of the context likewise, sample by sample.
template <Real S, class System, class Norm>
class AdjointSolve {
 public:
  explicit AdjointSolve(const RecordedSolve<S, System, Norm>& solve)
      : solve_(solve),
        method_(tableau(solve.options.method)),
        shared_(solve.end.tape().template singleton<SharedSolverState<S>>()),
        tape_(shared_.tape) {
    tape_.reset();
    constant_ = &mirrored(tape_, *solve.system, false);
    context_grad_ = solve.context_gradient();
    if (solve.records_context() || records_parameters(*solve.system)) recorded_ = &mirrored(tape_, *solve.system, true);
  }

  void run() {
    const Index rows = solve_.end.rows(), n = solve_.end.cols(), stride = Tape<S>::stride_for(rows);
    const View<S> both{tape_.allocate_values(2 * n * stride), rows, 2 * n, stride};
    copy_block(solve_.end.value(), both.cols_block(0, n));
    copy_block(solve_.end.grad(), both.cols_block(n, n));
    const BlockContext<S> contexts(tape_, solve_.context_values()), of_accepted(tape_, solve_.context_values());
    const auto mark = tape_.mark();
    const auto slope = [&](const Stage<S>& in, View<S> out) {
      const Var<S> t = block_times(tape_, in.y.rows, in.t), own = contexts.of(in.y.rows, in.sample);
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
    shared_.statistics.assign(static_cast<std::size_t>(rows), {});
    integrate<S>(slope, View<const S>(both), solve_.t1, solve_.t0, both, solve_.options, with_adjoint(n),
                 shared_.statistics, shared_.workspace, [&](const AcceptedSteps<S>& steps) {
                   if (!recorded_) return;
                   add_parameter_gradients(steps, n, of_accepted);
                   tape_.rewind(mark);
                 });
    throw_failed(solve_.what, shared_.statistics, " adjoint");
    if (!solve_.start.requires_grad()) return;
    const GradTarget<S> target = solve_.start.tape().grad_target(solve_.start);
    math::map_add(
        target.grad, target.assign, [](auto g) { return g; }, View<const S>(both.cols_block(n, n)));
  }

 private:
  // Returns the error control of the state, with each group repeated for the n columns of the adjoint.
  ErrorControl<Norm> with_adjoint(Index n) const {
    ErrorControl<Norm> control = solve_.control;
    for (std::size_t g = 0; g < solve_.control.count; ++g) {
      control.groups[control.count] = solve_.control.groups[g];
      control.groups[control.count++].first += n;
    }
    return control;
  }

  // Adds the integrals of a' df/dp and a' df/dcontext over a step, by the method's weights b at the stages of that
  // step.
  void add_parameter_gradients(const AcceptedSteps<S>& steps, Index n, const BlockContext<S>& contexts) {
    const Index rows = steps.count;
    const View<S> size = tape_.mutable_value(tape_.make(rows, 1, false));
    auto* sample = tape_.template allocate<Index>(static_cast<std::size_t>(rows));
    auto* t = tape_.template allocate<double>(static_cast<std::size_t>(rows));
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
    const Var<S> own = contexts.of(rows, sample, solve_.records_context());
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
      const Var<S> f = (*recorded_)(block_times(tape_, rows, t), tape_.constant(state.value().cols_block(0, n)), own);
      const View<S> seed = tape_.mutable_value(tape_.make(rows, n, false));
      const S weight = -static_cast<S>(method_.b[s]);  // the step runs backwards
      for (Index j = 0; j < n; ++j)
        math::map(
            seed.cols_block(j, 1), [weight](auto a, auto h) { return a * (h * weight); },
            state.value().cols_block(n + j, 1), View<const S>(size));
      tape_.backward(f, seed);
    }
    if (solve_.records_context()) add_context_gradient(context_grad_, sample, own);
  }

  const RecordedSolve<S, System, Norm>& solve_;
  const Tableau& method_;
  SharedSolverState<S>& shared_;
  Tape<S>& tape_;
  const System* constant_ = nullptr;
  const System* recorded_ = nullptr;
  View<S> context_grad_{};
};

}  // namespace diffeo::inline DIFFEO_ISA::ode::detail
