// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstring>
#include <diffeo/math/elementwise.hpp>
#include <diffeo/math/root.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::convergence_error;
using diffeo::Index;
using diffeo::RootOptions;
using diffeo::View;
using diffeo::view;
namespace simd = diffeo::simd;

namespace {

template <class S>
simd::Bracket<S> everywhere(S start = 0) {
  constexpr S infinity = std::numeric_limits<S>::infinity();
  return {simd::broadcast<S>(-infinity), simd::broadcast<S>(infinity), simd::broadcast<S>(start)};
}

// The roots of f(x) = t for the given t, from a bracket without bounds.
template <class S, class F>
Array<S> roots_of(const F& f, const Array<S>& t, const RootOptions<S>& options = {}) {
  Array<S> x(t.rows(), t.cols());
  diffeo::math::find_roots<S>(
      "test", view(x), f, [](auto) { return everywhere<S>(); }, options, view(t));
  return x;
}

template <class S>
Array<S> column(std::initializer_list<double> values) {
  Array<S> x(static_cast<Index>(values.size()), 1);
  Index i = 0;
  for (const double v : values) x(i++, 0) = static_cast<S>(v);
  return x;
}

template <class S>
double worst(const Array<S>& x, const Array<S>& expected) {
  return static_cast<double>(((x - expected).abs() / expected.abs().max(std::numeric_limits<S>::min())).maxCoeff());
}

constexpr auto cubic = [](auto x, auto t) {
  using V = decltype(x);
  using S = std::remove_cvref_t<decltype(x[0])>;
  return simd::Equation<S>{V(x * x * x - t), V(S(3) * x * x)};
};

}  // namespace

TEMPLATE_TEST_CASE("root: of easy and hard functions, without a bracket", "[math][root]", float, double) {
  using S = TestType;
  using V = simd::Vec<S>;
  const double ulp = static_cast<double>(std::numeric_limits<S>::epsilon());
  const Array<S> t = column<S>({-1e6, -8, -1e-6, 1e-9, 0.125, 1, 2, 27, 1e9});

  SECTION("a cubic, flat at 0") {
    CHECK(worst<S>(roots_of<S>(cubic, t), t.unaryExpr([](S v) { return std::cbrt(v); })) < 6 * ulp);
  }
  SECTION("a straight line, steep and flat") {
    for (const S slope : {S(1e-6), S(1), S(1e6)}) {
      const auto line = [slope](V x, V y) { return simd::Equation<S>{x * slope - y, simd::broadcast<S>(slope)}; };
      CHECK(worst<S>(roots_of<S>(line, t), t / slope) < 6 * ulp);
    }
  }
  SECTION("a function that rises as a step") {
    const auto sigmoid = [](V x, V y) {
      const V h = simd::tanh<S>(S(1e4) * (x - S(3)));
      return simd::Equation<S>{h - y * S(1e-13), S(1e4) * (S(1) - h * h)};
    };
    CHECK(worst<S>(roots_of<S>(sigmoid, column<S>({1, -1, 2})), column<S>({3, 3, 3})) < 6 * ulp);
  }
  SECTION("slopes that are wrong, zero, negative or not a number") {
    for (const S slope :
         {S(1e-30), S(0), S(-1), S(1e30), std::numeric_limits<S>::infinity(), std::numeric_limits<S>::quiet_NaN()}) {
      const auto f = [slope](V x, V y) { return simd::Equation<S>{x * x * x - y, simd::broadcast<S>(slope)}; };
      CHECK(worst<S>(roots_of<S>(f, t), t.unaryExpr([](S v) { return std::cbrt(v); })) < 6 * ulp);
    }
  }
  SECTION("roots at the ends of the range") {
    const S huge = std::numeric_limits<S>::max() / 2, tiny = std::numeric_limits<S>::min();
    const Array<S> ends = column<S>({double(huge), -double(huge), double(tiny), -double(tiny), 0});
    const auto line = [](V x, V y) { return simd::Equation<S>{x - y, simd::broadcast<S>(1)}; };
    const Array<S> found = roots_of<S>(line, ends);
    for (Index i = 0; i < ends.rows(); ++i)
      CHECK(std::abs(double(found(i, 0)) - double(ends(i, 0))) <= 6 * ulp * std::abs(double(ends(i, 0))));
    // By bisection alone, which has to pass all the exponents.
    const auto blind = [](V v, V y) { return simd::Equation<S>{v - y, V{}}; };
    const Array<S> y = roots_of<S>(blind, ends);
    for (Index i = 0; i < 4; ++i) CHECK(std::abs(double(y(i, 0) / ends(i, 0)) - 1) < 6 * ulp);
    CHECK(std::abs(y(4, 0)) < tiny);
  }
}

