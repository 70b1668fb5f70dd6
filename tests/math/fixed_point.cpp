// SPDX-License-Identifier: MIT
#include <cstring>
#include <diffeo/math/fixed_point.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::convergence_error;
using diffeo::Index;
using diffeo::View;
using diffeo::view;
using diffeo::math::fixed_point;
using Precise = Eigen::Array<long double, Eigen::Dynamic, Eigen::Dynamic>;

namespace {

// g(y) = L (sin(y_1), ..., sin(y_0)): Lipschitz constant L.
template <class S>
struct Turn {
  S lipschitz;
  void operator()(View<const S> in, View<S> out) const {
    for (Index j = 0; j < in.cols; ++j)
      for (Index i = 0; i < in.rows; ++i) out.col(j)[i] = lipschitz * std::sin(in.col((j + 1) % in.cols)[i]);
  }
};

template <class S>
Array<S> points(Index rows, Index cols) {
  Array<S> x(rows, cols);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = S(3) * static_cast<S>(std::sin(double(7 * i + 1)));
  return x;
}

template <class S, class G>
Array<S> solved(const Array<S>& x, const G& g, double lipschitz, const diffeo::math::FixedPointOptions& options) {
  Array<S> y = x;
  fixed_point<S>("test", view(y), View<const S>(view(x)), g, lipschitz, options);
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("fixed point: the tolerance bounds the error", "[math][fixed_point]", float, double) {
  using S = TestType;
  for (const double lipschitz : {0.1, 0.9, 0.99}) {
    const Array<S> x = points<S>(60, 3);
    Precise exact = x.template cast<long double>();
    for (int k = 0; k < 8000; ++k) {
      Precise next(60, 3);
      for (Index j = 0; j < 3; ++j)
        next.col(j) = x.col(j).template cast<long double>() -
                      static_cast<long double>(static_cast<S>(lipschitz)) * exact.col((j + 1) % 3).sin();
      exact = next;
    }
    const Turn<S> g{static_cast<S>(lipschitz)};
    const auto error = [&](const Array<S>& y) {
      return double((y.template cast<long double>() - exact).square().rowwise().sum().sqrt().maxCoeff());
    };
    const double floor = 40 * double(std::numeric_limits<S>::epsilon()) / (1 - lipschitz);
    for (const double tolerance : {1e-2, 1e-4}) {
      const double e = error(solved<S>(x, g, lipschitz, {.tolerance = tolerance, .max_iterations = 5000}));
      CHECK(e <= tolerance + floor);
      CHECK(e > 0);
    }
    CHECK(error(solved<S>(x, g, lipschitz, {.tolerance = 0, .max_iterations = 20000})) <= floor);
  }
}

TEMPLATE_TEST_CASE("fixed point: a row does not depend on the others", "[math][fixed_point]", float, double) {
  using S = TestType;
  const Array<S> x = points<S>(40, 2) * S(0.3);
  const Turn<S> g{S(0.9)};
  const auto all = solved<S>(x, g, 0.9, {.tolerance = 1e-4});
  for (Index first = 0; first < x.rows(); ++first)
    for (const Index count : {1, 3, 10}) {
      if (first + count > x.rows()) continue;
      const auto part = solved<S>(Array<S>(x.middleRows(first, count)), g, 0.9, {.tolerance = 1e-4});
      for (Index j = 0; j < 2; ++j)
        for (Index i = 0; i < count; ++i) REQUIRE(std::memcmp(&part(i, j), &all(first + i, j), sizeof(S)) == 0);
    }
}

TEMPLATE_TEST_CASE("fixed point: few iterations, and those alone that are needed", "[math][fixed_point]", float,
                   double) {
  using S = TestType;
  Array<S> x = Array<S>::Zero(5, 2), y = x;
  x(3, 0) = 2;
  y(3, 0) = 2;
  std::vector<Index> evaluated;
  const auto g = [&](View<const S> in, View<S> out) {
    evaluated.push_back(in.rows);
    Turn<S>{S(0.5)}(in, out);
  };
  const int iterations = fixed_point<S>("test", view(y), View<const S>(view(x)), g, 0.5);
  CHECK(iterations == static_cast<int>(evaluated.size()));
  CHECK(iterations < 30);
  CHECK(evaluated.front() == 5);
  CHECK(evaluated[1] == 1);
  // A constant g, L = 0: two evaluations see it.
  const auto constant = [](View<const S>, View<S> out) { diffeo::as_eigen(out).setConstant(2); };
  CHECK(fixed_point<S>("test", view(y), View<const S>(view(x)), constant, 0) <= 2);
  CHECK((y == x - S(2)).all());
  Array<S> none(0, 2);
  CHECK(fixed_point<S>("test", view(none), View<const S>(view(none)), g, 0.5) == 0);
}

TEMPLATE_TEST_CASE("fixed point: what does not converge is said", "[math][fixed_point]", float, double) {
  using S = TestType;
  const auto caught = [](const Array<S>& x, const auto& g, int bound) {
    try {
      solved<S>(x, g, 0.9, {.tolerance = 1e-5, .max_iterations = bound});
    } catch (const convergence_error& e) {
      return e;
    }
    FAIL("no exception was thrown");
    return convergence_error("", 0, 0, 0);
  };
  Array<S> x = Array<S>::Zero(6, 2);
  x(4, 1) = 1;
  const auto bound = caught(x, Turn<S>{S(0.9)}, 5);
  CHECK(bound.sample() == 4);
  CHECK(bound.iterations() == 5);
  CHECK(bound.residual() > 0);
  // No contraction, whatever was claimed.
  const auto expansion = [](View<const S> in, View<S> out) {
    diffeo::as_eigen(out) = diffeo::as_eigen(in) * S(-3) + S(1);
  };
  CHECK(caught(x, expansion, 100000).iterations() < 2000);
  x(2, 0) = std::numeric_limits<S>::quiet_NaN();
  const auto of_nan = caught(x, Turn<S>{S(0.9)}, 1000);
  CHECK(of_nan.sample() == 2);
  CHECK(of_nan.iterations() == 1);

  const auto message = [&](double lipschitz, const diffeo::math::FixedPointOptions& options) {
    return thrown_message<diffeo::invalid_argument>([&] { solved<S>(x, Turn<S>{S(0.9)}, lipschitz, options); });
  };
  CHECK(message(1, {}) == "test: the Lipschitz constant is 1, expected 0 <= L < 1");
  CHECK(contains(message(-0.1, {}), "Lipschitz constant is -0.1"));
  CHECK(contains(message(std::nan(""), {}), "Lipschitz constant is nan"));
  CHECK(contains(message(0.5, {.tolerance = -1}), "tolerance is -1"));
  CHECK(contains(message(0.5, {.max_iterations = 0}), "max_iterations is 0"));
  Array<S> y(5, 2);
  CHECK(contains(thrown_message<diffeo::invalid_argument>(
                     [&] { fixed_point<S>("test", view(y), View<const S>(view(x)), Turn<S>{S(0.9)}, 0.9); }),
                 "y is 5 x 2, x 6 x 2"));
}
