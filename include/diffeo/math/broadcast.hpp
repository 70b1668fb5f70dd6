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
Index extent(const View<S>& x) {
  return x.cols == 0 || x.rows == 0 ? 0 : x.stride * (x.cols - 1) + x.rows;
}

template <class A, class B>
bool same_layout(const View<A>& a, const View<B>& b) {
  return a.rows == b.rows && a.cols == b.cols && (a.stride == b.stride || a.cols == 1);
}

}  // namespace detail

namespace detail {

// What a loop does with the results of its function: assigns them, assigns pairs of them to two blocks, or adds them.
enum class Results { one, two, sum };

template <class S>
struct alignas(simd::register_bytes) Staged {
  S lanes[std::size_t{simd::lanes<S>}];
};
template <class S>
inline constexpr Staged<S> negative_zeros = [] {
  Staged<S> zeros{};
  for (S& zero : zeros.lanes) zero = S(-0.0);
  return zeros;
}();

template <class S>
S* negative_zeros_of() {
  return const_cast<S*>(negative_zeros<S>.lanes);  // never written
}

// Cuts blocks of one shape into pieces of whole registers, of which only the loop over a function has to be compiled
// for each function: the part-filled register at the end of a column is a piece of its own, by way of copies.
template <class S, std::size_t N, Results R>
class Pieces {
 public:
  // The piece: y[i] = f(x[0][i], x[1][i], ...) for i < n, a multiple of lanes<S>. `other` is the second result of
  // pairs; where sums are wanted it is y itself, or a register of -0 to assign.
  Index n = 0;
  S *y = nullptr, *other = nullptr;
  const S* x[N + 1];

  [[gnu::noinline]] Pieces(const View<S>& out, const View<S>& second, bool assign, const View<const S>* in)
      : out_(out), second_(second), in_(in), assign_(assign) {
    bool flat = R != Results::two || same_layout(out, second);
    for (std::size_t k = 0; k < N; ++k) flat = flat && same_layout(out, in[k]);
    const Index rows = flat ? extent(out) : out.cols > 0 ? out.rows : 0;
    columns_ = flat ? 1 : out.cols;
    rest_ = rows % simd::lanes<S>;
    whole_ = rows - rest_;
    more_ = rest_ > 0 || columns_ > 1;
    begin_column();
  }

  // Moves on to the next piece, if there is one.
  bool next() { return more_ && advance(); }

 private:
  void begin_column() {
    for (std::size_t k = 0; k < N; ++k) x[k] = in_[k].col(column_);
    n = whole_;
    y = out_.col(column_);
    other = R == Results::two ? second_.col(column_) : assign_ ? zeros() : y;
    if (whole_ == 0 && rest_ > 0) stage();
  }

  void stage() {
    for (std::size_t k = 0; k < N; ++k) {
      simd::store<S>(staged_[k].lanes, simd::load<S>(x[k] + whole_, rest_));
      x[k] = staged_[k].lanes;
    }
    n = simd::lanes<S>;
    S* const end = staged_[N].lanes;
    if (R == Results::sum && !assign_) simd::store<S>(end, simd::load<S>(y + whole_, rest_));
    y = end;
    other = R == Results::two ? staged_[N + 1].lanes : assign_ ? zeros() : end;
  }

  [[gnu::noinline]] bool advance() {
    if (rest_ > 0 && y != staged_[N].lanes) {
      stage();
      return true;
    }
    if (rest_ > 0) {
      simd::store<S>(out_.col(column_) + whole_, simd::load<S>(y), rest_);
      if (R == Results::two) simd::store<S>(second_.col(column_) + whole_, simd::load<S>(other), rest_);
    }
    if (++column_ >= columns_) return false;
    begin_column();
    return true;
  }

  static S* zeros() { return negative_zeros_of<S>(); }

  const View<S>&out_, &second_;  // not copies: they were written a word at a time just now
  const View<const S>* in_;
  bool assign_, more_;
  Index whole_, rest_, columns_, column_ = 0;
  Staged<S> staged_[N + 2];
};

// The loop over whole registers, compiled once for each function.
template <Results R, class S, class F, class... X>
[[gnu::noinline]] void loop_over(const F& function, Index n, S* y, [[maybe_unused]] S* other, const X*... x) {
  const F f = function;  // whose captures stay in registers
  [[maybe_unused]] const Index advance = other == y ? ~Index{0} : 0;
  for (Index i = 0; i < n; i += simd::lanes<S>) {
    if constexpr (R == Results::sum) {
      // One loop sums and assigns: -0 + v is v for every v, bit for bit, and unlike a choice between v and y + v
      // leaves it to the compiler to fuse the sum with a product at the end of f.
      const simd::Vec<S> start = simd::load<S>(other + (i & advance));
      simd::store<S>(y + i, start + f(simd::load<S>(x + i)...));
    } else if constexpr (R == Results::two) {
      const auto v = f(simd::load<S>(x + i)...);
      simd::store<S>(y + i, v.first);
      simd::store<S>(other + i, v.second);
    } else {
      simd::store<S>(y + i, f(simd::load<S>(x + i)...));
    }
  }
}

template <class S, Results R, class F, std::size_t... I>
void run_in_pieces(const View<S>& out, const View<S>& second, bool assign, const F& f, std::index_sequence<I...>,
                   const View<const S>* in) {
  Pieces<S, sizeof...(I), R> piece(out, second, assign, in);
  do loop_over<R, S>(f, piece.n, piece.y, piece.other, piece.x[I]...);
  while (piece.next());
}

template <class S, Results R, class F, class... In>
void run_on(const View<S>& out, const View<S>& second, bool assign, const F& f, const In&... in) {
  // Most blocks are one run of whole registers, whose set-up must not cost more than the work on a single row.
  const bool flat = (same_layout(out, in) && ...) && (R != Results::two || same_layout(out, second));
  const Index n = extent(out);
  if (flat && n % simd::lanes<S> == 0) {
    S* const other = R == Results::two ? second.data : assign ? negative_zeros_of<S>() : out.data;
    return loop_over<R, S>(f, n, out.data, other, static_cast<const S*>(in.data)...);
  }
  const View<const S> inputs[sizeof...(In) + 1] = {View<const S>(in)...};
  run_in_pieces<S, R>(out, second, assign, f, std::index_sequence_for<In...>{}, inputs);
}

}  // namespace detail

/// Assigns out = f(in...) elementwise, for blocks of one shape; f maps registers to a register and is copied. Elements
/// between columns (padding) may be written too.
template <class S, class F, class... In>
void map(View<S> out, const F& f, In... in) {
  detail::run_on<S, detail::Results::one>(out, View<S>{}, true, f, in...);
}

/// Assigns (first, second) = f(in...) elementwise; f returns a pair of registers.
template <class S, class F, class... In>
void map_pair(View<S> first, View<S> second, const F& f, In... in) {
  detail::run_on<S, detail::Results::two>(first, second, true, f, in...);
}

/// Adds f(in...) to `out`, or assigns it where `assign`.
template <class S, class F, class... In>
void map_add(View<S> out, bool assign, const F& f, In... in) {
  detail::run_on<S, detail::Results::sum>(out, View<S>{}, assign, f, in...);
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
