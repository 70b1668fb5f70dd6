// SPDX-License-Identifier: MIT
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
            const Linearised<S> factors = field.linearised(t, x);
            const MultiDual<S> columns = field.with_jacobian(t, x);
            REQUIRE(tape.size() == 0);
            REQUIRE(factors.count == field.layer_count());
            REQUIRE(static_cast<bool>(factors.slopes[factors.count - 1]) == field.gates_output());
            REQUIRE(columns.directions == dim);
            const Array<S> v = to_array(field(t, x));
            REQUIRE(same_bits(to_array(factors.value), v));
            const auto near = [&](const Array<S>& got, const Array<S>& expected) {
              return n == 0 || (got - expected).abs().maxCoeff() <= eps * (1 + expected.abs().maxCoeff());
            };
            REQUIRE(near(to_array(value_of(columns)), v));
            for (Index k = 0; k < dim; ++k) {
              const Array<S> expected = column_of_jacobian(field, t, x, k);
              Array<S> direction = Array<S>::Zero(n, dim);
              direction.col(k).setOnes();
              REQUIRE(near(to_array(factors.forward(tape.copy(direction))), expected));
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
