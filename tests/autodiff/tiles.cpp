// SPDX-License-Identifier: MIT
#include <algorithm>
#include <chrono>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/tiles.hpp>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
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

TEMPLATE_TEST_CASE("tiles: what is the same in all tiles is computed once", "[tiles]", float, double) {
  using S = TestType;
  constexpr Index tile = tile_rows<S>;
  const Array<S> row = Array<S>::Random(1, 3);
  const Array<S> weight = Array<S>::Random(1, 3);
  // Calls for a number of tiles, and how often the value was computed.
  const auto computed = [&](Index tiles, const auto& operand) {
    int count = 0;
    Array<S> sums(tiles, 1);
    for_each_tile<S>(tiles * tile, 1, [&](Tape<S>& tape, Index first, Index) {
      const Var<S> v = tape.once(operand(tape), &weight, [&] {
        ++count;
        return operand(tape) * weight;
      });
      sums(first / tile, 0) = as_eigen(v.value()).sum();
    });
    CHECK((sums == (row * weight).sum()).all());
    return count;
  };
  const auto shared = [&](Tape<S>& tape) { return tape.constant_of_all_tiles(row); };
  CHECK(computed(5, shared) == 1);
  CHECK(computed(1, shared) == 1);
  CHECK(computed(5, [&](Tape<S>& tape) { return tape.constant(row); }) == 5);
  // A gradient belongs to its tape.
  CHECK(computed(5, [&](Tape<S>& tape) { return tape.variable(row); }) == 5);
  // Values computed from values that are the same in all tiles are so too, each by its key.
  int count = 0;
  for_each_tile<S>(3 * tile, 1, [&](Tape<S>& tape, Index, Index) {
    const Var<S> v = tape.once(shared(tape), &weight, [&] { return shared(tape) * weight; });
    const Var<S> w = tape.once(v, &row, [&] {
      ++count;
      return v + S(1);
    });
    CHECK((as_eigen(w.value()) == row * weight + S(1)).all());
  });
  CHECK(count == 1);
}

TEMPLATE_TEST_CASE("tiles: what one parameter gives for several values that are the same in all tiles", "[tiles]",
                   float, double) {
  using S = TestType;
  constexpr Index tile = tile_rows<S>, operands = 5;
  const Array<S> rows = Array<S>::Random(operands, 3), weight = Array<S>::Random(1, 3);
  std::vector<Array<S>> separate;
  for (Index k = 0; k < operands; ++k) separate.push_back(rows.row(k));
  // One array that is overwritten, as an object that is made anew in each round of a loop, and one for each.
  const auto in_one_array = [&](Array<S>& memory, Index k) -> const Array<S>& { return memory = rows.row(k); };
  const auto in_separate = [&](Array<S>&, Index k) -> const Array<S>& { return separate[static_cast<std::size_t>(k)]; };
  const auto check = [&](int threads, const auto& operand) {
    constexpr Index tiles = 6;
    int computed = 0;
    std::mutex guard;
    Array<S> largest_error = Array<S>::Zero(tiles, 1);
    for_each_tile<S>(tiles * tile, threads, [&](Tape<S>& tape, Index first, Index) {
      Array<S> memory;
      for (Index k = 0; k < operands; ++k) {
        const Var<S> x = tape.constant_of_all_tiles(operand(memory, k));
        const Var<S> v = tape.once(x, &weight, [&] {
          const std::lock_guard lock(guard);
          ++computed;
          return x * weight;
        });
        S& error = largest_error(first / tile, 0);
        error = std::max(error, (as_eigen(v.value()) - rows.row(k) * weight).abs().maxCoeff());
      }
    });
    CHECK((largest_error == 0).all());
    return computed;
  };
  CHECK(check(1, in_one_array) == operands);
  CHECK(check(1, in_separate) == operands);
  CHECK(check(3, in_one_array) >= operands);
  CHECK(check(3, in_separate) >= operands);
}

