// SPDX-License-Identifier: MIT
#include <diffeo/diffeo.hpp>

int main() { return static_cast<int>(diffeo::planar<float>(2).dim()); }
