// SPDX-License-Identifier: MIT
#include <diffeo/distributions/conditional_distribution.hpp>
#include <diffeo/distributions/conditional_mixture.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../arrays.hpp"
#include "statistics.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::Pass;
using diffeo::TransformedDistribution;
using diffeo::Var;

static_assert(diffeo::ConditionalDistribution<diffeo::ConditionalNormal<float>>);
static_assert(diffeo::ConditionalDistribution<diffeo::ConditionalMixture<double>>);
static_assert(diffeo::ConditionalDistribution<
              TransformedDistribution<diffeo::ConditionalNormal<double>, diffeo::Standardize<double>>>);
static_assert(
    diffeo::ConditionalDistribution<TransformedDistribution<diffeo::StandardNormal<float>, diffeo::RealNvp<float>>>);
static_assert(!diffeo::ConditionalDistribution<diffeo::DiagonalNormal<float>>);
static_assert(diffeo::BaseDistribution<diffeo::ConditionalNormal<float>>);
static_assert(diffeo::BaseDistribution<diffeo::ConditionalMixture<double>>);
static_assert(diffeo::ReparametrisedBase<diffeo::ConditionalNormal<double>>);
static_assert(diffeo::ReparametrisedBase<diffeo::ConditionalNormal<Var<float>>>);
static_assert(!diffeo::ReparametrisedBase<diffeo::ConditionalMixture<float>>);

namespace {

constexpr Index context_columns = 3;

// Contexts of unequal spreads around 5.
template <diffeo::Real S>
Array<S> contexts_around_five(Index rows) {
  Array<S> c = gaussian<S>(rows, context_columns, 5);
  for (Index j = 0; j < c.cols(); ++j) c.col(j) = c.col(j) * static_cast<S>(j + 2) + S(5);
  return c;
}

// Data of other units in each of its two columns.
template <diffeo::Real S>
Array<S> data_in_units(Index rows) {
  Array<S> x = gaussian<S>(rows, 2, 6);
  x.col(0) = x.col(0) * S(3) - S(20);
  x.col(1) *= S(0.25);
  return x;
}

// Calls f for a conditional distribution on R^2 of each kind, all far from their starts.
template <diffeo::Real S, class F>
void for_each_conditional(const F& f) {
  const diffeo::NetworkDistributionOptions far{.network = {.hidden = {7}, .last_scale = 1}, .seed = 2};
  const Array<S> x = data_in_units<S>(60), c = contexts_around_five<S>(60);
  f(diffeo::conditional_normal(x, c, far));
  f(diffeo::conditional_mixture(x, c, 3, far));
  f(diffeo::conditional_normal(x, c, diffeo::make_linear<S>(context_columns, 4, {}, 1, 2)));
  const diffeo::CouplingFlowOptions couplings{.layers = 2, .network = {.hidden = {5}, .last_scale = 1}};
  f(TransformedDistribution(diffeo::conditional_normal<S>(2, c, far), diffeo::real_nvp(x, couplings)));
  f(TransformedDistribution(diffeo::conditional_mixture<S>(2, c, 4, far), diffeo::real_nvp(x, c, couplings)));
  f(TransformedDistribution(diffeo::StandardNormal<S>(2), diffeo::real_nvp(x, c, couplings)));
}

}  // namespace

