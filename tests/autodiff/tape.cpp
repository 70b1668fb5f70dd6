// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstdint>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <vector>

#include "../catch.hpp"

using namespace diffeo;

namespace {
template <Real S>
Array<S> grad(Var<S> x) {
  return as_eigen(x.grad());
}
template <Real S>
Array<S> value(Var<S> x) {
  return as_eigen(x.value());
}
Array<double> ones(Index n, Index m) { return Array<double>::Ones(n, m); }

// Sweeps back from y with a seed of ones.
void sweep_from(Var<double> y) {
  const Array<double> seed = ones(y.rows(), y.cols());
  y.tape().backward(y, view(seed));
}
}  // namespace

TEMPLATE_TEST_CASE("tape: columns are aligned, padded and never a page apart", "[tape]", float, double) {
  using S = TestType;
  CHECK(Tape<S>::stride_for(0) == 0);
  CHECK(Tape<S>::stride_for(1) == 1);
  for (Index n = 2; n < 5000; ++n) {
    const Index stride = Tape<S>::stride_for(n);
    REQUIRE(stride >= n);
    REQUIRE(stride % simd::lanes<S> == 0);
    REQUIRE(stride * static_cast<Index>(sizeof(S)) % 4096 != 0);
  }
  Tape<S> tape;
  for (const Index n : {0, 1, 2, 17, 64}) {
    const Var<S> x = tape.make(n, 3, false);
    CHECK(reinterpret_cast<std::uintptr_t>(x.value().data) % 64 == 0);
    CHECK(x.rows() == n);
    CHECK(x.cols() == 3);
  }
}

TEMPLATE_TEST_CASE("tape: inputs are copied from any expression", "[tape]", float, double) {
  using S = TestType;
  Tape<S> tape;
  const Array<S> a = Array<S>::Random(5, 3);
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const RowMajor b = RowMajor::Random(5, 3);
  CHECK((value(tape.copy(a)) == a).all());
  CHECK((value(tape.copy(b)) == b.cast<S>().array()).all());
  CHECK((value(tape.variable(a.transpose() * S(2))) == a.transpose() * S(2)).all());
  CHECK((value(tape.copy(b.block(1, 1, 2, 2))) == b.block(1, 1, 2, 2).cast<S>().array()).all());
  CHECK(tape.constant(a).value().data == a.data());
  CHECK_FALSE(tape.copy(a).requires_grad());
  CHECK_FALSE(tape.constant(a).requires_grad());
  CHECK(tape.variable(a).requires_grad());
  CHECK_FALSE(Var<S>());
  CHECK(bool(tape.copy(a)));
  CHECK(tape.size() == 0);
}

TEST_CASE("tape: a variable has no gradient until one is brought", "[tape]") {
  Tape<double> tape;
  const Var<double> x = tape.variable(ones(4, 2)), unused = tape.variable(ones(4, 2));
  const Var<double> y = sum(x * 3.0);
  CHECK_FALSE(x.has_grad());
  sweep_from(y);
  CHECK(x.has_grad());
  CHECK((grad(x) == 3).all());
  CHECK_FALSE(unused.has_grad());
}

TEST_CASE("tape: the first contribution assigns", "[tape]") {
  Tape<double> tape;
  const Array<double> values = ones(1, 3);
  Array<double> w = values, dw = Array<double>::Constant(1, 3, std::nan(""));  // never read
  const Var<double> p = tape.parameter(view(w), dw.data());
  sweep_from(sum(p * 2.0));
  CHECK((dw == 2).all());
  CHECK(tape.grad_target(p).assign == false);

  const Var<double> x = tape.variable(ones(3, 2));
  CHECK(tape.grad_target(x).assign == true);
  CHECK(tape.grad_target(x).assign == false);
}

