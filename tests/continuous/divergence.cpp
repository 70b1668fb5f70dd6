// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/divergence.hpp>

#include "fields.hpp"

using namespace diffeo;
using namespace fields;

namespace {

using DivergenceMethod = ExactDivergence::Method;
constexpr FieldTerms all_terms{.divergence = true, .kinetic = true, .frobenius = true};

// A field with parameters of its own, as a user would write it: x' = A x + t.
template <class T>
struct AffineField {
  using Scalar = scalar_t<T>;
  param_t<T> matrix;

  Index dim() const { return matrix.rows(); }
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.matrix);
  }
  template <class U>
  AffineField<U> rebind() const {
    return {};
  }
  template <Traced X>
  X operator()(const X& t, const X& x) const {
    return linear(x, matrix) + t;
  }
};
static_assert(VectorField<AffineField<double>> && !DenseField<AffineField<double>>);

template <Real S>
struct Result {
  Array<S> velocity, divergence, kinetic, frobenius, noise;
};

// All that a field gives at (t, x), with noise drawn at (0.25, at).
template <class F, Real S>
Result<S> evaluate(const F& field, const Divergence& divergence, const FieldTerms& terms, const Array<S>& t,
                   const Array<S>& x, const Array<S>& at) {
  Tape<S> tape;
  const auto p = prepare_field(tape, field, divergence, terms);
  Array<S> noise(x.rows(), p.noise_columns());
  p.draw_noise(tape, 0.25, view(at), view(noise));
  const FieldValue<S> v = p(tape.copy(t), tape.copy(x), p.noise_columns() > 0 ? tape.copy(noise) : Var<S>(), terms);
  REQUIRE(tape.size() == 0);
  REQUIRE(static_cast<bool>(v.divergence) == terms.divergence);
  REQUIRE(static_cast<bool>(v.kinetic) == terms.kinetic);
  REQUIRE(static_cast<bool>(v.frobenius) == terms.frobenius);
  const auto array = [](const Var<S>& of) { return of ? to_array(of) : Array<S>(); };
  return {to_array(v.velocity), array(v.divergence), array(v.kinetic), array(v.frobenius), noise};
}
template <class F, Real S>
Result<S> evaluate(const F& field, const Divergence& divergence, const FieldTerms& terms, const Array<S>& t,
                   const Array<S>& x) {
  return evaluate(field, divergence, terms, t, x, x);
}

template <class F>
Array<double> velocity(const F& field, const Array<double>& t, const Array<double>& x) {
  Tape<double> tape;
  return to_array(field(tape.copy(t), tape.copy(x)));
}

// The Jacobian in x by central differences, column by column.
template <class F>
std::vector<Array<double>> jacobian(const F& field, const Array<double>& t, const Array<double>& x) {
  constexpr double h = 6e-6;
  std::vector<Array<double>> columns;
  for (Index k = 0; k < x.cols(); ++k) {
    Array<double> above = x, below = x;
    above.col(k) += h;
    below.col(k) -= h;
    columns.push_back((velocity(field, t, above) - velocity(field, t, below)) / (2 * h));
  }
  return columns;
}

// Of one row.
template <class F>
Eigen::MatrixXd jacobian_at(const F& field, const Array<double>& t, const Array<double>& x) {
  const auto columns = jacobian(field, t, x);
  Eigen::MatrixXd j(x.cols(), x.cols());
  for (Index k = 0; k < x.cols(); ++k) j.col(k) = columns[static_cast<std::size_t>(k)].row(0).transpose();
  return j;
}

double largest_error(const Array<double>& got, const Array<double>& expected) {
  return got.size() == 0 ? 0 : ((got - expected).abs() / (1 + expected.abs())).maxCoeff();
}

// Means over draws that differ in their seed alone: one row, noise drawn at `at`, evaluated at x.
struct Statistics {
  double mean = 0, variance = 0, error = 0;
};
template <class F, class Estimate>
std::pair<Statistics, Statistics> over_seeds(const F& field, Estimate estimate, int draws, const Array<double>& t,
                                             const Array<double>& x, const Array<double>& at) {
  Array<double> divergence(draws, 1), frobenius(draws, 1);
  for (int s = 0; s < draws; ++s) {
    estimate.seed = static_cast<std::uint64_t>(s);
    const auto result = evaluate(field, estimate, FieldTerms{.frobenius = true}, t, x, at);
    divergence(s) = result.divergence(0);
    frobenius(s) = result.frobenius(0);
  }
  const auto of = [draws](const Array<double>& v) {
    const double mean = v.mean(), variance = (v - mean).square().sum() / (draws - 1);
    return Statistics{mean, variance, std::sqrt(variance / draws)};
  };
  return {of(divergence), of(frobenius)};
}

}  // namespace

