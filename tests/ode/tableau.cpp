// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <diffeo/ode/dense_output.hpp>
#include <diffeo/ode/tableau.hpp>
#include <vector>

#include "../catch.hpp"
#include "methods.hpp"

using diffeo::ode::DenseOutput;
using diffeo::ode::DenseWeights;
using diffeo::ode::max_stages;
using diffeo::ode::Method;
using diffeo::ode::Tableau;
using diffeo::ode::tableau;

namespace {

// Within rounding, at compile time.
constexpr bool close(double a, double b, double tolerance) { return a - b < tolerance && b - a < tolerance; }

// Row sums, the triangle, and what first_same_as_last, twin_ends and the end stage promise.
constexpr bool consistent(const Tableau& t) {
  const std::size_t stages = t.stages + t.dense_stages;
  double sum_b = 0, sum_e = 0;
  for (std::size_t i = 0; i < max_stages; ++i) {
    double row = 0, size = 1;
    for (std::size_t j = 0; j < max_stages; ++j) {
      if (j >= i && t.a[i][j] != 0) return false;
      if (i >= stages && t.a[i][j] != 0) return false;
      row += t.a[i][j];
      size += t.a[i][j] < 0 ? -t.a[i][j] : t.a[i][j];
    }
    if (!close(row, t.c[i], 1e-15 * size)) return false;
    if (i >= t.stages && (t.b[i] != 0 || t.e[i] != 0 || t.damping[i] != 0)) return false;
    sum_b += t.b[i];
    sum_e += t.e[i];
  }
  if (!close(sum_b, 1, 2e-15) || !close(sum_e, 0, 1e-14)) return false;
  if (t.end_stage() >= stages) return false;
  for (std::size_t j = 0; j < max_stages; ++j)
    if (!close(t.a[t.end_stage()][j], t.b[j], 1e-300)) return false;
  if (t.c[t.end_stage()] != 1) return false;
  if (t.twin_ends && (t.c[t.stages - 1] != 1 || t.c[t.stages - 2] != 1)) return false;
  return t.adaptive() == !close(t.e[0], 0, 1e-300);
}

static_assert(consistent(tableau(Method::euler)));
static_assert(consistent(tableau(Method::midpoint)));
static_assert(consistent(tableau(Method::heun)));
static_assert(consistent(tableau(Method::rk4)));
static_assert(consistent(tableau(Method::bosh3)));
static_assert(consistent(tableau(Method::dopri5)));
static_assert(consistent(tableau(Method::tsit5)));
static_assert(consistent(tableau(Method::dopri8)));
static_assert(tableau(Method::dopri5).evaluations() == 6 && tableau(Method::dopri8).evaluations() == 12);
static_assert(tableau(Method::bosh3).evaluations() == 3 && tableau(Method::rk4).evaluations() == 4);

// A rooted tree (Butcher; Hairer, Solving ODEs I, II.2): the order of its condition, its density gamma, and for each
// stage the elementary weight Phi_i: the condition is sum_i b_i Phi_i = 1 / gamma.
struct Tree {
  int order;
  double density;
  std::vector<double> weight;
};

// All trees up to an order, which are roots with trees of smaller order on them.
class Trees {
 public:
  Trees(const Tableau& method, int highest) : method_(method) {
    for (int order = 1; order <= highest; ++order)
      grow({order, static_cast<double>(order), std::vector<double>(max_stages, 1.0)}, order - 1, trees_.size());
  }
  const std::vector<Tree>& all() const { return trees_; }

 private:
  // Puts trees of `left` vertices together onto a root, each no later in the list than the one before.
  void grow(const Tree& root, int left, std::size_t end) {
    if (left == 0) {
      trees_.push_back(root);
      return;
    }
    for (std::size_t child = 0; child < end; ++child) {
      if (trees_[child].order > left) break;
      Tree with = root;
      with.density *= trees_[child].density;
      for (std::size_t i = 0; i < max_stages; ++i) {
        double slope = 0;
        for (std::size_t j = 0; j < i; ++j) slope += method_.a[i][j] * trees_[child].weight[j];
        with.weight[i] *= slope;
      }
      grow(with, left - trees_[child].order, child + 1);
    }
  }

  const Tableau& method_;
  std::vector<Tree> trees_;
};

// By how much weights miss the conditions up to an order at theta.
double defect(const Tableau& method, const std::array<double, max_stages>& weights, int order, double theta) {
  double worst = 0;
  const Trees trees(method, order);
  for (const Tree& tree : trees.all()) {
    double sum = 0;
    for (std::size_t i = 0; i < max_stages; ++i) sum += weights[i] * tree.weight[i];
    worst = std::max(worst, std::abs(sum - std::pow(theta, tree.order) / tree.density));
  }
  return worst;
}

std::array<double, max_stages> difference(std::array<double, max_stages> a, const std::array<double, max_stages>& b) {
  for (std::size_t i = 0; i < max_stages; ++i) a[i] -= b[i];
  return a;
}

}  // namespace

