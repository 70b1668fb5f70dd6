// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>
#include <diffeo/ode/error_norm.hpp>
#include <diffeo/ode/kernels.hpp>
#include <diffeo/ode/statistics.hpp>
#include <diffeo/ode/step_control.hpp>
#include <diffeo/ode/steps.hpp>
#include <diffeo/ode/tableau.hpp>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

/// Solver of initial value problems y' = f(t, y) for many samples: each row is a sample with its own time, step sizes
/// and end time.
namespace diffeo::inline DIFFEO_ISA::ode {

namespace detail {
template <Real S, class F, class Norm, class Observer>
class Integration;
}

/// Memory of the solver, kept from one solve to the next: a solve that is no larger than an earlier one allocates
/// nothing.
template <Real S>
class Workspace {
 public:
  Workspace() = default;

 private:
  template <Real, class, class, class>
  friend class detail::Integration;

  static constexpr auto rows = static_cast<std::size_t>(detail::block_rows);

  // One entry per sample that waits for a row of the block.
  std::vector<Index> waiting;
  std::vector<double> first_step;
  Array<S> slope;  // f at the start, contiguous for each sample; used by first-same-as-last methods
  // Columns of y, of y after the step, of the stage's point and of all slopes. Initialised to zero, because whole
  // registers also read rows that are not in use.
  Array<S> block;
  std::array<S*, max_stages> k{};
  // One per row of the block.
  std::array<Index, rows> sample{}, accepted_row{};
  std::array<double, rows> t{}, end{}, step{}, step_end{}, next_step{}, least_step{}, log_error{}, time{}, error{};
  std::array<bool, rows> after_rejection{}, last{}, finished{};
  alignas(simd::register_bytes) std::array<S, rows> h{}, norm{}, norm2{}, not_finite{}, end_norm{};
};

namespace detail {

template <Real S, class F, class Norm, class Observer>
class Integration {
 public:
  Integration(const F& f, View<const S> y0, Times t0, Times t1, View<S> y1, const SolverOptions& options,
              const ErrorControl<Norm>& control, std::span<SolveStatistics> statistics, Workspace<S>& workspace,
              Observer& observer)
      : f_(f),
        y0_(y0),
        t0_(t0),
        t1_(t1),
        y1_(y1),
        options_(options),
        method_(tableau(options.method)),
        control_(control),
        controller_(options.controller, std::max(method_.error_order, 1)),
        statistics_(statistics),
        w_(workspace),
        observer_(observer),
        cols_(y0.cols),
        fixed_(options.steps > 0) {
    const char* what = "ode::integrate";
    options.check(what);
    control.check(what, cols_);
    require(cols_ >= 1, what, ": y0 has no columns");
    require(y1.rows == y0.rows && y1.cols == y0.cols, what, ": y1 is ", y1.rows, " x ", y1.cols, ", y0 is ", y0.rows,
            " x ", y0.cols);
    require(static_cast<Index>(statistics.size()) == y0.rows, what, ": ", statistics.size(),
            " statistics, expected one for each of ", y0.rows, " samples");
    for (Index i = 0; i < y0.rows; ++i) {
      require(std::isfinite(t0[i]), what, ": t0 of sample ", i, " is ", t0[i], ", expected a finite time");
      require(std::isfinite(t1[i]), what, ": t1 of sample ", i, " is ", t1[i], ", expected a finite time");
    }
    if (control_.count == 0) control_ = {{0, cols_, options.tolerance()}};
    if (!fixed_)
      for (std::size_t g = 0; g < control_.count; ++g) {
        const Tolerance& tolerance = control_.groups[g].tolerance;
        constexpr double least = 4 * static_cast<double>(std::numeric_limits<S>::epsilon());
        require(std::max(tolerance.relative, tolerance.absolute) >= least, what, ": the tolerances are ",
                tolerance.relative, " relative and ", tolerance.absolute, " absolute, rounding of ",
                sizeof(S) == 4 ? "float" : "double", " allows no less than ", least);
      }
    for (std::size_t g = 0; g < control_.count; ++g)
      require(static_cast<S>(control_.groups[g].tolerance.absolute) >= std::numeric_limits<S>::min(), what,
              ": the absolute tolerance is ", control_.groups[g].tolerance.absolute, ", which this type cannot hold");
    for (std::size_t i = 1; i < method_.stages; ++i) rows_of_a_[i] = Combination<S>(method_.a[i]);
    b_ = Combination<S>(method_.b);
    e_ = Combination<S>(method_.e);
    damping_ = Combination<S>(method_.damping);
    reserve_memory();
  }