TEST_CASE("tape: gradients add up over several sweeps until reset", "[tape]") {
  Tape<double> tape;
  Array<double> w = ones(1, 2), dw(1, 2);
  const Var<double> p = tape.parameter(view(w), dw.data());
  const Var<double> x = tape.variable(Array<double>::Constant(3, 2, 2.0));
  const Var<double> y = square(x) * p, z = x * p;
  sweep_from(y);
  CHECK((grad(x) == 4).all());
  CHECK((dw == 12).all());
  CHECK_FALSE(y.has_grad());  // of intermediate values nothing stays
  sweep_from(y);
  CHECK((grad(x) == 8).all());
  CHECK((dw == 24).all());
  sweep_from(z);
  CHECK((grad(x) == 9).all());
  CHECK((dw == 30).all());

  // The variables are gone with a reset; a parameter and what it has been brought stay.
  tape.reset();
  CHECK(tape.size() == 0);
  CHECK(p.has_grad());
  const Var<double> again = tape.variable(Array<double>::Constant(3, 2, 2.0));
  CHECK_FALSE(again.has_grad());
  sweep_from(again * p);
  CHECK((grad(again) == 1).all());
  CHECK((dw == 36).all());
}

TEST_CASE("tape: sweeps start anywhere", "[tape]") {
  Tape<double> tape;
  const Var<double> x = tape.variable(Array<double>::Constant(2, 3, 2.0));
  const Var<double> a = square(x);
  const Var<double> b = exp(a);  // recorded later, not reached
  sweep_from(a);
  CHECK((grad(x) == 4).all());
  CHECK_FALSE(b.has_grad());

  // From an input itself, from a block of columns, and from a constant.
  sweep_from(x);
  CHECK((grad(x) == 5).all());
  sweep_from(cols(x, 1, 1));
  CHECK((grad(x) == (Array<double>(2, 3) << 5, 6, 5, 5, 6, 5).finished()).all());
  CHECK_NOTHROW(sweep_from(tape.copy(ones(2, 3))));
  sweep_from(cols(a, 2, 1));
  CHECK((grad(x) == (Array<double>(2, 3) << 5, 6, 9, 5, 6, 9).finished()).all());

  const Array<double> wrong = ones(3, 2);
  CHECK(thrown_message<invalid_argument>([&] { tape.backward(a, view(wrong)); }) ==
        "Tape::backward: seed is 3 x 2, expected 2 x 3");
}

TEST_CASE("tape: blocks of columns share one gradient", "[tape]") {
  Tape<double> tape;
  const Array<double> x0 = Array<double>::Random(19, 5);
  const Var<double> x = tape.variable(x0);
  const Var<double> left = cols(x, 0, 3), right = cols(x, 2, 3), inner = cols(right, 1, 1);  // overlapping, nested
  sweep_from(sum(square(left)) + sum(right * 3.0) + sum(inner * 10.0) + sum(x));
  Array<double> expected = ones(19, 5);
  expected.leftCols(3) += 2 * x0.leftCols(3);
  expected.rightCols(3) += 3;
  expected.col(3) += 10;
  CHECK((grad(x) - expected).abs().maxCoeff() < 1e-14);

  // Blocks of an intermediate value, of which some columns are not used, after other values died in the same memory.
  tape.reset();
  const Var<double> v = tape.variable(x0);
  const Var<double> y = exp(v * 1.0);
  sweep_from(sum(cols(y, 1, 1)) + sum(square(cols(y, 3, 2))));
  expected.setZero();
  expected.col(1) = x0.col(1).exp();
  expected.rightCols(2) = 2 * (2 * x0.rightCols(2)).exp();
  CHECK((grad(v) - expected).abs().maxCoeff() < 1e-13);

  // Of a parameter.
  Array<double> w = ones(2, 3), dw = Array<double>::Constant(2, 3, std::nan(""));
  const Var<double> p = tape.parameter(view(w), dw.data());
  sweep_from(sum(cols(p, 1, 1) * 4.0));
  CHECK((dw == (Array<double>(2, 3) << 0, 4, 0, 0, 4, 0).finished()).all());
}

TEST_CASE("tape: a long chain needs no stack", "[tape]") {
  Tape<double> tape;
  for (int round = 0; round < 2; ++round) {
    tape.reset();
    const Var<double> x = tape.variable(ones(3, 2));
    Var<double> y = x;
    for (int k = 0; k < 10000; ++k) y = y * 1.0001 + 0.5;
    CHECK(tape.size() == 20000);
    sweep_from(y);
    CHECK(grad(x)(2, 1) == Approx(std::pow(1.0001, 10000)).epsilon(1e-10));
  }
}

