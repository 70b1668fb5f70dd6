// SPDX-License-Identifier: MIT
#include <cstring>
#include <diffeo/autodiff/ops/row_dot.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using namespace diffeo;

namespace {

template <Real S>
Array<S> dot(const Array<S>& a, const Array<S>& b) {
  Tape<S> tape;
  return as_eigen(row_dot(tape.copy(a), tape.copy(b)).value());
}

}  // namespace

TEMPLATE_TEST_CASE("row_dot: the inner product of rows", "[row_dot]", float, double) {
  using S = TestType;
  for (const Index n : {0, 1, 7, 64, 131})
    for (const Index c : {0, 1, 3, 64}) {
      CAPTURE(n, c);
      const Array<S> a = gaussian<S>(n, c, 0), b = gaussian<S>(n, c, 1), got = dot(a, b);
      REQUIRE(got.rows() == n);
      REQUIRE(got.cols() == 1);
      if (n == 0) continue;
      const Array<S> expected = (a * b).rowwise().sum(), size = (a * b).abs().rowwise().sum();
      CHECK(((got - expected).abs() <= S(10) * std::numeric_limits<S>::epsilon() * size).all());
      for (const Index row : {Index{0}, n / 2, n - 1}) {
        const S alone = dot<S>(a.row(row), b.row(row))(0),
                in_rest = dot<S>(a.bottomRows(n - row), b.bottomRows(n - row))(0);
        CHECK(std::memcmp(&alone, &got(row), sizeof(S)) == 0);
        CHECK(std::memcmp(&in_rest, &got(row), sizeof(S)) == 0);
      }
    }
}

TEST_CASE("row_dot: gradients and tangents are central differences", "[row_dot]") {
  for (const Index n : {0, 1, 7, 65}) {
    const std::vector in{gaussian<double>(n, 5, 0), gaussian<double>(n, 5, 1)};
    const auto two = [](auto x) { return row_dot(x[0], x[1]); };
    const auto one = [](auto x) { return row_dot(x[0], x[0]) + row_dot(x[0], x[1]); };
    CHECK(testing::check_gradients(two, in).max_error < 1e-8);
    CHECK(testing::check_gradients(one, in).max_error < 1e-8);
    CHECK(testing::check_tangents(two, in).max_error < 1e-8);
    CHECK(testing::check_tangent_gradients(one, in).max_error < 1e-8);
  }
}

TEST_CASE("row_dot: constants record nothing, shapes that differ are refused", "[row_dot]") {
  Tape<double> tape;
  const Var<double> a = tape.copy(gaussian<double>(4, 3, 0)), b = tape.variable(gaussian<double>(4, 3, 1));
  row_dot(a, a);
  CHECK(tape.size() == 0);
  const Array<double> ones = Array<double>::Ones(4, 1);
  tape.backward(row_dot(a, b), view(ones));
  CHECK((as_eigen(b.grad()) == as_eigen(a.value())).all());
  CHECK_FALSE(a.has_grad());
  CHECK(thrown_message<invalid_argument>([&] { row_dot(a, tape.copy(gaussian<double>(4, 2, 0))); }) ==
        "row_dot: a is 4 x 3, b 4 x 2");
}
