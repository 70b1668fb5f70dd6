// SPDX-License-Identifier: MIT
#include <diffeo/matching/pairing.hpp>
#include <vector>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::IndependentPairing;
using diffeo::Index;

static_assert(diffeo::Pairing<IndependentPairing, float> && diffeo::Pairing<IndependentPairing, double>);
static_assert(!diffeo::Pairing<int, float>);

TEST_CASE("independent pairing: each row goes with the row of its place", "[matching]") {
  const Array<float> x = Array<float>::Random(4, 2);
  std::vector<Index> partner(4, -1);
  IndependentPairing::State<float> state;
  IndependentPairing().pair(state, diffeo::PairingTask<float>{view(x), view(x), {}, 0, 0, partner});
  CHECK(partner == std::vector<Index>{0, 1, 2, 3});
}
