// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/concat_squash_field.hpp>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/testing/conditional_flow_laws.hpp>
#include <diffeo/training/fit.hpp>
#include <limits>
#include <numbers>

#include "../layers/laws.hpp"
#include "fields.hpp"

using namespace diffeo;

namespace {

// A field that is a structure of its own with a network that takes the context: v = net(x, c) + t. Without `hears`
// there is no way to say the context.
template <class T, bool hears>
struct NetworkField {
  using Scalar = scalar_t<T>;
  Mlp<T> net;

  Index dim() const { return net.outputs(); }
  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("net", self.net);
  }
  template <class U>
  NetworkField<U, hears> rebind() const {
    return {net.template rebind<U>()};
  }
  template <Traced X>
  X operator()(const X& t, const X& x) const {
    return net(x) + t;
  }
  template <Traced X>
  X operator()(const X& t, const X& x, const Var<Scalar>& c) const
    requires hears
  {
    return net(x, c) + t;
  }
};
template <class T>
using NetworkOfContext = NetworkField<T, true>;
template <class T>
using DeafToContext = NetworkField<T, false>;

static_assert(TakesContextAsBias<MlpField<float>> && TakesContextAsBias<ConcatSquashField<Var<double>>>);
static_assert(TakesContext<NetworkOfContext<double>> && !TakesContextAsBias<NetworkOfContext<double>>);
static_assert(!TakesContext<DeafToContext<double>> && VectorField<DeafToContext<double>>);
static_assert(DenseField<MlpField<double>> && !DenseField<NetworkOfContext<double>>);

CnfSolver conditional_steps(ode::Method method, Index steps) {
  CnfSolver how;
  how.solver.method = method;
  how.solver.steps = steps;
  return how;
}

CnfSolver conditional_tolerance(ode::Method method, double tolerance) {
  CnfSolver how;
  how.solver.method = method;
  how.solver.relative_tolerance = how.solver.absolute_tolerance = tolerance;
  return how;
}

CnfOptions conditional_options(const CnfSolver& how) { return {.training = how, .evaluation = how}; }

// Equal steps in float, so that differences in double are those of the very map that float approximates.
template <Real S>
CnfOptions conditional_law_solver(S) {
  return conditional_options(sizeof(S) == 4 ? conditional_steps(ode::Method::dopri5, 12)
                                            : conditional_tolerance(ode::Method::dopri8, 1e-12));
}

template <Real S>
auto conditional_mlp(Index dim, std::vector<Index> hidden, Index context, std::uint64_t seed) {
  return randomised(make_mlp_field<S>(dim, {.hidden = std::move(hidden)}, 0, 0, context), seed);
}
template <Real S>
auto conditional_squash(Index dim, std::vector<Index> hidden, bool gate_output, Index context, std::uint64_t seed) {
  return randomised(
      make_concat_squash_field<S>(dim, {.hidden = std::move(hidden), .gate_output = gate_output}, 0, 0, context), seed);
}
template <Real S>
auto conditional_network(Index dim, Index context, std::uint64_t seed) {
  return randomised(NetworkOfContext<S>{make_mlp<S>(dim, dim, {.hidden = {7}}, 0, 0, context)}, seed);
}
// Every coordinate depends on itself, on time and on the context, two columns.
template <Real S>
auto conditional_function(Index dim) {
  return make_field<S>(
      dim,
      [](const auto& t, const auto& x, const auto& c) {
        return tanh(x * sin(cols(c, 0, 1))) * cos(t) + tanh(cols(c, 1, 1)) * (sin(x) * S(0.5));
      },
      2);
}

// Calls f(name, field) for fields of every kind in `dim` dimensions with a context of two columns.
template <Real S, class F>
void for_each_conditional_field(Index dim, const F& f) {
  f("perceptron, no hidden layer", conditional_mlp<S>(dim, {}, 2, 1));
  f("perceptron, one hidden layer", conditional_mlp<S>(dim, {9}, 2, 2));
  f("perceptron, two hidden layers", conditional_mlp<S>(dim, {7, 6}, 2, 3));
  f("perceptron, three hidden layers", conditional_mlp<S>(dim, {5, 6, 5}, 2, 4));
  f("gated, no hidden layer", conditional_squash<S>(dim, {}, false, 2, 5));
  f("gated, one hidden layer", conditional_squash<S>(dim, {8}, true, 2, 6));
  f("gated, two hidden layers", conditional_squash<S>(dim, {6, 7}, false, 2, 7));
  f("gated, two hidden layers and output", conditional_squash<S>(dim, {6, 7}, true, 2, 8));
  f("structure", conditional_network<S>(dim, 2, 9));
  f("function", conditional_function<S>(dim));
}

template <class F>
void require_conditional_cnf_laws(const std::string& name, const F& flow) {
  using S = typename F::Scalar;
  INFO(name);
  testing::FlowLawOptions<S> options;
  options.rows = 70;
  options.step = 1e-5;
  options.grid = 60;
  options.mass = 1e-3;
  const auto report = testing::check_conditional_flow_laws(flow, options_of_build(options));
  INFO(report);
  CHECK(report.laws.size() > 20);
  CHECK(report.ok());
}

