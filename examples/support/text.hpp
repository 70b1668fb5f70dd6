// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>
#include <diffeo/core/array.hpp>
#include <string>

/// Numbers for people.
namespace support {

inline std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

/// 1234567 -> 1,234,567
inline std::string grouped(diffeo::Index value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

}  // namespace support
