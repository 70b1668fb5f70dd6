// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>
#include <limits>
#include <numeric>
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
/// Before the augmenting row reduction, prices are found by Bertsekas' auction with epsilon scaling ("The auction
/// algorithm: a distributed relaxation method for the assignment problem", Annals of Operations Research 14, 1988):
/// passes in which each bid lowers a price by a little more than the paper's amount, by four times less in each pass. A
/// pass ends when one column out of 80 is left without a row, because those few would take most of the bids. For costs
/// that are distances of points, the paper's amounts alone are so small that the reduction ends at its bound having
/// done nothing, and the paths take nearly all of the work, most of all where the points are on curves. The paper's
/// reduction transfer is left out, because the reduction begins without pairs.
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
    choose_prices(cost, reduce_rows(cost));
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

  // Amounts of the bids in units of the mean reduced cost: first_bid, then each time next_bid times as much, down to
  // last_bid / N^(3/2) or the resolution of the scalar. They were chosen, as was left_over, by the number of scans for
  // 256 points in two and in 16 dimensions, on curves, on grids, random and integer costs; the least is flat.
  static constexpr double first_bid = 0.15, next_bid = 0.25, last_bid = 0.5;
  // A pass ends when one column of so many is left: the last ones would take more bids than all others.
  static constexpr Index left_over = 80;
  // A bound for hostile costs.
  static constexpr Index bids_per_column = 8;

  struct Amounts {
    double first, last;
  };

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

  // Of the values that a lane has met: the least two, and the row of the first.
  template <class T>
  struct LaneLeast {
    simd::Vec<T> first = simd::broadcast(std::numeric_limits<T>::infinity()), second = first;
    simd::IntVec<T> row{};

    void add(simd::Vec<T> x, simd::IntVec<T> rows) {
      row = x < first ? rows : row;
      first = simd::min<T>(x, first);
    }
    void add_with_second(simd::Vec<T> x, simd::IntVec<T> rows) {
      second = simd::min<T>(second, simd::max<T>(x, first));
      add(x, rows);
    }
    // Of equal values the one of the first row counts, so that the number of lanes does not matter.
    void join(const LaneLeast& other) {
      second = simd::min<T>(simd::min<T>(second, other.second), simd::max<T>(first, other.first));
      row = other.first < first ? other.row : first < other.first || row < other.row ? row : other.row;
      first = simd::min<T>(first, other.first);
    }
  };

  // The rows of a register that begins with the row 0.
  template <class T>
  static simd::IntVec<T> first_rows() {
    simd::IntVec<T> row{};
    for (Index l = 0; l < simd::lanes<T>; ++l) row[l] = static_cast<simd::integer_t<T>>(l);
    return row;
  }

  template <class T>
  static Least<T> least_of(const LaneLeast<T>& lanes) {
    using Integers = simd::IntVec<T>;
    simd::Vec<T> first = lanes.first, second = lanes.second;
    join_lanes<T, simd::lanes<T> / 2>(first, second);
    const Integers last = Integers{} + std::numeric_limits<simd::integer_t<T>>::max();
    const Integers row = simd::min_lane_integer<T>(lanes.first == first ? lanes.row : last);
    return {first[0], second[0], static_cast<Index>(row[0])};
  }
  template <class T, Index Half>
  static void join_lanes(simd::Vec<T>& first, simd::Vec<T>& second) {
    const simd::Vec<T> other = simd::rotate<T, Half>(first);
    second = simd::min<T>(simd::min<T>(second, simd::rotate<T, Half>(second)), simd::max<T>(first, other));
    first = simd::min<T>(first, other);
    if constexpr (Half > 1) join_lanes<T, Half / 2>(first, second);
  }

  template <class T>
  static simd::Vec<T> load(const S* p, auto... count) {
    if constexpr (std::is_same_v<T, S>)
      return simd::load<S>(p, count...);
    else
      return simd::load_double<S>(p, count...);
  }

  // Calls f(lane, i) or f(lane, i, count) for the registers of a column, with the first row of each and with one of
  // `Ways` constants in turn. So many minima are computed side by side, which need not wait for each other.
  template <class T, int Ways, class F>
  static void for_each_register(Index n, const F& f) {
    constexpr Index lanes = simd::lanes<T>;
    Index i = 0;
    for (; i + Ways * lanes <= n; i += Ways * lanes)
#pragma GCC unroll 4
      for (int way = 0; way < Ways; ++way) f(way, i + way * lanes);
    for (int way = 0; i + lanes <= n; ++way, i += lanes) f(way, i);
    if (i < n) f(0, i, n - i);
  }

  // The least two reduced costs of several columns.
  template <class T, std::size_t Count>
  static std::array<Least<T>, Count> two_least(const std::array<const S*, Count>& columns, Index n, const T* price) {
    constexpr std::size_t ways = Count == 1 ? 2 : 1;
    std::array<LaneLeast<T>, ways * Count> lanes;
    simd::IntVec<T> rows = first_rows<T>();
    for_each_register<T, ways>(n, [&](int way, Index i, auto... count) {
      const simd::Vec<T> p = simd::load<T>(price + i);
#pragma GCC unroll 4
      for (std::size_t k = 0; k < Count; ++k)
        lanes[at(way) * Count + k].add_with_second(load<T>(columns[k] + i, count...) - p, rows);
      rows += simd::lanes<T>;
    });
    std::array<Least<T>, Count> least;
#pragma GCC unroll 4
    for (std::size_t k = 0; k < Count; ++k) {
      if constexpr (ways == 2) lanes[k].join(lanes[Count + k]);
      least[k] = least_of(lanes[k]);
    }
    return least;
  }

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  void resize(Index n) {
    const std::size_t size = at(n), padded = at((n + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>);
    price_.resize(padded);
    bid_price_.resize(padded);
    row_sum_.resize(padded);
    scan_price_.resize(padded);
    distance_.resize(padded);
    column_potential_.resize(size);
    column_of_.assign(size, none);
    row_of_.resize(size);
    free_columns_.reserve(size);
    tied_columns_.reserve(size);
    free_rows_.clear();
    free_rows_.reserve(size);
    visits_.reserve(size);
  }

  // The paper's column reduction: the price of a row is its least cost. Returns the amounts of the bids.
  Amounts reduce_rows(View<const S> cost) {
    const Index n = cost.rows;
    using Register = simd::Vec<S>;
    S* const price = bid_price_.data();
    S* const total = row_sum_.data();
    std::fill(bid_price_.begin(), bid_price_.end(), std::numeric_limits<S>::infinity());
    std::fill(row_sum_.begin(), row_sum_.end(), S(0));
    Register largest{};
    // Count columns at a time.
    const auto reduce = [&]<int Count>(std::integral_constant<int, Count>, Index j) {
      const auto add = [&](Index i, auto... part) {
        Register least = simd::load<S>(price + i), sum = simd::load<S>(total + i);
#pragma GCC unroll 4
        for (int k = 0; k < Count; ++k) {
          const Register c = simd::load<S>(cost.col(j + k) + i, part...);
          least = simd::min<S>(c, least);
          sum += c;
          largest = simd::max<S>(simd::abs<S>(c), largest);
        }
        simd::store<S>(price + i, least);
        simd::store<S>(total + i, sum);
      };
      Index i = 0;
      for (; i + simd::lanes<S> <= n; i += simd::lanes<S>) add(i);
      if (i < n) add(i, n - i);
    };
    Index j = 0;
    for (; j + 4 <= n; j += 4) reduce(std::integral_constant<int, 4>{}, j);
    for (; j < n; ++j) reduce(std::integral_constant<int, 1>{}, j);
    double sum = 0;
    for (Index i = 0; i < n; ++i) {
      price_[at(i)] = static_cast<double>(price[i]);
      const double row = static_cast<double>(total[i]);
      sum += row - row == 0 ? row / static_cast<double>(n) - price_[at(i)] : infinity;
    }
    // Reduced costs of padding are infinite, so that no scan ever chooses it.
    std::fill(price_.begin() + n, price_.end(), -infinity);
    std::fill(bid_price_.begin() + n, bid_price_.end(), -std::numeric_limits<S>::infinity());
    const double most = static_cast<double>(-simd::min_lane<S>(-largest)[0]);
    // NaN and infinities leave their mark in the sums alone.
    if (!(sum < infinity && most <= 0x1p1000)) check(cost, most);
    // Beyond this the bids, which are in S, might overflow. The prices are good enough without them.
    if (!(most < static_cast<double>(std::numeric_limits<S>::max()) * 0x1p-40)) return {0, 0};
    const double size = static_cast<double>(n), mean = sum / size;
    return {first_bid * mean, std::max(last_bid * mean / (size * std::sqrt(size)),
                                       2 * static_cast<double>(std::numeric_limits<S>::epsilon()) * most)};
  }

  [[gnu::cold, gnu::noinline]] static void check(View<const S> cost, double largest) {
    require_finite(as_eigen(cost), "assignment: the cost");
    require(largest <= 0x1p1000, "assignment: a cost has the absolute value ", largest, ", expected at most 2^1000");
  }

  // The passes of bids, by which nothing but the prices is kept: rounding does no harm here.
  void choose_prices(View<const S> cost, Amounts amounts) {
    const Index n = cost.rows;
    Index before = 0;
    for (double amount = amounts.first; amount > 0 && amount >= amounts.last; amount *= next_bid) {
      free_all();
      const Index bids =
          bid<S>(cost, bid_price_.data(), static_cast<S>(amount), (n + left_over - 1) / left_over, bids_per_column * n);
      // Most columns had the row of their choice at once, which was not so before.
      if (bids < before && 5 * bids < 7 * n) break;
      before = bids;
    }
    for (Index i = 0; i < n; ++i) price_[at(i)] = static_cast<double>(bid_price_[at(i)]);
  }

  void free_all() {
    std::fill(column_of_.begin(), column_of_.end(), none);
    free_columns_.resize(column_of_.size());
    std::iota(free_columns_.begin(), free_columns_.end(), Index{0});
    tied_columns_.clear();
  }

  // Free columns bid in rounds, until at most `enough` are left or after `most` bids: a column takes the row with the
  // least reduced cost and lowers its price until the second choice would be better by `amount`; the column that had
  // the row becomes free. Columns that cannot choose between rows that are taken go to the tied ones and do not bid
  // again. Four choose side by side, so that no minimum waits for another. Returns the number of bids.
  template <class T>
  Index bid(View<const S> cost, T* price, T amount, Index enough, Index most) {
    Index bids = 0;
    for (;;) {
      const Index size = static_cast<Index>(free_columns_.size());
      Index next = 0, kept = 0;  // of this round; free columns of the next one
      const auto take = [&]<int Count>(std::integral_constant<int, Count>) {
        std::array<const S*, static_cast<std::size_t>(Count)> columns;
        for (int k = 0; k < Count; ++k) columns[at(k)] = cost.col(free_columns_[at(next + k)]);
        const auto least = two_least<T>(columns, cost.rows, price);
        for (int k = 0; k < Count; ++k) {
          const Index column = free_columns_[at(next + k)], left = settle(cost, price, amount, column, least[at(k)]);
          free_columns_[at(kept)] = left;
          kept += left != none;
        }
        next += Count;
        bids += Count;
      };
      while (next < size && bids < most && kept + size - next > enough) {
        if (size - next >= 4)
          take(std::integral_constant<int, 4>{});
        else
          take(std::integral_constant<int, 1>{});
      }
      const bool done = next < size;
      for (; next < size; ++next) free_columns_[at(kept++)] = free_columns_[at(next)];
      free_columns_.resize(at(kept));
      if (done || kept <= enough) return bids;
    }
  }

  // Gives a column the row that it chose. Returns the column that is free then, or none. Prices that fell since the
  // choice have only made other rows dearer.
  template <class T>
  Index settle(View<const S> cost, T* price, T amount, Index column, const Least<T>& least) {
    Index row = least.row;
    T& its_price = price[row];
    // Another column has taken the row since the choice: choose again.
    if (static_cast<T>(cost.col(column)[row]) - its_price != least.first) return column;
    const T lower = least.second - least.first + amount;
    Index& owner = column_of_[at(row)];
    if (owner != none && lower == 0) {
      row = free_row_at<T>(cost, price, column, least);
      if (column_of_[at(row)] == none)
        column_of_[at(row)] = column;
      else
        tied_columns_.push_back(column);
      return none;
    }
    if (lower < infinity) its_price -= lower;
    return std::exchange(owner, column);
  }

  double reduced(View<const S> cost, Index row, Index column) const {
    return static_cast<double>(cost.col(column)[row]) - price_[at(row)];
  }

  // The augmenting row reduction, which is exact: bids with an amount of 0.
  void choose_rows(View<const S> cost) {
    const Index n = cost.rows;
    free_all();
    bid<double>(cost, price_.data(), 0.0, 0, n + n / 2);
    free_columns_.insert(free_columns_.end(), tied_columns_.begin(), tied_columns_.end());
    for (Index i = 0; i < n; ++i)
      if (column_of_[at(i)] == none) free_rows_.push_back(i);
  }

  // Returns a free row of least reduced cost, else the one that is known.
  template <class T>
  Index free_row_at(View<const S> cost, const T* price, Index column, const Least<T>& least) const {
    for (Index i = 0; i < cost.rows; ++i)
      if (column_of_[at(i)] == none && static_cast<T>(cost.col(column)[i]) - price[i] == least.first) return i;
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
    std::array<LaneLeast<double>, 2> lanes;
    simd::IntVec<double> rows = first_rows<double>();
    for_each_register<double, 2>(n, [&, price = price_.data(), scan_price = scan_price_.data(),
                                     distance = distance_.data()](int way, Index i, auto... count) {
      const simd::Vec<double> p = simd::load(First ? price + i : scan_price + i);
      simd::Vec<double> d = (load<double>(column + i, count...) - p) - shift;
      if constexpr (First)
        simd::store(scan_price + i, p);
      else
        d = simd::min<double>(d, simd::load(distance + i));
      simd::store(distance + i, d);
      lanes[at(way)].add(d, rows);
      rows += simd::lanes<double>;
    });
    lanes[0].join(lanes[1]);
    return least_of(lanes[0]);
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
      if (from == 0) break;
      visit = from - 1;  // whose row the column had
    }
  }

  void finish(View<const S> cost) {
    cost_ = 0;
    for (Index i = 0; i < cost.rows; ++i) {
      const Index j = column_of_[at(i)];
      row_of_[at(j)] = i;
      cost_ += static_cast<double>(cost.col(j)[i]);
      column_potential_[at(j)] = reduced(cost, i, j);
    }
  }

  std::vector<double> price_;                  // of each row, padded
  std::vector<S> bid_price_, row_sum_;         // during the reduction, padded
  std::vector<double> scan_price_, distance_;  // during a search; padded
  std::vector<Visit> visits_;                  // of a search, in the order of their distances
  std::vector<Index> column_of_, row_of_;      // none where free
  std::vector<Index> free_columns_, tied_columns_, free_rows_;
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
