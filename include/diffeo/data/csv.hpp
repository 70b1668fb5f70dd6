// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/data/csv_fields.hpp>
#include <diffeo/data/text.hpp>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

/// Reader for tables of numbers in text files, separated by commas, semicolons, tabs or blanks, with or without a
/// header, with columns of text and missing values among them.
namespace diffeo::inline DIFFEO_ISA {

/// Column of a file, by its name in the header or by its index, which counts from 0.
struct CsvColumn {
  CsvColumn(const char* column_name) : name(column_name) {}
  CsvColumn(std::string column_name) : name(std::move(column_name)) {}
  CsvColumn(std::string_view column_name) : name(column_name) {}
  template <std::integral I>
    requires(!std::same_as<I, bool> && !std::same_as<I, char>)
  CsvColumn(I column_index) : index(static_cast<Index>(column_index)), by_name(false) {}

  std::string name = {};  ///< if by_name
  Index index = 0;        ///< otherwise
  bool by_name = true;

  bool operator==(const CsvColumn&) const = default;
};

/// List of columns: a vector that is also made from names alone, such as CsvData::columns, and compared with them.
struct CsvColumns : std::vector<CsvColumn> {
  using std::vector<CsvColumn>::vector;
  CsvColumns() = default;
  CsvColumns(const std::vector<CsvColumn>& columns) : std::vector<CsvColumn>(columns) {}
  CsvColumns(std::vector<CsvColumn>&& columns) : std::vector<CsvColumn>(std::move(columns)) {}
  CsvColumns(const std::vector<std::string>& names) : std::vector<CsvColumn>(names.begin(), names.end()) {}

  friend bool operator==(const CsvColumns& columns, const std::vector<std::string>& names) {
    return std::equal(columns.begin(), columns.end(), names.begin(), names.end(),
                      [](const CsvColumn& column, const std::string& name) { return column == CsvColumn(name); });
  }
};

/// Options of read_csv() and parse_csv(). The defaults read common files.
struct CsvOptions {
  enum class Header { detect, present, absent };
  /// Whether the first line is a header. `detect`: it is one if no field is a number and at least one field is neither
  /// a marker of a missing value (NA, N/A, null, ?, empty) nor like a number (5%). A first line of numbers and text is
  /// data if a text of it comes again in its column, but for digits, as in iris.data; otherwise it may be a header with
  /// years, and read_csv() asks for this option. Say `present` where a header has numbers only, and `absent` where the
  /// first line of data has none.
  Header header = Header::detect;
  /// Character between fields. 0: of semicolon, tab and comma the first in this order that occurs outside quotes in the
  /// first line, or else blanks; tabs after a comma are blanks. ' ' means any run of blanks and tabs.
  char separator = 0;
  /// Character that starts a comment, outside quotes, up to the end of the line; 0: there are no comments. '#' does so
  /// before a blank, another '#' or the end of the line, and at the beginning of lines in front of the table.
  char comment = '#';
  /// Whether nan, inf and infinity are accepted as values.
  bool allow_non_finite = false;
  /// Columns to return, in this order, by name or index: `{"x", "y"}`, `{0, 2}`. Other columns may hold anything.
  /// Empty: all columns except those of text.
  CsvColumns columns = {};
  enum class Missing { refuse, drop };
  /// What happens to a row that has a missing value in a column that is returned: an error, or the row is dropped and
  /// counted. A missing value is an empty field or, in capitals or not, NA, <NA>, N/A, NaN, null, none, ? or an error
  /// of a spreadsheet such as #N/A and #DIV/0!; NaN is a value with allow_non_finite.
  Missing missing = Missing::refuse;
  /// Whether numbers are accepted that the scalar cannot tell apart as they are written, such as time stamps in float.
  bool allow_rounding = false;
};

/// Table read from a text file.
template <Real S>
struct CsvData {
  Array<S> values;                    ///< N x D, one row per line without those that were dropped
  std::vector<std::string> columns;   ///< D names from the header; empty if the file has no header
  std::vector<Index> indices;         ///< D indices of the columns in the file, from 0
  std::vector<std::string> left_out;  ///< columns of text that were left out: names, without a header indices
  Index dropped_rows = 0;             ///< rows that were dropped for missing values
};

namespace detail {

/// Reader of one table; `options` must outlive it.
class CsvReader {
 public:
  CsvReader(std::string_view text, std::string name, const CsvOptions& options)
      : text_(text), name_(std::move(name)), options_(options), separator_(options.separator) {
    if (text_.starts_with("\xFF\xFE") || text_.starts_with("\xFE\xFF"))
      throw io_error(name_ + " is UTF-16 text, expected UTF-8 or ASCII");
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);  // UTF-8 byte order mark
    for (std::size_t at = text_.find('\r'); at != text_.npos && !lone_returns_; at = text_.find('\r', at + 1))
      lone_returns_ = !text_.substr(at + 1).starts_with('\n');
  }

