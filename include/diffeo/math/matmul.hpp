// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/core/array.hpp>
#include <diffeo/math/simd.hpp>

/// Matrix products of the shapes that tiles of a flow have. They are written by hand for two reasons. First, every
/// element of the result is one chain of (fused) multiply-adds over the inner index in increasing order, whatever the
/// number of rows, so that the bits of a row do not depend on other rows. Second, at the sizes of a flow's layers (64 x
/// 64) nothing is packed or copied: the operands fit into the first-level cache, and a block of the result stays in
/// registers.
namespace diffeo::inline DIFFEO_ISA::math {

/// Right operand of a product: element (k, n) is data[k * inner + n * outer].
template <class S>
struct Strided {
  const S* data = nullptr;
  Index inner = 0;
  Index outer = 0;
};

/// Initial value of the sums of a product: zero, the bias of the column, or the present value of the result.
enum class Start { zero, bias, accumulate };

namespace detail {

// Computes one block, V registers by C columns, of out = start + a * b with `inner` inner steps. If Partial, V is 1 and
// only `rows` lanes are read and written.
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
  // Compiler barrier: otherwise GCC computes the addresses of all outputs before the loop over k and spills sums.
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

// Computes the columns j ... end - 1, C at a time as far as they go, and advances j past them.
template <class S, int C>
void product_columns(Index& j, Index end, View<S> out, View<const S> a, Strided<S> b, const S* bias, Start start) {
  // Blocks as large as the registers allow beside the operands: each loaded operand then serves more multiply-adds.
  // While another program ran on the core's second hardware thread, 4 x 6 reached 135 GFLOP/s and 2 x 8 reached 105.
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

// Computes a product with a single row, whose result and right operand are contiguous along the columns: the lanes are
// columns. Columns that do not fill a register are computed by scalar multiply-adds, with the same result.
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

// Computes a product with K <= 4 inner steps. Blocks of sums in registers gain nothing here, so the result is written
// column by column.
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

/// Computes out = start + a * b, where out is N x M, a is N x K and b is K x M. `bias` holds M values and is read only
/// for Start::bias.
template <class S>
void product(View<S> out, View<const S> a, Strided<S> b, const S* bias, Start start) {
  if (out.rows == 0 || out.cols == 0) return;
  if (a.cols == 0) a.data = b.data = out.data;  // never read, but offsets are added to them, and they may be null
  if (out.rows == 1 && b.outer == 1 && out.stride == 1) return detail::product_row(out, a, b, bias, start);
  if (a.cols == 1) return detail::product_thin<S, 1>(out, a, b, bias, start);
  if (a.cols == 2) return detail::product_thin<S, 2>(out, a, b, bias, start);
  if (a.cols == 3) return detail::product_thin<S, 3>(out, a, b, bias, start);
  if (a.cols == 4) return detail::product_thin<S, 4>(out, a, b, bias, start);
  Index j = 0;
  // The last 8 columns are faster as 4 + 4 than as 6 + 2.
  detail::product_columns<S, 6>(j, out.cols % 6 == 2 ? out.cols - 8 : out.cols, out, a, b, bias, start);
  detail::product_columns<S, 4>(j, out.cols, out, a, b, bias, start);
  detail::product_columns<S, 2>(j, out.cols, out, a, b, bias, start);
  detail::product_columns<S, 1>(j, out.cols, out, a, b, bias, start);
}

/// Computes a' * b (K x M) for a: N x K and b: N x M, and assigns it to `out` or adds it; meant for small K or M. The
/// lanes of registers are rows, and the sums over lanes come last.
template <class S>
void product_of_transposed(View<S> out, bool assign, View<const S> a, View<const S> b) {
  using Register = simd::Vec<S>;
  constexpr Index lanes = simd::lanes<S>;
  const bool a_wide = a.cols >= b.cols;
  const View<const S> wide = a_wide ? a : b, narrow = a_wide ? b : a;
  const Index wide_step = a_wide ? 1 : out.stride, narrow_step = a_wide ? out.stride : 1;
  // As many sums at a time as a register has lanes, because sum_lanes() reduces that many registers together.
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
