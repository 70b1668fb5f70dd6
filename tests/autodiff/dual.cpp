// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>

#include "../catch.hpp"

using namespace diffeo;

static_assert(Traced<Var<float>> && Traced<Var<double>>);
static_assert(Traced<Dual<Var<float>>> && Traced<Dual<Dual<Var<double>>>>);
static_assert(!Traced<Array<double>> && !Traced<double>);

namespace {
Array<double> value(Var<double> x) { return as_eigen(x.value()); }
}  // namespace

TEST_CASE("dual: tangents of constants record nothing", "[dual]") {
  Tape<double> tape;
  const Array<double> x0 = Array<double>::Random(17, 2), v0 = Array<double>::Random(17, 2);
  const Dual<Var<double>> x{tape.copy(x0), tape.copy(v0)};
  CHECK(x.rows() == 17);
  CHECK(x.cols() == 2);
  CHECK_FALSE(x.requires_grad());
  const Dual<Var<double>> y = exp(square(x)) * 0.5;
  CHECK((value(y.tangent) - (x0.square()).exp() * x0 * v0).abs().maxCoeff() < 1e-13);
  CHECK(tape.size() == 0);
  CHECK(innermost(y).value().data == y.value.value().data);
  CHECK(Dual<Var<double>>{tape.copy(x0), tape.variable(v0)}.requires_grad());
}

TEST_CASE("dual: reverse over forward is the gradient of a Jacobian-vector product", "[dual]") {
  // y = exp(w x) has the tangent w v exp(w x), of which the derivative in w is v (1 + w x) exp(w x).
  Tape<double> tape;
  const Array<double> x0 = Array<double>::Random(9, 1), v0 = Array<double>::Random(9, 1);
  const Var<double> w = tape.variable(Array<double>::Constant(1, 1, 0.7));
  const Dual<Var<double>> x{tape.copy(x0), tape.copy(v0)};
  const Dual<Var<double>> y = exp(x * w);
  const Array<double> seed = Array<double>::Ones(9, 1);
  tape.backward(y.tangent, view(seed));
  const double expected = (v0 * (1 + 0.7 * x0) * (0.7 * x0).exp()).sum();
  CHECK(as_eigen(w.grad())(0, 0) == Approx(expected).epsilon(1e-13));
}

TEST_CASE("dual: nested duals give second derivatives", "[dual]") {
  Tape<double> tape;
  const Array<double> x0 = Array<double>::Random(11, 1);
  const Var<double> x = tape.copy(x0), one = tape.copy(Array<double>::Ones(11, 1)),
                    zero = tape.copy(Array<double>::Zero(11, 1));
  const Dual<Dual<Var<double>>> d{{x, one}, {one, zero}};
  const auto second = [&](auto f) { return value(f(d).tangent.tangent); };
  CHECK((second([](auto v) { return sin(v); }) + x0.sin()).abs().maxCoeff() < 1e-14);
  CHECK((second([](auto v) { return exp(v * 2.0); }) - 4 * (2 * x0).exp()).abs().maxCoeff() < 1e-12);
  CHECK((second([](auto v) { return square(v) * v; }) - 6 * x0).abs().maxCoeff() < 1e-14);
  const Array<double> t = x0.tanh();
  CHECK((second([](auto v) { return tanh(v); }) + 2 * t * (1 - t.square())).abs().maxCoeff() < 1e-14);
}

TEST_CASE("dual: the divergence of a network is the trace of its Jacobian", "[dual]") {
  // f(x) = tanh(x W' + b): df_i / dx_j = (1 - f_i^2) W_ij.
  Tape<double> tape;
  const Index n = 6, dim = 3;
  const Array<double> x0 = Array<double>::Random(n, dim), w = Array<double>::Random(dim, dim),
                      b = Array<double>::Random(1, dim);
  Array<double> trace = Array<double>::Zero(n, 1), expected = trace;
  for (Index j = 0; j < dim; ++j) {
    Array<double> e = Array<double>::Zero(n, dim);
    e.col(j) = 1;
    const Dual<Var<double>> y = affine(Dual<Var<double>>{tape.copy(x0), tape.copy(e)}, w, b, Activation::tanh);
    trace += value(y.tangent).col(j);
    expected += (1 - value(y.value).col(j).square()) * w(j, j);
  }
  CHECK((trace - expected).abs().maxCoeff() < 1e-14);
}