TEST_CASE("divergence: exact ones are central differences of the velocity", "[divergence]") {
  for (std::size_t a = 0; a < std::size(activation_names); ++a)
    for (const Index dim : {1, 2, 5, 8})
      for_each_field<double>(dim, static_cast<Activation>(a), [&](const char* name, const auto& field) {
        const Array<double> x = gaussian<double>(19, dim, 0), t = times<double>(19);
        const auto j = jacobian(field, t, x);
        Array<double> trace = Array<double>::Zero(19, 1), squares = trace;
        for (Index k = 0; k < dim; ++k) {
          trace += j[static_cast<std::size_t>(k)].col(k);
          squares += j[static_cast<std::size_t>(k)].square().rowwise().sum();
        }
        CAPTURE(name, std::string(activation_names[a]), dim);
        const auto automatic = evaluate(field, ExactDivergence{}, FieldTerms{}, t, x);
        CHECK(largest_error(automatic.divergence, trace) < 1e-8);
        CHECK(same_bits(automatic.velocity, velocity(field, t, x)));
        const auto by_tangents = evaluate(field, ExactDivergence{DivergenceMethod::tangents}, all_terms, t, x);
        CHECK(largest_error(by_tangents.divergence, trace) < 1e-8);
        CHECK(largest_error(by_tangents.frobenius, squares) < 1e-7);
        CHECK(largest_error(by_tangents.kinetic, automatic.velocity.square().rowwise().sum()) < 1e-12);
        CHECK(largest_error(by_tangents.velocity, automatic.velocity) < 1e-12);
        CHECK(largest_error(by_tangents.divergence, automatic.divergence) < 1e-13);
      });
}

TEMPLATE_TEST_CASE("divergence: the closed form is the tangents' to rounding", "[divergence]", float, double) {
  using S = TestType;
  const auto check = [](const char* name, const auto& field) {
    for (const Index n : {0, 1, 7, 64, 65}) {
      CAPTURE(name, n, field.dim());
      const Array<S> x = gaussian<S>(n, field.dim(), 0), t = times<S>(n);
      const auto closed = evaluate(field, ExactDivergence{DivergenceMethod::closed_form}, FieldTerms{}, t, x);
      const auto tangents = evaluate(field, ExactDivergence{DivergenceMethod::tangents}, FieldTerms{}, t, x);
      const auto automatic = evaluate(field, ExactDivergence{}, FieldTerms{}, t, x);
      REQUIRE(same_bits(closed.divergence, automatic.divergence));
      REQUIRE(closed.divergence.rows() == n);
      const Array<S> size = 1 + tangents.divergence.abs();
      if (n > 0)
        REQUIRE(((closed.divergence - tangents.divergence).abs() / size).maxCoeff() <
                300 * std::numeric_limits<S>::epsilon());
    }
  };
  for (std::size_t i = 0; i < std::size(activation_names); ++i)
    for (const Index dim : {1, 2, 5, 8}) {
      const auto a = static_cast<Activation>(i);
      check("mlp 1", mlp<S>(dim, {33}, a));
      check("mlp 2", mlp<S>(dim, {31, 18}, a));
      check("concat squash 1", concat_squash<S>(dim, {33}, a, false));
      check("concat squash 1 gated", concat_squash<S>(dim, {33}, a, true));
      check("concat squash 2", concat_squash<S>(dim, {31, 18}, a, false));
    }
}

