// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <string>

/// What command lines share.
namespace support {

/// Accepts whole numbers from `least` to 10^9.
inline CLI::Validator at_least(int least) {
  const auto check = [least](const std::string& text) {
    constexpr double most = 1e9;
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
    if (digits && std::stold(text) >= least && std::stold(text) <= most) return std::string();
    return text + " is not a whole number from " + std::to_string(least) + " to 1000000000";
  };
  return {check, ""};
}

}  // namespace support
