// SPDX-License-Identifier: MIT
#include <cstring>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/ops/triangular.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using namespace diffeo;

namespace {

// A matrix with a dominant diagonal; what lies above it must not be read.
template <Real S>
Array<S> some_triangle(Index dim) {
  Array<S> l = gaussian<S>(dim, dim, 7) * S(0.4);
  for (Index j = 0; j < dim; ++j) {
    l(j, j) = S(1) + S(0.5) * S(j % 3);
    l.col(j).head(j).setConstant(std::numeric_limits<S>::quiet_NaN());
  }
  return l;
}

template <Real S>
Array<S> solved(const Array<S>& x, const Array<S>& l) {
  Tape<S> tape;
  return as_eigen(solve_lower(tape.copy(x), l).value());
}

}  // namespace

TEMPLATE_TEST_CASE("solve_lower: the matrix times the solution gives the rows back", "[triangular]", float, double) {
  using S = TestType;
  for (const Index n : {0, 1, 7, 64, 131})
    for (const Index dim : {1, 2, 5, 17}) {
      CAPTURE(n, dim);
      const Array<S> x = gaussian<S>(n, dim, 0), l = some_triangle<S>(dim), y = solved(x, l);
      REQUIRE(y.rows() == n);
      REQUIRE(y.cols() == dim);
      if (n == 0) continue;
      Array<S> again = y;
      const Array<S> shift = Array<S>::Zero(1, dim);
      detail::multiply_lower(view(again), view(l), view(shift));
      const S size = std::max(S(1), y.abs().maxCoeff());
      CHECK((again - x).abs().maxCoeff() < S(100) * std::numeric_limits<S>::epsilon() * size);
      // A row has the same bits alone, and at another place of a batch.
      for (const Index row : {Index{0}, n / 2, n - 1}) {
        const Array<S> alone = solved<S>(x.row(row), l), in_rest = solved<S>(x.bottomRows(n - row), l);
        CHECK((alone.row(0) == y.row(row)).all());
        CHECK((in_rest.row(0) == y.row(row)).all());
      }
    }
}

TEST_CASE("triangular matrices: gradients and tangents are central differences", "[triangular]") {
  for (const Index n : {1, 7, 65})
    for (const Index dim : {1, 2, 4}) {
      CAPTURE(n, dim);
      Array<double> diagonal = gaussian<double>(1, dim, 2).abs() + 0.7;
      const std::vector in{gaussian<double>(n, dim, 0), diagonal, gaussian<double>(1, below_diagonal(dim), 3)};
      const auto solve = [](auto x) { return solve_lower(x[0], lower_triangular(x[1], x[2])); };
      const auto result = testing::check_gradients(solve, in);
      INFO(result.where);
      CHECK(result.max_error < 1e-6);
      const Array<double> l = some_triangle<double>(dim);
      const auto of_constant = [&l](auto x) { return square(solve_lower(x[0], l)); };
      CHECK(testing::check_gradients(of_constant, std::vector{in[0]}).max_error < 1e-6);
      CHECK(testing::check_tangents(of_constant, std::vector{in[0]}).max_error < 1e-6);
      CHECK(testing::check_tangent_gradients(of_constant, std::vector{in[0]}).max_error < 1e-6);
    }
}

TEST_CASE("triangular matrices: the entries in their places", "[triangular]") {
  Tape<double> tape;
  Array<double> diagonal(1, 3), below(1, 3), expected(3, 3);
  diagonal << 1, 2, 3;
  below << 4, 5, 6;
  expected << 1, 0, 0, 4, 2, 0, 5, 6, 3;
  CHECK((as_eigen(lower_triangular(tape.copy(diagonal), tape.copy(below)).value()) == expected).all());
  CHECK(tape.size() == 0);
  CHECK(thrown_message<invalid_argument>([&] {
          lower_triangular(tape.copy(diagonal), tape.copy(below.leftCols(2)));
        }) == "lower_triangular: diagonal is 1 x 3, below is 1 x 2, expected 1 x D and 1 x D (D - 1) / 2");
  CHECK(thrown_message<invalid_argument>([&] { solve_lower(tape.copy(diagonal), tape.copy(expected.topRows(2))); }) ==
        "solve_lower: x has 3 columns, L is 2 x 3");
}
