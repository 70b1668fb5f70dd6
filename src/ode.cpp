// SPDX-License-Identifier: MIT
#include <diffeo/compiled.hpp>

namespace diffeo::inline DIFFEO_ISA {
DIFFEO_COMPILED_ODE(template, float)
DIFFEO_COMPILED_ODE(template, double)
}  // namespace diffeo::inline DIFFEO_ISA
