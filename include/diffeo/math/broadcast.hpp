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

/// Elementwise maps over blocks, and broadcasting: along each of the two dimensions an operand has the extent of the
/// result or 1.
namespace diffeo::inline DIFFEO_ISA::math {

struct Shape {
  Index rows = 0;
  Index cols = 0;
  friend bool operator==(const Shape&, const Shape&) = default;
};

/// The shape that the operands broadcast to; throws `invalid_argument` where they do not fit.
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
Index extent(View<S> x) {
  return x.cols == 0 || x.rows == 0 ? 0 : x.stride * (x.cols - 1) + x.rows;
}

template <class A, class B>
bool same_layout(View<A> a, View<B> b) {
  return a.rows == b.rows && a.cols == b.cols && (a.stride == b.stride || a.cols == 1);
}

}  // namespace detail

namespace detail {

inline constexpr std::size_t max_operands = 8;

// y[k][i] = f(x[0][i], x[1][i], ...), for i < n, a multiple of lanes<S>; f returns one register or a pair of them.
template <class S>
using Loop = void (*)(Index n, S* const* y, const S* const* x, const void* f);

template <class S, class F, std::size_t... I>
Loop<S> loop_of(std::index_sequence<I...>) {
  return [](Index n, S* const* y, [[maybe_unused]] const S* const* x, const void* f) {
    // Copies, which the stores to y cannot change.
    const auto run = [n, y0 = y[0], y1 = y[1], f = *static_cast<const F*>(f)](const auto*... from) {
      static_cast<void>(y1);
      for (Index i = 0; i < n; i += simd::lanes<S>) {
        const auto v = f(simd::load<S>(from + i)...);
        if constexpr (std::is_same_v<decltype(v), const simd::Vec<S>>) {
          simd::store<S>(y0 + i, v);
        } else {
          simd::store<S>(y0 + i, v.first);
          simd::store<S>(y1 + i, v.second);
        }
      }
    };
    run(x[I]...);
  };
}

template <class S>
struct Blocks {
  View<S> out[2];  // the second may be empty
  const View<const S>* in;
  std::size_t inputs;
};

// Runs the loop over blocks of one shape. It is compiled once for all functions, of each of which there is the loop
// alone: the part-filled register at the end of a column goes through it by way of copies.
template <class S>
[[gnu::noinline]] void run_loop(const Blocks<S>& blocks, Loop<S> loop, const void* f) {
  constexpr Index lanes = simd::lanes<S>;
  const View<S> first = blocks.out[0], second = blocks.out[1];
  bool flat = !second.data || same_layout(first, second);
  for (std::size_t k = 0; k < blocks.inputs; ++k) flat = flat && same_layout(first, blocks.in[k]);
  const Index rows = flat ? extent(first) : first.rows, cols = flat ? 1 : first.cols;
  const Index whole = rows / lanes * lanes, rest = rows - whole;
  for (Index j = 0; j < cols; ++j) {
    const S* x[max_operands];
    S* y[2] = {first.col(j), second.data ? second.col(j) : nullptr};
    for (std::size_t k = 0; k < blocks.inputs; ++k) x[k] = blocks.in[k].col(j);
    if (whole > 0) loop(whole, y, x, f);
    if (rest == 0) continue;
    S staged[max_operands + 2][std::size_t{lanes}];
    for (std::size_t k = 0; k < blocks.inputs; ++k) {
      simd::store<S>(staged[k], simd::load<S>(x[k] + whole, rest));
      x[k] = staged[k];
    }
    S* const results[2] = {staged[max_operands], staged[max_operands + 1]};
    loop(lanes, results, x, f);
    for (int k = 0; k < 2; ++k)
      if (y[k]) simd::store<S>(y[k] + whole, simd::load<S>(results[k]), rest);
  }
}

template <class S, class F, class... In>
void map_to(View<S> first, View<S> second, const F& f, In... in) {
  static_assert(sizeof...(In) <= max_operands);
  const View<const S> inputs[sizeof...(In) + 1] = {View<const S>(in)...};
  run_loop<S>({{first, second}, inputs, sizeof...(In)}, loop_of<S, F>(std::index_sequence_for<In...>{}), &f);
}

}  // namespace detail

/// Assigns out = f(in...) elementwise, for blocks of one shape; f maps registers to a register and is copied. Elements
/// between columns (padding) may be written too.
template <class S, class F, class... In>
void map(View<S> out, const F& f, In... in) {
  detail::map_to<S>(out, View<S>{}, f, in...);
}

/// Assigns (first, second) = f(in...) elementwise; f returns a pair of registers.
template <class S, class F, class... In>
void map_pair(View<S> first, View<S> second, const F& f, In... in) {
  detail::map_to<S>(first, second, f, in...);
}

/// Adds f(in...) to `out`, or assigns it where `assign`.
template <class S, class F, class... In>
void map_add(View<S> out, bool assign, const F& f, In... in) {
  // One loop does both: -0 + v is v for every v, bit for bit, and unlike a choice between v and y + v leaves it to the
  // compiler to fuse the sum with a product at the end of f.
  const simd::IntVec<S> zero{}, kept = assign ? zero : ~zero;
  const simd::IntVec<S> start = ~kept & simd::bits<S>(simd::broadcast<S>(S(-0.0)));
  map(
      out,
      [f, kept, start](simd::Vec<S> y, auto... x) {
        return simd::from_bits<S>((simd::bits<S>(y) & kept) | start) + f(x...);
      },
      static_cast<View<const S>>(out), in...);
}

/// Copies x, of the shape of `out`.
template <class S>
void copy(View<S> out, View<const S> x) {
  map(
      out, [](simd::Vec<S> v) { return v; }, x);
}

/// Assigns `value` to every element.
template <class S>
void fill(View<S> out, std::type_identity_t<S> value) {
  map(out, [value] { return simd::broadcast<S>(value); });
}

/// Fills `out` with x, repeated along the dimensions in which x has extent 1.
template <class S>
void spread(View<S> out, View<const S> x) {
  for (Index j = 0; j < out.cols; ++j) {
    const S* from = x.col(x.cols == 1 ? 0 : j);
    if (x.rows == 1 && out.rows != 1)
      std::fill_n(out.col(j), out.rows, *from);
    else
      std::copy_n(from, out.rows, out.col(j));
  }
}

/// Sums x down to the shape of `out` (extent that of x or 1 along each dimension), and assigns it to `out` or adds it.
/// Sums over rows are added up in one fixed order; those over columns keep the rows apart.
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
