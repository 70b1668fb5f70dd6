// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/ops/surrogate.hpp>

#include "../catch.hpp"

using namespace diffeo;

TEMPLATE_TEST_CASE("values of one computation with the gradient of another", "[autodiff]", float, double) {
  using S = TestType;
  const Array<S> at = Array<S>::Random(20, 3), ones = Array<S>::Ones(20, 3);
  Tape<S> tape;
  const Var<S> x = tape.variable(at), u = tape.variable(at);
  const Var<S> y = with_gradient_of(exp(u), square(x));
  CHECK((as_eigen(y.value()) == as_eigen(exp(u).value())).all());
  tape.backward(y, view(ones));
  CHECK((as_eigen(x.grad()) == S(2) * at).all());
  CHECK_FALSE(u.has_grad());

  // Of constants nothing is recorded.
  tape.reset();
  const Var<S> c = tape.copy(at);
  CHECK_FALSE(with_gradient_of(tape.variable(at), c).requires_grad());
  CHECK(contains(thrown_message<invalid_argument>([&] { with_gradient_of(c, tape.copy(at.leftCols(2))); }),
                 "values are 20 x 3, the source of gradients 20 x 2"));
}
