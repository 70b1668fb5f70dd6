// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/math/random_fill.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../catch.hpp"

/// Checks the laws of a target: derivatives in reverse and forward mode at points with standard deviation `spread`,
/// independence of rows, and finite values and gradients at 0 and at points with all coordinates +-far.
template <diffeo::Real S, class T>
void check_target(const T& target, S spread, S far) {
  using namespace diffeo;
  const auto f = [&target](auto x) { return target(x[0]); };
  Array<S> x(40, target.dim());
  fill_normal(view(x), 3);
  x *= spread;
  const double tolerance = std::is_same_v<S, double> ? 1e-6 : 2e-2;
  const auto check = [&](const testing::GradientCheck& result) {
    CAPTURE(result.where);
    CHECK(result.max_error < tolerance);
  };
  check(testing::check_gradients(f, std::vector{x}));
  check(testing::check_tangents(f, std::vector{x}));
  check(testing::check_tangent_gradients(f, std::vector{x}));

  Tape<S> tape;
  const Array<S> all = as_eigen(target(tape.copy(x)).value());
  REQUIRE((all.rows() == 40 && all.cols() == 1));
  for (const Index i : {0, 7, 39}) CHECK(as_eigen(target(tape.copy(x.row(i))).value())(0, 0) == all(i, 0));

  Array<S> places = Array<S>::Zero(3, target.dim());
  places.row(1) = far;
  places.row(2) = -far;
  tape.reset();
  const Var<S> v = tape.variable(places), y = target(v);
  const Array<S> ones = Array<S>::Ones(3, 1);
  tape.backward(y, view(ones));
  CHECK(as_eigen(y.value()).isFinite().all());
  CHECK(as_eigen(v.grad()).isFinite().all());

  CHECK(contains(thrown_message<invalid_argument>([&] { target(tape.copy(Array<S>::Zero(2, target.dim() + 1))); }),
                 "this target has dimension"));
}
