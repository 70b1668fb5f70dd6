// SPDX-License-Identifier: MIT
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/residual.hpp>
#include <diffeo/training/fit.hpp>

#include "laws.hpp"

namespace {

using diffeo::Activation;
using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::InverseMethod;
using diffeo::make_residual;
using diffeo::Residual;

template <diffeo::Real S>
Residual<S> random_residual(Index dim, const diffeo::ResidualOptions& options, std::uint64_t seed) {
  return randomised(make_residual<S>(dim, options, seed), seed, 0.7);
}

static_assert(diffeo::Flow<Residual<float>> && diffeo::Flow<Residual<double>>);
static_assert(diffeo::refreshes<Residual<float>>);

template <diffeo::Real S>
Array<S> normal(Index rows, Index cols) {
  Array<S> x(rows, cols);
  diffeo::fill_normal(diffeo::view(x), 21, 0);
  return x;
}

template <class E, class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing thrown";
}

}  // namespace

TEMPLATE_TEST_CASE("residual layers obey the laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  for (const Activation activation : {Activation::lip_swish, Activation::tanh, Activation::elu, Activation::sin}) {
    const auto layer = random_residual<S>(2, {.hidden = {16, 9}, .activation = activation, .coefficient = 0.9}, 7);
    require_laws("residual, " + std::string(to_string(activation)), layer);
  }
  for (const Index dim : {1, 3, 5})
    require_laws("residual of another dimension", random_residual<S>(dim, {.hidden = {16, 9}}, 3));
  require_laws("residual, one hidden layer", random_residual<S>(2, {.hidden = {20}}, 4));
  require_laws("residual, solved by its contraction",
               random_residual<S>(
                   2, {.hidden = {16, 9}, .coefficient = 0.8, .inverse = {.method = InverseMethod::fixed_point}}, 5));
}

TEMPLATE_TEST_CASE("stacks of residual layers obey the laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const auto stack = diffeo::repeat(8, [](Index i) {
    return random_residual<S>(2, {.hidden = {10, 10}, .coefficient = 0.7}, static_cast<std::uint64_t>(i));
  });
  diffeo::testing::FlowLawOptions<S> options;
  options.grid = 120;  // every point of it takes eight iterations to be inverted
  require_laws("8 residual layers", stack, options);
  require_laws("8 residual layers, inverted", diffeo::Invert(stack), options);
}

TEMPLATE_TEST_CASE("the network's Lipschitz constant is bounded", "[layers]", float, double) {
  using S = TestType;
  for (const double coefficient : {0.3, 0.97}) {
    const auto layer = random_residual<S>(3, {.hidden = {40, 40}, .coefficient = coefficient}, 2);
    CHECK(layer.lipschitz_bound() <= coefficient * (1 + 1e-3));
    CHECK(layer.lipschitz_bound() >= 0.9 * coefficient);  // weights that large are all scaled down
    const Array<S> a = normal<S>(500, 3) * S(3), b = a + S(0.05) * normal<S>(500, 3).colwise().reverse();
    diffeo::Tape<S> tape;
    const Array<S> moved =
        as_eigen(layer.network(tape.copy(a)).value()) - as_eigen(layer.network(tape.copy(b)).value());
    const Array<S> ratio = moved.square().rowwise().sum().sqrt() / (a - b).square().rowwise().sum().sqrt();
    CHECK(double(ratio.maxCoeff()) < coefficient);
  }
}

TEMPLATE_TEST_CASE("the inverse is as exact as asked for, by either method", "[layers]", float, double) {
  using S = TestType;
  for (const InverseMethod method : {InverseMethod::newton, InverseMethod::fixed_point})
    for (const double tolerance : {0.0, 1e-3, 1e-6}) {
      auto layer = random_residual<S>(
          2, {.hidden = {32, 32}, .coefficient = 0.97, .inverse = {.tolerance = tolerance, .method = method}}, 8);
      CAPTURE(tolerance, method == InverseMethod::newton);
      const Array<S> z = normal<S>(300, 2) * S(3), x = diffeo::forward(layer, z).value;
      const Array<S> found = diffeo::inverse(layer, x).value, again = diffeo::forward(layer, found).value;
      const double rounding = 60 * double(std::numeric_limits<S>::epsilon());
      CHECK(double((found - z).abs().maxCoeff()) <= tolerance + 20 * rounding);  // 1 / (1 - 0.97) times rounding
      CHECK(double((again - x).abs().maxCoeff()) <= 2 * tolerance + rounding);
    }
}

