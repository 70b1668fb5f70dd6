// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/tape.hpp>
#include <diffeo/core/parallel.hpp>
#include <memory>

/// Evaluation of many rows in tiles: each goes end to end through a computation on a tape of its own thread, so that
/// its intermediate values stay in cache and memory does not grow with the number of rows.
namespace diffeo {

/// Rows of a tile: several registers, and at the usual widths of networks (64) small enough for the first cache level.
template <Real S>
inline constexpr Index tile_rows = 64;

/// Rows of a tile for computations whose values and adjoints take that many bytes a row, at most `most` rows: a power
/// of two from tile_rows to 1024. Each op costs some 30 nanoseconds beside its work on the rows, so small models want
/// long tiles, as long as these stay in the second cache level.
template <Real S>
Index tile_rows_for(Index bytes_per_row, Index most) {
  constexpr Index longest = 1024, budget = Index{512} << 10;
  Index rows = tile_rows<S>;
  while (2 * rows <= std::min(longest, most) && 2 * rows * bytes_per_row <= budget) rows *= 2;
  return rows;
}

/// Calls f(tape, first, count) for consecutive tiles that cover 0 ... rows-1, on `threads` threads (0: all). The tape
/// is empty at each call. The row that a solver_error names becomes one of the whole.
template <Real S, class F>
void for_each_tile(Index rows, int threads, const F& f) {
  const Index tiles = (rows + tile_rows<S> - 1) / tile_rows<S>;
  const auto workers = static_cast<std::size_t>(std::max<Index>(1, std::min<Index>(thread_count(threads), tiles)));
  const auto run = [&](Tape<S>& tape, Index tile) {
    tape.reset();
    const Index first = tile * tile_rows<S>;
    try {
      f(tape, first, std::min(tile_rows<S>, rows - first));
    } catch (const solver_error& e) {
      e.throw_for(first + e.sample());
    }
  };
  if (workers == 1) {
    Tape<S> tape;
    for (Index tile = 0; tile < tiles; ++tile) run(tape, tile);
    return;
  }
  const auto tapes = std::make_unique<Tape<S>[]>(workers);
  parallel_for(tiles, threads, [&](Index tile, int worker) { run(tapes[static_cast<std::size_t>(worker)], tile); });
}

}  // namespace diffeo
