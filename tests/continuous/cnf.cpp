// SPDX-License-Identifier: MIT
#include <Eigen/LU>  // inverses of small matrices
#include <cmath>
#include <cstring>
#include <diffeo/continuous/cnf.hpp>
#include <diffeo/continuous/concat_squash_field.hpp>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/targets/banana.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/training/reverse_kl.hpp>
#include <limits>
#include <string>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "../ode/matrix_exponential.hpp"

using diffeo::Activation;
using diffeo::Array;
using diffeo::Cnf;
using diffeo::CnfOptions;
using diffeo::CnfSolver;
using diffeo::ExactDivergence;
using diffeo::HutchinsonDivergence;
using diffeo::HutchPlusPlusDivergence;
using diffeo::Index;
using diffeo::integration_error;
using diffeo::invalid_argument;
using diffeo::MlpField;
using diffeo::Real;
using diffeo::StandardNormal;
using diffeo::Tape;
using diffeo::Transformed;
using diffeo::TransformedDistribution;
using diffeo::Var;
using diffeo::ode::Differentiation;
using diffeo::ode::Method;
using diffeo::ode::SolveStatistics;
using Matrix = Eigen::MatrixXd;

namespace {

// v = A x.
template <class T>
struct LinearField {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::param_t<T> a;

  Index dim() const { return a.rows(); }
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.a);
  }
  template <class U>
  LinearField<U> rebind() const {
    return {};
  }
  template <diffeo::Traced X>
  X operator()(const X&, const X& x) const {
    return linear(x, a);
  }
};

template <Real S>
Array<S> normal(Index rows, Index cols, std::uint64_t seed) {
  Array<S> x(rows, cols);
  fill_normal(diffeo::view(x), seed, 8);
  return x;
}

template <Real S>
LinearField<S> linear_field(const Matrix& a) {
  return {a.cast<S>().array()};
}

Matrix some_matrix(Index n) { return (normal<double>(n, n, 31) * 0.5).matrix(); }

CnfSolver solved_by(Method method, double tolerance) {
  CnfSolver how;
  how.solver.method = method;
  how.solver.relative_tolerance = how.solver.absolute_tolerance = tolerance;
  return how;
}

CnfSolver equal_steps(Method method, Index steps) {
  CnfSolver how;
  how.solver.method = method;
  how.solver.steps = steps;
  return how;
}

CnfOptions both(const CnfSolver& how) {
  CnfOptions options;
  options.training = options.evaluation = how;
  return options;
}

// Two hidden layers of 12, with parameters of order 1 all of them.
template <Real S>
MlpField<S> random_field(Index dim, std::uint64_t seed = 1, double size = 0.5) {
  MlpField<S> field = diffeo::make_mlp_field<S>(dim, {.hidden = {12, 12}});
  diffeo::set_parameters(field, Array<S>(normal<S>(diffeo::parameter_count(field), 1, seed) * static_cast<S>(size)));
  return field;
}

template <Real S>
Array<S> gradient_of(Var<S> x) {
  if (!x.has_grad()) return Array<S>::Zero(x.rows(), x.cols());
  return diffeo::as_eigen(x.grad());
}

double largest(const Array<double>& x) { return x.abs().maxCoeff(); }

// What training sees: the flow with gradients recorded, and those of
// sum(weights log_det) + sum(weights |value|^2) + sum(penalty).
template <Real S>
struct Trained {
  Array<S> value, log_det, penalty, of_parameters, of_input;
  double objective = 0;
};

struct Seen {
  bool forwards = false;
  bool input = true;
  int sweeps = 1;
};

template <Real S, class Flow>
Trained<S> trained(const Flow& flow, const Array<S>& x, Seen seen = {}) {
  Tape<S> tape;
  Array<S> values = diffeo::parameters(flow), grads = Array<S>::Zero(values.rows(), 1);
  const auto lifted = diffeo::lift(tape, flow, values.data(), grads.data());
  const Var<S> in = seen.input ? tape.variable(x) : tape.copy(x);
  diffeo::Penalties<S> penalties;
  const diffeo::Pass<S> pass{.training = true, .penalties = &penalties};
  const Transformed<Var<S>> y = seen.forwards ? lifted.forward(in, pass) : lifted.inverse(in, pass);
  const Var<S> penalty = penalties.sum(), weights = tape.copy(normal<S>(x.rows(), 1, 77) + S(0.5));
  Var<S> loss = y.log_det * weights + sum_cols(square(y.value)) * weights;
  if (penalty) loss = loss + penalty;
  const Array<S> ones = Array<S>::Ones(x.rows(), 1);
  for (int k = 0; k < seen.sweeps; ++k) tape.backward(loss, diffeo::view(ones));
  return {to_array(y.value),
          to_array(y.log_det),
          penalty ? to_array(penalty) : Array<S>(),
          grads,
          gradient_of(in),
          static_cast<double>(to_array(loss).sum())};
}

// The derivative of the objective of trained() by everything, along one direction, by differences of order 4.
template <class Flow>
double difference(const Flow& flow, const Array<double>& x, const Array<double>& of_parameters,
                  const Array<double>& of_input, Seen seen = {}, double h = 3e-4) {
  const Array<double> at = diffeo::parameters(flow);
  const auto value = [&](double by) {
    Flow moved = flow;
    diffeo::set_parameters(moved, Array<double>(at + by * of_parameters));
    return trained<double>(moved, Array<double>(x + by * of_input), seen).objective;
  };
  return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h);
}

// The worst error of the gradients by parameters and by input, relative to the derivative; differences are of the flow
// `reference`.
template <class Flow>
double gradient_error(const Flow& flow, const Array<double>& x, const Flow& reference, Seen seen = {}) {
  const Trained<double> found = trained<double>(flow, x, seen);
  const Array<double> p = normal<double>(found.of_parameters.rows(), 1, 41), d = normal<double>(x.rows(), x.cols(), 42);
  double worst = 0;
  for (const bool of_input : {false, true}) {
    const double expected =
        of_input ? difference(reference, x, 0 * p, d, seen) : difference(reference, x, p, 0 * d, seen);
    const double automatic = of_input ? (found.of_input * d).sum() : (found.of_parameters * p).sum();
    INFO((of_input ? "input: " : "parameters: ") << automatic << ", expected " << expected);
    CHECK(std::abs(expected) > 0.1);
    worst = std::max(worst, std::abs(automatic - expected) / std::abs(expected));
  }
  return worst;
}

// Points of which some are far out, where a random field takes more steps.
template <Real S>
Array<S> uneven_points(Index rows, Index dim) {
  Array<S> x = normal<S>(rows, dim, 51);
  for (Index i = 3; i < rows; i += 11) x.row(i) *= S(6);
  return x;
}

}  // namespace

// ---- what is computed ----