TEST_CASE("divergence: exact gradients are central differences", "[divergence]") {
  const auto check = [](const char* name, const auto& field, Activation a, Index n, DivergenceMethod method,
                        const FieldTerms& terms) {
    CAPTURE(name, std::string(to_string(a)), field.dim(), n, static_cast<int>(method), terms.frobenius);
    const std::vector in{times<double>(n), gaussian<double>(n, field.dim(), 0)};
    const auto of = [&](const auto& wanted) {
      return testing::check_gradients(field,
                                      [&](const auto& model, auto at) {
                                        const auto p =
                                            prepare_field(at[0].tape(), model, ExactDivergence{method}, terms);
                                        return wanted(p(at[0], at[1], {}, terms));
                                      },
                                      in, {1, 0, 2});
    };
    const auto alone = of([](const FieldValue<double>& v) { return v.divergence; });
    INFO(alone.where);
    CHECK(alone.max_error < 1e-7);
    const auto all = of([&](const FieldValue<double>& v) {
      const auto some = concat(concat(v.velocity, v.divergence), v.kinetic);
      return terms.frobenius ? concat(some, v.frobenius) : some;
    });
    INFO(all.where);
    CHECK(all.max_error < 1e-7);
  };
  constexpr FieldTerms no_norm{.kinetic = true};
  for (std::size_t i = 0; i < std::size(activation_names); ++i) {
    const auto a = static_cast<Activation>(i);
    for (const Index dim : {1, 2, 5})
      for (const Index n : {0, 1, 7})
        for_each_field<double>(dim, a, [&](const char* name, const auto& field) {
          check(name, field, a, n, DivergenceMethod::automatic, no_norm);
          if (n == 7) check(name, field, a, n, DivergenceMethod::tangents, all_terms);
        });
  }
  check("many rows", mlp<double>(2, {16, 17}, Activation::elu), Activation::elu, 65, DivergenceMethod::closed_form,
        no_norm);
}

TEST_CASE("divergence: float gradients are those in double", "[divergence]") {
  const auto gradients = []<class S>(S, Activation a, Index dim, Index n) {
    MlpField<S> field = mlp<S>(dim, {40, 24}, a);
    const Array<double> single = parameters(mlp<float>(dim, {40, 24}, a)).cast<double>();
    set_parameters(field, Array<S>(single.cast<S>()));
    Array<S> values = parameters(field), grads = Array<S>::Zero(values.rows(), 1);
    Tape<S> tape;
    const auto lifted = lift(tape, field, values.data(), grads.data());
    const Var<S> x = tape.variable(gaussian<float>(n, dim, 0)), t = tape.variable(times<float>(n));
    const auto v = prepare_field(tape, lifted, ExactDivergence{})(t, x, {}, {.kinetic = true});
    const Array<S> seed = gaussian<float>(n, 1, 1).template cast<S>();
    tape.backward(v.divergence + v.kinetic, view(seed));
    tape.finish_parameter_grads();
    Array<double> all(grads.size() + x.cols() * n + n, 1);
    all << grads.template cast<double>(), as_eigen(x.grad()).template cast<double>().reshaped(),
        as_eigen(t.grad()).template cast<double>().reshaped();
    return all;
  };
  for (const Activation a : smooth)
    for (const Index dim : {1, 2, 20})
      for (const Index n : {1, 7, 65}) {
        const Array<double> in_float = gradients(1.0f, a, dim, n), in_double = gradients(1.0, a, dim, n);
        CAPTURE(std::string(to_string(a)), dim, n);
        CHECK((in_float - in_double).abs().maxCoeff() < 2e-5 * in_double.abs().maxCoeff());
      }
}

TEST_CASE("divergence: estimates' gradients are central differences", "[divergence]") {
  const Divergence estimates[] = {HutchinsonDivergence{2, ProbeDistribution::gaussian, 3}, HutchinsonDivergence{},
                                  HutchPlusPlusDivergence{6, 3}};
  for (const auto& divergence : estimates)
    for_each_field<double>(4, Activation::tanh, [&](const char* name, const auto& field) {
      CAPTURE(name, divergence.index());
      const Array<double> x = gaussian<double>(7, 4, 0);
      Array<double> noise;
      {
        Tape<double> tape;
        const auto p = prepare_field(tape, field, divergence);
        noise.resize(7, p.noise_columns());
        p.draw_noise(tape, 0.5, view(x), view(noise));
      }
      const auto check =
          testing::check_gradients(field,
                                   [&](const auto& model, auto at) {
                                     const auto p = prepare_field(at[0].tape(), model, divergence, all_terms);
                                     const auto v = p(at[0], at[1], at[0].tape().copy(noise), all_terms);
                                     return concat(concat(v.velocity, v.divergence), concat(v.kinetic, v.frobenius));
                                   },
                                   std::vector{times<double>(7), x}, {1, 0, 2});
      INFO(check.where);
      CHECK(check.max_error < 1e-7);
    });
}

