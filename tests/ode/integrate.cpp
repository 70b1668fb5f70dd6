// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <diffeo/core/array.hpp>
#include <diffeo/ode/integrate.hpp>
#include <limits>
#include <numeric>
#include <vector>

#include "../catch.hpp"
#include "methods.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::View;
using diffeo::view;
using diffeo::ode::AcceptedSteps;
using diffeo::ode::Controller;
using diffeo::ode::ErrorControl;
using diffeo::ode::MaxNorm;
using diffeo::ode::Method;
using diffeo::ode::RmsNorm;
using diffeo::ode::SolverOptions;
using diffeo::ode::SolveStatistics;
using diffeo::ode::Stage;
using diffeo::ode::Status;
using diffeo::ode::tableau;
using diffeo::ode::Workspace;

namespace {

constexpr std::array<Method, 5> adaptive_methods = {Method::heun, Method::bosh3, Method::dopri5, Method::tsit5,
                                                    Method::dopri8};

// A field from one row's time and state to its slope.
template <class S, class Row>
auto by_row(const Row& row) {
  return [row](const Stage<S>& in, View<S> dy) {
    std::vector<S> y(static_cast<std::size_t>(in.y.cols)), d(y.size());
    for (Index i = 0; i < in.y.rows; ++i) {
      for (Index j = 0; j < in.y.cols; ++j) y[static_cast<std::size_t>(j)] = in.y.col(j)[i];
      row(in.t[i], y.data(), d.data());
      for (Index j = 0; j < in.y.cols; ++j) dy.col(j)[i] = d[static_cast<std::size_t>(j)];
    }
  };
}

template <class S>
struct Run {
  Array<S> y;
  std::vector<SolveStatistics> statistics;
};

template <class S, class F, class Norm = RmsNorm, class Observer = diffeo::ode::IgnoreSteps>
Run<S> run(const F& f, const Array<S>& y0, double t0, const std::vector<double>& t1, const SolverOptions& options,
           const ErrorControl<Norm>& control = {}, Observer&& observer = {}) {
  Run<S> result{Array<S>(y0.rows(), y0.cols()), std::vector<SolveStatistics>(static_cast<std::size_t>(y0.rows()))};
  Workspace<S> workspace;
  diffeo::ode::integrate<S>(f, view(y0), t0, t1.data(), view(result.y), options, control, result.statistics, workspace,
                            observer);
  return result;
}

template <class S>
bool same_bits(S a, S b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

bool same(const SolveStatistics& a, const SolveStatistics& b) {
  return a.status == b.status && a.evaluations == b.evaluations && a.accepted == b.accepted &&
         a.rejected == b.rejected && same_bits(a.stiffness, b.stiffness) && same_bits(a.t, b.t) &&
         same_bits(a.step, b.step) && same_bits(a.error, b.error);
}

// y' = y (1 - y).
const auto logistic = by_row<double>([](double, const double* y, double* d) { d[0] = y[0] * (1 - y[0]); });
double logistic_at(double y0, double t) { return 1 / (1 + (1 / y0 - 1) * std::exp(-t)); }

// Root of the mean square of the error at t = 4 over many initial values, in equal steps.
double logistic_error(Method method, Index steps) {
  Array<double> y0(32, 1), exact(32, 1);
  for (Index i = 0; i < 32; ++i) {
    y0(i) = 0.02 + 0.9 * (static_cast<double>(i) + 0.5) / 32;
    exact(i) = logistic_at(y0(i), 4);
  }
  const Run<double> r = run(logistic, y0, 0, std::vector<double>(32, 4.0), {.method = method, .steps = steps});
  return std::sqrt((r.y - exact).square().mean());
}

// y1' = -y1^2 cos t, y2' = y2 cos t; y1 = 1 / (1 + sin t), y2 = exp(sin t) from (1, 1).
const auto waves = by_row<double>([](double t, const double* y, double* d) {
  d[0] = -y[0] * y[0] * std::cos(t);
  d[1] = y[1] * std::cos(t);
});

// A norm that two columns do not have.
struct NanForTwo : MaxNorm {
  template <diffeo::Real S>
  static diffeo::simd::Vec<S> finish(diffeo::simd::Vec<S> total, Index count) {
    return count == 2 ? total + std::numeric_limits<S>::quiet_NaN() : total;
  }
};

// Van der Pol's oscillator, whose stiffness each sample chooses in its last column.
template <class S>
auto van_der_pol() {
  return by_row<S>([](double t, const S* y, S* d) {
    d[0] = y[1];
    d[1] = y[2] * (1 - y[0] * y[0]) * y[1] - y[0] + S(0.1) * static_cast<S>(std::sin(t));
    d[2] = 0;
  });
}

template <class S>
Array<S> van_der_pol_start(Index rows) {
  Array<S> y0(rows, 3);
  for (Index i = 0; i < rows; ++i) {
    const S a = static_cast<S>((i * 37) % rows) / static_cast<S>(rows);
    y0.row(i) << S(2) - a, a * a, (i % 7 == 3 ? S(100) : S(1) + a);
  }
  return y0;
}

}  // namespace

TEST_CASE("integrate: every method converges with its order", "[ode]") {
  // A number of steps from which on the leading term of the error prevails and rounding does not yet.
  const auto start_of = [](Method m) {
    switch (m) {
      case Method::dopri8:
        return Index{8};
      case Method::rk4:
      case Method::dopri5:
        return Index{32};
      default:
        return Index{64};
    }
  };
  for (const Method m : methods)
    for (const Index steps : {start_of(m), 5 * start_of(m) / 4}) {
      const double observed = std::log2(logistic_error(m, steps) / logistic_error(m, 2 * steps));
      CAPTURE(tableau(m).name, steps, observed);
      CHECK(std::abs(observed - tableau(m).order) < 0.15);
    }
}

TEST_CASE("integrate: adaptive solves meet their tolerance", "[ode]") {
  const Index rows = 32;
  Array<double> from(rows, 2), waves_exact(rows, 2), decay_exact(rows, 2);
  for (Index i = 0; i < rows; ++i) {
    const double q = 0.05 + 0.9 * (static_cast<double>(i) + 0.5) / static_cast<double>(rows);
    from.row(i) << q, q;
    waves_exact.row(i) << 1 / (1 / q + std::sin(2.0)), q * std::exp(std::sin(2.0));
    decay_exact.row(i) << logistic_at(q, 4), q * std::exp(-4.0);
  }
  const auto decay = by_row<double>([](double, const double* y, double* d) {
    d[0] = y[0] * (1 - y[0]);
    d[1] = -y[1];
  });
  for (const Method m : adaptive_methods)
    for (const Controller controller : {Controller::integral, Controller::proportional_integral})
      for (int digits = 3; digits <= 10; ++digits) {
        if (m == Method::heun && digits > 7) continue;  // 100 000 steps
        const double tolerance = std::pow(10.0, -digits);
        const SolverOptions options{.method = m,
                                    .relative_tolerance = tolerance,
                                    .absolute_tolerance = tolerance,
                                    .controller = controller,
                                    .max_steps = 1000000};
        const auto check = [&](const char* problem, const Run<double>& r, const Array<double>& exact) {
          const Array<double> missed = ((r.y - exact).abs() / (tolerance * (1 + exact.abs()))).rowwise().maxCoeff();
          const double largest = missed.maxCoeff(), typical = std::sqrt(missed.square().mean());
          CAPTURE(tableau(m).name, problem, tolerance, largest, typical);
          for (const SolveStatistics& s : r.statistics) CHECK(s.status == Status::finished);
          CHECK(typical < 10);
          // The integral controller lets the first steps grow tenfold from one to the next, beyond what a coarse
          // estimate can tell.
          if (controller == Controller::proportional_integral) CHECK(largest < 10);
          // Nor is there a multiple of the work done; the highest order is better than asked for on few steps.
          if (m != Method::dopri8) CHECK(typical > 0.02);
        };
        check("waves", run(waves, from, 0, std::vector<double>(32, 2.0), options), waves_exact);
        check("decay", run(decay, from, 0, std::vector<double>(32, 4.0), options), decay_exact);
      }
}

TEMPLATE_TEST_CASE("integrate: a sample has the same bits whatever others there are", "[ode]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Index rows = 150;
  const Array<S> y0 = van_der_pol_start<S>(rows);
  std::vector<double> t1(static_cast<std::size_t>(rows));
  for (Index i = 0; i < rows; ++i) t1[static_cast<std::size_t>(i)] = 0.3 + 0.01 * static_cast<double>((i * 53) % rows);
  t1[20] = 0;   // nothing to do
  t1[21] = -1;  // backwards

  for (const Method m : {Method::heun, Method::dopri5, Method::tsit5, Method::dopri8})
    for (const Index steps : {Index{0}, Index{7}}) {
      SolverOptions options{.method = m, .steps = steps, .max_steps = 400};
      if (m == Method::heun) options.relative_tolerance = options.absolute_tolerance = 1e-3;
      const ErrorControl<> control{{0, 2, options.tolerance()}};
      const Run<S> all = run(van_der_pol<S>(), y0, 0, t1, options, control);
      CAPTURE(tableau(m).name, steps);
      // Others: a permutation, a part of it, each alone.
      std::vector<Index> order(static_cast<std::size_t>(rows));
      std::iota(order.begin(), order.end(), Index{0});
      std::sort(order.begin(), order.end(), [](Index a, Index b) { return (a * 67) % 150 < (b * 67) % 150; });
      bool equal = true;
      const auto compare = [&](const std::vector<Index>& chosen) {
        Array<S> part(static_cast<Index>(chosen.size()), 3);
        std::vector<double> end;
        for (std::size_t i = 0; i < chosen.size(); ++i) {
          part.row(static_cast<Index>(i)) = y0.row(chosen[i]);
          end.push_back(t1[static_cast<std::size_t>(chosen[i])]);
        }
        const Run<S> r = run(van_der_pol<S>(), part, 0, end, options, control);
        for (std::size_t i = 0; i < chosen.size(); ++i) {
          for (Index j = 0; j < 3; ++j) equal = equal && same_bits(r.y(static_cast<Index>(i), j), all.y(chosen[i], j));
          equal = equal && same(r.statistics[i], all.statistics[static_cast<std::size_t>(chosen[i])]);
        }
      };
      compare(order);
      CHECK(equal);
      compare({order.begin(), order.begin() + 41});
      CHECK(equal);
      compare({order.begin() + 3, order.begin() + 100});
      CHECK(equal);
      for (const Index i : {0, 3, 20, 21, 64, 149}) compare({i});
      CHECK(equal);
    }
}

TEST_CASE("integrate: one hard sample costs the others nothing", "[ode]") {
  Array<double> y0 = van_der_pol_start<double>(100);
  y0.col(2) = 1;
  const std::vector<double> t1(100, 1.0);
  const Run<double> easy = run(van_der_pol<double>(), y0, 0, t1, {});
  y0(17, 2) = 1e3;
  const Run<double> hard = run(van_der_pol<double>(), y0, 0, t1, {});
  CHECK(hard.statistics[17].evaluations > 10 * easy.statistics[17].evaluations);
  for (std::size_t i = 0; i < 100; ++i)
    if (i != 17) CHECK(same(hard.statistics[i], easy.statistics[i]));
}

TEST_CASE("integrate: the field sees full blocks as long as samples wait", "[ode]") {
  const Array<double> y0 = van_der_pol_start<double>(1000);
  std::vector<double> t1(1000);
  for (std::size_t i = 0; i < 1000; ++i) t1[i] = i % 10 == 0 ? 3 : 0.5;
  const auto field = van_der_pol<double>();
  Index calls = 0, rows = 0;
  const auto counting = [&](const Stage<double>& in, View<double> dy) {
    ++calls;
    rows += in.y.rows;
    field(in, dy);
  };
  const Run<double> r = run(counting, y0, 0, t1, {});
  Index evaluations = 0, longest = 0;
  for (const SolveStatistics& s : r.statistics) {
    evaluations += s.evaluations;
    longest = std::max(longest, s.evaluations);
  }
  CHECK(rows == evaluations);
  CHECK(calls < evaluations / 64 + longest);
}

TEST_CASE("integrate: equal steps take exactly their evaluations", "[ode]") {
  Array<double> y0(3, 1);
  y0 << 0.1, 0.5, 0.9;
  for (const Method m : methods)
    for (const Index steps : {Index{1}, Index{10}}) {
      const auto& method = tableau(m);
      Index rounds = 0, seen = 0;
      const auto observer = [&](const AcceptedSteps<double>& made) {
        ++rounds;
        seen += made.count;
        for (Index i = 0; i < made.count; ++i) CHECK(made.step[made.row[i]] == 2.0 / static_cast<double>(steps));
      };
      const Run<double> r = run(logistic, y0, 1, {3.0, 3.0, 3.0}, {.method = m, .steps = steps, .max_steps = 1},
                                ErrorControl<>{}, observer);
      CHECK(rounds == steps);
      CHECK(seen == 3 * steps);
      for (const SolveStatistics& s : r.statistics) {
        CHECK(s.status == Status::finished);
        CHECK(s.evaluations == steps * static_cast<Index>(method.evaluations()) + (method.first_same_as_last ? 1 : 0));
        CHECK(s.accepted == steps);
        CHECK(s.rejected == 0);
        CHECK(s.t == 3);
        CHECK(s.error == 0);
      }
    }
}

TEST_CASE("integrate: solves end at their end time to the last bit", "[ode]") {
  const Array<double> y0 = Array<double>::Zero(1, 1);
  const auto drift = by_row<double>([](double t, const double*, double* d) { d[0] = std::sin(t); });
  for (const double t1 : {0.7, 1.1, -0.3, 17.1, 1e3 + 0.1})
    for (const Index steps : {0, 3, 49}) {
      const SolveStatistics s = run(drift, y0, 0.1, {t1}, {.steps = steps, .max_steps = 1000000}).statistics[0];
      CHECK(s.status == Status::finished);
      CHECK(s.t == t1);
    }
}

TEST_CASE("integrate: the error of a step of DOP853 is Hairer's", "[ode]") {
  const auto& method = tableau(Method::dopri8);
  const SolverOptions options{.method = Method::dopri8,
                              .relative_tolerance = 0.1,
                              .absolute_tolerance = 1e-3,
                              .first_step = 1.5,
                              .max_steps = 1};
  double expected = 0;
  const auto observer = [&](const AcceptedSteps<double>& made) {
    double square = 0, damping = 0;
    for (Index j = 0; j < 2; ++j) {
      double e5 = 0, e3 = 0;
      for (std::size_t k = 0; k < method.stages; ++k) {
        e5 += method.e[k] * made.stage(k).col(j)[0];
        e3 += method.damping[k] * made.stage(k).col(j)[0];
      }
      const double unit = 1e-3 + 0.1 * std::max(std::abs(made.before.col(j)[0]), std::abs(made.after.col(j)[0]));
      square += std::pow(e5 / unit, 2);
      damping += std::pow(e3 / unit, 2);
    }
    expected = 1.5 * square / std::sqrt(2 * (square + 0.01 * damping));  // dop853.f: ERR = |H| ERR sqrt(1 / (N DENO))
  };
  const Array<double> y0 = Array<double>::Ones(1, 2);
  const SolveStatistics s = run(waves, y0, 0, {10.0}, options, ErrorControl<>{}, observer).statistics[0];
  REQUIRE(s.accepted == 1);
  CHECK(expected > 0);
  CHECK(s.error == Approx(expected).epsilon(1e-9));
}

TEST_CASE("integrate: adaptive solves count their evaluations", "[ode]") {
  const Array<double> y0 = van_der_pol_start<double>(5);
  for (const Method m : adaptive_methods) {
    const auto& method = tableau(m);
    for (const double first : {0.0, 1e-3}) {
      const Run<double> r =
          run(van_der_pol<double>(), y0, 0, std::vector<double>(5, 1.0),
              {.method = m, .relative_tolerance = 1e-3, .absolute_tolerance = 1e-3, .first_step = first});
      for (const SolveStatistics& s : r.statistics) {
        CHECK(s.status == Status::finished);
        CHECK(s.evaluations ==
              (first > 0 ? 1 : 2) + (s.accepted + s.rejected) * static_cast<Index>(method.evaluations()));
        CHECK(s.error <= 1);
        CHECK(s.t == 1);
      }
    }
  }
}

TEST_CASE("integrate: steps tile the time from start to end, each where the one before ended", "[ode]") {
  const Array<double> y0 = van_der_pol_start<double>(80);
  std::vector<double> t1(80);
  for (std::size_t i = 0; i < 80; ++i) t1[i] = i % 2 == 0 ? 1.0 + 0.01 * static_cast<double>(i) : -0.2;
  std::vector<double> at(80, 0.0), largest(80, 0.0);
  std::vector<Index> count(80, 0);
  Array<double> y = y0;
  bool joined = true, consistent = true;
  const auto observer = [&](const AcceptedSteps<double>& made) {
    for (Index i = 0; i < made.count; ++i) {
      const Index r = made.row[i], s = made.sample[r];
      const auto k = static_cast<std::size_t>(s);
      joined = joined && made.t[r] == at[k] && std::abs(made.t[r] + made.step[r] - made.end[r]) < 1e-15;
      at[k] = made.end[r];
      largest[k] = std::max(largest[k], std::abs(made.step[r]));
      ++count[k];
      for (Index j = 0; j < 3; ++j) {
        joined = joined && made.before.col(j)[r] == y(s, j);
        y(s, j) = made.after.col(j)[r];
        // The step is that of the tableau.
        double sum = 0;
        for (std::size_t stage = 0; stage < 7; ++stage)
          sum += tableau(Method::dopri5).b[stage] * made.stage(stage).col(j)[r];
        consistent = consistent && std::abs(made.before.col(j)[r] + made.step[r] * sum - made.after.col(j)[r]) < 1e-13;
      }
    }
  };
  const SolverOptions options{.max_step = 0.25};
  const Run<double> r = run(van_der_pol<double>(), y0, 0, t1, options, ErrorControl<>{}, observer);
  CHECK(joined);
  CHECK(consistent);
  CHECK((y == r.y).all());
  for (std::size_t i = 0; i < 80; ++i) {
    CHECK(at[i] == t1[i]);
    CHECK(count[i] == r.statistics[i].accepted);
    CHECK(largest[i] <= 0.25);
  }
}

TEST_CASE("integrate: no step grows right after a rejection", "[ode]") {
  // A corner that the steps run into.
  const auto field = by_row<double>([](double t, const double*, double* d) { d[0] = t < 1 ? 0.1 : 50 * (t - 1); });
  std::vector<double> step;
  std::vector<Index> attempts;
  Index calls = 0;
  const auto counting = [&](const Stage<double>& in, View<double> dy) {
    ++calls;
    field(in, dy);
  };
  const auto observer = [&](const AcceptedSteps<double>& made) {
    step.push_back(made.step[0]);
    attempts.push_back(calls);
  };
  const Run<double> r =
      run(counting, Array<double>(Array<double>::Zero(1, 1)), 0, {3.0}, {}, ErrorControl<>{}, observer);
  CHECK(r.statistics[0].rejected >= 1);
  Index after_rejection = 0;
  for (std::size_t i = 1; i + 1 < step.size(); ++i) {
    if (attempts[i] - attempts[i - 1] == 6) continue;
    ++after_rejection;
    CHECK(step[i + 1] <= step[i]);
  }
  CHECK(after_rejection >= 1);
}

TEST_CASE("integrate: backwards is the way back", "[ode]") {
  Array<double> y0(1, 2);
  y0 << 0.5, 1;
  for (const Method m : adaptive_methods) {
    const SolverOptions options{
        .method = m, .relative_tolerance = 1e-7, .absolute_tolerance = 1e-7, .max_steps = 100000};
    const Run<double> there = run(waves, y0, 0.5, {-0.7}, options);
    const Run<double> back = run(waves, there.y, -0.7, {0.5}, options);
    CAPTURE(tableau(m).name);
    CHECK((back.y - y0).abs().maxCoeff() < 1e-6);
    CHECK(std::abs(there.y(0, 1) - std::exp(std::sin(-0.7) - std::sin(0.5))) < 1e-6);
    CHECK(there.statistics[0].step < 0);
    CHECK(there.statistics[0].t == -0.7);
  }
  const Run<double> equal = run(waves, y0, 0.5, {-0.7}, {.method = Method::rk4, .steps = 50});
  CHECK(std::abs(equal.y(0, 1) - std::exp(std::sin(-0.7) - std::sin(0.5))) < 1e-7);
}

TEST_CASE("integrate: no samples, no way to go, and results in place", "[ode]") {
  CHECK(run(logistic, Array<double>(0, 1), 0, {}, {}).y.rows() == 0);
  Array<double> y(70, 1);
  for (Index i = 0; i < 70; ++i) y(i) = 0.01 * static_cast<double>(i + 1);
  const Run<double> still = run(logistic, y, 2, std::vector<double>(70, 2.0), {});
  CHECK((still.y == y).all());
  CHECK(still.statistics[69].evaluations == 0);
  CHECK(still.statistics[69].status == Status::finished);
  CHECK(still.statistics[69].t == 2);

  const std::vector<double> t1(70, 1.0);
  const Run<double> apart = run(logistic, y, 0, t1, {});
  std::vector<SolveStatistics> statistics(70);
  Workspace<double> workspace;
  diffeo::ode::integrate<double>(logistic, view(y), 0, t1.data(), view(y), SolverOptions{}, ErrorControl<>{},
                                 statistics, workspace);
  CHECK((y == apart.y).all());
}

TEST_CASE("integrate: a workspace goes from one problem to the next", "[ode]") {
  Workspace<double> workspace;
  for (const Index cols : {3, 1, 3})
    for (const Method m : adaptive_methods) {
      const Array<double> y0 = Array<double>::Constant(100, cols, 0.3);
      const std::vector<double> t1(100, 1.0);
      const auto field = [](const Stage<double>& in, View<double> dy) {
        for (Index j = 0; j < in.y.cols; ++j)
          for (Index i = 0; i < in.y.rows; ++i) dy.col(j)[i] = in.y.col(j)[i] * (1 - in.y.col(j)[i]);
      };
      Array<double> y1(100, cols);
      std::vector<SolveStatistics> statistics(100);
      diffeo::ode::integrate<double>(field, view(y0), 0, t1.data(), view(y1), {.method = m}, ErrorControl<>{},
                                     statistics, workspace);
      CHECK((y1 == run(field, y0, 0, t1, {.method = m}).y).all());
      CHECK((y1 - logistic_at(0.3, 1)).abs().maxCoeff() < 1e-4);
    }
}

TEST_CASE("integrate: columns are controlled as they are grouped", "[ode]") {
  // The second column is rough, the first smooth.
  const auto field = by_row<double>([](double t, const double* y, double* d) {
    d[0] = -y[0];
    d[1] = 30 * std::cos(30 * t);
  });
  Array<double> y0(1, 2);
  y0 << 1, 0;
  const auto accepted = [&](const ErrorControl<>& control) {
    const Run<double> r = run(field, y0, 0, {2.0}, {}, control);
    CHECK(r.statistics[0].status == Status::finished);
    return r.statistics[0].accepted;
  };
  const diffeo::ode::Tolerance fine{1e-8, 1e-8}, coarse{1e-3, 1e-3};
  const Index first = accepted({{0, 1, fine}}), second = accepted({{1, 1, fine}});
  CHECK(second > 5 * first);
  CHECK(accepted({{0, 1, fine}, {1, 1, fine}}) > 5 * first);
  CHECK(accepted({{0, 1, fine}, {1, 1, coarse}}) < second);
  // A group of all columns is the same as none, with the options' tolerances.
  const Run<double> plain = run(field, y0, 0, {2.0}, {}),
                    grouped =
                        run(field, y0, 0, {2.0}, {.relative_tolerance = 1e-2}, ErrorControl<>{{0, 2, {1e-5, 1e-6}}});
  CHECK((plain.y == grouped.y).all());
  // The largest entry is at least the root of the mean square.
  CHECK(run(field, y0, 0, {2.0}, {}, ErrorControl<MaxNorm>{}).statistics[0].accepted > plain.statistics[0].accepted);
}

TEST_CASE("integrate: an error that is not a number rejects, in whichever group it is", "[ode]") {
  const auto field = by_row<double>([](double, const double*, double* d) { d[0] = d[1] = d[2] = 1; });
  const Array<double> y0 = Array<double>::Zero(1, 3);
  for (const ErrorControl<NanForTwo>& control :
       {ErrorControl<NanForTwo>{{0, 1, {}}, {1, 2, {}}}, ErrorControl<NanForTwo>{{0, 2, {}}, {2, 1, {}}}}) {
    const SolveStatistics s = run(field, y0, 0, {1.0}, {.first_step = 0.5}, control).statistics[0];
    CHECK(s.status == Status::step_too_small);
    CHECK(s.accepted == 0);
  }
  CHECK(run(field, y0, 0, {1.0}, {}, ErrorControl<NanForTwo>{{0, 1, {}}, {1, 1, {}}}).statistics[0].status ==
        Status::finished);
}

TEST_CASE("integrate: columns without control may do as they like, as long as they are finite", "[ode]") {
  const auto field = by_row<double>([](double t, const double*, double* d) {
    d[0] = 1;
    d[1] = t > 0.5 ? std::numeric_limits<double>::quiet_NaN() : 0;
  });
  const Run<double> r = run(field, Array<double>(Array<double>::Zero(1, 2)), 0, {1.0}, {}, ErrorControl<>{{0, 1, {}}});
  CHECK(r.statistics[0].status == Status::not_finite);
  CHECK(r.statistics[0].t == Approx(0.5).margin(1e-12));
}

TEST_CASE("integrate: stiffness is noticed", "[ode]") {
  // y' = -10 000 (y - cos t): explicit methods need steps of 3.3 / 10 000 or smaller.
  const auto relaxation =
      by_row<double>([](double t, const double* y, double* d) { d[0] = -1e4 * (y[0] - std::cos(t)); });
  const Array<double> y0 = Array<double>::Zero(2, 1);
  for (const Method m : {Method::dopri5, Method::tsit5, Method::dopri8}) {
    CAPTURE(tableau(m).name);
    const Run<double> r = run(relaxation, y0, 0, {0.0, 10.0}, {.method = m, .max_steps = 1000});
    CHECK(r.statistics[0].status == Status::finished);
    const SolveStatistics& s = r.statistics[1];
    CHECK(s.status == Status::max_steps);
    CHECK(s.accepted + s.rejected == 1000);
    CHECK(s.stiffness == Approx(1e4).epsilon(0.01));
    CHECK(s.step * s.stiffness > 1.5);  // stability is what limits the steps
    CHECK(s.t > 0.1);
    CHECK(s.t < 1);
    CHECK(r.y(1, 0) == Approx(std::cos(s.t)).margin(1e-3));  // what was reached

    const std::string message =
        thrown_message<diffeo::integration_error>([&] { diffeo::ode::throw_failed("cnf", r.statistics); });
    CHECK(contains(message, "cnf: row 1 was not integrated: max_steps were not enough at t = 0."));
    CHECK(contains(message, "stiffness 1"));
    // It ends when it may take its time.
    CHECK(run(relaxation, y0, 0, {0.0, 1.0}, {.method = m, .max_steps = 10000}).statistics[1].status ==
          Status::finished);
  }
  const Run<double> vdp = [] {
    Array<double> start(1, 3);
    start << 2, 0, 1e3;
    return run(van_der_pol<double>(), start, 0, {100.0}, {.max_steps = 2000});
  }();
  // d/dy2 of mu (1 - y1^2) y2 at y1 = 2 is -3 mu.
  CHECK(vdp.statistics[0].status == Status::max_steps);
  CHECK(vdp.statistics[0].stiffness == Approx(3e3).epsilon(0.1));
  // A field that is not stiff: |lambda| = 1.
  const auto decay = by_row<double>([](double, const double* y, double* d) { d[0] = -y[0]; });
  CHECK(run(decay, Array<double>(Array<double>::Ones(1, 1)), 0, {1.0}, {}).statistics[0].stiffness ==
        Approx(1).epsilon(0.01));
  // Methods that have no two stages at the end of the step know nothing.
  CHECK(run(decay, Array<double>(Array<double>::Ones(1, 1)), 0, {1.0}, {.method = Method::bosh3})
            .statistics[0]
            .stiffness == 0);
}

TEMPLATE_TEST_CASE("integrate: a field that is not finite", "[ode]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const S nan = std::numeric_limits<S>::quiet_NaN();
  // Sample by its start: 0 fine, 1 NaN at once, 2 NaN after t = 0.25, 3 infinite at t = 1 / 3.
  const auto field = by_row<S>([nan](double t, const S* y, S* d) {
    d[1] = 0;
    d[0] = y[1] == 0 ? S(1) : y[1] == 1 ? nan : y[1] == 2 ? (t > 0.25 ? nan : S(1)) : y[0] * y[0];
  });
  Array<S> y0(4, 2);
  y0 << 0, 0, 0, 1, 0, 2, 3, 3;
  const Run<S> r = run(field, y0, 0, std::vector<double>(4, 1.0), {});
  CHECK(r.statistics[0].status == Status::finished);
  CHECK(r.y(0, 0) == Approx(1));
  CHECK(r.statistics[1].status == Status::not_finite);
  CHECK(r.statistics[1].evaluations == 2);
  CHECK(r.statistics[1].t == 0);
  CHECK(r.y(1, 0) == 0);
  CHECK(r.statistics[2].status == Status::not_finite);
  CHECK(r.statistics[2].t == Approx(0.25).epsilon(1e-10));
  CHECK(r.statistics[2].step < 1e-10);
  CHECK(r.y(2, 0) == Approx(0.25));
  CHECK(r.statistics[3].status != Status::finished);
  CHECK(r.statistics[3].t == Approx(1.0 / 3).epsilon(1e-4));
  CHECK(std::isfinite(r.y(3, 0)));
  CHECK(contains(thrown_message<diffeo::integration_error>([&] { diffeo::ode::throw_failed("x", r.statistics); }),
                 "x: row 1 was not integrated: the field is not finite at t = 0"));

  const Run<S> equal = run(field, y0, 0, std::vector<double>(4, 1.0), {.steps = 10});
  CHECK(equal.statistics[0].status == Status::finished);
  CHECK(equal.statistics[1].status == Status::not_finite);
  CHECK(equal.statistics[2].status == Status::not_finite);
  CHECK(equal.statistics[2].t == Approx(0.2));
  CHECK(equal.y(2, 0) == Approx(0.2));

  // Near the start: steps do not shrink for ever where t is 0.
  const auto at_once = by_row<S>([nan](double t, const S*, S* d) { d[0] = t == 0 ? S(1) : nan; });
  const SolveStatistics s = run(at_once, Array<S>(Array<S>::Ones(1, 1)), 0, {1.0}, {}).statistics[0];
  CHECK(s.status == Status::not_finite);
  CHECK(s.rejected < 40);
  // A start that is not finite itself.
  const auto constant = by_row<S>([](double, const S*, S* d) { d[0] = 1; });
  CHECK(run(constant, Array<S>(Array<S>::Constant(1, 1, nan)), 0, {1.0}, {}).statistics[0].status ==
        Status::not_finite);
}

TEST_CASE("integrate: bounds of steps hold", "[ode]") {
  Array<double> y0(1, 2);
  y0 << 1, 1;
  const SolveStatistics one = run(waves, y0, 0, {2.0}, {.max_steps = 1}).statistics[0];
  CHECK(one.status == Status::max_steps);
  CHECK(one.accepted + one.rejected == 1);
  CHECK(run(waves, y0, 0, {1e-3}, {.max_steps = 1}).statistics[0].status == Status::finished);

  const SolveStatistics first = run(waves, y0, 0, {2.0}, {.first_step = 0.01, .max_steps = 1}).statistics[0];
  CHECK(first.step == 0.01);
  const SolveStatistics small =
      run(waves, y0, 0, {2.0}, {.relative_tolerance = 1e-10, .absolute_tolerance = 1e-10, .min_step = 0.2})
          .statistics[0];
  CHECK(small.status == Status::step_too_small);
  CHECK(small.step == 0.2);
  CHECK(small.error > 1);
  const SolveStatistics wide = run(waves, y0, 0, {2.0}, {.max_step = 0.01}).statistics[0];
  CHECK(wide.accepted >= 200);
  CHECK(wide.accepted <= 202);
}

TEST_CASE("integrate: misuse throws and names what came", "[ode]") {
  const Array<double> y0 = Array<double>::Ones(2, 1);
  Array<double> y1(2, 1), wide(2, 2);
  std::vector<double> t1{1, 2};
  std::vector<SolveStatistics> statistics(2);
  Workspace<double> workspace;
  const auto refused = [&](const Array<double>& from, double t0, Array<double>& to, std::size_t count,
                           const SolverOptions& options, const ErrorControl<>& control = {}) {
    statistics.resize(count);
    return thrown_message<diffeo::invalid_argument>([&] {
      diffeo::ode::integrate<double>(logistic, view(from), t0, t1.data(), view(to), options, control, statistics,
                                     workspace);
    });
  };
  CHECK(contains(refused(y0, 0, wide, 2, {}), "ode::integrate: y1 is 2 x 2, y0 is 2 x 1"));
  CHECK(contains(refused(y0, 0, y1, 3, {}), "3 statistics, expected one for each of 2 samples"));
  CHECK(contains(refused(y0, std::nan(""), y1, 2, {}), "t0 of sample 0 is nan"));
  CHECK(contains(refused(y0, 0, y1, 2, {.relative_tolerance = 0}), "ode::integrate: the relative tolerance is 0"));
  CHECK(contains(refused(y0, 0, y1, 2, {}, {{0, 2, {}}}), "columns 0 ... 1 are measured, the state has 1"));
  CHECK(contains(refused(y0, 0, y1, 2, {.method = Method::rk4}), "rk4 has no error estimate"));
  CHECK(contains(refused(y0, 0, y1, 2, {.relative_tolerance = 1e-16, .absolute_tolerance = 1e-17}),
                 "the tolerances are 1e-16 relative and 1e-17 absolute, rounding of double allows no less than 8.8"));
  CHECK(contains(refused(y0, 0, y1, 2, {.controller = static_cast<Controller>(7)}), "controller is no 7"));
  t1[1] = std::numeric_limits<double>::infinity();
  CHECK(contains(refused(y0, 0, y1, 2, {}), "t1 of sample 1 is inf"));
  Array<double> none(2, 0);
  CHECK(contains(refused(none, 0, none, 2, {}), "y0 has no columns"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] {
                   run(van_der_pol<float>(), van_der_pol_start<float>(1), 0, {1.0}, {.absolute_tolerance = 1e-60});
                 }),
                 "the absolute tolerance is 1e-60, which this type cannot hold"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] {
                   run(van_der_pol<float>(), van_der_pol_start<float>(1), 0, {1.0},
                       {.relative_tolerance = 1e-8, .absolute_tolerance = 1e-9});
                 }),
                 "rounding of float allows no less than 4.7"));
}
