// SPDX-License-Identifier: MIT
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/move_points.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <limits>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Cnf;
using diffeo::FlowSequence;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::Standardize;

namespace {

const auto growing = [](const auto&, const auto& y) { return y * 0.5; };  // y exp(t / 2)

}  // namespace

TEMPLATE_TEST_CASE("move points: along the field, in the units of the data", "[continuous]", float, double) {
  using S = TestType;
  const Array<S> mean{{S(3), S(-1)}}, scale{{S(2), S(0.5)}};
  const FlowSequence flow(Cnf(diffeo::make_field<S>(2, growing)), Standardize<S>::from(mean, scale));
  const Array<S> x = gaussian<S>(300, 2, 1);
  const auto expected = [&](double time) {
    Array<S> y = (x.rowwise() - mean.row(0)) * static_cast<S>(std::exp(time / 2));
    y.rowwise() += mean.row(0);
    return y;
  };
  CHECK((diffeo::move_points(flow, x, 0, 1) - expected(1)).abs().maxCoeff() < 1e-3);
  CHECK((diffeo::move_points(flow, x, 0.2, 0.6) - expected(0.4)).abs().maxCoeff() < 1e-3);
  CHECK((diffeo::move_points(flow, x, 1, 0.5) - expected(-0.5)).abs().maxCoeff() < 1e-3);
  CHECK((diffeo::move_points(flow, x, 0.5, 0.5) - x).abs().maxCoeff() < 1e-5);
  // Rows by themselves and on any number of threads.
  const Array<S> all = diffeo::move_points(flow, x, 0, 1, 3);
  CHECK(same_bits(diffeo::move_points(flow, x.middleRows(37, 2), 0, 1), Array<S>(all.middleRows(37, 2))));
  CHECK(same_bits(diffeo::move_points(flow, x, 0, 1, 1), all));
  // From the latent points to the data it is forward() of the flow.
  const Array<S> z = diffeo::inverse(std::get<1>(flow.layers), x).value;
  CHECK((diffeo::forward(flow, z).value - all).abs().maxCoeff() < 1e-5);
}

TEST_CASE("move points: with a context, standardised and given", "[continuous]") {
  const Array<double> x = gaussian<double>(30, 1, 1), c = gaussian<double>(30, 1, 2) * 4.0 + 7.0;
  const auto drift = diffeo::make_field<double>(
      1, [](const auto&, const auto& y, const auto& k) { return y * 0.0 + k; }, 1);
  const auto flow = diffeo::conditional(FlowSequence(Cnf(drift), Standardize<double>::from({{0.0}}, {{3.0}})), c);
  const double mean = flow.context.mean.value(0, 0), scale = flow.context.scale.value(0, 0);
  const Array<double> k = (c - mean) / scale;
  CHECK((diffeo::move_points(flow, x, c, 0.25, 0.75) - (x + 3 * 0.5 * k)).abs().maxCoeff() < 1e-5);
  const Array<double> one{{9.0}};
  const Array<double> expected = x + 3 * 0.5 * (9 - mean) / scale;
  CHECK((diffeo::move_points(flow, x, one, 0.25, 0.75) - expected).abs().maxCoeff() < 1e-5);
  CHECK((diffeo::move_points(diffeo::given(flow, one), x, 0.25, 0.75) - expected).abs().maxCoeff() < 1e-5);
}

TEST_CASE("move points: bad input", "[continuous]") {
  const auto flow = diffeo::cnf<double>(2, {.network = {.hidden = {3}}});
  Array<double> x = gaussian<double>(5, 2, 1);
  const Array<double> c = gaussian<double>(5, 1, 2);
  const auto message = [](const auto& call) { return thrown_message<invalid_argument>(call); };
  CHECK(contains(message([&] { diffeo::move_points(flow, x, -0.1, 1); }), "from is -0.1"));
  CHECK(contains(message([&] { diffeo::move_points(flow, x, 0, 1.5); }), "to is 1.5"));
  CHECK(diffeo::move_points(flow, x.topRows(0), 0, 1).rows() == 0);
  CHECK(contains(message([&] { diffeo::move_points(flow, x.topRows(0), 0, 1.5); }), "to is 1.5"));
  CHECK(contains(message([&] { diffeo::move_points(flow, c, 0, 1); }), "move_points: x has 1 columns"));
  CHECK(contains(message([&] { diffeo::move_points(flow, x, c, 0, 1); }), "takes none"));
  CHECK(contains(message([&] { diffeo::move_points(std::get<1>(flow.layers), x, 0, 1); }), "0 continuous flows"));
  const auto conditional = diffeo::conditional(diffeo::cnf<double>(2, {.context_dim = 1}), c);
  CHECK(contains(message([&] { diffeo::move_points(conditional, x, 0, 1); }), "takes a context of 1 column"));
  x(1, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(diffeo::move_points(flow, x, 0, 1), invalid_argument);
}
