// SPDX-License-Identifier: MIT
#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <cmath>
#include <cstring>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/residual.hpp>
#include <diffeo/nn/spectral_norm.hpp>
#include <diffeo/testing/gradient_check.hpp>
#include <diffeo/training/fit.hpp>
#include <limits>

#include "../arrays.hpp"
#include "../catch.hpp"

using namespace diffeo;

namespace {

// By the eigenvalues of the smaller Gram matrix, in so many digits that its condition does not matter.
template <Real S>
double largest_singular_value(const Array<S>& w) {
  using Wide = Eigen::MatrixX<long double>;
  Wide m = w.template cast<long double>().matrix();
  if (m.rows() < m.cols()) m.transposeInPlace();
  const Wide gram = m.transpose() * m;
  return double(std::sqrt(Eigen::SelfAdjointEigenSolver<Wide>(gram, Eigen::EigenvaluesOnly).eigenvalues().maxCoeff()));
}

// A matrix with the given singular values, by two random rotations.
Array<double> with_singular_values(Index rows, Index cols, const Array<double>& values) {
  const Eigen::JacobiSVD<Eigen::MatrixXd> any(gaussian<double>(rows, cols, 77).matrix(),
                                              Eigen::ComputeThinU | Eigen::ComputeThinV);
  return (any.matrixU() * values.matrix().asDiagonal() * any.matrixV().transpose()).array();
}

struct Example {
  std::string name;
  Array<double> matrix;
};

const std::vector<Example>& examples() {
  static const std::vector<Example> all = [] {
    std::vector<Example> e;
    const std::pair<Index, Index> shapes[] = {{1, 1},   {1, 7},   {7, 1},   {2, 2},    {5, 3},    {3, 5},
                                              {2, 128}, {128, 2}, {64, 64}, {128, 64}, {64, 128}, {128, 128}};
    for (const auto& [m, k] : shapes)
      e.push_back({"random " + std::to_string(m) + " x " + std::to_string(k), gaussian<double>(m, k, 1)});
    const auto identity = [](Index n) { return Array<double>(Eigen::MatrixXd::Identity(n, n).array()); };
    e.push_back({"identity", identity(6)});
    e.push_back({"identity, large", identity(128)});
    e.push_back({"all singular values equal", with_singular_values(9, 5, Array<double>::Constant(5, 1, 3))});
    e.push_back({"two largest equal", with_singular_values(5, 9, Array<double>{{2}, {2}, {1}, {0.5}, {0}})});
    e.push_back({"two largest close", with_singular_values(5, 5, Array<double>{{1}, {0.999}, {0.5}, {0.1}, {0.01}})});
    e.push_back({"rank one", with_singular_values(8, 6, Array<double>{{4}, {0}, {0}, {0}, {0}, {0}})});
    e.push_back({"diagonal, the largest last", Array<double>{{1, 0, 0}, {0, 2, 0}, {0, 0, 3}}});
    e.push_back({"ones", Array<double>::Ones(6, 4)});
    e.push_back({"alternating", Array<double>{{1, -1}, {-1, 1}}});  // ones are in its kernel
    return e;
  }();
  return all;
}

template <Real S>
SpectralLinear<S> spectral_layer(const Array<S>& w, double bound) {
  SpectralLinear<S> layer{w, gaussian<S>(1, w.rows(), 9), {w}, {}, {}, bound};
  layer.left.value = Array<S>::Ones(1, w.rows());
  layer.right.value = Array<S>::Ones(1, w.cols());
  layer.refresh(ParameterChange::any);
  return layer;
}

template <Real S>
auto residual_flow(Index layers, double coefficient) {
  return TransformedDistribution{
      StandardNormal<S>(2), Invert(repeat(layers, [coefficient](Index i) {
        return make_residual<S>(2, {.hidden = {16, 16}, .coefficient = coefficient}, static_cast<std::uint64_t>(i));
      }))};
}

template <Real S>
double mean(const Array<S>& x) {
  return x.template cast<double>().mean();
}

// Two narrow clusters: a flow has to stretch as far as it may.
template <Real S>
Array<S> clusters(Index n) {
  Array<S> x = S(0.1) * gaussian<S>(n, 2, 5);
  for (Index i = 0; i < n; ++i) x(i, 0) += i % 2 ? S(1.5) : S(-1.5);
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("spectral norm: the power iteration finds the largest singular value", "[spectral_norm]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  constexpr double eps = std::numeric_limits<S>::epsilon();
  constexpr double tight = 4 * eps;  // as SpectralLinear asks
  for (const auto& [name, matrix] : examples())
    for (const S scale : {S(1), S(0.01), S(100)}) {
      const Array<S> w = matrix.template cast<S>() * scale;
      const double sigma = largest_singular_value(w);
      CAPTURE(name, scale, sigma);
      Array<S> left = gaussian<S>(1, w.rows(), 2), right = gaussian<S>(1, w.cols(), 3);
      const SpectralNormReport found = diffeo::detail::power_iteration_from_scratch(w, left, right, tight, 100);
      CAPTURE(found.norm - sigma, found.change, found.iterations, found.converged);
      CHECK(found.converged);
      CHECK(found.norm <= sigma * (1 + 20 * eps));  // a bound from below, but for rounding
      CHECK(found.norm >= sigma * (1 - (name == "two largest close" ? 100 * eps : 20 * eps)));
      CHECK(double(left.square().sum()) == Approx(1).epsilon(100 * eps));
      CHECK(double(right.square().sum()) == Approx(1).epsilon(100 * eps));
      const double along = (left.matrix() * w.matrix() * right.matrix().transpose()).template cast<double>().sum();
      CHECK(along == Approx(sigma).epsilon(100 * eps));

      // The same, whatever it was before; then a start at the singular vectors stays there.
      Array<S> other_left = Array<S>::Ones(1, w.rows()), other_right = Array<S>::Zero(1, w.cols());
      diffeo::detail::power_iteration_from_scratch(w, other_left, other_right, tight, 100);
      CHECK(same_bits(left, other_left));
      CHECK(same_bits(right, other_right));
      const SpectralNormReport again = diffeo::detail::power_iteration(w, left, right, 1e-4, 20);
      CHECK(again.iterations == 1);
      CHECK(again.norm == Approx(sigma).epsilon(100 * eps));
    }
}

TEMPLATE_TEST_CASE("spectral norm: plain power iteration from any start", "[spectral_norm]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> w =
      with_singular_values(12, 9, Array<double>{{3}, {2}, {2}, {1}, {1}, {1}, {0.5}, {0.1}, {0}}).template cast<S>();
  for (const Array<S>& start : {Array<S>(gaussian<S>(1, 9, 3)), Array<S>(Array<S>::Zero(1, 9)),
                                Array<S>(Array<S>::Constant(1, 9, std::numeric_limits<S>::quiet_NaN()))}) {
    Array<S> left = Array<S>::Zero(1, 12), right = start;
    const SpectralNormReport found = diffeo::detail::power_iteration(w, left, right, 1e-6, 200);
    CHECK(found.converged);
    CHECK(found.change <= 1e-6);
    CHECK(found.norm == Approx(3).epsilon(1e-5));
  }
  // The bound on iterations holds, and says so.
  Array<S> left = Array<S>::Zero(1, 12), right = gaussian<S>(1, 9, 3);
  const SpectralNormReport cut = diffeo::detail::power_iteration(w, left, right, 1e-6, 2);
  CHECK_FALSE(cut.converged);
  CHECK(cut.iterations == 2);
  CHECK(cut.change > 1e-6);
  CHECK(cut.norm > 1);
  CHECK(cut.norm <= 3 * (1 + 1e-6));
}

TEMPLATE_TEST_CASE("spectral norm: zero matrices, and numbers near the ends of the range", "[spectral_norm]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const auto& [m, k] : {std::pair<Index, Index>{4, 3}, {3, 4}, {1, 1}}) {
    Array<S> left = Array<S>::Ones(1, m), right = Array<S>::Ones(1, k);
    const Array<S> zero = Array<S>::Zero(m, k);
    const SpectralNormReport found = diffeo::detail::power_iteration_from_scratch(zero, left, right, 1e-7, 100);
    CHECK(found.norm == 0);
    CHECK(found.converged);
    CHECK(right.isFinite().all());
    CHECK(diffeo::detail::spectral_norm_bound(zero) == 0);
  }
  // Squares of these over- or underflow.
  const double far = sizeof(S) == 4 ? 30 : 250;
  for (const double exponent : {-far, far}) {
    const S scale = static_cast<S>(std::pow(10, exponent));
    const Array<S> w = gaussian<S>(5, 4, 1) * scale;
    const double sigma = largest_singular_value(w);
    CAPTURE(exponent, sigma);
    Array<S> left = Array<S>::Ones(1, 5), right = Array<S>::Ones(1, 4);
    const SpectralNormReport found = diffeo::detail::power_iteration_from_scratch(w, left, right, 1e-6, 100);
    CHECK(found.converged);
    CHECK(found.norm == Approx(sigma).epsilon(1e-5));
    CHECK(diffeo::detail::spectral_norm_bound(w) >= sigma);
    CHECK(diffeo::detail::spectral_norm_bound(w) <= sigma * 1.001);
    const SpectralLinear<S> layer = spectral_layer<S>(w, 0.5);
    CHECK(largest_singular_value(layer.bounded.value) == Approx(std::min(0.5, sigma)).epsilon(1e-5));
  }
}

TEMPLATE_TEST_CASE("spectral norm: NaN and infinity are not taken for convergence", "[spectral_norm]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const S bad : {std::numeric_limits<S>::quiet_NaN(), std::numeric_limits<S>::infinity()}) {
    Array<S> w = gaussian<S>(5, 4, 1), left = Array<S>::Ones(1, 5), right = Array<S>::Ones(1, 4);
    w(2, 3) = bad;
    CHECK_FALSE(diffeo::detail::power_iteration_from_scratch(w, left, right, 1e-6, 100).converged);
    CHECK_FALSE(diffeo::detail::spectral_norm_bound(w) < 1e30);
    // And they leave nothing behind.
    SpectralLinear<S> layer = spectral_layer<S>(w, 0.5);
    layer.weight = gaussian<S>(5, 4, 1);
    layer.refresh(ParameterChange::small_step);
    CHECK(largest_singular_value(layer.bounded.value) == Approx(0.5).epsilon(1e-2));
  }
}

