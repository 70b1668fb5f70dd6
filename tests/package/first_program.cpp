// SPDX-License-Identifier: MIT
#include <diffeo/diffeo.hpp>
#include <iostream>

int main() { std::cout << "diffeo " << diffeo::version << '\n'; }
