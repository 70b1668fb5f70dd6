// SPDX-License-Identifier: MIT
#include <algorithm>
#include <diffeo/layers/permutation.hpp>

#include "laws.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::Permutation;

static_assert(diffeo::Flow<Permutation<float>>);
static_assert(diffeo::Flow<Permutation<double>>);

TEMPLATE_TEST_CASE("permutation: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using P = Permutation<TestType>;
  for (const Index dim : {1, 2, 3, 5}) require_laws("reverse, D = " + std::to_string(dim), P::reverse(dim));
  for (const Index dim : {3, 5, 12}) require_laws("random, D = " + std::to_string(dim), P::random(dim, 4));
  require_laws("rotation", P::from({1, 2, 3, 0}));
  require_laws("the identity", P::from({0, 1, 2}));
}

TEST_CASE("permutation by hand", "[layers]") {
  const auto layer = Permutation<double>::from({2, 0, 1});
  Array<double> z(2, 3), expected(2, 3);
  z << 1, 2, 3, 4, 5, 6;
  expected << 3, 1, 2, 6, 4, 5;
  CHECK((diffeo::forward(layer, z).value == expected).all());
  CHECK((diffeo::inverse(layer, expected).value == z).all());
  CHECK((diffeo::forward(layer, z).log_det == 0).all());
  CHECK(Permutation<double>::reverse(4).order == std::vector<Index>{3, 2, 1, 0});
  CHECK(diffeo::parameter_count(layer) == 0);
}

TEST_CASE("random permutations", "[layers]") {
  using P = Permutation<float>;
  CHECK(P::random(20, 1).order == P::random(20, 1).order);
  CHECK(P::random(20, 1).order != P::random(20, 2).order);
  CHECK(P::random(20, 1, 0).order != P::random(20, 1, 1).order);
  std::vector<Index> counts(6);
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    const auto order = P::random(3, seed).order;
    ++counts[static_cast<std::size_t>(2 * order[0] + (order[1] > order[2] ? 1 : 0))];
  }
  CHECK(*std::min_element(counts.begin(), counts.end()) > 65);
  CHECK(*std::max_element(counts.begin(), counts.end()) < 140);
}

TEST_CASE("permutation: bad input", "[layers]") {
  using P = Permutation<float>;
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] { P::from({0, 1, 1}); }), "coordinate 1 is listed twice"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] { P::from({0, 3, 1}); }), "coordinate 3 is out of"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] { P::from({0, -1}); }), "coordinate -1 is out of"));
  CHECK(thrown_message<diffeo::invalid_argument>([] { P::random(-1, 0); }) ==
        "Permutation: dimension -1, expected at least 0");
  const Array<float> x = Array<float>::Zero(2, 2);
  diffeo::Tape<float> tape;
  CHECK(thrown_message<diffeo::invalid_argument>([&] { P::reverse(3).forward(tape.copy(x)); }) ==
        "Permutation: x has 2 columns, this layer has dimension 3");
}
