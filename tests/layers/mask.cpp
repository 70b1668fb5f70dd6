// SPDX-License-Identifier: MIT
#include <diffeo/layers/coupling.hpp>
#include <diffeo/layers/mask.hpp>

#include "../catch.hpp"

using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::Mask;
using diffeo::MaskPattern;
using Columns = std::vector<Index>;

namespace {
void require_mask(const Mask& mask, const Columns& kept, const Columns& moved) {
  CHECK(mask.kept == kept);
  CHECK(mask.moved == moved);
  CHECK(mask.dim() == static_cast<Index>(kept.size() + moved.size()));
}
}  // namespace

TEST_CASE("masks", "[layers]") {
  require_mask(Mask::keep_even(2), {0}, {1});
  require_mask(Mask::keep_odd(2), {1}, {0});
  require_mask(Mask::keep_even(5), {0, 2, 4}, {1, 3});
  require_mask(Mask::keep_odd(5), {1, 3}, {0, 2, 4});
  require_mask(Mask::keep_first_half(4), {0, 1}, {2, 3});
  require_mask(Mask::keep_first_half(5), {0, 1}, {2, 3, 4});
  require_mask(Mask::keep_second_half(5), {2, 3, 4}, {0, 1});
  require_mask(Mask::moving(5, {4, 0, 3}), {1, 2}, {4, 0, 3});
}

TEST_CASE("alternating masks move every coordinate within two layers", "[layers]") {
  require_mask(diffeo::alternating_mask(MaskPattern::even_odd, 3, 0), {0, 2}, {1});
  require_mask(diffeo::alternating_mask(MaskPattern::even_odd, 3, 1), {1}, {0, 2});
  require_mask(diffeo::alternating_mask(MaskPattern::even_odd, 3, 2), {0, 2}, {1});
  require_mask(diffeo::alternating_mask(MaskPattern::halves, 3, 0), {0}, {1, 2});
  require_mask(diffeo::alternating_mask(MaskPattern::halves, 3, 1), {1, 2}, {0});
}

TEST_CASE("masks: bad input", "[layers]") {
  const auto message = [](Index dim, Columns moved) {
    return thrown_message<invalid_argument>([&] { Mask::moving(dim, moved); });
  };
  CHECK(message(3, {0, 2, 0}) == "mask: coordinate 0 is listed twice");
  CHECK(message(3, {3}) == "mask: coordinate 3 is out of the range 0 to 2");
  CHECK(message(3, {-1}) == "mask: coordinate -1 is out of the range 0 to 2");
  CHECK(message(3, {0, 1, 2}) == "mask: 3 of 3 coordinates are moved, expected at least 1 and at most 2");
  CHECK(message(3, {}) == "mask: 0 of 3 coordinates are moved, expected at least 1 and at most 2");
  for (const Index dim : {1, 0, -3}) {
    const std::string expected =
        "coupling: dimension " + std::to_string(dim) + " leaves nothing to condition on, expected at least 2";
    CHECK(message(dim, {}) == expected);
    CHECK(thrown_message<invalid_argument>([&] { Mask::keep_even(dim); }) == expected);
    CHECK(thrown_message<invalid_argument>([&] { Mask::keep_odd(dim); }) == expected);
    CHECK(thrown_message<invalid_argument>([&] { Mask::keep_first_half(dim); }) == expected);
    CHECK(thrown_message<invalid_argument>([&] { Mask::keep_second_half(dim); }) == expected);
  }
}

TEST_CASE("mask: one put together by hand is checked", "[layers]") {
  const auto message = [](const Mask& mask) { return thrown_message<invalid_argument>([&] { mask.check(); }); };
  CHECK(message({{0}, {0}}) == "mask: coordinate 0 is listed twice");
  CHECK(message({{0}, {2}}) == "mask: coordinate 2 is out of the range 0 to 1");
  CHECK(contains(thrown_message<invalid_argument>([] { diffeo::make_coupling<float>({{0}, {0}}, {}, 1); }), "twice"));
  CHECK_NOTHROW(Mask{{2, 0}, {1}}.check());
}
