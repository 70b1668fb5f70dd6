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

/// How large the error of a step is, row by row: every entry in units of absolute + relative max(|y|, |y after|), the
/// entries of a row put together by a norm.
namespace diffeo::inline DIFFEO_ISA::ode {

/// The error that is asked for in an entry y: absolute + relative |y|.
struct Tolerance {
  double relative = 1e-5;
  double absolute = 1e-6;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("relative", self.relative, "absolute", self.absolute);
  }

  void check(const char* what) const {
    require(relative > 0 && std::isfinite(relative), what, ": the relative tolerance is ", relative,
            ", expected finite and greater than 0");
    require(absolute > 0 && std::isfinite(absolute), what, ": the absolute tolerance is ", absolute,
            ", expected finite and greater than 0");
  }
};

/// Columns that are measured together, with a tolerance of their own.
struct ColumnGroup {
  Index first = 0;
  Index count = 0;
  Tolerance tolerance = {};
};

/// A norm of the columns of a row. `add` takes one more entry into the accumulator, which starts at 0; `finish` makes
/// the norm of it. Both work on registers that run along rows. A norm need not see NaN: whoever uses it looks for that.
template <class N>
concept ErrorNorm = requires(simd::Vec<float> f, simd::Vec<double> d) {
  { N::template add<float>(f, f) } -> std::same_as<simd::Vec<float>>;
  { N::template add<double>(d, d) } -> std::same_as<simd::Vec<double>>;
  { N::template finish<float>(f, Index{1}) } -> std::same_as<simd::Vec<float>>;
  { N::template finish<double>(d, Index{1}) } -> std::same_as<simd::Vec<double>>;
};

/// Root of the mean of the squares: Hairer's.
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

/// The largest: no entry misses its tolerance.
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

/// What controls the steps: up to eight groups of columns (four where a gradient is to come from the adjoint equation);
/// a row's error is the largest of its groups' norms, and columns in no group have no say. Without a group all columns
/// are one, with the tolerances of the SolverOptions.
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
