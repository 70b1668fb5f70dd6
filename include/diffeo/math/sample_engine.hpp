// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/core/random.hpp>
#include <numbers>

/// Random numbers that are functions of a sample.
namespace diffeo::inline DIFFEO_ISA::detail {

// The finaliser of splitmix64 (Steele, Lea & Flood 2014): a bijection in which every bit depends on every bit.
constexpr std::uint64_t mix_bits(std::uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB;
  return bits ^ (bits >> 31);
}

// A generator of random bits of one sample: a function of the seed and of the sample's own values, so that a sample's
// estimate does not depend on its batch.
template <Real S>
PhiloxEngine sample_engine(std::uint64_t seed, View<const S> z, Index row) {
  using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>;
  std::uint64_t hash = 0x9E3779B97F4A7C15;
  for (Index j = 0; j < z.cols; ++j) hash = mix_bits(hash ^ std::bit_cast<Bits>(z.col(j)[row]));
  return PhiloxEngine(seed, hash);
}

// In (0, 1].
inline double uniform(PhiloxEngine& engine) { return (static_cast<double>(engine() >> 11) + 1) * 0x1p-53; }

// A random sign in each column of one row.
template <Real S>
void draw_signs(PhiloxEngine& engine, View<S> out, Index row) {
  std::uint64_t bits = 0;
  for (Index j = 0; j < out.cols; ++j) {
    if (j % 64 == 0) bits = engine();
    out.col(j)[row] = (bits >> (j % 64)) & 1 ? S(1) : S(-1);
  }
}

// A standard normal number in each column of one row (Box and Muller).
template <Real S>
void draw_normal(PhiloxEngine& engine, View<S> out, Index row) {
  for (Index j = 0; j < out.cols; j += 2) {
    const double radius = std::sqrt(-2 * std::log(uniform(engine))), angle = 2 * std::numbers::pi * uniform(engine);
    out.col(j)[row] = static_cast<S>(radius * std::cos(angle));
    if (j + 1 < out.cols) out.col(j + 1)[row] = static_cast<S>(radius * std::sin(angle));
  }
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
