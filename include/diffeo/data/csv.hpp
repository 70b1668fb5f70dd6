// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/data/text.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

/// Reader for tables of numbers in text files, separated by commas, semicolons, tabs or blanks, with or without a
/// header.
namespace diffeo::inline DIFFEO_ISA {

/// Options of read_csv() and parse_csv(). The defaults read common files.
struct CsvOptions {
  enum class Header { detect, present, absent };
  /// Whether the first line is a header. `detect`: it is one if no field is a number and at least one field is not a
  /// marker of a missing value (NA, N/A, null, ?, empty).
  Header header = Header::detect;
  /// Character between fields. 0: the first of comma, semicolon and tab that occurs outside quotes in the first line,
  /// or else blanks. ' ' means any run of blanks and tabs.
  char separator = 0;
  /// Character that starts a comment, outside quotes, up to the end of the line; 0: there are no comments.
  char comment = '#';
  /// Whether nan, inf and infinity are accepted as values.
  bool allow_non_finite = false;
  /// Header names of the columns to return, in this order; empty: all columns. Other columns may hold any text.
  std::vector<std::string> columns = {};
};

/// Table read from a text file.
template <Real S>
struct CsvData {
  Array<S> values;                   ///< N x D, one row per line
  std::vector<std::string> columns;  ///< D names from the header; empty if the file has no header
};

namespace detail {

class CsvReader {
 public:
  CsvReader(std::string_view text, std::string name, const CsvOptions& options)
      : text_(text), name_(std::move(name)), options_(options), separator_(options.separator) {
    if (text_.starts_with("\xFF\xFE") || text_.starts_with("\xFE\xFF"))
      throw io_error(name_ + " is UTF-16 text, expected UTF-8 or ASCII");
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);  // UTF-8 byte order mark
  }

  template <Real S>
  CsvData<S> read() {
    CsvData<S> result;
    std::vector<S> values;
    std::vector<std::size_t> chosen;
    std::size_t width = 0;
    while (next_line()) {
      if (width == 0) {
        width = fields_.size();
        std::vector<std::string> names;
        if (is_header())
          for (const std::string_view field : fields_) names.push_back(unescaped(field));
        chosen = choose(names);
        if (!names.empty()) {
          for (const std::size_t j : chosen) result.columns.push_back(names[j]);
          continue;
        }
      }
      if (fields_.size() != width)
        fail(" has ", fields_.size(), fields_.size() == 1 ? " field" : " fields", ", expected ", width);
      for (const std::size_t j : chosen) values.push_back(number<S>(j));
    }
    if (width == 0) throw io_error(name_ + " is empty, expected rows of numbers");
    if (values.empty()) throw io_error(name_ + " has a header but no rows of numbers");
    const auto cols = static_cast<Index>(chosen.size());
    const View<const S> samples{values.data(), cols, static_cast<Index>(values.size()) / cols, cols};
    result.values = as_eigen(samples).transpose();
    return result;
  }

 private:
  static bool blank(char c) { return c == ' ' || c == '\t'; }

  static std::string_view trim(std::string_view s) {
    while (!s.empty() && blank(s.front())) s.remove_prefix(1);
    while (!s.empty() && blank(s.back())) s.remove_suffix(1);
    return s;
  }

  static std::string unescaped(std::string_view field) {
    std::string out;
    for (std::size_t i = 0; i < field.size(); ++i) {
      out += field[i];
      if (field.substr(i, 2) == "\"\"") ++i;
    }
    return out;
  }

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw io_error(concat_message(name_, ": line ", line_, parts...));
  }

