// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <deque>
#include <diffeo/autodiff/arena.hpp>
#include <diffeo/core/array.hpp>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

/// The memory of a tape: buffers from an arena, buffers that are reused during a backward sweep, and pooled objects.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Makes `to` a copy of `from`. Types that have no assignment because they hold a function object are destroyed and
// constructed again.
template <class T>
void replace_object(T& to, const T& from) {
  if constexpr (std::is_copy_assignable_v<T>) {
    to = from;
  } else {
    T copy(from);  // which may throw
    std::destroy_at(&to);
    std::construct_at(&to, std::move(copy));
  }
}

// Objects of any type, for each type a singleton and a pool of objects that reset() makes available again.
class ObjectPools {
 public:
  template <class T>
  T& singleton() {
    return holder<Singleton<T>>().object;
  }

  template <class T, class Make>
  T& pooled_object(const Make& make) {
    Pool<T>& pool = holder<Pool<T>>();
    if (pool.used == pool.objects.size()) pool.objects.push_back(make());
    return pool.objects[pool.used++];
  }

  void reset() {
    for (auto& [type, holder] : holders_) holder->reset();
  }

 private:
  struct Holder {
    virtual ~Holder() = default;
    virtual void reset() = 0;
  };
  template <class T>
  struct Singleton final : Holder {
    void reset() override {}
    T object;
  };
  template <class T>
  struct Pool final : Holder {
    void reset() override { used = 0; }
    std::deque<T> objects;
    std::size_t used = 0;
  };

  // Its address stands for the type H, without run-time type information. Not const: linkers may fold equal constants.
  template <class H>
  static inline char type_key = 0;

  template <class H>
  H& holder() {
    for (auto& [type, holder] : holders_)
      if (type == &type_key<H>) return static_cast<H&>(*holder);
    return static_cast<H&>(*holders_.emplace_back(&type_key<H>, std::make_unique<H>()).second);
  }

  std::vector<std::pair<const char*, std::unique_ptr<Holder>>> holders_;
};

}  // namespace detail

template <Real S>
class ScratchBuffer;

/// The ways to get memory from a tape, of which this is a base class. All memory is reused after Tape::reset(), so that
/// work that repeats itself does not allocate.
///
/// | function                  | returns                          | state              | valid until          |
/// |---------------------------|----------------------------------|--------------------|----------------------|
/// | allocate_values(n)        | n values of type S               | uninitialised      | reset() or release() |
/// | allocate<T>(n)            | n objects of a trivial type T    | uninitialised      | reset() or release() |
/// | ScratchBuffer<S>(tape, n) | n values of type S               | uninitialised      | the end of its scope |
/// | pooled_copy(x)            | an object of the type of x       | a copy of x        | reset()              |
/// | pooled_object<T>(make)    | an object of type T              | make(), or as left | reset()              |
/// | singleton<T>()            | the tape's only object of type T | T{}, or as left    | the end of the tape  |
template <Real S>
class TapeStorage {
 public:
  TapeStorage() = default;
  TapeStorage(const TapeStorage&) = delete;
  TapeStorage& operator=(const TapeStorage&) = delete;

  /// Returns memory for n values, uninitialised and aligned to 64 bytes. It is valid until reset(), or until release()
  /// of an earlier mark. value_bytes() counts it.
  S* allocate_values(Index n) {
    value_bytes_ += n * static_cast<Index>(sizeof(S));
    return arena_.allocate<S>(static_cast<std::size_t>(n));
  }

  /// Returns memory for n objects of a trivially destructible type, uninitialised and aligned to 64 bytes. It is valid
  /// until reset(), or until release() of an earlier mark. value_bytes() does not count it.
  template <class T>
  T* allocate(std::size_t n) {
    return arena_.allocate<T>(n);
  }

  /// Returns a copy of x that is valid until reset(). It replaces an object that an earlier call created before the
  /// last reset(), if there is one, and reuses the memory of that object.
  template <class T>
  T& pooled_copy(const T& x) {
    bool made = false;
    T& object = pooled_object<T>([&]() -> const T& {
      made = true;
      return x;
    });
    if (!made) detail::replace_object(object, x);
    return object;
  }

  /// Returns an object that is valid until reset(), different from all returned since the last one: either one created
  /// before that reset(), in the state in which it was left, or else make(). The k-th call after each reset() returns
  /// the same object.
  template <class T, class Make>
  T& pooled_object(const Make& make) {
    return objects_.template pooled_object<T>(make);
  }

  /// Returns the tape's only object of type T, which the first call default-constructs, for instance a second tape on
  /// which a solver differentiates its steps. It is valid as long as the tape; reset() does not change it.
  template <class T>
  T& singleton() {
    return objects_.template singleton<T>();
  }

  /// Returns the number of bytes that allocate_values() has returned since reset(): values and adjoints with their
  /// padding, but not the records of operations.
  Index value_bytes() const { return value_bytes_; }

 protected:
  ~TapeStorage() = default;

  // Makes all memory available again.
  void reset_storage() {
    arena_.reset();
    recycled_.clear();
    value_bytes_ = 0;
    objects_.reset();
  }

  // A position in the memory of allocate_values() and allocate().
  Arena::Mark memory_mark() const { return arena_.mark(); }

  // Frees what was allocated since the mark.
  void release_memory(Arena::Mark mark) { arena_.release(mark); }

  // Like release_memory(), for memory that may have been recycled.
  void release_recycled(Arena::Mark mark) {
    recycled_.clear();
    arena_.release(mark);
  }

  // Returns a buffer of `size` values, valid until recycle(): the latest one recycled with that size, else a new one.
  S* take_buffer(Index size) {
    for (auto buffer = recycled_.rbegin(); buffer != recycled_.rend(); ++buffer)
      if (buffer->size == size) {
        S* memory = buffer->memory;
        recycled_.erase(std::next(buffer).base());
        return memory;
      }
    return allocate_values(size);
  }

  // Makes a buffer of take_buffer() available again.
  void recycle(Index size, S* memory) { recycled_.push_back({size, memory}); }

 private:
  friend class ScratchBuffer<S>;

  struct Buffer {
    Index size;
    S* memory;
  };

  Arena arena_;
  Index value_bytes_ = 0;
  std::vector<Buffer> recycled_;
  detail::ObjectPools objects_;
};

/// Buffer of n uninitialised values, valid until the end of its scope, after which the tape reuses the memory. For the
/// adjoints of ops: the memory stays with the tape until reset().
template <Real S>
class ScratchBuffer {
 public:
  ScratchBuffer(TapeStorage<S>& tape, Index n) : tape_(tape), size_(n), data_(tape.take_buffer(n)) {}
  ~ScratchBuffer() { tape_.recycle(size_, data_); }
  ScratchBuffer(const ScratchBuffer&) = delete;
  ScratchBuffer& operator=(const ScratchBuffer&) = delete;

  /// Returns the first of the values.
  S* data() const { return data_; }

 private:
  TapeStorage<S>& tape_;
  Index size_;
  S* data_;
};

}  // namespace diffeo::inline DIFFEO_ISA
