// SPDX-License-Identifier: MIT
#include <cstring>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/ode/solve_on_tape.hpp>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "matrix_exponential.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::integration_error;
using diffeo::invalid_argument;
using diffeo::Real;
using diffeo::Tape;
using diffeo::Var;
using diffeo::ode::Differentiation;
using diffeo::ode::ErrorControl;
using diffeo::ode::GradientOptions;
using diffeo::ode::Method;
using diffeo::ode::SolverOptions;
using diffeo::ode::SolveStatistics;

namespace {

// y' = A y, row by row.
template <Real S>
struct LinearSystem {
  Var<S> a;
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.a);
  }
  Var<S> operator()(const Var<S>&, const Var<S>& y, const Var<S>&) const { return linear(y, a); }
};

// y' = c (B tanh(A [y, t]) - y), c a rate that belongs to the sample: those with a large one need many steps.
template <Real S>
struct NetworkSystem {
  Var<S> a, b;
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.a, self.b);
  }
  Var<S> operator()(const Var<S>& t, const Var<S>& y, const Var<S>& rate) const {
    const Var<S> v = linear(tanh(linear(concat(y, t), a)), b) - y;
    return rate ? v * rate : v;
  }
};

template <Real S>
Array<S> normal(Index rows, Index cols, std::uint64_t seed) {
  Array<S> x(rows, cols);
  fill_normal(diffeo::view(x), seed, 7);
  return x;
}

template <Real S>
struct Problem {
  Array<S> a, b, y0, rate;
  double t0 = 0;
  std::vector<double> t1;
  Array<S> weights;  // of the sum of y1 that is differentiated
};

// 150 rows, more than two blocks; some need many times the steps of others.
template <Real S>
Problem<S> uneven_problem(Index rows = 150, Index n = 3, double fastest = 15) {
  Problem<S> p{normal<S>(8, n + 1, 1) * S(0.7),
               normal<S>(n, 8, 2) * S(0.4),
               normal<S>(rows, n, 3),
               Array<S>(rows, 1),
               0,
               {},
               normal<S>(rows, n, 4)};
  for (Index i = 0; i < rows; ++i)
    p.rate(i, 0) = i % 13 == 5 ? static_cast<S>(fastest) : S(0.1) * static_cast<S>(1 + i % 7);
  p.t1.assign(static_cast<std::size_t>(rows), 1.0);
  return p;
}

template <Real S>
struct Solved {
  Array<S> y1, of_y0, of_a, of_b, of_rate;
  std::vector<SolveStatistics> statistics;

  Array<S> all() const {
    Array<S> flat(of_y0.size() + of_a.size() + of_b.size() + of_rate.size(), 1);
    flat << of_y0.reshaped(), of_a.reshaped(), of_b.reshaped(), of_rate.reshaped();
    return flat;
  }
};

template <Real S>
Array<S> gradient_of(Var<S> x) {
  if (!x.has_grad()) return Array<S>::Zero(x.rows(), x.cols());
  return diffeo::as_eigen(x.grad());
}

struct Wanted {
  bool y0 = true, parameters = true, rate = true;
};

template <Real S>
Solved<S> solve(const Problem<S>& p, const SolverOptions& options, const GradientOptions& gradient = {},
                Wanted wanted = {}) {
  Tape<S> tape;
  const Var<S> y0 = wanted.y0 ? tape.variable(p.y0) : tape.copy(p.y0);
  const NetworkSystem<S> system{wanted.parameters ? tape.variable(p.a) : tape.copy(p.a),
                                wanted.parameters ? tape.variable(p.b) : tape.copy(p.b)};
  const Var<S> rate = wanted.rate ? tape.variable(p.rate) : tape.copy(p.rate);
  const Var<S> y1 =
      diffeo::ode::solve_on_tape<S>(system, y0, p.t0, p.t1.data(), rate, options, ErrorControl<>(), gradient);
  const auto made = diffeo::ode::statistics(tape);
  Solved<S> solved{diffeo::as_eigen(y1.value()), {}, {}, {}, {}, {made.begin(), made.end()}};
  CHECK(y1.requires_grad() == (wanted.y0 || wanted.parameters || wanted.rate));
  tape.backward(y1, diffeo::view(p.weights));
  solved.of_y0 = gradient_of(y0);
  solved.of_a = gradient_of(system.a);
  solved.of_b = gradient_of(system.b);
  solved.of_rate = gradient_of(rate);
  return solved;
}

