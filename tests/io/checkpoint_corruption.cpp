// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/io/checkpoint.hpp>
#include <diffeo/layers/coupling.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/nn/mlp.hpp>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "../child.hpp"
#include "../files.hpp"

#if defined(__linux__) && !defined(DIFFEO_SANITIZE)
#include <malloc.h>
#define DIFFEO_LIMITS_MEMORY
#endif

using namespace diffeo;

namespace {

// A model of parameters and buffers whose file is small.
auto fragile_model(std::uint64_t seed) {
  return TransformedDistribution(
      DiagonalNormal<float>{gaussian<float>(1, 2, seed), gaussian<float>(1, 2, seed + 1)},
      FlowSequence(make_coupling<float>(Mask::keep_even(2), {.hidden = {3}}, seed),
                   Standardize<float>::from(gaussian<float>(1, 2, seed + 2), Array<float>{{1, 2}})));
}
using Fragile = decltype(fragile_model(1));

std::vector<float> arrays_of(const Fragile& model) {
  std::vector<float> values;
  for_each_leaf(model, [&](const Path&, LeafKind, const auto& leaf) {
    values.insert(values.end(), leaf.data(), leaf.data() + leaf.size());
  });
  return values;
}

// Loads a file that may be corrupt. Returns whether it was loaded; else the error names the file, and the model is what
// it was.
bool loads_whole(const std::string& path, Fragile& model) {
  const std::vector<float> before = arrays_of(model);
  try {
    load(path, model);
  } catch (const io_error& e) {
    if (!std::string(e.what()).starts_with(path)) FAIL("the error does not name the file: " << e.what());
    if (arrays_of(model) != before) FAIL("a file was refused and the model changed: " << e.what());
    return false;
  }
  const std::vector<float> after = arrays_of(model);
  if (after.size() != before.size() ||
      !std::all_of(after.begin(), after.end(), [](float v) { return std::isfinite(v); }))
    FAIL("a model that was loaded is not whole");
  check_structure(model);
  return true;
}

}  // namespace

TEST_CASE("checkpoint: 1,000 truncated files are refused", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  save(fragile_model(1), path);
  const std::string bytes = bytes_of(path);
  REQUIRE(bytes.size() > 1000);
  auto model = fragile_model(2);
  CHECK(loads_whole(path, model));
  for (std::size_t i = 1000; i-- > 0;) {
    std::filesystem::resize_file(path, bytes.size() * i / 1000);
    if (loads_whole(path, model)) FAIL("a file of " << i << " thousandths was loaded");
  }
}

TEST_CASE("checkpoint: 10,000 files with changed bytes are refused or load whole", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  const auto saved = fragile_model(1);
  save(saved, path);
  const std::string bytes = bytes_of(path);
  std::mt19937 random(1);
  const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  std::size_t header = 0;
  for (std::size_t i = 8; i-- > 0;) header = header << 8 | static_cast<unsigned char>(bytes[i]);
  int loaded = 0, from_data = 0;
  // In place, because to write a file anew takes milliseconds.
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&file](std::size_t at, char byte) { file.seekp(static_cast<std::streamoff>(at)).put(byte); };
  const auto untouched = fragile_model(2);
  std::vector<std::size_t> places;
  for (int i = 0; i < 10000; ++i) {
    for (const std::size_t at : places) put(at, bytes[at]);
    places.resize(1 + below(3));
    const std::size_t begin = i % 5 == 0 ? header + 8 : 0;  // numbers are less likely to go wrong
    for (std::size_t& at : places) {
      at = begin + below(bytes.size() - begin);
      // Any byte, another digit, or a character that JSON is made of.
      const std::size_t kind = below(3);
      put(at, kind == 0   ? static_cast<char>(below(256))
              : kind == 1 ? static_cast<char>('0' + below(10))
                          : "{}[]\",:-.e \\"[below(12)]);
    }
    file.flush();
    auto model = untouched;
    if (!loads_whole(path, model)) continue;
    ++loaded;
    if (begin == 0) continue;
    // The parameters are those of the file.
    ++from_data;
    const SafetensorsFile changed(path);
    for (const auto& leaf : leaves(model))
      if (leaf.kind == LeafKind::parameter && leaf.array->size() > 0)
        if (!same_bits(*leaf.array, changed.read<float>(leaf.path))) FAIL(leaf.path << " is not what the file has");
  }
  // Both happen, or the test would say little.
  CHECK(from_data > 500);
  CHECK(loaded - from_data > 10);
  CHECK(10000 - loaded > 3000);
}

