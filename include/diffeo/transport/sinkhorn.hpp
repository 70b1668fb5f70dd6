// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/elementwise.hpp>
#include <diffeo/math/random_fill.hpp>
#include <limits>
#include <span>
#include <utility>
#include <vector>

/// Optimal transport with entropic regularisation, by Sinkhorn's iterations in the log domain (Peyre and Cuturi,
/// "Computational Optimal Transport", Foundations and Trends in Machine Learning 11, 2019, sections 4.2 and 4.4).
namespace diffeo::inline DIFFEO_ISA {

/// Options of Sinkhorn's iterations.
///
/// | option         | type   | default                                                                          |
/// |----------------|--------|----------------------------------------------------------------------------------|
/// | regularisation | double | 0.05, in units of the cost: weight of the entropy                                |
/// | tolerance      | double | 1e-4: sum of the absolute errors of the row sums of the plan at which it is done |
/// | max_iterations | int    | 1000                                                                             |
///
/// As the regularisation goes to 0 the plan becomes an optimal one, as it grows the product of the weights. Iterations
/// are many where it is small relative to the costs: for 256 normal points in the plane and as many others, with
/// squared distances as costs, an error of 1e-4 takes some 30 iterations with a regularisation of 1 and thousands with
/// 0.01.
struct SinkhornOptions {
  double regularisation = 0.05;
  double tolerance = 1e-4;
  int max_iterations = 1000;

  /// Throws invalid_argument for an option out of range.
  void check() const {
    require(regularisation > 0 && std::isfinite(regularisation), "sinkhorn: regularisation is ", regularisation,
            ", expected finite and greater than 0 (AssignmentSolver solves the problem without)");
    require(tolerance > 0 && std::isfinite(tolerance), "sinkhorn: tolerance is ", tolerance,
            ", expected finite and greater than 0");
    require(max_iterations >= 1, "sinkhorn: max_iterations is ", max_iterations, ", expected at least 1");
  }
};

/// How Sinkhorn's iterations ended.
struct SinkhornStatistics {
  int iterations = 0;      ///< updates of all potentials
  double error = 0;        ///< sum of the absolute errors of the row sums; the column sums are exact up to rounding
  double cost = 0;         ///< sum of plan times cost, without the entropy
  bool converged = false;  ///< whether the error is within the tolerance
};

/// Solves transport problems with entropic regularisation: finds the plan P, N x M, with row sums a and column sums b
/// that minimises sum_ij P_ij cost(i, j) + regularisation sum_ij P_ij (log P_ij - 1). It has the form P_ij = exp((f_i +
/// g_j - cost(i, j)) / regularisation) with the potentials f and g.
///
/// All is computed in double whatever the scalar of the costs, because a regularisation that is small relative to the
/// costs leaves float few digits. Potentials are kept in the log domain: no iteration over- or underflows, whatever the
/// regularisation. The exponentials are computed anew only where the potentials have changed by more than 69 times the
/// regularisation, a factor of 1e30; between, iterations multiply their rows and columns (Peyre and Cuturi 2019, remark
/// 4.22), which takes a seventh of the time.
///
/// The memory, N M numbers in double, is kept from problem to problem: solving others of at most the same size
/// allocates nothing.
template <Real S>
class SinkhornSolver {
 public:
  /// Throws invalid_argument for an option out of range.
  explicit SinkhornSolver(const SinkhornOptions& options = {}) : options_(options) { options_.check(); }

  const SinkhornOptions& options() const { return options_; }
  /// Sets the options of the problems to come and keeps the memory. Throws invalid_argument for an option out of range.
  void set_options(const SinkhornOptions& options) {
    options.check();
    options_ = options;
  }

  /// Solves the problem of a matrix of costs, N x M, with equal weights of the rows, 1 / N, and of the columns, 1 / M.
  /// A problem that is not solved after max_iterations is no error: see SinkhornStatistics::converged. Throws
  /// invalid_argument for an empty matrix, and for costs that are NaN, infinite or larger than 1e12 times the
  /// regularisation, of which double would not leave the plan enough digits.
  const SinkhornStatistics& solve(View<const S> cost) { return solve(cost, {}, {}); }
  const SinkhornStatistics& solve(const Array<S>& cost) { return solve(view(cost)); }

