// SPDX-License-Identifier: MIT
#include <diffeo/data/toy2d.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/planar.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/training/fit.hpp>

#include "laws.hpp"

using diffeo::Activation;
using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::Planar;

static_assert(diffeo::Flow<Planar<float>>);
static_assert(diffeo::Flow<Planar<double>>);
static_assert(diffeo::HasForward<Planar<double>, diffeo::Dual<diffeo::Var<double>>>);
static_assert(diffeo::HasInverse<Planar<double>, diffeo::Dual<diffeo::Var<double>>>);

namespace {

// A stack of 8 with parameters around those of fresh layers: eight layers of wholly random ones are conditioned so
// badly that differences of their results mean little.
template <class S>
auto random_stack(Index dim, Activation activation) {
  auto stack = diffeo::repeat(
      8, [&](Index i) { return diffeo::make_planar<S>(dim, activation, 1, static_cast<std::uint64_t>(i)); });
  const Array<S> fresh = diffeo::parameters(stack);
  diffeo::set_parameters(stack,
                         Array<S>(fresh + S(0.4) * diffeo::testing::detail::normal_array<S>(fresh.rows(), 1, 2, 2)));
  return stack;
}

// A layer with w.u = a, and |w| = length along the diagonal.
template <class S>
Planar<S> with_product(double a, Activation activation = Activation::tanh, double length = 1, Index dim = 3) {
  const double w = length / std::sqrt(double(dim));
  Array<S> u = Array<S>::Constant(1, dim, static_cast<S>(a / (w * double(dim))));
  u(0, 0) += S(0.5);
  u(0, 1) -= S(0.5);
  return {u, Array<S>::Constant(1, dim, static_cast<S>(w)), Array<S>::Constant(1, 1, S(0.25)), activation};
}

}  // namespace

TEMPLATE_TEST_CASE("planar: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  for (const Activation activation : {Activation::tanh, Activation::leaky_relu})
    for (const Index dim : {1, 2, 5}) {
      const std::string name = std::string(to_string(activation)) + ", D = " + std::to_string(dim);
      require_laws(name, randomised(diffeo::make_planar<S>(dim, activation), std::uint64_t(dim), 1.0));
      require_laws("8 layers, " + name, random_stack<S>(dim, activation));
    }
}

TEST_CASE("planar by hand", "[layers]") {
  // w.u = log(e^1.5 - 1) makes w.u' = 0.5; w = (2, 0), u' = (0.25, 0) + what u has across w.
  Planar<double> layer{Array<double>(1, 2), Array<double>(1, 2), Array<double>(1, 1)};
  layer.u << std::log(std::expm1(1.5)) / 2, 1;
  layer.w << 2, 0;
  layer.b << -1;
  Array<double> z(2, 2), expected(2, 2), log_det(2, 1);
  z << 0.5, 3, 1, 1;
  const double h = std::tanh(1.0);
  expected << 0.5, 3, 1 + 0.25 * h, 1 + h;
  log_det << std::log(1.5), std::log(1 + 0.5 * (1 - h * h));
  const auto x = diffeo::forward(layer, z);
  CHECK((x.value - expected).abs().maxCoeff() < 1e-15);
  CHECK((x.log_det - log_det).abs().maxCoeff() < 1e-15);
  layer.activation = Activation::leaky_relu;
  z << 0.25, 3, 1, 1;
  expected << 0.25 - 0.25 * 0.005, 3 - 0.005, 1.25, 2;
  log_det << std::log(1.005), std::log(1.5);
  const auto y = diffeo::forward(layer, z);
  CHECK((y.value - expected).abs().maxCoeff() < 1e-15);
  CHECK((y.log_det - log_det).abs().maxCoeff() < 1e-15);
}