TEMPLATE_TEST_CASE("continuous flows: a linear field's map is a matrix exponential", "[continuous]", float, double) {
  using S = TestType;
  const double tolerance = sizeof(S) == 4 ? 1e-5 : 1e-10, allowed = 30 * tolerance;
  for (const Index n : {1, 2, 5}) {
    const Matrix a = some_matrix(n);
    const Array<double> z = normal<double>(70, n, 5);
    for (const Method method : {Method::bosh3, Method::dopri5, Method::tsit5, Method::dopri8}) {
      if (method == Method::bosh3 && sizeof(S) == 8) continue;  // too many steps for that tolerance
      CAPTURE(n, int(method));
      const Cnf flow(linear_field<S>(a), both(solved_by(method, tolerance)));
      const auto check = [&](const auto& y, double time) {
        const Array<double> expected = (z.matrix() * matrix_exponential(a * time).transpose()).array();
        CHECK(largest((y.value.template cast<double>() - expected) / (1 + expected.abs())) < allowed);
        CHECK(largest(y.log_det.template cast<double>() - a.trace() * time) < allowed * (1 + std::abs(a.trace())));
      };
      check(diffeo::forward(flow, z), 1);
      check(diffeo::inverse(flow, z), -1);
      Tape<S> tape;
      for (const auto& [from, to] : {std::pair(0.2, 0.7), std::pair(1.0, 0.9), std::pair(0.5, 0.5)}) {
        const auto y = flow.transport(tape.copy(z.template cast<S>()), from, to);
        check(Transformed<Array<S>>{to_array(y.value), to_array(y.log_det)}, to - from);
      }
    }
  }
}

TEST_CASE("continuous flows: a rotation keeps volume, and time is that of the field", "[continuous]") {
  Matrix a(2, 2);
  a << 0, -3, 3, 0;
  const Array<double> z = normal<double>(50, 2, 5);
  const auto turned = diffeo::forward(Cnf(linear_field<double>(a), both(solved_by(Method::dopri8, 1e-11))), z);
  Matrix turn(2, 2);
  turn << std::cos(3), -std::sin(3), std::sin(3), std::cos(3);
  CHECK(largest(turned.value - (z.matrix() * turn.transpose()).array()) < 1e-9);
  CHECK(largest(turned.log_det) < 1e-12);
  // x' = 2 t x from t = 0.5 to 1: x exp(1 - 0.25).
  const auto field = diffeo::make_field<double>(2, [](const auto& t, const auto& x) { return x * t * 2.0; });
  const Cnf flow(field, both(solved_by(Method::dopri8, 1e-11)));
  Tape<double> tape;
  const auto y = flow.transport(tape.copy(z), 0.5, 1);
  CHECK(largest(to_array(y.value) - z * std::exp(0.75)) < 1e-9);
  CHECK(largest(to_array(y.log_det) - 1.5) < 1e-9);
}

TEST_CASE("continuous flows: densities integrate to 1", "[continuous][long]") {
  for (const Index dim : {1, 2}) {
    const TransformedDistribution model(StandardNormal<double>(dim),
                                        Cnf(random_field<double>(dim, 3), both(solved_by(Method::dopri5, 1e-8))));
    const Array<double> sample = model.sample(4000, 1);
    const Index n = dim == 1 ? 400 : 130;
    Array<double> x(dim == 1 ? n : n * n, dim);
    double cell = 1;
    for (Index j = 0; j < dim; ++j) {
      const double low = sample.col(j).minCoeff() - 2.5, width = (sample.col(j).maxCoeff() + 2.5 - low) / double(n);
      cell *= width;
      for (Index i = 0; i < x.rows(); ++i) x(i, j) = low + width * (double(j == 0 ? i % n : i / n) + 0.5);
    }
    CAPTURE(dim);
    // Sums over a grid of a smooth function that ends within it have an error that falls off faster than any power.
    CHECK(std::abs(cell * model.log_prob(x).exp().sum() - 1) < 1e-5);
  }
}

TEST_CASE("continuous flows: there and back within ten tolerances", "[continuous][long]") {
  const Array<double> z = normal<double>(200, 2, 6);
  for (const std::uint64_t seed : {1u, 2u, 3u})
    for (const Method method : {Method::bosh3, Method::dopri5, Method::tsit5, Method::dopri8})
      for (const double tolerance : {1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10}) {
        if (method == Method::bosh3 && tolerance < 1e-7) continue;  // thousands of steps
        CAPTURE(seed, int(method), tolerance);
        const Cnf flow(random_field<double>(2, seed, 0.4), both(solved_by(method, tolerance)));
        const auto x = diffeo::forward(flow, z), back = diffeo::inverse(flow, x.value);
        CHECK(largest((back.value - z) / (1 + z.abs())) < 10 * tolerance);
        CHECK(largest((back.log_det + x.log_det) / (1 + x.log_det.abs())) < 10 * tolerance);
      }
}

// ---- rows ----

TEMPLATE_TEST_CASE("continuous flows: a row has the same bits in any batch", "[continuous]", float, double) {
  using S = TestType;
  const Index rows = 700;  // several tiles, each of several blocks
  const Array<S> x = uneven_points<S>(rows, 2);
  CnfOptions estimated;
  estimated.evaluation.divergence = HutchinsonDivergence{.probes = 2};
  for (const CnfOptions& options : {CnfOptions{}, estimated}) {
    const TransformedDistribution model(StandardNormal<S>(2), Cnf(random_field<S>(2, 4), options));
    const Array<S> all = model.log_prob(x, 1), score = model.score(x, 1);
    const auto steps = model.flow.solve_statistics(x);
    Index least = 1000, most = 0;
    for (const SolveStatistics& s : steps) {
      least = std::min(least, s.accepted);
      most = std::max(most, s.accepted);
    }
    CHECK(most >= least + 3);  // so that blocks do change
    for (const int threads : {2, 3}) {
      CHECK(same_bits(model.log_prob(x, threads), all));
      CHECK(same_bits(model.score(x, threads), score));
    }
    for (const Index row : {0, 3, 63, 64, 255, 256, 699}) {
      CHECK(same_bits<S>(model.log_prob(x.row(row)), all.row(row)));
      CHECK(same_bits<S>(model.score(x.row(row)), score.row(row)));
    }
    for (const Index first : {1, 100, 380})
      for (const Index count : {2, 65, 300})
        CHECK(same_bits<S>(model.log_prob(x.middleRows(first, count)), all.middleRows(first, count)));
    Array<S> mixed(rows, 2), expected(rows, 1);
    for (Index i = 0; i < rows; ++i) {
      mixed.row(i) = x.row(i * 37 % rows);
      expected.row(i) = all.row(i * 37 % rows);
    }
    CHECK(same_bits(model.log_prob(mixed), expected));
    CHECK(same_bits(model.sample(rows, 9, 2), model.sample(rows, 9, 1)));
    CHECK(same_bits<S>(model.sample(rows, 9).topRows(33), model.sample(33, 9)));
  }
}

