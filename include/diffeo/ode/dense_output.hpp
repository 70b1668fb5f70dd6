// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/math/simd.hpp>
#include <diffeo/ode/integrate.hpp>
#include <diffeo/ode/kernels.hpp>
#include <diffeo/ode/tableau.hpp>

/// Dense output: the solution at times within a step.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Weights of dense output at one theta: y(t + theta h) = y + change (y(t + h) - y) + h sum_i stage_i k_i.
struct DenseWeights {
  double change = 0;
  std::array<double, max_stages> stage{};
};

/// Returns the weights of a method's dense output at theta in [0, 1]. The interpolant is y(t) at 0 and y(t + h) at 1,
/// with slope f at both ends, so that the interpolants of consecutive steps join with a continuous derivative.
constexpr DenseWeights dense_weights(const Tableau& method, double theta) {
  const double x = theta, r = 1 - theta;
  DenseWeights w;
  if (method.dense == DenseOutput::weights) {
    for (std::size_t i = 0; i < max_stages; ++i)
      for (std::size_t d = method.dense_weights.size(); d-- > 0;)
        w.stage[i] = (w.stage[i] + method.dense_weights[d][i]) * x;
    return w;
  }
  // hermite and extended both begin with the cubic polynomial through the values and slopes at both ends.
  w.change = x * x * (3 - 2 * x);
  if (method.dense == DenseOutput::extended) {  // terms of degree 4 to 7: Hairer, Solving ODEs I, II.6
    const std::array<double, 4> power = {x * x * r * r, x * x * x * r * r, x * x * x * r * r * r,
                                         x * x * x * x * r * r * r};
    for (std::size_t i = 0; i < max_stages; ++i)
      for (std::size_t d = 0; d < power.size(); ++d) w.stage[i] += power[d] * method.dense_weights[d][i];
  }
  w.stage[0] += x * r * r;
  w.stage[method.end_stage()] -= x * x * r;
  return w;
}

/// Memory of an Interpolant. Reusing one object for all rounds of a solve avoids allocations.
template <Real S>
class InterpolantWorkspace {
 public:
  InterpolantWorkspace() = default;

 private:
  template <Real>
  friend class Interpolant;

  static constexpr auto rows = static_cast<std::size_t>(detail::block_rows);

  Array<S> block;
  std::array<double, rows> time{};
  alignas(simd::register_bytes) std::array<S, rows> h{};
};

/// Dense output of the steps of one round. It refers to the AcceptedSteps and is valid only during the observer's call.
template <Real S>
class Interpolant {
 public:
  /// Evaluates the method.dense_stages additional stages of the dense output, for all rows of the block.
  template <class F>
  Interpolant(const F& f, const Tableau& method, const AcceptedSteps<S>& steps, InterpolantWorkspace<S>& workspace)
      : method_(method), steps_(steps) {
    const Index rows = steps.before.rows, cols = steps.before.cols, size = detail::block_rows * cols;
    for (std::size_t k = 0; k < method.stages; ++k) stages_[k] = steps.stages[k];
    if (method.dense_stages == 0) return;
    const Index needed = cols * static_cast<Index>(method.dense_stages + 1);
    if (workspace.block.cols() < needed) workspace.block = Array<S>::Zero(detail::block_rows, needed);
    S* const point = workspace.block.data();
    S* place = point;
    for (Index i = 0; i < rows; ++i) workspace.h[static_cast<std::size_t>(i)] = static_cast<S>(steps.step[i]);
    for (std::size_t k = method.stages; k < method.stages + method.dense_stages; ++k) {
      detail::advance<S>(rows, cols, point, steps.before.data, workspace.h.data(), detail::Combination<S>(method.a[k]),
                         stages_.data());
      for (Index i = 0; i < rows; ++i)
        workspace.time[static_cast<std::size_t>(i)] = stage_time(method.c[k], steps.t[i], steps.step[i], steps.end[i]);
      place += size;
      f(Stage<S>{steps.sample, workspace.time.data(), View<const S>{point, rows, cols, detail::block_rows}},
        View<S>{place, rows, cols, detail::block_rows});
      stages_[k] = place;
    }
  }

  /// Computes the state of an accepted row of the block at a time within its step, and calls put(column, value) for
  /// each column.
  template <class Put>
  void at(Index row, double time, const Put& put) const {
    const DenseWeights weights = dense_weights(method_, (time - steps_.t[row]) / steps_.step[row]);
    const S h = static_cast<S>(steps_.step[row]), change = static_cast<S>(weights.change);
    const detail::Combination<S> sum(weights.stage);
    for (Index j = 0; j < steps_.before.cols; ++j) {
      const Index place = j * detail::block_rows + row;
      S slope = 0;
      for (std::size_t k = 0; k < sum.count; ++k)
        slope = simd::mul_add_scalar<S>(sum.weight[k], stages_[sum.stage[k]][place], slope);
      const S before = steps_.before.data[place];
      put(j, simd::mul_add_scalar<S>(h, slope,
                                     simd::mul_add_scalar<S>(change, steps_.after.data[place] - before, before)));
    }
  }

 private:
  const Tableau& method_;
  const AcceptedSteps<S>& steps_;
  std::array<const S*, max_stages> stages_{};
};

}  // namespace diffeo::inline DIFFEO_ISA::ode
