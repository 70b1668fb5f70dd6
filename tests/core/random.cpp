// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cstdint>
#include <diffeo/core/random.hpp>
#include <random>
#include <set>
#include <vector>

#include "../catch.hpp"

using diffeo::Index;
using diffeo::Philox;
using diffeo::PhiloxEngine;

// "philox4x32 10" of the known answers that come with Random123, the authors' implementation (file kat_vectors).
static_assert(Philox::bijection({0, 0, 0, 0}, {0, 0}) == Philox::Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(Philox::bijection({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
              Philox::Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(Philox::bijection({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              Philox::Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
// Seed, stream and index are key and counter, low words first.
static_assert(Philox{0x299f31d0a4093822, 0x0370734413198a2e}.block(0x85a308d3243f6a88) ==
              Philox::Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

static_assert(std::uniform_random_bit_generator<PhiloxEngine>);

TEST_CASE("the engine gives the words of its stream in order") {
  PhiloxEngine engine(5, 9);
  for (std::uint64_t index = 0; index < 3; ++index) {
    const auto block = Philox{5, 9}.block(index);
    CHECK(engine() == (std::uint64_t{block[1]} << 32 | block[0]));
    CHECK(engine() == (std::uint64_t{block[3]} << 32 | block[2]));
  }
}

TEST_CASE("below is uniform and in range") {
  PhiloxEngine engine(1);
  std::array<int, 7> count{};
  for (int i = 0; i < 70000; ++i) ++count.at(static_cast<std::size_t>(engine.below(7)));
  for (const int c : count) CHECK(std::abs(c - 10000) < 500);
  CHECK(engine.below(1) == 0);
  // Two thirds of the range: taking the remainder would give numbers below 2^62 half of the time.
  const std::uint64_t n = 3 * (std::uint64_t{1} << 62);
  int low = 0;
  for (int i = 0; i < 10000; ++i) {
    const std::uint64_t draw = engine.below(n);
    REQUIRE(draw < n);
    low += draw < n / 3;
  }
  CHECK(std::abs(low - 3333) < 250);
}

TEST_CASE("a permutation holds every number once, in an order that the seed decides") {
  auto order = diffeo::permutation(1000, 4, 2);
  CHECK(order == diffeo::permutation(1000, 4, 2));
  CHECK(order != diffeo::permutation(1000, 5, 2));
  CHECK(order != diffeo::permutation(1000, 4, 3));
  std::sort(order.begin(), order.end());
  for (Index i = 0; i < 1000; ++i) CHECK(order[static_cast<std::size_t>(i)] == i);
  CHECK(diffeo::permutation(0, 1).empty());
  CHECK(diffeo::permutation(1, 1) == std::vector<Index>{0});
  CHECK(thrown_message<diffeo::invalid_argument>([] { diffeo::permutation(-1, 1); }) ==
        "permutation: n is -1, expected n >= 0");
}

TEST_CASE("permutations are uniform") {
  // The 24 orders of four, 24,000 draws: chi-square with 23 degrees of freedom exceeds 60 with probability 4e-5.
  std::array<int, 256> count{};
  for (std::uint64_t seed = 0; seed < 24000; ++seed) {
    const auto p = diffeo::permutation(4, seed);
    ++count.at(static_cast<std::size_t>(p[0] * 64 + p[1] * 16 + p[2] * 4 + p[3]));
  }
  double chi_square = 0;
  int orders = 0;
  for (const int c : count) {
    if (c == 0) continue;
    ++orders;
    chi_square += (c - 1000.0) * (c - 1000.0) / 1000.0;
  }
  CHECK(orders == 24);
  CHECK(chi_square < 60);
}