TEST_CASE("divergence: a linear field's is its trace, with gradient I", "[divergence]") {
  const AffineField<double> field{gaussian<double>(3, 3, 9)};
  const Array<double> x = gaussian<double>(5, 3, 0), t = times<double>(5);
  const auto result = evaluate(field, ExactDivergence{}, all_terms, t, x);
  CHECK((result.divergence - field.matrix.matrix().trace()).abs().maxCoeff() < 1e-14);
  CHECK((result.frobenius - field.matrix.square().sum()).abs().maxCoeff() < 1e-13);
  Array<double> values = parameters(field), grads(9, 1);
  Tape<double> tape;
  const auto lifted = lift(tape, field, values.data(), grads.data());
  const auto p = prepare_field(tape, lifted, ExactDivergence{});
  const Array<double> ones = Array<double>::Ones(5, 1);
  tape.backward(p(tape.copy(t), tape.copy(x), {}).divergence, view(ones));
  CHECK((grads.reshaped(3, 3) - 5 * Eigen::Matrix3d::Identity().array()).abs().maxCoeff() < 1e-14);
}

TEST_CASE("divergence: Hutchinson's estimate is unbiased, of the known variance", "[divergence]") {
  const Array<double> x = gaussian<double>(1, 5, 0), t = times<double>(1);
  const auto check = [&](const char* name, const auto& field, Index probes, ProbeDistribution distribution) {
    CAPTURE(name, probes, static_cast<int>(distribution));
    const Eigen::MatrixXd j = jacobian_at(field, t, x);
    constexpr int draws = 4000;
    const auto [divergence, frobenius] = over_seeds(field, HutchinsonDivergence{probes, distribution}, draws, t, x, x);
    CHECK(std::abs(divergence.mean - j.trace()) < 3 * divergence.error);
    CHECK(std::abs(frobenius.mean - j.squaredNorm()) < 3 * frobenius.error);
    const Eigen::MatrixXd s = (j + j.transpose()) / 2;
    double expected = 2 * s.squaredNorm();
    if (distribution == ProbeDistribution::rademacher) expected -= 2 * s.diagonal().squaredNorm();
    CHECK(divergence.variance == Approx(expected / static_cast<double>(probes)).epsilon(0.15));
  };
  for (const auto distribution : {ProbeDistribution::rademacher, ProbeDistribution::gaussian}) {
    check("mlp", mlp<double>(5, {8, 8}, Activation::tanh), 1, distribution);
    check("mlp, three probes", mlp<double>(5, {8, 8}, Activation::tanh), 3, distribution);
    check("function", function<double>(5), 1, distribution);
  }
}

TEST_CASE("divergence: Hutch++ is unbiased wherever the Jacobian is taken", "[divergence]") {
  const Array<double> at = gaussian<double>(1, 8, 0), x = at + 0.3 * gaussian<double>(1, 8, 1), t = times<double>(1);
  const auto check = [&](const char* name, const auto& field) {
    CAPTURE(name);
    const Eigen::MatrixXd j = jacobian_at(field, t, x);
    const auto [divergence, frobenius] = over_seeds(field, HutchPlusPlusDivergence{7}, 3000, t, x, at);
    REQUIRE(divergence.error > 0);
    CHECK(std::abs(divergence.mean - j.trace()) < 3 * divergence.error);
    CHECK(std::abs(frobenius.mean - j.squaredNorm()) < 3 * frobenius.error);
  };
  check("mlp", mlp<double>(8, {12, 12}, Activation::tanh));
  check("concat squash", concat_squash<double>(8, {12, 12, 12}, Activation::softplus, true));
  check("function", function<double>(8));
}

