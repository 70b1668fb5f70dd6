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

/// Initial value problems of many samples: y' = f(t, y), each sample a row with its own time, steps and end.
namespace diffeo::inline DIFFEO_ISA::ode {

namespace detail {
template <Real S, class F, class Norm, class Observer>
class Integration;
}

/// The memory of solves. It keeps what it has taken: a solve no larger than one before takes nothing.
template <Real S>
class Workspace {
 public:
  Workspace() = default;

 private:
  template <Real, class, class, class>
  friend class detail::Integration;

  static constexpr auto rows = static_cast<std::size_t>(detail::block_rows);

  // Of the samples that wait.
  std::vector<Index> waiting;
  std::vector<double> first_step;
  Array<S> slope;  // a row each, kept for methods whose steps begin with it
  // The block: columns of y, its next value, the stage and all slopes; zero in the beginning, so that registers that
  // reach beyond the rows in use read numbers.
  Array<S> block;
  std::array<S*, max_stages> k{};
  // One per row of the block.
  std::array<Index, rows> sample{}, accepted_row{};
  std::array<double, rows> t{}, end{}, step{}, step_end{}, next_step{}, least_step{}, log_error{}, time{}, error{};
  std::array<bool, rows> after_rejection{}, last{}, leaves{};
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
    take_memory();
  }

  void run() {
    start();
    active_ = 0;
    while (active_ < block_rows && next_ < waiting_) load(active_++);
    while (active_ > 0) {
      choose_steps();
      make_stages();
      measure();
      const Index accepted = decide();
      if (accepted > 0) {
        observer_(AcceptedSteps<S>{accepted, w_.accepted_row.data(), w_.sample.data(), w_.t.data(), w_.step.data(),
                                   w_.step_end.data(), in_use(y_), in_use(after_), w_.k.data()});
        move_on(accepted);
      }
      replace_those_that_leave();
    }
  }

 private:
  SolveStatistics& statistics(Index row) { return statistics_[static_cast<std::size_t>(w_.sample[at(row)])]; }
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  View<const S> in_use(const S* x) const { return {x, active_, cols_, block_rows}; }