TEMPLATE_TEST_CASE("root: x + c tanh x = t where it is as flat as 1e-6", "[math][root]", float, double) {
  using S = TestType;
  using V = simd::Vec<S>;
  for (const double rise : {1e-6, 1.0, 101.0}) {  // of x - tanh x + rise tanh x at 0
    const auto f = [r = static_cast<S>(rise)](V x, V t) {
      const V h = simd::tanh<S>(x);
      return simd::Equation<S>{r * h + (x - h) - t, h * h + r * (S(1) - h * h)};
    };
    Array<S> t(401, 1);
    for (Index i = 0; i < t.rows(); ++i)
      t(i, 0) = static_cast<S>(std::copysign(std::pow((double(i) - 200) / 40, 4), double(i) - 200));
    const Array<S> x = roots_of<S>(f, t);
    for (Index i = 0; i < t.rows(); ++i) {
      const double s = double(x(i, 0)), h = std::tanh(s), back = rise * h + (s - h);
      // Rounding of s and of t, as far as this function passes it on.
      const double allowed = 12 * double(std::numeric_limits<S>::epsilon()) *
                             (std::abs(s) * std::max(1.0, rise) + std::abs(double(t(i, 0))));
      CHECK(std::abs(back - double(t(i, 0))) <= allowed);
    }
  }
}

TEMPLATE_TEST_CASE("root: the tolerance bounds the error, not the step or the residual", "[math][root]", float,
                   double) {
  using S = TestType;
  const Array<S> t = column<S>({1e-9, -1e-6, 0.3, 5, 1e6, 0});
  for (const double tolerance : {1e-1, 1e-3, 1e-5}) {
    const Array<S> x = roots_of<S>(cubic, t, {.tolerance = S(tolerance)});
    for (Index i = 0; i < t.rows(); ++i) {
      INFO("root of " << t(i, 0));
      const double exact = std::cbrt(double(t(i, 0)));
      CHECK(std::abs(double(x(i, 0)) - exact) <=
            tolerance + 4 * double(std::numeric_limits<S>::epsilon()) * std::abs(exact));
    }
  }
}

TEMPLATE_TEST_CASE("root: a lane does not depend on the others", "[math][root]", float, double) {
  using S = TestType;
  using V = simd::Vec<S>;
  const auto f = [](V x, V t) {
    const V h = simd::tanh<S>(x);
    return simd::Equation<S>{simd::mul_add<S>(simd::broadcast<S>(S(-0.999)), h, x - t),
                             simd::mul_add<S>(h * S(0.999), h, simd::broadcast<S>(S(0.001)))};
  };
  Array<S> t(101, 2);
  for (Index i = 0; i < t.size(); ++i) t.data()[i] = static_cast<S>(std::sin(double(i)) * std::exp(double(i % 13) - 8));
  const Array<S> all = roots_of<S>(f, t);
  for (Index first = 0; first < t.rows(); ++first)
    for (const Index count : {1, 2, 5, 17, 33}) {
      if (first + count > t.rows()) continue;
      const Array<S> part = roots_of<S>(f, t.middleRows(first, count));
      for (Index j = 0; j < 2; ++j)
        for (Index i = 0; i < count; ++i) REQUIRE(std::memcmp(&part(i, j), &all(first + i, j), sizeof(S)) == 0);
    }
}