TEST_CASE("divergence: Hutch++ varies less than Hutchinson where the Jacobian has a few large singular values",
          "[divergence]") {
  const Array<double> at = gaussian<double>(1, 10, 0), t = Array<double>::Constant(1, 1, 0.25);
  // Rank 2: where the noise is drawn nothing is left to chance.
  const auto flat = mlp<double>(10, {2}, Activation::tanh);
  const double trace = jacobian_at(flat, t, at).trace();
  CHECK(over_seeds(flat, HutchinsonDivergence{6}, 300, t, at, at).first.variance > 1e-3);
  const auto exact = over_seeds(flat, HutchPlusPlusDivergence{6}, 300, t, at, at).first;
  CHECK(exact.variance < 1e-20);
  CHECK(exact.mean == Approx(trace).epsilon(1e-8));
  // Two large ones and many small ones, away from that point.
  AffineField<double> steep{0.1 * gaussian<double>(10, 10, 5)};
  steep.matrix += 3 * (gaussian<double>(10, 2, 6).matrix() * gaussian<double>(2, 10, 7).matrix()).array();
  const Array<double> x = gaussian<double>(1, 10, 1);
  const double hutchinson = over_seeds(steep, HutchinsonDivergence{6}, 1000, t, x, at).first.variance,
               plus = over_seeds(steep, HutchPlusPlusDivergence{9}, 1000, t, x, at).first.variance;
  CHECK(plus < 0.01 * hutchinson);
}

TEST_CASE("divergence: Hutch++ is exact when its sketch spans all dimensions", "[divergence]") {
  const Array<double> at = gaussian<double>(9, 3, 0), x = gaussian<double>(9, 3, 1), t = times<double>(9);
  for_each_field<double>(3, Activation::silu, [&](const char* name, const auto& field) {
    CAPTURE(name);
    for (const Index probes : {9, 10, 40}) {
      const auto estimate = evaluate(field, HutchPlusPlusDivergence{probes}, all_terms, t, x, at);
      const auto exact = evaluate(field, ExactDivergence{}, all_terms, t, x);
      CHECK(largest_error(estimate.divergence, exact.divergence) < 1e-13);
      CHECK(largest_error(estimate.frobenius, exact.frobenius) < 1e-13);
    }
  });
}

TEMPLATE_TEST_CASE("divergence: the sketch is orthonormal, the probes orthogonal to it", "[divergence]", float,
                   double) {
  using S = TestType;
  const Array<S> x = gaussian<S>(70, 7, 0), t = times<S>(70);
  constexpr S eps = 50 * std::numeric_limits<S>::epsilon();
  const auto dot = [](const Array<S>& noise, Index row, Index a, Index b) {
    S sum = 0;
    for (Index j = 0; j < 7; ++j) sum += noise(row, 7 * a + j) * noise(row, 7 * b + j);
    return sum;
  };
  const auto check = [&](const auto& field, Index rank) {
    const Array<S> noise = evaluate(field, HutchPlusPlusDivergence{13}, FieldTerms{}, t, x).noise;
    REQUIRE(noise.cols() == 7 * (4 + 5));
    for (Index n = 0; n < 70; ++n)
      for (Index a = 0; a < 4; ++a) {
        // A vector that adds nothing to the span is left out.
        CHECK(std::abs(dot(noise, n, a, a) - S(a < rank ? 1 : 0)) < eps);
        for (Index b = a + 1; b < 9; ++b) CHECK(std::abs(dot(noise, n, a, b)) < eps);
      }
    for (Index n = 0; n < 70; ++n)
      for (Index b = 4; b < 9; ++b) CHECK(dot(noise, n, b, b) > S(1e-3));
  };
  check(mlp<S>(7, {16, 16}, Activation::tanh), 4);
  check(mlp<S>(7, {2}, Activation::tanh), 2);
}

