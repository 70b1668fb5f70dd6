// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/random.hpp>
#include <diffeo/math/elementwise.hpp>
#include <numbers>

/// Uniform and normal random arrays. Element (i, j) of a fill depends on (seed, stream, first_row + i, j) alone and not
/// on the extent, alignment or order of the blocks that are filled: tiles on any number of threads give the same bits
/// as one fill of the whole. Uniform numbers have the same bits on every machine. Normal numbers have the same bits
/// under AVX2 (with fused multiply-add) and AVX-512; under other instruction sets they differ by rounding.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Rows are drawn in aligned groups, so that all words of a Philox block are used whatever the number of columns. A
// group consists of runs of 16 rows, one run per value that a block holds (four floats or two doubles); block 16 g + l
// provides row l of each run of group g.
inline constexpr Index random_run = 16;
template <class S>
inline constexpr Index random_group = random_run * (sizeof(S) == 4 ? 4 : 2);

// Number of high bits of a block's index that hold the column.
inline constexpr int random_column_bits = 20;
inline constexpr Index max_random_columns = Index{1} << random_column_bits;
inline constexpr std::int64_t max_random_rows = std::int64_t{1} << (64 - random_column_bits);

// Register of 64-bit lanes with a 32-bit Philox word in the low half of each.
typedef std::uint64_t Words __attribute__((vector_size(simd::register_bytes)));
inline constexpr Index word_lanes = static_cast<Index>(simd::register_bytes / 8);
inline constexpr std::size_t run_registers = static_cast<std::size_t>(random_run / word_lanes);
inline constexpr std::uint64_t low_half = 0xFFFFFFFF;

// Returns the 64-bit product of the low half of each lane of a and b.
inline Words multiply_low(Words a, std::uint32_t b) {
#if defined(__AVX512F__)
  return Words(_mm512_maskz_mul_epu32(__mmask8(-1), __m512i(a), _mm512_set1_epi64(b)));
#elif defined(__AVX2__)
  return Words(_mm256_mul_epu32(__m256i(a), _mm256_set1_epi64x(b)));
#elif defined(__SSE2__) && !defined(__AVX__)
  return Words(_mm_mul_epu32(__m128i(a), _mm_set1_epi64x(b)));
#else
  return (a & low_half) * b;
#endif
}

// Words of the 16 blocks of a group: words[w][r] holds word w of the blocks from r * word_lanes on. The high halves of
// the lanes are unspecified.
struct GroupWords {
  Words words[4][run_registers];
};

inline GroupWords draw_group(const Philox& philox, Index group, Index column) {
  const std::uint64_t first =
      static_cast<std::uint64_t>(column) << (64 - random_column_bits) | static_cast<std::uint64_t>(group * random_run);
  GroupWords out;
  // Groups are aligned, so the indices of their blocks differ in the low word alone.
  for (std::size_t r = 0; r < run_registers; ++r) {
    Words x0;
    for (Index l = 0; l < word_lanes; ++l)
      x0[l] = first + r * static_cast<std::uint64_t>(word_lanes) + static_cast<std::uint64_t>(l);
    Words x1 = Words{} + Philox::high(first), x2 = Words{} + Philox::low(philox.stream),
          x3 = Words{} + Philox::high(philox.stream);
    std::uint32_t key0 = Philox::low(philox.seed), key1 = Philox::high(philox.seed);
#pragma GCC unroll 10
    for (int round = 0; round < Philox::rounds; ++round) {
      const Words a = multiply_low(x0, Philox::multiplier_0), b = multiply_low(x2, Philox::multiplier_1);
      x0 = (b >> 32) ^ x1 ^ key0;
      x1 = b;
      x2 = (a >> 32) ^ x3 ^ key1;
      x3 = a;
      key0 += Philox::weyl_0;
      key1 += Philox::weyl_1;
    }
    out.words[0][r] = x0;
    out.words[1][r] = x1;
    out.words[2][r] = x2;
    out.words[3][r] = x3;
  }
  return out;
}