TEMPLATE_TEST_CASE("planar: round trips where the map is nearly flat, or steep", "[layers]", float, double) {
  using S = TestType;
  const double eps = double(std::numeric_limits<S>::epsilon()), promised = sizeof(S) == 4 ? 1e-5 : 1e-12;
  for (const Activation activation : {Activation::tanh, Activation::leaky_relu})
    // w.u' is within 1e-6 of -1 from -13.8 on.
    for (const double a : {-100.0, -13.82, -5.0, 0.0, 10.0, 100.0})
      for (const double length : {0.1, 1.0, 10.0}) {
        INFO(to_string(activation) << ", w.u = " << a << ", |w| = " << length);
        // Leaky relu as flat as e^-100 on one side has no images there that these numbers could tell apart.
        if (activation == Activation::leaky_relu && a < -20) continue;
        const auto layer = with_product<S>(a, activation, length);
        const Array<S> z = diffeo::testing::detail::normal_array<S>(2000, 3, 1, 1);
        const auto x = diffeo::forward(layer, z);
        const auto back = diffeo::inverse(layer, x.value);
        const auto again = diffeo::forward(layer, back.value);
        const Array<double> to = x.value.template cast<double>(), from = z.template cast<double>();
        const Array<double> error_x = (again.value.template cast<double>() - to).abs();
        const Array<double> error_z = (back.value.template cast<double>() - from).abs();

        // As the laws measure it, relative to the spread of x.
        CHECK((error_x / to.abs().max(std::sqrt(to.square().mean()))).maxCoeff() < promised);
        // What the header states, row by row.
        const double softplus = std::max(a, 0.0) + std::log1p(std::exp(-std::abs(a)));
        const double size_u = std::abs(softplus - 1) / length + 1, moved = length * size_u;
        double worst_x = 0, worst_z = 0;
        for (Index i = 0; i < z.rows(); ++i) {
          const double size = std::sqrt(from.row(i).square().sum()), d = std::exp(double(x.log_det(i, 0)));
          const double size_back = std::sqrt(back.value.row(i).template cast<double>().square().sum());
          const double h = activation == Activation::tanh ? 1 : length * std::max(size, size_back) + 1;
          worst_x = std::max(worst_x, error_x.row(i).maxCoeff() / ((size_back + size_u * h) * (1 + moved)));
          worst_z = std::max(worst_z, error_z.row(i).maxCoeff() / ((size + size_u * h) * (1 + moved / d)));
        }
        CHECK(worst_x < 2 * eps);
        CHECK(worst_z < 2 * eps);
      }
}

TEMPLATE_TEST_CASE("planar: log-determinants do not cancel, overflow or underflow", "[layers]", float, double) {
  using S = TestType;
  const double eps = double(std::numeric_limits<S>::epsilon());
  for (const double a : {-300.0, -100.0, -50.0, -13.82, -1.0, 1.0, 100.0, 1e4}) {
    INFO("w.u = " << a);
    // At s = 0 it is log(softplus(a)), whatever h.
    Planar<S> layer{Array<S>::Constant(1, 1, S(a)), Array<S>::Ones(1, 1), Array<S>::Zero(1, 1)};
    const double expected = a < -40 ? a : std::log(std::max(a, 0.0) + std::log1p(std::exp(-std::abs(a))));
    const double allowed = 8 * eps * std::max(std::abs(expected), std::abs(a) < 40 ? std::abs(a) : 1);
    const auto y = diffeo::forward(layer, Array<S>::Zero(1, 1));
    CHECK(std::abs(double(y.log_det(0, 0)) - expected) <= allowed);
    // In a stack, where the factors are multiplied up first.
    const auto stack = diffeo::repeat(9, [&](Index) { return layer; });
    CHECK(std::abs(double(diffeo::forward(stack, Array<S>::Zero(1, 1)).log_det(0, 0)) - 9 * expected) <= 20 * allowed);
    // And with finite gradients.
    Array<S> values = diffeo::parameters(stack), grads(values.rows(), 1);
    diffeo::Tape<S> tape;
    const auto lifted = diffeo::lift(tape, stack, values.data(), grads.data());
    const auto recorded = lifted.forward(tape.variable(Array<S>::Constant(1, 1, S(0.5))));
    const Array<S> one = Array<S>::Ones(1, 1);
    tape.backward(recorded.log_det, diffeo::view(one));
    CHECK(grads.allFinite());
  }
}

TEMPLATE_TEST_CASE("planar: a stack as one op is the layers one after another", "[layers]", float, double) {
  using S = TestType;
  for (const Index count : {1, 3, 4, 5, 33}) {
    const auto stack =
        diffeo::repeat(count, [](Index i) { return diffeo::make_planar<S>(2, Activation::tanh, 7, std::uint64_t(i)); });
    Array<S> x = diffeo::testing::detail::normal_array<S>(100, 2, 1, 1), log_det = Array<S>::Zero(100, 1);
    const auto y = diffeo::forward(stack, x);
    for (const auto& layer : stack.layers) {
      const auto step = diffeo::forward(layer, x);
      x = step.value;
      log_det += step.log_det;
    }
    CHECK((y.value - x).abs().maxCoeff() < 100 * std::numeric_limits<S>::epsilon());
    CHECK((y.log_det - log_det).abs().maxCoeff() < 100 * std::numeric_limits<S>::epsilon());
    const auto back = diffeo::inverse(stack, y.value);
    CHECK((back.log_det + log_det).abs().maxCoeff() < 1e4 * std::numeric_limits<S>::epsilon());
  }
  // One record, whatever the depth.
  const auto stack = diffeo::repeat(5, [](Index) { return diffeo::make_planar<S>(2); });
  diffeo::Tape<S> tape;
  stack.forward(tape.variable(Array<S>::Ones(3, 2)));
  CHECK(tape.size() == 1);
}