  /// Solves the problem with a weight for each row and for each column; weights that are left empty are equal. The
  /// weights of either kind are divided by their sum. Throws invalid_argument as above, for another number of weights
  /// than rows or columns, and for weights that are not finite, not positive or less than 1e-30 of their sum.
  const SinkhornStatistics& solve(View<const S> cost, std::span<const double> row_weights,
                                  std::span<const double> column_weights) {
    require(cost.rows > 0 && cost.cols > 0, "sinkhorn: the costs are ", cost.rows, " x ", cost.cols,
            ", expected at least one row and column");
    g_.clear();  // until this problem is solved there is none
    potentials_.clear();
    scale_ = 1 / options_.regularisation;
    set_weights("row", row_weights, cost.rows, row_weight_, row_log_weight_);
    set_weights("column", column_weights, cost.cols, column_weight_, column_log_weight_);
    check(cost);
    f_.resize(padded(cost.rows));
    u_.resize(padded(cost.rows));
    row_sum_.resize(padded(cost.rows));
    kernel_.resize(padded(cost.rows) * at(cost.cols));
    v_.resize(at(cost.cols));
    start(cost);
    compute_kernel(cost);
    statistics_ = {};
    for (statistics_.iterations = 1;; ++statistics_.iterations) {
      update_columns(cost.rows);
      statistics_.converged = statistics_.error <= options_.tolerance;
      if (statistics_.converged || statistics_.iterations == options_.max_iterations) break;
      update_rows(cost.rows);
      if (!in_range(u_, cost.rows) || !in_range(v_, cost.cols)) {
        absorb(cost);
        compute_kernel(cost);
      }
    }
    finish(cost);
    potentials_.resize(at(cost.rows) + at(cost.cols));
    for (std::size_t i = 0; i < at(cost.rows); ++i) potentials_[i] = f_[i] * options_.regularisation;
    for (std::size_t j = 0; j < g_.size(); ++j) potentials_[at(cost.rows) + j] = g_[j] * options_.regularisation;
    return statistics_;
  }

  const SinkhornStatistics& statistics() const { return statistics_; }
  /// Potential f_i of each row in the last problem, in units of the cost.
  std::span<const double> row_potentials() const { return {potentials_.data(), potentials_.size() - g_.size()}; }
  /// Potential g_j of each column in the last problem, in units of the cost.
  std::span<const double> column_potentials() const { return std::span(potentials_).last(g_.size()); }

  /// Writes the plan of the last problem, whose costs are to be passed again, N x M. Throws invalid_argument for
  /// another shape.
  void plan_into(View<const S> cost, View<S> plan) const {
    require_solved("plan_into", cost);
    require(plan.rows == cost.rows && plan.cols == cost.cols, "sinkhorn: the plan is ", plan.rows, " x ", plan.cols,
            ", expected ", cost.rows, " x ", cost.cols);
    for (Index j = 0; j < cost.cols; ++j)
      for_each_register(cost.rows, [&](Index i, auto... count) {
        const Doubles p = simd::exp<double>(exponent(cost, i, j, count...));
        for (Index l = 0; l < std::min(lanes, cost.rows - i); ++l) plan.col(j)[i + l] = static_cast<S>(p[l]);
      });
  }