// Contexts, some of which make the solves take more steps than the others.
template <Real S>
Array<S> uneven_contexts(Index rows, Index columns) {
  Array<S> c = gaussian<S>(rows, columns, 61);
  for (Index i = 2; i < rows; i += 9) c.row(i) *= S(4);
  return c;
}

// What is differentiated: all that a flow computes from x and c in training.
const auto conditional_outputs = [](const auto& model, auto in) {
  using S = typename std::remove_cvref_t<decltype(in[0])>::Scalar;
  Penalties<S> penalties;
  Pass<S> pass{.training = true, .seed = 3, .step = 4, .penalties = &penalties};
  pass.context = in[1];
  const auto back = model.inverse(in[0], pass);
  const auto there = model.forward(in[0], pass);
  auto all = concat(concat(back.value, back.log_det), concat(there.value, there.log_det));
  return penalties.sum() ? concat(all, penalties.sum()) : all;
};

// A bound of 1e-7 on the errors of derivatives relative to their terms, as central differences permit in double.
template <class Flow>
void require_conditional_gradients(const std::string& name, const Flow& flow, double allowed = 1e-7) {
  INFO(name);
  for (const Index rows_of_c : {Index{20}, Index{1}}) {
    const std::vector in{gaussian<double>(20, flow.dim(), 1), gaussian<double>(rows_of_c, flow.context_dim(), 2)};
    const auto check = testing::check_gradients(flow, conditional_outputs, in);
    INFO(check.where);
    CHECK(check.max_error < allowed);
  }
}

}  // namespace

// ---- fields ----

TEST_CASE("conditional fields: velocities are those of their formulas", "[continuous]") {
  const Array<double> x = gaussian<double>(3, 2, 0), t = fields::times<double>(3), c = gaussian<double>(3, 2, 1);
  Tape<double> tape;
  const auto velocity = [&](const auto& field) { return to_array(field(tape.copy(t), tape.copy(x), tape.copy(c))); };
  const auto mlp = conditional_mlp<double>(2, {4}, 2, 1);
  const auto squash = conditional_squash<double>(2, {4}, true, 2, 2);
  const Array<double> of_mlp = velocity(mlp), of_squash = velocity(squash);
  for (Index n = 0; n < 3; ++n)
    for (Index i = 0; i < 2; ++i) {
      const auto& net = mlp.network;
      double expected = net.layers[1].bias(i);
      for (Index h = 0; h < 4; ++h) {
        double in = net.layers[0].bias(h) + net.layers[0].weight(h, 2) * t(n);
        for (Index j = 0; j < 2; ++j) in += net.layers[0].weight(h, j) * x(n, j) + net.context_weight(h, j) * c(n, j);
        expected += net.layers[1].weight(i, h) * std::tanh(in);
      }
      CHECK(of_mlp(n, i) == Approx(expected).epsilon(1e-12));

      const auto sigmoid_of = [](double v) { return 1 / (1 + std::exp(-v)); };
      const auto& [first, last] = std::tie(squash.layers[0], squash.layers[1]);
      expected = last.dense.bias(i);
      for (Index h = 0; h < 4; ++h) {
        double in = first.dense.bias(h);
        for (Index j = 0; j < 2; ++j) in += first.dense.weight(h, j) * x(n, j) + squash.context_weight(h, j) * c(n, j);
        in = in * sigmoid_of(first.gate.weight(h) * t(n) + first.gate.bias(h)) + first.shift(h) * t(n);
        expected += last.dense.weight(i, h) * std::tanh(in);
      }
      expected = expected * sigmoid_of(last.gate.weight(i) * t(n) + last.gate.bias(i)) + last.shift(i) * t(n);
      CHECK(of_squash(n, i) == Approx(expected).epsilon(1e-12));
    }
}

TEST_CASE("conditional fields: gradients and tangents are central differences", "[continuous]") {
  for (const Index dim : {1, 3})
    for_each_conditional_field<double>(dim, [&](const char* name, const auto& field) {
      CAPTURE(name, dim);
      const auto f = [](const auto& model, auto in) { return model(in[0], in[1], innermost(in[2])); };
      const std::vector in{fields::times<double>(7), gaussian<double>(7, dim, 0), gaussian<double>(7, 2, 1)};
      CHECK(testing::check_gradients(field, f, in).max_error < 1e-8);
      // Tangents along t and x: the context is the same for all of them.
      Tape<double> elsewhere;
      const auto given_c = [&in](const auto& model, auto at) {
        return model(at[0], at[1], innermost(at[0]).tape().copy(in[2]));
      };
      const std::vector tx{in[0], in[1]};
      CHECK(testing::check_tangents(field, given_c, tx).max_error < 1e-8);
      CHECK(testing::check_tangent_gradients(field, given_c, tx).max_error < 1e-8);
    });
}