  void run() {
    prepare_samples();
    active_ = 0;
    while (active_ < block_rows && next_ < waiting_) load(active_++);
    while (active_ > 0) {
      choose_steps();
      make_stages();
      estimate_errors();
      const Index accepted = accept_or_reject();
      if (accepted > 0) {
        observer_(AcceptedSteps<S>{accepted, w_.accepted_row.data(), w_.sample.data(), w_.t.data(), w_.step.data(),
                                   w_.step_end.data(), in_use(y_), in_use(after_), w_.k.data()});
        advance_accepted(accepted);
      }
      replace_finished();
    }
  }

 private:
  SolveStatistics& statistics(Index row) { return statistics_[static_cast<std::size_t>(w_.sample[to_size(row)])]; }
  View<const S> in_use(const S* x) const { return {x, active_, cols_, block_rows}; }

  void reserve_memory() {
    const Index arrays = static_cast<Index>(std::max<std::size_t>(method_.stages, 2)) + 3;
    if (w_.block.cols() < cols_ * arrays) w_.block = Array<S>::Zero(block_rows, cols_ * arrays);
    S* place = w_.block.data();
    const Index size = block_rows * cols_;
    for (S** array : {&y_, &after_, &point_}) {
      *array = place;
      place += size;
    }
    for (Index i = 3; i < arrays; ++i, place += size) w_.k[to_size(i - 3)] = place;
    if (w_.waiting.size() < to_size(y0_.rows)) {
      w_.waiting.resize(to_size(y0_.rows));
      w_.first_step.resize(to_size(y0_.rows));
    }
    if (method_.first_same_as_last && w_.slope.size() < y0_.size()) w_.slope.resize(y0_.rows, y0_.cols);
  }

  void evaluate(const double* time, const S* y, S* slope) {
    f_(Stage<S>{w_.sample.data(), time, in_use(y)}, View<S>{slope, active_, cols_, block_rows});
    for (Index i = 0; i < active_; ++i) ++statistics(i).evaluations;
  }

  void copy_y0(Index row, Index sample) {
    for (Index j = 0; j < cols_; ++j) y_[j * block_rows + row] = y0_.col(j)[sample];
  }
  void write_result(Index row) {
    for (Index j = 0; j < cols_; ++j) y1_.col(j)[w_.sample[to_size(row)]] = y_[j * block_rows + row];
  }

  // Lists the samples with t1 != t0, and computes for each of them the slope at the start and the first step where the
  // method and options need them.
  void prepare_samples() {
    Index listed = 0;
    for (Index i = 0; i < y0_.rows; ++i) {
      statistics_[to_size(i)] = {};
      statistics_[to_size(i)].t = t0_[i];
      if (t1_[i] != t0_[i]) {
        w_.waiting[to_size(listed++)] = i;
        continue;
      }
      for (Index j = 0; j < cols_; ++j) y1_.col(j)[i] = y0_.col(j)[i];
    }
    waiting_ = listed;
    next_ = 0;
    if (fixed_ && !method_.first_same_as_last) return;
    waiting_ = 0;
    for (Index first = 0; first < listed; first += block_rows) {
      active_ = std::min(block_rows, listed - first);
      for (Index i = 0; i < active_; ++i) {
        w_.sample[to_size(i)] = w_.waiting[to_size(first + i)];
        w_.t[to_size(i)] = t0_[w_.sample[to_size(i)]];
        copy_y0(i, w_.sample[to_size(i)]);
      }
      prepare_block();
    }
  }