SolverOptions adaptive(Method method, double tolerance) {
  SolverOptions options;
  options.method = method;
  options.relative_tolerance = options.absolute_tolerance = tolerance;
  return options;
}

SolverOptions fixed(Method method, Index steps) {
  SolverOptions options;
  options.method = method;
  options.steps = steps;
  return options;
}

// The derivative of the weighted sum of y1 along a direction of everything, by differences of order 4, whose step may
// be so large that the jumps of a solve where it begins to make other steps do not matter.
double difference(const Problem<double>& p, const SolverOptions& options, const Problem<double>& direction,
                  double h = 1e-3) {
  const auto value = [&](double by) {
    Problem<double> moved = p;
    moved.a += by * direction.a;
    moved.b += by * direction.b;
    moved.y0 += by * direction.y0;
    moved.rate += by * direction.rate;
    return (solve(moved, options, {}, {false, false, false}).y1 * p.weights).sum();
  };
  return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h);
}

// Errors of the derivatives by A, by B, by y0 and by the rates, each along a random direction, relative to the
// derivative.
double worst_error(const Problem<double>& p, const Solved<double>& found, const SolverOptions& reference) {
  double worst = 0;
  for (int of = 0; of < 4; ++of) {
    Problem<double> direction = p;
    direction.a = normal<double>(p.a.rows(), p.a.cols(), 11) * double(of == 0);
    direction.b = normal<double>(p.b.rows(), p.b.cols(), 12) * double(of == 1);
    direction.y0 = normal<double>(p.y0.rows(), p.y0.cols(), 13) * double(of == 2);
    direction.rate = p.rate * normal<double>(p.rate.rows(), 1, 14) * double(of == 3);
    const double expected = difference(p, reference, direction);
    const double automatic = (found.of_a * direction.a).sum() + (found.of_b * direction.b).sum() +
                             (found.of_y0 * direction.y0).sum() + (found.of_rate * direction.rate).sum();
    INFO((of == 0 ? "A" : of == 1 ? "B" : of == 2 ? "y0" : "rate") << ": " << automatic << ", expected " << expected);
    CHECK(std::abs(expected) > 0.01);  // not a matter of chance
    worst = std::max(worst, std::abs(automatic - expected) / std::abs(expected));
  }
  return worst;
}

Index fewest_steps(const std::vector<SolveStatistics>& s) {
  return std::min_element(s.begin(), s.end(), [](auto& a, auto& b) { return a.accepted < b.accepted; })->accepted;
}
Index most_steps(const std::vector<SolveStatistics>& s) {
  return std::max_element(s.begin(), s.end(), [](auto& a, auto& b) { return a.accepted < b.accepted; })->accepted;
}

}  // namespace

TEST_CASE("solves on a tape: the discrete gradient of adaptive solves", "[ode]") {
  const Problem<double> p = uneven_problem<double>();
  // Tolerances at which the sizes of the steps, which the gradient holds fixed, no longer show.
  for (const SolverOptions& options : {adaptive(Method::dopri5, 1e-10), adaptive(Method::tsit5, 1e-10),
                                       adaptive(Method::bosh3, 1e-10), adaptive(Method::dopri8, 1e-11)}) {
    CAPTURE(int(options.method));
    const Solved<double> found = solve(p, options);
    CHECK(most_steps(found.statistics) > 4 * fewest_steps(found.statistics));
    if (options.method != Method::bosh3) CHECK(worst_error(p, found, options) < 1e-7);  // of itself: thousands of steps
    CHECK(worst_error(p, found, adaptive(Method::dopri8, 1e-12)) < 1e-7);
  }
}

TEST_CASE("solves on a tape: the discrete gradient of equal steps is exact at any size", "[ode]") {
  const Problem<double> p = uneven_problem<double>(70, 3, 1);
  for (const SolverOptions& options :
       {fixed(Method::euler, 7), fixed(Method::midpoint, 5), fixed(Method::heun, 5), fixed(Method::rk4, 4),
        fixed(Method::bosh3, 5), fixed(Method::dopri5, 3), fixed(Method::tsit5, 3), fixed(Method::dopri8, 2)}) {
    CAPTURE(int(options.method));
    CHECK(worst_error(p, solve(p, options), options) < 1e-8);
  }
}

