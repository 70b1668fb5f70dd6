// SPDX-License-Identifier: MIT
#include <chrono>
#include <diffeo/io/checkpoint.hpp>
#include <diffeo/nn/mlp.hpp>
#include <filesystem>
#include <string>
#include <thread>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "../child.hpp"
#include "../files.hpp"

using namespace diffeo;

#ifdef DIFFEO_HAS_FORK
namespace {

// 250 KB, so that writing takes a while.
Mlp<float> network_of(std::uint64_t seed) { return make_mlp<float>(100, 100, {.hidden = {200, 100}}, seed); }

bool equal_weights(const Mlp<float>& a, const Mlp<float>& b) {
  for (std::size_t i = 0; i < a.layers.size(); ++i)
    if (!same_bits(a.layers[i].weight, b.layers[i].weight)) return false;
  return true;
}

}  // namespace

TEST_CASE("checkpoint: a process that is killed while it saves leaves the old file or the new one", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  const auto first = network_of(1), second = network_of(2);
  const auto begin = std::chrono::steady_clock::now();
  save(first, path);
  const std::chrono::duration<double> time_to_save = std::chrono::steady_clock::now() - begin;
  int changed = 0, unfinished = 0;
  bool is_first = true;
  for (int i = 0; i < 40; ++i) {
    int started[2];
    REQUIRE(::pipe(started) == 0);
    const pid_t child = start_child([&] {
      for (;;) {
        save(second, path);
        save(first, path);
        if (::write(started[1], "s", 1) != 1) return 1;
      }
    });
    char byte = 0;
    REQUIRE(::read(started[0], &byte, 1) == 1);
    std::this_thread::sleep_for(time_to_save * (i / 20.0));
    ::kill(child, SIGKILL);
    REQUIRE(exit_code_of(child) == -1);
    for (const int end : started) ::close(end);
    auto found = network_of(3);
    load(path, found);
    const bool now_first = equal_weights(found, first);
    REQUIRE((now_first || equal_weights(found, second)));
    changed += now_first != is_first ? 1 : 0;
    is_first = now_first;
    // What the process left under its temporary name.
    for (const auto& entry : std::filesystem::directory_iterator(folder.path))
      if (entry.path() != path) {
        ++unfinished;
        std::filesystem::remove(entry.path());
      }
  }
  // Processes were killed at different places: between two renames, and while they wrote.
  CHECK(changed > 0);
  CHECK(unfinished > 0);
}

TEST_CASE("checkpoint: a full disk leaves the old file and no other", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  save(network_of(1), path);
  const std::string bytes = bytes_of(path);
  // It is full in the header, in the arrays, and at the last byte.
  for (const std::size_t limit : {std::size_t{0}, std::size_t{100}, bytes.size() / 2, bytes.size() - 1}) {
    CAPTURE(limit);
    const int code = exit_code_of(start_child([&] {
      limit_file_size(limit);
      try {
        save(network_of(2), path);
      } catch (const io_error& e) {
        return contains(e.what(), path + ": cannot write: File too large") ? 0 : 2;
      }
      return 1;
    }));
    CHECK(code == 0);
    CHECK(bytes_of(path) == bytes);
    CHECK(folder.size() == 1);
  }
}

TEST_CASE("checkpoint: a folder that may not be written", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  save(network_of(1), path);
  const std::string bytes = bytes_of(path);
  namespace fs = std::filesystem;
  const auto nobody_writes = fs::perms::owner_read | fs::perms::owner_exec | fs::perms::group_read |
                             fs::perms::group_exec | fs::perms::others_read | fs::perms::others_exec;
  fs::permissions(folder.path, nobody_writes);
  const int code = exit_code_of(start_child([&] {
    if (!give_up_root()) return 3;
    try {
      save(network_of(2), path);
    } catch (const io_error& e) {
      if (!contains(e.what(), path + ": cannot write: Permission denied")) return 2;
      auto read = network_of(3);
      load(path, read);  // reading is allowed
      return equal_weights(read, network_of(1)) ? 0 : 4;
    }
    return 1;
  }));
  fs::permissions(folder.path, fs::perms::owner_all);
  CHECK(code == 0);
  CHECK(bytes_of(path) == bytes);
  CHECK(folder.size() == 1);
}
#endif
