// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <diffeo/core/error.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

/// What the readers and writers of files share.
namespace diffeo::inline DIFFEO_ISA::detail {

/// Returns the text of the system's last error.
inline std::string errno_message() { return std::generic_category().message(errno); }

/// Opens a file for reading. Throws io_error where that is not possible or it is no regular file: one could wait
/// forever for the other end of a pipe.
inline std::unique_ptr<std::FILE, int (*)(std::FILE*)> open_to_read(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::file_status status = std::filesystem::status(path, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw io_error(path + ": cannot read: it is no regular file");
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) throw io_error(path + ": cannot open: " + errno_message());
  return file;
}

/// Returns the number of bytes of an open file, and goes to its first one. Asked for by the name, it could be that of
/// another file, which has taken the place of the open one.
inline std::uint64_t size_of_open_file(std::FILE* file, const std::string& path) {
  const long size = std::fseek(file, 0, SEEK_END) == 0 ? std::ftell(file) : -1;
  if (size < 0 || std::fseek(file, 0, SEEK_SET) != 0) throw io_error(path + ": cannot read: " + errno_message());
  return static_cast<std::uint64_t>(size);
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
