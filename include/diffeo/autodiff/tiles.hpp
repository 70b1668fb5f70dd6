// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/lift.hpp>
#include <diffeo/autodiff/tape.hpp>
#include <diffeo/core/execution.hpp>
#include <memory>

/// Evaluation of many rows in tiles: each goes end to end through a computation on a tape of its own thread, so that
/// its intermediate values stay in cache and memory does not grow with the number of rows.
namespace diffeo::inline DIFFEO_ISA {

/// Rows of a tile: several registers, and at the usual widths of networks (64) small enough for the first cache level.
template <Real S>
inline constexpr Index tile_rows = 64;

/// Rows of a tile for a structure of which a part may ask for long ones by a static member `tile_rows`, like a solver
/// whose rows take different numbers of steps.
template <class M>
inline constexpr Index tile_rows_of =
    detail::fold_structures<M>(tile_rows<typename M::Scalar>, []<class P>(Index rows, std::type_identity<P>) {
      if constexpr (requires { P::tile_rows; })
        return std::max<Index>(rows, P::tile_rows);
      else
        return rows;
    });

/// Rows of a tile for computations whose values and adjoints take that many bytes a row, at most `most` rows: a power
/// of two from tile_rows to 512. Each op costs some 30 nanoseconds beside its work on the rows, so small models want
/// long tiles, as long as these stay in the second cache level.
template <Real S>
Index tile_rows_for(Index bytes_per_row, Index most) {
  constexpr Index longest = 512, budget = Index{512} << 10;
  Index rows = tile_rows<S>;
  while (2 * rows <= std::min(longest, most) && 2 * rows * bytes_per_row <= budget) rows *= 2;
  return rows;
}

namespace detail {

// Lets a tape share other values, or none, while this object exists.
template <Real S>
class SharingTape {
 public:
  SharingTape(Tape<S>& tape, SharedValues<S>* values) : tape_(tape), before_(tape.share(values)) {}
  ~SharingTape() { tape_.share(before_); }
  SharingTape(const SharingTape&) = delete;
  SharingTape& operator=(const SharingTape&) = delete;

 private:
  Tape<S>& tape_;
  SharedValues<S>* before_;
};

}  // namespace detail

/// Calls f(tape, first, count) for consecutive tiles of at most `tile` rows that cover 0 ... rows-1. The tape is empty
/// at each call, and the tapes share what Tape::once() computes. Of several tiles that throw, the exception of the
/// first comes through; the row that a solver_error names becomes one of the whole.
template <Real S>
void for_each_tile(Index rows, Index tile, const Execution& execution,
                   FunctionRef<void(Tape<S>& tape, Index first, Index count)> f) {
  const Index tiles = (rows + tile - 1) / tile;
  SharedValues<S> shared;
  const auto run = [&](Tape<S>& tape, Index number) {
    tape.reset();
    const detail::SharingTape<S> sharing(tape, tiles > 1 ? &shared : nullptr);
    const Index first = number * tile;
    try {
      f(tape, first, std::min(tile, rows - first));
    } catch (const solver_error& e) {
      e.throw_for(first + e.sample());
    }
  };
  if (ThreadPool* pool = execution.pool) {
    pool->run(tiles, [&](Index number, int worker) { run(pool->local<Tape<S>>(worker), number); });
    return;
  }
  const auto workers =
      static_cast<std::size_t>(std::max<Index>(1, std::min<Index>(thread_count(execution.threads), tiles)));
  if (workers == 1) {
    Tape<S> tape;
    for (Index number = 0; number < tiles; ++number) run(tape, number);
    return;
  }
  const auto tapes = std::make_unique<Tape<S>[]>(workers);
  parallel_for(tiles, execution,
               [&](Index number, int worker) { run(tapes[static_cast<std::size_t>(worker)], number); });
}

/// Calls f for tiles of tile_rows<S> rows.
template <Real S>
void for_each_tile(Index rows, const Execution& execution,
                   FunctionRef<void(Tape<S>& tape, Index first, Index count)> f) {
  for_each_tile<S>(rows, tile_rows<S>, execution, f);
}

}  // namespace diffeo::inline DIFFEO_ISA
