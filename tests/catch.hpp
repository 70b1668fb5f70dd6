// SPDX-License-Identifier: MIT
#pragma once

// Includes Catch2 v3, or v2 where only that is installed (Debian 12). v2 itself puts Approx into the global namespace.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
#include <cstdint>
#include <string>

// Scalars of the tests of networks, solves, transport, distributions and training, and of those that check the laws of
// layers and continuous flows. Under sanitizers there is one of each kind, because these look for mistakes that do not
// depend on the scalar, and a law of a float compiles for double too. The tests of core, math, autodiff and data are
// for both everywhere.
#ifdef DIFFEO_SANITIZE
#define DIFFEO_TEST_SCALARS float
#define DIFFEO_LAW_SCALARS double
#else
#define DIFFEO_TEST_SCALARS float, double
#define DIFFEO_LAW_SCALARS float, double
#endif

/// Number of trainings that a statistical test makes of `many`: under sanitizers a few, because what these look for
/// does not depend on the seed.
#ifdef DIFFEO_SANITIZE
constexpr std::uint64_t trainings_of(std::uint64_t many) { return many < 4 ? many : 4; }
#else
constexpr std::uint64_t trainings_of(std::uint64_t many) { return many; }
#endif

/// Returns the message of the exception of type E that f() throws; fails the test if it throws nothing.
template <class E, class F>
std::string thrown_message(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  FAIL("no exception was thrown");
  return {};
}

/// Returns whether `part` occurs in `text`.
inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