  /// Draws a column for each row from the plan of the last problem, whose costs are to be passed again: column j of row
  /// i with probability P_ij / sum_k P_ik. The column of row i depends on its plan and on (seed, i) alone. Throws
  /// invalid_argument for another shape or another number of columns to write than rows.
  void sample_columns(View<const S> cost, std::uint64_t seed, std::span<Index> columns) {
    require_solved("sample_columns", cost);
    require(static_cast<Index>(columns.size()) == cost.rows, "sinkhorn: sample_columns writes ", columns.size(),
            " columns, expected one for each of ", cost.rows, " rows");
    constexpr std::uint64_t stream = 0x73696E6B686F726E;  // "sinkhorn"
    draw_.resize(padded(cost.rows));
    fill_uniform(View<double>{draw_.data(), cost.rows, 1, cost.rows}, seed, stream);
    for_each_register(cost.rows, [&](Index i, auto... count) {
      // The column is the number of those whose cumulative probability the draw has passed.
      Doubles total{}, passed{}, column{};
      const auto probability = [&](Index j) { return simd::exp<double>(exponent(cost, i, j, count...)); };
      for (Index j = 0; j < cost.cols; ++j) total += probability(j);
      const Doubles draw = simd::load(draw_.data() + i) * total;
      for (Index j = 0; j < cost.cols; ++j) {
        passed += probability(j);
        column += passed <= draw ? simd::broadcast(1.0) : Doubles{};
      }
      for (Index l = 0; l < std::min(lanes, cost.rows - i); ++l) columns[at(i + l)] = static_cast<Index>(column[l]);
    });
  }

 private:
  using Doubles = simd::Vec<double>;
  static constexpr Index lanes = simd::lanes<double>;
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  static std::size_t padded(Index n) { return at((n + lanes - 1) / lanes * lanes); }

  // Calls f(i) for the first row of each full register and f(i, count) for the rest.
  template <class F>
  static void for_each_register(Index n, const F& f) {
    Index i = 0;
    for (; i + lanes <= n; i += lanes) f(i);
    if (i < n) f(i, n - i);
  }

  // Limits of the multipliers. A sum of the plan between two updates is at least the product of two weights, so that
  // one update changes a multiplier by at most the inverse of the least weight; entries of the kernel that have
  // underflowed are of no account even so.
  static constexpr double largest_multiplier = 1e30, least_weight = 1 / largest_multiplier;

  static void set_weights(const char* kind, std::span<const double> weights, Index n, std::vector<double>& weight,
                          std::vector<double>& log_weight) {
    weight.assign(at(n), 1.0 / static_cast<double>(n));
    if (!weights.empty()) {
      require(static_cast<Index>(weights.size()) == n, "sinkhorn: there are ", weights.size(), ' ', kind,
              " weights, expected ", n);
      double sum = 0;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        require(weights[i] > 0 && std::isfinite(weights[i]), "sinkhorn: ", kind, " weight ", i, " is ", weights[i],
                ", expected finite and greater than 0");
        sum += weights[i];
      }
      for (std::size_t i = 0; i < weights.size(); ++i) {
        weight[i] = weights[i] / sum;
        require(weight[i] >= least_weight, "sinkhorn: ", kind, " weight ", i, " is ", weights[i], " of ", sum,
                ", expected at least 1e-30 of their sum");
      }
    }
    log_weight.assign(padded(n), 0);
    for (std::size_t i = 0; i < weight.size(); ++i) log_weight[i] = std::log(weight[i]);
  }

  void check(View<const S> cost) const {
    Doubles largest{}, sum{};
    for (Index j = 0; j < cost.cols; ++j)
      for_each_register(cost.rows, [&](Index i, auto... count) {
        const Doubles c = simd::load_double<S>(cost.col(j) + i, count...);
        largest = simd::max<double>(simd::abs<double>(c), largest);
        sum += c * 0.0;  // NaN if c is NaN or infinite
      });
    if (!(simd::sum<double>(sum) == 0)) require_finite(as_eigen(cost), "sinkhorn: the cost");
    const double most = -simd::min_lane<double>(-largest)[0];
    require(most * scale_ <= 1e12, "sinkhorn: a cost has the absolute value ", most, ", regularisation is ",
            options_.regularisation, ", expected costs of at most 1e12 times the regularisation");
  }

  void require_solved(const char* what, View<const S> cost) const {
    const auto rows = static_cast<Index>(row_potentials().size()), cols = static_cast<Index>(g_.size());
    require(cost.rows > 0 && cost.rows == rows && cost.cols == cols, "sinkhorn: ", what, " got costs of ", cost.rows,
            " x ", cost.cols, ", the last problem was ", rows, " x ", cols);
  }