TEST_CASE("spectral norm: what the tests compare with is what a singular value decomposition gives",
          "[spectral_norm]") {
  for (const auto& [name, matrix] : examples()) {
    CAPTURE(name);
    CHECK(largest_singular_value(matrix) ==
          Approx(Eigen::JacobiSVD<Eigen::MatrixXd>(matrix.matrix()).singularValues()(0)).epsilon(1e-12));
  }
}

TEMPLATE_TEST_CASE("spectral norm: the bound is one, and close", "[spectral_norm]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const auto& [name, matrix] : examples())
    for (const S scale : {S(1), S(0.01), S(100)}) {
      const Array<S> w = matrix.template cast<S>() * scale;
      const double sigma = largest_singular_value(w), bound = diffeo::detail::spectral_norm_bound(w);
      CAPTURE(name, scale, sigma, bound);
      CHECK(bound >= sigma);
      CHECK(bound <= 1.001 * sigma);
    }
}

TEMPLATE_TEST_CASE("spectral norm: a layer's matrix is scaled down to its bound, never up", "[spectral_norm]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const auto& [name, matrix] : examples()) {
    const Array<S> w = matrix.template cast<S>();
    const double sigma = largest_singular_value(w);
    CAPTURE(name, sigma);
    for (const double share : {0.3, 0.99}) {
      const SpectralLinear<S> layer = spectral_layer<S>(w, share * sigma);
      CHECK(largest_singular_value(layer.bounded.value) == Approx(share * sigma).epsilon(1e-5));
      CHECK(layer.lipschitz_bound() <= share * sigma * 1.001);
      CHECK(layer.lipschitz_bound() >= share * sigma * (1 - 1e-6));
      CHECK((layer.bounded.value - w * S(share)).abs().maxCoeff() <= 1e-5 * sigma);
    }
    const SpectralLinear<S> loose = spectral_layer<S>(w, 1.01 * sigma);
    CHECK(same_bits(loose.bounded.value, w));
    CHECK(loose.last.converged);
  }
}