  /// Returns the table and appends the line of each of its rows to `lines` unless it is null.
  template <Real S>
  CsvData<S> read(std::vector<std::size_t>* lines = nullptr) {
    CsvData<S> result;
    std::vector<S> values;  // row by row, of all columns that could be numbers
    for (; next_record(); ++rows_) {
      if (fields_.size() != width_)
        fail(line_, " has ", fields_.size(), fields_.size() == 1 ? " field" : " fields", ", expected ", width_);
      compare_with_first();
      const std::size_t before = values.size();
      bool complete = true;
      late_number_ = false;
      for (Column& column : columns_) {
        S value = 0;
        if (!read_field(column, value) && column.kind == Kind::number) complete = false;
        values.push_back(value);
      }
      if (late_number_) {  // all rows before lack it
        result.dropped_rows += static_cast<Index>(before / columns_.size());
        values.erase(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(before));
        if (lines != nullptr) lines->clear();
      }
      if (!complete) {
        values.resize(values.size() - columns_.size());
        ++result.dropped_rows;
      } else if (lines != nullptr) {
        lines->push_back(line_);
      }
    }
    if (width_ == 0) throw io_error(name_ + " is empty, expected rows of numbers");
    if (rows_ == 0) throw io_error(name_ + " has a header but no rows of numbers");
    if (first_is_mixed_ && !first_is_data_)
      throw io_error(concat_message(name_, ": the first row has numbers and text: ", excerpt(first_[doubtful_[0]]),
                                    " in column ", doubtful_[0] + 1,
                                    "; say by CsvOptions::header whether it is a header: Header::present or absent"));
    finish(values, result);
    return result;
  }

 private:
  /// What a column has been found to hold; `unknown`: only missing values so far.
  enum class Kind { unknown, number, text };

  struct Column {
    std::size_t index = 0;  // in the file
    bool chosen = false;    // by the options
    Kind kind = Kind::unknown;
    bool blank = true;            // while unknown: whether all fields are empty
    std::size_t line = 0;         // while unknown, of the first row; of the first text
    std::string_view field = {};  // what stands there
  };

  static bool is_blank(char c) { return c == ' ' || c == '\t'; }

