// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

/// One object of the program: what it computes with the library, under its own compiler flags.
struct Part {
  const char* name;
  const char* instruction_set;
  /// Trains flows of every kind in float and double and returns means of their log-densities, scores and samples.
  /// Files go to `path` and beside it.
  std::vector<double> (*run)(const std::string& path);
  void (*throw_invalid_argument)();
  void (*throw_io_error)();
  void (*throw_convergence_error)();
  void (*throw_integration_error)();
};
