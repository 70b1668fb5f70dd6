// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/random.hpp>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

/// Checks of data whose density means little: values that the scalar cannot tell apart, repeated values, equal rows.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

/// Returns how messages call column j: "column 3", or "column 3 (pt)" where it has a name.
inline std::string column_label(std::span<const std::string> names, Index j) {
  const auto at = static_cast<std::size_t>(j);
  return at < names.size() ? concat_message("column ", j, " (", names[at], ")") : concat_message("column ", j);
}

/// Returns so many of the rows 0 ... size - 1, or all of them if there are fewer, in increasing order: one of each of
/// equal stretches, at a pseudo-random place, so that data with a period are met at all of its places.
inline std::vector<Index> spread_rows(Index size, Index count) {
  count = std::min(size, count);
  std::vector<Index> rows(static_cast<std::size_t>(count));
  const double stretch = static_cast<double>(size) / static_cast<double>(std::max<Index>(count, 1));
  PhiloxEngine engine(0x7370726561642121);
  for (Index i = 0; i < count; ++i) {
    const auto begin = static_cast<Index>(stretch * static_cast<double>(i));
    const Index end = std::min(size, static_cast<Index>(stretch * static_cast<double>(i + 1)));
    rows[static_cast<std::size_t>(i)] =
        begin + static_cast<Index>(engine.below(static_cast<std::uint64_t>(std::max<Index>(end - begin, 1))));
  }
  return rows;
}

/// Numbers of distinct values and the most frequent one of a list, which is sorted by the call.
template <class V>
struct Repetitions {
  Index distinct = 0;
  Index most = 0;  ///< number of times that `value` occurs
  V value{};

  explicit Repetitions(std::vector<V>& values) {
    std::sort(values.begin(), values.end());
    for (std::size_t begin = 0, end = 0; begin < values.size(); begin = end, ++distinct) {
      while (end < values.size() && values[end] == values[begin]) ++end;
      if (const auto count = static_cast<Index>(end - begin); count > most) most = count, value = values[begin];
    }
  }
};

inline std::string percent(Index part, Index whole) {
  return concat_message(std::round(100.0 * static_cast<double>(part) / static_cast<double>(whole)), " %");
}

}  // namespace detail

/// Throws invalid_argument with the row and column of the first entry of the data (N x D) that is NaN or infinite.
/// `what` begins the message, for instance "fit: data"; `names` are those of the columns, or empty.
template <Real S>
void require_finite_columns(const std::string& what, const Array<S>& data, std::span<const std::string> names) {
  if (data.size() == 0 || data.allFinite()) return;
  for (Index i = 0; i < data.rows(); ++i)
    for (Index j = 0; j < data.cols(); ++j)
      require(std::isfinite(data(i, j)), what, " is ", data(i, j), " at (row ", i, ", ", detail::column_label(names, j),
              "), expected finite values");
}

/// Whether require_resolved_columns() accepts columns with one value.
enum class ConstantColumns { refused, allowed };

namespace detail {

// Checks data that will be of type To, by the exact values where they are known.
template <Real To, Real From>
void require_resolved_as(const char* what, const Array<From>& data, std::span<const std::string> names,
                         ConstantColumns constants) {
  constexpr double least_steps = 1000;
  constexpr bool to_float = std::is_same_v<To, float>;
  for (Index j = 0; j < data.cols() && data.rows() > 0; ++j) {
    const auto column = data.col(j);
    const From low = column.minCoeff(), high = column.maxCoeff(), largest = std::max(std::abs(low), std::abs(high));
    if (low == high && constants == ConstantColumns::allowed) continue;
    require(low < high, what, ": ", column_label(names, j), " is ", low,
            " in every row, and the density of a constant is infinite: leave it out");
    require(largest <= static_cast<From>(std::numeric_limits<To>::max()), what, ": ", column_label(names, j), " has ",
            largest, ", which is too large for ", to_float ? "float: scale it, or fit in double" : "double");
    const To rounded = static_cast<To>(largest);
    const double step = static_cast<double>(rounded - std::nextafter(rounded, To(0)));
    // The range bounds the standard deviation, so that most columns need no second pass over their values.
    const double range = static_cast<double>(high) - static_cast<double>(low), rows = static_cast<double>(data.rows());
    if (range / std::sqrt(2 * rows) >= least_steps * step) continue;
    const double mean = column.template cast<double>().sum() / rows;
    const double spread = std::sqrt((column.template cast<double>() - mean).square().sum() / rows);
    require(spread >= least_steps * step, what, ": ", column_label(names, j), " has a standard deviation of ", spread,
            " around ", mean, ", where the steps of ", to_float ? "float" : "double", " are ", step,
            ": its values are rounded to a lattice. Subtract an offset before the conversion",
            to_float ? ", or fit in double" : "");
  }
}

}  // namespace detail

