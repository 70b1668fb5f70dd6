// SPDX-License-Identifier: MIT
#include <Eigen/LU>
#include <cmath>
#include <cstring>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/nn/jacobian.hpp>
#include <diffeo/nn/mlp.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "networks.hpp"

using namespace diffeo;

namespace {

constexpr Activation smooth[] = {Activation::identity, Activation::tanh,      Activation::softplus,
                                 Activation::silu,     Activation::lip_swish, Activation::sin};
constexpr Activation kinked[] = {Activation::relu, Activation::leaky_relu, Activation::elu, Activation::selu};
constexpr Index batches[] = {0, 1, 7, 64, 65};

template <class M, Real S>
MultiDual<S> with_jacobian(const M& net, Var<S> x) {
  return diffeo::detail::dense_with_jacobian<S>(x, net.activation, net.layers.size(), [&](std::size_t i) {
    return std::pair(as_var(x.tape(), net.layers[i].weight), as_var(x.tape(), net.layers[i].bias));
  });
}

// The derivatives along direction k as a value.
template <Real S>
Var<S> along(const MultiDual<S>& x, Index k) {
  Tape<S>& tape = x.tape();
  const Var<S> y = tape.make(x.rows, x.cols(), x.blocks.requires_grad());
  math::map(
      tape.mutable_value(y), [](auto v) { return v; }, diffeo::detail::stacked(x.blocks.value(), x, k + 1, x.rows));
  if (y.requires_grad())
    tape.on_backward({y}, [x, y, k] {
      const GradTarget<S> target = diffeo::detail::zeroed_target(x.blocks);
      math::map_add(
          diffeo::detail::stacked(target.grad, x, k + 1, x.rows), false, [](auto g) { return g; }, y.grad());
    });
  return y;
}

template <Real S>
Var<S> everything(const MultiDual<S>& g) {
  Var<S> all = value_of(g);
  for (Index k = 0; k < g.directions; ++k) all = concat(all, along(g, k));
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("jacobian: values are the network's, derivatives those of one Dual pass each", "[jacobian]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  constexpr S eps = 200 * std::numeric_limits<S>::epsilon();
  for (std::size_t a = 0; a < std::size(activation_names); ++a)
    for (const auto& hidden : hidden_widths)
      for (const Index dim : {1, 2, 5, 11})
        for (const Index n : batches) {
          CAPTURE(std::string(activation_names[a]), hidden.size(), dim, n);
          const Index outputs = n == 7 ? 3 : dim;  // they need not be square
          const Mlp<S> net = some_network<S>(dim, outputs, hidden, static_cast<Activation>(a));
          const Array<S> x = gaussian<S>(n, dim, 0);
          Tape<S> tape;
          const Var<S> v = tape.copy(x);
          const MultiDual<S> g = with_jacobian(net, v);
          REQUIRE(g.rows == n);
          REQUIRE(g.directions == dim);
          REQUIRE(g.cols() == outputs);
          REQUIRE(tape.size() == 0);  // constants record nothing
          const auto near = [&](const Array<S>& got, const Array<S>& expected) {
            return got.rows() == n && got.cols() == outputs &&
                   (n == 0 || (got - expected).abs().maxCoeff() <= eps * (1 + expected.abs().maxCoeff()));
          };
          REQUIRE(near(to_array(value_of(g)), to_array(net(v))));
          for (Index k = 0; k < dim; ++k) {
            Array<S> direction = Array<S>::Zero(n, dim);
            direction.col(k).setOnes();
            const Dual<Var<S>> one = net(Dual<Var<S>>{v, tape.copy(direction)});
            REQUIRE(near(to_array(along(g, k)), to_array(one.tangent)));
          }
          if (outputs != dim) {
            REQUIRE(thrown_message<invalid_argument>([&] { log_det_identity_plus(g); }) ==
                    "log_det_identity_plus: 3 columns and " + std::to_string(dim) + " directions");
            continue;
          }
          const Array<S> log_det = to_array(log_det_identity_plus(g));
          REQUIRE(tape.size() == 0);
          REQUIRE(log_det.rows() == n);
          for (Index i = 0; i < n; ++i) {
            Eigen::MatrixXd j(dim, dim);
            for (Index k = 0; k < dim; ++k) j.col(k) = to_array(along(g, k)).row(i).template cast<double>().transpose();
            j.diagonal().array() += 1;
            const Eigen::FullPivLU<Eigen::MatrixXd> lu(j);
            const double condition = j.norm() * lu.inverse().norm();
            REQUIRE(std::abs(double(log_det(i)) - std::log(std::abs(lu.determinant()))) <= double(eps) * condition);
          }
        }
}

TEST_CASE("jacobian: a first bias with a row for each sample", "[jacobian]") {
  // Behind a first layer that is nothing but weights, and behind one whose inputs are a stack already.
  for (const bool stacked : {false, true})
    for (const std::vector<Index>& hidden : std::vector<std::vector<Index>>{{}, {6}, {6, 5}})
      for (const Index n : {Index{1}, Index{7}, Index{65}}) {
        CAPTURE(stacked, hidden.size(), n);
        const Mlp<double> net = some_network<double>(3, 3, hidden, Activation::tanh);
        const Index outputs = net.layers.front().outputs();
        const auto jacobian = [stacked](const auto& model, const Var<double>& x, const Var<double>& bias) {
          Tape<double>& tape = x.tape();
          const auto layer = [&](std::size_t i) {
            return std::pair(as_var(tape, model.layers[i].weight), i == 0 ? bias : as_var(tape, model.layers[i].bias));
          };
          if (!stacked)
            return diffeo::detail::dense_with_jacobian<double>(x, model.activation, model.layers.size(), layer);
          const auto [w, b] = layer(0);
          return diffeo::detail::hidden_product<double>({x, diffeo::detail::identity_matrix(tape, 3), {}},
                                                        Activation::sin, w, b);
        };
        Tape<double> tape;
        const Var<double> x = tape.copy(gaussian<double>(n, 3, 0)), one = tape.copy(gaussian<double>(1, outputs, 1));
        const Var<double> each = tape.copy(to_array(one).replicate(n, 1));
        CHECK(same_bits(to_array(everything(jacobian(net, x, each))), to_array(everything(jacobian(net, x, one)))));
        const std::vector in{gaussian<double>(n, 3, 0), gaussian<double>(n, outputs, 1)};
        const auto check = testing::check_gradients(
            net, [&](const auto& model, auto v) { return everything(jacobian(model, v[0], v[1])); }, in, {1, 0, 2});
        INFO(check.where);
        CHECK(check.max_error < 1e-6);
      }
}

TEST_CASE("jacobian: gradients of value, derivatives and log-determinant are central differences", "[jacobian]") {
  const auto check = [](Activation a, const std::vector<Index>& hidden, Index dim, Index n) {
    CAPTURE(std::string(to_string(a)), hidden.size(), dim, n);
    const std::vector in{gaussian<double>(n, dim, 0)};
    const Mlp<double> net = some_network<double>(dim, dim, hidden, a);
    const auto value = testing::check_gradients(
        net, [](const auto& model, auto x) { return value_of(with_jacobian(model, x[0])); }, in, {1, 0, 2});
    INFO(value.where);
    CHECK(value.max_error < 1e-6);
    // A random functional of value and all derivatives at once.
    const auto all = testing::check_gradients(
        net, [](const auto& model, auto x) { return everything(with_jacobian(model, x[0])); }, in, {1, 0, 2});
    INFO(all.where);
    CHECK(all.max_error < 1e-6);
    // The derivatives alone, so that the value's block has no gradient of its own.
    const auto last = testing::check_gradients(
        net, [dim](const auto& model, auto x) { return along(with_jacobian(model, x[0]), dim - 1); }, in, {1, 0, 2});
    INFO(last.where);
    CHECK(last.max_error < 1e-6);
    // |J| < 1, so that the determinant is away from 0.
    Mlp<double> small = net;
    for (auto& layer : small.layers) layer.weight *= 0.4;
    const auto log_det = testing::check_gradients(
        small, [](const auto& model, auto x) { return log_det_identity_plus(with_jacobian(model, x[0])); }, in,
        {1, 0, 2});
    INFO(log_det.where);
    CHECK(log_det.max_error < 1e-6);
    // Both at once: adjoints of one block add up.
    const auto both = testing::check_gradients(small,
                                               [](const auto& model, auto x) {
                                                 const auto g = with_jacobian(model, x[0]);
                                                 return concat(x[0] + value_of(g),
                                                               log_det_identity_plus(g) + log_det_identity_plus(g));
                                               },
                                               in, {1, 0, 2});
    INFO(both.where);
    CHECK(both.max_error < 1e-6);
  };
  for (const Activation a : smooth)
    for (const auto& hidden : hidden_widths)
      for (const Index dim : {1, 2, 5, 11})
        for (const Index n : batches) check(a, hidden, dim, n);
  for (const Activation a : kinked)
    for (const auto& hidden : hidden_widths)
      for (const Index dim : {1, 2, 11})
        for (const Index n : {1, 7}) check(a, hidden, dim, n);
}

TEST_CASE("jacobian: a network in the middle of others", "[jacobian]") {
  // The argument is itself recorded, and used again.
  const Mlp<double> net = some_network<double>(3, 3, {5, 4}, Activation::tanh);
  const auto f = [](const auto& model, auto x) {
    const auto once = model(x[0]);
    const auto g = with_jacobian(model, once * once);
    return concat(once * value_of(g), log_det_identity_plus(g));
  };
  const auto check = testing::check_gradients(net, f, std::vector{gaussian<double>(19, 3, 0)}, {4, 0, 2});
  INFO(check.where);
  CHECK(check.max_error < 1e-6);
}

TEST_CASE("jacobian: only what wants a gradient gets one", "[jacobian]") {
  const Mlp<double> net = some_network<double>(3, 3, {5, 4}, Activation::tanh);
  const Array<double> x = gaussian<double>(19, 3, 0), seed = gaussian<double>(19, 1, 1);
  const auto run = [&](unsigned wanted, std::vector<Array<double>>& grads) {
    Tape<double> tape;
    Mlp<Var<double>> lifted = net.rebind<Var<double>>();
    std::vector<Var<double>> leaves;
    unsigned bit = 0;
    const auto leaf = [&](const Array<double>& a) {
      leaves.push_back((wanted >> bit++) & 1 ? tape.variable(a) : tape.copy(a));
      return leaves.back();
    };
    const Var<double> v = leaf(x);
    for (std::size_t i = 0; i < 3; ++i) lifted.layers[i] = {leaf(net.layers[i].weight), leaf(net.layers[i].bias)};
    const MultiDual<double> g = with_jacobian(lifted, v);
    const Var<double> y = log_det_identity_plus(g) + sum_cols(value_of(g));
    REQUIRE(y.requires_grad() == (wanted != 0));
    if (wanted == 0) REQUIRE(tape.size() == 0);
    tape.backward(y, view(seed));
    grads.clear();
    for (std::size_t k = 0; k < leaves.size(); ++k) {
      REQUIRE(leaves[k].has_grad() == ((wanted >> k) & 1));
      grads.push_back(leaves[k].has_grad() ? Array<double>(as_eigen(leaves[k].grad())) : Array<double>());
    }
  };
  std::vector<Array<double>> all, some;
  run(127, all);
  for (unsigned wanted = 0; wanted < 128; ++wanted) {
    CAPTURE(wanted);
    run(wanted, some);
    for (std::size_t k = 0; k < 7; ++k)
      if ((wanted >> k) & 1) REQUIRE((some[k] - all[k]).abs().maxCoeff() <= 1e-12 * (1 + all[k].abs().maxCoeff()));
  }
}

TEST_CASE("jacobian: float gradients are those in double", "[jacobian]") {
  const auto gradients = []<class S>(S, Activation a, const std::vector<Index>& hidden, Index dim, Index n) {
    const Mlp<float> single = some_network<float>(dim, dim, hidden, a);
    Mlp<S> net{{}, a};
    for (const auto& layer : single.layers)
      net.layers.push_back({layer.weight.template cast<S>() * S(0.5), layer.bias.template cast<S>()});
    Array<S> values = parameters(net), grads = Array<S>::Zero(values.rows(), 1);
    const Array<S> x = gaussian<float>(n, dim, 0).template cast<S>(),
                   seed = gaussian<float>(n, 1, 1).template cast<S>();
    Tape<S> tape;
    const auto lifted = lift(tape, net, values.data(), grads.data());
    const Var<S> v = tape.variable(x);
    const MultiDual<S> g = with_jacobian(lifted, v);
    tape.backward(log_det_identity_plus(g) + sum_cols(value_of(g)), view(seed));
    tape.finish_parameter_grads();
    Array<double> all(grads.size() + x.size(), 1);
    all << grads.template cast<double>(), as_eigen(v.grad()).template cast<double>().reshaped();
    return all;
  };
  for (const Activation a : smooth)
    for (const auto& hidden : hidden_widths)
      for (const Index dim : {1, 2, 5, 11})
        for (const Index n : {1, 7, 65}) {
          const Array<double> in_float = gradients(1.0f, a, hidden, dim, n),
                              in_double = gradients(1.0, a, hidden, dim, n);
          CAPTURE(std::string(to_string(a)), hidden.size(), dim, n);
          CHECK((in_float - in_double).abs().maxCoeff() < 2e-5 * in_double.abs().maxCoeff());
        }
}

TEMPLATE_TEST_CASE("jacobian: a row's bits do not depend on the other rows", "[jacobian]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const auto& hidden : hidden_widths)
    for (const Index dim : {1, 2, 5, 11}) {
      const Mlp<S> net = some_network<S>(dim, dim, hidden, Activation::lip_swish);
      const Array<S> x = gaussian<S>(65, dim, 0);
      const auto result = [&](const Array<S>& at) {
        Tape<S> tape;
        const MultiDual<S> g = with_jacobian(net, tape.copy(at));
        return to_array(concat(everything(g), log_det_identity_plus(g)));
      };
      const Array<S> whole = result(x);
      for (const Index row : {0, 13, 64}) {
        CAPTURE(hidden.size(), dim, row);
        CHECK(same_bits<S>(whole.row(row), result(x.row(row))));
        CHECK(same_bits<S>(whole.bottomRows(65 - row), result(x.bottomRows(65 - row))));
      }
    }
}

TEST_CASE("jacobian: trace and norm of the Jacobian in the first columns of the argument", "[jacobian]") {
  const auto in_first = [](const auto& model, const auto& x, Index directions) {
    return diffeo::detail::dense_with_jacobian<double>(
        x, model.activation, model.layers.size(),
        [&](std::size_t i) {
          return std::pair(as_var(x.tape(), model.layers[i].weight), as_var(x.tape(), model.layers[i].bias));
        },
        directions);
  };
  for (const auto& hidden : hidden_widths)
    for (const Index dim : {1, 2, 11})
      for (const Index n : batches) {
        CAPTURE(hidden.size(), dim, n);
        const Mlp<double> net = some_network<double>(dim + 2, dim, hidden, Activation::tanh);
        const Array<double> x = gaussian<double>(n, dim + 2, 0);
        Tape<double> tape;
        const Var<double> v = tape.copy(x);
        const MultiDual<double> g = in_first(net, v, dim);
        REQUIRE(g.directions == dim);
        const MultiDual<double> whole = with_jacobian(net, v);
        Array<double> trace = Array<double>::Zero(n, 1), squares = trace;
        for (Index k = 0; k < dim; ++k) {
          const Array<double> column = to_array(along(whole, k));
          trace += column.col(k);
          squares += column.square().rowwise().sum();
        }
        const Array<double> got = to_array(trace_of(g)), norm = to_array(squared_norm_of(g));
        REQUIRE(got.rows() == n);
        REQUIRE(norm.rows() == n);
        if (n > 0) {
          CHECK((got - trace).abs().maxCoeff() < 1e-12);
          CHECK((norm - squares).abs().maxCoeff() < 1e-12 * (1 + squares.maxCoeff()));
        }
        CHECK(tape.size() == 0);
        const auto check =
            testing::check_gradients(net,
                                     [&](const auto& model, auto at) {
                                       const auto all = in_first(model, at[0], dim);
                                       return concat(concat(value_of(all), trace_of(all)), squared_norm_of(all));
                                     },
                                     std::vector{x}, {1, 0, 2});
        INFO(check.where);
        CHECK(check.max_error < 1e-6);
      }
  Tape<double> tape;
  CHECK(thrown_message<invalid_argument>([&] {
          trace_of(
              with_jacobian(some_network<double>(3, 2, {5}, Activation::tanh), tape.copy(gaussian<double>(4, 3, 0))));
        }) == "trace_of: 2 columns and 3 directions");
}

TEST_CASE("jacobian: scaled and shifted", "[jacobian]") {
  for (const Index dim : {1, 2, 5})
    for (const Index n : batches) {
      CAPTURE(dim, n);
      const Mlp<double> net = some_network<double>(dim, dim, {6}, Activation::tanh);
      const std::vector in{gaussian<double>(n, dim, 0), gaussian<double>(n, dim, 1), gaussian<double>(n, dim, 2)};
      {
        Tape<double> tape;
        const MultiDual<double> g = with_jacobian(net, tape.copy(in[0]));
        const MultiDual<double> both = scale_shift(g, tape.copy(in[1]), tape.copy(in[2])),
                                shifted = scale_shift(g, Var<double>(), tape.copy(in[2]));
        const auto near = [&](Var<double> a, const Array<double>& b) {
          return n == 0 || (to_array(a) - b).abs().maxCoeff() < 1e-14;
        };
        CHECK(near(value_of(both), to_array(value_of(g)) * in[1] + in[2]));
        CHECK(near(value_of(shifted), to_array(value_of(g)) + in[2]));
        for (Index k = 0; k < dim; ++k) {
          CHECK(near(along(both, k), to_array(along(g, k)) * in[1]));
          CHECK(near(along(shifted, k), to_array(along(g, k))));
        }
        CHECK(tape.size() == 0);
      }
      const auto check = [&](bool scaled) {
        const auto result = testing::check_gradients(net,
                                                     [&](const auto& model, auto x) {
                                                       const auto y = scale_shift(with_jacobian(model, x[0]),
                                                                                  scaled ? x[1] : Var<double>(), x[2]);
                                                       return everything(y);
                                                     },
                                                     in, {1, 0, 2});
        INFO(result.where);
        CHECK(result.max_error < 1e-6);
      };
      check(true);
      check(false);
    }
  Tape<double> tape;
  const MultiDual<double> g =
      with_jacobian(some_network<double>(3, 3, {5}, Activation::tanh), tape.copy(gaussian<double>(4, 3, 0)));
  CHECK(thrown_message<invalid_argument>([&] {
          scale_shift(g, Var<double>(), tape.copy(gaussian<double>(4, 2, 0)));
        }) == "scale_shift: scale and shift must be 4 x 3");
}

TEST_CASE("jacobian: what memory held before does not matter", "[jacobian]") {
  for (const auto& hidden : hidden_widths)
    for (const Index n : {1, 3, 65}) {
      const Mlp<double> net = some_network<double>(5, 5, hidden, Activation::tanh);
      const auto run = [&](bool poisoned) {
        Tape<double> tape;
        if (poisoned) {
          std::fill_n(tape.allocate_values(1 << 16), 1 << 16, std::nan(""));
          tape.reset();
        }
        Array<double> values = parameters(net), grads = Array<double>::Zero(values.rows(), 1);
        const auto lifted = lift(tape, net, values.data(), grads.data());
        const Var<double> v = tape.variable(gaussian<double>(n, 5, 0));
        const MultiDual<double> g = with_jacobian(lifted, v);
        const Var<double> y = log_det_identity_plus(g) + sum_cols(value_of(g));
        const Array<double> seed = gaussian<double>(n, 1, 1);
        tape.backward(y, view(seed));
        tape.finish_parameter_grads();
        Array<double> all(grads.size() + 5 * n + n, 1);
        all << grads, as_eigen(v.grad()).reshaped(), to_array(y).reshaped();
        return all;
      };
      CAPTURE(hidden.size(), n);
      const Array<double> poisoned = run(true);
      CHECK(poisoned.isFinite().all());
      CHECK(same_bits(run(false), poisoned));
    }
}

TEST_CASE("jacobian: shapes that do not fit are refused", "[jacobian]") {
  Mlp<double> net = some_network<double>(3, 3, {5}, Activation::tanh);
  Tape<double> tape;
  CHECK(thrown_message<invalid_argument>([&] { with_jacobian(net, tape.copy(gaussian<double>(4, 2, 0))); }) ==
        "affine: x has 2 columns, the weights expect 3");
  net.layers[1].weight = gaussian<double>(3, 4, 0);
  CHECK(thrown_message<invalid_argument>([&] { with_jacobian(net, tape.copy(gaussian<double>(4, 3, 0))); }) ==
        "affine: x has 5 columns, the weights are 3 x 4, the bias 1 x 3");
}