TEMPLATE_TEST_CASE("root: registers solved together have the bits of each alone", "[math][root]", float, double) {
  using S = TestType;
  using V = simd::Vec<S>;
  constexpr std::size_t count = 3;
  // Easy, hard (flat at the root, and far away), and without a solution in one lane.
  V t[count];
  for (Index i = 0; i < simd::lanes<S>; ++i) {
    t[0][i] = S(i) - S(0.5);
    t[1][i] = S(i % 2 ? 1e9 : 1e-12) * S(i + 1);
    t[2][i] = i == 1 ? std::numeric_limits<S>::quiet_NaN() : S(-3) * S(i);
  }
  const simd::Bracket<S> brackets[count] = {everywhere<S>(1), everywhere<S>(-2), everywhere<S>()};
  simd::Roots<S> together[count];
  simd::find_root<S, count>([&t](std::size_t r, V x) { return cubic(x, t[r]); }, brackets, S(0), 200, together);
  for (std::size_t r = 0; r < count; ++r) {
    const auto alone = simd::find_root<S>([&](V x) { return cubic(x, t[r]); }, brackets[r], S(0), 200);
    CAPTURE(r);
    for (Index i = 0; i < simd::lanes<S>; ++i) {
      CAPTURE(i);
      CHECK((together[r].converged[i] != 0) == (r != 2 || i != 1));
      CHECK(together[r].converged[i] == alone.converged[i]);
      if (alone.converged[i] == 0) continue;
      CHECK(together[r].root[i] == alone.root[i]);
      CHECK(together[r].residual[i] == alone.residual[i]);
      const S root = together[r].root[i], target = t[r][i];
      CHECK(double(root) ==
            Approx(std::cbrt(double(target))).epsilon(4 * std::numeric_limits<S>::epsilon()).margin(1e-12));
    }
  }
}

TEMPLATE_TEST_CASE("root: what cannot be solved is said, with row and residual", "[math][root]", float, double) {
  using S = TestType;
  using V = simd::Vec<S>;
  const S nan = std::numeric_limits<S>::quiet_NaN();
  const auto caught = [](const auto& solve) {
    try {
      solve();
    } catch (const convergence_error& e) {
      return e;
    }
    FAIL("no exception was thrown");
    return convergence_error("", 0, 0, 0);
  };
  Array<S> t = Array<S>::Constant(70, 1, S(2));

  t(66, 0) = nan;
  const auto of_nan = caught([&] { roots_of<S>(cubic, t); });
  CHECK(of_nan.sample() == 66);
  CHECK(std::isnan(of_nan.residual()));
  CHECK(of_nan.solver() == "test");
  CHECK(contains(of_nan.what(), "test: row 66 did not converge: residual "));

  t(66, 0) = 1000;
  const auto bound = caught([&] { roots_of<S>(cubic, t, {.max_iterations = 3}); });
  CHECK(bound.sample() == 0);
  CHECK(bound.iterations() == 3);
  CHECK(std::isfinite(bound.residual()));
  CHECK(bound.residual() != 0);

  // A bracket that does not hold the root of row 66.
  Array<S> out(70, 1);
  const auto outside = caught([&] {
    diffeo::math::find_roots<S>(
        "test", view(out), cubic,
        [](auto) -> simd::Bracket<S> {
          return {simd::broadcast<S>(-3), simd::broadcast<S>(3), V{}};
        },
        {}, View<const S>(view(t)));
  });
  CHECK(outside.sample() == 66);
  CHECK(outside.residual() == Approx(27 - 1000.0).epsilon(1e-5));
  // Padding behind the last row is nobody's business.
  t.conservativeResize(66, 1);
  CHECK_NOTHROW(roots_of<S>(cubic, t));
  const auto positive = [](V v, V y) { return simd::Equation<S>{simd::exp<S>(v) + S(0) * y, simd::exp<S>(v)}; };
  CHECK_NOTHROW(roots_of<S>(positive, column<S>({1})));  // 0 in this arithmetic, far out
  const auto above = [](V v, V y) { return simd::Equation<S>{simd::tanh<S>(v) + S(2) + S(0) * y, V{}}; };
  CHECK(caught([&] { roots_of<S>(above, column<S>({1})); }).sample() == 0);

  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { roots_of<S>(cubic, t, {.tolerance = S(-1)}); }),
                 "test: tolerance is -1"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { roots_of<S>(cubic, t, {.tolerance = nan}); }),
                 "tolerance is nan"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { roots_of<S>(cubic, t, {.max_iterations = 0}); }),
                 "max_iterations is 0"));
  CHECK(roots_of<S>(cubic, Array<S>(0, 1)).rows() == 0);
}
