// SPDX-License-Identifier: MIT
#define CATCH_CONFIG_RUNNER  // for Catch2 v2: this file holds its implementation
#include "catch.hpp"

int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