// Writes the random bits of the random_group<S> elements of a group, in the order of the rows.
template <class S>
void group_bits(const Philox& philox, Index group, Index column, simd::integer_t<S>* out) {
  const GroupWords drawn = draw_group(philox, group, column);
  if constexpr (sizeof(S) == 4) {
    typedef std::int32_t Narrow __attribute__((vector_size(simd::register_bytes / 2)));
    for (std::size_t w = 0; w < 4; ++w)
      for (std::size_t r = 0; r < run_registers; ++r) {
        const Narrow narrow = __builtin_convertvector(drawn.words[w][r], Narrow);
        std::memcpy(out + w * random_run + r * word_lanes, &narrow, sizeof narrow);
      }
  } else {
    for (std::size_t w = 0; w < 2; ++w)
      for (std::size_t r = 0; r < run_registers; ++r) {
        const Words joined = drawn.words[2 * w + 1][r] << 32 | (drawn.words[2 * w][r] & low_half);
        std::memcpy(out + w * random_run + r * word_lanes, &joined, sizeof joined);
      }
  }
}

// Calls make(group, column, out) for every group that has a row in x. Groups of which x holds only a part are computed
// in full and copied in part.
template <class S, class Make>
void fill_groups(View<S> x, Index first_row, const Make& make) {
  constexpr Index size = random_group<S>;
  alignas(64) S whole[std::size_t{size}];
  for (Index j = 0; j < x.cols; ++j) {
    for (Index i = 0; i < x.rows;) {
      const Index group = (first_row + i) / size, skip = (first_row + i) % size;
      const Index count = std::min(size - skip, x.rows - i);
      if (count == size) {
        make(group, j, x.col(j) + i);
      } else {
        make(group, j, whole);
        std::copy(whole + skip, whole + skip + count, x.col(j) + i);
      }
      i += count;
    }
  }
}

// Writes the uniform numbers in [0, 1) of one group and column.
template <class S>
void uniform_group(const Philox& philox, Index group, Index column, S* out) {
  alignas(64) simd::integer_t<S> drawn[std::size_t{random_group<S>}];
  group_bits<S>(philox, group, column, drawn);
  for (Index i = 0; i < random_group<S>; i += simd::lanes<S>) {
    simd::IntVec<S> word;
    std::memcpy(&word, drawn + i, sizeof word);
    simd::Vec<S> u;
    if constexpr (sizeof(S) == 4) {
      u = __builtin_convertvector(simd::shift_right<S>(word, 8), simd::Vec<S>) * S(0x1p-24);
    } else {
      // The leading 53 bits are converted exactly in parts of 32 and 21 bits, because instruction sets below AVX-512
      // cannot convert 64-bit integers.
      const simd::Vec<S> two52 = simd::broadcast<S>(0x1p52);
      const simd::IntVec<S> base = simd::bits<S>(two52);
      const simd::Vec<S> high = simd::from_bits<S>(simd::shift_right<S>(word, 32) | base) - two52;
      const simd::Vec<S> low = simd::from_bits<S>((simd::shift_right<S>(word, 11) & 0x1FFFFF) | base) - two52;
      u = high * S(0x1p-32) + low * S(0x1p-53);
    }
    simd::store<S>(out + i, u);
  }
}

// Writes the normal numbers of one group and column by the method of Box and Muller: radius sqrt(-2 log u) and a random
// angle. The two leading bits of the angle choose the quarter of the circle by a reflection at the diagonal and a sign,
// which is applied to the radius.
template <class S>
void normal_group(const Philox& philox, Index group, Index column, S* out) {
  using V = simd::Vec<S>;
  alignas(64) simd::integer_t<S> drawn[std::size_t{random_group<S>}];
  group_bits<S>(philox, group, column, drawn);
  for (Index pair = 0; pair < random_group<S>; pair += 2 * random_run) {
    for (Index i = pair; i < pair + random_run; i += simd::lanes<S>) {
      simd::IntVec<S> a, b;
      std::memcpy(&a, drawn + i, sizeof a);
      std::memcpy(&b, drawn + i + random_run, sizeof b);
      V u, r;  // u in (0, 1]; r in [-pi / 4, pi / 4]
      if constexpr (sizeof(S) == 4) {
        u = simd::mul_add<S>(__builtin_convertvector(simd::shift_right<S>(a, 1), V), simd::broadcast<S>(0x1p-31f),
                             simd::broadcast<S>(0x1p-32f));
        r = __builtin_convertvector(b << 2, V) * (std::numbers::pi_v<S> * S(0x1p-33));
      } else {
        // 52 random bits as the mantissa of a number in [1, 2).
        const simd::IntVec<S> one = simd::bits<S>(simd::broadcast<S>(1));
        u = S(2) - simd::from_bits<S>(simd::shift_right<S>(a, 12) | one);
        r = (simd::from_bits<S>(simd::shift_right<S>(b << 2, 12) | one) - S(1.5)) * (std::numbers::pi_v<S> * S(0.5));
      }
      const V square = r * r;
      const V sine = simd::detail::sin_near_zero<S>(r, square), cosine = simd::detail::cos_near_zero<S>(square);
      V radius = simd::sqrt<S>(S(-2) * simd::detail::log_normal<S>(u, V{}, V{}));
      radius = simd::from_bits<S>(simd::bits<S>(radius) ^ (b & simd::bits<S>(simd::broadcast<S>(S(-0.0)))));
      const auto reflect = (b << 1) < 0;
      simd::store<S>(out + i, radius * (reflect ? sine : cosine));
      simd::store<S>(out + i + random_run, radius * (reflect ? cosine : sine));
    }
  }
}

