// SPDX-License-Identifier: MIT
#include <Eigen/LU>
#include <cmath>
#include <cstring>
#include <diffeo/math/linear_solve.hpp>
#include <diffeo/math/random_fill.hpp>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace diffeo;

namespace {

template <class S>
struct Inverted {
  std::vector<Array<S>> inverse;
  std::vector<S> log_det;
};

// The inverses of the matrices, whose memory beyond the last holds `padding`.
template <class S>
Inverted<S> invert(const std::vector<Array<S>>& matrices, Index dim, S diagonal = 0,
                   S padding = std::numeric_limits<S>::quiet_NaN()) {
  const Index n = static_cast<Index>(matrices.size()),
              pitch = (n + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>;
  constexpr S guard = S(12345);
  Array<S> in = Array<S>::Constant(pitch, dim * dim, padding), out = Array<S>::Constant(pitch, dim * dim + 1, guard);
  Array<S> log_det = Array<S>::Constant(pitch + 1, 1, guard);
  Array<S> workspace = Array<S>::Constant(math::invert_batch_workspace(dim) + 1, 1, guard);
  std::vector<Index> order(static_cast<std::size_t>(dim) + 1, 77);
  for (Index k = 0; k < n; ++k)
    for (Index i = 0; i < dim; ++i)
      for (Index j = 0; j < dim; ++j) in(k, i * dim + j) = matrices[static_cast<std::size_t>(k)](i, j);
  math::invert_batch<S>(
      n, dim, [&](Index i, Index j) { return in.data() + (i * dim + j) * pitch; }, diagonal,
      [&](Index i, Index j) { return out.data() + (i * dim + j) * pitch; }, log_det.data(), workspace.data(),
      order.data());
  // Nothing is written beyond what was promised.
  CHECK((out.rightCols(1) == guard).all());
  CHECK(log_det(pitch) == guard);
  CHECK(workspace(workspace.size() - 1) == guard);
  CHECK(order.back() == 77);
  Inverted<S> result;
  for (Index k = 0; k < n; ++k) {
    Array<S> a(dim, dim);
    for (Index i = 0; i < dim; ++i)
      for (Index j = 0; j < dim; ++j) a(i, j) = out(k, i * dim + j);
    result.inverse.push_back(a);
    result.log_det.push_back(log_det(k));
  }
  return result;
}

template <class S>
std::vector<Array<S>> random_matrices(Index n, Index dim, std::uint64_t seed) {
  std::vector<Array<S>> all;
  for (Index k = 0; k < n; ++k) {
    Array<S> a(dim, dim);
    fill_normal(view(a), seed, static_cast<std::uint64_t>(k));
    all.push_back(a);
  }
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("linear_solve: inverses and determinants are those of a full LU", "[linear_solve]", float, double) {
  using S = TestType;
  constexpr double eps = std::numeric_limits<S>::epsilon();
  for (Index dim = 1; dim <= 12; ++dim)
    for (const Index n : {0, 1, 7, 16, 33})
      for (const S diagonal : {S(0), S(1), S(-0.5)}) {
        CAPTURE(dim, n, diagonal);
        const auto matrices = random_matrices<S>(n, dim, 5);
        const Inverted<S> got = invert<S>(matrices, dim, diagonal);
        for (std::size_t k = 0; k < matrices.size(); ++k) {
          Eigen::MatrixXd a = matrices[k].template cast<double>().matrix();
          // As the arithmetic rounds it.
          for (Index i = 0; i < dim; ++i) a(i, i) = static_cast<double>(matrices[k](i, i) + diagonal);
          const Eigen::FullPivLU<Eigen::MatrixXd> lu(a);
          const Eigen::MatrixXd inverse = lu.inverse();
          const double condition = a.norm() * inverse.norm();
          CAPTURE(k, condition);
          CHECK((got.inverse[k].template cast<double>().matrix() - inverse).norm() <=
                4 * double(dim) * eps * condition * inverse.norm());
          CHECK(std::abs(double(got.log_det[k]) - std::log(std::abs(lu.determinant()))) <=
                4 * double(dim) * eps * (condition + std::abs(double(got.log_det[k]))));
        }
      }
}

TEMPLATE_TEST_CASE("linear_solve: a matrix's result does not depend on the others", "[linear_solve]", float, double) {
  using S = TestType;
  for (Index dim = 1; dim <= 6; ++dim) {
    CAPTURE(dim);
    const auto matrices = random_matrices<S>(21, dim, 6);
    const Inverted<S> all = invert<S>(matrices, dim, 1), again = invert<S>(matrices, dim, 1, S(0));
    for (std::size_t k = 0; k < matrices.size(); ++k) {
      const Inverted<S> alone = invert<S>({matrices[k]}, dim, 1);
      const auto bytes = static_cast<std::size_t>(dim * dim) * sizeof(S);
      CHECK(std::memcmp(all.inverse[k].data(), alone.inverse[0].data(), bytes) == 0);
      CHECK(std::memcmp(all.inverse[k].data(), again.inverse[k].data(), bytes) == 0);
      CHECK(all.log_det[k] == alone.log_det[0]);
      CHECK(all.log_det[k] == again.log_det[k]);
    }
  }
}

TEMPLATE_TEST_CASE("linear_solve: matrices that need row exchanges", "[linear_solve]", float, double) {
  using S = TestType;
  for (Index dim = 2; dim <= 8; ++dim) {
    CAPTURE(dim);
    Array<S> cyclic = Array<S>::Zero(dim, dim), reversed = Array<S>::Zero(dim, dim);
    for (Index i = 0; i < dim; ++i) {
      cyclic(i, (i + 1) % dim) = 2;
      reversed(i, dim - 1 - i) = S(i + 1);
    }
    const Inverted<S> got = invert<S>({cyclic, reversed}, dim);
    CHECK((got.inverse[0] == cyclic.transpose() / S(4)).all());
    CHECK(double(got.log_det[0]) == Approx(double(dim) * std::log(2.0)));
    CHECK(((got.inverse[1].matrix() * reversed.matrix()).array() -
           Array<S>(Eigen::MatrixX<S>::Identity(dim, dim).array()))
              .abs()
              .maxCoeff() <= 2 * std::numeric_limits<S>::epsilon());
    CHECK(double(got.log_det[1]) == Approx(std::lgamma(double(dim) + 1)));
  }
}

TEMPLATE_TEST_CASE("linear_solve: singular matrices have log|det| -infinity and an inverse that is not finite",
                   "[linear_solve]", float, double) {
  using S = TestType;
  for (Index dim = 1; dim <= 8; ++dim) {
    Array<S> zero = Array<S>::Zero(dim, dim), ones = Array<S>::Ones(dim, dim);
    Array<S> no_first_column = random_matrices<S>(1, dim, 7)[0], no_last_row = no_first_column, twice = no_first_column;
    no_first_column.col(0).setZero();
    no_last_row.row(dim - 1).setZero();
    twice = (2 * twice).round() + Array<S>(Eigen::MatrixX<S>::Identity(dim, dim).array());
    twice.row(dim - 1) = twice.row(0);
    const Array<S> regular = Array<S>(Eigen::MatrixX<S>::Identity(dim, dim).array());
    std::vector<Array<S>> matrices = {zero, regular, no_first_column, no_last_row};
    if (dim > 1) matrices.insert(matrices.end(), {ones, twice});
    const Inverted<S> got = invert<S>(matrices, dim);
    for (std::size_t k = 0; k < matrices.size(); ++k) {
      CAPTURE(dim, k, matrices[k], got.inverse[k], got.log_det[k]);
      if (k == 1) {
        CHECK((got.inverse[k] == regular).all());
        CHECK(got.log_det[k] == 0);
      } else {
        CHECK(got.log_det[k] == -std::numeric_limits<S>::infinity());
        CHECK_FALSE(got.inverse[k].isFinite().any());
      }
    }
  }
}

TEMPLATE_TEST_CASE("linear_solve: NaN stays NaN", "[linear_solve]", float, double) {
  using S = TestType;
  for (Index dim = 1; dim <= 6; ++dim) {
    std::vector<Array<S>> matrices = random_matrices<S>(3, dim, 8);
    matrices[1](dim - 1, 0) = std::numeric_limits<S>::quiet_NaN();
    const Inverted<S> got = invert<S>(matrices, dim);
    CAPTURE(dim);
    CHECK(std::isnan(got.log_det[1]));
    CHECK_FALSE(got.inverse[1].isFinite().all());
    CHECK(got.inverse[0].isFinite().all());
    CHECK(got.inverse[2].isFinite().all());
  }
}
