// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

/// Output files of the examples. A file is either written completely or left as it was.
namespace support {

/// Returns the temporary path, in the same folder, that the new contents of `path` are written to. It has the same
/// extension, because programs choose formats by it.
inline std::filesystem::path unfinished(const std::filesystem::path& path) {
  return path.parent_path() / ("unfinished-" + path.filename().string());
}

/// Renames the finished temporary file to `path`. Throws io_error.
inline void finish(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::rename(unfinished(path), path, error);
  if (!error) return;
  const std::string message = path.string() + ": cannot write: " + error.message();
  std::filesystem::remove(unfinished(path), error);
  throw diffeo::io_error(message);
}

/// Writes a file. On failure throws io_error and leaves an existing file unchanged.
inline void write_file(const std::filesystem::path& path, std::string_view contents) {
  const std::filesystem::path temporary = unfinished(path);
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  bool good = file != nullptr && std::fwrite(contents.data(), 1, contents.size(), file) == contents.size();
  if (file != nullptr) good = std::fclose(file) == 0 && good;
  if (good) return finish(path);
  const std::string reason = std::generic_category().message(errno);
  if (file != nullptr) std::remove(temporary.c_str());
  throw diffeo::io_error(path.string() + ": cannot write: " + reason);
}

/// Creates the folder and its parents. Throws io_error.
inline void create_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw diffeo::io_error(folder.string() + ": cannot create: " + error.message());
}

/// Appends the shortest text that is read back as the same number.
template <class S>
void append_number(std::string& text, S value) {
  char digits[64];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

/// Returns text as a field of a CSV file, in quotes if it contains a separator, quote, '#', blank or line end; line
/// ends become blanks.
inline std::string csv_field(std::string_view text) {
  if (text.find_first_of(",;\t\"#\n\r ") == text.npos) return std::string(text);
  std::string field = "\"";
  for (const char c : text) {
    if (c == '"') field += '"';
    field += c == '\n' || c == '\r' ? ' ' : c;
  }
  return field += '"';
}

/// Returns a table as CSV text with a header and one row per line, which diffeo::read_csv can read.
template <diffeo::Real S>
std::string csv_text(const std::vector<std::string>& columns, const diffeo::Array<S>& values) {
  std::string text;
  text.reserve(static_cast<std::size_t>(values.size()) * 12 + 64);
  for (std::size_t j = 0; j < columns.size(); ++j) text += (j > 0 ? "," : "") + csv_field(columns[j]);
  text += '\n';
  for (diffeo::Index i = 0; i < values.rows(); ++i) {
    for (diffeo::Index j = 0; j < values.cols(); ++j) {
      if (j > 0) text += ',';
      append_number(text, values(i, j));
    }
    text += '\n';
  }
  return text;
}

}  // namespace support