TEMPLATE_TEST_CASE("conditional fields: all ways to an exact divergence agree", "[continuous]", float, double) {
  using S = TestType;
  using DivergenceMethod = ExactDivergence::Method;
  const S eps = 200 * std::numeric_limits<S>::epsilon();
  for (const Index dim : {1, 3})
    for_each_conditional_field<S>(dim, [&]<class F>(const char* name, const F& field) {
      for (const Index rows_of_c : {Index{19}, Index{1}}) {
        CAPTURE(name, dim, rows_of_c);
        Tape<S> tape;
        const Var<S> t = tape.copy(fields::times<S>(19)), x = tape.copy(gaussian<S>(19, dim, 0)),
                     c = tape.copy(gaussian<S>(rows_of_c, 2, 1)), each = diffeo::detail::row_for_each(c, 19);
        // Along one direction after another by Dual.
        Array<S> trace = Array<S>::Zero(19, 1), norm = trace;
        for (Index k = 0; k < dim; ++k) {
          Array<S> direction = Array<S>::Zero(19, dim);
          direction.col(k).setOnes();
          const Array<S> column =
              to_array(field(Dual<Var<S>>{t, zeros(t, 1)}, Dual<Var<S>>{x, tape.copy(direction)}, each).tangent);
          trace += column.col(k);
          norm += column.square().rowwise().sum();
        }
        const auto near = [&](const Var<S>& got, const Array<S>& expected) {
          return (to_array(got) - expected).abs().maxCoeff() <= eps * (1 + expected.abs().maxCoeff());
        };
        const auto p = prepare_field(tape, field, ExactDivergence{}, {}, c);
        const FieldValue<S> value = p(t, x, {});
        CHECK(same_bits(to_array(value.velocity), to_array(field(t, x, c))));
        CHECK(same_bits(to_array(p.velocity(t, x)), to_array(field(t, x, c))));
        CHECK(near(value.divergence, trace));
        const FieldTerms with_norm{.frobenius = true};
        const auto tangents = prepare_field(tape, field, ExactDivergence{DivergenceMethod::tangents}, with_norm, c);
        const FieldValue<S> by_tangents = tangents(t, x, {}, with_norm);
        CHECK(near(by_tangents.divergence, trace));
        CHECK(near(by_tangents.frobenius, norm));
        // Hutch++ with three times as many probes as dimensions is exact.
        const auto exact = prepare_field(tape, field, HutchPlusPlusDivergence{.probes = 3 * dim}, {}, c);
        const Var<S> noise = tape.make(19, exact.noise_columns(), false);
        exact.draw_noise(tape, 0, x.value(), tape.mutable_value(noise));
        CHECK(near(exact(t, x, noise).divergence, trace));
        // Some of the rows, with theirs of the prepared context.
        if (rows_of_c == 1) continue;
        const View<const S> prepared = p.context.front().value();
        const auto last = [](View<const S> v) { return View<const S>{v.data + 11, 8, v.cols, v.stride}; };
        const FieldValue<S> part =
            p(tape.constant(last(t.value())), tape.constant(last(x.value())), {}, {}, tape.constant(last(prepared)));
        CHECK(same_bits<S>(to_array(part.velocity), to_array(value.velocity).bottomRows(8)));
        CHECK(same_bits<S>(to_array(part.divergence), to_array(value.divergence).bottomRows(8)));
      }
    });
}

TEST_CASE("conditional fields: gradients of divergences with given probes", "[continuous]") {
  const FieldTerms all{.kinetic = true, .frobenius = true};
  for (const Divergence& divergence :
       {Divergence(ExactDivergence{ExactDivergence::Method::tangents}), Divergence(HutchinsonDivergence{.probes = 2}),
        Divergence(HutchPlusPlusDivergence{.probes = 6})})
    for_each_conditional_field<double>(3, [&](const char* name, const auto& field) {
      for (const Index rows_of_c : {Index{7}, Index{1}}) {
        CAPTURE(name, divergence.index(), rows_of_c);
        const std::vector in{fields::times<double>(7), gaussian<double>(7, 3, 0), gaussian<double>(rows_of_c, 2, 1)};
        Array<double> probes;
        {
          Tape<double> tape;
          const auto p = prepare_field(tape, field, divergence, all, tape.copy(in[2]));
          probes = Array<double>(7, p.noise_columns());
          p.draw_noise(tape, 0, view(in[1]), view(probes));
        }
        const auto check = testing::check_gradients(
            field,
            [&](const auto& model, auto at) {
              Tape<double>& tape = at[0].tape();
              const auto p = prepare_field(tape, model, divergence, all, at[2]);
              const auto value = p(at[0], at[1], probes.cols() > 0 ? tape.copy(probes) : Var<double>(), all);
              return concat(concat(value.velocity, value.divergence), concat(value.kinetic, value.frobenius));
            },
            in);
        INFO(check.where);
        CHECK(check.max_error < 1e-7);
      }
    });
}

