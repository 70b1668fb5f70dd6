// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/continuous/vector_field.hpp>

#include "fields.hpp"

using namespace diffeo;
using namespace fields;

namespace {

struct Untraced {
  using Scalar = double;
  Index dim() const { return 2; }
  Var<double> operator()(const Var<double>&, const Var<double>& x) const { return x; }
  template <class Self>
  static auto fields(Self&) {
    return std::tuple();
  }
  template <class U>
  Untraced rebind() const {
    return {};
  }
};

static_assert(VectorField<MlpField<float>> && VectorField<MlpField<Var<double>>>);
static_assert(VectorField<ConcatSquashField<float>> && VectorField<ConcatSquashField<Var<double>>>);
static_assert(VectorField<decltype(function<double>(2))>);
static_assert(!VectorField<Untraced> && !VectorField<Mlp<double>>);
static_assert(DenseField<MlpField<double>> && DenseField<ConcatSquashField<Var<float>>>);
static_assert(!DenseField<decltype(function<double>(2))>);

// The Jacobian in x of one row, by Dual.
template <class F, Real S>
Array<S> column_of_jacobian(const F& field, const Var<S>& t, const Var<S>& x, Index k) {
  Array<S> direction = Array<S>::Zero(x.rows(), x.cols());
  direction.col(k).setOnes();
  return to_array(field(Dual<Var<S>>{t, zeros(t, 1)}, Dual<Var<S>>{x, x.tape().copy(direction)}).tangent);
}

}  // namespace

TEST_CASE("vector_field: an mlp field is the network of x and time", "[vector_field]") {
  const MlpField<double> field = mlp<double>(2, {4}, Activation::tanh);
  const Array<double> x = gaussian<double>(3, 2, 0), t = times<double>(3);
  Tape<double> tape;
  const Array<double> v = to_array(field(tape.copy(t), tape.copy(x)));
  const auto& [first, last] = std::tie(field.network.layers[0], field.network.layers[1]);
  for (Index n = 0; n < 3; ++n)
    for (Index i = 0; i < 2; ++i) {
      double expected = last.bias(i);
      for (Index h = 0; h < 4; ++h)
        expected += last.weight(i, h) * std::tanh(first.bias(h) + first.weight(h, 0) * x(n, 0) +
                                                  first.weight(h, 1) * x(n, 1) + first.weight(h, 2) * t(n));
      CHECK(v(n, i) == Approx(expected).epsilon(1e-12));
    }
}

TEST_CASE("vector_field: a concat-squash field is FFJORD's formula", "[vector_field]") {
  const bool gated = GENERATE(false, true);
  const ConcatSquashField<double> field = concat_squash<double>(2, {4}, Activation::tanh, gated);
  const Array<double> x = gaussian<double>(3, 2, 0), t = times<double>(3);
  Tape<double> tape;
  const Array<double> v = to_array(field(tape.copy(t), tape.copy(x)));
  const auto layer = [&](std::size_t i, double time, const std::vector<double>& in, bool gate) {
    const auto& l = field.layers[i];
    std::vector<double> out;
    for (Index o = 0; o < l.dense.weight.rows(); ++o) {
      double sum = l.dense.bias(o);
      for (std::size_t k = 0; k < in.size(); ++k) sum += l.dense.weight(o, static_cast<Index>(k)) * in[k];
      if (gate) sum /= 1 + std::exp(-(l.gate.weight(o, 0) * time + l.gate.bias(o)));
      out.push_back(sum + l.shift(o, 0) * time);
    }
    return out;
  };
  for (Index n = 0; n < 3; ++n) {
    std::vector<double> h = layer(0, t(n), {x(n, 0), x(n, 1)}, true);
    for (double& u : h) u = std::tanh(u);
    h = layer(1, t(n), h, gated);
    for (Index i = 0; i < 2; ++i) CHECK(v(n, i) == Approx(h[static_cast<std::size_t>(i)]).epsilon(1e-12));
  }
}