// Throws invalid_argument for rows or columns out of the range of the counters; `what` names the caller.
inline void check_random_extent(const char* what, Index first_row, Index rows, Index first_column, Index cols) {
  require(first_row >= 0 && rows <= max_random_rows - first_row, what, ": rows ", first_row, " to ", first_row, " + ",
          rows, " are out of the range 0 to ", max_random_rows);
  require(first_column >= 0 && cols <= max_random_columns - first_column, what, ": columns ", first_column, " to ",
          first_column, " + ", cols, " are out of the range 0 to ", max_random_columns);
}

}  // namespace detail

/// Fills x with independent uniform numbers in [0, 1): multiples of 2^-24 (float) or 2^-53 (double). Row i of x is row
/// first_row + i of the fill. Throws `invalid_argument` for a negative row, a row beyond 2^44 or more than 2^20
/// columns.
template <class S>
void fill_uniform(View<S> x, std::uint64_t seed, std::uint64_t stream = 0, Index first_row = 0) {
  detail::check_random_extent("fill_uniform", first_row, x.rows, 0, x.cols);
  detail::fill_groups(x, first_row, [philox = Philox{seed, stream}](Index group, Index column, S* out) {
    detail::uniform_group(philox, group, column, out);
  });
}

/// Fills x with independent standard normal numbers, by the method of Box and Muller (1958); the largest possible
/// absolute value is 6.7 (float) or 8.5 (double). Row i of x is row first_row + i of the fill. Throws
/// `invalid_argument` for a negative row, a row beyond 2^44 or more than 2^20 columns.
template <class S>
void fill_normal(View<S> x, std::uint64_t seed, std::uint64_t stream = 0, Index first_row = 0) {
  detail::check_random_extent("fill_normal", first_row, x.rows, 0, x.cols);
  detail::fill_groups(x, first_row, [philox = Philox{seed, stream}](Index group, Index column, S* out) {
    detail::normal_group(philox, group, column, out);
  });
}

/// Returns element (row, column) of fill_uniform() with the same seed and stream. It computes a whole group of numbers
/// for this one, so fill an array if many are needed. Throws `invalid_argument` for a row or column out of range.
template <class S>
S uniform(std::uint64_t seed, std::uint64_t stream, Index row, Index column = 0) {
  detail::check_random_extent("uniform", row, 1, column, 1);
  alignas(64) S whole[std::size_t{detail::random_group<S>}];
  detail::uniform_group(Philox{seed, stream}, row / detail::random_group<S>, column, whole);
  return whole[row % detail::random_group<S>];
}
/// Returns element (row, column) of fill_normal() with the same seed and stream. It computes a whole group of numbers
/// for this one, so fill an array if many are needed. Throws `invalid_argument` for a row or column out of range.
template <class S>
S normal(std::uint64_t seed, std::uint64_t stream, Index row, Index column = 0) {
  detail::check_random_extent("normal", row, 1, column, 1);
  alignas(64) S whole[std::size_t{detail::random_group<S>}];
  detail::normal_group(Philox{seed, stream}, row / detail::random_group<S>, column, whole);
  return whole[row % detail::random_group<S>];
}

}  // namespace diffeo::inline DIFFEO_ISA
