// SPDX-License-Identifier: MIT
#include <diffeo/data/atomic_file.hpp>
#include <filesystem>
#include <string>

#include "../catch.hpp"
#include "../child.hpp"
#include "../files.hpp"

using diffeo::AtomicFile;
using diffeo::io_error;

TEST_CASE("atomic file: takes the place of the old one when it is committed", "[files]") {
  const Folder folder;
  const std::string path = folder.write("old", "a.bin");
  {
    AtomicFile file(path);
    file.write("new ", 4);
    file.write(nullptr, 0);
    file.write("file", 4);
    CHECK(bytes_of(path) == "old");
    CHECK(folder.size() == 2);
    file.commit();
    CHECK(bytes_of(path) == "new file");
    CHECK(folder.size() == 1);
  }
  CHECK(bytes_of(path) == "new file");
  AtomicFile(folder.file("empty")).commit();
  CHECK(std::filesystem::file_size(folder.file("empty")) == 0);
}

TEST_CASE("atomic file: without a commit nothing changes", "[files]") {
  const Folder folder;
  const std::string path = folder.write("old", "a.bin");
  {
    AtomicFile file(path);
    file.write("new", 3);
  }
  CHECK(bytes_of(path) == "old");
  CHECK(folder.size() == 1);
}

TEST_CASE("atomic file: temporary names that are taken stay as they are", "[files]") {
  const Folder folder;
  const std::string path = folder.file("a.bin");
  for (int i = 0; i < 120; ++i) folder.write("other", "a.bin.tmp" + std::to_string(i));
  AtomicFile first(path), second(path);
  first.write("1", 1);
  second.write("2", 1);
  second.commit();
  CHECK(bytes_of(path) == "2");
  first.commit();
  CHECK(bytes_of(path) == "1");
  CHECK(folder.size() == 121);
  CHECK(bytes_of(folder.file("a.bin.tmp7")) == "other");
}

TEST_CASE("atomic file: what cannot be written is an error that names the file", "[files]") {
  const Folder folder;
  const std::string nowhere = folder.file("none/a.bin");
  CHECK(contains(thrown_message<io_error>([&] { AtomicFile file(nowhere); }), nowhere + ": cannot write: "));
  std::filesystem::create_directory(folder.path / "taken");
  CHECK(thrown_message<io_error>([&] { AtomicFile file(folder.file("taken")); }) ==
        folder.file("taken") + ": cannot write: it is no regular file");
  // A folder that appears later.
  AtomicFile file(folder.file("late"));
  std::filesystem::create_directory(folder.path / "late");
  CHECK(contains(thrown_message<io_error>([&] { file.commit(); }), folder.file("late") + ": cannot write: "));
  CHECK(contains(thrown_message<io_error>([&] { AtomicFile other(folder.file("a") + std::string("\0b", 2)); }),
                 ": cannot write: the name has a character of value 0"));
  CHECK(thrown_message<io_error>([] { AtomicFile other(""); }) == ": cannot write: the name is empty");
}

TEST_CASE("atomic file: calls out of order", "[files]") {
  const Folder folder;
  AtomicFile file(folder.file("a"));
  file.commit();
  CHECK_THROWS_AS(file.write("b", 1), diffeo::invalid_argument);
  CHECK_THROWS_AS(file.commit(), diffeo::invalid_argument);
}

TEST_CASE("atomic file: the permissions of the old file, and links", "[files]") {
  namespace fs = std::filesystem;
  const Folder folder;
  const std::string path = folder.write("old", "a.bin");
  const auto only_owner = fs::perms::owner_read | fs::perms::owner_write;
  fs::permissions(path, only_owner);
  AtomicFile file(path);
  file.write("new", 3);
  for (const auto& entry : fs::directory_iterator(folder.path))  // the temporary one too
    CHECK(entry.status().permissions() == only_owner);
  file.commit();
  CHECK(fs::status(path).permissions() == only_owner);
  // A link is replaced, also one that leads nowhere.
  for (const char* target : {"a.bin", "nowhere"}) {
    fs::create_symlink(target, folder.file("link"));
    AtomicFile(folder.file("link")).commit();
    CHECK(fs::is_regular_file(fs::symlink_status(folder.file("link"))));
    fs::remove(folder.file("link"));
  }
  CHECK(bytes_of(path) == "new");
  CHECK(folder.size() == 1);
}

TEST_CASE("atomic file: a name in the working folder", "[files]") {
  const Folder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path);
  AtomicFile file("a.bin");
  file.write("here", 4);
  file.commit();
  std::filesystem::current_path(before);
  CHECK(bytes_of(folder.file("a.bin")) == "here");
}

#ifdef DIFFEO_HAS_FORK
TEST_CASE("atomic file: a pipe is not replaced", "[files]") {
  const Folder folder;
  const std::string path = folder.file("pipe");
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(thrown_message<io_error>([&] { AtomicFile file(path); }) == path + ": cannot write: it is no regular file");
  CHECK(std::filesystem::is_fifo(path));
  CHECK(folder.size() == 1);
}

TEST_CASE("atomic file: after a write that failed there is no commit", "[files]") {
  const Folder folder;
  const std::string path = folder.write("old", "a.bin");
  const int code = exit_code_of(start_child([&] {
    limit_file_size(40);
    AtomicFile file(path);
    const std::string data(50000, 'x');
    try {
      file.write(data.data(), data.size());
      return 1;
    } catch (const io_error&) {
    }
    try {
      file.commit();
      return 2;
    } catch (const io_error& e) {
      return contains(e.what(), path + ": cannot write: a write failed before") ? 0 : 3;
    }
  }));
  CHECK(code == 0);
  CHECK(bytes_of(path) == "old");
}

TEST_CASE("atomic file: a full disk leaves the old file and no other", "[files]") {
  const Folder folder;
  const std::string path = folder.write("old", "a.bin");
  // With a buffer, the disk may be found full by a write or only by the commit.
  for (const std::size_t bytes : {std::size_t{50}, std::size_t{5000}, std::size_t{5000000}}) {
    CAPTURE(bytes);
    const int code = exit_code_of(start_child([&] {
      limit_file_size(40);
      try {
        const std::string data(bytes, 'x');
        AtomicFile file(path);
        file.write(data.data(), data.size());
        file.commit();
      } catch (const io_error& e) {
        return contains(e.what(), path + ": cannot write: File too large") ? 0 : 2;
      }
      return 1;
    }));
    CHECK(code == 0);
    CHECK(bytes_of(path) == "old");
    CHECK(folder.size() == 1);
  }
}

TEST_CASE("atomic file: a folder that may not be written", "[files]") {
  const Folder folder;
  const std::string path = folder.write("old", "a.bin");
  namespace fs = std::filesystem;
  fs::permissions(folder.path, fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read |
                                   fs::perms::others_exec | fs::perms::group_read | fs::perms::group_exec);
  const int code = exit_code_of(start_child([&] {
    if (!give_up_root()) return 3;
    try {
      AtomicFile file(path);
    } catch (const io_error& e) {
      return contains(e.what(), path + ": cannot write: Permission denied") ? 0 : 2;
    }
    return 1;
  }));
  fs::permissions(folder.path, fs::perms::owner_all);
  CHECK(code == 0);
  CHECK(bytes_of(path) == "old");
  CHECK(folder.size() == 1);
}
#endif
