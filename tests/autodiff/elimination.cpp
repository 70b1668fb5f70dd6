// SPDX-License-Identifier: MIT
#include <Eigen/LU>
#include <cmath>
#include <diffeo/autodiff/ops/elimination.hpp>
#include <limits>

#include "../catch.hpp"

TEMPLATE_TEST_CASE("elimination: determinants and solutions agree with those of Eigen", "[elimination]", float,
                   double) {
  using S = TestType;
  using diffeo::Array, diffeo::Index;
  for (const Index d : {1, 2, 5}) {
    const Index rows = 11;
    diffeo::Tape<S> tape;
    // Diagonally dominant, so that no pivots are needed; entry (i, j) of all matrices is a column of `entries`.
    Array<S> entries = Array<S>::Random(rows, d * d);
    for (Index i = 0; i < d; ++i) entries.col(i * d + i) += static_cast<S>(2 * d);
    const Array<S> right = Array<S>::Random(rows, d);
    diffeo::detail::MatrixOfColumns<diffeo::Var<S>> a(static_cast<std::size_t>(d));
    for (Index i = 0; i < d; ++i)
      for (Index j = 0; j < d; ++j) a[static_cast<std::size_t>(i)].push_back(tape.copy(entries.col(i * d + j)));
    const Array<S> log_det = as_eigen(diffeo::detail::log_det_without_pivoting(a).value()),
                   y = as_eigen(diffeo::detail::solve_without_pivoting(a, tape.copy(right)).value());
    const S tolerance = 100 * std::numeric_limits<S>::epsilon();
    for (Index n = 0; n < rows; ++n) {
      Eigen::MatrixXd m(d, d);
      for (Index i = 0; i < d; ++i)
        for (Index j = 0; j < d; ++j) m(i, j) = static_cast<double>(entries(n, i * d + j));
      const Eigen::VectorXd b = right.row(n).matrix().transpose().template cast<double>(),
                            x = m.partialPivLu().solve(b);
      CHECK(std::abs(static_cast<double>(log_det(n, 0)) - std::log(std::abs(m.determinant()))) < tolerance);
      CHECK((y.row(n).matrix().transpose().template cast<double>() - x).norm() < tolerance);
    }
  }
}
