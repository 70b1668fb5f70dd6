// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/autodiff/settings.hpp>
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

// Shifts by b; in training it asks for |b| of each sample.
template <class T>
struct Toll {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::param_t<T> shift;

  Index dim() const { return shift.cols(); }
  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("shift", self.shift);
  }
  template <class U>
  Toll<U> rebind() const {
    return {};
  }
  diffeo::Transformed<Var<Scalar>> forward(const Var<Scalar>& z, const diffeo::Pass<Scalar>& pass = {}) const {
    charge(z, pass);
    return {z + shift, zeros(z, 1)};
  }
  diffeo::Transformed<Var<Scalar>> inverse(const Var<Scalar>& x, const diffeo::Pass<Scalar>& pass = {}) const {
    charge(x, pass);
    return {x - shift, zeros(x, 1)};
  }
  void charge(const Var<Scalar>& x, const diffeo::Pass<Scalar>& pass) const {
    if (!pass.training || !pass.penalties) return;
    pass.penalties->add(zeros(x, 1) + sum_cols(abs(as_var(x.tape(), shift))));
  }
};

// Moves nothing, but weighs points by exp(weight |x|^2): a log-determinant with a parameter, beside a value without.
template <class T>
struct Density {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::param_t<T> weight;  // 1 x 1

  Index dim() const { return 2; }
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.weight);
  }
  template <class U>
  Density<U> rebind() const {
    return {};
  }
  diffeo::Transformed<Var<Scalar>> forward(const Var<Scalar>& z) const { return {z, -weighed(z)}; }
  diffeo::Transformed<Var<Scalar>> inverse(const Var<Scalar>& x) const { return {x, weighed(x)}; }
  Var<Scalar> weighed(const Var<Scalar>& x) const { return sum_cols(square(x)) * as_var(x.tape(), weight); }
};

Toll<double> toll(double a, double b) { return {(Array<double>(1, 2) << a, b).finished()}; }

// The same map, whose value alone can be had; it counts how often it was.
template <class T>
struct Frugal {
  using Scalar = diffeo::scalar_t<T>;
  static inline int values = 0, both = 0;

  diffeo::param_t<T> scale;

  Index dim() const { return scale.cols(); }
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.scale);
  }
  template <class U>
  Frugal<U> rebind() const {
    return {};
  }
  Var<Scalar> generate(const Var<Scalar>& z) const {
    ++values;
    return z * scale;
  }
  diffeo::Transformed<Var<Scalar>> forward(const Var<Scalar>& z) const {
    ++both;
    return {z * scale, zeros(z, 1) + sum_cols(log(z.tape().constant(scale)))};
  }
  diffeo::Transformed<Var<Scalar>> inverse(const Var<Scalar>& x) const { return {x / scale, zeros(x, 1)}; }
};

}  // namespace

TEST_CASE("sequences: penalties add up", "[layers]") {
  const auto affine = diffeo::testing::detail::normal_array<double>(1, 2, 5, 1);
  const auto plain = Standardize<double>::from(affine, affine.exp());
  const Array<double> x0 = diffeo::testing::detail::normal_array<double>(70, 2, 1, 1),
                      ones = Array<double>::Ones(70, 1);
  const auto check = [&](const auto& flow, double expected, const std::vector<double>& slopes) {
    for (const bool forwards : {false, true})
      for (const bool input : {false, true}) {
        diffeo::Tape<double> tape;
        Array<double> values = diffeo::parameters(flow), grads = Array<double>::Zero(values.rows(), 1);
        const auto lifted = diffeo::lift(tape, flow, values.data(), grads.data());
        const Var<double> x = input ? tape.variable(x0) : tape.copy(x0);
        diffeo::Penalties<double> penalties, none;
        const diffeo::Pass<double> training{.training = true, .penalties = &penalties}, evaluation{.penalties = &none};
        forwards ? lifted.forward(x, training) : lifted.inverse(x, training);
        CAPTURE(forwards, input, expected);
        forwards ? lifted.forward(x, evaluation) : lifted.inverse(x, evaluation);
        CHECK_FALSE(bool(none.sum()));
        REQUIRE(bool(penalties.sum()) == !slopes.empty());
        if (slopes.empty()) continue;
        CHECK(penalties.sum().rows() == 70);
        CHECK((diffeo::as_eigen(penalties.sum().value()) - expected).abs().maxCoeff() < 1e-12);
        tape.backward(penalties.sum(), diffeo::view(ones));
        tape.finish_parameter_grads();
        for (std::size_t i = 0; i < slopes.size(); ++i) CHECK(grads(Index(i), 0) == 70 * slopes[i]);
        // Of constants too, whose memory a sequence would else give back.
        diffeo::Penalties<double> of_constants;
        const diffeo::Pass<double> pass{.training = true, .penalties = &of_constants};
        const Var<double> constant = tape.copy(x0);
        forwards ? flow.forward(constant, pass) : flow.inverse(constant, pass);
        tape.copy(Array<double>::Constant(500, 2, 1e9));  // over what was given back
        CHECK((diffeo::as_eigen(of_constants.sum().value()) - expected).abs().maxCoeff() < 1e-12);
      }
  };
  check(FlowSequence(toll(1, -2)), 3, {1, -1});
  check(FlowSequence(toll(1, -2), plain, toll(-3, 4)), 10, {1, -1, -1, 1});
  check(FlowSequence(plain, Invert{toll(1, -2)}, plain), 3, {1, -1});
  check(
      FlowSequence(FlowSequence(plain, toll(1, 1)), diffeo::repeat(3, [](Index i) { return toll(double(i + 1), 1); })),
      11, {1, 1, 1, 1, 1, 1, 1, 1});
  check(FlowSequence(plain, Permutation<double>::reverse(2)), 0, {});
  check(Repeated<Toll<double>>{}, 0, {});
}