TEMPLATE_TEST_CASE("distributions given a context: a row has the bits of its own x and c", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = data_in_units<S>(150), c = contexts_around_five<S>(150);
  for_each_conditional<S>([&](const auto& d) {
    CHECK(d.context_dim() == context_columns);
    const Array<S> log_p = d.log_prob(x, c), score = d.score(x, c), in_c = d.context_score(x, c);
    const Array<S> drawn = d.sample(c, 7);
    const auto pair = d.sample_and_log_prob(c, 7);
    CHECK(log_p.allFinite());
    CHECK((pair.sample == drawn).all());
    CHECK(((d.log_prob(drawn, c) - pair.log_prob).abs() < S(sizeof(S) == 4 ? 2e-3 : 1e-10)).all());
    diffeo::ThreadPool pool(2);
    for (const diffeo::Execution& execution : {diffeo::Execution(1), diffeo::Execution(3), diffeo::Execution(pool)}) {
      CHECK((d.log_prob(x, c, execution) == log_p).all());
      CHECK((d.score(x, c, execution) == score).all());
      CHECK((d.context_score(x, c, execution) == in_c).all());
      CHECK((d.sample(c, 7, execution) == drawn).all());
      CHECK((d.sample_and_log_prob(c, 7, execution).log_prob == pair.log_prob).all());
    }
    for (const Index i : {0, 63, 64, 149}) {
      const Array<S> one = c.row(i);
      CHECK(d.log_prob(x.row(i), one)(0, 0) == log_p(i, 0));
      CHECK((d.log_prob(x, one).row(i) == log_p.row(i)).all());
      CHECK((d.score(x, one).row(i) == score.row(i)).all());
      CHECK((d.context_score(x, one).row(i) == in_c.row(i)).all());
      CHECK((d.sample(150, one, 7).row(i) == drawn.row(i)).all());
      CHECK((d.sample_and_log_prob(150, one, 7).log_prob.row(i) == pair.log_prob.row(i)).all());
      const auto given = d.given(one);
      static_assert(diffeo::Distribution<std::decay_t<decltype(given)>>);
      CHECK((given.log_prob(x).row(i) == log_p.row(i)).all());
      CHECK((given.score(x).row(i) == score.row(i)).all());
      CHECK((given.sample(150, 7).row(i) == drawn.row(i)).all());
      CHECK((given.sample_and_log_prob(150, 7).log_prob.row(i) == pair.log_prob.row(i)).all());
    }
    CHECK((d.sample(c.topRows(9), 7) == drawn.topRows(9)).all());
    CHECK((d.sample(c, 8) != drawn).any());
    CHECK(d.sample(Array<S>(0, context_columns), 1).rows() == 0);
    CHECK(d.log_prob(Array<S>(0, 2), Array<S>(0, context_columns)).rows() == 0);
  });
}

TEST_CASE("distributions given a context: the scores are central differences", "[distributions]") {
  const Array<double> x = data_in_units<double>(20), c = contexts_around_five<double>(20);
  constexpr double h = 1e-5;
  const auto nudged = [](Array<double> a, Index column, double by) {
    a.col(column) += by;
    return a;
  };
  for_each_conditional<double>([&](const auto& d) {
    const auto error = [](const Array<double>& difference, const auto& expected) {
      return ((difference / (2 * h) - expected).abs() / (1 + expected.abs())).maxCoeff();
    };
    const Array<double> score = d.score(x, c), in_c = d.context_score(x, c);
    for (Index j = 0; j < x.cols(); ++j)
      CHECK(error(d.log_prob(nudged(x, j, h), c) - d.log_prob(nudged(x, j, -h), c), score.col(j)) < 1e-6);
    for (Index j = 0; j < c.cols(); ++j)
      CHECK(error(d.log_prob(x, nudged(c, j, h)) - d.log_prob(x, nudged(c, j, -h)), in_c.col(j)) < 1e-6);
  });
}

TEMPLATE_TEST_CASE("distributions given a context: derivatives in x, c and parameters", "[distributions]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  constexpr double tolerance = sizeof(S) == 4 ? 1e-2 : 1e-6;
  const auto log_prob = [](const auto& model, auto in) {
    Pass<S> pass;
    pass.context = in[1];
    return model.log_prob(in[0], pass);
  };
  for_each_conditional<S>([&](const auto& d) {
    for (const Index contexts : {1, 8}) {
      CAPTURE(contexts);
      const std::vector<Array<S>> inputs{data_in_units<S>(8), contexts_around_five<S>(contexts)};
      const auto check = diffeo::testing::check_gradients(d, log_prob, inputs);
      INFO(check.where);
      CHECK(check.max_error < tolerance);
    }
    const Array<S> c = contexts_around_five<S>(8);
    const auto of_x = [&c](const auto& model, auto in) {
      Pass<S> pass;
      pass.context = diffeo::innermost(in[0]).tape().copy(c);
      return model.log_prob(in[0], pass);
    };
    const std::vector<Array<S>> x{data_in_units<S>(8)};
    const auto tangents = diffeo::testing::check_tangents(d, of_x, x);
    INFO(tangents.where);
    CHECK(tangents.max_error < tolerance);
    if constexpr (sizeof(S) == 8) CHECK(diffeo::testing::check_tangent_gradients(d, of_x, x).max_error < tolerance);
  });
}

