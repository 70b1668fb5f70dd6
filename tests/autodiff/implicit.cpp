// SPDX-License-Identifier: MIT
#include <Eigen/LU>
#include <cmath>
#include <cstring>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/implicit.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

using namespace diffeo;

namespace {

// ---- coupled unknowns: y + 0.3 tanh(y W') = x p, row by row ----
template <class T>
struct Coupled {
  using Scalar = scalar_t<T>;
  param_t<T> weight;  // D x D
  param_t<T> scale;   // 1 x D

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.weight, self.scale);
  }
  template <class U>
  Coupled<U> rebind() const {
    return {};
  }
};

template <Real S>
Coupled<S> make_coupled() {
  return {Array<S>{{S(0.7), S(-0.3), S(0.2)}, {S(0.4), S(0.5), S(-0.6)}, {S(0.1), S(0.8), S(0.9)}},
          Array<S>{{S(1.5), S(-0.5), S(2)}}};
}

// The solution by fixed-point iteration from `start`, in plain numbers.
template <Real S>
Array<S> solve(const Array<S>& right, const Array<S>& w, S start) {
  Array<S> y = Array<S>::Constant(right.rows(), right.cols(), start);
  for (int k = 0; k < 300; ++k) y = right - S(0.3) * (y.matrix() * w.matrix().transpose()).array().tanh();
  return y;
}

template <Real S, class M>
Var<S> solved(const M& model, Var<S> x, S start = 0, int* calls = nullptr) {
  Tape<S>& tape = x.tape();
  const Var<S> w = as_var(tape, model.weight), p = as_var(tape, model.scale);
  const Array<S> right = as_eigen(x.value()).rowwise() * as_eigen(p.value()).row(0);
  const Var<S> y = tape.copy(solve<S>(right, to_array(w), start));
  const Var<S> residual = y + tanh(linear(y, w)) * S(0.3) - x * p;
  return implicit(y.value(), residual, [y, w, calls](View<const S> g, View<S> v) {
    if (calls) ++*calls;
    const auto weight = as_eigen(w.value()).matrix();
    for (Index n = 0; n < g.rows; ++n) {
      const Eigen::VectorX<S> at = as_eigen(y.value()).row(n).transpose().matrix();
      const Eigen::VectorX<S> slope = S(0.3) * (1 - (weight * at).array().tanh().square());
      Eigen::MatrixX<S> a = slope.asDiagonal() * weight;
      a.diagonal().array() += S(1);
      as_eigen(v).row(n) =
          a.transpose().partialPivLu().solve(as_eigen(g).row(n).matrix().transpose()).transpose().array();
    }
  });
}

// ---- one unknown per element: y + p tanh(y) + q y^3 = x + c ----
template <class T>
struct Steep {
  using Scalar = scalar_t<T>;
  param_t<T> p;  // 1 x D
  param_t<T> q;  // 1 x 1

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.p, self.q);
  }
  template <class U>
  Steep<U> rebind() const {
    return {};
  }
};

template <Real S>
Steep<S> make_steep() {
  return {Array<S>{{S(0.8), S(2), S(-0.4)}}, Array<S>{{S(0.3)}}};
}

template <Traced X, class M>
X root(const M& model, const X& x, const X& c) {
  using S = typename X::Scalar;
  auto& tape = innermost(x).tape();
  const Array<S> p = to_array(as_var(tape, model.p)), q = to_array(as_var(tape, model.q));
  const Array<S> at = to_array(innermost(x)), shift = to_array(innermost(c));
  Array<S> y(at.rows(), at.cols());
  for (Index j = 0; j < y.cols(); ++j)
    for (Index n = 0; n < y.rows(); ++n) {
      double low = -100, high = 100;
      for (int k = 0; k < 200; ++k) {
        const double m = (low + high) / 2;
        (m + double(p(0, j)) * std::tanh(m) + double(q(0, 0)) * m * m * m < double(at(n, j)) + double(shift(n, 0))
             ? low
             : high) = m;
      }
      y(n, j) = static_cast<S>(low);
    }
  const auto residual = []<class Y>(const Y& u, const auto& a, const auto& b, const auto& e, const auto& f) {
    const Y h = tanh(u);
    return RootEquation<Y>{u + h * e + square(u) * u * f - a - b, (1 - square(h)) * e + square(u) * f * S(3) + S(1)};
  };
  const Var<S> solution = tape.copy(y);
  return implicit_root<X>(solution.value(), residual, x, c, model.p, model.q);
}

}  // namespace

