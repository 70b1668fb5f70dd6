// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>
#include <initializer_list>
#include <span>
#include <type_traits>
#include <utility>

/// Elementwise functions of blocks, and broadcasting: along each of the two dimensions an operand has the extent of the
/// result or 1.
namespace diffeo::inline DIFFEO_ISA::math {

struct Shape {
  Index rows = 0;
  Index cols = 0;
  friend bool operator==(const Shape&, const Shape&) = default;
};

/// Returns the shape that the operands broadcast to. Throws invalid_argument if they do not broadcast; `op` names the
/// caller.
inline Shape broadcast_shape(const char* op, std::span<const Shape> operands) {
  Shape out{1, 1};
  const auto grow = [](Index& extent, Index other) {
    if (extent == 1) extent = other;
    return other == extent || other == 1;
  };
  for (const Shape& s : operands) {
    const Shape before = out;
    const bool rows_fit = grow(out.rows, s.rows), cols_fit = grow(out.cols, s.cols);
    require(rows_fit && cols_fit, op, ": shapes ", before.rows, " x ", before.cols, " and ", s.rows, " x ", s.cols,
            " do not broadcast");
  }
  return out;
}
inline Shape broadcast_shape(const char* op, std::initializer_list<Shape> operands) {
  return broadcast_shape(op, std::span(operands.begin(), operands.size()));
}

namespace detail {

// The number of elements from the first to the last, the gaps between columns included.
template <class S>
Index extent(const View<S>& x) {
  return x.cols == 0 || x.rows == 0 ? 0 : x.stride * (x.cols - 1) + x.rows;
}

template <class A, class B>
[[gnu::always_inline]] inline bool same_layout(const View<A>& a, const View<B>& b) {
  return a.rows == b.rows && a.cols == b.cols && (a.stride == b.stride || a.cols == 1);
}

}  // namespace detail

/// Assigns out = f(in...) elementwise, for blocks of one shape; f maps registers to a register. Elements between
/// columns (padding) may be written too.
template <class S, class F, class... In>
void map(View<S> out, const F& f, In... in) {
  // Blocks of one layout are a single column, so that f is compiled once for both cases.
  const bool as_one = (detail::same_layout(out, in) && ...);
  const Index rows = as_one ? detail::extent(out) : out.rows, cols = as_one ? 1 : out.cols;
  for (Index j = 0; j < cols; ++j) simd::transform<S>(rows, out.col(j), f, in.col(j)...);
}

/// Assigns (first, second) = f(in...) elementwise, for blocks of one shape; f returns a pair of registers. `first` may
/// be the memory of an operand.
template <class S, class F, class... In>
void map_pair(View<S> first, View<S> second, const F& f, In... in) {
  const bool as_one = detail::same_layout(first, second) && (detail::same_layout(first, in) && ...);
  const Index rows = as_one ? detail::extent(first) : first.rows, cols = as_one ? 1 : first.cols;
  for (Index j = 0; j < cols; ++j) {
    const auto piece = [&](Index i, auto... n) {
      const auto v = f(simd::load<S>(in.col(j) + i, n...)...);
      simd::store<S>(first.col(j) + i, v.first, n...);
      simd::store<S>(second.col(j) + i, v.second, n...);
    };
    Index i = 0;
    for (; i + simd::lanes<S> <= rows; i += simd::lanes<S>) piece(i);
    if (i < rows) piece(i, rows - i);
  }
}

/// Adds f(in...) to `out` elementwise, or assigns it if `assign` is true.
template <class S, class F, class... In>
void map_add(View<S> out, bool assign, const F& f, In... in) {
  if (assign) return map(out, f, in...);
  map(
      out, [&f](simd::Vec<S> y, auto... x) { return y + f(x...); }, static_cast<View<const S>>(out), in...);
}

/// Copies x to `out`, of the same shape.
template <class S>
void copy(View<S> out, std::type_identity_t<View<const S>> x) {
  map(
      out, [](simd::Vec<S> v) { return v; }, x);
}

/// Assigns `value` to every element of `out`.
template <class S>
void fill(View<S> out, std::type_identity_t<S> value) {
  map(out, [value] { return simd::broadcast<S>(value); });
}

/// Fills `out` with x, repeated along each dimension in which x has extent 1.
template <class S>
void broadcast_to(View<S> out, View<const S> x) {
  for (Index j = 0; j < out.cols; ++j) {
    const S* from = x.col(x.cols == 1 ? 0 : j);
    if (x.rows == 1 && out.rows != 1)
      std::fill_n(out.col(j), out.rows, *from);
    else
      std::copy_n(from, out.rows, out.col(j));
  }
}

/// Sums x over each dimension in which `out` has extent 1, and assigns the result to `out` if `assign` is true, or adds
/// it. Sums over rows are computed in one fixed order. Sums over columns treat each row independently.
template <class S>
void sum_to(View<S> out, bool assign, View<const S> x) {
  using V = simd::Vec<S>;
  constexpr Index lanes = simd::lanes<S>;
  const auto identity = [](V v) { return v; };
  if (out.rows == x.rows && out.cols == x.cols) return map_add(out, assign, identity, x);
  if (assign) fill(out, 0);
  const bool sum_cols = out.cols != x.cols;
  if (out.rows == x.rows) {
    for (Index j = 0; j < x.cols; ++j) map_add(out, false, identity, x.cols_block(j, 1));
    return;
  }
  const Index whole = x.rows / lanes * lanes, rest = x.rows - whole;
  for (Index first = 0; first < x.cols; first += lanes) {
    const Index count = std::min(lanes, x.cols - first);
    V totals[std::size_t{lanes}] = {};
    for (Index j = 0; j < count; ++j) {
      const S* p = x.col(first + j);
      V total{};
      for (Index i = 0; i < whole; i += lanes) total += simd::load<S>(p + i);
      if (rest > 0) total += simd::load<S>(p + whole, rest);
      totals[j] = total;
    }
    const V sums = simd::sum_lanes<S>(totals);
    for (Index j = 0; j < count; ++j) *out.col(sum_cols ? 0 : first + j) += sums[j];
  }
}

}  // namespace diffeo::inline DIFFEO_ISA::math