  static std::string_view trim(std::string_view s) {
    while (!s.empty() && is_blank(s.front())) s.remove_prefix(1);
    while (!s.empty() && is_blank(s.back())) s.remove_suffix(1);
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
  [[noreturn]] void fail(std::size_t line, const Parts&... parts) const {
    throw io_error(concat_message(name_, ": line ", line, parts...));
  }

  /// Throws for a field that is not a number, or not a finite one.
  [[noreturn]] void refuse(std::size_t line, std::size_t index, std::string_view field) const {
    double ignored = 0;
    if (field.empty()) fail(line, ", column ", index + 1, " is empty, expected a number");
    if (field.find(',') != field.npos && looks_like_number(field))
      fail(line, ", column ", index + 1, ": ", excerpt(field),
           " is not a number: it has a decimal comma or groups of digits", spelling_remedy());
    fail(line, ", column ", index + 1, ": ", excerpt(field),
         parse_number(field, ignored) == NumberText::good ? " is not finite" : " is not a number");
  }

  /// Returns the ways out for numbers in another spelling, for messages.
  std::string spelling_remedy() const {
    return std::string("; write numbers as 1234.5, or leave the column out by CsvOptions::columns") +
           (rows_ == 0 && names_.empty() ? ", or say CsvOptions::Header::present if this is a header" : "");
  }

  /// Returns where the line ends that holds position `from`.
  std::size_t line_end(std::size_t from) const {
    return std::min(lone_returns_ ? text_.find_first_of("\r\n", from) : text_.find('\n', from), text_.size());
  }

  bool is_line_end(std::size_t at) const { return text_[at] == '\n' || (lone_returns_ && text_[at] == '\r'); }

  /// Returns where the next line starts after a line end.
  std::size_t next_line(std::size_t end) const {
    return std::min(end + (text_.substr(end).starts_with("\r\n") ? 2 : 1), text_.size());
  }

  /// Reads the next row into fields_, past blank lines, comments and the header, which is taken in; returns false at
  /// the end of the text.
  bool next_record() {
    while (!text_.empty()) {
      const std::size_t end = line_end(0);
      std::string_view line = text_.substr(0, end);
      if (line.ends_with('\r')) line.remove_suffix(1);
      line_ = ++lines_read_;
      const std::string_view content = trim(line);
      const bool glued = is_glued(content);
      if (content.empty() || is_comment(content, 0) || (glued && width_ == 0)) {
        if (glued) glued_.emplace_back(content, line_);
        text_.remove_prefix(next_line(end));
        continue;
      }
      if (separator_ == 0) separator_ = find_separator(line);
      fields_.clear();
      if (line.find('"') == line.npos) {
        split(line);
        text_.remove_prefix(next_line(end));
      } else {
        text_.remove_prefix(split_quoted());
      }
      if (glued && rows_ == 0 && (fields_.size() != width_ || width_ == 1)) continue;
      if (width_ != 0 || !begin()) return true;
    }
    return false;
  }

  /// Returns whether a comment starts at a position outside quotes. After '#' there is a blank, another '#' or nothing.
  bool is_comment(std::string_view s, std::size_t at) const {
    if (options_.comment == 0 || at >= s.size() || s[at] != options_.comment) return false;
    if (options_.comment != '#') return true;
    const std::size_t next = std::min(s.find_first_not_of('#', at), s.size());
    if (next == s.size() || s[next] == '\n' || s[next] == '\r') return true;
    return next == at + 1 ? is_blank(s[next]) : std::string_view(",;").find(s[next]) == s.npos && s[next] != separator_;
  }

  /// Returns whether a line begins with '#' and text, which is a comment in front of the table, if not a mark.
  bool is_glued(std::string_view line) const {
    if (options_.comment != '#' || !line.starts_with('#') || is_comment(line, 0)) return false;
    return !is_missing_mark(line.substr(0, line.find_first_of(separator_ == 0 ? ",; \t" : std::string{separator_})));
  }

  char find_separator(std::string_view line) const {
    bool inside = false, comma = false, tab = false, after_comma = false;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      if (c == '"') inside = !inside;
      if (!inside) {
        if (is_comment(line, i)) break;
        if (c == ';') return ';';
        comma = comma || c == ',';
        tab = tab || (c == '\t' && !after_comma);
      }
      if (!is_blank(c)) after_comma = !inside && c == ',';
    }
    return tab ? '\t' : comma ? ',' : ' ';
  }

  /// Splits a line without quotes.
  void split(std::string_view line) {
    if (options_.comment != 0) {
      std::size_t at = line.find(options_.comment);
      while (at != line.npos && !is_comment(line, at)) at = line.find(options_.comment, at + 1);
      line = line.substr(0, at);
    }
    if (separator_ == ' ') {
      for (line = trim(line); !line.empty();) {
        const std::size_t end = std::min(line.find_first_of(" \t"), line.size());
        fields_.push_back(line.substr(0, end));
        line = trim(line.substr(end));
      }
      return;
    }
    for (std::size_t end = 0; end != line.npos; line.remove_prefix(end == line.npos ? line.size() : end + 1)) {
      end = line.find(separator_);
      fields_.push_back(trim(line.substr(0, end)));
    }
  }

