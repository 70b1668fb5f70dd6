// SPDX-License-Identifier: MIT
#include <diffeo/compiled.hpp>

namespace diffeo::inline DIFFEO_ISA {
DIFFEO_COMPILED_TRAINING(template, float)
DIFFEO_COMPILED_TRAINING(template, double)
}  // namespace diffeo::inline DIFFEO_ISA
