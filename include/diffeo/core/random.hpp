// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/instruction_set.hpp>
#include <limits>
#include <utility>
#include <vector>

/// Counter-based random numbers. Each number is a function of (seed, stream, index) alone, so it does not depend on
/// which thread draws it, when, or in which block. Use a different stream for each purpose: equal (seed, stream, index)
/// give equal numbers. math/random_fill.hpp fills arrays with uniform and normal numbers.
namespace diffeo::inline DIFFEO_ISA {

/// Random number generator Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
/// SC 2011, section 3.3): a bijection of 128-bit counters under a 64-bit key. It passes BigCrush, and provides 2^64
/// streams of 2^64 blocks of four 32-bit words per seed.
struct Philox {
  using Block = std::array<std::uint32_t, 4>;

  static constexpr int rounds = 10;
  static constexpr std::uint32_t multiplier_0 = 0xD2511F53, multiplier_1 = 0xCD9E8D57;
  // Key increments per round: golden ratio and sqrt(3) - 1, as 32-bit fractions.
  static constexpr std::uint32_t weyl_0 = 0x9E3779B9, weyl_1 = 0xBB67AE85;

  std::uint64_t seed = 0;
  std::uint64_t stream = 0;

  /// Returns block `index` of the stream: the bijection of the counter (index, stream) under the key `seed`, low words
  /// first.
  constexpr Block block(std::uint64_t index) const {
    return bijection({low(index), high(index), low(stream), high(stream)}, {low(seed), high(seed)});
  }

  /// Returns the image of the counter x under the bijection with this key.
  static constexpr Block bijection(Block x, std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < rounds; ++round) {
      const std::uint64_t a = std::uint64_t{multiplier_0} * x[0], b = std::uint64_t{multiplier_1} * x[2];
      x = {high(b) ^ x[1] ^ key[0], low(b), high(a) ^ x[3] ^ key[1], low(a)};
      key[0] += weyl_0;
      key[1] += weyl_1;
    }
    return x;
  }

  static constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
  static constexpr std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }
};

/// UniformRandomBitGenerator that yields the words of one Philox stream in order, 64 bits at a time; for shuffles and
/// the distributions of the standard library.
class PhiloxEngine {
 public:
  using result_type = std::uint64_t;

  explicit constexpr PhiloxEngine(std::uint64_t seed, std::uint64_t stream = 0) : philox_{seed, stream} {}

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return std::numeric_limits<result_type>::max(); }

  constexpr result_type operator()() {
    if (half_ == 0) block_ = philox_.block(next_++);
    const std::size_t i = 2 * static_cast<std::size_t>(half_);
    half_ ^= 1;
    return std::uint64_t{block_[i + 1]} << 32 | block_[i];
  }

  /// Returns a uniformly distributed integer in 0 ... n-1, without modulo bias; n >= 1.
  constexpr result_type below(result_type n) {
    // Draws at or above the largest multiple of n are repeated.
    const result_type excess = (max() % n + 1) % n;
    result_type draw = (*this)();
    while (draw > max() - excess) draw = (*this)();
    return draw % n;
  }

 private:
  Philox philox_;
  Philox::Block block_{};
  std::uint64_t next_ = 0;
  int half_ = 0;
};

/// Returns a uniformly random permutation of 0 ... n-1 (Fisher-Yates shuffle), a function of (n, seed, stream). Throws
/// `invalid_argument` when n < 0.
inline std::vector<Index> permutation(Index n, std::uint64_t seed, std::uint64_t stream = 0) {
  require(n >= 0, "permutation: n is ", n, ", expected n >= 0");
  std::vector<Index> order(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<Index>(i);
  PhiloxEngine engine(seed, stream);
  for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[engine.below(left)]);
  return order;
}

}  // namespace diffeo::inline DIFFEO_ISA