TEMPLATE_TEST_CASE("continuous flows: no row, one row, and huge values", "[continuous]", float, double) {
  using S = TestType;
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint}) {
    CnfOptions options;
    options.gradient.method = how;
    options.kinetic = options.frobenius = 0.1;
    options.steer = 0.5;
    const Cnf flow(random_field<S>(3), options);
    const TransformedDistribution model(StandardNormal<S>(3), flow);
    for (const Index rows : {Index{0}, Index{1}}) {
      const Array<S> x = normal<S>(rows, 3, 1);
      CHECK(model.log_prob(x).rows() == rows);
      CHECK(model.score(x).rows() == rows);
      CHECK(model.sample(rows, 1).rows() == rows);
      CHECK(Index(flow.solve_statistics(x).size()) == rows);
      const Trained<S> found = trained<S>(flow, x);
      CHECK(found.penalty.rows() == rows);
      CHECK(found.of_parameters.isFinite().all());
      CHECK((found.of_parameters != 0).any() == (rows == 1));
    }
    // Where tanh is flat the velocity is constant.
    const Array<S> far = Array<S>::Constant(2, 3, S(1e20));
    const auto z = diffeo::inverse(flow, far);
    CHECK((z.value == far).all());
    CHECK((z.log_det == 0).all());
    CHECK((model.log_prob(far) < S(-1e30)).all());
    CHECK(trained<S>(flow, far).of_parameters.isFinite().all());
  }
}

TEMPLATE_TEST_CASE("continuous flows: samples without log-determinants", "[continuous]", float, double) {
  using S = TestType;
  const double tolerance = sizeof(S) == 4 ? 1e-5 : 1e-9;
  CnfOptions options = both(solved_by(Method::dopri5, tolerance));
  options.evaluation.divergence = HutchinsonDivergence{};  // whose noise samples have no use for
  const TransformedDistribution model(StandardNormal<S>(2), Cnf(random_field<S>(2), options));
  const Array<S> x = model.sample(500, 3);
  const auto with = model.sample_and_log_prob(500, 3);
  CHECK(largest((x - with.sample).template cast<double>()) < 100 * tolerance);
  // A linear field's, by the matrix exponential.
  const Matrix a = some_matrix(3);
  const TransformedDistribution linear(StandardNormal<S>(3), Cnf(linear_field<S>(a), options));
  Array<S> latent(200, 3);
  linear.base.sample_into(diffeo::view(latent), 1, decltype(linear)::latent_stream, 0);
  const Array<double> z = latent.template cast<double>();
  CHECK(largest(linear.sample(200, 1).template cast<double>() -
                (z.matrix() * matrix_exponential(a).transpose()).array()) < 100 * tolerance);
  // Its gradient, and evaluations: the divergence is not computed.
  Tape<S> tape;
  const Var<S> in = tape.variable(x);
  const Var<S> out = model.flow.generate(in);
  const auto made = diffeo::ode::statistics(tape);
  CHECK(made.size() == 500);
  const Array<S> ones = Array<S>::Ones(500, 2);
  tape.backward(out, diffeo::view(ones));
  const Array<S> found = gradient_of(in);
  tape.reset();
  const Var<S> again = tape.variable(x);
  tape.backward(model.flow.forward(again).value, diffeo::view(ones));
  CHECK(largest((found - gradient_of(again)).template cast<double>()) < 1000 * tolerance);
}

TEST_CASE("continuous flows: of several shapes on one tape", "[continuous]") {
  const auto field = [](std::vector<Index> hidden, std::uint64_t seed) {
    MlpField<double> f = diffeo::make_mlp_field<double>(2, {.hidden = std::move(hidden)});
    diffeo::set_parameters(f, Array<double>(normal<double>(diffeo::parameter_count(f), 1, seed) * 0.5));
    return f;
  };
  // One type, in closed form, by tangents, by probes; with penalties and without.
  CnfOptions closed, tangents, probes, penalised;
  tangents.training.divergence = tangents.evaluation.divergence = ExactDivergence{ExactDivergence::Method::tangents};
  probes.training.divergence = probes.evaluation.divergence = HutchinsonDivergence{};
  penalised.kinetic = penalised.frobenius = 0.1;
  const std::vector<Cnf<MlpField<double>>> flows{Cnf(field({8}, 1), closed),       Cnf(field({6, 6, 6}, 2), tangents),
                                                 Cnf(field({7, 5}, 3), closed),    Cnf(field({6, 6, 6}, 4), probes),
                                                 Cnf(field({9, 9}, 5), penalised), Cnf(field({4}, 6), closed)};
  const Array<double> x = normal<double>(90, 2, 1), ones = Array<double>::Ones(90, 1);
  struct Alone {
    Array<double> values, grads, of_x, log_det, penalty;
  };
  const auto run = [&](Tape<double>& tape, std::size_t i) {
    Alone alone{diffeo::parameters(flows[i]), {}, {}, {}, {}};
    alone.grads = Array<double>::Zero(alone.values.rows(), 1);
    const auto lifted = diffeo::lift(tape, flows[i], alone.values.data(), alone.grads.data());
    const Var<double> in = tape.variable(x);
    diffeo::Penalties<double> penalties;
    const auto y = lifted.inverse(in, {.training = true, .penalties = &penalties});
    Var<double> loss = y.log_det + sum_cols(square(y.value));
    if (penalties.sum()) {
      loss = loss + penalties.sum();
      alone.penalty = to_array(penalties.sum());
    }
    tape.backward(loss, diffeo::view(ones));
    alone.of_x = gradient_of(in);
    alone.log_det = to_array(y.log_det);
    return alone;
  };
  std::vector<Alone> expected;
  for (std::size_t i = 0; i < flows.size(); ++i) {
    Tape<double> tape;
    expected.push_back(run(tape, i));
  }
  const auto check = [&](const Alone& found, std::size_t i) {
    CAPTURE(i);
    CHECK(same_bits(found.log_det, expected[i].log_det));
    CHECK(same_bits(found.grads, expected[i].grads));
    CHECK(same_bits(found.of_x, expected[i].of_x));
    CHECK(same_bits(found.penalty, expected[i].penalty));
  };
  // One after another in what others left behind, and all of them recorded before any is differentiated.
  Tape<double> tape;
  for (const std::size_t i : {0u, 1u, 2u, 3u, 4u, 5u, 0u, 3u, 1u, 4u, 2u}) {
    tape.reset();
    check(run(tape, i), i);
  }
  tape.reset();
  for (const std::size_t i : {4u, 1u, 3u, 0u, 2u}) check(run(tape, i), i);
  for (int round = 0; round < 2; ++round) {
    tape.reset();
    std::vector<Array<double>> grads(flows.size()), values(flows.size());
    std::vector<Var<double>> in, loss;
    for (std::size_t k = 0; k < flows.size(); ++k) {
      const std::size_t i = round == 0 ? k : flows.size() - 1 - k;
      values[i] = diffeo::parameters(flows[i]);
      grads[i] = Array<double>::Zero(values[i].rows(), 1);
      diffeo::Penalties<double> penalties;
      const auto y = diffeo::lift(tape, flows[i], values[i].data(), grads[i].data())
                         .inverse(in.emplace_back(tape.variable(x)), {.training = true, .penalties = &penalties});
      loss.push_back(y.log_det + sum_cols(square(y.value)));
      if (penalties.sum()) loss.back() = loss.back() + penalties.sum();
    }
    for (std::size_t k = 0; k < flows.size(); ++k) {
      const std::size_t i = round == 0 ? k : flows.size() - 1 - k;
      tape.backward(loss[k], diffeo::view(ones));
      CHECK(same_bits(grads[i], expected[i].grads));
      CHECK(same_bits(gradient_of(in[k]), expected[i].of_x));
    }
  }
  // Evaluation in a sequence, whose layers give back each other's memory.
  const auto sequence = diffeo::Repeated<Cnf<MlpField<double>>>{{flows.begin(), flows.end()}};
  const auto z = diffeo::inverse(sequence, x);
  Array<double> value = x, log_det = Array<double>::Zero(90, 1);
  for (std::size_t i = flows.size(); i-- > 0;) {
    const auto y = diffeo::inverse(flows[i], value);
    value = y.value;
    log_det += y.log_det;
  }
  CHECK(same_bits(z.value, value));
  CHECK(largest(z.log_det - log_det) < 1e-14);
}

