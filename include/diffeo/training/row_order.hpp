// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <diffeo/core/random.hpp>
#include <span>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA::detail {

/// Stream of the order in which fit() takes the rows of data before it holds out and shuffles.
inline constexpr std::uint64_t split_stream = 0x73706c6974212121;

/// Rows of data in random order: each is chosen once, then all are shuffled anew.
class RowOrder {
 public:
  RowOrder() = default;
  /// The order is a function of the rows, the seed and `first_epoch`, which counts shuffles.
  RowOrder(std::vector<Index> rows, std::uint64_t seed, std::uint64_t first_epoch = 0)
      : rows_(std::move(rows)), cursor_(rows_.size()), seed_(seed), epoch_(first_epoch) {}

  std::span<const Index> rows() const { return rows_; }

  /// Chooses the next rows.
  void choose(std::span<Index> chosen) {
    for (Index& row : chosen) {
      if (cursor_ == rows_.size()) {
        PhiloxEngine engine(seed_, shuffle_stream + epoch_++);
        for (std::size_t left = rows_.size(); left > 1; --left) std::swap(rows_[left - 1], rows_[engine.below(left)]);
        cursor_ = 0;
      }
      row = rows_[cursor_++];
    }
  }

 private:
  static constexpr std::uint64_t shuffle_stream = 0x73687566666c6521;  // apart from those of initial weights

  std::vector<Index> rows_;
  std::size_t cursor_ = 0;  // the first choice shuffles
  std::uint64_t seed_ = 0, epoch_ = 0;
};

}  // namespace diffeo::inline DIFFEO_ISA::detail
