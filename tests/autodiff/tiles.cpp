// SPDX-License-Identifier: MIT
#include <algorithm>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/tiles.hpp>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "../catch.hpp"

using namespace diffeo;

TEMPLATE_TEST_CASE("tiles: cover every row once, in consecutive pieces", "[tiles]", float, double) {
  using S = TestType;
  constexpr Index tile = tile_rows<S>;
  static_assert(tile >= 16);
  for (const Index rows : {Index{0}, Index{1}, tile - 1, tile, tile + 1, 5 * tile + 3})
    for (const int threads : {0, 1, 2, 3, 100}) {
      std::vector<int> seen(static_cast<std::size_t>(rows), 0);
      std::vector<Index> starts;
      std::mutex guard;
      for_each_tile<S>(rows, threads, [&](Tape<S>& tape, Index first, Index count) {
        const std::lock_guard lock(guard);
        // Catch2's own checks are not for several threads.
        if (tape.size() != 0 || count < 1 || count > tile || first % tile != 0) throw std::logic_error("bad tile");
        for (Index i = first; i < first + count; ++i) ++seen[static_cast<std::size_t>(i)];
        starts.push_back(first);
      });
      CAPTURE(rows, threads);
      CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
      CHECK(static_cast<Index>(starts.size()) == (rows + tile - 1) / tile);
    }
}

TEMPLATE_TEST_CASE("tiles: the number of threads does not change a bit", "[tiles]", float, double) {
  using S = TestType;
  const Array<S> x = Array<S>::Random(1000, 3);
  const auto run = [&](int threads) {
    Array<S> y(x.rows(), x.cols());
    for_each_tile<S>(x.rows(), threads, [&](Tape<S>& tape, Index first, Index count) {
      const Var<S> v = tape.copy(x.middleRows(first, count));
      y.middleRows(first, count) = as_eigen((exp(v) * v).value());
    });
    return y;
  };
  const Array<S> one = run(1);
  CHECK((run(2) == one).all());
  CHECK((run(5) == one).all());
}

TEST_CASE("tiles: an exception comes through, and a bad number of threads is refused", "[tiles]") {
  for (const int threads : {1, 2}) {
    const auto fails = [&] {
      for_each_tile<double>(1000, threads, [](Tape<double>&, Index first, Index) {
        require(first < 500, "row ", first - first % 500, " is bad");
      });
    };
    CHECK(thrown_message<invalid_argument>(fails) == "row 500 is bad");
  }
  CHECK_THROWS_AS(for_each_tile<double>(10, -1, [](Tape<double>&, Index, Index) {}), invalid_argument);
}

TEST_CASE("tiles: what is not solved is a row of the whole, of whatever kind it is", "[tiles]") {
  constexpr Index first = 3 * tile_rows<double>;
  const auto fails_with = [&](const auto& error) {
    return [error] {
      for_each_tile<double>(5 * first, 1, [&](Tape<double>&, Index at, Index) {
        if (at == first) throw error;
      });
    };
  };
  const std::string row = "row " + std::to_string(first + 7);
  CHECK(thrown_message<convergence_error>(fails_with(convergence_error("root", 7, 0.5, 9))) ==
        "root: " + row + " did not converge: residual 0.5 after 9 iterations");
  CHECK(contains(thrown_message<integration_error>(fails_with(integration_error("ode", 7, {.reason = "why"}))),
                 "ode: " + row + " was not integrated: why"));
}

TEMPLATE_TEST_CASE("tiles: as long as the values of a row allow", "[tiles]", float, double) {
  using S = TestType;
  constexpr Index shortest = tile_rows<S>;
  CHECK(tile_rows_for<S>(0, 10000) == 1024);
  CHECK(tile_rows_for<S>(100, 10000) == 1024);
  CHECK(tile_rows_for<S>(1024, 10000) == 512);
  CHECK(tile_rows_for<S>(1500, 10000) == 256);
  CHECK(tile_rows_for<S>(100000, 10000) == shortest);
  CHECK(tile_rows_for<S>(100, 500) == 256);  // no longer than what there is
  CHECK(tile_rows_for<S>(100, 10) == shortest);
}

TEMPLATE_TEST_CASE("tiles: what a tape's values take", "[tiles]", float, double) {
  using S = TestType;
  Tape<S> tape;
  CHECK(tape.scratch_bytes() == 0);
  const Var<S> x = tape.make(64, 3, false);
  CHECK(tape.scratch_bytes() == 64 * 3 * Index(sizeof(S)));
  (exp(x) + S(1)).requires_grad();
  CHECK(tape.scratch_bytes() == 3 * 64 * 3 * Index(sizeof(S)));
  tape.reset();
  CHECK(tape.scratch_bytes() == 0);
}
