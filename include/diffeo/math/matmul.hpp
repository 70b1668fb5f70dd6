// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/core/array.hpp>
#include <diffeo/math/simd.hpp>

/// Products of the shapes that tiles of a flow have. Written by hand for two reasons. Every element of the result is
/// one chain of (fused) multiply-adds over the inner index in increasing order, whatever the number of rows, so that a
/// row's bits do not depend on the other rows. And at the sizes of a flow's layers (64 x 64) nothing is packed or
/// copied: the operands lie in the first-level cache, and a block of the result stays in registers.
namespace diffeo::inline DIFFEO_ISA::math {

/// The right operand of a product: element (k, n) lies at data[k * inner + n * outer].
template <class S>
struct Strided {
  const S* data = nullptr;
  Index inner = 0;
  Index outer = 0;
};

/// What a product starts from.
enum class Start { zero, bias, accumulate };

namespace detail {

// One block of V registers by C columns of out = start + a * b, over K inner steps. Rows < lanes only where V is 1.
template <class S, int V, int C, bool Partial>
void product_block(S* out, Index out_stride, const S* a, Index a_stride, const S* b, Index b_inner, Index b_outer,
                   const S* bias, Start start, Index inner, Index rows) {
  using Register = simd::Vec<S>;
  constexpr Index lanes = simd::lanes<S>;
  const auto get = [&](const S* p) {
    if constexpr (Partial)
      return simd::load<S>(p, rows);
    else
      return simd::load<S>(p);
  };
  Register sum[std::size_t{C}][std::size_t{V}];
  const auto begin = [&](const auto& first) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[c][v] = first(c, v);
  };
  if (start == Start::zero)
    begin([](int, int) { return Register{}; });
  else if (start == Start::bias)
    begin([&](int c, int) { return simd::broadcast<S>(bias[c]); });
  else
    begin([&](int c, int v) { return get(out + c * out_stride + v * lanes); });
  for (Index k = 0; k < inner; ++k) {
    Register left[std::size_t{V}];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) left[v] = get(a + v * lanes);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Register right = simd::broadcast<S>(b[c * b_outer]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[c][v] = simd::mul_add<S>(left[v], right, sum[c][v]);
    }
    a += a_stride;
    b += b_inner;
  }
  // Lest the compiler keeps the addresses of all these since `begin`: there are no registers left for them.
  asm("" : "+r"(out));
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      S* p = out + c * out_stride + v * lanes;
      if constexpr (Partial)
        simd::store<S>(p, sum[c][v], rows);
      else
        simd::store<S>(p, sum[c][v]);
    }
}

// The columns up to `end` from j on, C at a time; j moves on.
template <class S, int C>
void product_columns(Index& j, Index end, View<S> out, View<const S> a, Strided<S> b, const S* bias, Start start) {
  // As many sums as registers hold beside the operands: a multiply-add that shares its operands with others waits for
  // fewer loads. Where another program runs on the same core's other thread, 4 x 6 did 135 GFLOP/s and 2 x 8 did 105.
  constexpr int V = simd::register_count > 16 || C <= 2 ? 4 : 2;
  constexpr Index lanes = simd::lanes<S>;
  for (; j + C <= end; j += C) {
    Index i = 0;
    const auto block = [&]<int Registers, bool Partial>(std::integral_constant<int, Registers>,
                                                        std::bool_constant<Partial>, Index rows) {
      product_block<S, Registers, C, Partial>(out.col(j) + i, out.stride, a.data + i, a.stride, b.data + j * b.outer,
                                              b.inner, b.outer, bias ? bias + j : nullptr, start, a.cols, rows);
      i += Registers * lanes;
    };
    while (i + V * lanes <= out.rows) block(std::integral_constant<int, V>{}, std::false_type{}, lanes);
    if constexpr (V > 2) {
      if (i + 3 * lanes <= out.rows) block(std::integral_constant<int, 3>{}, std::false_type{}, lanes);
      if (i + 2 * lanes <= out.rows) block(std::integral_constant<int, 2>{}, std::false_type{}, lanes);
    }
    if (i + lanes <= out.rows) block(std::integral_constant<int, 1>{}, std::false_type{}, lanes);
    if (i < out.rows) block(std::integral_constant<int, 1>{}, std::true_type{}, out.rows - i);
  }
}

