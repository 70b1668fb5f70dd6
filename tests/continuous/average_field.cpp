// SPDX-License-Identifier: MIT
#include <diffeo/continuous/average_field.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::invalid_argument;
using diffeo::make_average_field;
using diffeo::Tape;
using diffeo::Var;

TEST_CASE("average field: between equal times it is the velocity", "[continuous]") {
  const auto field = make_average_field<double>(2, {.hidden = {8}}, 1, 0, 3);
  CHECK(field.dim() == 2);
  CHECK(field.context_dim() == 3);
  Tape<double> tape;
  const Var<double> x = tape.copy(Array<double>::Random(5, 2)), t = tape.copy(Array<double>::Random(5, 1)),
                    c = tape.copy(Array<double>::Random(5, 3));
  const Array<double> velocity = as_eigen(field(t, x, c).value());
  CHECK(same_bits(velocity, to_array(field.average(t, zeros(t, 1), x, c))));
  CHECK((velocity - as_eigen(field.average(t, t, x, c).value())).abs().minCoeff() > 0);
}

TEST_CASE("average field: bad input", "[continuous]") {
  CHECK_THROWS_AS(make_average_field<double>(0), invalid_argument);
  const auto field = make_average_field<double>(2);
  Tape<double> tape;
  const Var<double> x = tape.copy(Array<double>::Random(5, 2)), t = tape.copy(Array<double>::Random(5, 1)),
                    few = tape.copy(Array<double>::Random(4, 1));
  CHECK_THROWS_AS(field.average(t, few, x), invalid_argument);
  CHECK_THROWS_AS(field.average(few, t, x), invalid_argument);
  auto other = field;
  other.network.layers.pop_back();
  CHECK_THROWS_AS(other.check(), invalid_argument);
}
