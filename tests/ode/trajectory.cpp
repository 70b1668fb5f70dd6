// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/ode/solve.hpp>
#include <diffeo/ode/trajectory.hpp>
#include <limits>
#include <vector>

#include "../catch.hpp"
#include "methods.hpp"

using diffeo::Array;
using diffeo::as_eigen;
using diffeo::Index;
using diffeo::View;
using diffeo::ode::Method;
using diffeo::ode::SolverOptions;
using diffeo::ode::Stage;
using diffeo::ode::tableau;
using diffeo::ode::Trajectory;
namespace ode = diffeo::ode;

namespace {

// y1' = y1 (1 - y1), y2' = cos(t) y2.
template <class S>
void field(const Stage<S>& in, View<S> dy) {
  for (Index i = 0; i < in.y.rows; ++i) {
    dy.col(0)[i] = in.y.col(0)[i] * (1 - in.y.col(0)[i]);
    dy.col(1)[i] = static_cast<S>(std::cos(in.t[i])) * in.y.col(1)[i];
  }
}

Array<double> start(Index rows) {
  Array<double> y0(rows, 2);
  for (Index i = 0; i < rows; ++i) {
    const double q = 0.05 + 0.9 * (static_cast<double>(i) + 0.5) / static_cast<double>(rows);
    y0.row(i) << q, 1 + q;
  }
  return y0;
}

Array<double> exact(const Array<double>& y0, double t0, double t) {
  Array<double> y(y0.rows(), 2);
  y.col(0) = 1 / (1 + (1 / y0.col(0) - 1) * std::exp(t0 - t));
  y.col(1) = y0.col(1) * std::exp(std::sin(t) - std::sin(t0));
  return y;
}

std::vector<double> times_between(double from, double to, int count) {
  std::vector<double> times;
  for (int i = 0; i <= count; ++i) times.push_back(i == count ? to : from + (to - from) * i / count);
  return times;
}

// Root of the mean square over samples and times, in equal steps; the last time is left out.
double dense_error(Method method, Index steps) {
  const Array<double> y0 = start(32);
  const std::vector<double> times = times_between(0, 4, 997);  // in any place of a step
  const Trajectory<double> path = ode::trajectory(field<double>, y0, times, {.method = method, .steps = steps});
  double total = 0;
  for (std::size_t i = 0; i + 1 < times.size(); ++i)
    total += (path.states[i] - exact(y0, 0, times[i])).square().mean() / static_cast<double>(times.size());
  return std::sqrt(total);
}

}  // namespace

TEST_CASE("trajectory: between the steps states are as accurate as the method and its dense output", "[ode]") {
  for (const Method m : methods) {
    const Index steps = m == Method::dopri8 ? 8 : m == Method::dopri5 || m == Method::tsit5 ? 64 : 128;
    const double observed = std::log2(dense_error(m, steps) / dense_error(m, 2 * steps));
    CAPTURE(tableau(m).name, observed);
    CHECK(std::abs(observed - std::min(tableau(m).order, tableau(m).dense_degree + 1)) < 0.3);
  }
}

TEST_CASE("trajectory: adaptive solves are within their tolerance at all times", "[ode]") {
  const Array<double> y0 = start(100);
  for (const Method m : {Method::heun, Method::bosh3, Method::dopri5, Method::tsit5, Method::dopri8})
    for (const double to : {3.0, -1.0}) {
      const double tolerance = 1e-5;
      const SolverOptions options{.method = m, .relative_tolerance = tolerance, .absolute_tolerance = tolerance};
      const std::vector<double> times = times_between(0.5, to, 50);
      const Trajectory<double> path = ode::trajectory(field<double>, y0, times, options);
      const auto end = ode::solve(field<double>, y0, 0.5, to, options);
      CAPTURE(tableau(m).name, to);
      REQUIRE(path.states.size() == 51);
      CHECK((path.states.front() == y0).all());
      CHECK((path.states.back() == end.y).all());  // the steps are the same
      double largest = 0;
      for (std::size_t i = 0; i < times.size(); ++i)
        largest = std::max(largest, (path.states[i] - exact(y0, 0.5, times[i])).abs().maxCoeff());
      // Bogacki and Shampine's steps are not made for cubics: their error is larger within long steps.
      CHECK(largest < 30 * tolerance);
      for (std::size_t i = 0; i < 100; ++i) {
        CHECK(path.statistics[i].accepted == end.statistics[i].accepted);
        const Index further = path.statistics[i].evaluations - end.statistics[i].evaluations;
        const auto each = static_cast<Index>(tableau(m).dense_stages);
        CHECK(further <= each * path.statistics[i].accepted);
        CHECK((each == 0 ? further == 0 : further > 0 && further % each == 0));
      }
    }
}

