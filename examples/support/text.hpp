// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>
#include <diffeo/core/array.hpp>
#include <string>

/// Formatting of numbers for people.
namespace support {

/// Returns a number with so many digits after the decimal point.
inline std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

/// Returns a number with so many significant digits at most.
inline std::string significant(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

/// Returns a whole number with commas between groups of three digits: 1,234,567.
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