TEMPLATE_TEST_CASE("conditional fields: a context in one row has the bits of one in each", "[continuous]", float,
                   double) {
  using S = TestType;
  const Array<S> x = gaussian<S>(65, 3, 0), t = fields::times<S>(65), c = gaussian<S>(1, 2, 1);
  for_each_conditional_field<S>(3, [&](const char* name, const auto& field) {
    for (const Divergence& divergence : {Divergence(ExactDivergence{}), Divergence(HutchinsonDivergence{})}) {
      CAPTURE(name);
      Tape<S> tape;
      const auto result = [&](const Array<S>& time, const Array<S>& at, const Array<S>& context) {
        const auto p = prepare_field(tape, field, divergence, {}, tape.copy(context));
        const Var<S> points = tape.copy(at), noise = tape.make(at.rows(), p.noise_columns(), false);
        p.draw_noise(tape, 0, points.value(), tape.mutable_value(noise));
        const FieldValue<S> value = p(tape.copy(time), points, noise);
        return to_array(concat(value.velocity, value.divergence));
      };
      const Array<S> shared = result(t, x, c), each = result(t, x, c.replicate(65, 1));
      CHECK(same_bits(shared, each));
      for (const Index row : {0, 13, 64}) {
        CHECK(same_bits<S>(result(t.row(row), x.row(row), c), each.row(row)));
        CHECK(same_bits<S>(result(t.bottomRows(65 - row), x.bottomRows(65 - row), c.replicate(65 - row, 1)),
                           each.bottomRows(65 - row)));
      }
    }
  });
}

TEST_CASE("conditional fields: fresh ones", "[continuous]") {
  const auto mlp = make_mlp_field<double>(3, {.hidden = {8, 4}}, 7, 0, 2),
             plain = make_mlp_field<double>(3, {.hidden = {8, 4}}, 7);
  CHECK(mlp.context_dim() == 2);
  CHECK(plain.context_dim() == 0);
  CHECK(mlp.network.context_weight.rows() == 8);
  CHECK((mlp.network.context_weight != 0).all());
  for (std::size_t i = 0; i < 3; ++i) CHECK((mlp.network.layers[i].weight == plain.network.layers[i].weight).all());
  const auto squash = make_concat_squash_field<float>(2, {.hidden = {6}}, 7, 0, 3),
             other = make_concat_squash_field<float>(2, {.hidden = {6}}, 7);
  CHECK(squash.context_dim() == 3);
  CHECK(other.context_dim() == 0);
  CHECK(other.context_weight.size() == 0);
  CHECK(squash.context_weight.rows() == 6);
  CHECK((squash.context_weight != 0).all());
  for (std::size_t i = 0; i < 2; ++i) CHECK((squash.layers[i].dense.weight == other.layers[i].dense.weight).all());
  CHECK(context_dim(Cnf(mlp)) == 2);
  CHECK(context_dim(Cnf(plain)) == 0);
  CHECK(Cnf(conditional_network<double>(2, 5, 1)).context_dim() == 5);  // found in the parts of the field
}

// ---- flows ----

TEMPLATE_TEST_CASE("conditional continuous flows: laws of perceptrons", "[continuous]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const CnfOptions options = conditional_law_solver(S());
  require_conditional_cnf_laws("one hidden layer", Cnf(conditional_mlp<S>(2, {10}, 1, 1), options));
  require_conditional_cnf_laws("three hidden layers", Cnf(conditional_mlp<S>(2, {6, 6, 6}, 2, 2), options));
  require_conditional_cnf_laws("D = 1", Cnf(conditional_mlp<S>(1, {7, 7}, 2, 3), options));
}

TEMPLATE_TEST_CASE("conditional continuous flows: laws of gated fields", "[continuous]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const CnfOptions options = conditional_law_solver(S());
  for (const bool gate_output : {false, true})
    require_conditional_cnf_laws("gated", Cnf(conditional_squash<S>(2, {7, 6}, gate_output, 2, 4), options));
}

TEMPLATE_TEST_CASE("conditional continuous flows: laws of fields of your own", "[continuous]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const CnfOptions options = conditional_law_solver(S());
  require_conditional_cnf_laws("function", Cnf(conditional_function<S>(2), options));
  require_conditional_cnf_laws("structure", Cnf(conditional_network<S>(2, 1, 5), options));
}

TEMPLATE_TEST_CASE("conditional continuous flows: laws of the recipe", "[continuous]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  CnfFlowOptions options{.network = {.hidden = {8, 7}, .first_scale = 1}, .cnf = conditional_law_solver(S())};
  const Array<S> contexts = gaussian<S>(50, 2, 5) * S(2), data = gaussian<S>(50, 2, 6) * S(1.5) + S(1);
  const auto flow = diffeo::cnf(data, contexts, options);
  CHECK(flow.context_dim() == 2);
  require_conditional_cnf_laws("standardised contexts", flow);
  // An embedding of one column into the two that the field takes, and a flow that runs the other way.
  options.context_dim = 2;
  require_conditional_cnf_laws(
      "embedded",
      conditional(
          FlowSequence(randomised(make_coupling<S>(Mask::keep_even(2), {.hidden = {6}}, 0, 0, AffineTransform{}, 2), 8),
                       Invert{Cnf(conditional_mlp<S>(2, {6}, 2, 9), options.cnf)}),
          Array<S>(gaussian<S>(50, 1, 7)), make_mlp<S>(1, 2, {.hidden = {5}, .last_scale = 1}, 1)));
}

