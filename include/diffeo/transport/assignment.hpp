// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Linear assignment: the permutation of least total cost, by the algorithm of Jonker and Volgenant.
namespace diffeo::inline DIFFEO_ISA {

/// Solves linear assignment problems: each row of a square matrix of costs gets a column of its own, so that the sum of
/// the costs is least. The memory is kept from problem to problem: solving others of at most the same size allocates
/// nothing.
///
/// The algorithm is that of Jonker and Volgenant ("A shortest augmenting path algorithm for dense and sparse linear
/// assignment problems", Computing 38, 1987): column reduction, augmenting row reduction and shortest augmenting paths.
/// The augmenting row reduction lowers prices by a little more than the paper's, an amount that falls from pass to
/// pass, as in Bertsekas' auction ("The auction algorithm", Annals of Operations Research 14, 1988). It only provides
/// the prices from which the last two phases start: for costs that are distances of points, the paper's amounts are so
/// small that the reduction ends at its bound having done nothing. With 256 points in the plane the paths then take
/// about an eighth of the work. The paper's reduction transfer is left out, because the reduction begins without pairs.
///
/// The assignment follows from computations in double, whatever the scalar of the costs. Its total is the least one up
/// to a rounding error of the order of N 2^-53 times the largest cost, so that it is exact for integers for which that
/// is below 1. The work is at most of the order of N^3, whatever the costs: the passes of the reduction are bounded,
/// and each augmenting path visits a row once, so that ties and rounding errors cannot make it cycle. The result does
/// not depend on the instruction set. Among several best permutations the choice is arbitrary.
///
/// The result comes with its proof: the potentials u of the rows and v of the columns satisfy u_i + v_j <= cost(i, j),
/// with equality for the pairs that are assigned, up to rounding. No permutation can cost less than the sum of all
/// potentials.
template <Real S>
class AssignmentSolver {
 public:
  /// Solves the problem of a square matrix of costs, N x N, of any sign. Returns the column of each row: N numbers,
  /// valid until the next call. Throws invalid_argument for a matrix that is empty or not square, and for costs that
  /// are NaN, infinite or larger than 2^1000 in absolute value.
  std::span<const Index> solve(View<const S> cost) {
    require(cost.rows == cost.cols, "assignment: the costs are ", cost.rows, " x ", cost.cols,
            ", expected a square matrix");
    require(cost.rows > 0, "assignment: the costs are empty, expected at least one row");
    resize(cost.rows);
    bid(cost, reduce_rows(cost));
    choose_rows(cost);
    for (const Index column : free_columns_) augment(cost, column);
    finish(cost);
    return columns_of_rows();
  }
  std::span<const Index> solve(const Array<S>& cost) { return solve(view(cost)); }

  /// Column of each row in the last problem.
  std::span<const Index> columns_of_rows() const { return column_of_; }
  /// Row of each column in the last problem.
  std::span<const Index> rows_of_columns() const { return row_of_; }
  /// Sum of the costs of the assigned pairs in the last problem.
  double cost() const { return cost_; }
  /// Potential u_i of each row in the last problem, in units of the cost.
  std::span<const double> row_potentials() const { return {price_.data(), column_of_.size()}; }
  /// Potential v_j of each column in the last problem, in units of the cost.
  std::span<const double> column_potentials() const { return column_potential_; }

 private:
  // Columns of the matrix are contiguous, therefore the algorithm scans columns: rows and columns have changed places
  // relative to the paper. The price of a row is the paper's v; a reduced cost is a cost less the price of its row.

  static constexpr Index none = -1;
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  // Amounts of the reduction: 1 / 20, 1 / 160 and 1 / 1280 of the mean reduced cost. They were chosen by the number of
  // scans for 256 points in two and in 16 dimensions, random and integer costs.
  static constexpr int bid_passes = 3;
  static constexpr double first_bid = 0.05, next_bid = 0.125;
  static constexpr Index bids_per_column = 4;

  // The least reduced costs of a column.
  template <class T>
  struct Least {
    T first, second;
    Index row;  // of the first
  };

  // A step of a search: a column that was scanned, what is subtracted from its reduced costs, and the row that was the
  // nearest afterwards, whose column is scanned in the next step.
  struct Visit {
    Index column;
    double shift;
    Index row;
    double distance;
  };

  // Of the values that a lane has met: the least two, and the row of the first. Two of these are filled in turn, so
  // that a minimum need not wait for the one before.
  template <class T>
  struct LaneLeast {
    simd::Vec<T> first = simd::broadcast(std::numeric_limits<T>::infinity()), second = first;
    simd::IntVec<T> row, next_row;

