// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/move_points.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/probability_path.hpp>
#include <diffeo/matching/reflow.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/transport/path_energy.hpp>
#include <diffeo/transport/wasserstein.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::FlowMatching;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::StandardNormal;
using diffeo::TransformedDistribution;

namespace {

using Model = TransformedDistribution<StandardNormal<float>, diffeo::CnfFlow<float>>;

Array<float> by_one_step(const Model& model, const Array<float>& x) {
  auto flow = model.flow;
  auto& solver = std::get<0>(flow.layers).options.evaluation.solver;
  solver.method = diffeo::ode::Method::euler;
  solver.steps = 1;
  return diffeo::move_points(flow, x, 0, 1);
}

}  // namespace

TEST_CASE("reflow: paths become straight and the distribution stays", "[matching]") {
  // Four clusters, between which the lines of independent pairs cross.
  const Index n = 20000;
  Array<float> data = gaussian<float>(n, 2, 1) * 0.3F;
  for (Index i = 0; i < n; ++i) {
    data(i, 0) += i % 2 == 0 ? 2.0F : -2.0F;
    data(i, 1) += i % 4 < 2 ? 2.0F : -2.0F;
  }
  Model model(StandardNormal<float>(2), diffeo::cnf(data, {.network = {.hidden = {32, 32}, .first_scale = 2}}));
  const diffeo::FitOptions options{.steps = 3000, .batch = 256};
  diffeo::fit(model, FlowMatching(model, data), options);

  const auto pairs = diffeo::reflow_pairs(model, n, 9);
  REQUIRE(pairs.size() == 2);
  CHECK((pairs[0].time == 0 && pairs[1].time == 1));
  CHECK(same_bits(pairs[1].data.x, model.sample(n, 9)));
  // z in the units of the data: where the flow comes from.
  CHECK(
      (diffeo::move_points(model.flow, Array<float>(pairs[0].data.x.topRows(200)), 0, 1) - pairs[1].data.x.topRows(200))
          .abs()
          .maxCoeff() < 1e-3F);
  Model straight = model;
  diffeo::fit(straight,
              FlowMatching(straight, pairs, diffeo::LinearPath{}, diffeo::IndependentPairing{}, {.paired = true}),
              options);

  // By how much the path energy exceeds that of straight lines at constant speed between the same ends.
  const auto excess = [](const Model& of) {
    const diffeo::ProbabilityPath path(of);
    const Array<float> z = path.latent(2000, 4);
    // In the coordinates of the flow, where the straight lines are.
    const diffeo::ProbabilityPath inner(of.base, std::get<0>(of.flow.layers));
    const Array<float> x = inner.trajectories(z, {1.0}).front();
    return diffeo::path_energy(inner, z) / static_cast<double>((x - z).square().rowwise().sum().mean()) - 1;
  };
  const double before = excess(model), after = excess(straight);
  CAPTURE(before, after);
  CHECK(before > 0.05);
  CHECK(after < before / 5);
  const Array<float> fresh = pairs[0].data.x.bottomRows(1000), of_data = data.topRows(1000);
  const double one_step_before = diffeo::sliced_wasserstein2(by_one_step(model, fresh), of_data, 64, 1),
               one_step_after = diffeo::sliced_wasserstein2(by_one_step(straight, fresh), of_data, 64, 1),
               solved = diffeo::sliced_wasserstein2(straight.sample(1000, 3), of_data, 64, 1);
  CAPTURE(one_step_before, one_step_after, solved);
  CHECK(one_step_after < one_step_before / 3);
  CHECK(solved < 0.3);
}

TEST_CASE("reflow: contexts", "[matching]") {
  const auto flow = diffeo::Cnf(diffeo::make_field<double>(
      1, [](const auto&, const auto& x, const auto& c) { return x * 0.0 + c; }, 1));
  const TransformedDistribution model(StandardNormal<double>(1), flow);
  const Array<double> c = gaussian<double>(100, 1, 2);
  const auto pairs = diffeo::reflow_pairs(model, c, 3);
  CHECK(same_bits(pairs[1].data.context, c));
  CHECK(pairs[0].data.context.size() == 0);
  CHECK((pairs[1].data.x - pairs[0].data.x - c).abs().maxCoeff() < 1e-9);
  CHECK(FlowMatching(model, pairs, diffeo::LinearPath{}, diffeo::IndependentPairing{}, {.paired = true}).size() == 100);
}

TEST_CASE("reflow: bad input", "[matching]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const TransformedDistribution model(StandardNormal<double>(1), diffeo::Cnf(diffeo::make_field<double>(
                                                                     1, [](const auto&, const auto& x) { return x; })));
  const Array<double> c = gaussian<double>(4, 1, 1);
  CHECK(contains(message([&] { diffeo::reflow_pairs(model, 1, 1); }), "reflow_pairs: n is 1, expected at least 2"));
  CHECK(contains(message([&] { diffeo::reflow_pairs(model, c, 1); }), "reflow_pairs: got a context"));
}