// ---- gradients ----

TEST_CASE("continuous flows: gradients of training", "[continuous]") {
  const Array<double> x = uneven_points<double>(150, 2);
  for (const Method method : {Method::dopri5, Method::tsit5, Method::dopri8}) {
    CAPTURE(int(method));
    const Cnf flow(random_field<double>(2), both(solved_by(method, 1e-10)));
    CHECK(gradient_error(flow, x, flow) < 1e-7);
    CHECK(gradient_error(flow, x, flow, {.forwards = true}) < 1e-7);
  }
  // Equal steps: the gradient of the very map.
  const Cnf few(random_field<double>(2), both(equal_steps(Method::rk4, 3)));
  CHECK(gradient_error(few, x, few) < 1e-9);
  // By tangents, by probes, and of fields of other makes.
  for (const diffeo::Divergence& divergence : {diffeo::Divergence(ExactDivergence{ExactDivergence::Method::tangents}),
                                               diffeo::Divergence(HutchinsonDivergence{.probes = 2}),
                                               diffeo::Divergence(HutchPlusPlusDivergence{.probes = 4})}) {
    CnfOptions options = both(solved_by(Method::dopri5, 1e-10));
    options.training.divergence = divergence;
    const Cnf flow(random_field<double>(2), options);
    if (divergence.index() <= 1) {
      CHECK(gradient_error(flow, x, flow) < 1e-7);
      continue;
    }
    // The range of Hutch++ is taken from the field, and held fixed.
    CHECK(trained<double>(flow, x).of_parameters.isFinite().all());
  }
  diffeo::ConcatSquashField<double> gated =
      diffeo::make_concat_squash_field<double>(2, {.hidden = {8, 8}, .gate_output = true});
  diffeo::set_parameters(gated, Array<double>(normal<double>(diffeo::parameter_count(gated), 1, 3) * 0.5));
  const Cnf flow(gated, both(solved_by(Method::dopri5, 1e-10)));
  CHECK(gradient_error(flow, x, flow) < 1e-7);
}

TEMPLATE_TEST_CASE("continuous flows: the gradient's bits do not depend on memory", "[continuous]", float, double) {
  using S = TestType;
  const Array<S> x = uneven_points<S>(300, 2);
  CnfOptions options = both(solved_by(Method::dopri5, sizeof(S) == 4 ? 1e-5 : 1e-9));
  options.training.divergence = HutchinsonDivergence{};
  options.kinetic = 0.1;
  options.steer = 0.1;
  const auto with = [&](std::size_t budget) {
    options.gradient.memory_budget = budget;
    return trained<S>(Cnf(random_field<S>(2), options), x);
  };
  const Trained<S> all = with(std::size_t{1} << 30);
  for (const std::size_t budget : std::vector<std::size_t>{60000, 16000, 1}) {
    CAPTURE(budget);
    const Trained<S> found = with(budget);
    CHECK(same_bits(found.value, all.value));
    CHECK(same_bits(found.of_parameters, all.of_parameters));
    CHECK(same_bits(found.of_input, all.of_input));
  }
  // Recording does not change the values either.
  CnfOptions plain = options;
  plain.evaluation = options.training;
  plain.steer = 0;
  const Cnf flow(random_field<S>(2), plain);
  const Trained<S> recorded = trained<S>(flow, x), constant = trained<S>(flow, x, {.input = false});
  CHECK(same_bits(recorded.of_parameters, constant.of_parameters));
}

TEST_CASE("continuous flows: gradients by the adjoint equation", "[continuous]") {
  const Array<double> x = uneven_points<double>(150, 2);
  const MlpField<double> field = random_field<double>(2);
  const auto error = [&](CnfOptions options) {
    options.gradient.method = Differentiation::adjoint;
    const Trained<double> found = trained<double>(Cnf(field, options), x);
    options.training.solver = solved_by(Method::dopri8, 1e-12).solver;
    options.gradient.method = Differentiation::discrete;
    const Trained<double> exact = trained<double>(Cnf(field, options), x);
    CHECK(largest(exact.of_parameters) > 1);
    return std::max(largest(found.of_parameters - exact.of_parameters) / largest(exact.of_parameters),
                    largest(found.of_input - exact.of_input) / largest(exact.of_input));
  };
  for (const Method method : {Method::dopri5, Method::tsit5, Method::dopri8}) {
    CnfOptions options = both(solved_by(method, 1e-8));
    CAPTURE(int(method));
    CHECK(error(options) < 1e-4);
    options.kinetic = 0.1;
    options.frobenius = 0.2;
    CHECK(error(options) < 1e-4);
    options.frobenius = 0;
    options.steer = 0.3;  // every row ends, and its adjoint begins, at a time of its own
    CHECK(error(options) < 1e-4);
    options.training.divergence = HutchinsonDivergence{};
    CHECK(error(options) < 1e-4);
  }
  CnfOptions options = both(solved_by(Method::dopri8, 1e-11));
  options.gradient.method = Differentiation::adjoint;
  const Cnf flow(field, options);
  CHECK(gradient_error(flow, x, flow) < 1e-7);
  // Sweeps add up.
  const Trained<double> once = trained<double>(flow, x), twice = trained<double>(flow, x, {.sweeps = 2});
  CHECK(largest(twice.of_parameters - 2 * once.of_parameters) < 1e-12 * largest(once.of_parameters));
  CHECK(same_bits<double>(twice.of_input, 2 * once.of_input));
}

