// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/transport/assignment.hpp>
#include <diffeo/transport/distances.hpp>
#include <diffeo/transport/sinkhorn.hpp>
#include <limits>
#include <utility>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::sinkhorn;
using diffeo::SinkhornSolver;

namespace {

std::vector<double> some_weights(Index n, std::uint64_t stream) {
  const Array<double> x = gaussian<double>(n, 1, stream);
  std::vector<double> weights;
  for (Index i = 0; i < n; ++i) weights.push_back(3 * std::exp(x(i, 0)));
  return weights;
}

double sum_of(const std::vector<double>& weights) {
  double sum = 0;
  for (const double w : weights) sum += w;
  return sum;
}

}  // namespace

TEMPLATE_TEST_CASE("sinkhorn: the marginals", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const double rounding = sizeof(S) == 4 ? 1e-6 : 1e-12;
  for (const Index rows : {1, 3, 8, 37})
    for (const Index cols : {1, 4, 21}) {
      INFO(rows << " x " << cols);
      const Array<S> cost = squared_distances(gaussian<S>(rows, 2, 1), gaussian<S>(cols, 2, 2));
      const std::vector<double> a = some_weights(rows, 3), b = some_weights(cols, 4);
      for (const bool weighted : {false, true}) {
        const auto result = weighted ? sinkhorn(cost, a, b, {.regularisation = 0.3, .tolerance = 1e-9})
                                     : sinkhorn(cost, {.regularisation = 0.3, .tolerance = 1e-9});
        CHECK(result.converged);
        CHECK(result.error <= 1e-9);
        REQUIRE(result.plan.rows() == rows);
        REQUIRE(result.plan.cols() == cols);
        double error = 0;
        for (Index i = 0; i < rows; ++i) {
          const double weight = weighted ? a[static_cast<std::size_t>(i)] / sum_of(a) : 1.0 / static_cast<double>(rows);
          error += std::abs(result.plan.row(i).template cast<double>().sum() - weight);
        }
        CHECK(std::abs(error - result.error) < rounding);
        for (Index j = 0; j < cols; ++j) {
          const double weight = weighted ? b[static_cast<std::size_t>(j)] / sum_of(b) : 1.0 / static_cast<double>(cols);
          CHECK(std::abs(result.plan.col(j).template cast<double>().sum() - weight) < rounding);
        }
        // The plan has the form that makes it the best, and the cost is its own.
        for (Index i = 0; i < rows; ++i)
          for (Index j = 0; j < cols; ++j)
            CHECK(static_cast<double>(result.plan(i, j)) ==
                  Approx(std::exp((result.row_potentials[static_cast<std::size_t>(i)] +
                                   result.column_potentials[static_cast<std::size_t>(j)] -
                                   static_cast<double>(cost(i, j))) /
                                  0.3))
                      .epsilon(rounding));
        CHECK(result.cost ==
              Approx((result.plan.template cast<double>() * cost.template cast<double>()).sum()).epsilon(rounding));
      }
    }
}

TEST_CASE("sinkhorn: two points in closed form", "[transport]") {
  // Rows and columns weigh 1/2 each, the costs are 0 on the diagonal and c beside it.
  for (const double c : {0.1, 1.0, 5.0})
    for (const double regularisation : {0.05, 0.7, 30.0}) {
      Array<double> cost(2, 2);
      cost << 0, c, c, 0;
      const auto result = sinkhorn(cost, {.regularisation = regularisation, .tolerance = 1e-14});
      const double diagonal = 0.5 / (1 + std::exp(-c / regularisation));
      CHECK(result.plan(0, 0) == Approx(diagonal).epsilon(1e-13));
      CHECK(result.plan(1, 1) == Approx(diagonal).epsilon(1e-13));
      CHECK(std::abs(result.plan(0, 1) - (0.5 - diagonal)) < 1e-14);
      CHECK(std::abs(result.cost - 2 * c * (0.5 - diagonal)) < 1e-13);
    }
}