TEST_CASE("trajectory: a sample's path does not depend on the others", "[ode]") {
  const Array<double> y0 = start(130);
  const std::vector<double> times = times_between(0, 2, 13);
  for (const Method m : {Method::bosh3, Method::dopri5, Method::dopri8}) {
    const Trajectory<double> all = ode::trajectory(field<double>, y0, times, {.method = m});
    for (const Index i : {0, 63, 64, 129}) {
      const Trajectory<double> alone = ode::trajectory(field<double>, y0.row(i), times, {.method = m});
      for (std::size_t k = 0; k < times.size(); ++k) CHECK((alone.states[k].row(0) == all.states[k].row(i)).all());
      CHECK(alone.statistics[0].evaluations == all.statistics[static_cast<std::size_t>(i)].evaluations);
    }
  }
}

TEST_CASE("trajectory: times may repeat, be the ends alone, or one", "[ode]") {
  const Array<double> y0 = start(70);
  const std::vector<double> times{0, 0, 0.5, 0.5, 1, 1};
  const Trajectory<double> path = ode::trajectory(field<double>, y0, times, {.steps = 4});  // 0.5 ends a step
  CHECK((path.states[0] == y0).all());
  CHECK((path.states[1] == y0).all());
  CHECK((path.states[2] == path.states[3]).all());
  CHECK((path.states[4] == path.states[5]).all());
  CHECK((path.states[2] - exact(y0, 0, 0.5)).abs().maxCoeff() < 1e-5);
  CHECK((path.states[2] == ode::solve(field<double>, y0, 0, 0.5, {.steps = 2}).y).all());
  CHECK(path.statistics[0].evaluations == 4 * 6 + 1);

  const Trajectory<double> point = ode::trajectory(field<double>, y0, std::vector<double>{2.0});
  CHECK((point.states.at(0) == y0).all());
  const Trajectory<double> still = ode::trajectory(field<double>, y0, std::vector<double>{2.0, 2.0});
  CHECK((still.states.at(1) == y0).all());
  CHECK(ode::trajectory(field<double>, Array<double>(0, 2), times).states.at(3).rows() == 0);

  const Trajectory<float> single = ode::trajectory(field<float>, start(70).cast<float>(), times_between(0, 1, 10),
                                                   {.method = Method::rk4, .steps = 3});
  for (int k = 0; k <= 10; ++k)
    CHECK((single.states[static_cast<std::size_t>(k)].cast<double>() - exact(y0, 0, 0.1 * k)).abs().maxCoeff() < 1e-3);
}

TEST_CASE("trajectory: what cannot be is refused", "[ode]") {
  const Array<double> y0 = start(3);
  const auto refused = [&](const std::vector<double>& times) {
    return thrown_message<diffeo::invalid_argument>([&] { ode::trajectory(field<double>, y0, times); });
  };
  CHECK(contains(refused({}), "ode::trajectory: there are no times"));
  CHECK(contains(refused({0, std::nan("")}), "time 1 is nan"));
  CHECK(contains(refused({std::numeric_limits<double>::infinity()}), "time 0 is inf"));
  CHECK(contains(refused({0, 2, 1.5, 3}), "time 2 is 1.5 after 2, expected times that ascend or descend"));
  CHECK(contains(refused({0, -2, -1.5, -3}), "time 2 is -1.5 after -2"));
  // The dense output of Euler's method asks for the slope at the end, which is infinite.
  const auto singular = [](const ode::Stage<double>& in, View<double> dy) {
    for (Index j = 0; j < dy.cols; ++j)
      for (Index i = 0; i < dy.rows; ++i) dy.col(j)[i] = 0.5 / std::sqrt(1 - in.t[i]);
  };
  CHECK(contains(
      thrown_message<diffeo::integration_error>([&] {
        ode::trajectory(singular, y0, std::vector<double>{0.0, 0.5, 0.95, 1.0}, {.method = Method::euler, .steps = 10});
      }),
      "ode::trajectory: row 0 was not integrated: the field is not finite at t = 0.95"));
  CHECK(contains(thrown_message<diffeo::integration_error>([&] {
                   ode::trajectory(field<double>, y0, std::vector<double>{0.0, 100.0}, {.max_steps = 3});
                 }),
                 "ode::trajectory: row 0 was not integrated: max_steps"));
}