  /// Splits the row at the start of text_; quoted fields may hold separators, comment characters and line ends. Returns
  /// the length of the row with its line end.
  std::size_t split_quoted() {
    const bool runs = separator_ == ' ';
    std::string stops = {separator_, '\n'};
    if (runs) stops += '\t';
    if (lone_returns_) stops += '\r';
    if (options_.comment != 0) stops += options_.comment;
    const auto stop = [&](std::size_t from) {
      std::size_t at = text_.find_first_of(stops, from);
      while (at != text_.npos && text_[at] == options_.comment && !is_comment(text_, at))
        at = text_.find_first_of(stops, at + 1);
      return std::min(at, text_.size());
    };
    const auto between = [&](std::size_t from, std::size_t to) {
      std::string_view part = text_.substr(from, to - from);
      if (part.ends_with('\r') && (to == text_.size() || text_[to] == '\n')) part.remove_suffix(1);
      return trim(part);
    };
    std::size_t at = 0;
    for (bool more = true; more;) {
      while (at < text_.size() && is_blank(text_[at]) && (runs || text_[at] != separator_)) ++at;
      const std::size_t first = at;
      if (text_.substr(at).starts_with('"')) {
        std::size_t close = text_.find('"', at + 1);
        while (close != text_.npos && text_.substr(close + 1).starts_with('"')) close = text_.find('"', close + 2);
        at = close == text_.npos ? line_end(at) : stop(close + 1);
        if (close == text_.npos || !between(close + 1, at).empty())
          fail(line_, ", column ", fields_.size() + 1, ": ", excerpt(between(first, at)),
               " has a quote that is not closed at its end");
        fields_.push_back(text_.substr(first + 1, close - first - 1));
        for (std::size_t i = first + 1; i < close; ++i)
          if (text_[i] == '\n' || (text_[i] == '\r' && text_[i + 1] != '\n')) ++lines_read_;
      } else {
        at = stop(at);
        fields_.push_back(between(first, at));
      }
      if (runs) at = std::min(text_.find_first_not_of(" \t", at), text_.size());
      more = at < text_.size() && !is_line_end(at) && !is_comment(text_, at);
      if (runs && text_.substr(at).starts_with("\r\n")) more = false;
      if (more && !runs) ++at;
    }
    return next_line(line_end(at));
  }

  /// Sets up the columns from the first row that is not blank; returns whether it is a header.
  bool begin() {
    width_ = fields_.size();
    if (width_ > 1 && separator_ != ' ') {
      const std::vector<std::string_view> fields = fields_;
      for (const auto& [line, number] : glued_) {
        fields_.clear();
        split(line);
        if (fields_.size() == width_ && std::any_of(fields_.begin(), fields_.end(), is_number))
          fail(number, " is a comment or a row: ", excerpt(line),
               "; write a blank after '#', or say by CsvOptions::comment = 0 that there are no comments");
      }
      fields_ = fields;
    }
    const bool header = is_header();
    if (!header && options_.header == CsvOptions::Header::detect) {
      first_ = fields_;
      for (std::size_t j = 0; j < width_; ++j)
        if (!is_number(first_[j])) doubtful_.push_back(j);
      if (doubtful_.size() == width_) doubtful_.clear();
    }
    if (header)
      for (const std::string_view field : fields_) names_.push_back(unescaped(field));
    for (const CsvColumn& wanted : options_.columns) {
      const std::size_t index = wanted.by_name ? find_name(wanted.name) : static_cast<std::size_t>(wanted.index);
      if (index >= width_)
        throw io_error(concat_message(name_, " has no column with index ", index, ", only 0 to ", width_ - 1));
      for (const Column& other : columns_)
        require(other.index != index, "read_csv: column ", label(index), " of ", name_, " is chosen twice");
      columns_.push_back({.index = index, .chosen = true});
    }
    for (std::size_t j = 0; options_.columns.empty() && j < width_; ++j) columns_.push_back({.index = j});
    return header;
  }