TEST_CASE("divergence: noise is a function of seed, row and weights", "[divergence]") {
  const Array<double> x = gaussian<double>(33, 3, 0), t = times<double>(33);
  const auto noise = [&](const auto& field, const Divergence& divergence, const Array<double>& at) {
    return evaluate(field, divergence, FieldTerms{}, Array<double>(times<double>(at.rows())), at).noise;
  };
  const auto field = mlp<double>(3, {5, 4}, Activation::tanh);
  auto moved = field;
  moved.network.layers[0].weight(0, 0) += 0.1;
  const Divergence kinds[][2] = {
      {HutchinsonDivergence{2}, HutchinsonDivergence{2, ProbeDistribution::rademacher, 1}},
      {HutchinsonDivergence{2, ProbeDistribution::gaussian}, HutchinsonDivergence{2, ProbeDistribution::gaussian, 1}},
      {HutchPlusPlusDivergence{6}, HutchPlusPlusDivergence{6, 1}}};
  for (const auto& [kind, other_seed] : kinds) {
    CAPTURE(kind.index());
    const Array<double> whole = noise(field, kind, x);
    CHECK(same_bits(whole, noise(field, kind, x)));
    for (const Index row : {0, 13, 32}) {
      CHECK(same_bits<double>(whole.row(row), noise(field, kind, x.row(row))));
      CHECK(same_bits<double>(whole.bottomRows(33 - row), noise(field, kind, x.bottomRows(33 - row))));
    }
    CHECK_FALSE(same_bits(whole, noise(field, other_seed, x)));
    CHECK_FALSE(same_bits<double>(whole.row(0), whole.row(1)));
    CHECK_FALSE(same_bits<double>(whole.leftCols(3), whole.middleCols(3, 3)));  // probes differ
    // Parameters that are recorded draw the same, and record nothing.
    Array<double> values = parameters(field), grads(values.rows(), 1), drawn(33, whole.cols());
    Tape<double> tape;
    const auto p = prepare_field(tape, lift(tape, field, values.data(), grads.data()), kind);
    const std::size_t records = tape.size();
    p.draw_noise(tape, 0.25, view(x), view(drawn));
    CHECK(tape.size() == records);
    CHECK(same_bits(whole, drawn));
  }
  const Array<double> signs = noise(field, kinds[0][0], x), normal = noise(field, kinds[1][0], x);
  CHECK((signs.abs() == 1).all());
  CHECK(std::abs(normal.mean()) < 0.3);
  CHECK(normal.square().mean() == Approx(1).epsilon(0.3));
}

TEMPLATE_TEST_CASE("divergence: a row's bits do not depend on the other rows", "[divergence]", float, double) {
  using S = TestType;
  const Array<S> x = gaussian<S>(65, 3, 0), t = times<S>(65);
  const Divergence kinds[] = {ExactDivergence{}, ExactDivergence{DivergenceMethod::tangents}, HutchinsonDivergence{2},
                              HutchPlusPlusDivergence{6}};
  for (const auto& kind : kinds)
    for_each_field<S>(3, Activation::elu, [&](const char* name, const auto& field) {
      CAPTURE(name, kind.index());
      for (const bool frobenius : {false, true}) {
        const FieldTerms terms{.kinetic = true, .frobenius = frobenius};
        const auto result = [&](const Array<S>& time, const Array<S>& at) {
          const auto r = evaluate(field, kind, terms, time, at);
          Array<S> all(at.rows(), 3 + 2 + (frobenius ? 1 : 0));
          if (frobenius)
            all << r.velocity, r.divergence, r.kinetic, r.frobenius;
          else
            all << r.velocity, r.divergence, r.kinetic;
          return all;
        };
        const Array<S> whole = result(t, x);
        for (const Index row : {0, 13, 64}) {
          CHECK(same_bits<S>(whole.row(row), result(t.row(row), x.row(row))));
          CHECK(same_bits<S>(whole.bottomRows(65 - row), result(t.bottomRows(65 - row), x.bottomRows(65 - row))));
        }
        CHECK(result(Array<S>(0, 1), Array<S>(0, 3)).rows() == 0);
      }
    });
}

TEST_CASE("divergence: a prepared field is mirrored on another tape", "[divergence]") {
  const Array<double> x = gaussian<double>(9, 2, 0), t = times<double>(9);
  for_each_field<double>(2, Activation::tanh, [&](const char* name, const auto& field) {
    CAPTURE(name);
    Array<double> values = parameters(field), grads(values.rows(), 1);
    Tape<double> first, second;
    const auto p = prepare_field(first, lift(first, field, values.data(), grads.data()), ExactDivergence{});
    auto mirror = p.template rebind<Var<double>>();
    std::vector<const Var<double>*> memory(leaf_count(p));
    for_each_leaf_pair(p, mirror, memory.data(), [&](LeafKind, const Var<double>& from, Var<double>& to) {
      to = second.copy(as_eigen(from.value()));
    });
    const Array<double> expected = to_array(p(first.copy(t), first.copy(x), {}).divergence);
    CHECK(same_bits(to_array(mirror(second.copy(t), second.copy(x), {}).divergence), expected));
    CHECK(second.size() == 0);
    CHECK(same_bits(to_array(mirror.velocity(second.copy(t), second.copy(x))), velocity(field, t, x)));
  });
}