TEST_CASE("vector_field: gradients and tangents are central differences", "[vector_field]") {
  for (const Index dim : {1, 3})
    for_each_field<double>(dim, Activation::tanh, [&](const char* name, const auto& field) {
      CAPTURE(name, dim);
      const auto f = [](const auto& model, auto in) { return model(in[0], in[1]); };
      const std::vector in{times<double>(7), gaussian<double>(7, dim, 0)};
      CHECK(testing::check_gradients(field, f, in).max_error < 1e-8);
      CHECK(testing::check_tangents(field, f, in).max_error < 1e-8);
      CHECK(testing::check_tangent_gradients(field, f, in).max_error < 1e-8);
    });
}

TEMPLATE_TEST_CASE("vector_field: dense fields give their Jacobian in factors and in columns", "[vector_field]", float,
                   double) {
  using S = TestType;
  constexpr S eps = 100 * std::numeric_limits<S>::epsilon();
  for (std::size_t a = 0; a < std::size(activation_names); ++a)
    for (const Index dim : {1, 2, 5})
      for (const Index n : {0, 1, 19})
        for_each_field<S>(dim, static_cast<Activation>(a), [&]<class F>(const char* name, const F& field) {
          if constexpr (DenseField<F>) {
            CAPTURE(name, std::string(activation_names[a]), dim, n);
            Tape<S> tape;
            const Var<S> t = tape.copy(times<S>(n)), x = tape.copy(gaussian<S>(n, dim, 0));
            const LinearisedField<S> factors = field.linearised(t, x);
            const MultiDual<S> columns = field.with_jacobian(t, x);
            REQUIRE(tape.size() == 0);
            REQUIRE(factors.count == field.layer_count());
            REQUIRE(static_cast<bool>(factors.slopes[factors.count - 1]) == field.gates_output());
            REQUIRE(columns.directions == dim);
            const Array<S> v = to_array(field(t, x));
            REQUIRE(same_bits(to_array(factors.velocity), v));
            const auto near = [&](const Array<S>& got, const Array<S>& expected) {
              return n == 0 || (got - expected).abs().maxCoeff() <= eps * (1 + expected.abs().maxCoeff());
            };
            REQUIRE(near(to_array(value_of(columns)), v));
            for (Index k = 0; k < dim; ++k) {
              const Array<S> expected = column_of_jacobian(field, t, x, k);
              Array<S> direction = Array<S>::Zero(n, dim);
              direction.col(k).setOnes();
              REQUIRE(near(to_array(factors.times(tape.copy(direction))), expected));
              const View<const S> column =
                  diffeo::detail::stacked(columns.blocks.value(), columns, k + 1, columns.rows);
              REQUIRE(near(as_eigen(column), expected));
            }
          }
        });
}

TEMPLATE_TEST_CASE("vector_field: a row's bits do not depend on the other rows", "[vector_field]", float, double) {
  using S = TestType;
  const Array<S> x = gaussian<S>(65, 3, 0), t = times<S>(65);
  for_each_field<S>(3, Activation::silu, [&](const char* name, const auto& field) {
    CAPTURE(name);
    const auto result = [&](const Array<S>& time, const Array<S>& at) {
      Tape<S> tape;
      return to_array(field(tape.copy(time), tape.copy(at)));
    };
    const Array<S> whole = result(t, x);
    for (const Index row : {0, 13, 64}) {
      CHECK(same_bits<S>(whole.row(row), result(t.row(row), x.row(row))));
      CHECK(same_bits<S>(whole.bottomRows(65 - row), result(t.bottomRows(65 - row), x.bottomRows(65 - row))));
    }
    CHECK(result(Array<S>(0, 1), Array<S>(0, 3)).rows() == 0);
  });
}