  bool is_header() const {
    if (options_.header != CsvOptions::Header::detect) return options_.header == CsvOptions::Header::present;
    double ignored = 0;
    // Narrower than is_missing_mark(): columns may be called Na or None.
    const auto is_missing = [](std::string_view field) {
      for (const std::string_view mark : {"", "NA", "na", "N/A", "n/a", "null", "NULL", "?"})
        if (field == mark) return true;
      return field.starts_with('#') && is_missing_mark(field);
    };
    return !std::all_of(fields_.begin(), fields_.end(), [&](std::string_view field) {
      return is_missing(without_blanks(field)) || looks_like_number(field);
    }) && std::all_of(fields_.begin(), fields_.end(), [&](std::string_view field) {
      return parse_number(without_blanks(field), ignored) == NumberText::not_a_number;
    });
  }

  static bool is_number(std::string_view field) {
    double ignored = 0;
    field = without_blanks(field);
    return !is_missing_mark(field) && parse_number(field, ignored) != NumberText::not_a_number;
  }

  /// Gathers from a row whether the first one, if it has numbers and text, is data: its text comes again or changes in
  /// the digits only.
  void compare_with_first() {
    if (first_is_data_) return;
    for (const std::size_t j : doubtful_) {
      const std::string_view first = first_[j];
      const bool missing = is_missing_mark(without_blanks(first));
      if (rows_ == 0 ? !missing : missing && !is_missing_mark(without_blanks(fields_[j])) && !is_number(fields_[j]))
        first_is_mixed_ = true;
      if (rows_ > 0 && !first.empty() && same_shape(first, fields_[j])) first_is_data_ = true;
    }
  }

  std::size_t find_name(const std::string& wanted) const {
    const auto found = std::find(names_.begin(), names_.end(), wanted);
    if (found == names_.end()) {
      std::string known;
      for (const std::string& name : names_) known += (known.empty() ? "" : ", ") + name;
      throw io_error(name_ + " has no column '" + wanted + "'" +
                     (names_.empty() ? " because it has no header" : ", only " + known));
    }
    if (std::find(found + 1, names_.end(), wanted) != names_.end())
      throw io_error(name_ + " has several columns '" + wanted + "'");
    return static_cast<std::size_t>(found - names_.begin());
  }

  /// Returns the name of a column, without a header its index.
  std::string label(std::size_t index) const { return names_.empty() ? std::to_string(index) : names_[index]; }

  /// Reads a field of the row as a number; returns whether it is one. Throws for a field that the column must not have.
  template <Real S>
  bool read_field(Column& column, S& value) {
    const std::string_view field = without_blanks(fields_[column.index]);
    const NumberText result = parse_number(field, value);
    if (result == NumberText::good && (std::isfinite(value) || options_.allow_non_finite)) {
      if (column.kind != Kind::number) first_number(column);
      if (!options_.allow_rounding && is_rounded_away(field, value)) {
        char text[400];
        const char* const end = std::to_chars(text, std::end(text), value, std::chars_format::fixed, 0).ptr;
        fail(line_, ", column ", column.index + 1, ": ", excerpt(field), " becomes ",
             std::string_view(text, static_cast<std::size_t>(end - text)), sizeof(S) == 4 ? " in float" : " in double",
             rounding_remedy<S>());
      }
      return true;
    }
    if (result == NumberText::out_of_range && column.kind != Kind::text)
      fail(line_, ", column ", column.index + 1, ": ", excerpt(field), " is out of the range of ",
           sizeof(S) == 4 ? "float" : "double");
    value = 0;
    other_than_number(column, field, result);
    return false;
  }