TEST_CASE("spectral norm: gradients of the bounded matrix are central differences", "[spectral_norm]") {
  const auto f = [](const auto& layer, auto x) { return layer.matrix(x[0].tape()) * x[0]; };
  const std::pair<Index, Index> shapes[] = {{1, 1}, {1, 5}, {5, 1}, {4, 4}, {7, 3}, {3, 7}, {20, 20}};
  for (const auto& [m, k] : shapes) {
    const Array<double> w = gaussian<double>(m, k, 1);
    const double sigma = largest_singular_value(w);
    for (const double bound : {0.3 * sigma, 0.999 * sigma, 1.001 * sigma, 10 * sigma}) {
      CAPTURE(m, k, bound / sigma);
      const auto check = testing::check_gradients(spectral_layer<double>(w, bound), f,
                                                  std::vector{gaussian<double>(m, k, 4)}, {4, 0, 1});
      INFO(check.where);
      CHECK(check.max_error < 1e-7);
    }
  }
  // Used twice, and with an adjoint of its own besides: contributions add up.
  const auto twice = [](const auto& layer, auto x) {
    auto& tape = x[0].tape();
    return linear(linear(x[0], layer.matrix(tape)), layer.matrix(tape)) + linear(x[0], layer.weight);
  };
  const Array<double> w = gaussian<double>(5, 5, 1);
  const auto check = testing::check_gradients(spectral_layer<double>(w, 0.7), twice,
                                              std::vector{gaussian<double>(9, 5, 4)}, {4, 0, 1});
  INFO(check.where);
  CHECK(check.max_error < 1e-7);
}

