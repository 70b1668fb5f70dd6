// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/dual.hpp>
#include <span>

/// Ops that select and arrange columns. Columns are contiguous, so that these ops cost at most one copy, and a block of
/// consecutive columns none.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

inline bool consecutive(std::span<const Index> columns) {
  for (std::size_t k = 1; k < columns.size(); ++k)
    if (columns[k] != columns[k - 1] + 1) return false;
  return !columns.empty();
}

template <class S>
void copy_column(View<S> to, Index j, View<const S> from, Index k) {
  std::copy_n(from.col(k), from.rows, to.col(j));
}

// Column j of the adjoint of x receives column k of g.
template <Real S>
void add_column(const GradTarget<S>& target, Index j, View<const S> g, Index k) {
  math::sum_to(target.grad.cols_block(j, 1), false, g.cols_block(k, 1));
}

// A target whose contributions do not cover it starts from zero.
template <Real S>
GradTarget<S> zeroed_target(Var<S> x) {
  const GradTarget<S> target = x.tape().grad_target(x);
  if (target.assign) math::map(target.grad, [] { return simd::Vec<S>{}; });
  return target;
}

// Copies an index list into memory of the tape, which lives until reset().
template <Real S>
std::span<const Index> copied_columns(Tape<S>& tape, std::span<const Index> columns) {
  Index* stored = tape.template allocate<Index>(columns.size());
  std::copy(columns.begin(), columns.end(), stored);
  return {stored, columns.size()};
}

inline void require_columns(const char* op, std::span<const Index> columns, Index available) {
  for (const Index j : columns)
    require(j >= 0 && j < available, op, ": column ", j, " of a block with ", available, " columns");
}

template <Real S>
void require_distinct(Tape<S>& tape, const char* op, std::span<const Index> a, std::span<const Index> b) {
  const std::size_t n = a.size() + b.size();
  bool* seen = tape.template allocate<bool>(n);
  std::fill_n(seen, n, false);
  for (const std::span<const Index> list : {a, b})
    for (const Index j : list) {
      require(!seen[j], op, ": column ", j, " is listed twice");
      seen[j] = true;
    }
}

}  // namespace detail

/// Returns `count` consecutive columns from `first` on, without a copy: N x D -> N x count.
template <Real S>
Var<S> cols(Var<S> x, Index first, Index count) {
  detail::require_operands("cols", x);
  require(first >= 0 && count >= 0 && first + count <= x.cols(), "cols: columns ", first, " to ", first + count,
          " of a block with ", x.cols(), " columns");
  return x.tape().column_view(x, first, count);
}
template <class X>
Dual<X> cols(const Dual<X>& x, Index first, Index count) {
  return {cols(x.value, first, count), cols(x.tangent, first, count)};
}

/// Returns the listed columns, in that order: N x D -> N x columns.size().
template <Real S>
Var<S> take(Var<S> x, std::span<const Index> columns) {
  detail::require_columns("take", columns, x.cols());
  if (detail::consecutive(columns)) return cols(x, columns[0], static_cast<Index>(columns.size()));
  Tape<S>& tape = x.tape();
  const Var<S> y = tape.make(x.rows(), static_cast<Index>(columns.size()), x.requires_grad());
  for (std::size_t k = 0; k < columns.size(); ++k)
    detail::copy_column(tape.mutable_value(y), static_cast<Index>(k), x.value(), columns[k]);
  if (y.requires_grad())
    tape.on_backward({y}, [x, y, kept = detail::copied_columns(tape, columns)] {
      const GradTarget<S> target = detail::zeroed_target(x);
      for (std::size_t k = 0; k < kept.size(); ++k)
        detail::add_column(target, kept[k], y.grad(), static_cast<Index>(k));
    });
  return y;
}
template <class X>
Dual<X> take(const Dual<X>& x, std::span<const Index> columns) {
  return {take(x.value, columns), take(x.tangent, columns)};
}

/// Returns a block with the columns of a and b: its column a_columns[k] is column k of a, and column b_columns[k] is
/// column k of b. The two lists together contain every column once.
template <Real S>
Var<S> merge(Var<S> a, std::span<const Index> a_columns, Var<S> b, std::span<const Index> b_columns) {
  const Index dim = a.cols() + b.cols();
  require(a.rows() == b.rows() && static_cast<Index>(a_columns.size()) == a.cols() &&
              static_cast<Index>(b_columns.size()) == b.cols(),
          "merge: blocks of ", a.rows(), " x ", a.cols(), " and ", b.rows(), " x ", b.cols(), " for ", a_columns.size(),
          " and ", b_columns.size(), " columns");
  detail::require_columns("merge", a_columns, dim);
  detail::require_columns("merge", b_columns, dim);
  detail::require_distinct(a.tape(), "merge", a_columns, b_columns);
  Tape<S>& tape = a.tape();
  const Var<S> y = tape.make(a.rows(), dim, a.requires_grad() || b.requires_grad());
  const View<S> out = tape.mutable_value(y);
  for (std::size_t k = 0; k < a_columns.size(); ++k)
    detail::copy_column(out, a_columns[k], a.value(), static_cast<Index>(k));
  for (std::size_t k = 0; k < b_columns.size(); ++k)
    detail::copy_column(out, b_columns[k], b.value(), static_cast<Index>(k));
  if (y.requires_grad())
    tape.on_backward(
        {y}, [a, b, y, of_a = detail::copied_columns(tape, a_columns), of_b = detail::copied_columns(tape, b_columns)] {
          const auto add_columns = [&y](Var<S> part, std::span<const Index> columns) {
            if (!part.requires_grad()) return;
            const GradTarget<S> target = y.tape().grad_target(part);
            for (std::size_t k = 0; k < columns.size(); ++k)
              math::sum_to(target.grad.cols_block(static_cast<Index>(k), 1), target.assign,
                           y.grad().cols_block(columns[k], 1));
          };
          add_columns(a, of_a);
          add_columns(b, of_b);
        });
  return y;
}
template <class X>
Dual<X> merge(const Dual<X>& a, std::span<const Index> a_columns, const Dual<X>& b, std::span<const Index> b_columns) {
  return {merge(a.value, a_columns, b.value, b_columns), merge(a.tangent, a_columns, b.tangent, b_columns)};
}

/// Returns the transpose: N x D -> D x N. It is meant for parameters and is slow for batches.
template <Real S>
Var<S> transposed(Var<S> x) {
  const Var<S> y = x.tape().make(x.cols(), x.rows(), x.requires_grad());
  as_eigen(x.tape().mutable_value(y)) = as_eigen(x.value()).transpose();
  if (y.requires_grad())
    x.tape().on_backward({y}, [x, y] {
      const GradTarget<S> target = x.tape().grad_target(x);
      if (target.assign)
        as_eigen(target.grad) = as_eigen(y.grad()).transpose();
      else
        as_eigen(target.grad) += as_eigen(y.grad()).transpose();
    });
  return y;
}
template <class X>
Dual<X> transposed(const Dual<X>& x) {
  return {transposed(x.value), transposed(x.tangent)};
}

/// Returns the columns of a followed by the columns of b: N x (A + B).
template <Traced X>
X concat(const X& a, const X& b) {
  const auto left = static_cast<std::size_t>(a.cols()), n = left + static_cast<std::size_t>(b.cols());
  Index* columns = a.tape().template allocate<Index>(n);
  for (std::size_t k = 0; k < n; ++k) columns[k] = static_cast<Index>(k);
  return merge(a, std::span<const Index>(columns, left), b, std::span<const Index>(columns + left, n - left));
}

}  // namespace diffeo::inline DIFFEO_ISA
