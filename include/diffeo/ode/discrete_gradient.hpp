// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/ode/recorded_solve.hpp>

/// Exact gradient of the discrete solution, the sequence of accepted steps with their sizes held fixed.
namespace diffeo::inline DIFFEO_ISA::ode::detail {

/// Differentiates the recorded steps of all samples from the last to the first. A block of up to block_rows lanes goes
/// back one step at a time; each lane holds a sample, and takes the next sample when it has reached the start.
template <Real S, class System, class Norm>
class ReversedSteps {
 public:
  explicit ReversedSteps(const RecordedSolve<S, System, Norm>& solve)
      : solve_(solve),
        record_(solve.steps),
        method_(tableau(solve.options.method)),
        tape_(solve.end.tape().template singleton<SharedSolverState<S>>().tape) {
    tape_.reset();
    recorded_ = &mirrored(tape_, *solve.system, true);
    if (record_.every > 1) constant_ = &mirrored(tape_, *solve.system, false);
    const Index n = record_.width, stride = Tape<S>::stride_for(block_rows);
    adjoint_ = {tape_.allocate_values(stride * n), block_rows, n, stride};
    math::map(adjoint_, [] { return simd::Vec<S>{}; });
    segments_ = tape_.allocate_values(record_.every > 1 ? block_rows * record_.every * n : 0);
    if (solve_.start.requires_grad()) start_ = solve_.start.tape().grad_target(solve_.start);
    contexts_ = {tape_, solve_.context_values()};
    if (record_.every > 1) segment_contexts_ = {tape_, solve_.context_values()};
    context_grad_ = solve_.context_gradient();
  }

  void run() {
    const auto mark = tape_.mark();
    while (active_ < block_rows && take_next(active_)) ++active_;
    while (active_ > 0) {
      for (Index i = 0; i < active_; ++i) {
        times_[i] = times(sample_[i], step_[i]);
      }
      if (record_.every > 1) fill_segments();
      const Var<S> y = tape_.make(active_, record_.width, true);
      const View<S> state = tape_.mutable_value(y);
      for (Index i = 0; i < active_; ++i) write_row(state_before(i), state, i);
      const Var<S> own = contexts_.of(active_, sample_, solve_.records_context());
      const Var<S> next = step_on_tape<S>(*recorded_, method_, y, times_, own);
      const View<S> g{adjoint_.data, active_, adjoint_.cols, adjoint_.stride};
      tape_.backward(next, g);
      copy_block(y.grad(), g);  // y has a gradient always, because y is a term of the next state
      if (solve_.records_context()) add_context_gradient(context_grad_, sample_, own);
      tape_.rewind(mark);
      for (Index i = 0; i < active_;) {
        if (--step_[i] >= 0 || finish(i)) {
          ++i;
        } else {
          --active_;  // the last lane moves here; its step has not been counted down yet, so i stays
          if (i < active_) move(active_, i);
        }
      }
    }
  }

 private:
  // Starts the next sample that has steps in a lane; returns false if none is left. Samples without steps are finished
  // at once.
  bool take_next(Index lane) {
    for (; next_ < record_.samples; ++next_) {
      sample_[lane] = next_;
      step_[lane] = record_.steps(next_) - 1;
      segment_[lane] = -1;
      for (Index j = 0; j < adjoint_.cols; ++j) adjoint_.col(j)[lane] = solve_.end.grad().col(j)[next_];
      if (step_[lane] >= 0) {
        ++next_;
        return true;
      }
      add_start_gradient(lane);
    }
    return false;
  }

  // Adds the adjoint at the start of the sample of a lane to the gradient of y0.
  void add_start_gradient(Index lane) {
    if (!start_.grad.data) return;
    for (Index j = 0; j < adjoint_.cols; ++j) {
      S& to = start_.grad.col(j)[sample_[lane]];
      to = start_.assign ? adjoint_.col(j)[lane] : to + adjoint_.col(j)[lane];
    }
  }
  bool finish(Index lane) {
    add_start_gradient(lane);
    return take_next(lane);
  }
  void move(Index from, Index to) {
    sample_[to] = sample_[from];
    step_[to] = step_[from];
    segment_[to] = segment_[from];
    for (Index j = 0; j < adjoint_.cols; ++j) adjoint_.col(j)[to] = adjoint_.col(j)[from];
    if (record_.every > 1) std::copy_n(segment(from), record_.every * record_.width, segment(to));
  }

  void write_row(const S* values, View<S> block, Index row) const {
    for (Index j = 0; j < block.cols; ++j) block.col(j)[row] = values[j];
  }

  StepTimes times(Index sample, Index number) const {
    const Index step = record_.first[sample] + number;
    return {record_.t[step], record_.step[step], record_.end(sample, number)};
  }

  // Returns the states of a lane before the steps segment_[lane] ... segment_[lane] + record_.every - 1.
  S* segment(Index lane) { return segments_ + lane * record_.every * record_.width; }

  const S* state_before(Index lane) {
    const Index within = step_[lane] % record_.every;
    if (within == 0) return record_.state(sample_[lane], step_[lane]);
    return segment(lane) + within * record_.width;
  }

  // Recomputes the states between the stored ones, for lanes that have entered a new segment.
  void fill_segments() {
    const Index n = record_.width;
    Index lanes[block_rows], count = 0;
    for (Index i = 0; i < active_; ++i) {
      const Index begin = step_[i] - step_[i] % record_.every;
      if (begin == step_[i] || segment_[i] == begin) continue;
      segment_[i] = begin;
      std::copy_n(record_.state(sample_[i], begin), n, segment(i));
      lanes[count++] = i;
    }
    Index sample[block_rows];
    StepTimes at[block_rows];
    for (Index done = 0; count > 0; ++done) {
      Index left = 0;
      for (Index k = 0; k < count; ++k)
        if (segment_[lanes[k]] + done < step_[lanes[k]]) lanes[left++] = lanes[k];
      count = left;
      if (count == 0) return;
      const auto mark = tape_.mark();
      const Var<S> y = tape_.make(count, n, false);
      for (Index k = 0; k < count; ++k) {
        const Index lane = lanes[k];
        sample[k] = sample_[lane];
        at[k] = times(sample_[lane], segment_[lane] + done);
        write_row(segment(lane) + done * n, tape_.mutable_value(y), k);
      }
      const Var<S> own = segment_contexts_.of(count, sample);
      const View<const S> next = step_on_tape<S>(*constant_, method_, y, at, own).value();
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
  BlockContext<S> contexts_, segment_contexts_;
  View<S> context_grad_{};
  Index active_ = 0, next_ = 0;
  Index sample_[block_rows], step_[block_rows], segment_[block_rows];
  StepTimes times_[block_rows];
};

}  // namespace diffeo::inline DIFFEO_ISA::ode::detail