TEST_CASE("tiles: more values than are kept are computed again", "[tiles]") {
  constexpr Index tile = tile_rows<double>, many = 2000;
  std::vector<double> keys(many);
  const Array<double> x = Array<double>::Ones(1, 1);
  int wrong = 0;
  for_each_tile<double>(3 * tile, 1, [&](Tape<double>& tape, Index, Index) {
    for (Index k = 0; k < many; ++k) {
      const Var<double> one = tape.constant_of_all_tiles(x);
      const auto value = static_cast<double>(k);
      const Var<double> v = tape.once(one, &keys[static_cast<std::size_t>(k)], [&] { return one * value; });
      wrong += v.value().data[0] != value || !v.same_in_all_tiles();
    }
  });
  CHECK(wrong == 0);
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

TEST_CASE("tiles: of several that fail the first is named, on any number of threads", "[tiles]") {
  for (const int threads : {1, 2, 4, 8})
    for (int round = 0; round < 10; ++round) {
      CAPTURE(threads, round);
      const auto fails = [&] {
        for_each_tile<double>(1000, 10, threads, [](Tape<double>&, Index first, Index) {
          if (first == 500) std::this_thread::sleep_for(std::chrono::microseconds(200));
          if (first >= 500) throw convergence_error("root", 3, 0.5, 9);
        });
      };
      CHECK(contains(thrown_message<convergence_error>(fails), "root: row 503 did not converge"));
    }
}

TEMPLATE_TEST_CASE("tiles: on a pool, whose tapes are used again", "[tiles]", float, double) {
  using S = TestType;
  ThreadPool pool(3);
  const auto run = [](Index rows, const Execution& execution) {
    Array<S> y(rows, 2);
    for_each_tile<S>(rows, execution, [&](Tape<S>& tape, Index first, Index count) {
      require(tape.size() == 0 && tape.value_bytes() == 0, "the tape is not empty");
      const Var<S> v = tape.variable(Array<S>::Constant(count, 2, S(first)));
      y.middleRows(first, count) = as_eigen((exp(v * S(1e-3)) * v).value());
    });
    return y;
  };
  for (const Index rows : {10, 1000, 300}) CHECK((run(rows, pool) == run(rows, 1)).all());
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
  CHECK(tile_rows_for<S>(0, 10000) == 512);
  CHECK(tile_rows_for<S>(100, 10000) == 512);
  CHECK(tile_rows_for<S>(1024, 10000) == 512);
  CHECK(tile_rows_for<S>(1500, 10000) == 256);
  CHECK(tile_rows_for<S>(100000, 10000) == shortest);
  CHECK(tile_rows_for<S>(100, 500) == 256);  // no longer than what there is
  CHECK(tile_rows_for<S>(100, 10) == shortest);
}

TEMPLATE_TEST_CASE("tiles: what a tape's values take", "[tiles]", float, double) {
  using S = TestType;
  Tape<S> tape;
  CHECK(tape.value_bytes() == 0);
  const Var<S> x = tape.make(64, 3, false);
  CHECK(tape.value_bytes() == 64 * 3 * Index(sizeof(S)));
  (exp(x) + S(1)).requires_grad();
  CHECK(tape.value_bytes() == 3 * 64 * 3 * Index(sizeof(S)));
  tape.reset();
  CHECK(tape.value_bytes() == 0);
}

namespace {

// Structures of which some ask for long tiles.
template <Index rows>
struct Asking {
  using Scalar = float;
  static constexpr Index tile_rows = rows;
  template <class Self>
  static auto fields(Self&) {
    return std::tuple();
  }
};
struct Modest {
  using Scalar = float;
  Array<float> weight;
  Buffer<float> buffer;
  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("weight", self.weight, "buffer", self.buffer);
  }
};
template <class... P>
struct Whole {
  using Scalar = float;
  std::tuple<P...> parts;
  std::vector<Modest> more;
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.parts, self.more);
  }
};
template <class P>
struct Several {
  using Scalar = float;
  std::vector<P> parts;
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.parts);
  }
};

}  // namespace

TEST_CASE("tiles: as long as the part that asks for most", "[tiles]") {
  constexpr Index shortest = tile_rows<float>;
  static_assert(tile_rows_of<Modest> == shortest);
  static_assert(tile_rows_of<Asking<256>> == 256);
  static_assert(tile_rows_of<Asking<8>> == shortest);
  static_assert(tile_rows_of<Whole<Modest>> == shortest);
  static_assert(tile_rows_of<Whole<>> == shortest);
  static_assert(tile_rows_of<Whole<Modest, Asking<256>, Asking<128>>> == 256);
  static_assert(tile_rows_of<Whole<Asking<128>, Whole<Several<Asking<512>>>>> == 512);
  static_assert(tile_rows_of<Several<Modest>> == shortest);
  // Rows of each tile that was asked for.
  std::vector<Index> counts;
  for_each_tile<float>(600, tile_rows_of<Whole<Asking<256>>>, 1,
                       [&](Tape<float>&, Index, Index count) { counts.push_back(count); });
  CHECK(counts == std::vector<Index>{256, 256, 88});
}
