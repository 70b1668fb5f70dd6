// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>

#include "../catch.hpp"

using namespace diffeo;

static_assert(std::is_same_v<param_t<float>, Array<float>>);
static_assert(std::is_same_v<param_t<Var<double>>, Var<double>>);
static_assert(std::is_same_v<scalar_t<double>, double>);
static_assert(std::is_same_v<scalar_t<Var<float>>, float>);

// What may stand beside a traced value.
static_assert(ParameterFor<Array<double>, Var<double>>);
static_assert(ParameterFor<Buffer<double>, Var<double>>);
static_assert(ParameterFor<Buffer<Var<double>>, Dual<Var<double>>>);
static_assert(ParameterFor<Var<double>, Dual<Var<double>>>);
static_assert(!ParameterFor<Var<double>, Var<double>>);
static_assert(!ParameterFor<Dual<Var<double>>, Var<double>>);
static_assert(!ParameterFor<Array<float>, Var<double>>);
static_assert(!ParameterFor<double, Var<double>>);
static_assert(!ParameterFor<Array<double>, Array<double>>);

namespace {
void backward(Var<double> y) {
  const Array<double> seed = Array<double>::Ones(y.rows(), y.cols());
  y.tape().backward(y, view(seed));
}
}  // namespace

TEST_CASE("parameters: outlive reset, share one flat gradient and start it anew where redirected", "[parameter]") {
  Tape<double> tape;
  Array<double> values{{1}, {2}, {3}, {4}, {5}, {6}, {7}};
  const Var<double> a = tape.parameter({values.data(), 2, 2, 2}, nullptr),
                    constant = tape.persistent_constant({values.data(), 1, 2, 1}),
                    b = tape.parameter({values.data() + 4, 1, 3, 1}, nullptr);
  Array<double> first = Array<double>::Constant(7, 1, std::nan("")), second = first;

  tape.redirect_parameter_grads(first.data());
  CHECK_FALSE(a.has_grad());
  backward(sum(b * 2.0));
  CHECK_FALSE(a.has_grad());
  CHECK(b.has_grad());
  CHECK(std::isnan(first(0)));  // not written before the end
  tape.finish_parameter_grads();
  CHECK(a.has_grad());
  CHECK((first == (Array<double>(7, 1) << 0, 0, 0, 0, 2, 2, 2).finished()).all());

  // Another sweep adds, also over a reset.
  tape.reset();
  backward(sum(a * 3.0) + sum(b) + sum(constant));
  CHECK((first == (Array<double>(7, 1) << 3, 3, 3, 3, 3, 3, 3).finished()).all());

  tape.redirect_parameter_grads(second.data());
  tape.reset();
  backward(sum(square(a)));
  tape.finish_parameter_grads();
  CHECK((second == (Array<double>(7, 1) << 2, 4, 6, 8, 0, 0, 0).finished()).all());
  CHECK((first == 3).all());
  CHECK_FALSE(constant.has_grad());
}

TEST_CASE("parameters: without memory for gradients there are none", "[parameter]") {
  Tape<double> tape;
  Array<double> values = Array<double>::Ones(1, 3), grads(1, 3);
  const Var<double> p = tape.parameter(view(values), nullptr);
  CHECK(as_eigen(sum(p).value())(0, 0) == 3);
  CHECK(contains(thrown_message<invalid_argument>([&] { backward(sum(p)); }), "redirect_parameter_grads"));
  CHECK_THROWS_AS(backward(sum(cols(p, 1, 1) * 2.0)), invalid_argument);
  tape.redirect_parameter_grads(grads.data());
  tape.reset();
  backward(sum(p));
  CHECK((grads == 1).all());
  Array<double> none(0, 3);
  CHECK_NOTHROW(backward(tape.parameter(view(none), none.data()) * 2.0));
}

TEST_CASE("parameters: refer to the caller's values", "[parameter]") {
  Tape<double> tape;
  Array<double> values = Array<double>::Ones(1, 3), grads(1, 3);
  const Var<double> p = tape.parameter(view(values), grads.data());
  CHECK(as_eigen(sum(p).value())(0, 0) == 3);
  values = 2;
  tape.reset();
  CHECK(as_eigen(sum(p).value())(0, 0) == 6);
  CHECK(thrown_message<invalid_argument>([&] {
          tape.parameter({values.data(), 1, 2, 2}, nullptr);
        }) == "Tape::parameter: expected contiguous values");
}

TEST_CASE("parameters: arrays and buffers beside traced values are constants", "[parameter]") {
  Tape<double> tape;
  const Array<double> w = Array<double>::Constant(1, 2, 5.0);
  const Buffer<double> b{w};
  CHECK(as_var(tape, w).value().data == w.data());
  CHECK(as_var(tape, b).value().data == b.value.data());
  CHECK_FALSE(as_var(tape, b).requires_grad());
  const Var<double> v = tape.variable(w);
  CHECK(as_var(tape, v).value().data == v.value().data);
  CHECK(as_var(tape, Buffer<Var<double>>{v}).value().data == v.value().data);
}

TEST_CASE("parameters: temporary arrays are copied", "[parameter]") {
  Tape<double> tape;
  const Array<double> x = Array<double>::Random(5, 4), ones = Array<double>::Ones(5, 4);
  const Var<double> v = tape.variable(x);
  const Var<double> a = as_var(tape, Array<double>(Array<double>::Constant(5, 4, 3.0))),
                    y = v * Array<double>(Array<double>::Constant(5, 4, 2.0)) / Array<double>(ones * 4.0) +
                        Array<double>(ones * 5.0) - tape.constant(Array<double>(ones * 6.0));
  const auto three = [&]() -> const Array<double> { return ones * 3.0; };
  const Var<double> left = Array<double>(ones * 2.0) * v + Array<double>(ones * 7.0) - three(),
                    buffer = v + Buffer<double>{ones * 4.0};
  std::vector<Array<double>> others;  // to take the memory of what is gone
  for (int i = 0; i < 50; ++i) others.push_back(Array<double>::Constant(5, 4, 1000.0));
  CHECK((as_eigen(a.value()) == 3).all());
  CHECK((as_eigen(y.value()) - (x * 0.5 - 1)).abs().maxCoeff() < 1e-14);
  CHECK((as_eigen(left.value()) - (x * 2.0 + 4.0)).abs().maxCoeff() < 1e-14);
  CHECK((as_eigen(buffer.value()) - (x + 4.0)).abs().maxCoeff() < 1e-14);
  backward(y);
  CHECK((as_eigen(v.grad()) == 0.5).all());
}