  void prepare_block() {
    S* const slope = w_.k[0];
    evaluate(w_.t.data(), y_, slope);
    find_not_finite<S>(active_, cols_, w_.not_finite.data(), y_, w_.k.data(), 1);
    if (!fixed_ && options_.first_step == 0) {
      std::array<double, Workspace<S>::rows> norm_y{}, norm_f{}, norm_change{};
      start_norms(norm_y, y_, nullptr);
      start_norms(norm_f, slope, nullptr);
      for (Index i = 0; i < active_; ++i) {
        const double start = t0_[w_.sample[to_size(i)]], span = t1_[w_.sample[to_size(i)]] - start;
        const double size = std::min(trial_step(norm_y[to_size(i)], norm_f[to_size(i)]), std::abs(span));
        w_.step[to_size(i)] = std::copysign(size, span);
        w_.h[to_size(i)] = static_cast<S>(w_.step[to_size(i)]);
        w_.time[to_size(i)] = start + w_.step[to_size(i)];
      }
      Combination<S> euler;
      euler.count = 1;
      euler.weight[0] = 1;
      advance<S>(active_, cols_, point_, y_, w_.h.data(), euler, w_.k.data());
      evaluate(w_.time.data(), point_, w_.k[1]);
      start_norms(norm_change, w_.k[1], slope);
      for (Index i = 0; i < active_; ++i)
        w_.next_step[to_size(i)] =
            first_step(std::abs(w_.step[to_size(i)]), norm_f[to_size(i)], norm_change[to_size(i)], method_.error_order);
    }
    for (Index i = 0; i < active_; ++i) {
      const Index sample = w_.sample[to_size(i)];
      if (!(w_.not_finite[to_size(i)] == 0)) {
        statistics(i).status = Status::not_finite;
        write_result(i);
        continue;
      }
      double size = options_.first_step > 0 ? options_.first_step : w_.next_step[to_size(i)];
      if (!(size > 0))
        size = 1e-14 * std::abs(t1_[sample] - t0_[sample]);  // first_step is 0 if the norm of f overflows
      w_.waiting[to_size(waiting_)] = sample;
      w_.first_step[to_size(waiting_)] = std::clamp(size, options_.min_step, options_.max_step);
      if (method_.first_same_as_last)
        for (Index j = 0; j < cols_; ++j) w_.slope.data()[waiting_ * cols_ + j] = slope[j * block_rows + i];
      ++waiting_;
    }
  }

  // Computes for each row the largest of the groups' norms of x, or of x - y if y is not null, in units of the
  // tolerance at the state y_.
  void start_norms(std::array<double, Workspace<S>::rows>& out, const S* x, const S* y) {
    for (std::size_t g = 0; g < control_.count; ++g) {
      const ColumnGroup& group = control_.groups[g];
      plain_norm<Norm, S>(active_, group.first, group.count, static_cast<S>(group.tolerance.relative),
                          static_cast<S>(group.tolerance.absolute), w_.norm.data(), y_, x, y);
      for (Index i = 0; i < active_; ++i) {
        const double norm = static_cast<double>(w_.norm[to_size(i)]);
        out[to_size(i)] = g == 0 ? norm : std::max(out[to_size(i)], norm);
      }
    }
  }

