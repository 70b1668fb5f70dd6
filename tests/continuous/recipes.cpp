// SPDX-License-Identifier: MIT
#include <diffeo/continuous/recipes.hpp>
#include <limits>

#include "../layers/laws.hpp"

using diffeo::Array;
using diffeo::CnfFlowOptions;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::ode::Method;

static_assert(diffeo::Flow<diffeo::CnfFlow<float>>);
static_assert(diffeo::Flow<diffeo::CnfFlow<double>>);

TEMPLATE_TEST_CASE("continuous recipe: laws", "[continuous]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  CnfFlowOptions options{.network = {.hidden = {10, 9, 8}, .first_scale = 1}};
  auto& solver = options.cnf.training.solver;
  if constexpr (std::is_same_v<S, float>)
    solver.steps = 12;  // so that derivatives in float and double are those of one map
  else
    solver.method = Method::dopri8, solver.relative_tolerance = solver.absolute_tolerance = 1e-12;
  options.cnf.evaluation = options.cnf.training;
  Array<S> data = diffeo::testing::detail::normal_array<S>(50, 2, 1, 1);
  data.col(1) = data.col(1) * S(2) + S(3);
  diffeo::testing::FlowLawOptions<S> law_options;
  law_options.step = 1e-5;
  law_options.grid = 80;
  law_options.mass = 1e-3;
  require_laws("cnf", diffeo::cnf(data, options), law_options);
}

TEST_CASE("continuous recipe: the structure of its options", "[continuous]") {
  const auto flow = diffeo::cnf<double>(3);
  CHECK(flow.dim() == 3);
  const auto& [cnf, standardize] = flow.layers;
  CHECK(cnf.field.network.activation == diffeo::Activation::tanh);
  CHECK(diffeo::parameter_count(flow) == 4 * 64 + 64 + 2 * (64 * 64 + 64) + 64 * 3 + 3);
  CHECK((standardize.mean.value == 0).all());
  CHECK((standardize.scale.value == 1).all());
  CHECK(cnf.options.evaluation.solver.method == Method::dopri5);

  CnfFlowOptions options{.network = {.hidden = {7}, .activation = diffeo::Activation::softplus}};
  options.cnf.training.solver.method = Method::tsit5;
  options.cnf.kinetic = 0.5;
  const auto other = diffeo::cnf<float>(2, options);
  CHECK(std::get<0>(other.layers).field.network.activation == diffeo::Activation::softplus);
  CHECK(std::get<0>(other.layers).options.training.solver.method == Method::tsit5);
  CHECK(std::get<0>(other.layers).options.kinetic == 0.5);
  CHECK(diffeo::parameter_count(other) == 3 * 7 + 7 + 7 * 2 + 2);

  // A field of average velocities has one input more.
  const auto average = diffeo::mean_flow<float>(2, options);
  CHECK(std::get<0>(average.layers).options.kinetic == 0.5);
  CHECK(diffeo::parameter_count(average) == 4 * 7 + 7 + 7 * 2 + 2);

  const auto values = [](std::uint64_t seed) { return diffeo::parameters(diffeo::cnf<double>(2, {.seed = seed})); };
  CHECK((values(1) == values(1)).all());
  CHECK((values(1) != values(2)).any());
}

TEMPLATE_TEST_CASE("continuous recipe: standardised to data", "[continuous]", float, double) {
  using S = TestType;
  Array<S> data = diffeo::testing::detail::normal_array<S>(200, 3, 1, 1);
  data.col(0) = data.col(0) * S(20) + S(100);
  // A velocity close to 0: the identity in units of the data.
  const auto flow = diffeo::cnf(data, {.network = {.hidden = {8}, .last_scale = 0.01}});
  const Array<S> latent = diffeo::inverse(flow, data).value;
  for (Index j = 0; j < 3; ++j) {
    CHECK(std::abs(latent.col(j).mean()) < 0.1);
    CHECK(latent.col(j).square().mean() == Approx(1.0).epsilon(0.1));
  }
}

TEMPLATE_TEST_CASE("continuous recipe: bad input", "[continuous]", float, double) {
  using S = TestType;
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([] { diffeo::cnf<S>(0); }) == "cnf: dimension 0, expected at least 1");
  CHECK(message([] { diffeo::cnf<S>(-2); }) == "cnf: dimension -2, expected at least 1");
  CHECK(message([] { diffeo::mean_flow<S>(0); }) == "mean_flow: dimension 0, expected at least 1");
  CHECK(contains(message([] { diffeo::cnf<S>(2, {.network = {.hidden = {64, 0}}}); }), "width 0"));
  CnfFlowOptions options;
  options.cnf.evaluation.solver.relative_tolerance = 0;
  CHECK(contains(message([&] { diffeo::cnf<S>(2, options); }), "tolerance is 0"));
  options = {};
  options.cnf.steer = 1;
  CHECK(contains(message([&] { diffeo::cnf<S>(2, options); }), "steer is 1"));

  Array<S> data = diffeo::testing::detail::normal_array<S>(5, 2, 1, 1);
  CHECK(contains(message([&] { diffeo::cnf(data.topRows(1)); }), "data has 1 rows"));
  data(4, 0) = std::numeric_limits<S>::quiet_NaN();
  CHECK(contains(message([&] { diffeo::cnf(data); }), "nan at (row 4, column 0)"));
}