TEST_CASE("tape: reset keeps the memory", "[tape]") {
  Tape<double> tape;
  const auto work = [&tape] {
    tape.reset();
    const Var<double> x = tape.variable(ones(64, 8));
    Var<double> y = x;
    for (int k = 0; k < 100; ++k) y = tanh(y) + y;
    sweep_from(y);
    return x.value().data;
  };
  work();
  const double* second = work();
  for (int k = 0; k < 5; ++k) CHECK(work() == second);
}

TEST_CASE("tape: marks give back the memory of constants", "[tape]") {
  Tape<double> tape;
  const Var<double> kept = tape.copy(ones(64, 4));
  const auto mark = tape.mark();
  const double* first = exp(kept).value().data;
  for (int k = 0; k < 10; ++k) {
    tape.release(mark);
    CHECK(exp(kept).value().data == first);
  }
  CHECK((value(kept) == 1).all());
}

TEST_CASE("tape: an op of one's own with two outputs", "[tape]") {
  // (sin x, cos x), whose adjoint is g1 cos x - g2 sin x; either output may be without gradient.
  Tape<double> tape;
  const auto sin_cos = [&tape](Var<double> x) {
    const Var<double> s = tape.make(x.rows(), x.cols(), true), c = tape.make(x.rows(), x.cols(), true);
    as_eigen(tape.mutable_value(s)) = as_eigen(x.value()).sin();
    as_eigen(tape.mutable_value(c)) = as_eigen(x.value()).cos();
    tape.on_backward({s, c}, [=] {
      if (s.has_grad())
        add_grad(
            x, [](auto g, auto v) { return g * v; }, s.grad(), c.value());
      if (c.has_grad())
        add_grad(
            x, [](auto g, auto v) { return -g * v; }, c.grad(), s.value());
    });
    return std::pair(s, c);
  };
  const Array<double> x0 = Array<double>::Random(7, 2);
  const Var<double> x = tape.variable(x0);
  const auto [s, c] = sin_cos(x);
  sweep_from(c);
  CHECK((grad(x) + x0.sin()).abs().maxCoeff() < 1e-15);
  sweep_from(s);
  CHECK((grad(x) + x0.sin() - x0.cos()).abs().maxCoeff() < 1e-15);
  sweep_from(s * c);  // derivative cos 2x
  CHECK((grad(x) + x0.sin() - x0.cos() - (2 * x0).cos()).abs().maxCoeff() < 1e-14);
}

TEST_CASE("tape: a variable shared with another tape", "[tape]") {
  Tape<double> tape, other;
  const Array<double> x0 = Array<double>::Random(19, 3), c = Array<double>::Random(19, 3);
  Array<double> w = Array<double>::Random(1, 3), dw = Array<double>::Constant(1, 3, std::nan(""));
  const Var<double> x = tape.variable(x0), p = tape.parameter(view(w), dw.data());
  // With nothing brought the gradient is zero.
  const Var<double> same_x = other.shared(x), same_p = other.shared(p);
  CHECK(same_x.requires_grad());
  CHECK(&same_x.tape() == &other);
  CHECK(same_x.value().data == x.value().data);
  CHECK((grad(x) == 0).all());
  CHECK((dw == 0).all());
  sweep_from(sum(same_x * same_p));
  CHECK((grad(x) - w.replicate(19, 1)).abs().maxCoeff() < 1e-15);
  CHECK((dw - x0.colwise().sum()).abs().maxCoeff() < 1e-14);
  // Both tapes add to it, in any order, and a second handle does not begin anew.
  sweep_from(sum(x * 2.0));
  other.reset();
  sweep_from(sum(other.shared(x) * 3.0));
  CHECK((grad(x) - w.replicate(19, 1) - 5).abs().maxCoeff() < 1e-14);

  // Of a value computed there, while its own adjoint still has to run; of a block of columns.
  tape.reset();
  other.reset();
  const Var<double> v = tape.variable(x0), e = exp(v), block = cols(e, 1, 2);
  const Var<double> out = tape.make(19, 1, true);
  as_eigen(tape.mutable_value(out)).setZero();
  tape.on_backward({out}, [&other, e, block] {
    sweep_from(sum_cols(square(other.shared(e))));
    sweep_from(sum_cols(other.shared(block)));
  });
  sweep_from(out);
  Array<double> expected = 2 * (2 * x0).exp();
  expected.rightCols(2) += x0.rightCols(2).exp();
  CHECK((grad(v) - expected).abs().maxCoeff() < 1e-13);
}