TEST_CASE("in float the inverse keeps a tolerance below what rounding of the network leaves", "[layers]") {
  for (const Index dim : {2, 10, 70})
    for (const InverseMethod method : {InverseMethod::automatic, InverseMethod::newton, InverseMethod::fixed_point}) {
      if (dim == 70 && method == InverseMethod::newton) continue;  // of no use, and slow
      CAPTURE(dim, int(method));
      const auto layer = random_residual<float>(
          dim, {.hidden = {64, 64}, .last_scale = 1, .inverse = {.tolerance = 1e-6, .method = method}}, 8);
      const Array<float> x = normal<float>(100, dim) * 2.0F;
      auto exact = diffeo::testing::detail::in_double(layer);
      exact.inverse_options = {};
      const Array<double> z = diffeo::inverse(exact, x.cast<double>()).value;
      REQUIRE((diffeo::forward(exact, z).value - x.cast<double>()).abs().maxCoeff() < 1e-12);
      const Array<float> found = diffeo::inverse(layer, x).value;
      // Half a unit in the last place of numbers up to 16 is 5e-7.
      CHECK((found.cast<double>() - z).abs().maxCoeff() < 1e-6);
      CHECK((diffeo::inverse(layer, x.middleRows(33, 5)).value == found.middleRows(33, 5)).all());
    }
}

TEST_CASE("in float the inverse of numbers too large for the tolerance is as exact as they are", "[layers]") {
  for (const InverseMethod method : {InverseMethod::automatic, InverseMethod::newton, InverseMethod::fixed_point})
    for (const Activation activation : {Activation::lip_swish, Activation::relu}) {
      const auto layer = random_residual<float>(
          2, {.hidden = {32}, .activation = activation, .inverse = {.tolerance = 1e-12, .method = method}}, 8);
      auto exact = diffeo::testing::detail::in_double(layer);
      exact.inverse_options = {};
      for (const float size : {1.0F, 1e5F, 1e20F}) {
        CAPTURE(int(method), int(activation), size);
        const Array<float> x = normal<float>(50, 2) * size;
        const Array<double> z = diffeo::inverse(exact, x.cast<double>()).value;
        CHECK((diffeo::inverse(layer, x).value.cast<double>() - z).abs().maxCoeff() < 1e-6 * double(size));
      }
    }
}

TEST_CASE("in many dimensions a layer near the bound is inverted, with its gradient", "[layers]") {
  for (const double slope : {0.97, 0.995}) {
    // g(z) = -slope z, through units that are linear here.
    const Index dim = 10;
    auto layer = make_residual<double>(dim, {.hidden = {dim}, .activation = Activation::elu, .coefficient = slope});
    auto& linear = layer.network.layers;
    const Array<double> identity = Eigen::MatrixXd::Identity(dim, dim).array();
    linear[0].weight = std::sqrt(slope) * identity;
    linear[1].weight = -std::sqrt(slope) * identity;
    linear[0].bias.setConstant(8);
    linear[1].bias.setConstant(8 * std::sqrt(slope));
    diffeo::refresh(layer);
    const Array<double> z = normal<double>(20, dim), x = diffeo::forward(layer, z).value;
    CAPTURE(slope);
    CHECK((diffeo::inverse(layer, x).value - z).abs().maxCoeff() < 1e-11);
    diffeo::Tape<double> tape;
    const auto in = tape.variable(x);
    const Array<double> ones = Array<double>::Ones(20, dim);
    tape.backward(layer.inverse(in).value, diffeo::view(ones));
    CHECK((diffeo::as_eigen(in.grad()) * (1 - slope) - 1).abs().maxCoeff() < 1e-9);
  }
}

