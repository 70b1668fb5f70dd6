// SPDX-License-Identifier: MIT
#include <cstdint>
#include <cstring>
#include <diffeo/autodiff/arena.hpp>

#include "../catch.hpp"

using diffeo::Arena;

namespace {
bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % Arena::alignment == 0; }
}  // namespace

TEST_CASE("arena: memory is aligned, apart and readable a register past its end", "[arena]") {
  Arena arena;
  char* last = nullptr;
  std::size_t last_size = 0;
  for (std::size_t n = 0; n < 3000; n += 7) {
    char* p = arena.allocate<char>(n);
    REQUIRE(aligned(p));
    // Within a chunk memory is handed out in order.
    if (last && p > last && p < last + 2 * Arena::alignment + last_size) REQUIRE(p >= last + last_size);
    std::memset(p, 1, n + Arena::alignment);  // which the address sanitizer watches
    last = p;
    last_size = n;
  }
  CHECK(aligned(arena.allocate<double>(1)));
}

TEST_CASE("arena: a repeated work load finds all its memory in one chunk", "[arena]") {
  Arena arena;
  CHECK(arena.capacity() == 0);
  const auto work = [&arena] {
    std::vector<double*> blocks;
    for (std::size_t k = 0; k < 200; ++k) {
      blocks.push_back(arena.allocate<double>(1000));
      std::fill_n(blocks.back(), 1000, double(k));
    }
    for (std::size_t k = 0; k < blocks.size(); ++k) {
      REQUIRE(blocks[k][0] == double(k));
      REQUIRE(blocks[k][999] == double(k));
    }
    return blocks;
  };
  work();
  const std::size_t several_chunks = arena.capacity();
  CHECK(several_chunks >= 200 * 1000 * sizeof(double));
  arena.reset();
  CHECK(arena.capacity() == several_chunks);
  const auto first = work();
  CHECK(first.back() - first.front() == 199 * 1000);  // one chunk: one block after another
  arena.reset();
  CHECK(work() == first);
  CHECK(arena.capacity() == several_chunks);
}

TEST_CASE("arena: release goes back to a mark", "[arena]") {
  Arena arena;
  double* kept = arena.allocate<double>(10);
  std::fill_n(kept, 10, 3.0);
  const Arena::Mark mark = arena.mark();
  double* first = arena.allocate<double>(100);
  for (int k = 0; k < 20; ++k) arena.allocate<double>(10000);  // over several chunks
  const std::size_t capacity = arena.capacity();
  for (int round = 0; round < 3; ++round) {
    arena.release(mark);
    CHECK(arena.allocate<double>(100) == first);
    for (int k = 0; k < 20; ++k) std::fill_n(arena.allocate<double>(10000), 10000, 1.0);
    CHECK(arena.capacity() == capacity);
  }
  CHECK(kept[0] == 3.0);
  CHECK(kept[9] == 3.0);
}

TEST_CASE("arena: blocks larger than any chunk", "[arena]") {
  Arena arena;
  arena.allocate<char>(1);
  char* large = arena.allocate<char>(10 << 20);
  large[(10 << 20) - 1] = 1;
  CHECK(arena.capacity() >= std::size_t{10} << 20);
  char* after = arena.allocate<char>(1);
  CHECK((after < large || after >= large + (10 << 20)));
}
