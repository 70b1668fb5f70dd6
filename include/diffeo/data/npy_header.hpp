// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <diffeo/core/error.hpp>
#include <diffeo/data/text.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Parser of the header of NumPy's .npy files.
namespace diffeo::inline DIFFEO_ISA::detail {

/// Contents of the header of an .npy file.
struct NpyHeader {
  std::string dtype;
  bool fortran_order = false;
  std::vector<std::uint64_t> shape;
};

/// Parses the text of a header: a Python dictionary with the keys descr, fortran_order and shape, as NumPy writes it.
/// Throws `io_error`, with the position, for anything else.
class NpyHeaderParser {
 public:
  NpyHeaderParser(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  NpyHeader parse() {
    NpyHeader header;
    bool has_dtype = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr" && !std::exchange(has_dtype, true)) {
        if (next() == '[') throw io_error(path_ + ": dtype is a structure, expected float32 or float64");
        header.dtype = string();
      } else if (key == "fortran_order" && !std::exchange(has_order, true)) {
        header.fortran_order = boolean();
      } else if (key == "shape" && !std::exchange(has_shape, true)) {
        header.shape = tuple();
      } else {
        fail("the key " + excerpt(key) + " is unknown or there twice");
      }
      if (!accept(',') && next() != '}') fail("expected ',' or '}'");
    }
    if (next() != 0) fail("text after its end");
    if (!has_dtype || !has_order || !has_shape) fail("descr, fortran_order or shape is missing");
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw io_error(concat_message(path_, ": the header is corrupt at byte ", at_, ": ", why));
  }

  /// Skips blanks and returns the next character without consuming it; 0 at the end.
  char next() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) { return next() == c && ++at_ != 0; }
  void expect(char c) {
    if (!accept(c)) fail(std::string("expected '") + c + "'");
  }
  std::string string() {
    const char quote = next();
    if (quote != '\'' && quote != '"') fail("expected a quoted string");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == text_.npos) fail("a quote is not closed");
    const std::string inside(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return inside;
  }
  bool boolean() {
    next();
    for (const std::string_view word : {"True", "False"})
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return word == "True";
      }
    fail("fortran_order is neither True nor False");
  }
  std::vector<std::uint64_t> tuple() {
    std::vector<std::uint64_t> sizes;
    expect('(');
    while (!accept(')')) {
      std::uint64_t size = 0;
      const std::size_t begin = (next(), at_);
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
        // 2^40, far below overflow, is more than any file has.
        size = size * 10 + static_cast<std::uint64_t>(text_[at_] - '0');
        if (size > std::uint64_t{1} << 40) fail("the shape is absurd, a dimension exceeds 2^40");
      }
      if (at_ == begin) fail("expected a dimension");
      sizes.push_back(size);
      accept('L');  // written by Python 2
      if (!accept(',') && next() != ')') fail("expected ',' or ')'");
    }
    return sizes;
  }

  std::string_view text_;
  const std::string& path_;
  std::size_t at_ = 0;
};

}  // namespace diffeo::inline DIFFEO_ISA::detail
