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

/// Counter-based random numbers: a value is a function of (seed, stream, index) alone, so it does not matter which
/// thread draws it, when, or in which block. Give each purpose a stream of its own: equal (seed, stream, index) are
/// equal numbers, whatever they are used for. Normal and uniform fills of arrays are in math/random_fill.hpp.
namespace diffeo::inline DIFFEO_ISA {

/// Philox4x32-10 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 3.3:
/// a bijection of 128-bit counters under a 64-bit key. Passes BigCrush; 2^64 streams of 2^64 blocks per seed.
struct Philox {
  using Block = std::array<std::uint32_t, 4>;

  static constexpr int rounds = 10;
  static constexpr std::uint32_t multiplier_0 = 0xD2511F53, multiplier_1 = 0xCD9E8D57;
  // Key increments per round: golden ratio and sqrt(3) - 1, as 32-bit fractions.
  static constexpr std::uint32_t weyl_0 = 0x9E3779B9, weyl_1 = 0xBB67AE85;

  std::uint64_t seed = 0;
  std::uint64_t stream = 0;

  /// Four words: the bijection of the counter (index, stream) under the key `seed`, low words first.
  constexpr Block block(std::uint64_t index) const {
    return bijection({low(index), high(index), low(stream), high(stream)}, {low(seed), high(seed)});
  }

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

/// The words of one Philox stream in order, as a standard UniformRandomBitGenerator: for shuffles and for
/// distributions of the standard library.
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

  /// Uniform in 0 ... n-1 for n >= 1, without bias.
  constexpr result_type below(result_type n) {
    // The largest multiple of n that fits; draws at or above it are redrawn.
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

/// A uniformly random order of 0 ... n-1 (Fisher and Yates). Throws `invalid_argument` when n < 0.
inline std::vector<Index> permutation(Index n, std::uint64_t seed, std::uint64_t stream = 0) {
  require(n >= 0, "permutation: n is ", n, ", expected n >= 0");
  std::vector<Index> order(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<Index>(i);
  PhiloxEngine engine(seed, stream);
  for (std::size_t left = order.size(); left > 1; --left)
    std::swap(order[left - 1], order[engine.below(left)]);
  return order;
}

}  // namespace diffeo::inline DIFFEO_ISA