TEST_CASE("conditional continuous flows: laws with gradients by the adjoint equation", "[continuous]") {
  CnfOptions options = conditional_options(conditional_tolerance(ode::Method::dopri8, 1e-11));
  options.gradient.method = ode::Differentiation::adjoint;
  require_conditional_cnf_laws("perceptron", Cnf(conditional_mlp<double>(2, {7, 6}, 2, 9), options));
  require_conditional_cnf_laws("function", Cnf(conditional_function<double>(2), options));
}

// v = c1 - c2 x: x(1) = z exp(-c2) + c1 (1 - exp(-c2)) / c2, and the log-determinant is -c2 in each coordinate.
TEMPLATE_TEST_CASE("conditional continuous flows: a linear field has closed forms", "[continuous]", float, double) {
  using S = TestType;
  const Array<S> z = gaussian<S>(90, 2, 0), c = gaussian<S>(90, 2, 1) * S(0.5) + S(1);
  const double allowed = sizeof(S) == 4 ? 2e-5 : 1e-9;
  const auto field = make_field<S>(
      2, [](const auto&, const auto& x, const auto& k) { return cols(k, 0, 1) - cols(k, 1, 1) * x; }, 2);
  for (const ode::Differentiation how : {ode::Differentiation::discrete, ode::Differentiation::adjoint}) {
    CnfOptions options = conditional_options(conditional_tolerance(ode::Method::dopri8, sizeof(S) == 4 ? 1e-5 : 1e-11));
    options.gradient.method = how;
    const Cnf flow(field, options);
    Tape<S> tape;
    Pass<S> pass;
    pass.context = tape.variable(c);
    const auto x = flow.forward(tape.copy(z), pass);
    tape.backward(x.value, view(Array<S>(Array<S>::Ones(90, 2))));
    const Array<S> in_c = as_eigen(pass.context.grad());
    for (Index i = 0; i < 90; ++i) {
      const double a = double(c(i, 0)), b = double(c(i, 1)), e = std::exp(-b);
      const double slope = (b * e - (1 - e)) / (b * b);  // d/db (1 - exp(-b)) / b
      double of_b = 0;
      for (Index j = 0; j < 2; ++j) {
        const double start = double(z(i, j));
        CHECK(std::abs(double(as_eigen(x.value.value())(i, j)) - (start * e + a * (1 - e) / b)) < allowed);
        of_b += -start * e + a * slope;
      }
      CHECK(std::abs(double(as_eigen(x.log_det.value())(i, 0)) + 2 * b) < allowed);
      CHECK(std::abs(double(in_c(i, 0)) - 2 * (1 - e) / b) < 5 * allowed);
      CHECK(std::abs(double(in_c(i, 1)) - of_b) < 5 * allowed);
    }
  }
}

TEST_CASE("conditional continuous flows: gradients by every divergence, with penalties", "[continuous]") {
  // The basis of Hutch++ moves with the parameters unless it is complete.
  for (const Divergence& divergence : {Divergence(ExactDivergence{}), Divergence(HutchinsonDivergence{.probes = 2}),
                                       Divergence(HutchPlusPlusDivergence{.probes = 9})})
    for_each_conditional_field<double>(3, [&](const char* name, const auto& field) {
      CnfOptions options = conditional_options(conditional_steps(ode::Method::rk4, 3));
      options.training.divergence = divergence;
      options.kinetic = 0.3;
      options.frobenius = 0.2;
      require_conditional_gradients(concat_message(name, ", divergence ", divergence.index()), Cnf(field, options));
    });
}

TEST_CASE("conditional continuous flows: few states kept, and rows that end where they will", "[continuous]") {
  CnfOptions options = conditional_options(conditional_steps(ode::Method::bosh3, 9));
  options.gradient.memory_budget = 0;
  options.steer = 0.4;
  require_conditional_gradients("perceptron", Cnf(conditional_mlp<double>(2, {6, 5}, 3, 1), options));
  require_conditional_gradients("function", Cnf(conditional_function<double>(2), options));
}