TEST_CASE("sinkhorn: normal distributions in closed form", "[transport]") {
  // Of normal distributions with standard deviations s and t the plan is normal, with the covariance c that solves
  // c^2 + c regularisation / 2 = s^2 t^2 (Janati, Muzellec, Peyre and Cuturi 2020, theorem 1).
  constexpr double s = 0.8, t = 1.3, shift = 0.6, spacing = 0.1;
  constexpr Index n = 161, m = 191;
  const auto place = [](Index i, Index count) {
    return spacing * (static_cast<double>(i) - static_cast<double>(count - 1) / 2);
  };
  Array<double> cost(n, m);
  std::vector<double> a, b;
  for (Index i = 0; i < n; ++i) a.push_back(std::exp(-0.5 * std::pow(place(i, n) / s, 2)));
  for (Index j = 0; j < m; ++j) b.push_back(std::exp(-0.5 * std::pow((place(j, m) - shift) / t, 2)));
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < m; ++j) cost(i, j) = std::pow(place(i, n) - place(j, m), 2);
  for (const double regularisation : {0.2, 1.0, 4.0}) {
    const auto result = sinkhorn(cost, a, b, {.regularisation = regularisation, .tolerance = 1e-10});
    CHECK(result.converged);
    const double c = std::sqrt(std::pow(regularisation / 4, 2) + s * s * t * t) - regularisation / 4;
    double covariance = 0;
    for (Index i = 0; i < n; ++i)
      for (Index j = 0; j < m; ++j) covariance += result.plan(i, j) * place(i, n) * (place(j, m) - shift);
    CHECK(covariance == Approx(c).epsilon(1e-5));
    CHECK(result.cost == Approx(shift * shift + s * s + t * t - 2 * c).epsilon(1e-5));
  }
}

