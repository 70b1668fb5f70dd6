// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/random.hpp>
#include <numbers>

/// Uniform and normal random arrays. Element (i, j) of a fill depends on (seed, stream, first_row + i, j) alone, never
/// on the extent, alignment or order of the blocks that are filled: tiles on any number of threads give the same bits
/// as one fill of the whole.
namespace diffeo {

namespace detail {

// Rows are drawn in aligned groups, so that all words of a block are used whatever the number of columns: block
// 16 g + l serves row l of each of the runs of 16 rows of group g, one run per value the block holds (four floats or
// two doubles).
inline constexpr Index random_run = 16;
template <class S>
inline constexpr Index random_group = random_run * (sizeof(S) == 4 ? 4 : 2);

inline constexpr int random_column_bits = 20;
inline constexpr Index max_random_columns = Index{1} << random_column_bits;
inline constexpr Index max_random_rows = Index{1} << (64 - random_column_bits);

inline std::uint64_t random_block_index(Index block, Index column) {
  return static_cast<std::uint64_t>(column) << (64 - random_column_bits) | static_cast<std::uint64_t>(block);
}

template <class S>
S uniform_element(std::uint64_t seed, std::uint64_t stream, Index row, Index column) {
  const Index group = row / random_group<S>, within = row % random_group<S>;
  const auto words = Philox{seed, stream}.block(random_block_index(group * random_run + within % random_run, column));
  const auto run = static_cast<std::size_t>(within / random_run);
  if constexpr (sizeof(S) == 4) {
    return static_cast<S>(words[run] >> 8) * S(0x1p-24);
  } else {
    const std::uint64_t bits = std::uint64_t{words[2 * run + 1]} << 32 | words[2 * run];
    return static_cast<S>(bits >> 11) * S(0x1p-53);
  }
}

template <class S>
S normal_element(std::uint64_t seed, std::uint64_t stream, Index row, Index column) {
  const Index run = row % random_group<S> / random_run;
  const Index first = row - run % 2 * random_run;
  const S u = uniform_element<S>(seed, stream, first, column),
          v = uniform_element<S>(seed, stream, first + random_run, column);
  const S radius = std::sqrt(S(-2) * std::log(S(1) - u)), angle = S(2) * std::numbers::pi_v<S> * v;
  return radius * (run % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

inline void check_random_extent(const char* what, Index first_row, Index rows, Index cols) {
  require(first_row >= 0 && rows <= max_random_rows - first_row, what, ": rows ", first_row, " to ", first_row, " + ",
          rows, " are out of the range 0 to ", max_random_rows);
  require(cols <= max_random_columns, what, ": ", cols, " columns, expected at most ", max_random_columns);
}

}  // namespace detail

/// Fills x with independent uniform numbers of [0, 1): multiples of 2^-24 (float) or 2^-53 (double).
/// Throws `invalid_argument` for a negative row, a row beyond 2^44 or more than 2^20 columns.
template <class S>
void fill_uniform(View<S> x, std::uint64_t seed, std::uint64_t stream = 0, Index first_row = 0) {
  detail::check_random_extent("fill_uniform", first_row, x.rows, x.cols);
  for (Index j = 0; j < x.cols; ++j)
    for (Index i = 0; i < x.rows; ++i) x.col(j)[i] = detail::uniform_element<S>(seed, stream, first_row + i, j);
}

/// Fills x with independent standard normal numbers, by the method of Box and Muller.
/// Throws as fill_uniform does.
template <class S>
void fill_normal(View<S> x, std::uint64_t seed, std::uint64_t stream = 0, Index first_row = 0) {
  detail::check_random_extent("fill_normal", first_row, x.rows, x.cols);
  for (Index j = 0; j < x.cols; ++j)
    for (Index i = 0; i < x.rows; ++i) x.col(j)[i] = detail::normal_element<S>(seed, stream, first_row + i, j);
}

/// One number: element (row, column) of the fill with the same seed and stream.
template <class S>
S uniform(std::uint64_t seed, std::uint64_t stream, Index row, Index column = 0) {
  return detail::uniform_element<S>(seed, stream, row, column);
}
template <class S>
S normal(std::uint64_t seed, std::uint64_t stream, Index row, Index column = 0) {
  return detail::normal_element<S>(seed, stream, row, column);
}

}  // namespace diffeo
