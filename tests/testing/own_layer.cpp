// SPDX-License-Identifier: MIT
// The layer that README.md shows, as its reader would test it.
#include <diffeo/testing/flow_laws.hpp>
#include "../catch.hpp"
#include "../package/stretch.hpp"

TEMPLATE_TEST_CASE("the layer of the README obeys the laws", "[readme]", DIFFEO_TEST_SCALARS) {
  static_assert(diffeo::Flow<Stretch<TestType>>);
  Stretch<TestType> layer{diffeo::Array<TestType>(1, 3)};
  layer.log_scale << TestType(0.5), TestType(-1), TestType(0.25);
  const auto report = diffeo::testing::check_flow_laws(layer, {.dim = 3});
  INFO(report);
  CHECK(report.ok());
}