  void take_memory() {
    const Index arrays = static_cast<Index>(std::max<std::size_t>(method_.stages, 2)) + 3;
    if (w_.block.cols() < cols_ * arrays) w_.block = Array<S>::Zero(block_rows, cols_ * arrays);
    S* place = w_.block.data();
    const Index size = block_rows * cols_;
    for (S** array : {&y_, &after_, &point_}) {
      *array = place;
      place += size;
    }
    for (Index i = 3; i < arrays; ++i, place += size) w_.k[at(i - 3)] = place;
    if (w_.waiting.size() < at(y0_.rows)) {
      w_.waiting.resize(at(y0_.rows));
      w_.first_step.resize(at(y0_.rows));
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
  void give(Index row) {
    for (Index j = 0; j < cols_; ++j) y1_.col(j)[w_.sample[at(row)]] = y_[j * block_rows + row];
  }

  // Lists the samples that have somewhere to go, and finds for each the slope at the start and the first step.
  void start() {
    Index listed = 0;
    for (Index i = 0; i < y0_.rows; ++i) {
      statistics_[at(i)] = {};
      statistics_[at(i)].t = t0_[i];
      if (t1_[i] != t0_[i]) {
        w_.waiting[at(listed++)] = i;
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
        w_.sample[at(i)] = w_.waiting[at(first + i)];
        w_.t[at(i)] = t0_[w_.sample[at(i)]];
        copy_y0(i, w_.sample[at(i)]);
      }
      start_block();
    }
  }

  void start_block() {
    S* const slope = w_.k[0];
    evaluate(w_.t.data(), y_, slope);
    find_not_finite<S>(active_, cols_, w_.not_finite.data(), y_, w_.k.data(), 1);
    if (!fixed_ && options_.first_step == 0) {
      // Norms go through `error` (y), `log_error` (f) and `end` (the change of f), which nobody uses yet.
      start_norms(w_.error, y_, nullptr);
      start_norms(w_.log_error, slope, nullptr);
      for (Index i = 0; i < active_; ++i) {
        const double start = t0_[w_.sample[at(i)]], span = t1_[w_.sample[at(i)]] - start;
        const double size = std::min(trial_step(w_.error[at(i)], w_.log_error[at(i)]), std::abs(span));
        w_.step[at(i)] = std::copysign(size, span);
        w_.h[at(i)] = static_cast<S>(w_.step[at(i)]);
        w_.time[at(i)] = start + w_.step[at(i)];
      }
      Combination<S> euler;
      euler.count = 1;
      euler.weight[0] = 1;
      advance<S>(active_, cols_, point_, y_, w_.h.data(), euler, w_.k.data());
      evaluate(w_.time.data(), point_, w_.k[1]);
      start_norms(w_.end, w_.k[1], slope);
      for (Index i = 0; i < active_; ++i)
        w_.next_step[at(i)] =
            first_step(std::abs(w_.step[at(i)]), w_.log_error[at(i)], w_.end[at(i)], method_.error_order);
    }
    for (Index i = 0; i < active_; ++i) {
      const Index sample = w_.sample[at(i)];
      if (!(w_.not_finite[at(i)] == 0)) {
        statistics(i).status = Status::not_finite;
        give(i);
        continue;
      }
      double size = options_.first_step > 0 ? options_.first_step : w_.next_step[at(i)];
      if (!(size > 0)) size = 1e-14 * std::abs(t1_[sample] - t0_[sample]);  // the norm of f has overflowed
      w_.waiting[at(waiting_)] = sample;
      w_.first_step[at(waiting_)] = std::clamp(size, options_.min_step, options_.max_step);
      if (method_.first_same_as_last)
        for (Index j = 0; j < cols_; ++j) w_.slope.data()[waiting_ * cols_ + j] = slope[j * block_rows + i];
      ++waiting_;
    }
  }

  // The largest of the groups' norms of x (- y), in units of the tolerance at the start.
  void start_norms(std::array<double, Workspace<S>::rows>& out, const S* x, const S* y) {
    for (std::size_t g = 0; g < control_.count; ++g) {
      const ColumnGroup& group = control_.groups[g];
      plain_norm<Norm, S>(active_, group.first, group.count, static_cast<S>(group.tolerance.relative),
                          static_cast<S>(group.tolerance.absolute), w_.norm.data(), y_, x, y);
      for (Index i = 0; i < active_; ++i) {
        const double norm = static_cast<double>(w_.norm[at(i)]);
        out[at(i)] = g == 0 ? norm : std::max(out[at(i)], norm);
      }
    }
  }

  // The next waiting sample takes a row of the block.
  void load(Index row) {
    const Index place = next_++, sample = w_.waiting[at(place)];
    const std::size_t r = at(row);
    w_.sample[r] = sample;
    w_.t[r] = t0_[sample];
    w_.end[r] = t1_[sample];
    w_.log_error[r] = StepController::first_log_error;
    w_.after_rejection[r] = false;
    copy_y0(row, sample);
    if (!fixed_) {
      w_.next_step[r] = std::copysign(w_.first_step[at(place)], w_.end[r] - w_.t[r]);
      // Where t is near 0, 16 epsilon |t| bounds nothing.
      w_.least_step[r] =
          std::max(options_.min_step, std::numeric_limits<double>::epsilon() * std::abs(w_.next_step[r]));
    }
    if (method_.first_same_as_last)
      for (Index j = 0; j < cols_; ++j) w_.k[0][j * block_rows + row] = w_.slope.data()[place * cols_ + j];
  }

  void choose_steps() {
    for (std::size_t i = 0; i < at(active_); ++i) {
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
      for (std::size_t i = 0; i < at(active_); ++i)
        w_.time[i] = stage_time(method_.c[s], w_.t[i], w_.step[i], w_.step_end[i]);
      evaluate(w_.time.data(), point, w_.k[s]);
    }
    if (!method_.first_same_as_last) advance<S>(active_, cols_, after_, y_, w_.h.data(), b_, w_.k.data());
  }

  void measure() {
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
        for (std::size_t i = 0; i < at(active_); ++i) {
          double error = static_cast<double>(w_.norm[i]);
          if (method_.damped() && error > 0)  // Hairer's dop853: the larger the lower order's, the less it counts
            error *= error / std::hypot(error, 0.1 * static_cast<double>(w_.norm2[i]));
          w_.error[i] = g == 0 || std::isnan(error) ? error : std::max(w_.error[i], error);  // NaN stays
        }
      }
    }
    if (!method_.twin_ends) return;
    // The solution moves along the difference of the two ends at the rate that the field's slopes differ by: a power
    // iteration that finds the largest eigenvalue of a stiff field. Where the ends differ by rounding alone there is
    // nothing to learn.
    end_differences<S>(active_, cols_, w_.norm.data(), w_.norm2.data(), w_.end_norm.data(), w_.k[method_.stages - 1],
                       w_.k[method_.stages - 2], after_, point_);
    constexpr double rounding = 4 * static_cast<double>(std::numeric_limits<S>::epsilon());
    for (std::size_t i = 0; i < at(active_); ++i) {
      const double slopes = static_cast<double>(w_.norm[i]), ends = static_cast<double>(w_.norm2[i]);
      if (!(ends > rounding * rounding * static_cast<double>(w_.end_norm[i]))) continue;
      const double estimate = std::sqrt(slopes / ends);
      if (std::isfinite(estimate)) statistics(static_cast<Index>(i)).stiffness = estimate;
    }
  }