  // Puts the next waiting sample into a row of the block.
  void load(Index row) {
    const Index place = next_++, sample = w_.waiting[to_size(place)];
    const std::size_t r = to_size(row);
    w_.sample[r] = sample;
    w_.t[r] = t0_[sample];
    w_.end[r] = t1_[sample];
    w_.log_error[r] = StepController::first_log_error;
    w_.after_rejection[r] = false;
    copy_y0(row, sample);
    if (!fixed_) {
      w_.next_step[r] = std::copysign(w_.first_step[to_size(place)], w_.end[r] - w_.t[r]);
      // The bound 16 epsilon |t| of accept_or_reject() vanishes at t = 0, so the least step also has this bound.
      w_.least_step[r] =
          std::max(options_.min_step, std::numeric_limits<double>::epsilon() * std::abs(w_.next_step[r]));
    }
    if (method_.first_same_as_last)
      for (Index j = 0; j < cols_; ++j) w_.k[0][j * block_rows + row] = w_.slope.data()[place * cols_ + j];
  }

  void choose_steps() {
    for (std::size_t i = 0; i < to_size(active_); ++i) {
      if (fixed_) {
        const Index made = statistics(static_cast<Index>(i)).accepted;
        w_.last[i] = made + 1 == options_.steps;
        const double start = t0_[w_.sample[i]];
        w_.step[i] = (w_.end[i] - start) / static_cast<double>(options_.steps);
        w_.step_end[i] = simd::mul_add_scalar<double>(static_cast<double>(made + 1), w_.step[i], start);
      } else {
        const double rest = w_.end[i] - w_.t[i];
        w_.last[i] = std::abs(rest) <= std::min(1.01 * std::abs(w_.next_step[i]), options_.max_step);
        w_.step[i] = w_.last[i] ? rest : w_.next_step[i];
        w_.step_end[i] = w_.t[i] + w_.step[i];
      }
      if (w_.last[i]) w_.step_end[i] = w_.end[i];
      w_.h[i] = static_cast<S>(w_.step[i]);
    }
  }

  void make_stages() {
    const std::size_t stages = method_.stages;
    if (!method_.first_same_as_last) evaluate(w_.t.data(), y_, w_.k[0]);
    for (std::size_t s = 1; s < stages; ++s) {
      S* const point = method_.first_same_as_last && s + 1 == stages ? after_ : point_;
      advance<S>(active_, cols_, point, y_, w_.h.data(), rows_of_a_[s], w_.k.data());
      for (std::size_t i = 0; i < to_size(active_); ++i)
        w_.time[i] = stage_time(method_.c[s], w_.t[i], w_.step[i], w_.step_end[i]);
      evaluate(w_.time.data(), point, w_.k[s]);
    }
    if (!method_.first_same_as_last) advance<S>(active_, cols_, after_, y_, w_.h.data(), b_, w_.k.data());
  }

  void estimate_errors() {
    find_not_finite<S>(active_, cols_, w_.not_finite.data(), after_, w_.k.data(), method_.stages);
    if (!fixed_) {
      for (std::size_t g = 0; g < control_.count; ++g) {
        const ColumnGroup& group = control_.groups[g];
        const auto norm_of = [&](const Combination<S>& sum, S* norm) {
          error_norm<Norm, S>(active_, group.first, group.count, static_cast<S>(group.tolerance.relative),
                              static_cast<S>(group.tolerance.absolute), norm, y_, after_, w_.h.data(), sum,
                              w_.k.data());
        };
        norm_of(e_, w_.norm.data());
        if (method_.damped()) norm_of(damping_, w_.norm2.data());
        for (std::size_t i = 0; i < to_size(active_); ++i) {
          double error = static_cast<double>(w_.norm[i]);
          if (method_.damped() && error > 0)  // DOP853's estimate |e|^2 / |(e, damping / 10)|, see Tableau::damped
            error *= error / std::hypot(error, 0.1 * static_cast<double>(w_.norm2[i]));
          w_.error[i] = g == 0 || std::isnan(error) ? error : std::max(w_.error[i], error);  // NaN stays
        }
      }
    }
    if (!method_.twin_ends) return;
    // The last two stages evaluate f at two states at t + h. The quotient of the difference of their slopes and the
    // difference of these states estimates the largest |eigenvalue| of the Jacobian of f (Solving ODEs II, IV.2). If
    // the states differ by rounding alone, the quotient is noise and the former estimate stays.
    end_differences<S>(active_, cols_, w_.norm.data(), w_.norm2.data(), w_.end_norm.data(), w_.k[method_.stages - 1],
                       w_.k[method_.stages - 2], after_, point_);
    constexpr double rounding = 4 * static_cast<double>(std::numeric_limits<S>::epsilon());
    for (std::size_t i = 0; i < to_size(active_); ++i) {
      const double slopes = static_cast<double>(w_.norm[i]), ends = static_cast<double>(w_.norm2[i]);
      if (!(ends > rounding * rounding * static_cast<double>(w_.end_norm[i]))) continue;
      const double estimate = std::sqrt(slopes / ends);
      if (std::isfinite(estimate)) statistics(static_cast<Index>(i)).stiffness = estimate;
    }
  }

