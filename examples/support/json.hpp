// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdio>
#include <string>
#include <string_view>
#include <system_error>

/// Output of one flat JSON object on one line, for programs that run the examples.
namespace support {

namespace detail {

/// Returns the length of the UTF-8 sequence at the start of `text`, or 0 if there is none (RFC 3629, section 4).
inline std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned first = byte(0), second = byte(1);
  const std::size_t length = first < 0x80   ? 1
                             : first < 0xC2 ? 0
                             : first < 0xE0 ? 2
                             : first < 0xF0 ? 3
                             : first < 0xF5 ? 4
                                            : 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  // Overlong encodings, halves of surrogate pairs, and code points beyond U+10FFFF are invalid.
  if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) || (first == 0xF0 && second < 0x90) ||
      (first == 0xF4 && second > 0x8F))
    return 0;
  return length;
}

}  // namespace detail

/// Returns `text` as a JSON string, quotes included. Bytes that are not valid UTF-8 become U+FFFD.
inline std::string json_string(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const std::size_t length = detail::utf8_length(text);
    const unsigned char c = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      out += "\\ufffd";
    } else if (c < 0x20 || c == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", unsigned{c});
      out += escape;
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out += '"';
}

/// Returns the shortest text that is read back as the same number, or `null` for NaN and infinity, which JSON lacks.
template <class T>
  requires std::floating_point<T> || std::integral<T>
std::string json_number(T value) {
  if constexpr (std::floating_point<T>)
    if (!std::isfinite(value)) return "null";
  char text[64];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

/// Flat JSON object whose members are added one by one.
class JsonObject {
 public:
  JsonObject& add(std::string_view key, std::string_view value) { return put(key, json_string(value)); }
  template <class T>
  JsonObject& add(std::string_view key, T value)
    requires std::floating_point<T> || std::integral<T>
  {
    return put(key, json_number(value));
  }
  JsonObject& add_null(std::string_view key) { return put(key, "null"); }

  std::string text() const { return "{" + members_ + "}"; }

 private:
  JsonObject& put(std::string_view key, const std::string& value) {
    members_ += (members_.empty() ? "" : ", ") + json_string(key) + ": " + value;
    return *this;
  }

  std::string members_;
};

}  // namespace support