TEST_CASE("continuous flows: the score", "[continuous]") {
  // Of a linear field, x = exp(A) z: the score of a normal distribution.
  const Matrix a = some_matrix(3), map = matrix_exponential(a);
  const Array<double> x = normal<double>(300, 3, 9);
  const Array<double> expected = -(x.matrix() * (map * map.transpose()).inverse()).array();
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint}) {
    CnfOptions options = both(solved_by(Method::dopri8, 1e-10));
    options.gradient.method = how;
    const TransformedDistribution model(StandardNormal<double>(3), Cnf(linear_field<double>(a), options));
    CHECK(largest(model.score(x) - expected) < 1e-7);
    const TransformedDistribution curved(StandardNormal<double>(3), Cnf(random_field<double>(3), options));
    const Array<double> found = curved.score(x);
    for (Index j = 0; j < 3; ++j) {
      const auto at = [&](double by) {
        Array<double> moved = x;
        moved.col(j) += by;
        return curved.log_prob(moved);
      };
      const double h = 3e-4;
      const Array<double> difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      CHECK(largest((found.col(j) - difference) / (1 + difference.abs())) < 1e-6);
    }
  }
}

// ---- what training does otherwise ----

TEST_CASE("continuous flows: solvers of training and of evaluation", "[continuous]") {
  const Matrix a = some_matrix(2), one = Matrix::Identity(2, 2);
  CnfOptions options;
  options.training = equal_steps(Method::euler, 1);
  options.evaluation = equal_steps(Method::euler, 2);
  const Cnf flow(linear_field<double>(a), options);
  const Array<double> x = normal<double>(20, 2, 1);
  const Matrix in_training = one - a, in_evaluation = (one - a / 2) * (one - a / 2);
  CHECK(largest(trained<double>(flow, x).value - (x.matrix() * in_training.transpose()).array()) < 1e-14);
  CHECK(largest(diffeo::inverse(flow, x).value - (x.matrix() * in_evaluation.transpose()).array()) < 1e-14);
  const TransformedDistribution model(StandardNormal<double>(2), flow);
  CHECK(largest(model.score(x) + (x.matrix() * in_evaluation.transpose() * in_evaluation).array()) < 1e-14);
  CHECK(flow.solve_statistics(x)[0].accepted == 2);
  // Which of the two is said by the call, whatever gradients are recorded.
  Tape<double> tape;
  Array<double> values = diffeo::parameters(flow), grads = 0 * values;
  const auto lifted = diffeo::lift(tape, flow, values.data(), grads.data());
  CHECK(largest(to_array(lifted.inverse(tape.variable(x)).value) - (x.matrix() * in_evaluation.transpose()).array()) <
        1e-14);
  CHECK(largest(to_array(flow.inverse(tape.copy(x), {.training = true}).value) -
                (x.matrix() * in_training.transpose()).array()) < 1e-14);
}

TEST_CASE("continuous flows: tolerances of the log-determinant alone", "[continuous]") {
  CnfOptions loose = both(solved_by(Method::dopri5, 1e-3)), tight = loose;
  tight.evaluation.log_det = diffeo::ode::Tolerance{1e-9, 1e-9};
  const MlpField<double> network = random_field<double>(2);
  const Array<double> x = normal<double>(50, 2, 1);
  const auto exact = diffeo::inverse(Cnf(network, both(solved_by(Method::dopri8, 1e-12))), x);
  const double before = largest(diffeo::inverse(Cnf(network, loose), x).log_det - exact.log_det),
               after = largest(diffeo::inverse(Cnf(network, tight), x).log_det - exact.log_det);
  CHECK(before > 1e-5);
  CHECK(after < 1e-8);
}

TEST_CASE("continuous flows: a random divergence is one through a solve, and right on average", "[continuous]") {
  // Of a linear field the estimate e'Ae of a row stays what it was: with D = 2, trace +- the sum of the others.
  const Matrix a = some_matrix(2);
  CnfOptions options = both(solved_by(Method::dopri5, 1e-10));
  options.training.divergence = HutchinsonDivergence{};
  const Array<double> x = uneven_points<double>(400, 2);
  const Array<double> estimate = -trained<double>(Cnf(linear_field<double>(a), options), x).log_det - a.trace();
  const double off = a(0, 1) + a(1, 0);
  CHECK(largest(estimate.abs() - std::abs(off)) < 1e-9);
  CHECK((estimate > 0).any());
  CHECK((estimate < 0).any());
  CHECK(std::abs(estimate.mean()) < 3 * std::abs(off) / 20);

  // A solved flow, over seeds, row by row.
  const MlpField<double> field = random_field<double>(3);
  const Array<double> points = normal<double>(30, 3, 2);
  const Array<double> exact = diffeo::inverse(Cnf(field, both(solved_by(Method::dopri5, 1e-8))), points).log_det;
#ifdef DIFFEO_SANITIZE
  const int seeds = 20;
#else
  const int seeds = 400;
#endif
  for (int kind = 0; kind < 3; ++kind) {
    CAPTURE(kind);
    CnfOptions drawn = both(solved_by(Method::dopri5, 1e-6));
    const auto at = [&](std::uint64_t seed) {
      if (kind == 0) drawn.training.divergence = HutchinsonDivergence{.seed = seed};
      if (kind == 1)
        drawn.training.divergence =
            HutchinsonDivergence{.probes = 2, .distribution = diffeo::ProbeDistribution::gaussian, .seed = seed};
      if (kind == 2) drawn.training.divergence = HutchPlusPlusDivergence{.probes = 4, .seed = seed};
      return trained<double>(Cnf(field, drawn), points).log_det;
    };
    CHECK(same_bits(at(5), at(5)));
    CHECK((at(5) != at(6)).any());
    Array<double> sum = Array<double>::Zero(30, 1), squares = sum;
    for (int seed = 0; seed < seeds; ++seed) {
      const Array<double> error = at(std::uint64_t(seed)) - exact;
      sum += error;
      squares += error.square();
    }
    const Array<double> mean = sum / seeds,
                        standard_error = ((squares / seeds - mean.square()) / double(seeds - 1)).sqrt();
    CHECK((standard_error > 1e-4).all());
    // Of 30 rows, and of them together: they are independent.
    const Array<double> z = mean / standard_error;
    CHECK(largest(z) < 4);
    CHECK(std::abs(z.sum()) / std::sqrt(30.0) < 3);
    // Evaluation stays exact.
    CHECK(largest(diffeo::inverse(Cnf(field, drawn), points).log_det - exact) < 1e-4);
  }
}

