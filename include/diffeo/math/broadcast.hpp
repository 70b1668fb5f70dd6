// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>

/// Elementwise maps over blocks, with broadcasting: along each of the two dimensions an operand has the extent of the
/// result or 1.
namespace diffeo::math {

struct Shape {
  Index rows = 0;
  Index cols = 0;
  friend bool operator==(const Shape&, const Shape&) = default;
};

/// The shape that the operands broadcast to; throws `invalid_argument` where they do not fit.
inline Shape broadcast_shape(const char* op, std::initializer_list<Shape> operands) {
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

namespace detail {

// The number of elements from the first to the last, the gaps between columns included.
template <class S>
Index extent(View<S> x) {
  return x.cols == 0 || x.rows == 0 ? 0 : x.stride * (x.cols - 1) + x.rows;
}

template <class A, class B>
bool same_layout(View<A> a, View<B> b) {
  return a.rows == b.rows && a.cols == b.cols && (a.stride == b.stride || a.cols == 1);
}

// Rows i .. i+n of column j of an operand, spread where the operand has extent 1. Whether it is spread along the rows
// depends on the extent of the result, not on n.
template <class S>
[[gnu::always_inline]] inline simd::Vec<S> pick(View<const S> x, bool spread_rows, Index i, Index j, Index n) {
  const S* p = x.data + (x.cols == 1 ? 0 : j) * x.stride;
  if (spread_rows) return simd::broadcast<S>(*p);
  return n == simd::lanes<S> ? simd::load<S>(p + i) : simd::load<S>(p + i, n);
}

// The first n lanes of v; 0 in the others.
template <class S>
simd::Vec<S> keep(simd::Vec<S> v, Index n) {
  if (n < simd::lanes<S>)
    for (Index i = n; i < simd::lanes<S>; ++i) v[i] = S(0);
  return v;
}

}  // namespace detail

/// out = f(in...) elementwise; f maps registers to a register. Elements between columns (padding) may be written too.
template <class S, class F, class... In>
void map(View<S> out, const F& f, In... in) {
  using namespace detail;
  if ((same_layout(out, in) && ...)) return simd::transform<S>(extent(out), out.data, f, in.data...);
  for (Index j = 0; j < out.cols; ++j)
    for (Index i = 0; i < out.rows; i += simd::lanes<S>) {
      const Index n = std::min(simd::lanes<S>, out.rows - i);
      const simd::Vec<S> y = f(pick<S>(in, in.rows == 1 && out.rows != 1, i, j, n)...);
      S* p = out.col(j) + i;
      n == simd::lanes<S> ? simd::store<S>(p, y) : simd::store<S>(p, y, n);
    }
}

/// Sums f(in...), of shape `full`, down to the shape of `out` (extent `full` or 1 along each dimension), and assigns it
/// to `out` or adds it, in one fixed order.
template <class S, class F, class... In>
void map_reduce(View<S> out, bool assign, Shape full, const F& f, In... in) {
  using namespace detail;
  using V = simd::Vec<S>;
  constexpr Index lanes = simd::lanes<S>;
  if (full.rows == out.rows && full.cols == out.cols && (same_layout(out, in) && ...)) {
    if (assign) return simd::transform<S>(extent(out), out.data, f, in.data...);
    return simd::transform<S>(
        extent(out), out.data, [&f](V y, auto... x) { return y + f(x...); }, out.data, in.data...);
  }
  const auto at = [&](Index i, Index j, Index n) { return f(pick<S>(in, in.rows == 1 && full.rows != 1, i, j, n)...); };
  const bool sum_rows = out.rows != full.rows, sum_cols = out.cols != full.cols;
  if (assign) map(out, [] { return V{}; });
  if (sum_rows) {
    const Index whole = full.rows / lanes * lanes, rest = full.rows - whole;
    for (Index first = 0; first < full.cols; first += lanes) {
      const Index count = std::min(lanes, full.cols - first);
      V totals[std::size_t{lanes}] = {};
      for (Index j = 0; j < count; ++j) {
        V total{};
        for (Index i = 0; i < whole; i += lanes) total += at(i, first + j, lanes);
        if (rest > 0) total += keep<S>(at(whole, first + j, rest), rest);
        totals[j] = total;
      }
      const V sums = simd::sum_lanes<S>(totals);
      for (Index j = 0; j < count; ++j) *out.col(sum_cols ? 0 : first + j) += sums[j];
    }
  } else {
    for (Index j = 0; j < full.cols; ++j)
      for (Index i = 0; i < full.rows; i += lanes) {
        const Index n = std::min(lanes, full.rows - i);
        S* p = out.col(sum_cols ? 0 : j) + i;
        if (n == lanes)
          simd::store<S>(p, simd::load<S>(p) + at(i, j, n));
        else
          simd::store<S>(p, simd::load<S>(p, n) + at(i, j, n), n);
      }
  }
}

}  // namespace diffeo::math
