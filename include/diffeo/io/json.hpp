// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <diffeo/core/error.hpp>
#include <diffeo/data/text.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

/// What the other headers need of nlohmann-json: quoting of texts, and a parser that calls a function for each thing it
/// meets and keeps nothing, so that a file decides neither how deep calls nest nor how much memory is taken.
namespace diffeo::inline DIFFEO_ISA::detail {

/// Returns `text` as a JSON string. Throws invalid_argument, with a message that begins with `what`, unless it is
/// UTF-8.
inline std::string json_quoted(const std::string& text, const std::string& what) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw invalid_argument(what + ": " + excerpt(text) + " is not UTF-8");
  }
}

/// Base of readers of JSON texts. What a derived class does not expect is an error.
class JsonReader : public nlohmann::json::json_sax_t {
 public:
  /// `what` names the text in messages.
  explicit JsonReader(std::string what) : what_(std::move(what)) {}

  /// Reads a text. Throws `io_error` where it is no JSON or not what the class expects.
  void read(std::string_view text) {
    const std::size_t zero = text.find('\0');  // which the parser would take for the end
    if (zero != text.npos) fail(concat_message("no JSON at byte ", zero + 1));
    nlohmann::json::sax_parse(text.data(), text.data() + text.size(), static_cast<nlohmann::json::json_sax_t*>(this));
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool number_integer(std::int64_t) override { unexpected("a negative number"); }
  bool number_unsigned(std::uint64_t) override { unexpected("a number"); }
  bool number_float(double, const std::string&) override { unexpected("a decimal number"); }
  bool string(std::string&) override { unexpected("a text"); }
  bool binary(nlohmann::json::binary_t&) override { unexpected("binary data"); }
  bool start_object(std::size_t) override { unexpected("an object"); }
  bool key(std::string&) override { unexpected("a name"); }
  bool end_object() override { unexpected("the end of an object"); }
  bool start_array(std::size_t) override { unexpected("a list"); }
  bool end_array() override { unexpected("the end of a list"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail(concat_message("no JSON at byte ", position));
  }

 protected:
  [[noreturn]] void fail(const std::string& why) const { throw io_error(what_ + " is corrupt: " + why); }

 private:
  [[noreturn]] void unexpected(const char* what) const { fail(concat_message(what, " where none is expected")); }

  std::string what_;
};

}  // namespace diffeo::inline DIFFEO_ISA::detail
