// SPDX-License-Identifier: MIT
#include <diffeo/layers/standardize.hpp>
#include <limits>

#include "laws.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::Standardize;

static_assert(diffeo::Flow<Standardize<float>>);
static_assert(diffeo::Flow<Standardize<double>>);

TEMPLATE_TEST_CASE("standardize: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  for (const Index dim : {1, 2, 3, 5}) {
    const Array<S> mean = diffeo::testing::detail::normal_array<S>(1, dim, 1, 1) * S(3),
                   scale = diffeo::testing::detail::normal_array<S>(1, dim, 1, 2).exp();
    require_laws("D = " + std::to_string(dim), Standardize<S>::from(mean, scale));
  }
  Array<S> mean(1, 2), scale(1, 2);
  mean << 200, -3;
  scale << 50, S(0.01);
  require_laws("columns of very different units", Standardize<S>::from(mean, scale));
  require_laws("the identity", Standardize<S>::identity(2));
}

TEMPLATE_TEST_CASE("standardize takes mean and standard deviation from the data", "[layers]", float, double) {
  using S = TestType;
  Array<S> data(4, 2);
  data << 1, 10, 3, 10, 1, 30, 3, 30;  // standard deviations 1 and 10, as of a population
  const auto layer = Standardize<S>::fit(data);
  CHECK(layer.mean.value(0, 0) == 2);
  CHECK(layer.mean.value(0, 1) == 20);
  CHECK(layer.scale.value(0, 0) == 1);
  CHECK(layer.scale.value(0, 1) == 10);
  CHECK(diffeo::leaf_count(layer) == 2);
  CHECK(diffeo::parameter_count(layer) == 0);
  const auto z = diffeo::inverse(layer, data);
  CHECK((z.value.abs() == 1).all());
  CHECK((z.log_det - S(-std::log(10.0))).abs().maxCoeff() < 1e-6);
  // The log-determinant follows from the scale, also where that was set by hand.
  auto changed = layer;
  changed.scale.value *= S(2);
  CHECK((diffeo::inverse(changed, data).log_det - S(-std::log(40.0))).abs().maxCoeff() < 1e-6);

  // Any Eigen expression; a mean that is large beside the spread.
  const Eigen::MatrixXd far = (data.template cast<double>() + 1e5).matrix();
  const auto same = Standardize<S>::fit(far.rowwise().reverse());
  CHECK(same.mean.value(0, 1) == Approx(1e5 + 2));
  CHECK(same.scale.value(0, 0) == Approx(10.0).epsilon(1e-6));
  CHECK(same.scale.value(0, 1) == Approx(1.0).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("standardize: bad input", "[layers]", float, double) {
  using S = TestType;
  const auto fit_message = [](const Array<S>& data) {
    return thrown_message<invalid_argument>([&] { Standardize<S>::fit(data); });
  };
  Array<S> data = diffeo::testing::detail::normal_array<S>(5, 3, 1, 1);
  CHECK(contains(fit_message(data.topRows(1)), "data has 1 rows, expected at least 2"));
  CHECK(contains(fit_message(data.topRows(0)), "data has 0 rows, expected at least 2"));
  data(3, 1) = std::numeric_limits<S>::quiet_NaN();
  CHECK(contains(fit_message(data), "standardize: data is nan at (row 3, column 1)"));
  data(3, 1) = -std::numeric_limits<S>::infinity();
  CHECK(contains(fit_message(data), "standardize: data is -inf at (row 3, column 1)"));
  data.col(1) = 7;
  CHECK(contains(fit_message(data), "column 1 of data has standard deviation 0, expected finite and greater than 0"));

  const auto from_message = [](const Array<S>& mean, const Array<S>& scale) {
    return thrown_message<invalid_argument>([&] { Standardize<S>::from(mean, scale); });
  };
  Array<S> mean = Array<S>::Zero(1, 3), scale = Array<S>::Ones(1, 3);
  scale(0, 2) = 0;
  CHECK(contains(from_message(mean, scale), "the scale of column 2 is 0, expected > 0"));
  scale(0, 2) = -1;
  CHECK(contains(from_message(mean, scale), "the scale of column 2 is -1, expected > 0"));
  mean(0, 1) = std::numeric_limits<S>::infinity();
  CHECK(contains(from_message(mean, scale), "mean is inf at (row 0, column 1)"));
  CHECK(contains(from_message(mean.leftCols(2), scale), "expected both 1 x D"));

  const auto layer = Standardize<S>::identity(2);
  diffeo::Tape<S> tape;
  CHECK(thrown_message<invalid_argument>([&] { layer.inverse(tape.copy(data)); }) ==
        "standardize: x has 3 columns, this layer has dimension 2");
}

TEMPLATE_TEST_CASE("a constant column is refused whatever its value", "[layers]", float, double) {
  using S = TestType;
  // The mean of equal numbers is often not that number to the last bit.
  for (const double value : {0.1, 1.0 / 3, 1e5 + 0.1, -2.7, 1e-8})
    for (const Index n : {3, 7, 10, 272, 1001}) {
      CAPTURE(value, n);
      Array<S> data = diffeo::testing::detail::normal_array<S>(n, 2, 1, 1);
      data.col(1).setConstant(static_cast<S>(value));
      CHECK_THROWS_AS(Standardize<S>::fit(data), invalid_argument);
    }
}

TEST_CASE("standardize: a scale that was set by hand is checked", "[layers]") {
  auto layer = Standardize<float>::identity(2);
  layer.check();
  for (const float scale : {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN()}) {
    layer.scale.value(0, 1) = scale;
    CHECK(contains(thrown_message<invalid_argument>([&] { layer.check(); }), "the scale of column 1 is"));
  }
}