TEST_CASE("an inverse that cannot be found is an error", "[layers]") {
  auto layer = random_residual<double>(
      2, {.hidden = {16}, .inverse = {.max_iterations = 3, .method = InverseMethod::fixed_point}}, 8);
  const Array<double> x = normal<double>(5, 2);
  CHECK_THROWS_AS(diffeo::inverse(layer, x), diffeo::convergence_error);
  CHECK(message_of<diffeo::convergence_error>([&] { diffeo::inverse(layer, x); }).find("residual inverse: row 0") !=
        std::string::npos);
  // No contraction: the bounded matrices overwritten by hand.
  layer = random_residual<double>(2, {.hidden = {16}, .inverse = {.method = InverseMethod::fixed_point}}, 8);
  for (auto& linear : layer.network.layers) linear.bounded.value *= 10.0;
  CHECK_THROWS_AS(diffeo::inverse(layer, x), diffeo::convergence_error);
}

TEST_CASE("how an inverse was found is not recorded", "[layers]") {
  const Array<double> x = normal<double>(50, 2);
  std::size_t least = 0;
  for (const InverseMethod method : {InverseMethod::newton, InverseMethod::fixed_point})
    for (const double coefficient : {0.1, 0.9}) {  // few iterations, and many
      const auto layer =
          random_residual<double>(2, {.hidden = {16}, .coefficient = coefficient, .inverse = {.method = method}}, 8);
      Array<double> values = diffeo::parameters(layer), grads = Array<double>::Zero(values.rows(), 1);
      diffeo::Tape<double> tape;
      const auto lifted = diffeo::lift(tape, layer, values.data(), grads.data());
      const auto z = lifted.inverse(tape.copy(x));
      CHECK(z.value.requires_grad());
      if (least == 0) least = tape.size();
      CHECK(tape.size() == least);
      CHECK(tape.size() < 40);

      diffeo::Tape<double> constant;
      CHECK_FALSE(layer.inverse(constant.copy(x)).value.requires_grad());
      CHECK(constant.size() == 0);
    }
}

TEST_CASE("a training that meets an inverse it cannot find keeps what it has learned", "[layers][training]") {
  const auto layer = make_residual<double>(
      2, {.hidden = {16},
          .last_scale = 0.01,
          .inverse = {.tolerance = 1e-12, .max_iterations = 12, .method = InverseMethod::fixed_point}});
  diffeo::TransformedDistribution model(diffeo::StandardNormal<double>(2), layer);  // generates in closed form
  const Array<double> data = normal<double>(200, 2).square(), before = diffeo::parameters(model);
  const diffeo::FitReport report =
      diffeo::fit(model, data, {.steps = 5000, .batch = 50, .rate = {.learning_rate = 1e-2}});
  CHECK(report.reason == diffeo::StopReason::not_solved);
  CHECK(report.steps > 0);
  CHECK(report.failure.find("residual inverse") == 0);  // or its gradient
  CHECK(report.failure.find(": row ") != std::string::npos);
  CHECK((diffeo::parameters(model) != before).any());
  CHECK(diffeo::parameters(model).isFinite().all());
}

TEMPLATE_TEST_CASE("the inverse keeps its tolerance where the layer is nearly singular", "[layers]", float, double) {
  using S = TestType;
  for (const double slope : {-0.97, 0.97})
    for (const Index dim : {2, 12}) {
      // g(z) = slope z for |z| within the linear range of elu: x + 100 stays positive.
      auto layer =
          make_residual<S>(dim, {.hidden = {dim}, .activation = Activation::elu, .inverse = {.tolerance = 1e-6}});
      auto& linear = layer.network.layers;
      const Array<S> identity = Eigen::MatrixXd::Identity(dim, dim).template cast<S>().array();
      const S root = S(std::sqrt(0.97));
      linear[0].weight = root * identity;
      linear[1].weight = (slope > 0 ? root : -root) * identity;
      linear[0].bias.setConstant(8);
      linear[1].bias.setConstant(S(slope > 0 ? -8 : 8) * root);
      diffeo::refresh(layer);
      const Array<S> z = normal<S>(200, dim), x = diffeo::forward(layer, z).value;
      const Array<S> again = diffeo::forward(layer, diffeo::inverse(layer, x).value).value;
      CAPTURE(slope, dim);
      CHECK(double((again - x).abs().maxCoeff()) < (sizeof(S) == 4 ? 4e-6 : 1e-6));  // values of 8 are rounded to 5e-7
    }
}

TEST_CASE("changing and restoring parameters by hand needs refresh()", "[layers]") {
  auto layer = random_residual<double>(2, {.hidden = {16}}, 8);
  const Array<double> x = normal<double>(5, 2), before = diffeo::forward(layer, x).value;
  layer.network.layers[0].weight *= 0.1;
  CHECK((diffeo::forward(layer, x).value == before).all());
  diffeo::refresh(layer);
  CHECK((diffeo::forward(layer, x).value != before).any());
}