TEMPLATE_TEST_CASE("planar: layers of different activations in one stack", "[layers]", float, double) {
  using S = TestType;
  const auto stack = diffeo::repeat(5, [](Index i) {
    return randomised(make_planar<S>(2, i % 3 == 0 ? Activation::leaky_relu : Activation::tanh), 20 + std::uint64_t(i));
  });
  const Array<S> z = diffeo::testing::detail::normal_array<S>(70, 2, 1, 1);
  Array<S> expected = z, log_det = Array<S>::Zero(70, 1);
  for (const auto& layer : stack.layers) {
    const auto x = diffeo::forward(layer, expected);
    expected = x.value;
    log_det += x.log_det;
  }
  const auto all = diffeo::forward(stack, z);
  const S near = 100 * std::numeric_limits<S>::epsilon();
  CHECK((all.value - expected).abs().maxCoeff() < near);
  CHECK((all.log_det - log_det).abs().maxCoeff() < near);
  const auto back = diffeo::inverse(stack, all.value);
  CHECK((back.log_det + all.log_det).abs().maxCoeff() < 100 * near);
}

TEMPLATE_TEST_CASE("planar: the inverse where softplus(w.u) underflows", "[layers]", float, double) {
  using S = TestType;
  for (const double a : {-200.0, -1000.0}) {
    Planar<S> layer{Array<S>(1, 2), Array<S>(1, 2), Array<S>::Zero(1, 1)};
    layer.u << S(a), 0;
    layer.w << 1, 0;
    Array<S> x(3, 2);
    x << 0, 0, 0, 5, S(0.5), 1;
    const auto z = diffeo::inverse(layer, x);
    CHECK(z.value.isFinite().all());
    CHECK((diffeo::forward(layer, z.value).value - x).abs().maxCoeff() <= 10 * std::numeric_limits<S>::epsilon());
  }
}

TEST_CASE("planar: maximum likelihood in generating orientation", "[layers][training]") {
  const Array<float> data = diffeo::toy2d::sample<float>("moons", 2000, 1),
                     test = diffeo::toy2d::sample<float>("moons", 2000, 2);
  diffeo::TransformedDistribution model{diffeo::StandardNormal<float>(2), diffeo::planar(data, {.layers = 8})};
  const double before = double(model.log_prob(test).mean());
  const auto report = diffeo::fit(model, diffeo::MaximumLikelihood<float>(data),
                                  {.steps = 300, .batch = 256, .rate = {.learning_rate = 1e-2}, .progress = false});
  CHECK(report.reason == diffeo::StopReason::completed);
  const double after = double(model.log_prob(test).mean());
  INFO("before " << before << ", after " << after);
  CHECK(after > before + 0.15);
}

TEST_CASE("planar: bad input", "[layers]") {
  auto layer = diffeo::make_planar<double>(3);
  diffeo::Tape<double> tape;
  const auto narrow = tape.copy(Array<double>::Zero(4, 2)), x = tape.copy(Array<double>::Zero(4, 3));
  const diffeo::Dual<diffeo::Var<double>> dual{x, x};
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([&] { layer.forward(narrow); }) == "planar: x has 2 columns, this layer has dimension 3");
  CHECK(message([&] { layer.inverse(narrow); }) == "planar: x has 2 columns, this layer has dimension 3");
  for (const double w : {0.0, 1e-170, std::numeric_limits<double>::quiet_NaN()}) {
    layer.w.setConstant(w);
    CHECK(contains(message([&] { layer.forward(x); }), "expected w away from 0"));
    CHECK(contains(message([&] { layer.inverse(x); }), "expected w away from 0"));
    CHECK(contains(message([&] { layer.forward(dual); }), "expected w away from 0"));
    CHECK(contains(message([&] { layer.inverse(dual); }), "expected w away from 0"));
  }
  layer = diffeo::make_planar<double>(3);
  layer.activation = Activation::relu;
  CHECK(message([&] { layer.forward(x); }) == "planar: activation relu, expected tanh or leaky_relu");
  CHECK(message([&] { layer.inverse(dual); }) == "planar: activation relu, expected tanh or leaky_relu");
  layer.activation = Activation::tanh;
  layer.u.resize(1, 2);
  CHECK(contains(message([&] { layer.forward(x); }), "planar: u is 1 x 2"));
  CHECK(contains(message([] { diffeo::make_planar<float>(0); }), "make_planar: dimension 0"));
  CHECK(contains(message([] { diffeo::make_planar<float>(2, Activation::sin); }), "activation sin"));

  // The solver says which row it could not do.
  layer = diffeo::make_planar<double>(3);
  Array<double> bad = Array<double>::Zero(20, 3);
  bad(17, 1) = std::numeric_limits<double>::quiet_NaN();
  const auto text = thrown_message<diffeo::convergence_error>([&] { layer.inverse(tape.copy(bad)); });
  CHECK(contains(text, "planar inverse: row 17 did not converge"));
  bad = Array<double>::Zero(200, 3);
  layer.w.setConstant(2);
  bad.row(170).setConstant(std::numeric_limits<double>::max());  // w.x overflows
  for (const int threads : {1, 2})
    CHECK(contains(thrown_message<diffeo::convergence_error>([&] { diffeo::inverse(layer, bad, threads); }),
                   "planar inverse: row 170 did not converge"));
}