TEST_CASE("spectral norm: gradients of a network and of its Jacobian are central differences", "[spectral_norm]") {
  for (const Activation a : {Activation::lip_swish, Activation::tanh, Activation::sin})
    for (const auto& hidden : {std::vector<Index>{}, {6}, {6, 5}}) {
      CAPTURE(std::string(to_string(a)), hidden.size());
      auto net = make_spectral_mlp<double>(3, 3, {.hidden = hidden, .activation = a, .last_scale = 1}, 0.9, 2);
      std::uint64_t stream = 30;
      for (auto& layer : net.layers) layer.bias = gaussian<double>(1, layer.bias.cols(), stream++);
      const std::vector in{gaussian<double>(9, 3, 0)};
      const auto value =
          testing::check_gradients(net, [](const auto& model, auto x) { return model(x[0]); }, in, {2, 0, 1});
      INFO(value.where);
      CHECK(value.max_error < 1e-7);
      const auto tangents =
          testing::check_tangent_gradients(net, [](const auto& model, auto x) { return model(x[0]); }, in, {2, 0, 1});
      INFO(tangents.where);
      CHECK(tangents.max_error < 1e-6);
      const auto log_det = testing::check_gradients(
          net, [](const auto& model, auto x) { return log_det_identity_plus(model.with_jacobian(x[0])); }, in,
          {2, 0, 1});
      INFO(log_det.where);
      CHECK(log_det.max_error < 1e-6);
    }
}