TEST_CASE("sequences: a log-determinant may depend on parameters where the value does not", "[layers]") {
  const auto flow = FlowSequence(some_standardize<double>(2), Density<double>{Array<double>::Constant(1, 1, 0.5)},
                                 some_standardize<double>(2), Density<double>{Array<double>::Constant(1, 1, -2)});
  const Array<double> x = diffeo::testing::detail::normal_array<double>(70, 2, 1, 1), ones = Array<double>::Ones(70, 1);
  diffeo::Tape<double> tape;
  Array<double> values = diffeo::parameters(flow), grads = Array<double>::Zero(2, 1);
  const auto lifted = diffeo::lift(tape, flow, values.data(), grads.data());
  const auto y = lifted.inverse(tape.copy(x));
  CHECK_FALSE(y.value.requires_grad());
  REQUIRE(y.log_det.requires_grad());
  tape.copy(Array<double>::Constant(2000, 2, 1e9));  // over what was given back
  const auto expected = diffeo::inverse(flow, x);
  CHECK((diffeo::as_eigen(y.log_det.value()) - expected.log_det).abs().maxCoeff() < 1e-12);
  CHECK((diffeo::as_eigen(y.value.value()) == expected.value).all());
  tape.backward(y.log_det, diffeo::view(ones));
  tape.finish_parameter_grads();
  // The outer one sees x, the inner one what the outer standardisation made of it.
  const Array<double> inner = diffeo::inverse(some_standardize<double>(2), x).value;
  CHECK(grads(1, 0) == Approx(x.square().sum()).epsilon(1e-12));
  CHECK(grads(0, 0) == Approx(inner.square().sum()).epsilon(1e-12));
}

TEST_CASE("sequences: values alone, where log-determinants cost extra", "[layers]") {
  using diffeo::generate;
  static_assert(diffeo::HasGenerate<Frugal<double>, Var<double>>);
  static_assert(diffeo::HasGenerate<FlowSequence<Standardize<double>, Frugal<double>>, Var<double>>);
  static_assert(diffeo::HasGenerate<Repeated<Frugal<double>>, Var<double>>);
  static_assert(!diffeo::HasGenerate<FlowSequence<Standardize<double>, Standardize<double>>, Var<double>>);
  static_assert(!diffeo::HasGenerate<Repeated<Standardize<double>>, Var<double>>);
  const Array<double> z0 = diffeo::testing::detail::normal_array<double>(70, 2, 1, 1);
  const auto frugal = [](double a, double b) { return Frugal<double>{(Array<double>(1, 2) << a, b).finished()}; };
  const auto shift = some_standardize<double>(2);
  const auto check = [&](const auto& flow, int solved) {
    for (const bool input : {false, true}) {
      diffeo::Tape<double> tape;
      const Var<double> z = input ? tape.variable(z0) : tape.copy(z0);
      const auto expected = flow.forward(z);
      Frugal<double>::values = Frugal<double>::both = 0;
      const Var<double> x = generate(flow, z);
      CHECK(Frugal<double>::values == solved);
      CHECK(Frugal<double>::both == 0);
      CHECK((diffeo::as_eigen(x.value()) == diffeo::as_eigen(expected.value.value())).all());
      CHECK(x.requires_grad() == input);
    }
  };
  check(frugal(2, 3), 1);
  check(FlowSequence(frugal(2, 3)), 1);
  check(FlowSequence(shift, frugal(2, 3), Permutation<double>::reverse(2), frugal(0.5, 4), shift), 2);
  check(diffeo::repeat(3, [&](Index) { return frugal(2, 0.5); }), 3);
  check(FlowSequence(diffeo::repeat(2, [&](Index) { return frugal(2, 0.5); }), shift), 2);
  check(FlowSequence(shift, Invert{shift}), 0);
}

TEMPLATE_TEST_CASE("sequences: laws", "[layers]", DIFFEO_LAW_SCALARS) {
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
        "flow sequence: layer 1 has dimension 3, the layers before it 2");
  CHECK(thrown_message<invalid_argument>([] { diffeo::repeat(-1, [](Index) { return P::reverse(2); }); }) ==
        "repeat: -1 layers, expected at least 0");
  CHECK(thrown_message<invalid_argument>([] { diffeo::repeat(3, [](Index i) { return P::reverse(i + 1); }); }) ==
        "repeated layers: layer 1 has dimension 2, the layers before it 1");
  CHECK(diffeo::repeat(0, [](Index) { return P::reverse(2); }).dim() == 0);
}

