// SPDX-License-Identifier: MIT
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/layers/recipes.hpp>
#include <limits>

#include "laws.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;

namespace {
template <diffeo::Real S>
auto some_flow() {
  return randomised(diffeo::real_nvp<S>(3, {.layers = 2, .network = {.hidden = {8}}}), 1);
}
}  // namespace

TEMPLATE_TEST_CASE("any Eigen expression goes in", "[layers]", float, double) {
  using S = TestType;
  using RowMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto flow = some_flow<S>();
  const Array<S> x = diffeo::testing::detail::normal_array<S>(100, 3, 1, 1);
  const auto expected = diffeo::inverse(flow, x);
  const auto check = [&](const auto& expression) {
    const auto y = diffeo::inverse(flow, expression, 2);
    CHECK((y.value == expected.value).all());
    CHECK((y.log_det == expected.log_det).all());
    const auto there = diffeo::forward(flow, expression);
    CHECK((there.value == diffeo::forward(flow, x).value).all());
  };
  const RowMajor rows = x.matrix();
  check(rows);
  check(Eigen::Map<const RowMajor>(rows.data(), 100, 3));
  const Array<S> wide = x.transpose();
  check(wide.transpose());
  Array<S> large = Array<S>::Constant(120, 7, S(9));
  large.block(11, 2, 100, 3) = x;
  check(large.block(11, 2, 100, 3));
  check((x + S(0)) * S(1));
  check(x.template cast<double>());
  check(x.matrix() * Eigen::Matrix<S, 3, 3>::Identity());
  const Eigen::Array<S, Eigen::Dynamic, 3> fixed = x;
  check(fixed);
  check(Eigen::Ref<const Array<S>>(x));
  Array<S> spaced(200, 3);
  for (Index i = 0; i < 100; ++i) spaced.row(2 * i + 1) = x.row(i);
  check(spaced(Eigen::seq(1, 199, 2), Eigen::seq(0, 2)));
}

TEMPLATE_TEST_CASE("evaluation keeps the number of rows", "[layers]", float, double) {
  using S = TestType;
  const auto flow = some_flow<S>();
  for (const Index n : {0, 1, 2, 63, 64, 65, 128, 129}) {
    const auto y = diffeo::forward(flow, Array<S>::Zero(n, 3));
    CHECK(y.value.rows() == n);
    CHECK(y.value.cols() == 3);
    CHECK(y.log_det.rows() == n);
    CHECK(y.log_det.cols() == 1);
  }
}

TEST_CASE("evaluation: bad input", "[layers]") {
  const auto flow = some_flow<double>();
  Array<double> x = Array<double>::Zero(70, 3);
  const auto message = [&flow](const auto& points, int threads = 0) {
    return thrown_message<invalid_argument>([&] { diffeo::inverse(flow, points, threads); });
  };
  CHECK(message(Array<double>::Zero(2, 4)) == "inverse: x has 4 columns, this flow has dimension 3");
  CHECK(message(Array<double>::Zero(0, 4)) == "inverse: x has 4 columns, this flow has dimension 3");
  CHECK(thrown_message<invalid_argument>([&] { diffeo::forward(flow, Array<double>::Zero(2, 2)); }) ==
        "forward: z has 2 columns, this flow has dimension 3");
  CHECK(contains(message(x, -1), "threads is -1, expected 0 (all) or a positive number"));
  x(66, 2) = std::numeric_limits<double>::quiet_NaN();
  x(68, 0) = std::numeric_limits<double>::infinity();
  CHECK(message(x) == "inverse: x is nan at (row 66, column 2), expected finite values");
  CHECK(message(x.bottomRows(3)) == "inverse: x is inf at (row 1, column 0), expected finite values");
}

TEST_CASE("a number that float cannot hold is refused", "[layers]") {
  Array<double> x = Array<double>::Zero(4, 3);
  x(2, 1) = 1e300;
  CHECK_THROWS_AS(diffeo::inverse(some_flow<float>(), x), invalid_argument);
}

TEST_CASE("results of the wrong shape are refused", "[layers]") {
  const Array<double> x = Array<double>::Zero(70, 2);
  const auto message = [&x](const Misshapen<double>& flow) {
    return thrown_message<invalid_argument>([&] { diffeo::inverse(flow, x); });
  };
  CHECK_NOTHROW(diffeo::inverse(Misshapen<double>{}, x));
  CHECK(message({1, 0, 1}) == "inverse: x: the flow gave 64 x 1 values for 64 x 2");
  CHECK(message({2, 1, 1}) == "inverse: x: the flow gave 1 x 1 log-determinants for 64 rows, expected 64 x 1");
  CHECK(message({2, 0, 2}) == "inverse: x: the flow gave 64 x 2 log-determinants for 64 rows, expected 64 x 1");
}