TEST_CASE("implicit: gradients of inputs and parameters are central differences", "[implicit]") {
  const auto f = [](const auto& model, auto x) { return solved<double>(model, x[0]); };
  for (const Index n : {0, 1, 7, 64}) {
    CAPTURE(n);
    const auto check =
        testing::check_gradients(make_coupled<double>(), f, std::vector{gaussian<double>(n, 3, 0)}, {4, 0, 1});
    INFO(check.where);
    CHECK(check.max_error < 1e-7);
  }
  // The solution used more than once, and as an input of what follows.
  const auto g = [](const auto& model, auto x) {
    const auto y = solved<double>(model, x[0]);
    return solved<double>(model, tanh(y)) * y;
  };
  const auto check =
      testing::check_gradients(make_coupled<double>(), g, std::vector{gaussian<double>(9, 3, 0)}, {4, 0, 1});
  INFO(check.where);
  CHECK(check.max_error < 1e-7);
}

TEST_CASE("implicit: float gradients are those in double", "[implicit]") {
  const auto gradients = []<class S>(S) {
    const Coupled<S> model = make_coupled<S>();
    Array<S> values = parameters(model), grads = Array<S>::Zero(values.rows(), 1);
    const Array<S> x = gaussian<float>(20, 3, 0).template cast<S>(),
                   seed = gaussian<float>(20, 3, 1).template cast<S>();
    Tape<S> tape;
    const auto lifted = lift(tape, model, values.data(), grads.data());
    const Var<S> v = tape.variable(x), y = solved<S>(lifted, v);
    tape.backward(y, view(seed));
    tape.finish_parameter_grads();
    Array<double> all(grads.size() + x.size(), 1);
    all << grads.template cast<double>(), as_eigen(v.grad()).template cast<double>().reshaped();
    return all;
  };
  const Array<double> in_float = gradients(1.0f), in_double = gradients(1.0);
  CHECK((in_float - in_double).abs().maxCoeff() < 1e-5 * in_double.abs().maxCoeff());
}

TEST_CASE("implicit: how the solution was found leaves no trace", "[implicit]") {
  const Coupled<double> model = make_coupled<double>();
  Array<double> values = parameters(model);
  const Array<double> x = gaussian<double>(20, 3, 0), seed = gaussian<double>(20, 3, 1);
  const auto run = [&](double start, int& calls, std::size_t& records) {
    Array<double> grads = Array<double>::Zero(values.rows(), 1);
    Tape<double> tape;
    const auto lifted = lift(tape, model, values.data(), grads.data());
    const Var<double> y = solved<double>(lifted, tape.variable(x), start, &calls);
    records = tape.size();
    tape.backward(y, view(seed));
    tape.finish_parameter_grads();
    return grads;
  };
  int calls = 0, more = 0;
  std::size_t records = 0, other = 0;
  const Array<double> one = run(0, calls, records), two = run(5, more, other);
  CHECK(calls == 1);
  CHECK(more == 1);
  CHECK(records == other);
  CHECK(records == 8);  // W, tanh, 0.3, +, x p, -, the solution: the residual once; no more
  CHECK((one - two).abs().maxCoeff() < 1e-12);

  // Constants record nothing, and the adjoint never runs.
  Tape<double> tape;
  calls = 0;
  const Var<double> y = solved<double>(model, tape.copy(x), 0.0, &calls);
  CHECK_FALSE(y.requires_grad());
  CHECK(tape.size() == 0);
  tape.backward(y, view(seed));
  CHECK(calls == 0);
  const Array<double> expected = solve<double>(x.rowwise() * model.scale.row(0), model.weight, 0);
  CHECK(same_bits(to_array(y), expected));
}