  /// Takes note of a number in a column that had none.
  void first_number(Column& column) {
    if (column.kind == Kind::text || (rows_ > 0 && options_.missing == CsvOptions::Missing::refuse))
      refuse(column.line, column.index, column.field);
    column.kind = Kind::number;
    if (rows_ > 0) late_number_ = true;
  }

  void other_than_number(Column& column, std::string_view field, NumberText result) {
    const bool strict = column.kind == Kind::number || column.chosen;
    if (!strict && result == NumberText::not_a_number && looks_like_number(field)) {
      if (field.find(',') != field.npos) refuse(line_, column.index, field);
      fail(line_, ", column ", column.index + 1, ": ", excerpt(field), " looks like a number but is none",
           spelling_remedy());
    }
    if (column.kind == Kind::text) return;
    const bool missing = is_missing_mark(field);
    if (missing ? strict && options_.missing == CsvOptions::Missing::refuse : strict || result == NumberText::good)
      refuse(line_, column.index, field);
    if (column.kind == Kind::number) return;
    if (!missing) column.kind = Kind::text;
    if (!missing || rows_ == 0) {
      column.line = line_;
      column.field = field;
    }
    column.blank = column.blank && field.empty();
  }

  /// Decides which columns are returned, and returns them.
  template <Real S>
  void finish(const std::vector<S>& values, CsvData<S>& result) const {
    std::vector<Index> places;
    for (std::size_t j = 0; j < columns_.size(); ++j) {
      const Column& column = columns_[j];
      if (column.kind == Kind::number) {
        places.push_back(static_cast<Index>(j));
        result.indices.push_back(static_cast<Index>(column.index));
        if (!names_.empty()) result.columns.push_back(names_[column.index]);
      } else if (column.kind == Kind::text) {
        result.left_out.push_back(label(column.index));
      } else if (column.chosen || !column.blank || column.index + 1 < width_ ||
                 (!names_.empty() && !names_.back().empty())) {  // else every line ends with a separator
        if (options_.missing == CsvOptions::Missing::refuse) refuse(column.line, column.index, column.field);
        throw io_error(concat_message(name_, ": column ", column.index + 1, " has missing values only"));
      }
    }
    if (places.empty()) refuse(columns_.front().line, columns_.front().index, columns_.front().field);
    const auto stride = static_cast<Index>(columns_.size());
    const Index rows = static_cast<Index>(values.size()) / stride;
    if (rows == 0)
      throw io_error(concat_message(name_, " has no row without missing values, ", result.dropped_rows, " dropped"));
    result.values.resize(rows, static_cast<Index>(places.size()));
    for (std::size_t j = 0; j < places.size(); ++j) {
      S* const column = result.values.col(static_cast<Index>(j)).data();
      for (Index i = 0; i < rows; ++i) column[i] = values[static_cast<std::size_t>(i * stride + places[j])];
    }
  }