TEMPLATE_TEST_CASE("conditional continuous flows: a row depends on its own x and c alone", "[continuous]", float,
                   double) {
  using S = TestType;
  const Index rows = 400;  // two tiles, each of several blocks
  const Array<S> x = gaussian<S>(rows, 2, 0), c = uneven_contexts<S>(rows, 3);
  const auto field = conditional_mlp<S>(2, {12, 12}, 3, 4);
  CnfOptions estimated;
  estimated.evaluation.divergence = HutchinsonDivergence{.probes = 2};
  for (const CnfOptions& options : {CnfOptions{}, estimated}) {
    const TransformedDistribution model(StandardNormal<S>(2), Cnf(field, options));
    const Array<S> log_p = model.log_prob(x, c), score = model.score(x, c), in_c = model.context_score(x, c);
    const Array<S> drawn = model.sample(c, 7);
    const auto steps = model.flow.solve_statistics(x, c);
    Index least = 1000, most = 0;
    for (const ode::SolveStatistics& s : steps) {
      least = std::min(least, s.accepted);
      most = std::max(most, s.accepted);
    }
    CHECK(most >= least + 3);  // so that blocks do change
    CHECK(same_bits(model.log_prob(x, c, 3), log_p));
    CHECK(same_bits(model.context_score(x, c, 2), in_c));
    CHECK(same_bits(model.sample(c, 7, 2), drawn));
    for (const Index i : {0, 2, 63, 64, 255, 256, 399}) {
      const Array<S> one = c.row(i);
      CHECK(same_bits<S>(model.log_prob(x.row(i), one), log_p.row(i)));
      CHECK(same_bits<S>(model.score(x.row(i), one), score.row(i)));
      CHECK(same_bits<S>(model.context_score(x.row(i), one), in_c.row(i)));
      CHECK(same_bits<S>(model.log_prob(x, one).row(i), log_p.row(i)));
      CHECK(same_bits<S>(model.score(x, one).row(i), score.row(i)));
      CHECK(same_bits<S>(model.sample(rows, one, 7).row(i), drawn.row(i)));
      CHECK(same_bits<S>(model.given(one).log_prob(x).row(i), log_p.row(i)));
      CHECK(model.flow.solve_statistics(x, one)[std::size_t(i)].evaluations == steps[std::size_t(i)].evaluations);
    }
    Array<S> mixed_x(rows, 2), mixed_c(rows, 3), expected(rows, 3);
    for (Index i = 0; i < rows; ++i) {
      mixed_x.row(i) = x.row(i * 37 % rows);
      mixed_c.row(i) = c.row(i * 37 % rows);
      expected.row(i) = in_c.row(i * 37 % rows);
    }
    CHECK(same_bits(model.context_score(mixed_x, mixed_c), expected));
    CHECK(same_bits<S>(model.context_score(x.middleRows(100, 65), c.middleRows(100, 65)), in_c.middleRows(100, 65)));
  }
  const TransformedDistribution model(StandardNormal<S>(2), Cnf(field));
  CHECK(model.log_prob(Array<S>(0, 2), Array<S>(0, 3)).rows() == 0);
  CHECK(model.context_score(Array<S>(0, 2), Array<S>(0, 3)).rows() == 0);
  CHECK(model.sample(Array<S>(0, 3), 1).rows() == 0);
  CHECK(model.flow.solve_statistics(Array<S>(0, 2), Array<S>(0, 3)).empty());
}

TEST_CASE("conditional continuous flows: the gradient of a shared context is the sum over its samples",
          "[continuous]") {
  const Array<double> x = gaussian<double>(90, 2, 0), c = gaussian<double>(1, 3, 1), ones = Array<double>::Ones(90, 1);
  for (const ode::Differentiation how : {ode::Differentiation::discrete, ode::Differentiation::adjoint}) {
    CnfOptions options = conditional_options(conditional_tolerance(ode::Method::dopri8, 1e-11));
    options.gradient.method = how;
    const TransformedDistribution model(StandardNormal<double>(2),
                                        Cnf(conditional_mlp<double>(2, {8, 8}, 3, 2), options));
    const Array<double> each = model.context_score(x, c);
    Tape<double> tape;
    Pass<double> pass;
    pass.context = tape.variable(c);
    tape.backward(model.log_prob(tape.copy(x), pass), view(ones));
    CHECK((as_eigen(pass.context.grad()) - each.colwise().sum()).abs().maxCoeff() < 1e-7 * each.abs().sum());
  }
}

TEMPLATE_TEST_CASE("conditional continuous flows: one that takes no context ignores it", "[continuous]", float,
                   double) {
  using S = TestType;
  const Cnf flow(fields::mlp<S>(2, {8, 8}, Activation::tanh));
  const Array<S> x = gaussian<S>(70, 2, 0);
  const auto result = [&](Index rows_of_c) {
    Tape<S> tape;
    Pass<S> pass;
    if (rows_of_c > 0) pass.context = tape.copy(gaussian<S>(rows_of_c, 3, 1));
    const auto z = flow.inverse(tape.copy(x), pass);
    return to_array(concat(z.value, z.log_det));
  };
  CHECK(same_bits(result(70), result(0)));
  CHECK(same_bits(result(1), result(0)));
  // A context whose weights are 0 changes nothing either.
  auto with_zeros = make_mlp_field<S>(2, {.hidden = {8, 8}}, 0, 0, 3);
  with_zeros.network.layers = flow.field.network.layers;
  with_zeros.network.context_weight.setZero();
  Tape<S> tape;
  Pass<S> pass;
  pass.context = tape.copy(gaussian<S>(70, 3, 1));
  const auto z = Cnf(with_zeros).inverse(tape.copy(x), pass);
  CHECK(same_bits(to_array(concat(z.value, z.log_det)), result(0)));
}

TEST_CASE("conditional continuous flows: of several shapes on one tape", "[continuous]") {
  // Objects that the tape keeps must not carry a context from one solve to the next.
  const Cnf flow(conditional_mlp<double>(2, {6, 5}, 2, 1)), other(conditional_mlp<double>(2, {6, 5}, 0, 1));
  const Array<double> x = gaussian<double>(70, 2, 0), c = gaussian<double>(70, 2, 1);
  const auto solved = [&](Tape<double>& tape, const auto& by, const Array<double>& context) {
    Pass<double> pass;
    if (context.rows() > 0) pass.context = tape.copy(context);
    const auto z = by.inverse(tape.copy(x), pass);
    return to_array(concat(z.value, z.log_det));
  };
  const auto fresh = [&](const auto& by, const Array<double>& context) {
    Tape<double> tape;
    return solved(tape, by, context);
  };
  Tape<double> tape;
  for (int round = 0; round < 2; ++round) {
    CHECK(same_bits(solved(tape, flow, c), fresh(flow, c)));
    CHECK(same_bits(solved(tape, other, {}), fresh(other, {})));
    CHECK(same_bits(solved(tape, flow, c.row(3)), fresh(flow, c.row(3))));
    CHECK(same_bits(solved(tape, other, c), fresh(other, {})));
    tape.reset();
  }
}