TEST_CASE("implicit: shapes that do not fit are refused", "[implicit]") {
  Tape<double> tape;
  const auto block = [&tape](Index n, Index m) { return tape.copy(Array<double>::Ones(n, m)); };
  const auto nothing = [](View<const double>, View<double>) {};
  CHECK(thrown_message<invalid_argument>([&] { implicit(block(4, 3).value(), block(4, 2), nothing); }) ==
        "implicit: the solution is 4 x 3, its residual 4 x 2");
  CHECK_THROWS_AS(implicit(block(5, 3).value(), block(4, 3), nothing), invalid_argument);
  // Where the slope is of another shape than the solution it would be read beyond its end.
  const auto flat = [&](const auto& y, const auto& x) { return RootEquation<Var<double>>{y - x, block(1, 3)}; };
  CHECK(contains(thrown_message<invalid_argument>([&] {
                   implicit_root<Var<double>>(block(4, 3).value(), flat, tape.variable(Array<double>::Ones(4, 3)));
                 }),
                 "implicit_root: the solution is 4 x 3, the slope 1 x 3"));
  const auto thin = [&](const auto& y, const auto& x) { return RootEquation<Var<double>>{sum_cols(y - x), y}; };
  CHECK_THROWS_AS(implicit_root<Var<double>>(block(4, 3).value(), thin, block(4, 3)), invalid_argument);
}

TEST_CASE("implicit_root: gradients, tangents and their gradients are central differences", "[implicit]") {
  const auto f = [](const auto& model, auto x) { return root(model, x[0], x[1]); };
  for (const Index n : {0, 1, 7, 65}) {
    CAPTURE(n);
    const std::vector in{gaussian<double>(n, 3, 0), gaussian<double>(n, 1, 1)};
    const auto gradients = testing::check_gradients(make_steep<double>(), f, in, {4, 0, 1});
    INFO(gradients.where);
    CHECK(gradients.max_error < 1e-7);
    const auto tangents = testing::check_tangents(make_steep<double>(), f, in, {4, 0, 1});
    INFO(tangents.where);
    CHECK(tangents.max_error < 1e-7);
    const auto mixed = testing::check_tangent_gradients(make_steep<double>(), f, in, {4, 0, 1});
    INFO(mixed.where);
    CHECK(mixed.max_error < 1e-6);
  }
}

TEMPLATE_TEST_CASE("implicit_root: value and derivatives in closed form", "[implicit]", float, double) {
  using S = TestType;
  // y + q y^3 = x with q = 1: dy/dx = 1 / (1 + 3 y^2), d2y/dx2 = -6 y / (1 + 3 y^2)^3.
  const Array<S> y{{S(-1.5), S(-0.25), S(0), S(0.5), S(2)}}, x = y + y.cube(), one = Array<S>::Ones(1, 5);
  const auto equation = []<class X>(const X& u, const X& a) {
    return RootEquation<X>{u + square(u) * u - a, square(u) * S(3) + S(1)};
  };
  const Array<S> first = 1 / (1 + 3 * y.square()), second = -6 * y * first.cube();
  const S eps = 20 * std::numeric_limits<S>::epsilon();
  Tape<S> tape;
  const Var<S> v = tape.variable(x);
  const auto dual = implicit_root<Dual<Var<S>>>(view(y), equation, Dual<Var<S>>{v, tape.copy(one)});
  CHECK((to_array(dual.value) == y).all());
  CHECK((to_array(dual.tangent) - first).abs().maxCoeff() <= eps);
  tape.backward(dual.tangent, view(one));
  CHECK((as_eigen(v.grad()) - second).abs().maxCoeff() <= eps);

  // Twice forward.
  using Twice = Dual<Dual<Var<S>>>;
  Tape<S> other;
  const Var<S> w = other.variable(x), unit = other.copy(one), none = zeros(w, 5);
  const Twice both = implicit_root<Twice>(view(y), equation, Twice{{w, unit}, {unit, none}});
  CHECK((to_array(both.tangent.tangent) - second).abs().maxCoeff() <= eps);
  other.backward(both.tangent.tangent, view(one));
  const Array<S> third = (90 * y.square() - 6) * first.pow(5);
  CHECK((as_eigen(w.grad()) - third).abs().maxCoeff() <= 10 * eps);
}

TEST_CASE("implicit_root: constants record nothing, parameters alone are enough", "[implicit]") {
  const Steep<double> model = make_steep<double>();
  const Array<double> x = gaussian<double>(20, 3, 0), c = gaussian<double>(20, 1, 1);
  Tape<double> tape;
  const Var<double> y = root(model, tape.copy(x), tape.copy(c));
  CHECK_FALSE(y.requires_grad());
  CHECK(tape.size() == 0);
  Array<double> values = parameters(model), grads = Array<double>::Zero(values.rows(), 1);
  const auto lifted = lift(tape, model, values.data(), grads.data());
  CHECK(root(lifted, tape.copy(x), tape.copy(c)).requires_grad());
}
