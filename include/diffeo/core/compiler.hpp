// SPDX-License-Identifier: MIT
#pragma once

// What diffeo asks of the compiler and its flags. The missing file ends the translation unit, which would else report
// thousands of errors that follow from the first.

#if __cplusplus < 202002L
#error "diffeo needs C++20: compile with -std=c++20 or newer"
#include "diffeo ends here"
#endif

// Clang 16 shows -ffast-math, -Ofast and -ffinite-math-only alone: for the others it defines nothing.
#if (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__FAST_MATH__)
#error "diffeo needs NaN and infinity: compile without -ffast-math, -Ofast and -ffinite-math-only"
#include "diffeo ends here"
#elif defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "diffeo needs exact rounding: compile without -funsafe-math-optimizations and its parts, which -Ofast sets too"
#include "diffeo ends here"
#endif