TEST_CASE("solves on a tape: a linear system and its gradient are matrix exponentials", "[ode]") {
  const Index n = 4;
  const Array<double> a = normal<double>(n, n, 21) * 0.7, y0 = normal<double>(90, n, 22), w = normal<double>(90, n, 23);
  const double t0 = 0.25, span = -1.5;
  const Eigen::MatrixXd map = matrix_exponential(a.matrix() * span);
  const Array<double> expected_y0 = (w.matrix() * map).array();
  // d exp(A) along E is the block at the upper right of exp([A E; 0 A]).
  Array<double> expected_a(n, n);
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < n; ++j) {
      Eigen::MatrixXd both = Eigen::MatrixXd::Zero(2 * n, 2 * n);
      both.topLeftCorner(n, n) = both.bottomRightCorner(n, n) = a.matrix() * span;
      both(i, n + j) = span;
      const Eigen::MatrixXd along = matrix_exponential(both).topRightCorner(n, n);
      expected_a(i, j) = (w.matrix().array() * (y0.matrix() * along.transpose()).array()).sum();
    }
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint})
    for (const Method method : {Method::dopri5, Method::tsit5, Method::dopri8, Method::bosh3, Method::heun}) {
      CAPTURE(int(how), int(method));
      const double tolerance = method == Method::heun ? 1e-7 : method == Method::bosh3 ? 1e-9 : 1e-11;
      Tape<double> tape;
      const Var<double> y = tape.variable(y0);
      const LinearSystem<double> system{tape.variable(a)};
      const std::vector<double> ends(90, t0 + span);
      const Var<double> y1 = diffeo::ode::solve_on_tape<double>(system, y, t0, ends.data(), {},
                                                                adaptive(method, tolerance), ErrorControl<>(), {how});
      tape.backward(y1, diffeo::view(w));
      // The error of the whole is larger than that of a step by up to about the number of steps, here thousands.
      const double allowed = 1000 * tolerance;
      CHECK((diffeo::as_eigen(y1.value()) - (y0.matrix() * map.transpose()).array()).abs().maxCoeff() < allowed);
      CHECK((gradient_of(y) - expected_y0).abs().maxCoeff() < allowed);
      CHECK((gradient_of(system.a) - expected_a).abs().maxCoeff() < allowed * expected_a.abs().maxCoeff());
    }
}

TEMPLATE_TEST_CASE("solves on a tape: the gradient's bits do not depend on the memory budget", "[ode]", float, double) {
  using S = TestType;
  const Problem<S> p = uneven_problem<S>();
  const double tolerance = sizeof(S) == 4 ? 1e-4 : 1e-8;
  for (const SolverOptions& options :
       {adaptive(Method::dopri5, tolerance), adaptive(Method::tsit5, tolerance), adaptive(Method::bosh3, tolerance),
        adaptive(Method::dopri8, tolerance), adaptive(Method::heun, 1e-4), fixed(Method::rk4, 37),
        fixed(Method::dopri5, 1)}) {
    CAPTURE(int(options.method));
    const Solved<S> all = solve(p, options, {.memory_budget = std::size_t{1} << 30});
    CHECK(all.all().isFinite().all());
    for (const std::size_t budget : std::vector<std::size_t>{40000, 12000, 3000, 1, 0}) {
      CAPTURE(budget);
      const Solved<S> found = solve(p, options, {.memory_budget = budget});
      CHECK(same_bits(found.y1, all.y1));
      CHECK(same_bits(found.of_y0, all.of_y0));
      CHECK(same_bits(found.of_a, all.of_a));
      CHECK(same_bits(found.of_b, all.of_b));
      CHECK(same_bits(found.of_rate, all.of_rate));
    }
  }
}

TEMPLATE_TEST_CASE("solves on a tape: what is recorded does not change the solution", "[ode]", float, double) {
  using S = TestType;
  const Problem<S> p = uneven_problem<S>();
  const SolverOptions options = adaptive(Method::dopri5, 1e-4);
  const Solved<S> both = solve(p, options), neither = solve(p, options, {}, {false, false, false});
  CHECK(same_bits(both.y1, neither.y1));
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint}) {
    const Solved<S> all = solve(p, options, {how}), state = solve(p, options, {how}, {true, false, false}),
                    parameters = solve(p, options, {how}, {false, true, false}),
                    rate = solve(p, options, {how}, {false, false, true});
    CHECK(same_bits(all.y1, neither.y1));
    CHECK(same_bits(state.of_y0, all.of_y0));
    CHECK(same_bits(parameters.of_a, all.of_a));
    CHECK(same_bits(parameters.of_b, all.of_b));
    CHECK(same_bits(rate.of_rate, all.of_rate));
    CHECK((all.of_a != 0).all());
    CHECK((all.of_rate != 0).all());
    CHECK((state.of_a == 0).all());
    CHECK((state.of_rate == 0).all());
    CHECK((parameters.of_y0 == 0).all());
    CHECK((parameters.of_rate == 0).all());
    CHECK((rate.of_a == 0).all());
  }
}