    explicit LaneLeast(Index first_row)
        : row(lane_numbers() + static_cast<simd::integer_t<T>>(first_row)), next_row(row) {}
    static simd::IntVec<T> lane_numbers() {
      simd::IntVec<T> number{};
      for (Index l = 0; l < simd::lanes<T>; ++l) number[l] = static_cast<simd::integer_t<T>>(l);
      return number;
    }
    void add(simd::Vec<T> x) {
      row = x < first ? next_row : row;
      first = simd::min<T>(x, first);
      next_row += 2 * simd::lanes<T>;
    }
    void add_with_second(simd::Vec<T> x) {
      second = simd::min<T>(second, simd::max<T>(x, first));
      add(x);
    }
  };

  // Of several rows with the least value the first one counts, so that the number of lanes does not matter.
  template <class T>
  static Least<T> least_of(const LaneLeast<T>& a, const LaneLeast<T>& b) {
    using Integers = simd::IntVec<T>;
    simd::Vec<T> first = a.first, second = a.second;
    join<T>(first, second, b.first, b.second);
    join_lanes<T, simd::lanes<T> / 2>(first, second);
    const Integers last = Integers{} + std::numeric_limits<simd::integer_t<T>>::max();
    const Integers row_a = a.first == first ? a.row : last, row_b = b.first == first ? b.row : last;
    const Integers row = simd::min_lane_integer<T>(row_a < row_b ? row_a : row_b);
    return {first[0], second[0], static_cast<Index>(row[0])};
  }

  // The least two of four numbers, each the least two of their set.
  template <class T>
  static void join(simd::Vec<T>& first, simd::Vec<T>& second, simd::Vec<T> other_first, simd::Vec<T> other_second) {
    second = simd::min<T>(simd::min<T>(second, other_second), simd::max<T>(first, other_first));
    first = simd::min<T>(first, other_first);
  }
  template <class T, Index Half>
  static void join_lanes(simd::Vec<T>& first, simd::Vec<T>& second) {
    join<T>(first, second, simd::rotate<T, Half>(first), simd::rotate<T, Half>(second));
    if constexpr (Half > 1) join_lanes<T, Half / 2>(first, second);
  }

  // Calls f(i, costs) and g(i, costs) in turn for the registers of a column, with the first row of each.
  template <class T, class F, class G>
  static void for_each_register(const S* column, Index n, const F& f, const G& g) {
    constexpr Index lanes = simd::lanes<T>;
    const auto load = [](const S* p, auto... count) {
      if constexpr (std::is_same_v<T, S>)
        return simd::load<S>(p, count...);
      else
        return simd::load_double<S>(p, count...);
    };
    Index i = 0;
    for (; i + 2 * lanes <= n; i += 2 * lanes) {
      f(i, load(column + i));
      g(i + lanes, load(column + i + lanes));
    }
    if (i + lanes <= n) {
      f(i, load(column + i));
      if (i + lanes < n) g(i + lanes, load(column + i + lanes, n - i - lanes));
    } else if (i < n) {
      f(i, load(column + i, n - i));
    }
  }

