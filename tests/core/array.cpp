// SPDX-License-Identifier: MIT
#include <diffeo/core/array.hpp>

#include "../catch.hpp"

using namespace diffeo;

static_assert(Real<float> && Real<double> && !Real<int> && !Real<long double>);
static_assert(DenseExpression<Array<float>>);
static_assert(DenseExpression<Eigen::MatrixXd>);
static_assert(DenseExpression<std::remove_const_t<decltype(Eigen::MatrixXd() * 2.0)>>);
static_assert(DenseExpression<Eigen::Map<const Eigen::MatrixXf>>);
static_assert(!DenseExpression<double> && !DenseExpression<View<float>>);

TEMPLATE_TEST_CASE("views: name blocks of arrays without copies", "[array]", float, double) {
  using S = TestType;
  Array<S> x = Array<S>::Random(5, 4);
  const View<S> whole = view(x);
  CHECK(whole.data == x.data());
  CHECK(whole.rows == 5);
  CHECK(whole.cols == 4);
  CHECK(whole.stride == 5);
  CHECK(whole.size() == 20);
  CHECK(whole.contiguous());
  CHECK(whole.col(2) == &x(0, 2));
  CHECK((as_eigen(whole) == x).all());

  const View<const S> middle = whole.cols_block(1, 2);
  CHECK((as_eigen(middle) == x.middleCols(1, 2)).all());
  as_eigen(whole.cols_block(3, 1)) = S(9);
  CHECK((x.col(3) == 9).all());
  CHECK(whole.cols_block(4, 0).size() == 0);

  const View<S> rows{x.data() + 1, 2, 4, 5};
  CHECK_FALSE(rows.contiguous());
  CHECK((as_eigen(rows) == x.middleRows(1, 2)).all());
  CHECK(View<S>{x.data(), 2, 1, 5}.contiguous());
  static_assert(std::is_same_v<decltype(view(std::declval<const Array<S>&>())), View<const S>>);
}

TEST_CASE("evaluated: what lies in memory is referred to, the rest is computed once", "[array]") {
  Array<double> x = Array<double>::Random(6, 4);
  const auto block = x.middleRows(1, 3);
  CHECK(evaluated(x).data() == x.data());
  CHECK(evaluated(block).data() == block.data());
  CHECK((evaluated(x * 2.0) == x * 2.0).all());
  CHECK((evaluated(x.matrix().transpose() * x.matrix()).matrix() - x.matrix().transpose() * x.matrix()).norm() < 1e-14);
  // Rows in strides lie in memory, but Eigen 3.4 does not say where.
  const Array<double> odd = evaluated(x(Eigen::seq(1, 5, 2), Eigen::seq(0, 3)));
  for (Index i = 0; i < 3; ++i) CHECK((odd.row(i) == x.row(2 * i + 1)).all());
  static_assert(!Array<float>::IsRowMajor);
}