TEMPLATE_TEST_CASE("spectral norm: small steps are followed", "[spectral_norm]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const Index size : {4, 32, 128}) {
    CAPTURE(size);
    SpectralLinear<S> layer = spectral_layer<S>(gaussian<S>(size, size, 1), 0.9);
    long iterations = 0;
    double worst = 0;
    for (std::uint64_t step = 0; step < 30; ++step) {
      layer.weight += S(0.002) * gaussian<S>(size, size, 100 + step);
      layer.refresh(ParameterChange::small_step);
      iterations += layer.last.iterations;
      CHECK(layer.last.iterations <= layer.step_iterations);
      const double sigma = largest_singular_value(layer.weight);
      CHECK(layer.last.norm <= sigma * (1 + 1e-5));
      worst = std::max(worst, sigma / layer.last.norm - 1);
    }
    CAPTURE(iterations, worst);
    CHECK(worst < 5e-3);
    CHECK(iterations < 30 * 5);  // a start from the last vectors is worth something
    // Far away, `any` does not depend on where it came from.
    SpectralLinear<S> fresh = spectral_layer<S>(layer.weight, 0.9);
    layer.refresh(ParameterChange::any);
    CHECK(same_bits(layer.bounded.value, fresh.bounded.value));
    CHECK(same_bits(layer.left.value, fresh.left.value));
    CHECK(same_bits(layer.right.value, fresh.right.value));
  }
}

TEMPLATE_TEST_CASE("spectral norm: networks keep their coefficient", "[spectral_norm]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (std::size_t kind = 0; kind < std::size(activation_names); ++kind)
    for (const double coefficient : {0.5, 0.97, 3.0}) {
      const auto a = static_cast<Activation>(kind);
      CAPTURE(std::string(to_string(a)), coefficient);
      auto net = make_spectral_mlp<S>(3, 4, {.hidden = {20, 10}, .activation = a, .last_scale = 1}, coefficient, 2);
      for (auto& layer : net.layers) layer.weight *= S(10);
      refresh(net);
      CHECK(net.inputs() == 3);
      CHECK(net.outputs() == 4);
      CHECK(net.lipschitz_bound() <= coefficient * 1.003);
      CHECK(net.lipschitz_bound() >= coefficient * (1 - 1e-5));
      // What the bound is for: the network's steepest slope, found by its Jacobian.
      Tape<S> tape;
      const MultiDual<S> g = net.with_jacobian(tape.copy(gaussian<S>(200, 3, 0)));
      for (Index n = 0; n < 200; n += 10) {
        Array<S> j(4, 3);
        for (Index k = 0; k < 3; ++k)
          for (Index i = 0; i < 4; ++i) j(i, k) = g.blocks.value().col(i)[(k + 1) * g.pitch() + n];
        CHECK(largest_singular_value(j) <= coefficient * (1 + 1e-5));
      }
    }
}