  std::string_view text_;
  std::string name_;
  const CsvOptions& options_;
  char separator_;
  std::size_t line_ = 0, lines_read_ = 0;  // of the row, its first one; of the text
  std::size_t width_ = 0, rows_ = 0;
  bool lone_returns_ = false;  // whether there is a carriage return without a line feed, which ends a line too
  bool late_number_ = false;   // whether the row has the first number of a column, in which earlier rows lack it
  std::vector<std::string> names_;
  std::vector<Column> columns_;  // candidates
  std::vector<std::string_view> fields_;
  std::vector<std::pair<std::string_view, std::size_t>> glued_;  // lines in front of the table that begin as #text
  std::vector<std::string_view> first_;                          // fields of the first row unless it is a header
  std::vector<std::size_t> doubtful_;                            // those of them that are not numbers, if others are
  bool first_is_mixed_ = false, first_is_data_ = false;
};

/// Throws `io_error` if a column of `table` spreads over fewer than some 4096 steps of float and numbers that differ in
/// `text` are the same in it. In a column that spreads further, equal numbers are the ordinary rounding of decimals.
inline void require_resolved(const CsvData<float>& table, std::string_view text, const std::string& name,
                             const CsvOptions& options) {
  CsvData<double> exact;
  std::vector<std::size_t> lines;
  for (Index j = 0; j < table.values.cols(); ++j) {
    float low = std::numeric_limits<float>::infinity(), high = -low;
    for (Index i = 0; i < table.values.rows(); ++i) {
      const float x = table.values(i, j);
      if (!std::isfinite(x)) continue;
      low = std::min(low, x);
      high = std::max(high, x);
    }
    const float step = std::max(std::abs(low), std::abs(high)) * std::numeric_limits<float>::epsilon();
    if (!(low <= high) || !(high - low < 4096 * step)) continue;
    if (lines.empty()) exact = CsvReader(text, name, options).read<double>(&lines);
    std::vector<Index> order;
    for (Index i = 0; i < table.values.rows(); ++i)
      if (std::isfinite(exact.values(i, j))) order.push_back(i);
    const auto less = [&](Index a, Index b) { return exact.values(a, j) < exact.values(b, j); };
    std::stable_sort(order.begin(), order.end(), less);
    const auto same = std::adjacent_find(order.begin(), order.end(), [&](Index a, Index b) {
      return less(a, b) && table.values(a, j) == table.values(b, j);
    });
    if (same == order.end()) continue;
    const auto written = [&](Index i) {
      char digits[32];
      return std::string(digits, std::to_chars(digits, std::end(digits), exact.values(i, j)).ptr);
    };
    throw io_error(concat_message(name, ": line ", lines[static_cast<std::size_t>(same[0])], ", column ",
                                  table.indices[static_cast<std::size_t>(j)] + 1, ": ", written(same[0]), " and ",
                                  written(same[1]), " on line ", lines[static_cast<std::size_t>(same[1])],
                                  " are the same number in float", rounding_remedy<float>()));
  }
}

}  // namespace detail

/// Reads a table from text as read_csv() does from a file. `name` is the file name in messages. Throws `io_error` for
/// text that is not such a table, and `invalid_argument` for a separator or comment character that cannot work and for
/// columns that are negative or chosen twice.
template <Real S>
CsvData<S> parse_csv(std::string_view text, const CsvOptions& options = {}, std::string name = "text") {
  require(std::string_view("+-.\"\r\nEe").find(options.separator ? options.separator : ',') == std::string_view::npos &&
              (options.separator < '0' || options.separator > '9'),
          "read_csv: separator is '", options.separator, "', which can be part of a number or ends a line");
  require(options.comment == 0 || (options.comment != options.separator && options.comment != '"'),
          "read_csv: comment is '", options.comment, "', expected a character that neither separates nor quotes");
  for (const CsvColumn& column : options.columns)
    require(column.index >= 0, "read_csv: a column has index ", column.index, ", expected 0 or more");
  CsvData<S> table = detail::CsvReader(text, name, options).template read<S>();
  if constexpr (sizeof(S) == 4)
    if (!options.allow_rounding) detail::require_resolved(table, text, name, options);
  return table;
}

/// Reads a table from a file: values N x D, one row per line, and the names in its header. Blank lines, comments,
/// quotes around fields, blanks and no-break spaces around numbers, line ends LF, CRLF and CR, a separator at the end
/// of every line and a UTF-8 byte order mark are accepted. A column without numbers is text and left out, unless it is
/// chosen; one that has numbers and text is an error.
///
/// Throws `io_error`, naming the file and, if known, line and column (from 1), for a missing or empty file, a first
/// line that may be a header or not, a line with more or fewer fields than the first, a field that is not a finite
/// number in a column that has numbers or was chosen, numbers in another spelling (1,5 or 5% or 0x10) even among text,
/// missing values unless they are to be dropped, a chosen column that the file lacks or has more than once, and UTF-16
/// text; for an integer, or a decimal's integral part, that S would change visibly (1700000123.25 is 1700000128 in
/// float); and for a column of float with less than 1/2000 of its size as spread in which different numbers become
/// equal. The rounding of other decimals, such as 0.1, is accepted. Throws `invalid_argument` as parse_csv() does.
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
