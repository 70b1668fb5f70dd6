// SPDX-License-Identifier: MIT
#include <diffeo/continuous/field_function.hpp>

#include "fields.hpp"

using namespace diffeo;
using namespace fields;

TEST_CASE("field_function: what does not fit is refused", "[field_function]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([] { make_field<double>(0, [](auto, auto x) { return x; }); }) ==
        "make_field: dim is 0, expected at least 1");
  Tape<double> tape;
  const Var<double> t = tape.copy(times<double>(4)), x = tape.copy(gaussian<double>(4, 3, 0));
  CHECK(message([&] { function<double>(3)(x, x); }) == "FieldFunction: t is 4 x 3, expected 4 x 1");
  const auto narrow = make_field<double>(3, [](const auto&, const auto& at) { return cols(at, 0, 2); });
  CHECK(message([&] { narrow(t, x); }) == "FieldFunction: the function gave 4 x 2, expected 4 x 3");
}
