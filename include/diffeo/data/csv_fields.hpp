// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/data/text.hpp>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>

/// What single fields of a CSV file mean: missing values, numbers in other spellings, and numbers that a scalar cannot
/// hold.
namespace diffeo::inline DIFFEO_ISA::detail {

/// Marks of errors in spreadsheets, in lower case.
inline constexpr std::string_view error_marks[] = {"#n/a", "#div/0!", "#value!", "#ref!", "#num!", "#name?", "#null!"};

/// Returns whether a field is a marker of a missing value.
inline bool is_missing_mark(std::string_view field) {
  const auto same = [](char c, char lower) { return c == lower || (c >= 'A' && c <= 'Z' && c - 'A' + 'a' == lower); };
  for (const std::string_view mark : {"", "na", "n/a", "nan", "null", "?", "none", "<na>"})
    if (std::equal(field.begin(), field.end(), mark.begin(), mark.end(), same)) return true;
  for (const std::string_view mark : error_marks)
    if (std::equal(field.begin(), field.end(), mark.begin(), mark.end(), same)) return true;
  return false;
}

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Returns `field` without blanks and no-break spaces around it, which quotes may keep.
inline std::string_view without_blanks(std::string_view field) {
  const auto is_plain = [](char c) { return c > ' ' && c <= '~'; };
  if (field.empty() || (is_plain(field.front()) && is_plain(field.back()))) return field;
  for (std::size_t before = field.size() + 1; before != field.size();) {
    before = field.size();
    for (const std::string_view blank : {" ", "\t", "\xC2\xA0", "\xE2\x80\xAF"}) {
      if (field.starts_with(blank)) field.remove_prefix(blank.size());
      if (field.ends_with(blank)) field.remove_suffix(blank.size());
    }
  }
  return field;
}

/// Returns whether `field`, which parse_number() does not take, is meant as a number: 1,5 or 1'234 or 5% or 1.5D+03 or
/// 0x10, or several that another separator divides, but not 2024-01-31 or 10-20.
inline bool looks_like_number(std::string_view field) {
  field = without_blanks(field);
  const auto is_sign = [](char c) { return c == '+' || c == '-'; };
  if (const std::string_view hex = field.substr(!field.empty() && is_sign(field[0]) ? 1 : 0);
      hex.size() > 2 && (hex.starts_with("0x") || hex.starts_with("0X")))
    return hex.find_first_not_of("0123456789abcdefABCDEF", 2) == hex.npos;
  bool digit = false, exponent = false;
  for (std::size_t i = 0; i < field.size(); ++i) {
    const char c = field[i], before = i > 0 ? field[i - 1] : '\0', after = i + 1 < field.size() ? field[i + 1] : '\0';
    if (is_digit(c)) {
      digit = true;
    } else if (is_sign(c)) {
      if (i > 0 && after != '\0' && !is_sign(before) && std::string_view("eEdD").find(before) == std::string_view::npos)
        return false;
    } else if (std::string_view("eEdD").find(c) != std::string_view::npos) {
      if (exponent || !digit || !(is_digit(after) || is_sign(after))) return false;
      exponent = true;
    } else if (std::string_view(".,;|'% \t").find(c) == std::string_view::npos &&
               std::string_view("\xC2\xA0\xE2\x80\xAF\x89\x88\x92\x99").find(c) == std::string_view::npos) {
      return false;  // the last ones: bytes of no-break and thin spaces, the minus sign and the apostrophe
    }
  }
  return digit;
}

/// Returns whether two texts of a column are the same but for the digits: "setosa" twice, or two dates.
inline bool same_shape(std::string_view a, std::string_view b) {
  while (!a.empty() && !b.empty()) {
    if (is_digit(a[0]) && is_digit(b[0])) {
      while (!a.empty() && is_digit(a[0])) a.remove_prefix(1);
      while (!b.empty() && is_digit(b[0])) b.remove_prefix(1);
    } else {
      if (a[0] != b[0]) return false;
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  return a.empty() && b.empty();
}

/// Returns whether S holds another number, `value`, than is written in `field`: off by more than 1/2, or for integers
/// with trailing zeros, whose digits before them S tells apart, by more than half of the last digit that is not 0.
/// Numbers with an exponent pass.
template <Real S>
bool is_rounded_away(std::string_view field, S value) {
  using Limits = std::numeric_limits<S>;
  constexpr S exact = S(std::int64_t{1} << Limits::digits);  // up to it neighbours are at most 1 apart
  if (!(std::abs(value) >= exact) || field.find_first_of("eE") != field.npos) return false;
  field.remove_prefix(std::min(field.find_first_of("123456789"), field.size()));
  const std::size_t point = std::min(field.find('.'), field.size());
  const std::string_view decimals = field.substr(point);
  std::string_view digits = field.substr(0, point);
  double unit = 1;
  if (decimals.find_first_of("123456789") == decimals.npos)
    for (; digits.ends_with('0'); digits.remove_suffix(1)) unit *= 10;
  if (digits.size() > std::size_t{Limits::max_digits10 - 2}) unit = 1;
  if (!(std::abs(value) < S(0x1p63))) {  // beyond 64-bit integers: more digits than S has, unless they are S's own
    char own[Limits::max_exponent10 + 2];
    const char* const end = std::to_chars(own, std::end(own), std::abs(value), std::chars_format::fixed, 0).ptr;
    return digits.size() > std::size_t{Limits::max_digits10 - 2} &&
           field.substr(0, point) != std::string_view(own, static_cast<std::size_t>(end - own));
  }
  std::int64_t written = 0;
  std::from_chars(field.data(), field.data() + point, written);
  double fraction = 0;
  if (decimals.size() > 1) parse_number(decimals, fraction);
  const double moved = static_cast<double>(written - static_cast<std::int64_t>(std::abs(value))) + fraction;
  return std::abs(moved) > unit / 2;
}

/// Returns the ways out for numbers that S does not resolve, for messages.
template <Real S>
std::string rounding_remedy() {
  return concat_message(sizeof(S) == 4 ? "; read the file as double and subtract an offset before a conversion to float"
                                       : "; subtract an offset in the file",
                        ", leave the column out by CsvOptions::columns, or accept it by CsvOptions::allow_rounding");
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