TEST_CASE("sinkhorn: from the product of the weights to the assignment", "[transport]") {
  constexpr Index n = 12;
  const Array<double> cost = squared_distances(gaussian<double>(n, 2, 1), gaussian<double>(n, 2, 2));
  const double least = assignment(cost).cost / n, allowed = 1e-4 * cost.maxCoeff();
  double before = cost.mean();
  for (const double regularisation : {1e3, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003}) {
    INFO("regularisation " << regularisation);
    const auto result = sinkhorn(cost, {.regularisation = regularisation, .max_iterations = 30'000});
    CHECK(result.converged);
    // The entropy of a plan lies between log n and 2 log n.
    CHECK(result.cost >= least - allowed);
    CHECK(result.cost <= least + regularisation * std::log(static_cast<double>(n)) + allowed);
    CHECK(result.cost < before);
    before = result.cost;
  }
  CHECK(std::abs(before - least) < 5e-4);
  const auto product = sinkhorn(cost, {.regularisation = 1e9});
  CHECK((product.plan - 1.0 / (n * n)).abs().maxCoeff() < 1e-9);
}

TEMPLATE_TEST_CASE("sinkhorn: no overflow", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = gaussian<S>(20, 2, 1), y = gaussian<S>(20, 2, 2);
  for (const S scale : {S(1e-3), S(1), S(1e3), S(1e6)}) {
    INFO("scale " << scale);
    const Array<S> cost = squared_distances(x, y) * scale;
    const auto result = sinkhorn(cost, {.regularisation = 1e-3, .max_iterations = 200});
    CHECK(result.plan.allFinite());
    CHECK((result.plan >= S(0)).all());
    CHECK(std::isfinite(result.cost));
    CHECK(std::isfinite(result.error));
    CHECK(result.iterations <= 200);
    CHECK(result.converged == (result.error <= 1e-4));
    for (const double f : result.row_potentials) CHECK(std::isfinite(f));
    // Column sums are right all the time, as far as the exponents have digits.
    if (scale <= S(1e6)) CHECK((result.plan.colwise().sum() - S(0.05)).abs().maxCoeff() < S(1e-6));
  }
  // Costs that are added to a row change its potential alone: the sums leave the range of double on the way.
  Array<S> cost = squared_distances(x, y);
  const auto plain = sinkhorn(cost, {.regularisation = 0.5, .tolerance = 1e-10, .max_iterations = 20'000});
  cost.row(3) += S(4096);
  cost.col(5) -= S(2048);
  const auto moved = sinkhorn(cost, {.regularisation = 0.5, .tolerance = 1e-10, .max_iterations = 20'000});
  CHECK(moved.converged);
  CHECK((moved.plan - plain.plan).abs().maxCoeff() < S(sizeof(S) == 4 ? 1e-3 : 1e-9));
  CHECK(moved.row_potentials[3] - moved.row_potentials[2] - (plain.row_potentials[3] - plain.row_potentials[2]) ==
        Approx(4096).epsilon(1e-5));
}

TEST_CASE("sinkhorn: iterates, against logarithms of sums of exponentials", "[transport]") {
  // Potentials move by hundreds of times the regularisation, so that the kernel is computed anew.
  constexpr Index n = 23, m = 17;
  const Array<double> cost = squared_distances(gaussian<double>(n, 2, 1), gaussian<double>(m, 2, 2) * 2);
  const std::vector<double> a = some_weights(n, 3), b = some_weights(m, 4);
  for (const double regularisation : {1.0, 0.03, 0.003})
    for (const int iterations : {1, 2, 40, 500}) {
      INFO("regularisation " << regularisation << ", " << iterations << " iterations");
      const auto log_sum = [](const auto& exponents) {
        const double most = exponents.maxCoeff();
        return most + std::log((exponents - most).exp().sum());
      };
      const Array<double> scaled = cost / regularisation;
      Array<double> f(n, 1), g(1, m);
      for (Index j = 0; j < m; ++j) g(0, j) = std::log(b[static_cast<std::size_t>(j)] / sum_of(b));
      for (int k = 0; k < iterations; ++k) {
        for (Index i = 0; i < n; ++i)
          f(i, 0) = std::log(a[static_cast<std::size_t>(i)] / sum_of(a)) - log_sum(g - scaled.row(i));
        for (Index j = 0; j < m; ++j)
          g(0, j) = std::log(b[static_cast<std::size_t>(j)] / sum_of(b)) - log_sum(f - scaled.col(j));
      }
      const auto result =
          sinkhorn(cost, a, b, {.regularisation = regularisation, .tolerance = 1e-300, .max_iterations = iterations});
      CHECK(result.iterations == iterations);
      CHECK(!result.converged);
      double plan_error = 0, potential_error = 0;
      for (Index i = 0; i < n; ++i) {
        potential_error = std::max(
            potential_error, std::abs(result.row_potentials[static_cast<std::size_t>(i)] / regularisation - f(i, 0)));
        for (Index j = 0; j < m; ++j)
          plan_error = std::max(plan_error, std::abs(result.plan(i, j) - std::exp(f(i, 0) + g(0, j) - scaled(i, j))));
      }
      CHECK(plan_error < 1e-11);
      CHECK(potential_error < 1e-8);
    }
}

TEST_CASE("sinkhorn: weights that are far apart", "[transport]") {
  const Array<double> cost = squared_distances(gaussian<double>(5, 2, 1), gaussian<double>(3, 2, 2)) * 100;
  const std::vector<double> a = {1e-29, 1, 1e-20, 1, 1e-3}, b = {1e-28, 1, 1e-10};
  const auto result = sinkhorn(cost, a, b, {.regularisation = 0.1, .tolerance = 1e-12});
  CHECK(result.converged);
  const double total = 1 + 1 + 1e-3;
  for (Index i = 0; i < 5; ++i)
    CHECK(result.plan.row(i).sum() == Approx(a[static_cast<std::size_t>(i)] / total).epsilon(1e-9));
  for (Index j = 0; j < 3; ++j) CHECK(result.plan.col(j).sum() == Approx(b[static_cast<std::size_t>(j)]).epsilon(1e-9));
}

TEMPLATE_TEST_CASE("sinkhorn: columns drawn from the plan", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  constexpr Index rows = 11, cols = 7;
  const Array<S> cost = squared_distances(gaussian<S>(rows, 2, 1), gaussian<S>(cols, 2, 2));
  SinkhornSolver<S> solver({.regularisation = 0.5});
  solver.solve(cost);
  Array<S> plan(rows, cols);
  solver.plan_into(view(cost), view(plan));
  std::vector<Index> columns(rows);
  constexpr int draws = 20000;
  Array<double> count = Array<double>::Zero(rows, cols);
  for (int seed = 0; seed < draws; ++seed) {
    solver.sample_columns(view(cost), static_cast<std::uint64_t>(seed), columns);
    for (Index i = 0; i < rows; ++i) {
      const Index j = columns[static_cast<std::size_t>(i)];
      REQUIRE(j >= 0);
      REQUIRE(j < cols);
      count(i, j) += 1;
    }
  }
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) {
      const double p = static_cast<double>(plan(i, j)) / static_cast<double>(plan.row(i).sum());
      // Five standard deviations, of 77 numbers.
      CHECK(std::abs(count(i, j) - draws * p) <= 5 * std::sqrt(draws * p * (1 - p)) + 1);
    }
  // A row's column depends on (seed, row) and its plan: the same costs below others.
  solver.sample_columns(view(cost), 77, columns);
  const std::vector<Index> first = columns;
  solver.sample_columns(view(cost), 77, columns);
  CHECK(columns == first);
  solver.sample_columns(view(cost), 78, columns);
  CHECK(columns != first);
  // Nearly without regularisation the columns are those of the assignment.
  const Array<S> square = squared_distances(gaussian<S>(30, 2, 1), gaussian<S>(30, 2, 5));
  SinkhornSolver<S> sharp({.regularisation = 1e-3, .max_iterations = 200'000});
  CHECK(sharp.solve(square).converged);
  std::vector<Index> drawn(30);
  sharp.sample_columns(view(square), 1, drawn);
  CHECK(drawn == assignment(square).columns);
}

TEST_CASE("sinkhorn: one solver for many problems", "[transport]") {
  SinkhornSolver<double> solver({.regularisation = 0.2});
  const Array<double> large = squared_distances(gaussian<double>(40, 2, 1), gaussian<double>(33, 2, 2));
  const Array<double> small = squared_distances(gaussian<double>(5, 2, 1), gaussian<double>(6, 2, 2));
  const double first = solver.solve(large).cost;
  CHECK(solver.solve(small).cost == sinkhorn(small, {.regularisation = 0.2}).cost);
  CHECK(solver.row_potentials().size() == 5);
  CHECK(solver.column_potentials().size() == 6);
  CHECK(solver.solve(large).cost == first);
  const diffeo::View<const double> block{large.data() + 2, 9, 7, 40};
  const Array<double> copied = large.block(2, 0, 9, 7);
  CHECK(solver.solve(block).cost == sinkhorn(copied, {.regularisation = 0.2}).cost);
  CHECK(sinkhorn((large + 0).matrix(), {.regularisation = 0.2}).cost == first);
}

TEST_CASE("sinkhorn: a problem that was refused leaves no plan", "[transport]") {
  SinkhornSolver<double> solver;
  const Array<double> small = Array<double>::Ones(2, 3), large = Array<double>::Ones(500, 400);
  Array<double> with_nan = large, plan(500, 400), small_plan(2, 3);
  with_nan(3, 1) = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> negative = {1, -1};
  std::vector<Index> columns(500);
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  solver.solve(small);
  CHECK_THROWS_AS(solver.solve(with_nan), invalid_argument);
  CHECK(contains(message([&] { solver.plan_into(view(large), view(plan)); }), "the last problem was 0 x 0"));
  CHECK(contains(message([&] { solver.sample_columns(view(large), 1, columns); }), "the last problem was 0 x 0"));
  solver.solve(small);
  CHECK_THROWS_AS(solver.solve(view(small), negative, {}), invalid_argument);
  CHECK(contains(message([&] { solver.plan_into(view(small), view(small_plan)); }), "the last problem was 0 x 0"));
  solver.solve(small);
  solver.plan_into(view(small), view(small_plan));
  CHECK(small_plan.sum() == Approx(1));
  // Nor does a solver that was moved.
  const SinkhornSolver<double> moved = std::move(solver);
  CHECK(moved.row_potentials().size() == 2);
  CHECK(contains(message([&] { solver.plan_into(view(small), view(small_plan)); }), "the last problem was 0 x 0"));
  CHECK(solver.solve(small).converged);
}

TEST_CASE("sinkhorn: bad input", "[transport]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const Array<double> cost = Array<double>::Ones(3, 2);
  for (const double regularisation :
       {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    CHECK(
        contains(message([&] { sinkhorn(cost, {.regularisation = regularisation}); }), "sinkhorn: regularisation is "));
  CHECK(contains(message([&] { sinkhorn(cost, {.tolerance = 0}); }), "sinkhorn: tolerance is 0"));
  CHECK(contains(message([&] { sinkhorn(cost, {.max_iterations = 0}); }), "sinkhorn: max_iterations is 0"));
  CHECK(message([&] { sinkhorn(Array<double>(0, 3)); }) ==
        "sinkhorn: the costs are 0 x 3, expected at least one row and column");
  CHECK(contains(message([&] { sinkhorn(Array<double>(3, 0)); }), "sinkhorn: the costs are 3 x 0"));
  const std::vector<double> two = {1, 2}, three = {1, 2, 3}, zero = {1, 0}, all_zero = {1, 2, -1};
  CHECK(message([&] { sinkhorn(cost, two, two); }) == "sinkhorn: there are 2 row weights, expected 3");
  CHECK(message([&] { sinkhorn(cost, three, three); }) == "sinkhorn: there are 3 column weights, expected 2");
  CHECK(message([&] { sinkhorn(cost, three, zero); }) ==
        "sinkhorn: column weight 1 is 0, expected finite and greater than 0");
  CHECK(contains(message([&] { sinkhorn(cost, all_zero, two); }), "sinkhorn: row weight 2 is -1"));
  const std::vector<double> far = {1e-31, 1, 1}, large = {1e308, 1e308, 1e308};
  CHECK(message([&] { sinkhorn(cost, far, two); }) ==
        "sinkhorn: row weight 0 is 1e-31 of 2, expected at least 1e-30 of their sum");
  CHECK(contains(message([&] { sinkhorn(cost, large, two); }), "sinkhorn: row weight 0 is 1e+308 of inf"));
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Array<double> with_bad = cost;
    with_bad(2, 1) = bad;
    CHECK(contains(message([&] { sinkhorn(with_bad); }), "at (row 2, column 1), expected finite values"));
  }
  CHECK(message([&] { sinkhorn(cost * -1e12); }) ==
        "sinkhorn: a cost has the absolute value 1e+12, regularisation is 0.05, expected costs of at most 1e12 times "
        "the regularisation");
  SinkhornSolver<double> solver;
  std::vector<Index> columns(2);
  Array<double> plan(2, 2);
  CHECK(contains(message([&] { solver.plan_into(view(cost), view(plan)); }), "the last problem was 0 x 0"));
  solver.solve(cost);
  CHECK(message([&] { solver.plan_into(view(cost), view(plan)); }) == "sinkhorn: the plan is 2 x 2, expected 3 x 2");
  CHECK(contains(message([&] { solver.sample_columns(view(cost), 1, columns); }), "expected one for each of 3 rows"));
}
