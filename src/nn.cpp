// SPDX-License-Identifier: MIT
#include <diffeo/compiled.hpp>

namespace diffeo::inline DIFFEO_ISA {
DIFFEO_COMPILED_NN(template, float)
DIFFEO_COMPILED_NN(template, double)
}  // namespace diffeo::inline DIFFEO_ISA