TEMPLATE_TEST_CASE("planar: a layer given a context is the one with shifted parameters", "[layers]", float, double) {
  using S = TestType;
  constexpr double eps = double(std::numeric_limits<S>::epsilon());
  for (const Activation activation : {Activation::tanh, Activation::leaky_relu})
    for (const double size : {0.5, 20.0}) {  // up to shifts of w by nearly 0.9 |w|
      auto layer = diffeo::make_planar<S>(3, activation, 1, 2, 2, {.hidden = {5}, .last_scale = size});
      const Array<S> x = diffeo::testing::detail::normal_array<S>(70, 3, 1, 1),
                     c = diffeo::testing::detail::normal_array<S>(70, 2, 1, 2);
      diffeo::Tape<S> tape;
      diffeo::Pass<S> pass;
      pass.context = tape.copy(c);
      const auto forward = layer.forward(tape.copy(x), pass), inverse = layer.inverse(tape.copy(x), pass);
      const Array<double> shifts = as_eigen(layer.shift.network[0](pass.context).value()).template cast<double>();
      const Array<double> w = layer.w.template cast<double>();
      const double length = w.matrix().norm();
      for (Index n = 0; n < 70; ++n) {
        CAPTURE(n, size, int(activation));
        const Array<double> dw = shifts.row(n).middleCols(3, 3);
        const Array<double> moved = w + dw / std::sqrt(1 + dw.square().sum() / (0.81 * length * length));
        CHECK((moved - w).matrix().norm() < 0.9 * length);
        const Array<double> du = shifts.row(n).leftCols(3);
        const Array<double> added = du / std::sqrt(1 + du.square().sum() * length * length / 64);
        CHECK(added.matrix().norm() * length < 8);
        Planar<S> plain{layer.u + added.template cast<S>(), moved.template cast<S>(),
                        layer.b + static_cast<S>(shifts(n, 6)), activation};
        const auto close = [n](const auto& results, const auto& own) {
          const double scale = 1 + double(own.value.abs().maxCoeff());
          CHECK(double((as_eigen(results.value.value()).row(n) - own.value).abs().maxCoeff()) < 1e4 * eps * scale);
          CHECK(double(as_eigen(results.log_det.value())(n, 0)) == Approx(double(own.log_det(0, 0))).margin(1e4 * eps));
        };
        close(forward, diffeo::forward(plain, Array<S>(x.row(n))));
        close(inverse, diffeo::inverse(plain, Array<S>(x.row(n))));
      }
    }
}