TEST_CASE("continuous flows: penalties of a linear field", "[continuous]") {
  const Matrix a = some_matrix(3);
  const Array<double> x = normal<double>(80, 3, 4);
  CnfOptions options = both(solved_by(Method::dopri8, 1e-12));  // penalties have no part in its control
  // The integral of |A x(t)|^2, by Simpson's rule.
  const auto kinetic = [&](double direction) {
    const int n = 800;
    Array<double> sum = Array<double>::Zero(80, 1);
    for (int k = 0; k <= n; ++k) {
      const Matrix map = a * matrix_exponential(a * (direction * k / n));
      const double weight = k == 0 || k == n ? 1 : k % 2 == 1 ? 4 : 2;
      sum += weight / (3.0 * n) * (x.matrix() * map.transpose()).rowwise().squaredNorm().array();
    }
    return sum;
  };
  const double frobenius = a.squaredNorm();
  for (const bool forwards : {false, true}) {
    const Array<double> k = kinetic(forwards ? 1 : -1);
    for (const auto& [of_kinetic, of_frobenius] : {std::pair(0.7, 0.0), std::pair(0.0, 0.3), std::pair(0.7, 0.3)}) {
      options.kinetic = of_kinetic;
      options.frobenius = of_frobenius;
      CAPTURE(forwards, of_kinetic, of_frobenius);
      const Cnf flow(linear_field<double>(a), options);
      const Trained<double> found = trained<double>(flow, x, {.forwards = forwards});
      CHECK(largest(found.penalty - of_kinetic * k - of_frobenius * frobenius) < 1e-8);
      CHECK(largest(found.log_det - (forwards ? 1 : -1) * a.trace()) < 1e-9);
      Tape<double> tape;
      diffeo::Penalties<double> of_evaluation;
      flow.inverse(tape.variable(x), {.penalties = &of_evaluation});
      flow.forward(tape.copy(x), {.penalties = &of_evaluation});
      CHECK(of_evaluation.count() == 0);
    }
  }
  options.kinetic = options.frobenius = 0;
  CHECK(trained<double>(Cnf(linear_field<double>(a), options), x).penalty.size() == 0);
  // |J|_F^2 from the probes of the divergence: right on average.
  options.frobenius = 1;
  options.training.divergence = HutchinsonDivergence{.probes = 2};
  const Array<double> many = normal<double>(3000, 3, 6);
  const Array<double> estimate = trained<double>(Cnf(linear_field<double>(a), options), many).penalty;
  const double deviation = std::sqrt((estimate - estimate.mean()).square().mean());
  CHECK(deviation > 0.01);
  CHECK(std::abs(estimate.mean() - frobenius) < 3 * deviation / std::sqrt(3000.0));
}

TEST_CASE("continuous flows: gradients of penalties", "[continuous]") {
  const Array<double> x = uneven_points<double>(100, 2);
  for (const bool forwards : {false, true})
    for (const auto& [kinetic, frobenius] : {std::pair(2.0, 0.0), std::pair(0.0, 2.0), std::pair(1.0, 3.0)}) {
      CnfOptions options = both(solved_by(Method::dopri5, 1e-10));
      options.kinetic = kinetic;
      options.frobenius = frobenius;
      const Cnf flow(random_field<double>(2), options);
      CAPTURE(forwards, kinetic, frobenius);
      CHECK(gradient_error(flow, x, flow, {.forwards = forwards}) < 1e-7);
    }
  // The penalties take no part in the control of the steps.
  CnfOptions plain = both(solved_by(Method::dopri5, 1e-5)), penalised = plain;
  penalised.kinetic = 1;
  const Trained<double> without = trained<double>(Cnf(random_field<double>(2), plain), x),
                        with = trained<double>(Cnf(random_field<double>(2), penalised), x);
  CHECK(same_bits(without.value, with.value));
  CHECK(same_bits(without.log_det, with.log_det));
}

TEST_CASE("continuous flows: penalties are part of the training loss alone", "[continuous]") {
  const Matrix a = some_matrix(2);
  CnfOptions options = both(solved_by(Method::dopri8, 1e-10));
  options.frobenius = 0.25;
  const Array<double> data = normal<double>(50, 2, 1);
  const TransformedDistribution model(
      StandardNormal<double>(2),
      diffeo::FlowSequence(Cnf(linear_field<double>(a), options),
                           diffeo::Standardize<double>::from(Array<double>::Zero(1, 2), Array<double>::Ones(1, 2)),
                           Cnf(linear_field<double>(2 * a), options)));
  const diffeo::MaximumLikelihood objective(data);
  std::vector<Index> rows(50);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = Index(i);
  Array<double> values = diffeo::parameters(model), grads(values.rows(), 1);
  Tape<double> tape;
  const auto lifted = diffeo::lift(tape, model, values.data(), grads.data());
  const Array<double> loss = to_array(objective.loss(lifted, tape, {.rows = rows, .training = true}));
  const Array<double> log_prob = model.log_prob(data);
  CHECK(largest(loss + log_prob - 0.25 * 5 * a.squaredNorm()) < 1e-8);  // those of two layers add up
  CHECK(diffeo::mean_loss(model, objective, rows) == Approx(-log_prob.mean()).epsilon(1e-12));
  // The other way about, too.
  const diffeo::targets::Banana target;
  const diffeo::ReverseKl reverse(target, {});
  tape.reset();
  diffeo::Minibatch batch{{}, 0, 0, 7, 40};
  const Array<double> without = to_array(reverse.loss(model, model, tape, batch));
  batch.training = true;
  const Array<double> with = to_array(reverse.loss(lifted, lifted, tape, batch));
  CHECK(largest(with - without - 0.25 * 5 * a.squaredNorm()) < 1e-8);
}

