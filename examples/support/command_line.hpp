// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <string>

/// Functions that the examples' command lines share.
namespace support {

/// Returns a validator that accepts whole numbers from `least` to 10^9.
inline CLI::Validator at_least(int least) {
  const auto check = [least](const std::string& text) {
    constexpr double most = 1e9;
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
    if (digits && std::stold(text) >= least && std::stold(text) <= most) return std::string();
    return text + " is not a whole number from " + std::to_string(least) + " to 1000000000";
  };
  return {check, ""};
}

/// Runs an example: parses the command line, calls `body` and returns the exit code, which is 2 for bad usage and 1 for
/// an exception, whose message goes to stderr after the program's name.
template <class Body>
int run_program(const char* name, CLI::App& app, int argc, char** argv, const Body& body) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    body();
  } catch (const std::exception& error) {
    std::cerr << name << ": " << error.what() << '\n';
    return 1;
  }
  return 0;
}

}  // namespace support
