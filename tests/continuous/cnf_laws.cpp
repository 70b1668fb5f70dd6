// SPDX-License-Identifier: MIT
#include <diffeo/continuous/average_field.hpp>
#include <diffeo/continuous/cnf.hpp>
#include <diffeo/continuous/concat_squash_field.hpp>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/standardize.hpp>

#include "../layers/laws.hpp"

using diffeo::Activation;
using diffeo::Array;
using diffeo::Cnf;
using diffeo::CnfOptions;
using diffeo::FlowSequence;
using diffeo::Index;
using diffeo::Invert;
using diffeo::Real;
using diffeo::ode::Method;
using diffeo::testing::FlowLawOptions;

// A solve has no derivative along a direction, but it is a flow like the others otherwise.
static_assert(diffeo::Flow<Cnf<diffeo::MlpField<float>>> && diffeo::Flow<Cnf<diffeo::ConcatSquashField<double>>>);
static_assert(diffeo::Flow<FlowSequence<Cnf<diffeo::MlpField<float>>, Invert<Cnf<diffeo::MlpField<float>>>>>);
static_assert(!diffeo::HasForward<Cnf<diffeo::MlpField<float>>, diffeo::Dual<diffeo::Var<float>>>);

namespace {

CnfOptions both_solved_by(Method method, double tolerance) {
  CnfOptions options;
  options.training.solver.method = method;
  options.training.solver.relative_tolerance = options.training.solver.absolute_tolerance = tolerance;
  options.evaluation = options.training;
  return options;
}

CnfOptions both_equal_steps(Method method, Index steps) {
  CnfOptions options;
  options.training.solver.method = method;
  options.training.solver.steps = steps;
  options.evaluation = options.training;
  return options;
}

// In double the solves are so exact that what the solver does cannot be seen beside the laws' own 1e-9 (values) and
// 1e-6 (derivatives). Differences see a jump of about the tolerance where a solve begins to make other steps, which
// their larger step makes small.
template <Real S>
FlowLawOptions<S> law_options(Index dim = 2) {
  FlowLawOptions<S> options;
  options.dim = dim;
  options.step = 1e-5;
  options.grid = 60;  // of densities that change over lengths of 1
  options.mass = 1e-3;
  return options;
}

// Equal steps: the law's differences, taken in double, are then those of the very map that float approximates.
template <Real S>
CnfOptions options_for(S) {
  return sizeof(S) == 4 ? both_equal_steps(Method::dopri5, 12) : both_solved_by(Method::dopri8, 1e-12);
}

template <Real S>
auto random_mlp_field(Index dim, std::vector<Index> hidden, Activation activation, std::uint64_t seed) {
  return randomised(diffeo::make_mlp_field<S>(dim, {.hidden = std::move(hidden), .activation = activation}), seed);
}

template <Real S>
auto swirl() {
  return diffeo::make_field<S>(2, [](const auto& t, const auto& x) {
    const auto r = sum_cols(square(x));
    return concat(cols(x, 1, 1), -cols(x, 0, 1)) * (cos(t * S(2)) / (r + S(1))) + tanh(x) * S(0.3);
  });
}

}  // namespace

TEMPLATE_TEST_CASE("continuous flows: laws of fields that are networks", "[continuous]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const CnfOptions options = options_for(S());
  require_laws("tanh, one hidden layer", Cnf(random_mlp_field<S>(2, {12}, Activation::tanh, 1), options),
               law_options<S>());
  require_laws("average velocities", Cnf(randomised(diffeo::make_average_field<S>(2, {.hidden = {8, 8}}), 2), options),
               law_options<S>());
  require_laws("D = 1", Cnf(random_mlp_field<S>(1, {8, 8}, Activation::tanh, 3), options), law_options<S>());
  require_laws("D = 5, three hidden layers", Cnf(random_mlp_field<S>(5, {6, 6, 6}, Activation::softplus, 4), options),
               law_options<S>(5));
}

// The slope of elu has a kink where a hidden unit changes sign, and so has the divergence. What a step across it misses
// is sometimes invisible to the error estimate, so that now and then one of 150 rows has an error of some thousand
// tolerances, and the derivative in such a step is uncertain by the root of that. With equal steps the derivative jumps
// by at most one step's share where a unit's zero crosses a stage, which differences over short steps seldom meet.
TEMPLATE_TEST_CASE("continuous flows: laws of fields with kinks", "[continuous][long]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  FlowLawOptions<S> options = law_options<S>();
  options.log_det = options.round_trip = std::max(options.log_det, 1e-6);
  options.gradient = sizeof(S) == 4 ? 1e-3 : 2e-3;
  options.step = sizeof(S) == 4 ? 2e-6 : 1e-4;
  require_laws("elu, two hidden layers",
               Cnf(random_mlp_field<S>(2, {6, 8}, Activation::elu, 2),
                   sizeof(S) == 4 ? both_equal_steps(Method::dopri5, 40) : both_solved_by(Method::dopri5, 1e-11)),
               options);
}

TEMPLATE_TEST_CASE("continuous flows: laws of gated fields", "[continuous][long]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  for (const bool gate_output : {false, true})
    require_laws(
        "gated",
        Cnf(randomised(diffeo::make_concat_squash_field<S>(2, {.hidden = {8, 8}, .gate_output = gate_output}), 5),
            options_for(S())),
        law_options<S>());
}

TEMPLATE_TEST_CASE("continuous flows: laws of functions", "[continuous]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  require_laws("a swirl", Cnf(swirl<S>(), options_for(S())), law_options<S>());
}

TEMPLATE_TEST_CASE("continuous flows: laws in sequences", "[continuous]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  Array<S> mean(1, 2), scale(1, 2);
  mean << S(1), S(-2);
  scale << S(2), S(0.5);
  require_laws("between other layers",
               FlowSequence(random_coupling<S>(diffeo::Mask::keep_even(2), Activation::tanh, 3),
                            Cnf(random_mlp_field<S>(2, {8}, Activation::tanh, 6), options_for(S())),
                            Invert{Cnf(random_mlp_field<S>(2, {8, 8}, Activation::tanh, 7), options_for(S()))},
                            diffeo::Standardize<S>::from(mean, scale)),
               law_options<S>());
}

// As they come: a round trip misses by some times the default tolerances of 1e-5 and 1e-6. Gradients are those of the
// steps that were made, differences those of solves that may make others, where the results jump by about the
// tolerance: by 1e-5 / 1e-3.
TEMPLATE_TEST_CASE("continuous flows: laws at the default tolerances", "[continuous][long]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  FlowLawOptions<S> options = law_options<S>();
  options.round_trip = options.log_det = 2e-4;
  options.gradient = 1e-2;
  options.step = 1e-3;
  options.rounding = 1e-2;
  require_laws("tanh", Cnf(random_mlp_field<S>(2, {12, 12}, Activation::tanh, 8)), options);
}

// The adjoint's gradients are those of the exact solution: they agree with differences of solves that are as exact.
TEST_CASE("continuous flows: laws with gradients by the adjoint equation", "[continuous][long]") {
  CnfOptions options = both_solved_by(Method::dopri8, 1e-11);
  options.gradient.method = diffeo::ode::Differentiation::adjoint;
  require_laws("tanh", Cnf(random_mlp_field<double>(2, {8, 8}, Activation::tanh, 9), options), law_options<double>());
}
