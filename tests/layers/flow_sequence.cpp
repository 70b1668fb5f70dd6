// SPDX-License-Identifier: MIT
#include <diffeo/layers/diagonal_scale.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/permutation.hpp>
#include <diffeo/layers/standardize.hpp>

#include "laws.hpp"

using diffeo::Activation;
using diffeo::Array;
using diffeo::Coupling;
using diffeo::DiagonalScale;
using diffeo::FlowSequence;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::Invert;
using diffeo::Mask;
using diffeo::Permutation;
using diffeo::Repeated;
using diffeo::Standardize;
using diffeo::Var;

static_assert(diffeo::Flow<FlowSequence<Coupling<float>>>);
static_assert(diffeo::Flow<FlowSequence<Coupling<double>, Permutation<double>, DiagonalScale<double>>>);
static_assert(diffeo::Flow<FlowSequence<FlowSequence<Coupling<float>>, Repeated<Permutation<float>>>>);
static_assert(diffeo::Flow<Repeated<Coupling<float>>>);
static_assert(diffeo::Flow<Repeated<FlowSequence<Coupling<double>, Permutation<double>>>>);
// Exactly as capable as the parts.
static_assert(diffeo::HasForward<FlowSequence<Coupling<float>, Generator>, Var<float>>);
static_assert(!diffeo::HasInverse<FlowSequence<Coupling<float>, Generator>, Var<float>>);
static_assert(!diffeo::HasInverse<FlowSequence<Generator, Coupling<float>>, Var<float>>);
static_assert(diffeo::HasForward<Repeated<Generator>, Var<float>> &&
              !diffeo::HasInverse<Repeated<Generator>, Var<float>>);
static_assert(diffeo::HasInverse<Repeated<Invert<Generator>>, Var<float>>);
static_assert(!diffeo::HasForward<FlowSequence<Generator, Invert<Generator>>, Var<float>>);
static_assert(!diffeo::HasInverse<FlowSequence<Generator, Invert<Generator>>, Var<float>>);

namespace {

template <diffeo::Real S>
auto random_couplings(Index dim, Index n) {
  return diffeo::repeat(n, [dim](Index i) {
    return random_coupling<S>(diffeo::alternating_mask(diffeo::MaskPattern::even_odd, dim, i), Activation::tanh,
                              static_cast<std::uint64_t>(i));
  });
}

template <diffeo::Real S>
Standardize<S> some_standardize(Index dim) {
  return Standardize<S>::from(diffeo::testing::detail::normal_array<S>(1, dim, 5, 1),
                              diffeo::testing::detail::normal_array<S>(1, dim, 5, 2).exp());
}

}  // namespace

TEMPLATE_TEST_CASE("sequences: laws", "[layers]", float, double) {
  using S = TestType;
  for (const Index dim : {2, 3, 5}) {
    const std::string name = "D = " + std::to_string(dim);
    require_laws("repeated couplings, " + name, random_couplings<S>(dim, 3));
    require_laws(
        "a sequence, " + name,
        FlowSequence(Permutation<S>::reverse(dim), random_coupling<S>(Mask::keep_even(dim), Activation::silu, 3),
                     randomised(DiagonalScale<S>{Array<S>::Zero(1, dim)}, 4), some_standardize<S>(dim)));
  }
  require_laws("nothing that is trained",
               FlowSequence(some_standardize<S>(3), Permutation<S>::from({0, 1, 2}), Permutation<S>::random(3, 1)));
  require_laws("nested", FlowSequence(FlowSequence(random_couplings<S>(3, 2), Permutation<S>::reverse(3)),
                                      Invert{random_couplings<S>(3, 1)}, some_standardize<S>(3)));
  require_laws("repeated sequences", diffeo::repeat(2, [](Index i) {
                 return FlowSequence(random_coupling<S>(Mask::keep_odd(4), Activation::elu, std::uint64_t(i)),
                                     Permutation<S>::random(4, std::uint64_t(i)));
               }));
  require_laws("one layer", FlowSequence(random_coupling<S>(Mask::keep_odd(2), Activation::tanh, 1)));
  require_laws("no layer", Repeated<Coupling<S>>{});
  require_laws("no layer, then one", FlowSequence(Repeated<Coupling<S>>{}, some_standardize<S>(2)));
}

TEST_CASE("forward applies the first layer first", "[layers]") {
  Array<double> mean(1, 2), scale(1, 2), z(1, 2);
  mean << 10, 20;
  scale << 2, 4;
  z << 1, 3;
  const auto shift_scale = Standardize<double>::from(mean, scale);
  const auto swap = Permutation<double>::reverse(2);
  const auto x = diffeo::forward(FlowSequence(shift_scale, swap), z);
  CHECK(x.value(0, 0) == 32);
  CHECK(x.value(0, 1) == 12);
  CHECK(x.log_det(0, 0) == Approx(std::log(8.0)));
  const auto y = diffeo::forward(FlowSequence(swap, shift_scale), z);
  CHECK(y.value(0, 0) == 16);
  CHECK(y.value(0, 1) == 24);
  const auto back = diffeo::inverse(FlowSequence(shift_scale, swap), x.value);
  CHECK((back.value == z).all());
  CHECK(back.log_det(0, 0) == Approx(-std::log(8.0)));

  const auto repeated =
      diffeo::repeat(3, [](Index i) { return DiagonalScale<double>{Array<double>::Constant(1, 2, double(i + 1))}; });
  const auto r = diffeo::forward(repeated, z);
  CHECK(r.value(0, 1) == Approx(3 * std::exp(6.0)));
  CHECK(r.log_det(0, 0) == Approx(12.0));
}

TEST_CASE("a sequence is a plain value", "[layers]") {
  FlowSequence a(random_couplings<float>(3, 2), Permutation<float>::reverse(3));
  const auto b = a;
  const Array<float> x = diffeo::testing::detail::normal_array<float>(10, 3, 1, 1);
  const Array<float> before = diffeo::forward(b, x).value;
  diffeo::set_parameters(a, Array<float>::Zero(diffeo::parameter_count(a), 1));
  CHECK((diffeo::forward(b, x).value == before).all());
  CHECK((diffeo::forward(a, x).value == x.rowwise().reverse()).all());
  a = b;
  CHECK((diffeo::forward(a, x).value == before).all());
}

TEST_CASE("sequences: bad input", "[layers]") {
  using P = Permutation<float>;
  CHECK(thrown_message<invalid_argument>([] { FlowSequence(P::reverse(2), P::reverse(3)); }) ==
        "flow sequence: layers of dimension 2 and 3");
  CHECK(thrown_message<invalid_argument>([] { diffeo::repeat(-1, [](Index) { return P::reverse(2); }); }) ==
        "repeat: -1 layers, expected at least 0");
  CHECK(thrown_message<invalid_argument>([] { diffeo::repeat(3, [](Index i) { return P::reverse(i + 1); }); }) ==
        "repeated layers: layers of dimension 1 and 2");
  CHECK(diffeo::repeat(0, [](Index) { return P::reverse(2); }).dim() == 0);
}
