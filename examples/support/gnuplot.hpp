// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

#include "files.hpp"

/// Functions that write gnuplot scripts, which users can edit and run again, and that run them.
namespace support::gnuplot {

/// Returns `text` as a gnuplot string in single quotes, in which only the quote itself is special.
inline std::string literal(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') out += '\'';
    out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  }
  return out += "'";
}

/// Returns a number in gnuplot's notation: 7 digits, with a decimal point whatever the locale is.
inline std::string number(double value) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out.precision(7);
  out << value;
  return out.str();
}

/// Palette viridis (Smith & van der Walt 2015), perceptually uniform, also for colour-blind viewers.
inline constexpr const char* viridis =
    "set palette defined (0 '#440154', 1 '#472c7a', 2 '#3b518b', 3 '#2c718e', 4 '#21908d', 5 '#27ad81', "
    "6 '#5cc863', 7 '#aadc32', 8 '#fde725')";

/// Error: gnuplot was not found.
struct not_found : diffeo::io_error {
  using io_error::io_error;
};

/// Runs `folder`/`script`, which must draw to the file named by its variable `picture`, and renames that file to
/// `folder`/`picture` when it is complete. No shell is involved, so names may contain any character. Throws not_found
/// if gnuplot is not on the PATH, and io_error if it fails.
inline void draw(const std::filesystem::path& folder, const std::string& script, const std::string& picture) {
  const std::filesystem::path path = folder / picture, temporary = unfinished(path);
  const std::string set_picture = "picture = " + literal(temporary.filename().string());
  // -d: ignores the user's start-up files, which may change any default.
  const char* arguments[] = {"gnuplot", "-d", "-e", set_picture.c_str(), script.c_str(), nullptr};

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addchdir_np(&actions, folder.empty() ? "." : folder.c_str());
  pid_t process = 0;
  const int error = posix_spawnp(&process, "gnuplot", &actions, nullptr, const_cast<char* const*>(arguments), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT) throw not_found("gnuplot is not on the PATH");
  if (error != 0) throw diffeo::io_error("cannot run gnuplot: " + std::generic_category().message(error));

  int status = 0;
  while (waitpid(process, &status, 0) < 0 && errno == EINTR) continue;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return finish(path);
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) throw not_found("gnuplot cannot be run");
  throw diffeo::io_error("gnuplot failed on " + (folder / script).string());
}

}  // namespace support::gnuplot