TEST_CASE("sequences: results of the wrong shape are refused", "[layers]") {
  const Array<double> x = Array<double>::Zero(30, 2);
  const auto plain = Standardize<double>::identity(2);
  for (const bool input : {false, true}) {
    const auto message = [&](const Misshapen<double>& layer) {
      return thrown_message<invalid_argument>([&] {
        diffeo::Tape<double> tape;
        FlowSequence(plain, layer).forward(input ? tape.variable(x) : tape.copy(x));
      });
    };
    CHECK(message({1, 0, 1}) == "flow sequence: layer 1 gave 30 x 1 values for 30 x 2");
    CHECK(message({2, 1, 1}) == "flow sequence: layer 1 gave 1 x 1 log-determinants for 30 rows, expected 30 x 1");
    CHECK(message({2, 0, 2}) == "flow sequence: layer 1 gave 30 x 2 log-determinants for 30 rows, expected 30 x 1");
  }
}

namespace {

// A layer that can be applied in one go, but wants to know of the call.
struct KnowsOfTheCall {
  using Scalar = float;
  bool* trained;
  Index dim() const { return 2; }
  template <class Self>
  static auto fields(Self&) {
    return std::tuple<>();
  }
  template <class U>
  KnowsOfTheCall rebind() const {
    return *this;
  }
  Var<float> seen(const Var<float>& x, const diffeo::Pass<float>& pass) const {
    *trained = *trained || pass.training;
    return x;
  }
  diffeo::Transformed<Var<float>> forward(const Var<float>& z, const diffeo::Pass<float>& pass = {}) const {
    return {seen(z, pass), zeros(z, 1)};
  }
  diffeo::Transformed<Var<float>> inverse(const Var<float>& x, const diffeo::Pass<float>& pass = {}) const {
    return {seen(x, pass), zeros(x, 1)};
  }
  static diffeo::Transformed<Var<float>> forward_all(std::span<const KnowsOfTheCall>, Var<float> z) {
    return {z, zeros(z, 1)};
  }
  static diffeo::Transformed<Var<float>> inverse_all(std::span<const KnowsOfTheCall>, Var<float> x) {
    return {x, zeros(x, 1)};
  }
};

// Its log-determinant is the parameter itself, which no op records.
template <class T>
struct BareLogDet {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::param_t<T> log_scale;  // 1 x 1
  Index dim() const { return 1; }
  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("log_scale", self.log_scale);
  }
  template <class U>
  BareLogDet<U> rebind() const {
    return {};
  }
  diffeo::Transformed<Var<Scalar>> inverse(const Var<Scalar>& x) const { return {x, as_var(x.tape(), log_scale)}; }
  diffeo::Transformed<Var<Scalar>> forward(const Var<Scalar>& z) const { return inverse(z); }
};

}  // namespace

TEST_CASE("repeated layers that take a pass get it", "[layers]") {
  bool trained = false;
  const auto flow = diffeo::repeat(3, [&](Index) { return KnowsOfTheCall{&trained}; });
  for (const bool forwards : {true, false}) {
    trained = false;
    diffeo::Tape<float> tape;
    const Var<float> x = tape.copy(Array<float>(Array<float>::Ones(4, 2)));
    if (forwards)
      flow.forward(x, {.training = true});
    else
      flow.inverse(x, {.training = true});
    CHECK(trained);
  }
}

TEST_CASE("a log-determinant that is a parameter keeps its gradient", "[layers]") {
  const FlowSequence flow(BareLogDet<double>{Array<double>::Constant(1, 1, 0.5)},
                          DiagonalScale<double>{Array<double>::Zero(1, 1)});
  Array<double> values = diffeo::parameters(flow), grads = Array<double>::Zero(values.rows(), 1);
  diffeo::Tape<double> tape;
  const auto lifted = diffeo::lift(tape, flow, values.data(), grads.data());
  const auto y = lifted.inverse(tape.copy(Array<double>(Array<double>::Ones(1, 1))));
  const Array<double> one = Array<double>::Ones(1, 1);
  tape.backward(y.log_det, diffeo::view(one));
  tape.finish_parameter_grads();
  CHECK(grads(0, 0) == 1);
}

TEST_CASE("a layer of another dimension is named", "[layers]") {
  auto couplings = random_couplings<float>(3, 5);
  couplings.layers[3] = random_couplings<float>(4, 1).layers[0];
  const FlowSequence flow(Permutation<float>::reverse(3), Repeated<Coupling<float>>{});
  auto broken = flow;
  std::get<1>(broken.layers) = couplings;
  const std::string message = thrown_message<invalid_argument>([&] { diffeo::check_structure(broken); });
  CHECK(contains(message, "layer 3 has dimension 4, the layers before it 3"));
}
