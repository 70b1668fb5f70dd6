// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/ode/solve.hpp>
#include <numbers>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::as_eigen;
using diffeo::Index;
using diffeo::View;
using diffeo::ode::ErrorControl;
using diffeo::ode::MaxNorm;
using diffeo::ode::Method;
using diffeo::ode::Stage;
namespace ode = diffeo::ode;

TEMPLATE_TEST_CASE("solve: arrays in, arrays out", "[ode]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto oscillator = [](const Stage<S>& in, View<S> dy) {
    const auto y = as_eigen(in.y);
    as_eigen(dy) << y.col(1), -y.col(0);
  };
  Array<S> y0(3, 2);
  y0 << 1, 0, 0, 1, 2, 2;
  const ode::Solution<S> half = ode::solve(oscillator, y0, 0, std::numbers::pi);
  CHECK((half.y + y0).abs().maxCoeff() < 1e-4);
  CHECK(half.statistics.size() == 3);
  CHECK(half.statistics[2].t == std::numbers::pi);
  // Expressions, matrices, other methods and norms.
  const auto back = ode::solve(oscillator, half.y * S(2), std::numbers::pi, 0, {.method = Method::dopri8});
  CHECK((back.y - S(2) * y0).abs().maxCoeff() < 3e-4);
  const Eigen::Matrix<S, 2, 2> matrix = Eigen::Matrix<S, 2, 2>::Identity();
  const auto quarter = ode::solve(oscillator, matrix, 0, std::numbers::pi / 2, {}, ErrorControl<MaxNorm>{{0, 1, {}}});
  Array<S> expected(2, 2);
  expected << 0, -1, 1, 0;
  CHECK((quarter.y - expected).abs().maxCoeff() < 1e-4);
  CHECK(ode::solve(oscillator, Array<S>(0, 2), 0, 1).y.rows() == 0);
}

TEST_CASE("solve: a row that fails is named, with all that is known", "[ode]") {
  // y' = y^2 ends at t = 1 / y0.
  const auto square = [](const Stage<double>& in, View<double> dy) { as_eigen(dy) = as_eigen(in.y).square(); };
  Array<double> y0 = Array<double>::Constant(100, 1, 0.1);
  y0(70) = 2;
  y0(80) = 4;
  try {
    ode::solve(square, y0, 0, 1);
    FAIL("no exception was thrown");
  } catch (const diffeo::integration_error& e) {
    CHECK(e.solver() == "ode::solve");
    CHECK(e.sample() == 70);
    CHECK(e.t() == Approx(0.5));
    CHECK(e.step() > 0);
    CHECK(e.step() < 1e-6);
    CHECK(e.error() > 0);
    CHECK(e.stiffness() > 1e6);  // 2 y
    CHECK(contains(e.what(), "ode::solve: row 70 was not integrated: "));
  }
  CHECK(contains(thrown_message<diffeo::integration_error>([&] { ode::solve(square, y0, 0, 1, {.max_steps = 1}); }),
                 "max_steps were not enough"));
  CHECK(contains(
      thrown_message<diffeo::invalid_argument>([&] { ode::solve(square, y0, 0, 1, {.absolute_tolerance = -1}); }),
      "the absolute tolerance is -1"));
}
