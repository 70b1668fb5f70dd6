// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/distributions/uniform.hpp>

#include "statistics.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::UniformBox;

namespace {
template <diffeo::Real S>
UniformBox<S> some_box() {
  Array<S> low(1, 2), high(1, 2);
  low << -1, 10;
  high << 1, 15;
  return UniformBox<S>::from(low, high);
}
}  // namespace

TEMPLATE_TEST_CASE("uniform box: log-density", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  Array<S> z(6, 2);
  z << 0, 12, -1, 10, 1, 12, 0, 15, S(-1.001), 12, 0, 9;  // the lower sides belong to the box, the upper do not
  const Array<S> log_p = log_prob_of(some_box<S>(), z);
  REQUIRE(log_p.rows() == 6);
  REQUIRE(log_p.cols() == 1);
  CHECK(log_p(0, 0) == Approx(-std::log(10.0)));
  CHECK(log_p(1, 0) == Approx(-std::log(10.0)));
  for (Index i = 2; i < 6; ++i) CHECK(log_p(i, 0) == -std::numeric_limits<S>::infinity());
  CHECK(log_prob_of(UniformBox<S>::cube(5, -3, 1), Array<S>::Zero(1, 5))(0, 0) == Approx(-5 * std::log(4.0)));
  CHECK(diffeo::parameter_count(some_box<S>()) == 0);
}

TEMPLATE_TEST_CASE("uniform box: samples", "[distributions]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto box = some_box<S>();
  require_rows_by_index(box);
  const Array<S> x = draw(box, 20000, 1);
  CHECK(log_prob_of(box, x).allFinite());
  CHECK(kolmogorov(x.col(0), [](double v) { return (v + 1) / 2; }) < 1.95);
  CHECK(kolmogorov(x.col(1), [](double v) { return (v - 10) / 5; }) < 1.95);
  const Array<double> d = x.template cast<double>();
  CHECK(std::abs((d.col(0) * (d.col(1) - 12.5)).mean()) < 0.03);

  // A box so narrow that rounding reaches its upper side.
  const S low = S(1e6), high = std::nextafter(low, S(2e6)) + (std::nextafter(low, S(2e6)) - low);
  const auto narrow = UniformBox<S>::cube(1, low, high);
  CHECK(log_prob_of(narrow, draw(narrow, 1000, 2)).allFinite());
}

TEST_CASE("uniform box: bad input", "[distributions]") {
  const auto message = [](const Array<double>& low, const Array<double>& high) {
    return thrown_message<invalid_argument>([&] { UniformBox<double>::from(low, high); });
  };
  Array<double> low = Array<double>::Zero(1, 2), high = Array<double>::Ones(1, 2);
  high(0, 1) = 0;
  CHECK(message(low, high) ==
        "uniform box: low is 0 and high 0 in column 1, expected low < high and a difference that is finite");
  low(0, 1) = -1e308;
  high(0, 1) = 1e308;
  CHECK(contains(message(low, high), "a difference that is finite"));
  low(0, 1) = 0;
  high(0, 1) = std::numeric_limits<double>::infinity();
  CHECK(contains(message(low, high), "uniform box: high is inf at (row 0, column 1)"));
  CHECK(contains(message(low, high.leftCols(1)), "expected both 1 x D"));
  CHECK(contains(message(low.leftCols(0), high.leftCols(0)), "expected both 1 x D"));
  CHECK(contains(message(low.transpose(), high.transpose()), "expected both 1 x D"));
  CHECK(contains(thrown_message<invalid_argument>([] { UniformBox<float>::cube(2, 1, 1); }), "expected low < high"));
  CHECK(thrown_message<invalid_argument>([] { log_prob_of(some_box<float>(), Array<float>::Zero(1, 3)); }) ==
        "uniform box: z has 3 columns, this distribution has dimension 2");
}
