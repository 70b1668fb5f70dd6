// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

/// A folder of its own for each test: tests may run side by side.
struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("diffeo_" + std::to_string(std::random_device{}()));
  Folder() { std::filesystem::create_directory(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string file(const std::string& name) const { return (path / name).string(); }
  std::string write(const std::string& bytes, const std::string& name = "file.bin") const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return file(name);
  }
  /// Number of files.
  std::ptrdiff_t size() const { return std::distance(std::filesystem::directory_iterator(path), {}); }
};

inline std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}
