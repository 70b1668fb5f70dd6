// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstring>
#include <diffeo/core/array.hpp>
#include <list>
#include <mutex>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

/// Values that the tapes of one call share: what depends on no row is computed in the first tile that needs it and
/// found in the others. A value belongs to a key and to the operand that it was computed from, which is compared by its
/// bits: one parameter may meet several operands in a call. Several threads may use an object at once.
template <Real S>
class SharedValues {
 public:
  /// Returns the value of a key and an operand, which remains valid as long as this object; null where there is none.
  const Array<S>* find(const void* key, View<const S> operand) const {
    const std::lock_guard lock(mutex_);
    return place(key, operand);
  }

  /// Keeps a value, unless there is one already of this key and operand or there are 1024 values. Threads that compute
  /// a value at the same time find the same bits.
  void keep(const void* key, View<const S> operand, Array<S> value) {
    const std::lock_guard lock(mutex_);
    if (values_.size() < most && !place(key, operand)) values_.push_back({key, as_eigen(operand), std::move(value)});
  }

 private:
  // Many more than a model has parts that take a context. It bounds the time of a search where a call has a great many
  // contexts of its own.
  static constexpr std::size_t most = 1024;

  struct Known {
    const void* key;
    Array<S> operand, value;
  };

  static bool same_bits(const Array<S>& a, View<const S> b) {
    if (a.rows() != b.rows || a.cols() != b.cols) return false;
    for (Index j = 0; j < b.cols; ++j)
      if (std::memcmp(view(a).col(j), b.col(j), static_cast<std::size_t>(b.rows) * sizeof(S)) != 0) return false;
    return true;
  }

  const Array<S>* place(const void* key, View<const S> operand) const {
    for (const Known& known : values_)
      if (known.key == key && same_bits(known.operand, operand)) return &known.value;
    return nullptr;
  }

  mutable std::mutex mutex_;
  std::list<Known> values_;  // few, which stay where they are
};

}  // namespace diffeo::inline DIFFEO_ISA
