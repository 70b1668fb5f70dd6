// SPDX-License-Identifier: MIT
#include <diffeo/compiled.hpp>

namespace diffeo::inline DIFFEO_ISA {
DIFFEO_COMPILED_MATH(template, float)
DIFFEO_COMPILED_MATH(template, double)
}  // namespace diffeo::inline DIFFEO_ISA
