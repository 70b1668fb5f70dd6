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

TEST_CASE("evaluate_once: what lies in memory is referred to, the rest is computed once", "[array]") {
  Array<double> x = Array<double>::Random(6, 4);
  const auto block = x.middleRows(1, 3);
  CHECK(evaluate_once(x).data() == x.data());
  CHECK(evaluate_once(block).data() == block.data());
  CHECK((evaluate_once(x * 2.0) == x * 2.0).all());
  CHECK((evaluate_once(x.matrix().transpose() * x.matrix()).matrix() - x.matrix().transpose() * x.matrix()).norm() <
        1e-14);
  // Rows in strides lie in memory, but Eigen 3.4 does not say where.
  const Array<double> odd = evaluate_once(x(Eigen::seq(1, 5, 2), Eigen::seq(0, 3)));
  for (Index i = 0; i < 3; ++i) CHECK((odd.row(i) == x.row(2 * i + 1)).all());
  static_assert(!Array<float>::IsRowMajor);
}

TEMPLATE_TEST_CASE("arrays begin at a cache line, whatever gave them their size", "[array]", float, double) {
  using S = TestType;
  const auto aligned = [](const Array<S>& x) { return reinterpret_cast<std::uintptr_t>(x.data()) % 64 == 0; };
  for (Index n = 1; n < 40; ++n) {
    Array<S> made(n, 3), copied = made, assigned, expression = made * S(2);
    assigned = made;
    CHECK((aligned(made) && aligned(copied) && aligned(assigned) && aligned(expression)));
    made.resize(n, 5);
    copied.conservativeResize(n + 1, 4);
    CHECK((aligned(made) && aligned(copied)));
  }
}

TEST_CASE("arrays: sizes, moves and conversions", "[array]") {
  Array<double> x{{1, 2, 3}, {4, 5, 6}}, y = std::move(x);
  CHECK(x.size() == 0);
  CHECK(y.rows() == 2);
  y.conservativeResize(3, 2);
  CHECK((y.topRows(2) == Array<double>{{1, 2}, {4, 5}}).all());
  x.swap(y);
  CHECK(y.size() == 0);
  const Array<double> empty(0, 3), copy = empty;
  CHECK(copy.cols() == 3);
  CHECK((empty * 2.0).eval().rows() == 0);

  Eigen::ArrayXXd own = x;
  own.row(0) = 9;
  x = own;
  CHECK(x(0, 1) == 9);
  x = own.matrix();
  const Eigen::Ref<const Eigen::ArrayXXd> seen(x);
  CHECK(seen.data() == x.data());
  x.transposeInPlace();
  CHECK((x == own.transpose()).all());

  constexpr Index huge = Index{1} << 40;
  CHECK_THROWS_AS(Array<float>(huge, huge), std::bad_alloc);
  CHECK_THROWS_AS(Array<float>(-1, 3), std::bad_alloc);
  CHECK_THROWS_AS(Array<float>(-2, -3), std::bad_alloc);
  CHECK_THROWS_AS(x.resize(huge, huge), std::bad_alloc);
  CHECK((x == own.transpose()).all());
}