TEST_CASE("tableau: there are as many rooted trees as there should be", "[ode]") {
  std::vector<int> count(9, 0);
  const Trees trees(tableau(Method::rk4), 8);
  for (const Tree& tree : trees.all()) ++count[static_cast<std::size_t>(tree.order)];
  CHECK(count == std::vector<int>{0, 1, 1, 2, 4, 9, 20, 48, 115});
}

TEST_CASE("tableau: every method satisfies the conditions of its order and of no higher one", "[ode]") {
  for (const Method m : methods) {
    const Tableau& method = tableau(m);
    CAPTURE(method.name);
    CHECK(defect(method, method.b, method.order, 1) < 1e-13);
    CHECK(defect(method, method.b, method.order + 1, 1) > 1e-8);
  }
}

TEST_CASE("tableau: error estimates have their orders", "[ode]") {
  for (const Method m : {Method::heun, Method::bosh3, Method::dopri5, Method::tsit5}) {
    const Tableau& method = tableau(m);
    CAPTURE(method.name);
    const auto embedded = difference(method.b, method.e);
    CHECK(defect(method, embedded, method.error_order - 1, 1) < 1e-14);
    CHECK(defect(method, embedded, method.error_order, 1) > 1e-5);
  }
  // e and damping of DOP853 compare with formulas of order 5 and 3: |e|^2 / |damping| = O(h^(12 - 4)).
  const Tableau& method = tableau(Method::dopri8);
  CHECK(defect(method, difference(method.b, method.e), 5, 1) < 1e-13);
  CHECK(defect(method, difference(method.b, method.e), 6, 1) > 1e-6);
  CHECK(defect(method, difference(method.b, method.damping), 3, 1) < 1e-13);
  CHECK(defect(method, difference(method.b, method.damping), 4, 1) > 1e-6);
}

TEST_CASE("dense output: its weights satisfy the conditions within the step too", "[ode]") {
  for (const Method m : methods) {
    const Tableau& method = tableau(m);
    CAPTURE(method.name);
    for (const double theta : {0.0, 0.125, 0.3, 0.5, 0.9, 1.0}) {
      DenseWeights weights = diffeo::ode::dense_weights(method, theta);
      for (std::size_t i = 0; i < max_stages; ++i) {
        weights.stage[i] += weights.change * method.b[i];
        if (i >= method.stages + method.dense_stages) CHECK(weights.stage[i] == 0);
        if (theta == 0) CHECK(weights.stage[i] == 0);
        if (theta == 1) CHECK(weights.stage[i] == Approx(method.b[i]).margin(1e-13));
      }
      CHECK(defect(method, weights.stage, std::min(method.order, method.dense_degree), theta) < 1e-13);
    }
    // No more than what it says.
    if (method.order > method.dense_degree) {
      DenseWeights weights = diffeo::ode::dense_weights(method, 0.3);
      for (std::size_t i = 0; i < max_stages; ++i) weights.stage[i] += weights.change * method.b[i];
      CHECK(defect(method, weights.stage, method.dense_degree + 1, 0.3) > 1e-8);
    }
  }
}

TEST_CASE("dense output: slopes at the ends are those of the field", "[ode]") {
  for (const Method m : methods) {
    const Tableau& method = tableau(m);
    CAPTURE(method.name);
    const double d = 1e-6;
    const auto slope = [&](double at, double side) {
      const DenseWeights near = diffeo::ode::dense_weights(method, at + side * d),
                         far = diffeo::ode::dense_weights(method, at + 2 * side * d),
                         here = diffeo::ode::dense_weights(method, at);
      std::vector<double> w(max_stages);
      const auto derivative = [&](double a, double b, double c) { return side * (-1.5 * a + 2 * b - 0.5 * c) / d; };
      for (std::size_t i = 0; i < max_stages; ++i)
        w[i] = derivative(here.stage[i], near.stage[i], far.stage[i]) +
               derivative(here.change, near.change, far.change) * method.b[i];
      return w;
    };
    const auto begin = slope(0, 1), end = slope(1, -1);
    for (std::size_t i = 0; i < max_stages; ++i) {
      CHECK(begin[i] == Approx(i == 0 ? 1 : 0).margin(1e-6));
      CHECK(end[i] == Approx(i == method.end_stage() ? 1 : 0).margin(1e-6));
    }
  }
}