TEMPLATE_TEST_CASE("planar: given a context a map that is flat or steep keeps its inverse finite", "[layers]", float,
                   double) {
  using S = TestType;
  const Array<S> x = diffeo::testing::detail::normal_array<S>(70, 2, 1, 1),
                 c = diffeo::testing::detail::normal_array<S>(70, 2, 1, 2);
  constexpr S eps = std::numeric_limits<S>::epsilon();
  for (const Activation activation : {Activation::tanh, Activation::leaky_relu})
    for (const double a : {-1000.0, -50.0, -10.0, 1000.0})
      for (const double last_scale : {0.05, 1e6}) {  // of the shifts
        CAPTURE(int(activation), a, last_scale);
        auto layer = diffeo::make_planar<S>(2, activation, 1, 0, 2, {.hidden = {5}, .last_scale = last_scale});
        layer.u = layer.w * S(a);
        layer.u(0, 0) += S(0.5);
        diffeo::Tape<S> tape;
        const auto context = tape.variable(c), from = tape.variable(x);
        diffeo::Pass<S> pass;
        pass.context = context;
        const auto z = layer.inverse(from, pass);
        CHECK(as_eigen(z.value.value()).allFinite());
        CHECK(as_eigen(z.log_det.value()).allFinite());
        const auto image = layer.forward(from, pass);
        CHECK(as_eigen(image.value.value()).allFinite());
        CHECK(as_eigen(image.log_det.value()).allFinite());
        // Where the map is flat log d is that of epsilon at the least.
        CHECK(as_eigen(image.log_det.value()).minCoeff() >= std::log(eps) * S(1.001));
        const Array<S> one = Array<S>::Ones(1, 1);
        tape.backward(sum(z.log_det) - sum(square(z.value)) * S(0.5), diffeo::view(one));
        CHECK(as_eigen(from.grad()).allFinite());
        CHECK(as_eigen(context.grad()).allFinite());
        if (last_scale > 1) continue;
        // A round trip, with errors relative to the sizes of what was added up: |w| = 1 and |w(c)| < 2.
        const auto again = layer.forward(z.value, pass);
        const auto value = as_eigen(z.value.value());
        const Array<S> error = (as_eigen(again.value.value()) - x).abs();
        const S steep = static_cast<S>(std::abs(a)) + 20;
        for (Index n = 0; n < 70; ++n) {
          const S size = value.row(n).matrix().norm() + x.row(n).matrix().norm() + steep;
          CHECK(error.row(n).maxCoeff() <= 10 * eps * size * steep);
        }
      }
}

TEMPLATE_TEST_CASE("planar: tangents where softplus underflows are finite", "[layers]", float, double) {
  using S = TestType;
  for (const Activation activation : {Activation::tanh, Activation::leaky_relu}) {
    const auto layer = with_product<S>(-1000, activation);
    diffeo::Tape<S> tape;
    const auto x = tape.copy(diffeo::testing::detail::normal_array<S>(40, 3, 1, 1)),
               tangent = tape.copy(Array<S>::Ones(40, 3));
    const auto y = layer.forward(diffeo::Dual<diffeo::Var<S>>{x, tangent});
    CHECK(as_eigen(y.value.tangent.value()).allFinite());
    CHECK(as_eigen(y.log_det.value.value()).allFinite());
    CHECK(as_eigen(y.log_det.tangent.value()).allFinite());
  }
}

TEST_CASE("planar: without context a stack has the parameters and bits of before", "[layers]") {
  const auto plain = diffeo::planar<double>(2, {.layers = 3});
  const auto conditional = diffeo::planar<double>(2, {.layers = 3, .context_dim = 4});
  CHECK(diffeo::leaf_count(std::get<0>(plain.layers)) == 9);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto &one = std::get<0>(plain.layers).layers[i], &other = std::get<0>(conditional.layers).layers[i];
    CHECK((one.u == other.u).all());
    CHECK((one.w == other.w).all());
    CHECK((one.b == other.b).all());
    CHECK(other.shift.context_dim() == 4);
  }
}

TEST_CASE("planar: contexts that do not fit are refused", "[layers]") {
  auto layer = diffeo::make_planar<float>(2, Activation::tanh, 0, 0, 3);
  diffeo::Tape<float> tape;
  const auto x = tape.copy(diffeo::testing::detail::normal_array<float>(6, 2, 1, 1));
  const auto message = [&](Index rows, Index cols, bool forwards) {
    return thrown_message<invalid_argument>([&] {
      diffeo::Pass<float> pass;
      if (rows > 0) pass.context = tape.copy(diffeo::testing::detail::normal_array<float>(rows, cols, 1, 2));
      forwards ? layer.forward(x, pass) : layer.inverse(x, pass);
    });
  };
  for (const bool forwards : {true, false}) {
    CHECK(message(0, 0, forwards) == "planar: expected a context of 3 columns, got none");
    CHECK(message(6, 2, forwards) == "planar: the context has 2 columns, expected 3");
    CHECK(message(5, 3, forwards) == "planar: the context has 5 rows, expected 6 or 1");
  }
  layer.shift.network[0].layers.pop_back();
  CHECK(contains(thrown_message<invalid_argument>([&] { diffeo::check_structure(layer); }),
                 "the network of the context has 16 outputs, expected 5"));
}
