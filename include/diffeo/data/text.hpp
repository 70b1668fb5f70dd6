// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <clocale>
#include <cstdlib>
#include <diffeo/core/array.hpp>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>

/// Functions for the text of data files: conversion to numbers, independent of the locale, and excerpts for messages.
namespace diffeo::inline DIFFEO_ISA::detail {

/// Result of parse_number().
enum class NumberText { good, out_of_range, not_a_number };

/// Replacement of std::from_chars for standard libraries that lack it for floating point (libc++ before LLVM 20). It
/// does not accept hexadecimal numbers.
template <Real S>
std::from_chars_result parse_by_strtod(std::string_view text, S& value) {
  const char* last = text.data() + text.size();
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  const std::string_view magnitude = std::string_view(lower).substr(lower.starts_with('-') ? 1 : 0);
  const bool words = magnitude == "nan" || magnitude == "inf" || magnitude == "infinity";
  const bool decimal = !magnitude.empty() && (magnitude[0] == '.' || (magnitude[0] >= '0' && magnitude[0] <= '9')) &&
                       magnitude.find_first_not_of("0123456789.e+-") == magnitude.npos;
  if (!words && !decimal) return {text.data(), std::errc::invalid_argument};
  if (const auto point = lower.find('.'); point != lower.npos)
    lower.replace(point, 1, std::localeconv()->decimal_point);
  char* end = nullptr;
  const long double wide = std::strtold(lower.c_str(), &end);
  if (*end != 0) return {text.data(), std::errc::invalid_argument};
  const long double limit = std::numeric_limits<S>::max();
  if (decimal && (wide > limit || wide < -limit)) return {last, std::errc::result_out_of_range};
  value = static_cast<S>(wide);
  return {last, std::errc()};
}

/// Converts the whole of `text` to a number, by the rules of the C locale whatever the program's locale is. A leading
/// '+' is accepted; numbers that are too small for S become 0.
template <Real S>
NumberText parse_number(std::string_view text, S& value) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const char *first = text.data(), *last = first + text.size();
  std::from_chars_result result{};
  if constexpr (requires { std::from_chars(first, last, value); })
    result = std::from_chars(first, last, value);
  else
    result = parse_by_strtod(text, value);
  if (result.ec == std::errc::invalid_argument || result.ptr != last) return NumberText::not_a_number;
  if (result.ec != std::errc::result_out_of_range) return NumberText::good;
  if (text.find("e-") == text.npos && text.find("E-") == text.npos) return NumberText::out_of_range;
  value = S(0);
  return NumberText::good;
}

/// Returns `text` in quotes for use in a message, cut to 40 characters, with control characters replaced by '?'.
inline std::string excerpt(std::string_view text) {
  std::string out(1, '\'');
  out.append(text.substr(0, 40)).append(text.size() > 40 ? "...'" : "'");
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 32 || c == 127) c = '?';
  return out;
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
