// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/core/random.hpp>
#include <diffeo/transport/assignment.hpp>
#include <limits>
#include <numbers>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::assignment;
using diffeo::AssignmentSolver;
using diffeo::Index;
using diffeo::invalid_argument;

namespace {

// Kinds of costs, random and degenerate.
enum class Costs {
  uniform,
  points,
  far_points,
  many_dimensions,
  small_integers,
  large_integers,
  zero,
  equal_rows,
  equal_columns,
  sums,
  products,
  one_scale_per_row,
  rounded,
  huge,
  tiny,
  copies,
  curves,
  grid,
  far_groups,
  count
};

template <diffeo::Real S>
Array<S> make_costs(Costs kind, Index n, std::uint64_t seed) {
  diffeo::PhiloxEngine engine(seed, static_cast<std::uint64_t>(kind));
  const auto below = [&](std::uint64_t k) { return static_cast<S>(engine.below(k)); };
  const auto unit = [&] { return static_cast<S>(static_cast<double>(engine() >> 11) * 0x1p-53); };
  const auto fill = [&](Index rows, Index cols, const auto& draw) {
    Array<S> a(rows, cols);
    for (Index j = 0; j < cols; ++j)
      for (Index i = 0; i < rows; ++i) a(i, j) = draw();
    return a;
  };
  const auto distances = [n](const Array<S>& x, const Array<S>& y) {
    Array<S> cost(n, n);
    for (Index j = 0; j < n; ++j)
      for (Index i = 0; i < n; ++i) cost(i, j) = (x.row(i) - y.row(j)).square().sum();
    return cost;
  };
  switch (kind) {
    case Costs::uniform:
      return fill(n, n, unit);
    case Costs::points:
      return distances(fill(n, 2, unit), fill(n, 2, unit));
    case Costs::far_points:
      return distances(fill(n, 2, unit), fill(n, 2, unit) + S(10));
    case Costs::many_dimensions:
      return distances(fill(n, 20, unit), fill(n, 20, unit));
    case Costs::small_integers:
      return fill(n, n, [&] { return below(4) - S(2); });
    case Costs::large_integers:
      return fill(n, n, [&] { return below(1 << 20); });
    case Costs::zero:
      return Array<S>::Zero(n, n);
    case Costs::equal_rows:
      return fill(1, n, unit).replicate(n, 1);
    case Costs::equal_columns:
      return fill(n, 1, unit).replicate(1, n);
    case Costs::sums:  // every permutation is as good
      return fill(n, 1, [&] { return below(1000); }).replicate(1, n) +
             fill(1, n, [&] { return below(1000); }).replicate(n, 1);
    case Costs::products:  // Machol and Wien's (i + 1) (j + 1): many augmenting paths
      return Array<S>::NullaryExpr(n, n, [](Index i, Index j) { return static_cast<S>((i + 1) * (j + 1)); });
    case Costs::one_scale_per_row:
      return fill(n, n, unit) * fill(n, 1, [&] { return std::pow(S(10), below(9) - S(4)); }).replicate(1, n);
    case Costs::rounded:  // few steps of the scalar between the least and the largest
      return fill(n, n, unit) * (8 * std::numeric_limits<S>::epsilon()) + S(1);
    case Costs::huge:
      return (S(2) * fill(n, n, unit) - S(1)) * (sizeof(S) == 4 ? S(3e38) : S(1e301));
    case Costs::tiny:
      return fill(n, n, [&] { return below(1000); }) * std::numeric_limits<S>::denorm_min();
    case Costs::copies: {  // points that occur several times
      const Array<S> few = fill(3, 2, unit);
      const auto draw = [&] {
        Array<S> x(n, 2);
        for (Index i = 0; i < n; ++i) x.row(i) = few.row(static_cast<Index>(engine.below(3)));
        return x;
      };
      const Array<S> x = draw();
      return distances(x, draw());
    }
    case Costs::curves: {  // two half circles and a square: long augmenting paths
      Array<S> x(n, 2);
      for (Index i = 0; i < n; ++i) {
        const double angle = std::numbers::pi * static_cast<double>(unit()), outer = i % 2 == 0 ? 1 : -1;
        x(i, 0) = static_cast<S>(3 * (outer * std::cos(angle) + (i % 2 == 0 ? 0 : 1)) - 1);
        x(i, 1) = static_cast<S>(3 * (outer * std::sin(angle) + (i % 2 == 0 ? 0 : 0.5)) - 1);
      }
      return distances(x, S(4) * fill(n, 2, unit) - S(2));
    }
    case Costs::grid: {  // distances that are integers, many of them the same
      const Array<S> x = fill(n, 2, [&] { return below(16); });
      return distances(x, fill(n, 2, [&] { return below(16); }));
    }
    case Costs::far_groups: {  // distances within groups are a ten thousandth of those between them
      const auto draw = [&] {
        Array<S> x = fill(n, 2, unit);
        for (Index i = 0; i < n; ++i) x(i, 1) += S(100) * static_cast<S>(i % 4);
        return x;
      };
      const Array<S> x = draw();
      return distances(x, draw());
    }
    case Costs::count:
      break;
  }
  return {};
}

// What rounding in double may change of a total.
template <diffeo::Real S>
double allowance(const Array<S>& cost) {
  return 1e-14 * static_cast<double>(cost.rows()) * cost.template cast<double>().abs().maxCoeff();
}

template <diffeo::Real S>
double total(const Array<S>& cost, const std::vector<Index>& columns) {
  double sum = 0;
  for (std::size_t i = 0; i < columns.size(); ++i) sum += static_cast<double>(cost(static_cast<Index>(i), columns[i]));
  return sum;
}

// The least total of all permutations.
template <diffeo::Real S>
double least_of_all(const Array<S>& cost) {
  std::vector<Index> columns(static_cast<std::size_t>(cost.rows()));
  std::iota(columns.begin(), columns.end(), Index{0});
  double least = std::numeric_limits<double>::infinity();
  do least = std::min(least, total(cost, columns));
  while (std::next_permutation(columns.begin(), columns.end()));
  return least;
}

// The least total by the Hungarian method with potentials in O(N^3), row after row, as in textbooks: no part of it is
// shared with the solver.
template <diffeo::Real S>
double hungarian(const Array<S>& cost) {
  const auto n = static_cast<std::size_t>(cost.rows());
  constexpr double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> u(n + 1, 0), v(n + 1, 0);
  std::vector<std::size_t> row_of(n + 1, 0), before(n + 1, 0);  // 0 stands for none
  for (std::size_t i = 1; i <= n; ++i) {
    std::vector<double> least(n + 1, infinity);
    std::vector<bool> used(n + 1, false);
    std::size_t column = 0;
    row_of[0] = i;
    do {
      used[column] = true;
      const std::size_t row = row_of[column];
      double delta = infinity;
      std::size_t next = 0;
      for (std::size_t j = 1; j <= n; ++j) {
        if (used[j]) continue;
        const double slack =
            static_cast<double>(cost(static_cast<Index>(row - 1), static_cast<Index>(j - 1))) - u[row] - v[j];
        if (slack < least[j]) {
          least[j] = slack;
          before[j] = column;
        }
        if (least[j] < delta) {
          delta = least[j];
          next = j;
        }
      }
      for (std::size_t j = 0; j <= n; ++j) {
        if (used[j]) {
          u[row_of[j]] += delta;
          v[j] -= delta;
        } else {
          least[j] -= delta;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = before[column]) row_of[column] = row_of[before[column]];
  }
  std::vector<Index> columns(n);
  for (std::size_t j = 1; j <= n; ++j) columns[row_of[j] - 1] = static_cast<Index>(j - 1);
  return total(cost, columns);
}

// Throws away nothing: the result is a permutation, its parts agree, and its potentials prove that it is the best.
template <diffeo::Real S>
void require_optimal(const AssignmentSolver<S>& solver, const Array<S>& cost) {
  const Index n = cost.rows();
  const double allowed = allowance(cost);
  const auto columns = solver.columns_of_rows(), rows = solver.rows_of_columns();
  const auto u = solver.row_potentials(), v = solver.column_potentials();
  REQUIRE(static_cast<Index>(columns.size()) == n);
  REQUIRE(static_cast<Index>(rows.size()) == n);
  REQUIRE(static_cast<Index>(u.size()) == n);
  REQUIRE(static_cast<Index>(v.size()) == n);
  std::vector<Index> sorted(columns.begin(), columns.end());
  std::sort(sorted.begin(), sorted.end());
  double worst = 0, tightest = 0, sum = 0, dual = 0;
  bool inverse = true;
  for (Index i = 0; i < n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    REQUIRE(sorted[k] == i);
    inverse = inverse && rows[static_cast<std::size_t>(columns[k])] == i;
    sum += static_cast<double>(cost(i, columns[k]));
    dual += u[k] + v[k];
  }
  for (Index j = 0; j < n; ++j)
    for (Index i = 0; i < n; ++i) {
      const double slack =
          static_cast<double>(cost(i, j)) - u[static_cast<std::size_t>(i)] - v[static_cast<std::size_t>(j)];
      worst = std::min(worst, slack);
      if (columns[static_cast<std::size_t>(i)] == j) tightest = std::max(tightest, std::abs(slack));
    }
  CHECK(inverse);
  CHECK(solver.cost() == sum);
  CHECK(worst >= -allowed);
  CHECK(tightest <= allowed);
  CHECK(std::abs(sum - dual) <= static_cast<double>(n) * allowed);
}

}  // namespace

TEMPLATE_TEST_CASE("assignment: the best of all permutations", "[transport]", float, double) {
  using S = TestType;
  AssignmentSolver<S> solver;
  for (int kind = 0; kind < static_cast<int>(Costs::count); ++kind)
    for (Index n = 1; n <= 8; ++n) {
      const int instances = n <= 5 ? 40 : n <= 7 ? 10 : 1;
      for (int seed = 0; seed < instances; ++seed) {
        INFO("kind " << kind << ", n = " << n << ", seed " << seed);
        const Array<S> cost = make_costs<S>(static_cast<Costs>(kind), n, static_cast<std::uint64_t>(seed));
        solver.solve(cost);
        require_optimal(solver, cost);
        const double least = least_of_all(cost);
        // Sums of integers are exact.
        const bool exact = kind == static_cast<int>(Costs::small_integers) ||
                           kind == static_cast<int>(Costs::large_integers) || kind == static_cast<int>(Costs::sums) ||
                           kind == static_cast<int>(Costs::grid);
        CHECK(solver.cost() <= least + (exact ? 0 : allowance(cost)));
      }
    }
}

TEMPLATE_TEST_CASE("assignment: 256 points, against the Hungarian method", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  // Potentials prove each of the results; the second method takes longer and is asked for a part of them.
#ifdef DIFFEO_SANITIZE
  constexpr int instances = 2 * static_cast<int>(Costs::count), by_hungarian = 1, checked_kinds = 3;
#else
  constexpr int instances = 500, by_hungarian = 4, checked_kinds = static_cast<int>(Costs::count);
#endif
  constexpr Index n = 256;
  AssignmentSolver<S> solver;
  for (int k = 0; k < instances; ++k) {
    const int kind = k % static_cast<int>(Costs::count), seed = k / static_cast<int>(Costs::count);
    INFO("kind " << kind << ", seed " << seed);
    const Array<S> cost = make_costs<S>(static_cast<Costs>(kind), n, static_cast<std::uint64_t>(seed));
    solver.solve(cost);
    require_optimal(solver, cost);
    if (seed < by_hungarian && kind < checked_kinds)
      CHECK(std::abs(solver.cost() - hungarian(cost)) <= allowance(cost));
  }
}

TEMPLATE_TEST_CASE("assignment: 512 points on curves and on a grid", "[transport]", float, double) {
  using S = TestType;
  AssignmentSolver<S> solver;
  for (const Costs kind : {Costs::curves, Costs::grid, Costs::far_groups, Costs::products}) {
    INFO("kind " << static_cast<int>(kind));
    const Array<S> cost = make_costs<S>(kind, 512, 7);
    solver.solve(cost);
    require_optimal(solver, cost);
  }
}

TEMPLATE_TEST_CASE("assignment: sizes around the width of registers", "[transport]", float, double) {
  using S = TestType;
  AssignmentSolver<S> solver;
  for (Index n = 1; n <= 40; ++n)
    for (const Costs kind : {Costs::points, Costs::small_integers, Costs::rounded}) {
      INFO("n = " << n << ", kind " << static_cast<int>(kind));
      const Array<S> cost = make_costs<S>(kind, n, 3);
      solver.solve(cost);
      require_optimal(solver, cost);
      CHECK(std::abs(solver.cost() - hungarian(cost)) <= allowance(cost));
    }
}

TEST_CASE("assignment: the scalar does not matter where it holds the costs", "[transport]") {
  AssignmentSolver<float> single;
  AssignmentSolver<double> other;
  for (const Costs kind : {Costs::large_integers, Costs::products}) {
    const Array<float> cost = make_costs<float>(kind, 100, 1);
    single.solve(cost);
    other.solve(Array<double>(cost.cast<double>()));
    CHECK(single.cost() == other.cost());
  }
  // A sorted order, whatever else.
  const Array<double> x = gaussian<double>(50, 1, 1), y = gaussian<double>(50, 1, 2);
  Array<double> cost(50, 50);
  for (Index i = 0; i < 50; ++i) cost.row(i) = (y.transpose() - x(i, 0)).square();
  const auto best = assignment(cost);
  for (Index i = 0; i < 50; ++i)
    CHECK((x.col(0) < x(i, 0)).count() == (y.col(0) < y(best.columns[static_cast<std::size_t>(i)], 0)).count());
}

TEST_CASE("assignment: expressions, views and other sizes with one solver", "[transport]") {
  const Array<double> cost = make_costs<double>(Costs::points, 30, 5);
  AssignmentSolver<double> solver;
  const auto whole = assignment(cost);
  CHECK(whole.cost == total(cost, whole.columns));
  Eigen::Array<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> by_rows = cost;
  CHECK(assignment(by_rows).columns == whole.columns);
  CHECK(assignment((2 * cost + 1).matrix()).columns == whole.columns);
  CHECK(assignment(cost.transpose()).cost == Approx(whole.cost).epsilon(1e-14));
  // A block of a larger array, before and after problems of other sizes.
  const diffeo::View<const double> block{cost.data() + 3, 20, 20, 30};
  const Array<double> copied = cost.block(3, 0, 20, 20);
  const auto of_block = solver.solve(block);
  const std::vector<Index> columns(of_block.begin(), of_block.end());
  CHECK(columns == assignment(copied).columns);
  solver.solve(cost);
  CHECK(solver.cost() == whole.cost);
  solver.solve(Array<double>(Array<double>::Constant(1, 1, -3)));
  CHECK(solver.cost() == -3);
  CHECK(solver.columns_of_rows().size() == 1);
  solver.solve(block);
  CHECK(std::equal(columns.begin(), columns.end(), solver.columns_of_rows().begin()));
  // Constants that are added to a row or a column change the total by as much, and nothing else.
  const Array<double> shifted = cost.colwise() + Eigen::Array<double, Eigen::Dynamic, 1>::LinSpaced(30, -7, 9);
  CHECK(assignment(shifted).columns == whole.columns);
}

TEST_CASE("assignment: bad input", "[transport]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([] { assignment(Array<double>(3, 2)); }) ==
        "assignment: the costs are 3 x 2, expected a square matrix");
  CHECK(message([] { assignment(Array<float>(0, 0)); }) ==
        "assignment: the costs are empty, expected at least one row");
  for (const Index n : {3, 17, 64}) {
    Array<double> cost = Array<double>::Ones(n, n);
    const std::string place =
        diffeo::concat_message("at (row ", n - 1, ", column ", n / 2, "), expected finite values");
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity()}) {
      cost(n - 1, n / 2) = bad;
      const std::string text = message([&] { assignment(cost); });
      CHECK(text.starts_with("assignment: the cost is "));
      CHECK(contains(text, place));
      CHECK(contains(message([&] { assignment(cost.cast<float>()); }), place));
    }
    cost(n - 1, n / 2) = -1e305;
    CHECK(message([&] { assignment(cost); }) ==
          "assignment: a cost has the absolute value 1e+305, expected at most 2^1000");
  }
}