#ifdef DIFFEO_LIMITS_MEMORY
namespace {

// While it lives, the process may map so many bytes more than it has: what goes beyond throws bad_alloc.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::size_t bytes) {
    ::malloc_trim(0);
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    ::getrlimit(RLIMIT_AS, &old_);
    rlimit now = old_;
    now.rlim_cur = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + bytes;
    ::setrlimit(RLIMIT_AS, &now);
  }
  ~MemoryLimit() { ::setrlimit(RLIMIT_AS, &old_); }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  rlimit old_{};
};

constexpr std::size_t megabyte = std::size_t{1} << 20;

// A file whose header is `json`, with so many bytes behind it.
std::string file_of(const Folder& folder, const std::string& json, std::size_t data_bytes) {
  std::string text;
  for (unsigned i = 0; i < 8; ++i) text += static_cast<char>(json.size() >> (8 * i) & 255);
  const std::string path = folder.write(text + json, "hostile.safetensors");
  std::filesystem::resize_file(path, 8 + json.size() + data_bytes);
  return path;
}

}  // namespace

TEST_CASE("checkpoint: loading takes no more memory than twice the file", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  const auto network = [](std::uint64_t seed) { return make_mlp<float>(1000, 1000, {.hidden = {1000, 1000}}, seed); };
  save(network(1), path);
  const std::size_t bytes = std::filesystem::file_size(path);
  CHECK(bytes > 11 * megabyte);
  auto model = network(2);
  {
    const MemoryLimit limit(2 * bytes);
    CHECK_THROWS_AS(std::vector<char>(2 * bytes), std::bad_alloc);  // the limit is one
    load(path, model);
  }
  CHECK((model.layers[2].weight == network(1).layers[2].weight).all());
}

TEST_CASE("checkpoint: sizes that a file only claims take no memory", "[io]") {
  const Folder folder;
  auto model = DiagonalNormal<float>{Array<float>::Zero(1, 2), Array<float>::Zero(1, 2)};
  const auto message = [&](const std::string& path) {
    const MemoryLimit limit(megabyte);
    CHECK_THROWS_AS(checkpoint_info(path), io_error);
    return thrown_message<io_error>([&] { load(path, model); });
  };
  // A header of 100 MB in a file of 10 bytes.
  CHECK(contains(message(folder.write(std::string("\0\xe1\xf5\x05\0\0\0\0{}", 10))), "would have 100000000 bytes"));
  // An array of a terabyte.
  const std::string huge = R"({"mean":{"dtype":"F32","shape":[1,274877906944],"data_offsets":[0,1099511627776]}})";
  CHECK(contains(message(file_of(folder, huge, 0)), "has bytes 0 to 1099511627776 of 0"));
  // And a file that has it, as a hole, though the model does not.
  const std::string sparse = file_of(folder, huge, std::size_t{1} << 40);
  const MemoryLimit limit(megabyte);
  CHECK(contains(thrown_message<io_error>([&] { load(sparse, model); }), "shape (1, 274877906944)"));
}

TEST_CASE("checkpoint: a hostile header takes a bounded multiple of its size", "[io]") {
  const Folder folder;
  auto model = DiagonalNormal<float>{Array<float>::Zero(1, 2), Array<float>::Zero(1, 2)};
  // Headers that nest, that are one text, or that list many things.
  const auto architecture = [](const std::string& json) {
    return R"({"__metadata__":{"diffeo.format":"1","diffeo.architecture":")" + json + "\"}}";
  };
  std::string texts = R"({"__metadata__":{"t":"")";
  for (int i = 0; i < 120000; ++i) texts += ",\"" + std::to_string(i) + "\":\"\"";
  std::string numbers = R"({\"settings\":{\"k\":[1)", settings = R"({\"settings\":{)", tensors = "{";
  for (int i = 0; i < 20000; ++i) {
    const std::string comma = i > 0 ? "," : "", number = std::to_string(i);
    numbers += ",1";
    settings += comma + R"(\")" + number + R"(\":1)";
    tensors += comma + '"' + number + R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  }
  // Each setting has a path of 5000 characters: 100 MB of differences.
  const std::string paths = R"({\"fields\":[[\")" + std::string(5000, 'n') + R"(\",)" + settings + "}}]]}";
  const std::vector<std::string> headers = {"{\"a\":" + std::string(megabyte, '['),
                                            R"({"__metadata__":{")" + std::string(megabyte / 2, 'a') + "\":1}}",
                                            architecture(std::string(megabyte / 2, '[')),
                                            architecture(numbers + "]}}"),
                                            architecture(paths),
                                            tensors + "}",
                                            texts + "}}"};
  for (const std::string& json : headers) {
    CAPTURE(json.substr(0, 80));
    const std::string path = file_of(folder, json, 0);
    const MemoryLimit limit(16 * json.size() + 4 * megabyte);
    CHECK(thrown_message<io_error>([&] { load(path, model); }).size() < 3 * megabyte);
  }
}
#endif