TEMPLATE_TEST_CASE("solves on a tape: a row's gradient does not depend on its batch", "[ode]", float, double) {
  using S = TestType;
  const Problem<S> p = uneven_problem<S>(333);
  const SolverOptions options = adaptive(Method::dopri5, 1e-4);
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint}) {
    const GradientOptions gradient{how, 20000};
    const Solved<S> all = solve(p, options, gradient);
    const auto check = [&](Index first, Index count, bool reversed) {
      Problem<S> part = p;
      const auto taken = [&](const Array<S>& x) -> Array<S> {
        const Array<S> rows = x.middleRows(first, count);
        return reversed ? Array<S>(rows.colwise().reverse()) : rows;
      };
      part.y0 = taken(p.y0);
      part.rate = taken(p.rate);
      part.weights = taken(p.weights);
      const Solved<S> found = solve(part, options, gradient);
      CAPTURE(first, count, reversed);
      CHECK(same_bits(found.y1, taken(all.y1)));
      CHECK(same_bits(found.of_y0, taken(all.of_y0)));
      CHECK(same_bits(found.of_rate, taken(all.of_rate)));
    };
    for (const Index row : {0, 5, 63, 64, 200, 332}) check(row, 1, false);
    check(0, 64, false);
    check(3, 65, false);
    check(17, 131, true);
    check(0, 333, true);
  }
}

TEST_CASE("solves on a tape: rows end where they will", "[ode]") {
  Problem<double> p = uneven_problem<double>(100);
  p.t0 = 0.4;
  for (Index i = 0; i < 100; ++i) p.t1[std::size_t(i)] = i % 10 == 3 ? p.t0 : 1.3 * double(i) / 99;
  const SolverOptions options = adaptive(Method::dopri5, 1e-10);
  const Solved<double> found = solve(p, options);
  for (Index i = 3; i < 100; i += 10) {
    CHECK((found.y1.row(i) == p.y0.row(i)).all());
    CHECK((found.of_y0.row(i) == p.weights.row(i)).all());
    CHECK(found.of_rate(i, 0) == 0);
    CHECK(found.statistics[std::size_t(i)].accepted == 0);
  }
  CHECK(worst_error(p, found, options) < 1e-7);
  const Solved<double> continuous = solve(p, options, {Differentiation::adjoint});
  CHECK(worst_error(p, continuous, options) < 1e-7);
  // A row that ends elsewhere says nothing about the others.
  Problem<double> other = p;
  other.t1[0] = 0.9;
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint}) {
    const Solved<double> before = solve(p, options, {how}), after = solve(other, options, {how});
    CHECK((before.of_y0.row(0) != after.of_y0.row(0)).any());
    CHECK(same_bits<double>(before.of_y0.bottomRows(99), after.of_y0.bottomRows(99)));
  }
  // All rows at their end already: the identity.
  p.t1.assign(100, p.t0);
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint}) {
    const Solved<double> still = solve(p, options, {how});
    CHECK((still.y1 == p.y0).all());
    CHECK((still.of_y0 == p.weights).all());
    CHECK((still.of_a == 0).all());
    CHECK((still.of_rate == 0).all());
  }
}