/// Throws invalid_argument where the standard deviation of a column of the data (N x D, finite) is less than 1000 steps
/// of the scalar at the column's largest value: what is left of such a column is a lattice. A constant column, whose
/// density is infinite, is refused unless `constants` allows it. `what` begins the message, for instance "fit: data";
/// `names` are those of the columns, or empty.
template <Real S>
void require_resolved_columns(const char* what, const Array<S>& data, std::span<const std::string> names = {},
                              ConstantColumns constants = ConstantColumns::refused) {
  detail::require_resolved_as<S>(what, data, names, constants);
}

/// Returns the data (N x D, any Eigen expression of numbers) as floats or doubles. Throws invalid_argument for NaN and
/// infinity, with the place, and for columns that the conversion rounds to a lattice or cannot hold, as
/// require_resolved_columns() does for the exact values. Constant columns are accepted.
template <Real S, class Derived>
Array<S> converted_columns(const char* what, const Eigen::DenseBase<Derived>& data) {
  using Exact = std::conditional_t<std::is_same_v<typename Derived::Scalar, S>, S, double>;
  Array<Exact> exact = data.derived().template cast<Exact>().array();
  require_finite_columns(what, exact, {});
  if constexpr (std::is_same_v<Exact, S>) {
    return exact;
  } else {
    detail::require_resolved_as<S>(what, exact, {}, ConstantColumns::allowed);
    return exact.template cast<S>();
  }
}

/// Returns warnings about repeated values in the data (N x D, finite): a density of such data has no bound, so that its
/// value says how sharp the model is and not how well it fits. One warning lists the columns with at least 20 rows for
/// each distinct value; one is for each other column with the same value in at least 10 % of the rows; one is for rows,
/// if at least 5 % are equal to another. Of more than 20,000 rows a part is looked at. `names` are those of the
/// columns, or empty.
template <Real S>
std::vector<std::string> repetition_warnings(const Array<S>& data, std::span<const std::string> names = {}) {
  constexpr Index most_rows = 20'000;
  std::vector<std::string> warnings;
  if (data.rows() == 0) return warnings;
  const std::vector<Index> rows = detail::spread_rows(data.rows(), most_rows);
  const auto count = static_cast<Index>(rows.size());
  const std::string of_rows = concat_message(count, count < data.rows() ? " rows that were looked at" : " rows");
  std::vector<std::uint64_t> row_bits(rows.size(), 0);
  std::vector<S> values(rows.size());
  std::string few;
  for (Index j = 0; j < data.cols(); ++j) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      values[i] = data(rows[i], j) + S(0);  // so that -0 is 0
      const auto bits = std::bit_cast<std::uint64_t>(static_cast<double>(values[i]));
      row_bits[i] = (row_bits[i] ^ bits ^ (bits >> 29)) * 0x9e3779b97f4a7c15;
      row_bits[i] ^= row_bits[i] >> 32;
    }
    const detail::Repetitions<S> found(values);
    if (20 * found.distinct <= count)
      few += concat_message(few.empty() ? "" : ", ", detail::column_label(names, j), " has ", found.distinct);
    else if (10 * found.most >= count && found.most >= 10)
      warnings.push_back(concat_message(detail::column_label(names, j), " is ", found.value, " in ",
                                        detail::percent(found.most, count), " of the ", of_rows,
                                        ": a density has no bound there. Model these rows apart"));
  }
  if (!few.empty())
    warnings.insert(warnings.begin(),
                    concat_message(few, " distinct values in ", of_rows, ": a density of it has no bound, and its ",
                                   "value says little about the data. Add noise as wide as the values' spacing ",
                                   "(dequantise), or make it a context"));
  if (data.cols() > 1) {
    const Index distinct = detail::Repetitions<std::uint64_t>(row_bits).distinct;
    if (20 * (count - distinct) >= count && count - distinct >= 10)
      warnings.push_back(concat_message(
          detail::percent(count - distinct, count), " of the ", of_rows, " are equal to another one: a density has no ",
          "bound there, and rows that are held out for validation may be among those trained on. Remove the copies"));
  }
  return warnings;
}

}  // namespace diffeo::inline DIFFEO_ISA