  // Accepts or rejects the step of each row and computes its next step size. Returns the number of accepted steps.
  Index accept_or_reject() {
    Index accepted = 0;
    for (std::size_t i = 0; i < to_size(active_); ++i) {
      SolveStatistics& made = statistics(static_cast<Index>(i));
      made.step = w_.step[i];
      w_.finished[i] = false;
      const bool finite = w_.not_finite[i] == 0;
      if (fixed_) {
        if (!finite) {
          ++made.rejected;
          finish(i, Status::not_finite);
          continue;
        }
        w_.accepted_row[to_size(accepted++)] = static_cast<Index>(i);
        ++made.accepted;
        made.t = w_.step_end[i];
        if (w_.last[i]) finish(i, Status::finished);
        continue;
      }
      const double error = finite ? w_.error[i] : std::numeric_limits<double>::infinity();
      made.error = error;
      const double size = std::abs(w_.step[i]);
      const double least = std::max(w_.least_step[i], 16 * std::numeric_limits<double>::epsilon() * std::abs(w_.t[i]));
      double next;
      if (error <= 1) {
        w_.accepted_row[to_size(accepted++)] = static_cast<Index>(i);
        ++made.accepted;
        made.t = w_.step_end[i];
        if (w_.last[i]) {
          finish(i, Status::finished);
          continue;
        }
        const double log_error = std::log(std::max(error, 1e-10));
        double factor = controller_.accepted(log_error, w_.log_error[i]);
        if (w_.after_rejection[i]) factor = std::min(factor, 1.0);
        w_.log_error[i] = StepController::log_kept(log_error);
        w_.after_rejection[i] = false;
        next = factor * size;
      } else {
        ++made.rejected;
        if (size <= least) {
          finish(i, finite ? Status::step_too_small : Status::not_finite);
          continue;
        }
        w_.after_rejection[i] = true;
        next = size * (std::isfinite(error) ? controller_.rejected(std::log(error)) : StepController::smallest_factor);
      }
      if (made.accepted + made.rejected >= options_.max_steps) {
        finish(i, Status::max_steps);
        continue;
      }
      w_.next_step[i] =
          std::copysign(std::clamp(next, std::min(least, options_.max_step), options_.max_step), w_.step[i]);
    }
    return accepted;
  }

  void finish(std::size_t row, Status status) {
    statistics(static_cast<Index>(row)).status = status;
    w_.finished[row] = true;
  }

  // Makes the states after the accepted steps the current ones; rows whose step was rejected keep their state.
  void advance_accepted(Index accepted) {
    std::swap(y_, after_);
    const bool same = method_.first_same_as_last;
    const std::size_t last = method_.stages - 1;
    if (same) std::swap(w_.k[0], w_.k[last]);
    Index next = 0;
    for (Index i = 0; i < active_; ++i) {
      if (next < accepted && w_.accepted_row[to_size(next)] == i) {
        w_.t[to_size(i)] = w_.step_end[to_size(i)];
        ++next;
        continue;
      }
      for (Index j = 0; j < cols_; ++j) {
        const Index place = j * block_rows + i;
        y_[place] = after_[place];
        if (same) w_.k[0][place] = w_.k[last][place];
      }
    }
  }