TEST_CASE("spectral norm: absurd options are refused", "[spectral_norm]") {
  for (const double c : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    CHECK_THROWS_AS(make_spectral_mlp<double>(2, 2, {}, c, 0), invalid_argument);
  CHECK(thrown_message<invalid_argument>([] { make_spectral_mlp<double>(2, 2, {}, -1, 0); }) ==
        "make_spectral_mlp: coefficient is -1, expected a positive number");
  CHECK_THROWS_AS(make_spectral_mlp<double>(2, 2, {.hidden = {8, 0}}, 0.9, 0), invalid_argument);
  CHECK_THROWS_AS(make_spectral_mlp<double>(0, 2, {}, 0.9, 0), invalid_argument);
  CHECK_THROWS_AS(make_spectral_mlp<double>(2, 2, {.first_scale = std::nan("")}, 0.9, 0), invalid_argument);
}

TEMPLATE_TEST_CASE("spectral norm: parameters set and restored give the same bits", "[spectral_norm]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  static_assert(refreshes<SpectralLinear<S>> && refreshes<SpectralMlp<S>> && !refreshes<Mlp<S>>);
  auto net = make_spectral_mlp<S>(3, 3, {.hidden = {20, 10}, .last_scale = 1}, 0.9, 2);
  const Array<S> x = gaussian<S>(40, 3, 0), start = parameters(net);
  CHECK(parameter_count(net) == 3 * 20 + 20 + 20 * 10 + 10 + 10 * 3 + 3);  // what is computed is no parameter
  const auto value = [&] {
    Tape<S> tape;
    return Array<S>(as_eigen(net(tape.copy(x)).value()));
  };
  const Array<S> before = value();
  const auto arrays = [&] {
    std::vector<Array<S>> all;
    for_each_leaf(net, [&all](const Path&, LeafKind, const Array<S>& a) { all.push_back(a); });
    return all;
  };
  const auto all_before = arrays();
  set_parameters(net, Array<S>(start + S(0.3) * gaussian<S>(start.rows(), 1, 8)));
  CHECK((value() != before).any());
  CHECK(net.lipschitz_bound() <= 0.9 * 1.003);
  for (int k = 0; k < 5; ++k)
    set_parameters(net, Array<S>(parameters(net) + S(0.01) * gaussian<S>(start.rows(), 1, 9)),
                   ParameterChange::small_step);
  set_parameters(net, start);
  CHECK(same_bits(value(), before));
  const auto all_after = arrays();
  for (std::size_t k = 0; k < all_before.size(); ++k) CHECK(same_bits(all_before[k], all_after[k]));

  // The lifted network has the same value, and a matrix that refers to the model's.
  Array<S> values = start, grads = Array<S>::Zero(start.rows(), 1);
  Tape<S> tape;
  const auto lifted = lift(tape, net, values.data(), grads.data());
  CHECK(lifted.layers[1].bound == net.layers[1].bound);
  CHECK(lifted.layers[1].matrix(tape).value().data == net.layers[1].bounded.value.data());
  CHECK(lifted.layers[1].matrix(tape).requires_grad());
  CHECK(same_bits(Array<S>(as_eigen(lifted(tape.copy(x)).value())), before));
  const auto [w, b] = lifted.constants(tape, 1);
  CHECK_FALSE(w.requires_grad());
  CHECK_FALSE(b.requires_grad());
  const auto detached = lift_detached(tape, net, values.data());
  CHECK_FALSE(detached(tape.copy(x)).requires_grad());
  CHECK(same_bits(Array<S>(as_eigen(detached(tape.copy(x)).value())), before));
}

TEMPLATE_TEST_CASE("spectral norm: a trained model keeps its bound", "[spectral_norm]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const double coefficient : {0.5, 0.97}) {
    auto flow = residual_flow<S>(2, coefficient);
    const double before = mean(flow.log_prob(clusters<S>(500)));
    const FitReport report =
        fit(flow, clusters<S>(2000), {.steps = 200, .batch = 256, .rate = {.learning_rate = 1e-2}, .threads = 1});
    CHECK(report.reason == StopReason::completed);
    CHECK(mean(flow.log_prob(clusters<S>(500))) > before + 0.1);
    for (const auto& layer : flow.flow.layer.layers) {
      CAPTURE(coefficient, layer.lipschitz_bound() / coefficient - 1);
      CHECK(layer.lipschitz_bound() <= coefficient * (1 + 1e-5));
      for (const auto& linear : layer.network.layers) {
        CHECK(linear.last.converged);
        CHECK(largest_singular_value(linear.bounded.value) <= linear.bound * (1 + 1e-6));
      }
    }
  }
}

TEMPLATE_TEST_CASE("spectral norm: training gives the same bits with any number of threads", "[spectral_norm]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto trained = [](int threads) {
    auto flow = residual_flow<S>(2, 0.9);
    fit(flow, clusters<S>(2000), {.steps = 25, .batch = 900, .rate = {.learning_rate = 1e-2}, .threads = threads});
    return flow;
  };
  const auto one = trained(1), two = trained(2);
  CHECK(same_bits(parameters(one), parameters(two)));
  CHECK(same_bits(one.log_prob(clusters<S>(100)), two.log_prob(clusters<S>(100))));
  CHECK((parameters(one) != parameters(residual_flow<S>(2, 0.9))).any());
}