  /// Returns the position of the first character of `line` outside quotes for which `wanted` returns true, or npos.
  template <class F>
  static std::size_t find_outside_quotes(std::string_view line, F wanted) {
    bool inside = false;
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (line[i] == '"') inside = !inside;
      if (!inside && wanted(line[i])) return i;
    }
    return line.npos;
  }

  /// Splits the next line that is not blank apart from a comment into fields_; returns false at the end of the text.
  bool next_line() {
    while (!text_.empty()) {
      const std::size_t end = std::min(text_.find('\n'), text_.size());
      std::string_view line = text_.substr(0, end);
      text_.remove_prefix(std::min(end + 1, text_.size()));
      ++line_;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (options_.comment != 0 && line.find(options_.comment) != line.npos)
        line = line.substr(0, find_outside_quotes(line, [&](char c) { return c == options_.comment; }));
      if (trim(line).empty()) continue;
      if (separator_ == 0) {
        separator_ = ' ';
        for (const char candidate : {'\t', ';', ','})
          if (find_outside_quotes(line, [=](char c) { return c == candidate; }) != line.npos) separator_ = candidate;
      }
      split(line);
      return true;
    }
    return false;
  }

  void split(std::string_view line) {
    const bool runs = separator_ == ' ';
    const auto separates = [&](char c) { return runs ? blank(c) : c == separator_; };
    fields_.clear();
    if (runs) line = trim(line);
    for (bool more = true; more;) {
      const std::size_t end = find_outside_quotes(line, separates);
      more = end != line.npos;
      std::string_view field = trim(line.substr(0, end));
      if (more) line.remove_prefix(end + 1);
      if (runs) line = trim(line);
      if (field.starts_with('"')) {
        if (field.size() < 2 || !field.ends_with('"') || std::count(field.begin(), field.end(), '"') % 2 != 0)
          fail(", column ", fields_.size() + 1, ": ", excerpt(field), " has a quote that is not closed at its end");
        field = field.substr(1, field.size() - 2);
      }
      fields_.push_back(field);
    }
  }

  bool is_header() const {
    if (options_.header != CsvOptions::Header::detect) return options_.header == CsvOptions::Header::present;
    double ignored = 0;
    const auto is_missing = [](std::string_view field) {
      for (const std::string_view mark : {"", "NA", "na", "N/A", "n/a", "null", "NULL", "?"})
        if (field == mark) return true;
      return false;
    };
    return !std::all_of(fields_.begin(), fields_.end(), is_missing) &&
           std::all_of(fields_.begin(), fields_.end(), [&](std::string_view field) {
             return parse_number(field, ignored) == NumberText::not_a_number;
           });
  }

  std::vector<std::size_t> choose(const std::vector<std::string>& names) const {
    std::vector<std::size_t> chosen;
    for (const std::string& wanted : options_.columns) {
      const auto found = std::find(names.begin(), names.end(), wanted);
      if (found == names.end()) {
        std::string known;
        for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
        throw io_error(name_ + " has no column '" + wanted + "'" +
                       (names.empty() ? " because it has no header" : ", only " + known));
      }
      if (std::find(found + 1, names.end(), wanted) != names.end())
        throw io_error(name_ + " has several columns '" + wanted + "'");
      chosen.push_back(static_cast<std::size_t>(found - names.begin()));
    }
    for (std::size_t j = 0; options_.columns.empty() && j < fields_.size(); ++j) chosen.push_back(j);
    return chosen;
  }

  template <Real S>
  S number(std::size_t j) const {
    S value = 0;
    const std::string_view field = fields_[j];
    const NumberText result = parse_number(field, value);
    if (result == NumberText::out_of_range)
      fail(", column ", j + 1, ": ", excerpt(field), " is out of the range of ", sizeof(S) == 4 ? "float" : "double");
    if (field.empty()) fail(", column ", j + 1, " is empty, expected a number");
    if (result != NumberText::good) fail(", column ", j + 1, ": ", excerpt(field), " is not a number");
    if (!options_.allow_non_finite && !std::isfinite(value))
      fail(", column ", j + 1, ": ", excerpt(field), " is not finite");
    return value;
  }

  std::string_view text_;
  std::string name_;
  const CsvOptions& options_;
  char separator_;
  std::size_t line_ = 0;
  std::vector<std::string_view> fields_;
};

}  // namespace detail

/// Reads a table from text as read_csv() does from a file. `name` is the file name in messages. Throws `io_error` for
/// text that is not such a table, and `invalid_argument` for a separator or comment character that cannot work.
template <Real S>
CsvData<S> parse_csv(std::string_view text, const CsvOptions& options = {}, std::string name = "text") {
  require(std::string_view("+-.\"\r\nEe").find(options.separator ? options.separator : ',') == std::string_view::npos &&
              (options.separator < '0' || options.separator > '9'),
          "read_csv: separator is '", options.separator, "', which can be part of a number or ends a line");
  require(options.comment == 0 || (options.comment != options.separator && options.comment != '"'),
          "read_csv: comment is '", options.comment, "', expected a character that neither separates nor quotes");
  return detail::CsvReader(text, std::move(name), options).template read<S>();
}

/// Reads a table from a file: values N x D, one row per line, and the names in its header. Blank lines, comments,
/// quotes around fields, blanks around numbers, CRLF line ends and a UTF-8 byte order mark are accepted.
/// Throws `io_error`, naming the file and, if known, line and column, for a missing or empty file, a line with more or
/// fewer fields than the first, a field that is not a finite number, a requested column that the header lacks or has
/// more than once, and UTF-16 text. Throws `invalid_argument` for a separator or comment character that cannot work.
template <Real S>
CsvData<S> read_csv(const std::string& path, const CsvOptions& options = {}) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) throw io_error(path + ": cannot open: " + std::generic_category().message(errno));
  std::string text;
  char buffer[1 << 16];
  while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file.get())) text.append(buffer, count);
  if (std::ferror(file.get()) != 0) throw io_error(path + ": cannot read: " + std::generic_category().message(errno));
  return parse_csv<S>(text, options, path);
}

}  // namespace diffeo::inline DIFFEO_ISA