TEST_CASE("solves on a tape: the adjoint's gradient comes nearer as the tolerance falls", "[ode]") {
  const Problem<double> p = uneven_problem<double>();
  const SolverOptions reference = adaptive(Method::dopri8, 1e-12);
  const Solved<double> exact = solve(p, reference);
  CHECK(worst_error(p, exact, reference) < 1e-7);
  for (const Method method : {Method::dopri5, Method::tsit5, Method::dopri8, Method::bosh3}) {
    double last = 1;
    for (const double tolerance : {1e-4, 1e-6, 1e-8}) {
      CAPTURE(int(method), tolerance);
      const Solved<double> found = solve(p, adaptive(method, tolerance), {Differentiation::adjoint});
      const double error =
          std::max({(found.of_y0 - exact.of_y0).abs().maxCoeff() / exact.of_y0.abs().maxCoeff(),
                    (found.of_a - exact.of_a).abs().maxCoeff() / exact.of_a.abs().maxCoeff(),
                    (found.of_b - exact.of_b).abs().maxCoeff() / exact.of_b.abs().maxCoeff(),
                    (found.of_rate - exact.of_rate).abs().maxCoeff() / exact.of_rate.abs().maxCoeff()});
      CHECK(error < 0.2 * last);
      last = error;
    }
    CHECK(last < 1e-4);
  }
  // Of equal steps it is the gradient of the equation, not of the steps.
  const Solved<double> few = solve(p, fixed(Method::rk4, 60), {Differentiation::adjoint});
  CHECK((few.of_a - exact.of_a).abs().maxCoeff() < 1e-4 * exact.of_a.abs().maxCoeff());
}

TEST_CASE("solves on a tape: groups of columns, and constants of the samples", "[ode]") {
  using Groups = ErrorControl<>;
  const Problem<double> p = uneven_problem<double>(20);
  Tape<double> tape;
  const NetworkSystem<double> system{tape.variable(p.a), tape.variable(p.b)};
  const auto solved = [&](const Groups& groups, const Var<double>& rate, Differentiation how) {
    const Var<double> y1 = diffeo::ode::solve_on_tape<double>(system, tape.copy(p.y0), 0, 1, rate,
                                                              adaptive(Method::dopri5, 1e-8), groups, {how});
    tape.backward(y1, diffeo::view(p.weights));
    return y1.value().rows;
  };
  const Var<double> rate = tape.copy(p.rate);
  const diffeo::ode::ColumnGroup one{0, 1, {1e-8, 1e-8}};
  CHECK(solved({one, one, one, one}, rate, Differentiation::adjoint) == 20);
  CHECK(solved({one, one, one, one, one}, rate, Differentiation::discrete) == 20);
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] {
                   solved({one, one, one, one, one}, rate, Differentiation::adjoint);
                 }),
                 "5 groups of columns, expected at most 4"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>(
                     [&] { solved({one}, tape.copy(p.rate.topRows(7)), Differentiation::discrete); }),
                 "context has 7 rows"));
}

TEST_CASE("solves on a tape: several solves, shared parameters, parameters that were computed", "[ode]") {
  const Problem<double> p = uneven_problem<double>(80);
  const SolverOptions options = adaptive(Method::dopri5, 1e-10);
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint}) {
    CAPTURE(int(how));
    const Solved<double> whole = solve(p, options, {how});
    // There in two pieces, by a system made of a half and a double.
    Tape<double> tape;
    const Var<double> y0 = tape.variable(p.y0), half = tape.variable(0.5 * p.a), twice = tape.variable(2 * p.b);
    const NetworkSystem<double> system{half * 2.0, twice * 0.5};
    const Var<double> rate = tape.copy(p.rate);
    const auto step = [&](const Var<double>& y, double from, double to) {
      const std::vector<double> ends(80, to);
      return diffeo::ode::solve_on_tape<double>(system, y, from, ends.data(), rate, options, ErrorControl<>(), {how});
    };
    const Var<double> middle = step(y0, 0, 0.3), y1 = step(middle, 0.3, 1);
    CHECK((diffeo::as_eigen(y1.value()) - whole.y1).abs().maxCoeff() < 1e-8);
    tape.backward(y1, diffeo::view(p.weights));
    const auto close = [](const Array<double>& x, const Array<double>& y) {
      return (x - y).abs().maxCoeff() < 1e-7 * y.abs().maxCoeff();
    };
    CHECK(close(gradient_of(y0), whole.of_y0));
    CHECK(close(gradient_of(half), 2 * whole.of_a));
    CHECK(close(gradient_of(twice), 0.5 * whole.of_b));
    // Once more: gradients add up.
    const Array<double> once = gradient_of(half);
    tape.backward(y1, diffeo::view(p.weights));
    CHECK((gradient_of(half) - 2 * once).abs().maxCoeff() < 1e-12 * once.abs().maxCoeff());
    CHECK(close(gradient_of(y0), 2 * whole.of_y0));
    // Nobody looks at the end of this one.
    step(y1, 1, 2);
    tape.backward(y1, diffeo::view(p.weights));
    CHECK(close(gradient_of(half), 6 * whole.of_a));
    // There and back the gradient of the start is that of the end.
    tape.reset();
    const Var<double> start = tape.variable(p.y0);
    const NetworkSystem<double> plain{tape.variable(p.a), tape.variable(p.b)};
    const std::vector<double> zero(80, 0.0), one(80, 0.25);
    const Var<double> c = tape.copy(p.rate);
    const Var<double> there =
        diffeo::ode::solve_on_tape<double>(plain, start, 0, one.data(), c, options, ErrorControl<>(), {how});
    const Var<double> back =
        diffeo::ode::solve_on_tape<double>(plain, there, 0.25, zero.data(), c, options, ErrorControl<>(), {how});
    tape.backward(back, diffeo::view(p.weights));
    CHECK((gradient_of(start) - p.weights).abs().maxCoeff() < 1e-6);
    CHECK(gradient_of(plain.a).abs().maxCoeff() < 1e-7 * whole.of_a.abs().maxCoeff() * 80);
  }
}

