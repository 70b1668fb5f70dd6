// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/matching/flow_matching.hpp>
#include <diffeo/training/fit.hpp>
#include <numeric>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Cnf;
using diffeo::FlowMatching;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::LinearPath;
using diffeo::StandardNormal;
using diffeo::TransformedDistribution;
using diffeo::WithDenoiser;

namespace {

// Noise of standard deviation 0.5 at all times.
constexpr double blur = 0.5;

}  // namespace

TEMPLATE_TEST_CASE("denoiser: trained with the velocity, it gives the exact score of normal data", "[matching]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> data = gaussian<S>(20000, 1, 1) * S(0.6) + S(1.5);
  WithDenoiser model{
      TransformedDistribution(StandardNormal<S>(1), diffeo::cnf<S>(1, {.network = {.hidden = {16, 16}}})),
      diffeo::make_mlp_field<S>(1, {.hidden = {16, 16}}, 3)};
  const LinearPath path{blur};
  const auto alone = [&](auto m) {
    diffeo::FitOptions options{.steps = 3000, .batch = 256};
    options.rate.learning_rate = 5e-3;
    CHECK(diffeo::fit(m, FlowMatching(m, data, path), options).recoveries.empty());
    return m;
  };
  const auto trained = alone(model);
  for (const double t : {0.2, 0.5, 0.9}) {
    // x_t is normal with mean 1.5 t and this variance.
    const double variance = (1 - t) * (1 - t) + t * t * 0.36 + blur * blur, sd = std::sqrt(variance);
    Array<S> y(5, 1);
    for (Index i = 0; i < 5; ++i) y(i, 0) = static_cast<S>(1.5 * t + 0.75 * sd * static_cast<double>(i - 2));
    const Array<S> score = trained.score(path, t, y);
    for (Index i = 0; i < 5; ++i) {
      CAPTURE(t, i);
      const double expected = -(static_cast<double>(y(i, 0)) - 1.5 * t) / variance;
      CHECK(static_cast<double>(score(i, 0)) == Approx(expected).margin(0.12 / sd));
    }
  }
}

TEST_CASE("denoiser: its loss is added, and it gets the embedded context", "[matching]") {
  const Array<double> x = gaussian<double>(50, 1, 1), c = gaussian<double>(50, 1, 2) * 4.0 + 7.0;
  const auto field = [](const auto&, const auto& y, const auto& k) { return y * 2.0 + k; };
  const auto flow = diffeo::conditional(Cnf(diffeo::make_field<double>(1, field, 1)), c);
  const auto denoiser = diffeo::make_field<double>(
      1, [](const auto& t, const auto& y, const auto& k) { return y - k * t; }, 1);
  const TransformedDistribution plain(StandardNormal<double>(1), flow);
  const WithDenoiser model{plain, denoiser};
  const diffeo::Dataset<double> data{.x = x, .context = c};
  const FlowMatching objective(model, data, LinearPath{blur});
  std::vector<Index> rows(50);
  std::iota(rows.begin(), rows.end(), Index{0});
  const diffeo::Minibatch whole{.rows = rows, .step = 2, .training = true};
  decltype(objective)::StepState state;
  objective.begin_step(state, whole);
  diffeo::Tape<double> tape;
  const auto at = objective.sample(tape, whole, state);
  const Array<double> k = (c - flow.context.mean.value(0, 0)) / flow.context.scale.value(0, 0);
  const Array<double> error = to_array(at.point) - k * to_array(at.time) - to_array(at.noise);
  const Array<double> with = to_array(objective.loss(model, tape, whole, state)),
                      without = to_array(objective.loss(plain, tape, whole, state));
  CHECK((with - without - error.square()).abs().maxCoeff() < 1e-12);
  // The score with contexts, and the coordinates it is in.
  const Array<double> score = model.score(LinearPath{blur}, 0.25, x, c);
  CHECK((score + (x - k * 0.25) / blur).abs().maxCoeff() < 1e-12);
}

TEST_CASE("denoiser: bad input", "[matching]") {
  const Array<double> x = gaussian<double>(20, 2, 1);
  const TransformedDistribution distribution(StandardNormal<double>(2), diffeo::cnf<double>(2));
  WithDenoiser model{distribution, diffeo::make_mlp_field<double>(2, {.hidden = {3}})};
  const auto message = [](const auto& call) { return thrown_message<invalid_argument>(call); };
  CHECK(contains(message([&] { diffeo::fit(model, FlowMatching(model, x), {.steps = 1}); }), "but the path no noise"));
  CHECK(contains(message([&] { model.score(LinearPath{}, 0.5, x); }), "the path has no noise at t = 0.5"));
  CHECK(contains(message([&] { model.score(LinearPath{1e-320}, 0.5, x); }), "too little for a score that is finite"));
  CHECK(contains(message([&] { model.score(LinearPath{1}, 1.5, x); }), "t is 1.5"));
  CHECK(contains(message([&] { model.score(LinearPath{1}, 0.5, x.leftCols(1)); }), "score: y has 1 columns"));
  CHECK(contains(message([&] { model.score(LinearPath{1}, 0.5, x, x); }), "takes none"));
  WithDenoiser narrow{distribution, diffeo::make_mlp_field<double>(1, {.hidden = {3}})};
  CHECK(contains(message([&] { diffeo::fit(narrow, FlowMatching(narrow, x, LinearPath{1}), {.steps = 1}); }),
                 "denoiser: it has dimension 1, the distribution 2"));
}
