// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstring>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/nn/jacobian.hpp>
#include <diffeo/nn/linearised.hpp>
#include <diffeo/nn/mlp.hpp>
#include <limits>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "networks.hpp"

using namespace diffeo;

namespace {

template <Real S>
auto layers_of(const Mlp<S>& net, Tape<S>& tape) {
  return [&](std::size_t i) { return std::pair(as_var(tape, net.layers[i].weight), as_var(tape, net.layers[i].bias)); };
}

template <Real S>
Linearised<S> linearised(const Mlp<S>& net, Var<S> x) {
  return linearise(x, net.activation, net.layers.size(), layers_of(net, x.tape()));
}

}  // namespace

TEMPLATE_TEST_CASE("linearised: products with the Jacobian and its transpose", "[linearised]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  constexpr S eps = 200 * std::numeric_limits<S>::epsilon();
  for (std::size_t a = 0; a < std::size(activation_names); ++a)
    for (const auto& hidden : hidden_widths)
      for (const auto& [in, out] : {std::pair<Index, Index>{1, 1}, {2, 2}, {5, 3}, {3, 11}})
        for (const Index n : {0, 1, 7, 65}) {
          CAPTURE(std::string(activation_names[a]), hidden.size(), in, out, n);
          const Mlp<S> net = some_network<S>(in, out, hidden, static_cast<Activation>(a));
          Tape<S> tape;
          const Var<S> x = tape.copy(gaussian<S>(n, in, 0));
          const Linearised<S> jacobian = linearised(net, x);
          const MultiDual<S> dense =
              diffeo::detail::dense_with_jacobian<S>(x, net.activation, net.layers.size(), layers_of(net, tape));
          const Array<S> v = gaussian<S>(n, in, 1), w = gaussian<S>(n, out, 2);
          Array<S> forth = Array<S>::Zero(n, out), back(n, in);
          for (Index k = 0; k < in; ++k) {
            const auto block = as_eigen(diffeo::detail::stacked(dense.blocks.value(), dense, k + 1, n));
            forth += block.colwise() * v.col(k);
            back.col(k) = (block * w).rowwise().sum();
          }
          const auto near = [&](const Array<S>& got, const Array<S>& expected) {
            return got.rows() == n && got.cols() == expected.cols() &&
                   (n == 0 || (got - expected).abs().maxCoeff() <= eps * (1 + expected.abs().maxCoeff()));
          };
          // Any number of products from one pass.
          for (int k = 0; k < 2; ++k) {
            REQUIRE(near(to_array(jacobian.forward(tape.copy(v))), forth));
            REQUIRE(near(to_array(jacobian.transposed(tape.copy(w))), back));
          }
          REQUIRE(tape.size() == 0);
          if (n == 0) continue;
          // A row's bits do not depend on the other rows.
          const auto row = [n](const Array<S>& all) { return Array<S>(all.row(n / 2)); };
          const Linearised<S> alone = linearised(net, tape.copy(row(to_array(x))));
          REQUIRE((row(to_array(jacobian.forward(tape.copy(v)))) == to_array(alone.forward(tape.copy(row(v))))).all());
          REQUIRE((row(to_array(jacobian.transposed(tape.copy(w)))) == to_array(alone.transposed(tape.copy(row(w)))))
                      .all());
        }
}

TEST_CASE("linearised: forward is a derivative", "[linearised]") {
  const Mlp<double> net = some_network<double>(3, 4, {6, 5}, Activation::lip_swish);
  const Array<double> x = gaussian<double>(20, 3, 0), v = gaussian<double>(20, 3, 1);
  Tape<double> tape;
  const double h = 1e-5;
  const Array<double> difference =
      (to_array(net(tape.copy(x + h * v))) - to_array(net(tape.copy(x - h * v)))) / (2 * h);
  CHECK((to_array(linearised(net, tape.copy(x)).forward(tape.copy(v))) - difference).abs().maxCoeff() < 1e-8);
}

TEST_CASE("linearised: shapes that do not fit are refused", "[linearised]") {
  const Mlp<double> net = some_network<double>(3, 4, {6, 5}, Activation::tanh);
  Tape<double> tape;
  CHECK_THROWS_AS(linearised(net, tape.copy(gaussian<double>(7, 2, 0))), invalid_argument);
  const Linearised<double> jacobian = linearised(net, tape.copy(gaussian<double>(7, 3, 0)));
  CHECK_THROWS_AS(jacobian.forward(tape.copy(gaussian<double>(7, 4, 0))), invalid_argument);
  CHECK_THROWS_AS(jacobian.transposed(tape.copy(gaussian<double>(7, 3, 0))), invalid_argument);
  CHECK_THROWS_AS(jacobian.forward(tape.copy(gaussian<double>(6, 3, 0))), invalid_argument);
}
