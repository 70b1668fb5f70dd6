// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/math/simd.hpp>
#include <diffeo/ode/tableau.hpp>
#include <type_traits>

/// Arithmetic of a Runge-Kutta step on a block of samples. Each kernel makes one pass over the block, whose stages fit
/// into the first cache level.
namespace diffeo::inline DIFFEO_ISA::ode::detail {

/// Number of rows of a block, and the distance between its columns in memory. Kernels process whole registers: they
/// also compute the rows up to the next multiple of the register length, whose values are unspecified.
inline constexpr Index block_rows = 64;

/// Converts a non-negative Index to the index type of the standard containers.
constexpr std::size_t to_size(Index i) { return static_cast<std::size_t>(i); }

/// Returns `rows` rounded up to a multiple of the register length.
template <Real S>
constexpr Index whole_registers(Index rows) {
  return (rows + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>;
}

/// Linear combination sum_i weight_i k_i of stages; stages of zero weight are left out.
template <Real S>
struct Combination {
  std::size_t count = 0;
  std::array<S, max_stages> weight{};
  std::array<std::size_t, max_stages> stage{};

  Combination() = default;
  explicit Combination(const std::array<double, max_stages>& weights) {
    for (std::size_t i = 0; i < max_stages; ++i) {
      if (weights[i] == 0) continue;
      weight[count] = static_cast<S>(weights[i]);
      stage[count++] = i;
    }
  }
};

// Calls f(std::integral_constant<std::size_t, count>), so that the compiler can unroll sums over the stages.
template <std::size_t Count = 1, class F>
void with_count(std::size_t count, const F& f) {
  if constexpr (Count < max_stages) {
    if (count != Count) return with_count<Count + 1>(count, f);
  }
  f(std::integral_constant<std::size_t, Count>{});
}

// Terms of a Combination whose number of stages is known at compile time; at() returns one register of the sum.
template <Real S, std::size_t Count>
struct Terms {
  std::array<const S*, Count> k;
  std::array<simd::Vec<S>, Count> weight;

  Terms(const Combination<S>& sum, const S* const* stages) {
    for (std::size_t i = 0; i < Count; ++i) {
      k[i] = stages[sum.stage[i]];
      weight[i] = simd::broadcast<S>(sum.weight[i]);
    }
  }
  simd::Vec<S> at(Index place) const {
    simd::Vec<S> total = weight[0] * simd::load<S>(k[0] + place);
#pragma GCC unroll 16
    for (std::size_t i = 1; i < Count; ++i) total = simd::mul_add<S>(weight[i], simd::load<S>(k[i] + place), total);
    return total;
  }
};

/// Computes out = y + h sum_i weight_i k_i for rows x cols entries; h holds one step size per row.
template <Real S>
void advance(Index rows, Index cols, S* out, const S* y, const S* h, const Combination<S>& sum,
             const S* const* stages) {
  with_count(sum.count, [&](auto count) {
    const Terms<S, count> terms(sum, stages);
    for (Index j = 0; j < cols; ++j)
      for (Index i = 0; i < whole_registers<S>(rows); i += simd::lanes<S>) {
        const Index place = j * block_rows + i;
        simd::store<S>(out + place, simd::mul_add<S>(simd::load<S>(h + i), terms.at(place), simd::load<S>(y + place)));
      }
  });
}

/// Computes norm[i], the norm of h sum_i weight_i k_i over columns first ... first + cols - 1 of row i, each entry
/// divided by absolute + relative max(|before|, |after|). The norm is NaN if an entry is not finite.
template <class Norm, Real S>
void error_norm(Index rows, Index first, Index cols, S relative, S absolute, S* norm, const S* before, const S* after,
                const S* h, const Combination<S>& sum, const S* const* stages) {
  using V = simd::Vec<S>;
  with_count(sum.count, [&](auto count) {
    const Terms<S, count> terms(sum, stages);
    const V rtol = simd::broadcast<S>(relative), atol = simd::broadcast<S>(absolute);
    for (Index i = 0; i < whole_registers<S>(rows); i += simd::lanes<S>) {
      V total{}, not_finite{};
      for (Index j = first; j < first + cols; ++j) {
        const Index place = j * block_rows + i;
        const V size =
            simd::max<S>(simd::abs<S>(simd::load<S>(before + place)), simd::abs<S>(simd::load<S>(after + place)));
        const V error = simd::load<S>(h + i) * terms.at(place) / simd::mul_add<S>(rtol, size, atol);
        total = Norm::template add<S>(total, error);
        not_finite = simd::mul_add<S>(V{}, error, not_finite);
      }
      simd::store<S>(norm + i, Norm::template finish<S>(total, cols) + not_finite);
    }
  });
}

/// Computes norm[i], the norm of x, or of x - y if y is not null, over columns first ... first + cols - 1 of row i,
/// each entry divided by absolute + relative |scale|.
template <class Norm, Real S>
void plain_norm(Index rows, Index first, Index cols, S relative, S absolute, S* norm, const S* scale, const S* x,
                const S* y) {
  using V = simd::Vec<S>;
  const V rtol = simd::broadcast<S>(relative), atol = simd::broadcast<S>(absolute);
  for (Index i = 0; i < whole_registers<S>(rows); i += simd::lanes<S>) {
    V total{};
    for (Index j = first; j < first + cols; ++j) {
      const Index place = j * block_rows + i;
      V value = simd::load<S>(x + place);
      if (y) value = value - simd::load<S>(y + place);
      total = Norm::template add<S>(total,
                                    value / simd::mul_add<S>(rtol, simd::abs<S>(simd::load<S>(scale + place)), atol));
    }
    simd::store<S>(norm + i, Norm::template finish<S>(total, cols));
  }
}

/// Sets not_finite[i] to 0 if row i of y and of all stages is finite, else to NaN.
template <Real S>
void find_not_finite(Index rows, Index cols, S* not_finite, const S* y, const S* const* stages, std::size_t count) {
  using V = simd::Vec<S>;
  const V zero{};
  for (Index i = 0; i < whole_registers<S>(rows); i += simd::lanes<S>) {
    V total{};
    for (Index j = 0; j < cols; ++j) {
      const Index place = j * block_rows + i;
      total = simd::mul_add<S>(zero, simd::load<S>(y + place), total);
      for (std::size_t k = 0; k < count; ++k) total = simd::mul_add<S>(zero, simd::load<S>(stages[k] + place), total);
    }
    simd::store<S>(not_finite + i, total);
  }
}

/// Computes for each row the squared Euclidean norms of slope - slope_before (into `slopes`), of end - end_before (into
/// `ends`) and of `end` (into `size`).
template <Real S>
void end_differences(Index rows, Index cols, S* slopes, S* ends, S* size, const S* slope, const S* slope_before,
                     const S* end, const S* end_before) {
  using V = simd::Vec<S>;
  for (Index i = 0; i < whole_registers<S>(rows); i += simd::lanes<S>) {
    V k{}, y{}, whole{};
    for (Index j = 0; j < cols; ++j) {
      const Index place = j * block_rows + i;
      const V value = simd::load<S>(end + place);
      const V dk = simd::load<S>(slope + place) - simd::load<S>(slope_before + place);
      const V dy = value - simd::load<S>(end_before + place);
      k = simd::mul_add<S>(dk, dk, k);
      y = simd::mul_add<S>(dy, dy, y);
      whole = simd::mul_add<S>(value, value, whole);
    }
    simd::store<S>(slopes + i, k);
    simd::store<S>(ends + i, y);
    simd::store<S>(size + i, whole);
  }
}

}  // namespace diffeo::inline DIFFEO_ISA::ode::detail
