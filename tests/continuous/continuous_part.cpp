// SPDX-License-Identifier: MIT
#include <diffeo/continuous/continuous_part.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/layers/diagonal_scale.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/permutation.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Cnf;
using diffeo::FlowSequence;
using diffeo::invalid_argument;
using diffeo::MlpField;
using diffeo::Standardize;
using diffeo::detail::cnf_count;
using diffeo::detail::leads_to_cnf;

namespace {

using Field = Cnf<MlpField<double>>;
using Scale = diffeo::DiagonalScale<double>;
using Frame = Standardize<double>;
using Recipe = diffeo::CnfFlow<double>;

static_assert(cnf_count<Field> == 1 && cnf_count<Recipe> == 1 && cnf_count<Scale> == 0);
static_assert(cnf_count<FlowSequence<Field, Frame, Field>> == 2);
static_assert(cnf_count<diffeo::Conditional<double, Recipe>> == 1);
static_assert(leads_to_cnf<Field>() && leads_to_cnf<Recipe>());
static_assert(leads_to_cnf<diffeo::Conditional<double, Recipe>>() && leads_to_cnf<diffeo::Given<double, Recipe>>());
static_assert(leads_to_cnf<FlowSequence<Recipe, Frame>>());
static_assert(!leads_to_cnf<Scale>() && !leads_to_cnf<FlowSequence<Scale, Field>>());
static_assert(!leads_to_cnf<FlowSequence<Field, Frame, Field>>() && !leads_to_cnf<diffeo::Invert<Field>>());

}  // namespace

TEST_CASE("continuous part: the coordinates of the field, there and back", "[continuous]") {
  const auto field = std::get<0>(diffeo::cnf<double>(2, {.network = {.hidden = {3}}}).layers);
  const auto frame = Frame::from({{3.0, -1.0}}, {{2.0, 0.5}});
  const auto swap = diffeo::Permutation<double>::reverse(2);
  const FlowSequence flow(FlowSequence(field, frame), swap);  // x = swap(frame(y))
  const Array<double> x = gaussian<double>(6, 2, 1);
  const Array<double> y = diffeo::detail::data_side("test", flow, x);
  CHECK((y.col(0) - (x.col(1) - 3) / 2).abs().maxCoeff() < 1e-14);
  CHECK((y.col(1) - (x.col(0) + 1) * 2).abs().maxCoeff() < 1e-14);
  CHECK((diffeo::detail::data_side("test", flow, y, true) - x).abs().maxCoeff() < 1e-14);
  CHECK(same_bits(diffeo::detail::data_side("test", field, x), x));
  const std::string message = thrown_message<invalid_argument>(
      [&] { diffeo::detail::data_side("test", FlowSequence(field, frame, Scale{Array<double>::Zero(1, 2)}), x); });
  CHECK(message ==
        "test: layer 2 behind the continuous flow has parameters or takes a context, expected one with "
        "neither");
}

TEST_CASE("continuous part: the context that the field gets", "[continuous]") {
  const Array<double> c = gaussian<double>(6, 2, 1) * 3.0 + 1.0, one{{0.5, -2.0}};
  const auto flow = diffeo::conditional(diffeo::cnf<double>(2, {.network = {.hidden = {3}}, .context_dim = 2}), c);
  const auto standardised = [&](const Array<double>& of) {
    return Array<double>((of.rowwise() - flow.context.mean.value.row(0)).rowwise() / flow.context.scale.value.row(0));
  };
  diffeo::Tape<double> tape;
  const auto context = [&](const auto& of, const diffeo::Var<double>& outer) {
    return diffeo::detail::use_continuous_part(of, tape, outer,
                                               [](const auto&, const auto& inner) { return to_array(inner); });
  };
  CHECK((context(flow, tape.constant(c)) - standardised(c)).abs().maxCoeff() < 1e-14);
  CHECK((context(diffeo::given(flow, one), {}) - standardised(one)).abs().maxCoeff() < 1e-14);
  // The velocities are those of the field itself.
  const Array<double> t = Array<double>::Constant(6, 1, 0.3), y = gaussian<double>(6, 2, 2);
  const auto& field = std::get<0>(flow.flow.layers).field;
  const auto velocity = [&](const auto& of, const diffeo::Var<double>& k) {
    return to_array(diffeo::detail::velocity_of_field(of, tape.constant(t), tape.constant(y), k));
  };
  CHECK(same_bits(velocity(field, tape.copy(one)),
                  to_array(field(tape.constant(t), tape.constant(y), tape.copy(one.replicate(6, 1))))));
  CHECK_THROWS_AS(velocity(field, {}), invalid_argument);
}
