// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
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

/// Returns the rows that are looked at for repeated values: all, or evenly spaced ones of very many.
inline std::vector<Index> rows_to_look_at(Index rows) {
  constexpr Index most = 100'000;
  std::vector<Index> chosen(static_cast<std::size_t>(std::min(rows, most)));
  const double stride = static_cast<double>(rows) / static_cast<double>(chosen.size());
  for (std::size_t i = 0; i < chosen.size(); ++i)
    chosen[i] = std::min(rows - 1, static_cast<Index>(stride * static_cast<double>(i)));
  return chosen;
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
enum class Constants { refused, allowed };

/// Throws invalid_argument where the standard deviation of a column of the data (N x D, finite) is less than 1000 steps
/// of the scalar at the column's largest value: what is left of such a column is a lattice. A constant column, whose
/// density is infinite, is refused unless `constants` allows it. `what` begins the message, for instance "fit: data";
/// `names` are those of the columns, or empty.
template <Real S>
void require_resolved_columns(const char* what, const Array<S>& data, std::span<const std::string> names = {},
                              Constants constants = Constants::refused) {
  constexpr double least_steps = 1000;
  for (Index j = 0; j < data.cols() && data.rows() > 0; ++j) {
    const auto column = data.col(j);
    const S low = column.minCoeff(), high = column.maxCoeff(), largest = std::max(std::abs(low), std::abs(high));
    if (low == high && constants == Constants::allowed) continue;
    require(low < high, what, ": ", detail::column_label(names, j), " is ", low,
            " in every row, and the density of a constant is infinite: leave it out");
    // The range bounds the standard deviation, so that most columns need no second pass over their values.
    const double step = static_cast<double>(largest - std::nextafter(largest, S(0)));
    const double range = static_cast<double>(high) - static_cast<double>(low), rows = static_cast<double>(data.rows());
    if (range / std::sqrt(2 * rows) >= least_steps * step) continue;
    const double mean = column.template cast<double>().sum() / rows;
    const double spread = std::sqrt((column.template cast<double>() - mean).square().sum() / rows);
    require(spread >= least_steps * step, what, ": ", detail::column_label(names, j), " has a standard deviation of ",
            spread, " around ", mean, ", where the steps of ", std::is_same_v<S, float> ? "float" : "double", " are ",
            step, ": its values are rounded to a lattice. Subtract an offset before the conversion",
            std::is_same_v<S, float> ? ", or fit in double" : "");
  }
}

/// Returns a warning for every column of the data (N x D, finite) with few distinct values or one very frequent value,
/// and one for many equal rows: a density of such data has no bound, so that its value says how sharp the model is and
/// not how well it fits. Columns with at least 20 rows for each distinct value are named, then those with one value in
/// at least 10 % of the rows, then rows if at least 5 % of them are equal to another. At most 100,000 rows are looked
/// at. `names` are those of the columns, or empty.
template <Real S>
std::vector<std::string> repetition_warnings(const Array<S>& data, std::span<const std::string> names = {}) {
  std::vector<std::string> warnings;
  if (data.rows() == 0) return warnings;
  const std::vector<Index> rows = detail::rows_to_look_at(data.rows());
  const auto count = static_cast<Index>(rows.size());
  std::vector<std::uint64_t> row_bits(rows.size(), 0);
  std::vector<S> values(rows.size());
  for (Index j = 0; j < data.cols(); ++j) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      values[i] = data(rows[i], j) + S(0);  // so that -0 is 0
      const auto bits = std::bit_cast<std::uint64_t>(static_cast<double>(values[i]));
      row_bits[i] = (row_bits[i] ^ bits ^ (bits >> 29)) * 0x9e3779b97f4a7c15;
      row_bits[i] ^= row_bits[i] >> 32;
    }
    const detail::Repetitions<S> found(values);
    if (20 * found.distinct <= count)
      warnings.push_back(concat_message(
          detail::column_label(names, j), " has ", found.distinct, " distinct value", found.distinct == 1 ? "" : "s",
          " in ", count, " rows: a density of it has no bound, and its value says little about the data. Add noise ",
          "as wide as their spacing (dequantise), or make the column a context"));
    else if (10 * found.most >= count && found.most >= 10)
      warnings.push_back(concat_message(detail::column_label(names, j), " is ", found.value, " in ",
                                        detail::percent(found.most, count),
                                        " of the rows: a density has no bound there. Model these rows apart, or add ",
                                        "noise to the value (dequantise)"));
  }
  if (data.cols() > 1) {
    const Index distinct = detail::Repetitions<std::uint64_t>(row_bits).distinct;
    if (20 * (count - distinct) >= count && count - distinct >= 10)
      warnings.push_back(concat_message(
          detail::percent(count - distinct, count), " of the rows are equal to another row: a density has no bound ",
          "there, and rows that are held out for validation may be among those trained on. Remove them, or add noise ",
          "(dequantise)"));
  }
  return warnings;
}

}  // namespace diffeo::inline DIFFEO_ISA