TEST_CASE("conditional continuous flows: what does not fit is refused", "[continuous]") {
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  const TransformedDistribution model(StandardNormal<float>(2), Cnf(conditional_mlp<float>(2, {4}, 3, 1)));
  const TransformedDistribution plain(StandardNormal<float>(2), Cnf(make_mlp_field<float>(2, {.hidden = {4}})));
  const Array<float> x = gaussian<float>(6, 2, 0), c = gaussian<float>(6, 3, 1);
  Array<float> holed = c;
  holed(4, 1) = std::nanf("");
  const std::string none = ": this flow takes a context of 3 columns, got none: call ";
  CHECK(message([&] { model.log_prob(x); }) == "log_prob" + none + "log_prob(x, c) or given(c)");
  CHECK(contains(message([&] { model.score(x); }), "score" + none));
  CHECK(contains(message([&] { model.sample(4, 1); }), "sample" + none));
  CHECK(contains(message([&] { model.sample_and_log_prob(4, 1); }), "sample_and_log_prob" + none));
  CHECK(message([&] { model.flow.solve_statistics(x); }) == "solve_statistics" + none + "solve_statistics(x, c)");
  CHECK(contains(message([&] { forward(model.flow, x); }), "forward" + none));
  CHECK(message([&] { plain.log_prob(x, c); }) == "log_prob: got a context, but this flow takes none");
  CHECK(message([&] { plain.flow.solve_statistics(x, c); }) ==
        "solve_statistics: got a context, but this flow takes none");
  CHECK(message([&] { plain.given(c.row(0)); }) == "given: this flow takes no context");
  CHECK(message([&] { model.log_prob(x, c.leftCols(2)); }) ==
        "log_prob: the context has 2 columns, this flow takes one of 3");
  CHECK(message([&] { model.flow.solve_statistics(x, c.leftCols(2)); }) ==
        "solve_statistics: the context has 2 columns, this flow takes one of 3");
  CHECK(message([&] { model.score(x, c.topRows(5)); }) == "score: the context has 5 rows, expected 6 or 1");
  CHECK(message([&] { model.flow.solve_statistics(x, c.topRows(5)); }) ==
        "solve_statistics: the context has 5 rows, expected 6 or 1");
  CHECK(message([&] { model.sample(7, c, 1); }) == "sample: the context has 6 rows, expected 7 or 1");
  CHECK(contains(message([&] { model.log_prob(x, holed); }), "log_prob: the context"));
  CHECK(contains(message([&] { model.log_prob(x, holed); }), "row 4, column 1"));
  CHECK(contains(message([&] { model.flow.solve_statistics(x, holed); }), "row 4, column 1"));

  // On a tape.
  Tape<float> tape;
  const auto on_tape = [&](const Var<float>& context) {
    Pass<float> pass;
    pass.context = context;
    return message([&] { model.flow.inverse(tape.copy(x), pass); });
  };
  CHECK(on_tape({}) == "cnf: expected a context of 3 columns, got none");
  CHECK(on_tape(tape.copy(c.leftCols(2))) == "cnf: the context has 2 columns, expected 3");
  CHECK(on_tape(tape.copy(c.topRows(4))) == "cnf: the context has 4 rows, expected 6 or 1");
  Pass<float> bad;
  bad.context = tape.copy(holed);
  CHECK(contains(thrown_message<integration_error>([&] { model.flow.inverse(tape.copy(x), bad); }), "row 4"));

  // Fields.
  const Var<float> t = tape.copy(fields::times<float>(6)), points = tape.copy(x);
  const auto mlp = conditional_mlp<float>(2, {4}, 3, 1);
  const auto squash = conditional_squash<float>(2, {4}, false, 3, 1);
  CHECK(message([&] { mlp(t, points); }) == "perceptron: expected a context of 3 columns, got none");
  CHECK(message([&] { squash(t, points); }) == "ConcatSquashField: expected a context of 3 columns, got none");
  CHECK(message([&] { mlp.linearised(t, points); }) == "MlpField: expected a context of 3 columns, got none");
  CHECK(message([&] { mlp.with_jacobian(t, points); }) == "MlpField: expected a context of 3 columns, got none");
  CHECK(message([&] { squash.linearised(t, points); }) ==
        "ConcatSquashField: expected a context of 3 columns, got none");
  CHECK(message([&] { squash.with_jacobian(t, points); }) ==
        "ConcatSquashField: expected a context of 3 columns, got none");
  CHECK(message([&] { squash(t, points, tape.copy(c.topRows(2))); }) ==
        "ConcatSquashField: the context has 2 rows, expected 6 or 1");
  CHECK(message([&] { prepare_field(tape, mlp, ExactDivergence{}); }) ==
        "field: expected a context of 3 columns, got none");
  CHECK(contains(
      message([&] { prepare_field(tape, mlp, ExactDivergence{}, {}, tape.copy(c.topRows(5)))(t, points, {}); }),
      "the bias"));
  auto broken = squash;
  broken.context_weight = Array<float>::Zero(5, 3);
  CHECK(message([&] { broken.check(); }) ==
        "ConcatSquashField: the weights of the context have 5 rows, the first layer 4 outputs");
  CHECK(message([&] { make_mlp_field<float>(2, {}, 0, 0, -1); }) == "make_mlp: context_dim is -1, expected at least 0");
  CHECK(message([&] { make_concat_squash_field<float>(2, {}, 0, 0, -1); }) ==
        "make_concat_squash_field: context_dim is -1, expected at least 0");
  const Cnf deaf(DeafToContext<float>{make_mlp<float>(2, 2, {.hidden = {4}}, 0, 0, 3)});
  Pass<float> pass;
  pass.context = tape.copy(c);
  CHECK(message([&] { deaf.inverse(points, pass); }) ==
        "field: its parts take a context, but it has no operator()(t, x, c)");

  // Functions.
  const auto of_c = [](const auto& time, const auto& at, const auto& k) { return at * time + cols(k, 0, 1); };
  CHECK(message([&] { make_field<float>(2, of_c); }) ==
        "make_field: context_dim is 0, expected at least 1 for a function of c");
  CHECK(message([&] {
          make_field<float>(
              2, [](const auto&, const auto& at) { return at; }, 2);
        }) == "make_field: context_dim is 2, but the function takes no context");
  CHECK(message([&] {
          make_field<float>(
              2, [](const auto&, const auto& at) { return at; }, -1);
        }) == "make_field: context_dim is -1, expected at least 0");
  CHECK(message([&] { make_field<float>(2, of_c, 3)(t, points); }) ==
        "FieldFunction: expected a context of 3 columns, got none");
  CHECK(message([&] { make_field<float>(2, of_c, 3)(t, points, tape.copy(c.topRows(2))); }) ==
        "FieldFunction: the context has 2 rows, expected 6 or 1");

  // Recipes.
  CHECK(message([&] { diffeo::cnf(x, c.topRows(5)); }) == "cnf: the context has 5 rows, the data 6");
  CHECK(message([&] { diffeo::cnf(x, c, {.context_dim = 2}); }) == "cnf: context_dim is 2, the context has 3 columns");
  CHECK(contains(message([&] { diffeo::cnf(x, Array<float>(Array<float>::Ones(6, 1))); }), "context: column 0"));
}