TEST_CASE("distributions given a context: units of data and contexts do not matter", "[distributions]") {
  const Array<double> x = data_in_units<double>(60), c = contexts_around_five<double>(60);
  const Array<double> moved_x = x * 1000 + 4, moved_c = c * 0.01 - 3;
  const double log_det = 2 * std::log(1000.0);
  const diffeo::NetworkDistributionOptions far{.network = {.hidden = {7}, .last_scale = 1}};
  const auto check = [&](const auto& one, const auto& other) {
    const Array<double> log_p = one.log_prob(x, c);
    CHECK((log_p - log_det - other.log_prob(moved_x, moved_c)).abs().maxCoeff() < 1e-8);
    CHECK((log_p - one.log_prob(x, c.colwise().reverse())).abs().maxCoeff() > 1e-2);  // the context is looked at
  };
  check(diffeo::conditional_normal(x, c, far), diffeo::conditional_normal(moved_x, moved_c, far));
  check(diffeo::conditional_mixture(x, c, 3, far), diffeo::conditional_mixture(moved_x, moved_c, 3, far));
}

TEST_CASE("distributions given a context: what does not fit is refused", "[distributions]") {
  const Array<double> x = data_in_units<double>(6), c = contexts_around_five<double>(6);
  Array<double> holed = c;
  holed(4, 1) = std::numeric_limits<double>::quiet_NaN();
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  for_each_conditional<double>([&](const auto& d) {
    const std::string none = " takes a context of 3 columns, got none: call ";
    CHECK(contains(message([&] { d.log_prob(x); }), none));
    CHECK(contains(message([&] { d.score(x); }), none));
    CHECK(contains(message([&] { d.sample(4, 1); }), none));
    CHECK(contains(message([&] { d.sample_and_log_prob(4, 1); }), none));
    CHECK(contains(message([&] { d.log_prob(x, c.leftCols(2)); }), "log_prob: the context has 2 columns, this "));
    CHECK(message([&] { d.score(x, c.topRows(5)); }) == "score: the context has 5 rows, expected 6 or 1");
    CHECK(message([&] { d.context_score(x, c.topRows(5)); }) ==
          "context_score: the context has 5 rows, expected 6 or 1");
    CHECK(message([&] { d.sample(7, c, 1); }) == "sample: the context has 6 rows, expected 7 or 1");
    CHECK(message([&] { d.sample_and_log_prob(7, c, 1); }) ==
          "sample_and_log_prob: the context has 6 rows, expected 7 or 1");
    CHECK(message([&] { d.log_prob(x, holed); }) ==
          "log_prob: the context is nan at (row 4, column 1), expected finite values");
    CHECK(message([&] { d.sample(holed, 1); }) ==
          "sample: the context is nan at (row 4, column 1), expected finite values");
    CHECK(contains(message([&] { d.log_prob(x.leftCols(1), c); }), "log_prob: x has 1 columns"));
    CHECK(contains(message([&] { d.context_score(x.leftCols(1), c); }), "context_score: x has 1 columns"));
    CHECK(message([&] { d.given(c.topRows(2)); }) == "given: the context is 2 x 3, expected 1 x 3");
    CHECK(contains(message([&] { d.given(holed.row(4)); }), "given: the context is nan at (row 0, column 1)"));
  });
  // A flow and its base that take other contexts.
  const diffeo::CouplingFlowOptions couplings{.layers = 2, .network = {.hidden = {5}}};
  CHECK(message([&] {
          TransformedDistribution(diffeo::conditional_normal<double>(2, c),
                                  diffeo::real_nvp(x, Array<double>(c.leftCols(2)), couplings));
        }) == "flow takes a context of 2 columns, another part one of 3");
}