  // (g_j - cost) / regularisation, and the same with f_i, of the rows of a register.
  template <class... Count>
  Doubles exponent_without_row(View<const S> cost, Index i, Index j, Count... count) const {
    const Doubles c = simd::load_double<S>(cost.col(j) + i, count...);
    return simd::mul_add<double>(c, simd::broadcast(-scale_), simd::broadcast(g_[at(j)]));
  }
  template <class... Count>
  Doubles exponent(View<const S> cost, Index i, Index j, Count... count) const {
    return exponent_without_row(cost, i, j, count...) + simd::load(f_.data() + i);
  }

  // Sets the potentials by one iteration in which exponents are shifted by their maxima.
  void start(View<const S> cost) {
    g_.assign(column_log_weight_.begin(), column_log_weight_.begin() + cost.cols);
    for_each_register(cost.rows, [&](Index i, auto... count) {
      Doubles shift = simd::broadcast(-infinity), sum{};
      for (Index j = 0; j < cost.cols; ++j)
        shift = simd::max<double>(exponent_without_row(cost, i, j, count...), shift);
      for (Index j = 0; j < cost.cols; ++j)
        sum += simd::exp<double>(exponent_without_row(cost, i, j, count...) - shift);
      simd::store(f_.data() + i, simd::load(row_log_weight_.data() + i) - simd::log<double>(sum) - shift);
    });
    for (Index j = 0; j < cost.cols; ++j) {
      g_[at(j)] = 0;
      Doubles most = simd::broadcast(-infinity), sum{};
      for_each_register(cost.rows, [&](Index i, auto... count) {
        most = simd::max<double>(in_column(exponent(cost, i, j, count...), -infinity, count...), most);
      });
      g_[at(j)] = simd::min_lane<double>(-most)[0];
      for_each_register(cost.rows, [&](Index i, auto... count) {
        sum += in_column(simd::exp<double>(exponent(cost, i, j, count...)), 0, count...);
      });
      g_[at(j)] += column_log_weight_[at(j)] - std::log(simd::sum<double>(sum));
    }
  }

  // Computes the plan of the potentials, the kernel, to which the multipliers belong from now on. Rows of padding are
  // 0.
  void compute_kernel(View<const S> cost) {
    for (Index j = 0; j < cost.cols; ++j)
      for_each_register(cost.rows, [&](Index i, auto... count) {
        simd::store(kernel_column(cost.rows, j) + i,
                    in_column(simd::exp<double>(exponent(cost, i, j, count...)), 0, count...));
      });
    std::fill(u_.begin(), u_.end(), 1.0);
    std::fill(v_.begin(), v_.end(), 1.0);
  }

  double* kernel_column(Index rows, Index j) { return kernel_.data() + padded(rows) * at(j); }

  // Sets the multipliers of the columns so that the column sums of the plan are right, and computes the row sums, still
  // without the multipliers of the rows, and their errors, in the same pass over the kernel.
  void update_columns(Index rows) {
    const Index n = static_cast<Index>(padded(rows));
    const double* const u = u_.data();
    double* const row_sum = row_sum_.data();
    std::fill(row_sum_.begin(), row_sum_.end(), 0.0);
    for (std::size_t j = 0; j < v_.size(); ++j) {
      const double* const kernel = kernel_.data() + at(n) * j;
      Doubles even{}, odd{};
      Index i = 0;
      for (; i + 2 * lanes <= n; i += 2 * lanes) {
        even = simd::mul_add<double>(simd::load(kernel + i), simd::load(u + i), even);
        odd = simd::mul_add<double>(simd::load(kernel + i + lanes), simd::load(u + i + lanes), odd);
      }
      if (i < n) even = simd::mul_add<double>(simd::load(kernel + i), simd::load(u + i), even);
      v_[j] = column_weight_[j] / simd::sum<double>(even + odd);
      const Doubles v = simd::broadcast(v_[j]);
      for (i = 0; i < n; i += lanes)
        simd::store(row_sum + i, simd::mul_add<double>(simd::load(kernel + i), v, simd::load(row_sum + i)));
    }
    statistics_.error = 0;
    for (std::size_t i = 0; i < row_weight_.size(); ++i)
      statistics_.error += std::abs(u_[i] * row_sum_[i] - row_weight_[i]);
  }