TEST_CASE("residual layers refuse absurd options", "[layers]") {
  for (const double c : {0.0, 1.0, -0.5, 1.5, std::nan("")}) {
    CAPTURE(c);
    CHECK_THROWS_AS(make_residual<float>(2, {.coefficient = c}), invalid_argument);
  }
  CHECK(message_of<invalid_argument>([] { make_residual<float>(2, {.coefficient = 1}); }) ==
        "make_residual: coefficient is 1, expected between 0 and 1");
  CHECK_THROWS_AS(make_residual<float>(0), invalid_argument);
  CHECK_THROWS_AS(make_residual<float>(2, {.hidden = {}}), invalid_argument);
  CHECK_THROWS_AS(make_residual<float>(2, {.hidden = {8, 0}}), invalid_argument);
  CHECK_THROWS_AS(make_residual<float>(2, {.inverse = {.tolerance = -1}}), invalid_argument);
  CHECK_THROWS_AS(make_residual<float>(2, {.inverse = {.max_iterations = 0}}), invalid_argument);
  const auto layer = make_residual<float>(2, {.hidden = {8}});
  CHECK_THROWS_AS(diffeo::forward(layer, Array<float>::Zero(3, 3)), invalid_argument);
  Array<float> bad = Array<float>::Zero(3, 2);
  bad(1, 1) = std::nanf("");
  CHECK_THROWS_AS(diffeo::inverse(layer, bad), invalid_argument);
}

TEMPLATE_TEST_CASE("a residual layer given a context is the one with the bias that the context makes", "[layers]",
                   float, double) {
  using S = TestType;
  const double tolerance = sizeof(S) == 4 ? 1e-6 : 0;
  for (const diffeo::LogDetEstimator& estimator :
       {diffeo::LogDetEstimator(diffeo::ExactLogDet{}),
        diffeo::LogDetEstimator(diffeo::PowerSeriesLogDet{.terms = 4, .probes = 2}),
        diffeo::LogDetEstimator(diffeo::RouletteLogDet{})})
    for (const InverseMethod method : {InverseMethod::newton, InverseMethod::fixed_point})
      for (const bool forwards : {true, false}) {
        CAPTURE(estimator.index(), int(method), forwards);
        const auto conditional = random_residual<S>(3,
                                                    {.hidden = {16, 9},
                                                     .coefficient = 0.8,
                                                     .training = estimator,
                                                     .inverse = {.tolerance = tolerance, .method = method},
                                                     .context_dim = 2},
                                                    8);
        const Array<S> x = normal<S>(70, 3), c = normal<S>(1, 2) + S(1), of_value = normal<S>(70, 3).square(),
                       of_log_det = Array<S>::Ones(70, 1);
        diffeo::Tape<S> other;
        auto plain = conditional;
        plain.network.layers[0].bias = as_eigen(conditional.network.first_bias(other, other.copy(c), 70).value());
        plain.network.context_weight = Array<S>();
        // Returns value, log_det and the gradients of parameters and context.
        const auto swept = [&](const auto& layer) {
          Array<S> values = diffeo::parameters(layer), grads(values.rows(), 1);
          diffeo::Tape<S> tape;
          const auto lifted = diffeo::lift(tape, layer, values.data(), grads.data());
          diffeo::Pass<S> pass{.training = true, .seed = 1, .context = tape.variable(c)};
          const auto in = tape.variable(x);
          const auto y = forwards ? lifted.forward(in, pass) : lifted.inverse(in, pass);
          tape.backward(sum_cols(y.value * tape.copy(of_value)) + y.log_det, diffeo::view(of_log_det));
          tape.finish_parameter_grads();
          Array<S> in_c = Array<S>::Zero(1, 2);
          if (pass.context.has_grad()) in_c = as_eigen(pass.context.grad());
          auto gradient = layer;
          diffeo::set_parameters(gradient, grads);
          return std::tuple(Array<S>(as_eigen(y.value.value())), Array<S>(as_eigen(y.log_det.value())), gradient, in_c);
        };
        const auto [value, log_det, gradient, in_c] = swept(conditional);
        const auto [value_of_plain, log_det_of_plain, gradient_of_plain, nothing] = swept(plain);
        CHECK((value == value_of_plain).all());
        CHECK((log_det == log_det_of_plain).all());
        for (std::size_t i = 0; i < 3; ++i) {
          CHECK((gradient.network.layers[i].weight == gradient_of_plain.network.layers[i].weight).all());
          CHECK((gradient.network.layers[i].bias == gradient_of_plain.network.layers[i].bias).all());
        }
        // The bias is b + c V'.
        const auto& of_bias = gradient_of_plain.network.layers[0].bias;
        const auto close = [](const auto& a, const auto& b) {
          const Array<S> x1 = a, x2 = b;
          return double((x1 - x2).abs().maxCoeff()) <
                 20 * double(std::numeric_limits<S>::epsilon()) * double(x2.abs().maxCoeff());
        };
        CHECK(close(gradient.network.context_weight, (of_bias.matrix().transpose() * c.matrix()).array()));
        CHECK(close(in_c, (of_bias.matrix() * conditional.network.context_weight.matrix()).array()));
        CHECK((nothing == 0).all());
      }
}