  // Writes the results of finished rows and puts waiting samples, or else the last rows of the block, in their place.
  // Goes from the last row to the first, so that a row that moves into a gap has been handled already.
  void replace_finished() {
    for (Index i = active_ - 1; i >= 0; --i) {
      if (!w_.finished[to_size(i)]) continue;
      write_result(i);
      if (next_ < waiting_) {
        load(i);
        continue;
      }
      const Index from = --active_;
      if (from == i) continue;
      const std::size_t to = to_size(i), last = to_size(from);
      w_.sample[to] = w_.sample[last];
      for (auto* values : {&w_.t, &w_.end, &w_.next_step, &w_.least_step, &w_.log_error})
        (*values)[to] = (*values)[last];
      w_.after_rejection[to] = w_.after_rejection[last];
      for (Index j = 0; j < cols_; ++j) {
        y_[j * block_rows + i] = y_[j * block_rows + from];
        w_.k[0][j * block_rows + i] = w_.k[0][j * block_rows + from];
      }
    }
  }

  const F& f_;
  View<const S> y0_;
  Times t0_, t1_;
  View<S> y1_;
  const SolverOptions& options_;
  const Tableau& method_;
  ErrorControl<Norm> control_;
  StepController controller_;
  std::span<SolveStatistics> statistics_;
  Workspace<S>& w_;
  Observer& observer_;
  Index cols_;
  bool fixed_;

  std::array<Combination<S>, max_stages> rows_of_a_;
  Combination<S> b_, e_, damping_;
  S *y_ = nullptr, *after_ = nullptr, *point_ = nullptr;  // blocks: the state, the next one, where f is evaluated
  Index waiting_ = 0, next_ = 0, active_ = 0;
};

}  // namespace detail

/// Integrates y' = f(t, y) for every row of y0 (N x n) from t0 to t1 and writes the states at t1 to y1 (N x n, which
/// may be the memory of y0). t0 and t1 are each one time for all rows or one per row; t1 may lie before t0, and rows
/// with t1 == t0 are copied. `statistics` holds one record per row.
///
/// Up to 64 samples are integrated at a time. Each has its own time, step size and error, and a finished one is
/// replaced by the next. f(in, dy) writes the slopes of the rows of a Stage<S> to a View<S> of the shape of in.y. If
/// each row of dy depends on the sample, time and y of that row alone, as it must, the result of a sample has the same
/// bits whatever other samples are integrated. Times and step sizes are double, states are S. observer(steps) is called
/// after each round in which steps were accepted, with the AcceptedSteps<S>.
///
/// Numerical failure does not throw: the statistics of the sample hold its status, its row of y1 is the state at the
/// time that was reached, and the other samples go on; see throw_failed(). Steps in which f or the state is not finite
/// are rejected. Throws invalid_argument for options, tolerances, times or shapes out of range.
template <Real S, RightHandSide<S> F, ErrorNorm Norm, class Observer = IgnoreSteps>
  requires std::invocable<Observer&, const AcceptedSteps<S>&>
void integrate(const F& f, View<const S> y0, Times t0, Times t1, View<S> y1, const SolverOptions& options,
               const ErrorControl<Norm>& control, std::span<SolveStatistics> statistics, Workspace<S>& workspace,
               Observer&& observer = Observer{}) {
  detail::Integration<S, F, Norm, std::remove_reference_t<Observer>>(f, y0, t0, t1, y1, options, control, statistics,
                                                                     workspace, observer)
      .run();
}

}  // namespace diffeo::inline DIFFEO_ISA::ode