TEMPLATE_TEST_CASE("solves on a tape: no row and one row", "[ode]", float, double) {
  using S = TestType;
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint})
    for (const Index rows : {Index{0}, Index{1}}) {
      Problem<S> p = uneven_problem<S>(rows);
      for (int round = 0; round < 3; ++round) {
        const Solved<S> found = solve(p, adaptive(Method::dopri5, 1e-4), {how});
        CHECK(found.y1.rows() == rows);
        CHECK(Index(found.statistics.size()) == rows);
        CHECK((found.of_a != 0).any() == (rows == 1));
        CHECK(found.all().isFinite().all());
      }
    }
}

TEST_CASE("solves on a tape: the statistics are those of the latest solve", "[ode]") {
  Tape<double> tape;
  CHECK(diffeo::ode::statistics(tape).empty());
  const Problem<double> p = uneven_problem<double>(10);
  const NetworkSystem<double> system{tape.variable(p.a), tape.variable(p.b)};
  const Var<double> y1 = diffeo::ode::solve_on_tape<double>(system, tape.variable(p.y0), 0, p.t1.data(), {},
                                                            fixed(Method::rk4, 5), ErrorControl<>(), {});
  const auto made = diffeo::ode::statistics(tape);
  REQUIRE(made.size() == 10);
  for (const SolveStatistics& s : made) {
    CHECK(s.accepted == 5);
    CHECK(s.evaluations == 20);
    CHECK(s.t == 1);
  }
  CHECK(y1.requires_grad());
}

TEST_CASE("solves on a tape: what cannot be solved", "[ode]") {
  Problem<double> p = uneven_problem<double>(100);
  SolverOptions options = adaptive(Method::dopri5, 1e-8);
  options.max_steps = 20;
  const std::string message = thrown_message<integration_error>([&] { solve(p, options); });
  CHECK(contains(message, "ode: row 5 was not integrated: max_steps were not enough at t = 0."));
  p.rate(70, 0) = std::nan("");
  options.max_steps = 10000;
  CHECK(contains(thrown_message<integration_error>([&] { solve(p, options); }),
                 "ode: row 70 was not integrated: the field is not finite at t = 0, "));
  // The way back, which begins where the gradient is not finite.
  p = uneven_problem<double>(100);
  p.weights(42, 1) = std::numeric_limits<double>::infinity();
  CHECK(contains(thrown_message<integration_error>([&] { solve(p, options, {Differentiation::adjoint}); }),
                 "ode adjoint: row 42 was not integrated: the field is not finite"));

  p = uneven_problem<double>(4);
  for (const double bad : {0.0, -1.0, std::nan("")}) {
    CHECK_THROWS_AS(solve(p, adaptive(Method::dopri5, bad)), invalid_argument);
    CHECK_THROWS_AS(solve(p, adaptive(Method::dopri5, bad), {}, {false, false}), invalid_argument);
  }
  CHECK_THROWS_AS(solve(p, adaptive(Method::rk4, 1e-6)), invalid_argument);  // it has no error estimate
  Tape<double> tape;
  const LinearSystem<double> narrow{tape.copy(normal<double>(2, 3, 1))};
  CHECK(thrown_message<invalid_argument>([&] {
          diffeo::ode::solve_on_tape<double>(narrow, tape.copy(p.y0), 0, p.t1.data(), {}, options, ErrorControl<>(),
                                             {});
        }) == "ode: the system returned 4 x 2 values for states of 4 x 3");
}
