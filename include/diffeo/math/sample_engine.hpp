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

// splitmix64.
template <Real S>
std::uint64_t mix(std::uint64_t hash, S value) {
  using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>;
  hash ^= std::bit_cast<Bits>(value);
  hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9;
  hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EB;
  return hash ^ (hash >> 31);
}

// The same of the first few entries of a block.
template <Real S>
std::uint64_t mix_entries(std::uint64_t hash, View<const S> x) {
  for (Index i = 0; x.cols > 0 && i < std::min<Index>(x.rows, 4); ++i) hash = mix(hash, x.col(0)[i]);
  return hash;
}

// Random bits of one sample for one model: a function of the seed, the sample's own values and those of the model's
// weights, so that a sample's estimate does not depend on its batch, and that a model that learns draws anew.
template <Real S>
PhiloxEngine sample_engine(std::uint64_t seed, View<const S> z, Index row, View<const S> weights) {
  std::uint64_t hash = 0x9E3779B97F4A7C15;
  for (Index j = 0; j < z.cols; ++j) hash = mix(hash, z.col(j)[row]);
  hash = mix_entries(hash, weights);
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