  // Sets the multipliers of the rows so that the row sums of the plan are right.
  void update_rows(Index rows) {
    for (std::size_t i = 0; i < at(rows); ++i) u_[i] = row_weight_[i] / row_sum_[i];
  }

  static bool in_range(const std::vector<double>& multipliers, Index count) {
    double least = 1, largest = 1;
    for (std::size_t i = 0; i < at(count); ++i) {
      least = std::min(least, multipliers[i]);
      largest = std::max(largest, multipliers[i]);
    }
    return least >= 1 / largest_multiplier && largest <= largest_multiplier;
  }

  // Moves the multipliers to the potentials.
  void absorb(View<const S> cost) {
    for (std::size_t i = 0; i < at(cost.rows); ++i) f_[i] += std::log(u_[i]);
    for (std::size_t j = 0; j < at(cost.cols); ++j) g_[j] += std::log(v_[j]);
  }

  void finish(View<const S> cost) {
    statistics_.cost = 0;
    for (Index j = 0; j < cost.cols; ++j) {
      Doubles sum{};
      for_each_register(cost.rows, [&](Index i, auto... count) {
        const Doubles c = simd::load_double<S>(cost.col(j) + i, count...);
        sum = simd::mul_add<double>(c * simd::load(u_.data() + i), simd::load(kernel_column(cost.rows, j) + i), sum);
      });
      statistics_.cost += simd::sum<double>(sum) * v_[at(j)];
    }
    absorb(cost);
  }

  // Returns v with another value in the lanes that are no rows.
  static Doubles in_column(Doubles v, double) { return v; }
  static Doubles in_column(Doubles v, double other, Index count) {
    for (Index l = count; l < lanes; ++l) v[l] = other;
    return v;
  }

  SinkhornOptions options_;
  SinkhornStatistics statistics_;
  double scale_ = 0;                                // 1 / regularisation
  std::vector<double> f_, g_;                       // potentials over the regularisation; f_ is padded
  std::vector<double> kernel_;                      // plan of the potentials; columns are padded
  std::vector<double> u_, v_;                       // multipliers of the kernel's rows and columns; u_ is padded
  std::vector<double> row_sum_;                     // of the kernel times v_, padded
  std::vector<double> row_weight_, column_weight_;  // their sums are 1
  std::vector<double> row_log_weight_, column_log_weight_;  // padded
  std::vector<double> potentials_;                          // of the rows, then of the columns
  std::vector<double> draw_;
};

/// A transport plan with entropic regularisation, and how it was found.
template <Real S>
struct TransportPlan : SinkhornStatistics {
  Array<S> plan;                          ///< N x M
  std::vector<double> row_potentials;     ///< N numbers, in units of the cost
  std::vector<double> column_potentials;  ///< M numbers, in units of the cost
};

/// Returns the plan with entropic regularisation for a matrix of costs, N x M, any Eigen expression. Weights that are
/// left empty are equal. Throws as SinkhornSolver::solve() does.
template <class Derived>
  requires Real<typename Derived::Scalar>
TransportPlan<typename Derived::Scalar> sinkhorn(const Eigen::DenseBase<Derived>& cost,
                                                 std::span<const double> row_weights,
                                                 std::span<const double> column_weights,
                                                 const SinkhornOptions& options = {}) {
  using S = typename Derived::Scalar;
  const Array<S> values = cost.derived().array();
  SinkhornSolver<S> solver(options);
  TransportPlan<S> result{solver.solve(view(values), row_weights, column_weights), {}, {}, {}};
  result.plan.resize(values.rows(), values.cols());
  solver.plan_into(view(values), view(result.plan));
  result.row_potentials.assign(solver.row_potentials().begin(), solver.row_potentials().end());
  result.column_potentials.assign(solver.column_potentials().begin(), solver.column_potentials().end());
  return result;
}
template <class Derived>
  requires Real<typename Derived::Scalar>
auto sinkhorn(const Eigen::DenseBase<Derived>& cost, const SinkhornOptions& options = {}) {
  return sinkhorn(cost, {}, {}, options);
}

}  // namespace diffeo::inline DIFFEO_ISA
