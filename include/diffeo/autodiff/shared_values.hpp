// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/array.hpp>
#include <list>
#include <mutex>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

/// Values that the tapes of one call share, by keys: what depends on no row is computed in the first tile that needs it
/// and found in the others. Several threads may use an object at once.
template <Real S>
class SharedValues {
 public:
  /// Returns the value of a key, which remains valid as long as this object; null where there is none.
  const Array<S>* find(const void* key) const {
    const std::lock_guard lock(mutex_);
    return place(key);
  }

  /// Keeps a value unless the key has one already. Threads that compute the value at the same time find the same bits.
  void keep(const void* key, Array<S> value) {
    const std::lock_guard lock(mutex_);
    if (!place(key)) values_.emplace_back(key, std::move(value));
  }

 private:
  const Array<S>* place(const void* key) const {
    for (const auto& [own, value] : values_)
      if (own == key) return &value;
    return nullptr;
  }

  mutable std::mutex mutex_;
  std::list<std::pair<const void*, Array<S>>> values_;  // few, which stay where they are
};

}  // namespace diffeo::inline DIFFEO_ISA
