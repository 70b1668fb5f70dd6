// SPDX-License-Identifier: MIT
#include <diffeo/distributions/normal.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::MaximumLikelihood;

TEMPLATE_TEST_CASE("maximum likelihood: the loss is -log p of the chosen rows", "[training]", float, double) {
  using S = TestType;
  Array<S> data(5, 2);
  data << 0, 0, 1, 0, 0, 2, 3, 0, 0, 4;
  const MaximumLikelihood<S> objective(data);
  CHECK(objective.size() == 5);
  CHECK(&objective.data() == &data);
  const std::vector<Index> rows{4, 1, 1, 0};
  diffeo::Tape<S> tape;
  const auto loss = objective.loss(diffeo::StandardNormal<S>(2), tape, {rows, 0, 0, 0});
  REQUIRE(loss.rows() == 4);
  REQUIRE(loss.cols() == 1);
  const double at_zero = diffeo::detail::log_two_pi;
  const double expected[] = {8, 0.5, 0.5, 0};
  for (std::size_t i = 0; i < 4; ++i) CHECK(loss.value().data[i] == Approx(at_zero + expected[i]).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("maximum likelihood: bad data", "[training]", float, double) {
  using S = TestType;
  Array<S> data = Array<S>::Zero(5, 2);
  CHECK(contains(thrown_message<invalid_argument>([] {
                   const Array<S> none(0, 2);
                   MaximumLikelihood<S> o(none);
                 }),
                 "fit: data is empty"));
  data(3, 1) = std::numeric_limits<S>::quiet_NaN();
  CHECK(thrown_message<invalid_argument>([&] { MaximumLikelihood<S> o(data); }) ==
        "fit: data is nan at (row 3, column 1), expected finite values");
  data(2, 0) = -std::numeric_limits<S>::infinity();
  CHECK(thrown_message<invalid_argument>([&] { MaximumLikelihood<S> o(data); }) ==
        "fit: data is -inf at (row 2, column 0), expected finite values");
}
