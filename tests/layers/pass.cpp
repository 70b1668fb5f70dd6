// SPDX-License-Identifier: MIT
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/pass.hpp>
#include <diffeo/math/random_fill.hpp>

#include "../catch.hpp"

using namespace diffeo;

namespace {

Array<double> gaussian(Index rows, Index cols) {
  Array<double> x(rows, cols);
  fill_normal(view(x), 3, 0);
  return x;
}

std::uint64_t bits(const Pass<double>& pass, std::uint64_t purpose, const Array<double>& z, Index row) {
  return pass.noise(purpose, view(z), row)();
}

// Notes what it was told.
template <class T>
struct Witness {
  using Scalar = scalar_t<T>;
  static inline std::vector<Pass<Scalar>> seen;

  Index dim() const { return 0; }
  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
  template <class U>
  Witness<U> rebind() const {
    return {};
  }
  Transformed<Var<Scalar>> forward(const Var<Scalar>& z, const Pass<Scalar>& pass = {}) const {
    seen.push_back(pass);
    return {z, zeros(z, 1)};
  }
  Transformed<Var<Scalar>> inverse(const Var<Scalar>& x, const Pass<Scalar>& pass = {}) const {
    return forward(x, pass);
  }
};

// A layer that takes no pass.
template <class T>
struct Plain {
  using Scalar = scalar_t<T>;
  Index dim() const { return 0; }
  template <class Self>
  static auto fields(Self&) {
    return std::tuple<>();
  }
  template <class U>
  Plain<U> rebind() const {
    return {};
  }
  template <Traced X>
  Transformed<X> forward(const X& z) const {
    return {z, zeros(z, 1)};
  }
  template <Traced X>
  Transformed<X> inverse(const X& x) const {
    return {x, zeros(x, 1)};
  }
};

}  // namespace

TEST_CASE("pass: noise of evaluation is a function of seed and row", "[pass]") {
  const Array<double> z = gaussian(8, 3);
  const Pass<double> pass{.seed = 5, .step = 6, .first_row = 7};  // which are of training alone
  CHECK(bits(pass, 1, z, 4) == bits({}, 1, z.row(4), 0));
  CHECK(bits(pass, 1, z, 4) != bits(pass, 2, z, 4));
  CHECK(bits(pass, 1, z, 4) != bits(pass, 1, z, 5));
  CHECK(bits(pass.of_part(3), 1, z, 4) == bits(pass, 1, z, 4));
}

TEST_CASE("pass: noise of training is a function of step and place, not of values", "[pass]") {
  const Array<double> z = gaussian(8, 3);
  const Pass<double> pass{.training = true, .seed = 5, .step = 6, .first_row = 7};
  const std::uint64_t expected = bits(pass, 1, z, 4);
  CHECK(bits(pass, 1, -z, 4) == expected);
  Pass<double> other = pass;
  other.first_row = 0;
  CHECK(bits(other, 1, z.replicate(2, 1), 11) == expected);
  CHECK(bits(other, 1, z, 4) != expected);
  CHECK(bits(pass, 2, z, 4) != expected);
  CHECK(bits(pass.of_part(0), 1, z, 4) != expected);
  CHECK(bits(pass.of_part(0), 1, z, 4) != bits(pass.of_part(1), 1, z, 4));
  CHECK(bits(pass.of_part(0).of_part(1), 1, z, 4) != bits(pass.of_part(1).of_part(0), 1, z, 4));
  other = pass;
  other.step = 5;
  CHECK(bits(other, 1, z, 4) != expected);
  other = pass;
  other.seed = 4;
  CHECK(bits(other, 1, z, 4) != expected);
}

TEST_CASE("pass: reaches every layer that takes one", "[pass]") {
  using W = Witness<double>;
  const auto flow = FlowSequence(W{}, Plain<double>{}, Invert{W{}}, repeat(2, [](Index) { return W{}; }));
  static_assert(Flow<decltype(flow)> || Flow<std::remove_const_t<decltype(flow)>>);
  Tape<double> tape;
  const Var<double> z = tape.copy(gaussian(5, 2)), context = tape.copy(gaussian(5, 1));
  Penalties<double> penalties;
  const Pass<double> pass{
      .training = true, .seed = 1, .step = 2, .first_row = 3, .context = context, .penalties = &penalties};
  std::vector<std::uint64_t> parts;
  for (const bool forwards : {true, false}) {
    W::seen.clear();
    forwards ? flow.forward(z, pass) : flow.inverse(z, pass);
    REQUIRE(W::seen.size() == 4);
    if (!forwards) std::reverse(W::seen.begin(), W::seen.end());
    for (std::size_t i = 0; i < 4; ++i) {
      const Pass<double>& seen = W::seen[i];
      CHECK(seen.training);
      CHECK(seen.seed == 1);
      CHECK(seen.step == 2);
      CHECK(seen.first_row == 3);
      CHECK(seen.context.value().data == context.value().data);
      CHECK(seen.penalties == &penalties);
      if (forwards)
        parts.push_back(seen.part);
      else
        CHECK(seen.part == parts[i]);  // a layer's noise is its own, whichever way the flow is applied
      for (std::size_t k = 0; k < i; ++k) CHECK(seen.part != W::seen[k].part);
    }
  }
  W::seen.clear();
  flow.forward(z);
  CHECK_FALSE(W::seen.at(0).training);
  CHECK(W::seen[0].penalties == nullptr);
}

TEST_CASE("pass: penalties", "[pass]") {
  Tape<double> tape;
  Penalties<double> penalties;
  CHECK_FALSE(bool(penalties.sum()));
  penalties.add(tape.copy(Array<double>::Constant(4, 1, 2.0)));
  penalties.add(tape.copy(Array<double>::Constant(4, 1, 3.0)));
  CHECK(penalties.count() == 2);
  CHECK((as_eigen(penalties.sum().value()) == 5).all());
  CHECK(thrown_message<invalid_argument>([&] { penalties.add(tape.copy(Array<double>::Zero(3, 1))); }) ==
        "penalty: got 3 x 1, expected 4 x 1");
  CHECK_THROWS_AS(penalties.add(tape.copy(Array<double>::Zero(4, 2))), invalid_argument);
}