TEST_CASE("tape: rewound to a mark", "[tape]") {
  Tape<double> tape;
  const Array<double> x0 = Array<double>::Random(30, 2);
  Array<double> w = Array<double>::Random(1, 2), dw = Array<double>::Zero(1, 2);
  const Var<double> p = tape.parameter(view(w), dw.data()), kept = tape.copy(x0);
  tape.redirect_parameter_grads(dw.data());
  const auto mark = tape.mark();
  const double* first = nullptr;
  for (int round = 1; round <= 5; ++round) {
    const Var<double> x = tape.make(30, 2, true);
    if (!first) first = x.value().data;
    CHECK(x.value().data == first);  // no more memory in any round
    as_eigen(tape.mutable_value(x)) = x0;
    const Var<double> y = tanh(x * p) * kept;
    CHECK(tape.size() > 0);
    sweep_from(sum(y));
    const Array<double> slope = (1 - (x0 * w.replicate(30, 1)).tanh().square()) * x0;
    CHECK((grad(x) - slope * w.replicate(30, 1)).abs().maxCoeff() < 1e-14);
    CHECK((dw - round * (slope * x0).colwise().sum()).abs().maxCoeff() < 1e-13);  // of parameters gradients stay
    tape.rewind(mark);
    CHECK(tape.size() == 0);
    CHECK((value(kept) == x0).all());
  }
}

TEST_CASE("tape: rows at the end of a caller's array are read no further than they reach", "[tape]") {
  // Rows 990 to 999 of 1000: what follows the last of them is not the array's. The address sanitizer sees reads there.
  constexpr Index rows = 10, stride = 1000, inputs = 9;
  const Array<double> x = Array<double>::Random(stride, inputs), w = Array<double>::Random(7, inputs),
                      b = Array<double>::Random(1, 7);
  Tape<double> tape;
  const View<const double> block{x.data() + (stride - rows), rows, inputs, stride};
  const Array<double> expected = (as_eigen(block).matrix() * w.matrix().transpose()).array() + b.replicate(rows, 1);
  for (const bool recorded : {false, true}) {
    const Var<double> in = recorded ? tape.alias(block, true) : tape.constant(block);
    CHECK_FALSE(in.padded());
    CHECK_FALSE(cols(in, 1, 5).padded());
    const Var<double> y = affine(in, w, b, Activation::identity);
    CHECK((value(y) - expected).abs().maxCoeff() < 1e-12);
    const Var<double> part = linear(cols(in, 0, inputs), tape.variable(w));
    CHECK((value(part) + b.replicate(rows, 1) - expected).abs().maxCoeff() < 1e-12);
    sweep_from(sum(part));
  }
  CHECK(tape.make(rows, 2, false).padded());
  CHECK(cols(tape.copy(x), 2, 3).padded());
}

TEST_CASE("tape: only values that the tape has allocated are written", "[tape]") {
  const Array<double> x = ones(4, 3);
  Array<double> w = ones(1, 3), dw(1, 3);
  Tape<double> tape;
  const Var<double> made = tape.make(4, 3, false);
  CHECK(tape.mutable_value(made).data == made.value().data);
  CHECK(tape.mutable_value(cols(made, 1, 1)).data == made.value().col(1));
  const std::string message = "Tape::mutable_value: the value lies in memory of the caller, which is read only";
  const auto refused = [&](const Var<double>& v) {
    return thrown_message<invalid_argument>([&] { tape.mutable_value(v); }) == message;
  };
  CHECK(refused(tape.constant(x)));
  CHECK(refused(cols(tape.constant(x), 1, 2)));
  CHECK(refused(tape.alias(view(x), true)));
  CHECK(refused(tape.persistent_constant(view(x))));
  CHECK(refused(tape.parameter(view(w), dw.data())));
}

TEST_CASE("tape: an operation has at most two outputs", "[tape]") {
  Tape<double> tape;
  const Var<double> a = tape.make(2, 2, true), b = tape.make(2, 2, true), c = tape.make(2, 2, true);
  CHECK(thrown_message<invalid_argument>([&] {
          tape.on_backward({a, b, c}, [] {});
        }) == "Tape::on_backward: 3 outputs, expected at most 2");
  CHECK(tape.size() == 0);
}