  // The least two reduced costs of a column.
  template <class T>
  static Least<T> two_least(const S* column, Index n, const T* price) {
    LaneLeast<T> even(0), odd(simd::lanes<T>);
    for_each_register<T>(
        column, n, [&](Index i, simd::Vec<T> c) { even.add_with_second(c - simd::load<T>(price + i)); },
        [&](Index i, simd::Vec<T> c) { odd.add_with_second(c - simd::load<T>(price + i)); });
    return least_of(even, odd);
  }

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  void resize(Index n) {
    const std::size_t size = at(n), padded = at((n + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>);
    price_.resize(padded);
    bid_price_.assign(padded, -std::numeric_limits<S>::infinity());
    scan_price_.resize(padded);
    distance_.resize(padded);
    column_potential_.resize(size);
    column_of_.assign(size, none);
    row_of_.assign(size, none);
    free_columns_.clear();
    free_columns_.reserve(size);
    free_rows_.clear();
    free_rows_.reserve(size);
    visits_.reserve(size);
  }

  // The paper's column reduction: the price of a row is its least cost. Returns the mean of the reduced costs.
  double reduce_rows(View<const S> cost) {
    const Index n = cost.rows;
    using Doubles = simd::Vec<double>;
    std::vector<double>& total = distance_;  // of each row
    std::fill(price_.begin(), price_.end(), infinity);
    std::fill(total.begin(), total.end(), 0.0);
    Doubles largest{};
    // Count columns at a time.
    const auto reduce = [&]<int Count>(std::integral_constant<int, Count>, Index j) {
      const auto add = [&](Index i, auto... part) {
        Doubles least = simd::load(price_.data() + i), sum = simd::load(total.data() + i);
#pragma GCC unroll 4
        for (int k = 0; k < Count; ++k) {
          const Doubles c = simd::load_double<S>(cost.col(j + k) + i, part...);
          least = simd::min<double>(c, least);
          sum += c;
          largest = simd::max<double>(simd::abs<double>(c), largest);
        }
        simd::store(price_.data() + i, least);
        simd::store(total.data() + i, sum);
      };
      Index i = 0;
      for (; i + simd::lanes<double> <= n; i += simd::lanes<double>) add(i);
      if (i < n) add(i, n - i);
    };
    Index j = 0;
    for (; j + 4 <= n; j += 4) reduce(std::integral_constant<int, 4>{}, j);
    for (; j < n; ++j) reduce(std::integral_constant<int, 1>{}, j);
    // Reduced costs of padding are infinite, so that no scan ever chooses it.
    std::fill(price_.begin() + n, price_.end(), -infinity);
    double sum = 0;
    for (Index i = 0; i < n; ++i) {
      // NaN and infinities leave their mark in the sums alone.
      const double row = total[at(i)];
      sum += row - row == 0 ? row / static_cast<double>(n) - price_[at(i)] : infinity;
    }
    const double most = -simd::min_lane<double>(-largest)[0];
    if (!(sum < infinity && most <= 0x1p1000)) refuse(cost, most);
    // Beyond this the reduction, which is in S, might overflow. The prices are good enough without it.
    return most < static_cast<double>(std::numeric_limits<S>::max()) * 0x1p-40 ? sum / static_cast<double>(n) : 0;
  }

  [[gnu::cold, gnu::noinline]] static void refuse(View<const S> cost, double largest) {
    require_finite(as_eigen(cost), "assignment: the cost");
    require(false, "assignment: a cost has the absolute value ", largest, ", expected at most 2^1000");
  }

  // The augmenting row reduction: a free column takes the row with the least reduced cost and lowers its price until
  // the second choice would be better by `amount`; the column that had the row becomes free and is treated at once.
  // Rounding does no harm here, where nothing but the prices is kept.
  void bid(View<const S> cost, double mean) {
    const Index n = cost.rows;
    if (n == 1 || !(mean > 0)) return;
    for (Index i = 0; i < n; ++i) bid_price_[at(i)] = static_cast<S>(price_[at(i)]);
    double amount = first_bid * mean;
    for (int pass = 0; pass < bid_passes; ++pass, amount *= next_bid) {
      std::fill(column_of_.begin(), column_of_.end(), none);
      Index left = bids_per_column * n;
      for (Index start = 0; start < n; ++start)
        for (Index column = start; column != none && left > 0; --left) {
          const Least<S> least = two_least<S>(cost.col(column), n, bid_price_.data());
          bid_price_[at(least.row)] -= (least.second - least.first) + static_cast<S>(amount);
          std::swap(column, column_of_[at(least.row)]);
        }
    }
    std::fill(column_of_.begin(), column_of_.end(), none);
    for (Index i = 0; i < n; ++i) price_[at(i)] = static_cast<double>(bid_price_[at(i)]);
  }

  double reduced(View<const S> cost, Index row, Index column) const {
    return static_cast<double>(cost.col(column)[row]) - price_[at(row)];
  }

  // Each column takes the row of least reduced cost, if that is free, and lowers its price until the second choice
  // would be as good: the last pass of the reduction, with an amount of 0.
  void choose_rows(View<const S> cost) {
    const Index n = cost.rows;
    for (Index j = 0; j < n; ++j) {
      const Least<double> least = two_least<double>(cost.col(j), n, price_.data());
      Index row = least.row;
      if (column_of_[at(row)] != none && least.second == least.first) row = free_row_at(cost, j, least);
      if (column_of_[at(row)] != none) {
        free_columns_.push_back(j);
        continue;
      }
      if (row == least.row && n > 1) price_[at(row)] -= least.second - least.first;
      column_of_[at(row)] = j;
      row_of_[at(j)] = row;
    }
    for (Index i = 0; i < n; ++i)
      if (column_of_[at(i)] == none) free_rows_.push_back(i);
  }

  // Returns a free row of least reduced cost, else the one that is known.
  Index free_row_at(View<const S> cost, Index column, const Least<double>& least) const {
    for (Index i = 0; i < cost.rows; ++i)
      if (column_of_[at(i)] == none && reduced(cost, i, column) == least.first) return i;
    return least.row;
  }

  // Finds the shortest path by reduced costs from a free column to a free row (Dijkstra's algorithm), assigns along it
  // and lowers the prices of the rows that it reached before.
  void augment(View<const S> cost, Index start) {
    visits_.clear();
    Index column = start, row;
    double shift = 0, last = infinity;
    for (;;) {
      const Least<double> nearest = column == start ? scan<true>(cost.col(column), cost.rows, shift)
                                                    : scan<false>(cost.col(column), cost.rows, shift);
      row = nearest.row;
      // Among rows at the same distance a free one ends the search.
      if (nearest.first <= last)
        for (const Index other : free_rows_)
          if (distance_[at(other)] == nearest.first) row = other;
      last = nearest.first;
      visits_.push_back({column, shift, row, last});
      column = column_of_[at(row)];
      if (column == none) break;
      // A row that was visited has infinite reduced costs and an infinite distance from now on.
      shift = reduced(cost, row, column) - last;
      scan_price_[at(row)] = -infinity;
      distance_[at(row)] = infinity;
    }
    std::erase(free_rows_, row);
    assign_path(cost, visits_.size() - 1);
    for (const Visit& visit : visits_) price_[at(visit.row)] -= std::max(0.0, last - visit.distance);
  }

  // Shortens the distances of the rows by way of a column, or sets them, the first time. Returns the nearest row that
  // was not visited.
  template <bool First>
  Least<double> scan(const S* column, Index n, double shift) {
    LaneLeast<double> even(0), odd(simd::lanes<double>);
    const auto shorten = [shift, price = price_.data(), scan_price = scan_price_.data(),
                          distance = distance_.data()](auto& least) {
      return [=, &least](Index i, simd::Vec<double> c) {
        const simd::Vec<double> p = simd::load(First ? price + i : scan_price + i);
        simd::Vec<double> d = (c - p) - shift;
        if constexpr (First)
          simd::store(scan_price + i, p);
        else
          d = simd::min<double>(d, simd::load(distance + i));
        simd::store(distance + i, d);
        least.add(d);
      };
    };
    for_each_register<double>(column, n, shorten(even), shorten(odd));
    return least_of(even, odd);
  }

  // Assigns along the path to the row of a visit. The column from which the path came to a row is the first one that
  // gave the row its distance: to compute it again for the rows of the path takes less time than to store it for all.
  void assign_path(View<const S> cost, std::size_t visit) {
    for (;;) {
      const Index row = visits_[visit].row;
      const double distance = visits_[visit].distance;
      std::size_t from = 0;
      while (from < visit && reduced(cost, row, visits_[from].column) - visits_[from].shift > distance) ++from;
      const Index column = visits_[from].column;
      column_of_[at(row)] = column;
      row_of_[at(column)] = row;
      if (from == 0) break;
      visit = from - 1;  // whose row the column had
    }
  }

  void finish(View<const S> cost) {
    cost_ = 0;
    for (Index i = 0; i < cost.rows; ++i) {
      const Index j = column_of_[at(i)];
      cost_ += static_cast<double>(cost.col(j)[i]);
      column_potential_[at(j)] = reduced(cost, i, j);
    }
  }

  std::vector<double> price_;                  // of each row, padded
  std::vector<S> bid_price_;                   // during the reduction
  std::vector<double> scan_price_, distance_;  // during a search; padded
  std::vector<Visit> visits_;                  // of a search, in the order of their distances
  std::vector<Index> column_of_, row_of_;      // none where free
  std::vector<Index> free_columns_, free_rows_;
  std::vector<double> column_potential_;
  double cost_ = 0;
};

/// A permutation of least cost.
struct Assignment {
  std::vector<Index> columns;  ///< the column of each row
  double cost = 0;             ///< sum of the costs of the assigned pairs
};

/// Returns the permutation of least cost for a square matrix of costs, N x N, any Eigen expression. Throws as
/// AssignmentSolver::solve() does.
template <class Derived>
  requires Real<typename Derived::Scalar>
Assignment assignment(const Eigen::DenseBase<Derived>& cost) {
  using S = typename Derived::Scalar;
  const Array<S> values = cost.derived().array();
  AssignmentSolver<S> solver;
  const std::span<const Index> columns = solver.solve(values);
  return {{columns.begin(), columns.end()}, solver.cost()};
}

}  // namespace diffeo::inline DIFFEO_ISA