TEST_CASE("the weights of a residual layer's context are free", "[layers]") {
  auto layer = random_residual<double>(2, {.hidden = {16}, .coefficient = 0.9, .context_dim = 2}, 8);
  const double bound = layer.lipschitz_bound();
  layer.network.context_weight *= 100.0;
  diffeo::refresh(layer);
  CHECK(layer.lipschitz_bound() == bound);
  diffeo::Tape<double> tape;
  const Array<double> x = normal<double>(60, 2), c = normal<double>(60, 2);
  diffeo::Pass<double> pass;
  pass.context = tape.copy(c);
  const auto z = layer.inverse(tape.copy(x), pass).value;
  CHECK((as_eigen(layer.forward(z, pass).value.value()) - x).abs().maxCoeff() < 1e-10);
  // One row for all samples is one row of the bias; its bits are those of as many.
  const Array<double> one = c.row(3);
  const auto shared = layer.network.first_bias(tape, tape.copy(one), 60);
  CHECK(shared.rows() == 1);
  CHECK((as_eigen(layer.network.first_bias(tape, pass.context, 60).value()).row(3) == as_eigen(shared.value())).all());
}

TEST_CASE("residual layers refuse contexts that do not fit", "[layers]") {
  const auto layer = make_residual<float>(2, {.hidden = {8}, .context_dim = 3});
  diffeo::Tape<float> tape;
  const auto x = tape.copy(normal<float>(6, 2));
  const auto message = [&](const Array<float>& c, bool forwards) {
    return thrown_message<invalid_argument>([&] {
      diffeo::Pass<float> pass;
      if (c.size() > 0) pass.context = tape.copy(c);
      forwards ? layer.forward(x, pass) : layer.inverse(x, pass);
    });
  };
  for (const bool forwards : {true, false}) {
    CHECK(contains(message({}, forwards), "expected a context of 3 columns, got none"));
    CHECK(contains(message(normal<float>(6, 2), forwards), "the context has 2 columns, expected 3"));
    CHECK(contains(message(normal<float>(5, 3), forwards), "the context has 5 rows, expected 6 or 1"));
  }
  CHECK(contains(thrown_message<invalid_argument>([&] { layer.network(x); }), "a context of 3 columns, got none"));
  CHECK(contains(thrown_message<invalid_argument>([] { make_residual<float>(2, {.context_dim = -1}); }),
                 "context_dim is -1"));
  auto misfit = layer;
  misfit.network.context_weight = normal<float>(7, 3);
  CHECK(contains(thrown_message<invalid_argument>([&] { diffeo::check_structure(misfit); }),
                 "the weights of the context have 7 rows, the first layer 8 outputs"));
}

TEST_CASE("a residual layer without a network is refused", "[layers]") {
  CHECK(contains(thrown_message<invalid_argument>([] { diffeo::check_structure(Residual<float>{}); }),
                 "the network has no layers"));
  auto layer = make_residual<float>(2, {.hidden = {8}});
  layer.network.layers.clear();
  CHECK_THROWS_AS(diffeo::forward(layer, Array<float>(Array<float>::Zero(3, 2))), invalid_argument);
}
