// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <diffeo/autodiff/fields.hpp>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>
#include <initializer_list>

/// Size of the error of a step for each row: every entry of the error estimate is divided by absolute + relative
/// max(|y before|, |y after|), and a norm of the row of quotients gives one number; a step is accepted if it is <= 1.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Tolerated error of an entry y: absolute + relative |y|.
struct Tolerance {
  double relative = 1e-5;
  double absolute = 1e-6;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("relative", self.relative, "absolute", self.absolute);
  }

  /// Throws invalid_argument unless both are finite and greater than 0; `what` names the caller.
  void check(const char* what) const {
    require(relative > 0 && std::isfinite(relative), what, ": the relative tolerance is ", relative,
            ", expected finite and greater than 0");
    require(absolute > 0 && std::isfinite(absolute), what, ": the absolute tolerance is ", absolute,
            ", expected finite and greater than 0");
  }
};

/// Columns first ... first + count - 1 of the state, which enter one norm with one tolerance.
struct ColumnGroup {
  Index first = 0;
  Index count = 0;
  Tolerance tolerance = {};
};

/// Norm over the columns of each row. `add` includes one more entry in an accumulator that starts at 0; `finish`
/// computes the norm from the accumulator and the number of entries. Both work on registers whose lanes are rows. A
/// norm need not propagate NaN: its callers test for NaN separately.
template <class N>
concept ErrorNorm = requires(simd::Vec<float> f, simd::Vec<double> d) {
  { N::template add<float>(f, f) } -> std::same_as<simd::Vec<float>>;
  { N::template add<double>(d, d) } -> std::same_as<simd::Vec<double>>;
  { N::template finish<float>(f, Index{1}) } -> std::same_as<simd::Vec<float>>;
  { N::template finish<double>(d, Index{1}) } -> std::same_as<simd::Vec<double>>;
};

/// Root mean square, as in Hairer's codes (Solving ODEs I, II.4).
struct RmsNorm {
  template <Real S>
  static simd::Vec<S> add(simd::Vec<S> total, simd::Vec<S> x) {
    return simd::mul_add<S>(x, x, total);
  }
  template <Real S>
  static simd::Vec<S> finish(simd::Vec<S> total, Index count) {
    return simd::sqrt<S>(total / simd::broadcast<S>(static_cast<S>(count)));
  }
};

/// Largest absolute value: every single entry has to meet its tolerance.
struct MaxNorm {
  template <Real S>
  static simd::Vec<S> add(simd::Vec<S> total, simd::Vec<S> x) {
    return simd::max<S>(total, simd::abs<S>(x));
  }
  template <Real S>
  static simd::Vec<S> finish(simd::Vec<S> total, Index) {
    return total;
  }
};

static_assert(ErrorNorm<RmsNorm> && ErrorNorm<MaxNorm>);

/// Columns and tolerances by which step sizes are chosen: up to eight groups of columns (four if the gradient comes
/// from the adjoint equation). The error of a row is the largest norm of its groups; columns in no group do not affect
/// the steps. Without groups, all columns form one group with the tolerances of SolverOptions.
template <ErrorNorm N = RmsNorm>
struct ErrorControl {
  using Norm = N;
  static constexpr std::size_t max_groups = 8;

  std::array<ColumnGroup, max_groups> groups{};
  std::size_t count = 0;

  ErrorControl() = default;
  ErrorControl(std::initializer_list<ColumnGroup> list) {
    require(list.size() <= max_groups, "ErrorControl: ", list.size(), " groups, expected at most ", max_groups);
    for (const ColumnGroup& group : list) groups[count++] = group;
  }

  /// Throws invalid_argument for too many groups, or a group outside the `columns` of the state; `what` names the
  /// caller.
  void check(const char* what, Index columns) const {
    require(count <= max_groups, what, ": the error control has ", count, " groups, expected at most ", max_groups);
    for (std::size_t g = 0; g < count; ++g) {
      const ColumnGroup& group = groups[g];
      require(group.first >= 0 && group.count >= 1 && group.first <= columns - group.count, what, ": columns ",
              group.first, " ... ", group.first + group.count - 1, " are measured, the state has ", columns);
      group.tolerance.check(what);
    }
  }
};

}  // namespace diffeo::inline DIFFEO_ISA::ode
