// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <diffeo/core/error.hpp>
#include <diffeo/data/open_file.hpp>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#if __has_include(<unistd.h>)
#include <fcntl.h>
#include <unistd.h>
#define DIFFEO_HAS_FSYNC
#endif

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Has the system write a file that is open to the disk. Returns whether that succeeded; true where the file's system
// cannot.
inline bool sync_to_disk([[maybe_unused]] int file) {
#ifdef DIFFEO_HAS_FSYNC
  return ::fsync(file) == 0 || errno == EINVAL || errno == ENOTSUP;
#else
  return true;
#endif
}

}  // namespace detail

/// A file that takes the place of another one when it is complete. It is written under a temporary name in the same
/// folder, written to the disk and renamed, so that a program that stops at any time, even by a loss of power, leaves
/// the old file or the new one at `path`, whole. Beside it there may then be a temporary file, `path`.tmp0 or another
/// number. Where the system is not POSIX the disk is not waited for. The new file has the permissions of the old one. A
/// symbolic link at `path` is replaced itself, not the file that it points to.
///
///     diffeo::AtomicFile file("table.bin");
///     file.write(data, bytes);
///     file.commit();
class AtomicFile {
 public:
  /// Creates the temporary file. Throws `io_error`, naming `path`, where that is not possible, and where `path` is a
  /// folder, a device or a pipe, which a file would replace.
  explicit AtomicFile(std::string path) : path_(std::move(path)) {
    if (path_.empty()) fail("the name is empty");
    if (path_.find('\0') != path_.npos) {
      path_ = path_.c_str();  // a message ends there, too
      fail("the name has a character of value 0");
    }
    std::error_code ignored;
    const std::filesystem::file_status old = std::filesystem::status(path_, ignored);
    if (std::filesystem::exists(old) && !std::filesystem::is_regular_file(old)) fail("it is no regular file");
    for (int i = 0; file_ == nullptr && i < 10000 && (i == 0 || errno == EEXIST); ++i) {
      temporary_ = path_ + ".tmp" + std::to_string(i);
      file_ = std::fopen(temporary_.c_str(), "wbx");  // x: fails if it exists; another process may be writing it
    }
    if (file_ == nullptr) fail(detail::errno_message());
    // From the beginning, so that nobody reads what only the owner may read.
    if (std::filesystem::exists(old))
      std::filesystem::permissions(temporary_, old.permissions() & std::filesystem::perms::all, ignored);
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  /// Removes the temporary file unless it was committed.
  ~AtomicFile() {
    if (file_ != nullptr) std::fclose(file_);
    if (!committed_) std::remove(temporary_.c_str());
  }

  /// Appends bytes. Throws `io_error` where they cannot be written, and invalid_argument after commit().
  void write(const void* data, std::size_t bytes) {
    require(file_ != nullptr, "AtomicFile: write() after commit() of ", path_);
    if (bytes > 0 && std::fwrite(data, 1, bytes, file_) != bytes) fail(detail::errno_message());
  }

  /// Writes the file to the disk and gives it its name. Throws `io_error` where that is not possible or a write had
  /// failed; the old file is then untouched. (If only the folder cannot be written to the disk, it throws with the new
  /// file in place.) To be called once, after the last write; throws invalid_argument for a second call.
  void commit() {
    require(file_ != nullptr, "AtomicFile: commit() was called before for ", path_);
    if (std::ferror(file_) != 0) fail("a write failed before");
    bool good = std::fflush(file_) == 0;
#ifdef DIFFEO_HAS_FSYNC
    good = good && detail::sync_to_disk(::fileno(file_));
#endif
    int error = errno;
    if (std::fclose(std::exchange(file_, nullptr)) != 0 && good) good = false, error = errno;
    if (!good) fail(std::generic_category().message(error));
    std::error_code renamed;
    std::filesystem::rename(temporary_, path_, renamed);
    if (renamed) fail(renamed.message());
    committed_ = true;
    sync_folder();
  }

 private:
  [[noreturn]] void fail(const std::string& why) const { throw io_error(path_ + ": cannot write: " + why); }

  // The name is an entry of the folder. A folder that may be written but not read cannot be opened, and is left to the
  // system.
  void sync_folder() const {
#ifdef DIFFEO_HAS_FSYNC
    const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
    const int opened = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC);
    if (opened < 0) return;
    const bool good = detail::sync_to_disk(opened);
    const int error = errno;
    ::close(opened);
    if (!good) throw io_error(path_ + ": cannot sync the folder: " + std::generic_category().message(error));
#endif
  }

  std::string path_, temporary_;
  std::FILE* file_ = nullptr;
  bool committed_ = false;
};

}  // namespace diffeo::inline DIFFEO_ISA

#undef DIFFEO_HAS_FSYNC