TEST_CASE("continuous flows: ends that are drawn", "[continuous]") {
  const Matrix a = some_matrix(2);
  CnfOptions options = both(solved_by(Method::dopri8, 1e-11));
  options.steer = 0.4;
  options.seed = 3;
  const Cnf flow(linear_field<double>(a), options);
  const Array<double> x = normal<double>(1000, 2, 12);
  for (const bool forwards : {false, true}) {
    const Trained<double> found = trained<double>(flow, x, {.forwards = forwards});
    // log_det = trace(A) times the time that passed.
    const Array<double> time = found.log_det / a.trace(), u = (time - (forwards ? 1 : -1)) / 0.4;
    CHECK(largest(u) <= 1 + 1e-8);
    CHECK(u.maxCoeff() > 0.98);
    CHECK(u.minCoeff() < -0.98);
    CHECK(std::abs(u.mean()) < 3 / std::sqrt(3.0 * 1000));
    CHECK(std::abs(u.square().mean() - 1.0 / 3) < 3 * std::sqrt(4.0 / 45 / 1000));
    for (Index i = 0; i < 1000; i += 97) {
      const Array<double> expected = (x.row(i).matrix() * matrix_exponential(a * time(i, 0)).transpose()).array();
      CHECK(largest(found.value.row(i) - expected) < 1e-8);
    }
    // An end is a function of the place of the row in the minibatch, and of the seeds.
    CHECK(same_bits(trained<double>(flow, x, {.forwards = forwards}).log_det, found.log_det));
    CHECK(same_bits<double>(trained<double>(flow, x.topRows(7), {.forwards = forwards}).log_det,
                            found.log_det.topRows(7)));
    options.seed = 4;
    CHECK((trained<double>(Cnf(linear_field<double>(a), options), x, {.forwards = forwards}).log_det != found.log_det)
              .all());
    options.seed = 3;
    const auto evaluated = forwards ? diffeo::forward(flow, x) : diffeo::inverse(flow, x);
    CHECK(largest(evaluated.log_det - (forwards ? 1 : -1) * a.trace()) < 1e-9);
  }
  // Gradients, ends held fixed.
  options = both(solved_by(Method::dopri5, 1e-10));
  options.steer = 0.4;
  options.kinetic = 0.5;
  const Cnf curved(random_field<double>(2), options);
  const Trained<double> found = trained<double>(curved, x.topRows(150));
  Array<double> direction = normal<double>(found.of_parameters.rows(), 1, 41);
  CHECK((found.of_parameters * direction).sum() ==
        Approx(difference(curved, x.topRows(150), direction, Array<double>::Zero(150, 2))).epsilon(1e-7));
  CHECK((found.penalty > 0).all());
}

// ---- statistics and errors ----

TEMPLATE_TEST_CASE("continuous flows: what a solve took", "[continuous]", float, double) {
  using S = TestType;
  const Array<S> x = uneven_points<S>(600, 2);
  const Cnf flow(random_field<S>(2));
  const auto all = flow.solve_statistics(x);
  REQUIRE(all.size() == 600);
  for (const SolveStatistics& s : all) {
    REQUIRE(s.status == diffeo::ode::Status::finished);
    REQUIRE(s.t == 0);
    REQUIRE(s.accepted >= 1);
    REQUIRE(s.error <= 1);
    REQUIRE(s.evaluations == 2 + 6 * (s.accepted + s.rejected));  // dopri5, and two for the first step
  }
  const auto part = flow.solve_statistics(x.middleRows(290, 20));
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(part[i].evaluations == all[290 + i].evaluations);
    CHECK(part[i].step == all[290 + i].step);
  }
  for (const SolveStatistics& s : flow.solve_statistics(x, 0, 0.25)) REQUIRE(s.t == 0.25);
  for (const SolveStatistics& s : flow.solve_statistics(x, 0.5, 0.5)) REQUIRE(s.evaluations == 0);
  const auto fixed = Cnf(random_field<S>(2), both(equal_steps(Method::rk4, 7))).solve_statistics(x);
  for (const SolveStatistics& s : fixed) {
    REQUIRE(s.accepted == 7);
    REQUIRE(s.evaluations == 28);
  }
  CHECK(contains(thrown_message<invalid_argument>([&] { flow.solve_statistics(normal<S>(3, 3, 1)); }),
                 "solve_statistics: x has 3 columns, this flow has dimension 2"));
}

TEST_CASE("continuous flows: misuse", "[continuous]") {
  const Array<double> x = normal<double>(5, 2, 1);
  const auto message = [&](const CnfOptions& options, double from = 1, double to = 0) {
    return thrown_message<invalid_argument>([&] {
      Tape<double> tape;
      Cnf(random_field<double>(2), options).transport(tape.copy(x), from, to);
    });
  };
  CHECK(message({}, -0.1, 1) == "cnf: from is -0.1, expected a time between 0 and 1");
  CHECK(message({}, 0, 1.5) == "cnf: to is 1.5, expected a time between 0 and 1");
  CHECK(message({}, std::nan(""), 1) == "cnf: from is nan, expected a time between 0 and 1");
  CHECK(message({.steer = 1}) == "cnf: steer is 1, expected 0 <= steer < 1");
  CHECK(message({.steer = -0.1}) == "cnf: steer is -0.1, expected 0 <= steer < 1");
  CHECK(message({.kinetic = -1}) == "cnf: kinetic is -1, expected finite and at least 0");
  CHECK(message({.frobenius = std::nan("")}) == "cnf: frobenius is nan, expected finite and at least 0");
  CnfOptions options;
  for (CnfSolver* how : {&options.training, &options.evaluation})
    for (const double bad : {0.0, -1e-3, std::nan(""), std::numeric_limits<double>::infinity()}) {
      options = {};
      how->solver.relative_tolerance = bad;
      CHECK(contains(message(options), "the relative tolerance is "));
      options = {};
      how->solver.absolute_tolerance = bad;
      CHECK(contains(message(options), "the absolute tolerance is "));
      options = {};
      how->log_det = diffeo::ode::Tolerance{bad, 1e-6};
      CHECK(contains(message(options), ": log_det: the relative tolerance is "));
      options = {};
      how->solver.max_steps = 0;
      CHECK(contains(message(options), "max_steps is 0, expected at least 1"));
      options = {};
      how->solver.method = Method::rk4;
      CHECK(contains(message(options), "rk4 has no error estimate"));
    }
  options = {};
  options.evaluation.divergence = HutchinsonDivergence{.probes = 0};
  CHECK(contains(message(options), "Hutchinson: probes is 0"));

  const Cnf flow(random_field<double>(2));
  Tape<double> tape;
  CHECK(thrown_message<invalid_argument>([&] { flow.forward(tape.copy(normal<double>(5, 3, 1))); }) ==
        "cnf: x has 3 columns, this flow has dimension 2");
  CHECK_THROWS_AS(diffeo::forward(flow, normal<double>(5, 3, 1)), invalid_argument);
  Array<double> bad = x;
  bad(3, 1) = std::nan("");
  CHECK_THROWS_AS(diffeo::inverse(flow, bad), invalid_argument);
}

namespace {

// A field that fails where the first coordinate is over 100.
auto field_with_a_hole() {
  return diffeo::make_field<double>(2,
                                    [](const auto& t, const auto& x) { return log(-cols(x, 0, 1) + 100.0) * x * t; });
}

}  // namespace