TEST_CASE("vector_field: fresh fields", "[vector_field]") {
  const auto field = make_mlp_field<float>(3, {.hidden = {8, 4}, .activation = Activation::elu, .last_scale = 0.5}, 7);
  REQUIRE(field.dim() == 3);
  REQUIRE(field.layer_count() == 3);
  CHECK(field.network.layers[0].weight.cols() == 4);
  CHECK(field.network.activation == Activation::elu);
  const auto again = make_mlp_field<float>(3, {.hidden = {8, 4}, .activation = Activation::elu, .last_scale = 1}, 7);
  CHECK((field.network.layers[2].weight == again.network.layers[2].weight * 0.5f).all());
  CHECK((field.network.layers[0].weight == again.network.layers[0].weight).all());
  // Velocities of order 1 without options.
  Tape<float> tape;
  const Array<float> v =
      to_array(make_mlp_field<float>(2)(tape.copy(times<float>(500)), tape.copy(gaussian<float>(500, 2, 0))));
  CHECK(v.square().mean() > 0.05);
  CHECK(v.square().mean() < 5);

  const auto squash = make_concat_squash_field<double>(3, {.hidden = {8, 4}, .last_scale = 0.5}, 7);
  REQUIRE(squash.dim() == 3);
  REQUIRE(squash.layer_count() == 3);
  CHECK(parameter_count(squash) == (3 * 8 + 4 * 8) + (8 * 4 + 4 * 4) + (4 * 3 + 4 * 3));
  const auto other = make_concat_squash_field<double>(3, {.hidden = {8, 4}}, 7);
  CHECK((squash.layers[2].dense.weight == other.layers[2].dense.weight * 0.5).all());
  CHECK((squash.layers[2].shift == other.layers[2].shift * 0.5).all());
  // No two arrays hold the same numbers.
  CHECK(other.layers[0].gate.weight(0, 0) != other.layers[0].shift(0, 0));
  CHECK(other.layers[0].gate.weight(0, 0) != other.layers[1].gate.weight(0, 0));
}

TEST_CASE("vector_field: what does not fit is refused", "[vector_field]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([] { make_mlp_field<double>(0); }) == "make_mlp_field: dim is 0, expected at least 1");
  CHECK(message([] { make_concat_squash_field<double>(0); }) ==
        "make_concat_squash_field: dim is 0, expected at least 1");
  CHECK(message([] { make_concat_squash_field<double>(2, {.hidden = {0}}); }) ==
        "make_concat_squash_field: a hidden layer has width 0, expected at least 1");
  CHECK(message([] { make_concat_squash_field<double>(2, {.last_scale = std::nan("")}); }) ==
        "make_concat_squash_field: last_scale is nan, expected a finite value");
  CHECK(message([] { make_field<double>(0, [](auto, auto x) { return x; }); }) ==
        "make_field: dim is 0, expected at least 1");
  Tape<double> tape;
  const Var<double> t = tape.copy(times<double>(4)), x = tape.copy(gaussian<double>(4, 3, 0));
  CHECK(message([&] { mlp<double>(2, {4}, Activation::tanh)(t, x); }) ==
        "MlpField: x has 3 columns, this field has dimension 2");
  CHECK(message([&] { mlp<double>(2, {4}, Activation::tanh).linearised(t, x); }) ==
        "MlpField: x has 3 columns, this field has dimension 2");
  CHECK(message([&] { mlp<double>(2, {4}, Activation::tanh).with_jacobian(t, x); }) ==
        "MlpField: x has 3 columns, this field has dimension 2");
  const auto squash = concat_squash<double>(3, {4}, Activation::tanh, true);
  const Var<double> short_t = tape.copy(times<double>(1));
  const std::string wrong_t = "ConcatSquashField: t is 1 x 1, expected 4 x 1";
  CHECK(message([&] { squash(short_t, x); }) == wrong_t);
  CHECK(message([&] { squash.linearised(short_t, x); }) == wrong_t);
  CHECK(message([&] { squash.with_jacobian(short_t, x); }) == wrong_t);
  CHECK(message([&] { function<double>(3)(x, x); }) == "FieldFunction: t is 4 x 3, expected 4 x 1");
  const auto narrow = make_field<double>(3, [](const auto&, const auto& at) { return cols(at, 0, 2); });
  CHECK(message([&] { narrow(t, x); }) == "FieldFunction: the function gave 4 x 2, expected 4 x 3");
}
