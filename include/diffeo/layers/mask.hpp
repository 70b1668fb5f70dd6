// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Division of the coordinates of a coupling into those that it keeps and conditions on, and those that it transforms.
struct Mask {
  std::vector<Index> kept;
  std::vector<Index> moved;

  Index dim() const { return static_cast<Index>(kept.size() + moved.size()); }

  /// Throws invalid_argument unless kept and moved together hold each of 0 ... dim()-1 once.
  void check() const {
    std::vector<bool> seen(static_cast<std::size_t>(dim()), false);
    for (const std::vector<Index>* list : {&kept, &moved})
      for (const Index j : *list) {
        require(j >= 0 && j < dim(), "mask: coordinate ", j, " is out of the range 0 to ", dim() - 1);
        require(!seen[static_cast<std::size_t>(j)], "mask: coordinate ", j, " is listed twice");
        seen[static_cast<std::size_t>(j)] = true;
      }
  }

  /// Returns the mask that moves the listed coordinates, in that order, and keeps the others in ascending order. Throws
  /// invalid_argument unless there is at least one of each and the list holds distinct coordinates of 0 ... dim-1.
  static Mask moving(Index dim, std::vector<Index> moved) {
    require(dim >= 2, "coupling: dimension ", dim, " leaves nothing to condition on, expected at least 2");
    std::vector<bool> moves(static_cast<std::size_t>(dim), false);
    for (const Index j : moved) {
      require(j >= 0 && j < dim, "mask: coordinate ", j, " is out of the range 0 to ", dim - 1);
      require(!moves[static_cast<std::size_t>(j)], "mask: coordinate ", j, " is listed twice");
      moves[static_cast<std::size_t>(j)] = true;
    }
    require(!moved.empty() && static_cast<Index>(moved.size()) < dim, "mask: ", moved.size(), " of ", dim,
            " coordinates are moved, expected at least 1 and at most ", dim - 1);
    Mask mask{{}, std::move(moved)};
    for (Index j = 0; j < dim; ++j)
      if (!moves[static_cast<std::size_t>(j)]) mask.kept.push_back(j);
    return mask;
  }

  /// Returns the mask that moves coordinates 1, 3, 5, ... and keeps the even ones.
  static Mask keep_even(Index dim) { return moving(dim, every_second(dim, 1)); }
  /// Returns the mask that moves coordinates 0, 2, 4, ... and keeps the odd ones.
  static Mask keep_odd(Index dim) { return moving(dim, every_second(dim, 0)); }
  /// Returns the mask that keeps the first dim / 2 coordinates and moves the others.
  static Mask keep_first_half(Index dim) { return moving(dim, range(dim / 2, dim)); }
  /// Returns the mask that moves the first dim / 2 coordinates and keeps the others.
  static Mask keep_second_half(Index dim) { return moving(dim, range(0, dim / 2)); }

 private:
  static std::vector<Index> every_second(Index dim, Index first) {
    std::vector<Index> list;
    for (Index j = first; j < dim; j += 2) list.push_back(j);
    return list;
  }
  static std::vector<Index> range(Index first, Index last) {
    std::vector<Index> list;
    for (Index j = first; j < last; ++j) list.push_back(j);
    return list;
  }
};

/// Sequence of masks for consecutive layers: `even_odd` keeps the even and the odd coordinates in turn, `halves` the
/// first and the second half.
enum class MaskPattern { even_odd, halves };

/// Returns the mask of layer i in a pattern.
inline Mask alternating_mask(MaskPattern pattern, Index dim, Index i) {
  if (pattern == MaskPattern::even_odd) return i % 2 == 0 ? Mask::keep_even(dim) : Mask::keep_odd(dim);
  return i % 2 == 0 ? Mask::keep_first_half(dim) : Mask::keep_second_half(dim);
}

}  // namespace diffeo::inline DIFFEO_ISA