TEST_CASE("divergence: a prepared field is made ready again", "[divergence]") {
  const Array<double> x = gaussian<double>(9, 2, 0), t = times<double>(9);
  const auto one = mlp<double>(2, {5, 4}, Activation::tanh);
  auto other = one;
  other.network.layers[1].weight += 0.5;
  Tape<double> tape;
  auto p = prepare_field(tape, one, HutchinsonDivergence{});
  for (const auto* field : {&one, &std::as_const(other), &one}) {
    prepare_field(tape, *field, ExactDivergence{}, {}, p);
    REQUIRE(p.closed.size() == 1);
    REQUIRE(p.noise_columns() == 0);
    CHECK(same_bits(to_array(p(tape.copy(t), tape.copy(x), {}).divergence),
                    evaluate(*field, ExactDivergence{}, FieldTerms{}, t, x).divergence));
    prepare_field(tape, *field, ExactDivergence{DivergenceMethod::tangents}, {}, p);
    CHECK(p.closed.empty());
  }
}

TEST_CASE("divergence: what is not wanted is not computed, what does not fit is refused", "[divergence]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const auto field = mlp<double>(2, {5, 4}, Activation::tanh);
  const Array<double> x_array = gaussian<double>(6, 2, 0);
  Tape<double> tape;
  const Var<double> t = tape.copy(times<double>(6)), x = tape.copy(x_array);
  const auto value = prepare_field(tape, field, HutchinsonDivergence{})(t, x, {}, {.divergence = false});
  CHECK(same_bits(to_array(value.velocity), to_array(field(t, x))));
  CHECK_FALSE(value.divergence);

  CHECK(message([&] { prepare_field(tape, field, HutchinsonDivergence{0}); }) ==
        "Hutchinson: probes is 0, expected at least 1");
  CHECK(message([&] { prepare_field(tape, field, HutchPlusPlusDivergence{2}); }) ==
        "Hutch++: probes is 2, expected at least 3");
  const ExactDivergence closed{DivergenceMethod::closed_form};
  const std::string none =
      "divergence: the closed form was asked for; it is known for dense fields with one or two hidden layers, with two "
      "only where the output is not gated";
  CHECK(message([&] { prepare_field(tape, mlp<double>(2, {}, Activation::tanh), closed); }) == none);
  CHECK(message([&] { prepare_field(tape, mlp<double>(2, {3, 3, 3}, Activation::tanh), closed); }) == none);
  CHECK(message([&] {
          prepare_field(tape, concat_squash<double>(2, {3, 3}, Activation::tanh, true), closed);
        }) == none);
  CHECK(message([&] { prepare_field(tape, function<double>(2), closed); }) == none);
  const std::string no_norm = "divergence: the closed form does not give the Frobenius norm";
  CHECK(message([&] { prepare_field(tape, field, closed, {.frobenius = true}); }) == no_norm);
  CHECK(message([&] { prepare_field(tape, field, closed)(t, x, {}, {.frobenius = true}); }) == no_norm);
  CHECK(message([&] { prepare_field(tape, field, closed, {.divergence = false})(t, x, {}); }) ==
        "divergence: the field was not prepared for it");

  const auto p = prepare_field(tape, field, HutchinsonDivergence{2});
  REQUIRE(p.noise_columns() == 4);
  CHECK(message([&] { p(t, x, {}); }) == "divergence: the noise is 0 x 0, expected 6 x 4");
  CHECK(message([&] { p(t, x, x); }) == "divergence: the noise is 6 x 2, expected 6 x 4");
  CHECK(message([&] { p(t, tape.copy(gaussian<double>(6, 3, 0)), tape.copy(gaussian<double>(6, 4, 0))); }) ==
        "MlpField: x has 3 columns, this field has dimension 2");
  Array<double> noise(6, 4), narrow(6, 3);
  CHECK(message([&] { p.draw_noise(tape, 0, view(std::as_const(noise)), view(noise)); }) ==
        "draw_noise: x has 4 columns, this field has dimension 2");
  CHECK(message([&] { p.draw_noise(tape, 0, view(x_array), view(narrow)); }) ==
        "draw_noise: the noise is 6 x 3, expected 6 x 4");
}