  // Accepts or rejects, and finds the next steps. Returns how many were accepted.
  Index decide() {
    Index accepted = 0;
    for (std::size_t i = 0; i < at(active_); ++i) {
      SolveStatistics& made = statistics(static_cast<Index>(i));
      made.step = w_.step[i];
      w_.leaves[i] = false;
      const bool finite = w_.not_finite[i] == 0;
      if (fixed_) {
        if (!finite) {
          ++made.rejected;
          leave(i, Status::not_finite);
          continue;
        }
        w_.accepted_row[at(accepted++)] = static_cast<Index>(i);
        ++made.accepted;
        made.t = w_.step_end[i];
        if (w_.last[i]) leave(i, Status::finished);
        continue;
      }
      const double error = finite ? w_.error[i] : std::numeric_limits<double>::infinity();
      made.error = error;
      const double size = std::abs(w_.step[i]);
      const double least = std::max(w_.least_step[i], 16 * std::numeric_limits<double>::epsilon() * std::abs(w_.t[i]));
      double next;
      if (error <= 1) {
        w_.accepted_row[at(accepted++)] = static_cast<Index>(i);
        ++made.accepted;
        made.t = w_.step_end[i];
        if (w_.last[i]) {
          leave(i, Status::finished);
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
          leave(i, finite ? Status::step_too_small : Status::not_finite);
          continue;
        }
        w_.after_rejection[i] = true;
        next = size * (std::isfinite(error) ? controller_.rejected(std::log(error)) : StepController::smallest_factor);
      }
      if (made.accepted + made.rejected >= options_.max_steps) {
        leave(i, Status::max_steps);
        continue;
      }
      w_.next_step[i] =
          std::copysign(std::clamp(next, std::min(least, options_.max_step), options_.max_step), w_.step[i]);
    }
    return accepted;
  }

  void leave(std::size_t row, Status status) {
    statistics(static_cast<Index>(row)).status = status;
    w_.leaves[row] = true;
  }

  void move_on(Index accepted) {
    std::swap(y_, after_);
    const bool same = method_.first_same_as_last;
    const std::size_t last = method_.stages - 1;
    if (same) std::swap(w_.k[0], w_.k[last]);
    Index next = 0;
    for (Index i = 0; i < active_; ++i) {
      if (next < accepted && w_.accepted_row[at(next)] == i) {
        w_.t[at(i)] = w_.step_end[at(i)];
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

  // From the last row on, so that the row that moves into a gap has been looked at.
  void replace_those_that_leave() {
    for (Index i = active_ - 1; i >= 0; --i) {
      if (!w_.leaves[at(i)]) continue;
      give(i);
      if (next_ < waiting_) {
        load(i);
        continue;
      }
      const Index from = --active_;
      if (from == i) continue;
      const std::size_t to = at(i), last = at(from);
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

/// Integrates y' = f(t, y) for every row of y0 (N x n) from t0 to t1, which may each be one time for all or one for
/// each row, and t1 before t0, into y1 (N x n, which may be y0's memory); rows with t1 == t0 are copied.
///
/// Samples are taken up to 64 at a time: each has its own time, step and error, and when it ends the next one takes its
/// place. f(in, dy) writes f of the rows of a Stage<S> to a View<S> of in.y's shape; a row of dy must depend on the
/// same row's sample, time and y alone, and then the results of a sample have the same bits whatever other samples
/// there are. Times and steps are double, states S. observer(steps) is called after each round with the
/// AcceptedSteps<S>.
///
/// Numerical failure does not throw: the statistics of the sample say it, its y1 is the state at the time it reached,
/// and the others go on; see throw_failed. Steps in which f or the state is not finite are rejected. Throws
/// invalid_argument for options, tolerances, times or shapes out of range.
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