// A single row whose result and right operand are contiguous along the columns: registers run along the columns.
// Columns that do not fill a register go one by one, with the same multiply-adds in scalars.
template <class S>
void product_row(View<S> out, View<const S> a, Strided<S> b, const S* bias, Start start) {
  constexpr Index lanes = simd::lanes<S>;
  const S* first = start == Start::bias ? bias : out.data;
  const auto registers = [&]<int V>(std::integral_constant<int, V>, Index j) {
    simd::Vec<S> sum[std::size_t{V}];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[v] = start == Start::zero ? simd::Vec<S>{} : simd::load<S>(first + j + v * lanes);
    for (Index k = 0; k < a.cols; ++k) {
      const simd::Vec<S> left = simd::broadcast<S>(a.data[k * a.stride]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        sum[v] = simd::mul_add<S>(left, simd::load<S>(b.data + k * b.inner + j + v * lanes), sum[v]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) simd::store<S>(out.data + j + v * lanes, sum[v]);
  };
  const auto scalars = [&]<int C>(std::integral_constant<int, C>, Index j) {
    S sum[std::size_t{C}];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sum[c] = start == Start::zero ? S(0) : first[j + c];
    for (Index k = 0; k < a.cols; ++k) {
      const S left = a.data[k * a.stride];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[c] = simd::mul_add_scalar(left, b.data[k * b.inner + j + c], sum[c]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) out.data[j + c] = sum[c];
  };
  Index j = 0;
  for (; j + 4 * lanes <= out.cols; j += 4 * lanes) registers(std::integral_constant<int, 4>{}, j);
  for (; j + lanes <= out.cols; j += lanes) registers(std::integral_constant<int, 1>{}, j);
  for (; j + 4 <= out.cols; j += 4) scalars(std::integral_constant<int, 4>{}, j);
  for (; j + 2 <= out.cols; j += 2) scalars(std::integral_constant<int, 2>{}, j);
  for (; j < out.cols; ++j) scalars(std::integral_constant<int, 1>{}, j);
}

// Up to four inner steps: there is nothing to keep in registers but a, so whole columns are written one by one.
template <class S, int K>
void product_thin(View<S> out, View<const S> a, Strided<S> b, const S* bias, Start start) {
  constexpr Index lanes = simd::lanes<S>;
  for (Index j = 0; j < out.cols; ++j) {
    simd::Vec<S> right[std::size_t{K}];
    for (int k = 0; k < K; ++k) right[k] = simd::broadcast<S>(b.data[k * b.inner + j * b.outer]);
    const simd::Vec<S> first = start == Start::bias ? simd::broadcast<S>(bias[j]) : simd::Vec<S>{};
    S* to = out.col(j);
    const auto rows = [&](Index i, auto... n) {
      simd::Vec<S> sum = start == Start::accumulate ? simd::load<S>(to + i, n...) : first;
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) sum = simd::mul_add<S>(simd::load<S>(a.col(k) + i, n...), right[k], sum);
      simd::store<S>(to + i, sum, n...);
    };
    Index i = 0;
    for (; i + lanes <= out.rows; i += lanes) rows(i);
    if (i < out.rows) rows(i, out.rows - i);
  }
}

}  // namespace detail

/// out = start + a * b, where out is N x M, a is N x K and b is K x M; `bias` (M values) where start is Start::bias.
template <class S>
void product(View<S> out, View<const S> a, Strided<S> b, const S* bias, Start start) {
  if (out.rows == 0 || out.cols == 0) return;
  if (a.cols == 0) a.data = b.data = out.data;  // never read, but they may be null, and are added to
  if (out.rows == 1 && b.outer == 1 && out.stride == 1) return detail::product_row(out, a, b, bias, start);
  if (a.cols == 1) return detail::product_thin<S, 1>(out, a, b, bias, start);
  if (a.cols == 2) return detail::product_thin<S, 2>(out, a, b, bias, start);
  if (a.cols == 3) return detail::product_thin<S, 3>(out, a, b, bias, start);
  if (a.cols == 4) return detail::product_thin<S, 4>(out, a, b, bias, start);
  Index j = 0;
  // Where 6 and 2 would be left, 4 and 4 are faster.
  detail::product_columns<S, 6>(j, out.cols % 6 == 2 ? out.cols - 8 : out.cols, out, a, b, bias, start);
  detail::product_columns<S, 4>(j, out.cols, out, a, b, bias, start);
  detail::product_columns<S, 2>(j, out.cols, out, a, b, bias, start);
  detail::product_columns<S, 1>(j, out.cols, out, a, b, bias, start);
}

/// out (assigned, or added to) = a' * b for a: N x K, b: N x M, meant for small K or M. Registers run along the rows;
/// the sum over the lanes comes last.
template <class S>
void product_of_transposed(View<S> out, bool assign, View<const S> a, View<const S> b) {
  using Register = simd::Vec<S>;
  constexpr Index lanes = simd::lanes<S>;
  const bool a_wide = a.cols >= b.cols;
  const View<const S> wide = a_wide ? a : b, narrow = a_wide ? b : a;
  const Index wide_step = a_wide ? 1 : out.stride, narrow_step = a_wide ? out.stride : 1;
  // As many sums at a time as a register has lanes, to add up all their lanes together.
  Register sums[std::size_t{lanes}];
  for (Index first = 0; first < wide.cols; first += lanes) {
    const Index count = std::min(lanes, wide.cols - first);
    for (Index j = 0; j < narrow.cols; ++j) {
      Index k = 0;
      const auto columns = [&]<int C>(std::integral_constant<int, C>) {
        Register part[std::size_t{C}] = {};
        const S* left = wide.col(first + k);
        const S* right = narrow.col(j);
        Index i = 0;
        for (; i + lanes <= a.rows; i += lanes) {
          const Register r = simd::load<S>(right + i);
#pragma GCC unroll 8
          for (int c = 0; c < C; ++c) part[c] = simd::mul_add<S>(simd::load<S>(left + c * wide.stride + i), r, part[c]);
        }
        if (i < a.rows) {
          const Register r = simd::load<S>(right + i, a.rows - i);
          for (int c = 0; c < C; ++c)
            part[c] = simd::mul_add<S>(simd::load<S>(left + c * wide.stride + i, a.rows - i), r, part[c]);
        }
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sums[k + c] = part[c];
        k += C;
      };
      while (k + 8 <= count) columns(std::integral_constant<int, 8>{});
      while (k < count) columns(std::integral_constant<int, 1>{});
      for (; k < lanes; ++k) sums[k] = Register{};
      const Register total = simd::sum_lanes<S>(sums);
      S* p = out.data + first * wide_step + j * narrow_step;
      if (wide_step == 1 && count == lanes) {
        simd::store<S>(p, assign ? total : simd::load<S>(p) + total);
      } else {
        for (Index l = 0; l < count; ++l) p[l * wide_step] = assign ? total[l] : p[l * wide_step] + total[l];
      }
    }
  }
}

}  // namespace diffeo::inline DIFFEO_ISA::math