// ---- training ----

// x = m(c) + s(c) e with m = (sin 2 c, c), s = (0.3, 0.3 + 0.2 c^2), e standard normal.
TEMPLATE_TEST_CASE("conditional continuous flows: learn a normal distribution that depends on the context",
                   "[continuous][training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Index rows = 2000;
  Array<S> c(rows, 1);
  fill_uniform(view(c), 8, 1);
  c = c * S(3) - S(1.5);
  const auto mean = [](const Array<S>& at) {
    Array<S> m(at.rows(), 2);
    m << (at * S(2)).sin(), at;
    return m;
  };
  const auto spread = [](const Array<S>& at) {
    Array<S> s(at.rows(), 2);
    s << Array<S>::Constant(at.rows(), 1, S(0.3)), at.square() * S(0.2) + S(0.3);
    return s;
  };
  const Array<S> e = gaussian<S>(rows, 2, 2), x = mean(c) + spread(c) * e;
  TransformedDistribution model(StandardNormal<S>(2),
                                diffeo::cnf(x, c, {.network = {.hidden = {24, 24}, .first_scale = 2}}));
  fit(model, x, c, {.steps = 400, .batch = 256, .threads = 2});
  // New data: the mean of log p(x | c) beside that of the distribution itself.
  Array<S> at(1000, 1);
  fill_uniform(view(at), 9, 1);
  at = at * S(3) - S(1.5);
  const Array<S> noise = gaussian<S>(1000, 2, 3), test = mean(at) + spread(at) * noise;
  const Array<S> exact = (-noise.square() / 2 - spread(at).log()).rowwise().sum() - S(std::log(2 * std::numbers::pi));
  const double gap = double((exact - model.log_prob(test, at)).mean());
  CHECK(gap < 0.05);
  CHECK(gap > -0.02);
  // Samples for one context.
  for (const S one : {S(-1), S(0.5)}) {
    const Array<S> row = Array<S>::Constant(1, 1, one), drawn = model.sample(4000, row, 3);
    const Array<S> of_drawn = drawn.colwise().mean(), difference = drawn.rowwise() - of_drawn.row(0);
    const Array<S> deviation = difference.square().colwise().mean().sqrt();
    CHECK((of_drawn - mean(row)).abs().maxCoeff() < S(0.08));
    CHECK((deviation - spread(row)).abs().maxCoeff() < S(0.08));
  }
}