TEST_CASE("continuous flows: what cannot be solved names the row of the whole", "[continuous]") {
  Array<double> x = normal<double>(700, 2, 1);
  for (const int threads : {1, 2}) {
    const TransformedDistribution holed(StandardNormal<double>(2), Cnf(field_with_a_hole()));
    CHECK(holed.log_prob(x, threads).isFinite().all());
    for (const Index row : {0, 300, 699}) {
      Array<double> bad = x;
      bad(row, 0) = 101;
      const std::string where = "row " + std::to_string(row) + " was not integrated: the field is not finite at t = 1,";
      CHECK(contains(thrown_message<integration_error>([&] { holed.log_prob(bad, threads); }), where));
      CHECK(contains(thrown_message<integration_error>([&] { holed.score(bad, threads); }), where));
      CHECK(contains(thrown_message<integration_error>([&] { diffeo::inverse(holed.flow, bad, threads); }), where));
      CHECK(contains(thrown_message<integration_error>([&] { holed.flow.solve_statistics(bad); }), where));
    }
    // Steps that do not suffice: one row that is far out of an otherwise easy field.
    const auto stiff = diffeo::make_field<double>(2, [](const auto&, const auto& v) { return square(v) * v * -1.0; });
    CnfOptions options;
    options.evaluation.solver.max_steps = 20;
    const TransformedDistribution strict(StandardNormal<double>(2), Cnf(stiff, options));
    Array<double> start = 0.1 * x;
    const auto go = [&] { return diffeo::forward(strict.flow, start, threads).value; };
    CHECK(go().isFinite().all());
    start(423, 1) = 200;
    CHECK(contains(thrown_message<integration_error>(go),
                   "row 423 was not integrated: max_steps were not enough at t = "));
    try {
      go();
    } catch (const integration_error& e) {
      CHECK(e.sample() == 423);
      CHECK(e.stiffness() > 100);
      CHECK(e.t() > 0);
      CHECK(e.t() < 1);
      CHECK(e.step() > 0);
      CHECK(e.error() > 0);
    }
    // From above such a field comes back from infinity.
    options.evaluation.solver.max_steps = 10000;
    const Cnf explosive(stiff, options);
    start(423, 1) = 3;
    CHECK(contains(thrown_message<integration_error>([&] { diffeo::inverse(explosive, start, threads); }), "row 423 "));
  }
  CnfOptions options;
  options.evaluation.solver.max_steps = 1;
  CHECK(
      contains(thrown_message<integration_error>([&] { diffeo::inverse(Cnf(random_field<double>(2), options), x, 1); }),
               "row 0 was not integrated: max_steps were not enough"));
}

TEST_CASE("continuous flows: a training that cannot be solved leaves the model as it was", "[continuous][training]") {
  const Array<double> data = normal<double>(400, 2, 2) * 2;
  CnfOptions options;
  options.training.solver.max_steps = 1;
  TransformedDistribution model(StandardNormal<double>(2), Cnf(random_field<double>(2), options));
  const Array<double> before = diffeo::parameters(model);
  for (const int threads : {1, 2}) {
    const diffeo::FitReport report =
        diffeo::fit(model, data, {.steps = 20, .batch = 300, .threads = threads, .progress = false});
    CHECK(report.reason == diffeo::StopReason::not_solved);
    CHECK(report.steps == 0);
    CHECK(contains(report.failure, " was not integrated: max_steps were not enough"));
    CHECK(same_bits(diffeo::parameters(model), before));
  }
  // Later on, as the field grows steeper.
  model.flow.options.training.solver.max_steps = 12;
  model.flow.field = diffeo::make_mlp_field<double>(2, {.hidden = {12, 12}, .last_scale = 0.01}, 1);
  Array<double> last = diffeo::parameters(model), best = last;
  const diffeo::FitReport report =
      diffeo::fit(model, data, {.steps = 500, .batch = 300, .rate = {.learning_rate = 0.3}, .progress = false});
  CHECK(report.reason == diffeo::StopReason::not_solved);
  CHECK(report.steps > 0);
  CHECK(diffeo::parameters(model).isFinite().all());
  CHECK((diffeo::parameters(model) != last).any());
  CHECK(model.log_prob(data).isFinite().all());
  const std::size_t at = report.failure.find("row ");
  REQUIRE(at != std::string::npos);
  CHECK(std::stol(report.failure.substr(at + 4)) < 400);
}

TEST_CASE("continuous flows: a validation that cannot be solved ends the training too", "[continuous][training]") {
  Array<double> data = normal<double>(400, 2, 2);
  CnfOptions options;
  options.evaluation.solver.max_steps = 1;
  TransformedDistribution model(StandardNormal<double>(2), Cnf(random_field<double>(2), options));
  const Array<double> before = diffeo::parameters(model);
  const diffeo::FitReport report = diffeo::fit(model, data,
                                               {.steps = 20,
                                                .batch = 100,
                                                .validation_fraction = 0.25,
                                                .validation_every = 5,
                                                .max_recoveries = 1,
                                                .progress = false});
  CHECK(report.reason == diffeo::StopReason::not_solved);
  CHECK(report.steps == 10);
  REQUIRE(report.recoveries.size() == 1);
  CHECK(report.recoveries[0].step == 5);
  CHECK(report.recoveries[0].reason == diffeo::StopReason::not_solved);
  CHECK(contains(report.failure, " was not integrated: max_steps were not enough"));
  CHECK(diffeo::parameters(model).isFinite().all());
  CHECK((diffeo::parameters(model) != before).any());
  // The row is that of the data.
  data(399, 0) = 101;
  const auto holed = TransformedDistribution(StandardNormal<double>(2), Cnf(field_with_a_hole()));
  const diffeo::MaximumLikelihood objective(data);
  std::vector<Index> rows(300);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = Index(2 * i % 400);
  rows[270] = 399;
  for (const int threads : {1, 2})
    CHECK(contains(thrown_message<integration_error>([&] { diffeo::mean_loss(holed, objective, rows, 0, threads); }),
                   "row 399 "));
}

TEMPLATE_TEST_CASE("continuous flows: learn", "[continuous][training][long]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  // Two modes.
  Array<S> data = normal<S>(600, 2, 2) * S(0.4);
  for (Index i = 0; i < 600; ++i) data(i, 0) += i % 2 == 0 ? S(2) : S(-2);
  for (const Differentiation how : {Differentiation::discrete, Differentiation::adjoint}) {
    CnfOptions options;
    options.gradient.method = how;
    TransformedDistribution start(StandardNormal<S>(2),
                                  Cnf(diffeo::make_mlp_field<S>(2, {.hidden = {16, 16}}, 1), options));
    const auto learned = [&](int threads) {
      auto model = start;
      const diffeo::FitReport report = diffeo::fit(
          model, data,
          {.steps = 60, .batch = 300, .rate = {.learning_rate = 2e-2}, .threads = threads, .progress = false});
      CHECK(report.reason == diffeo::StopReason::completed);
      return model;
    };
    const auto model = learned(1);
    CHECK(double(model.log_prob(data).mean()) > double(start.log_prob(data).mean()) + 0.5);
    CHECK(same_bits(diffeo::parameters(learned(2)), diffeo::parameters(model)));
  }
}
