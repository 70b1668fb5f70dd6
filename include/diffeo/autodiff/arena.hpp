// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <diffeo/core/instruction_set.hpp>
#include <memory>
#include <new>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Bump allocator. Memory is 64-byte aligned and is given back only as a whole (`reset`) or down to a mark (`release`).
/// After the first rounds a work load that repeats itself finds all its memory in one chunk and allocates no more.
class Arena {
 public:
  static constexpr std::size_t alignment = 64;

  /// A place to return to with `release`.
  struct Mark {
    std::size_t chunk = 0;
    std::size_t used = 0;
  };

  /// Uninitialised memory for n objects of a trivially destructible type. Readable, if meaningless, for one vector
  /// register past its end.
  template <class T>
  T* allocate(std::size_t n) {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= alignment);
    return static_cast<T*>(allocate_bytes(n * sizeof(T)));
  }

  Mark mark() const { return {current_, used_}; }

  /// Forgets everything allocated since the mark.
  void release(Mark mark) {
    current_ = mark.chunk;
    used_ = mark.used;
  }

  /// Forgets everything. Several chunks are replaced by one of their total size.
  void reset() {
    if (chunks_.size() > 1) {
      std::size_t total = 0;
      for (const Chunk& chunk : chunks_) total += chunk.size;
      chunks_.clear();
      add_chunk(total);
    }
    current_ = used_ = 0;
  }

  /// Bytes held from the system.
  std::size_t capacity() const {
    std::size_t total = 0;
    for (const Chunk& chunk : chunks_) total += chunk.size;
    return total;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{alignment}); }
  };
  struct Chunk {
    std::unique_ptr<std::byte[], Free> memory;
    std::size_t size;
  };

  void* allocate_bytes(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment;
    while (current_ < chunks_.size() && used_ + bytes + alignment > chunks_[current_].size) {
      ++current_;
      used_ = 0;
    }
    if (current_ == chunks_.size()) {
      const std::size_t last = chunks_.empty() ? first_chunk / 2 : chunks_.back().size;
      add_chunk(std::max(2 * last, bytes + alignment));
      used_ = 0;
    }
    void* p = chunks_[current_].memory.get() + used_;
    used_ += bytes;
    return p;
  }

  void add_chunk(std::size_t size) {
    chunks_.push_back({std::unique_ptr<std::byte[], Free>(
                           static_cast<std::byte*>(::operator new[](size, std::align_val_t{alignment}))),
                       size});
  }

  static constexpr std::size_t first_chunk = std::size_t{64} << 10;
  std::vector<Chunk> chunks_;
  std::size_t current_ = 0;
  std::size_t used_ = 0;
};

}  // namespace diffeo::inline DIFFEO_ISA
