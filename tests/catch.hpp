// SPDX-License-Identifier: MIT
#pragma once

// One include for both Catch2 generations: v3 as most systems have it, v2 as Debian 12 ships it. (v2 itself
// puts Approx into the global namespace.)
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
#include <string>

/// The message of the exception of type E that f() throws; fails the test when it throws nothing.
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

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
