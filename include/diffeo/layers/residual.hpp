// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/elimination.hpp>
#include <diffeo/autodiff/ops/surrogate.hpp>
#include <diffeo/layers/flow.hpp>
#include <diffeo/layers/log_det_estimator.hpp>
#include <diffeo/layers/residual_inverse.hpp>
#include <diffeo/nn/spectral_norm.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Residual layer x = z + g(z) with a network g whose Lipschitz constant is below 1 (i-ResNet: Behrmann et al. 2019;
/// Residual Flows: Chen et al. 2019). forward is explicit. inverse solves the equation for z, by fixed-point iteration
/// or Newton's method (see InverseMethod), and is differentiated by the implicit function theorem.
///
/// If the slope of the activation is discontinuous, as that of relu, log_det is discontinuous in z and the parameters.
/// The gradient of the mean over samples then omits the contribution of samples at a discontinuity, so that it is not
/// the gradient of the expectation.
///
/// A network that takes a context c makes the layer x = z + g(z, c); the Lipschitz constant in z is below 1 for every
/// c.
///
/// log_det is computed by the estimator `training` in training (Pass::training), otherwise by `evaluation`. Tangents
/// (Dual) always use the exact log-determinant.
template <class T>
struct Residual {
  using Scalar = scalar_t<T>;

  SpectralMlp<T> network;                      ///< g: N x D -> N x D, with a Lipschitz constant below 1
  LogDetEstimator training = ExactLogDet{};    ///< used in training
  LogDetEstimator evaluation = ExactLogDet{};  ///< used otherwise
  ResidualInverseOptions inverse_options = {};

  static constexpr double suggested_learning_rate = 2e-3;

  Index dim() const { return network.inputs(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("network", self.network);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "residual", "training", self.training, "evaluation", self.evaluation, "inverse",
                            self.inverse_options);
  }
  template <class U>
  Residual<U> rebind() const {
    return {network.template rebind<U>(), training, evaluation, inverse_options};
  }

  /// Returns an upper bound of the Lipschitz constant of g that does not depend on the power iterations.
  double lipschitz_bound() const
    requires Real<T>
  {
    return network.lipschitz_bound();
  }

  /// Throws invalid_argument unless the network has layers and as many outputs as inputs, and for options out of range.
  void check() const {
    require(!network.layers.empty(), "residual: the network has no layers, expected at least one");
    require(network.inputs() == network.outputs(), "residual: the network has ", network.inputs(), " inputs and ",
            network.outputs(), " outputs, expected as many");
    inverse_options.check();
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const {
    check(z);
    return forward_with(first_bias(z, pass), z, pass);
  }

  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const {
    check(x);
    const Var<S> bias = first_bias(x, pass);
    const X z = solved(bias, x);
    return {z, -forward_with(bias, z, pass).log_det};
  }

 private:
  using S = Scalar;

  // Returns the first bias of g for the context of the pass, which the evaluations of one call share.
  template <Traced X>
  Var<S> first_bias(const X& x, const Pass<S>& pass) const {
    return network.first_bias(innermost(x).tape(), pass.context, x.rows());
  }

  template <Traced X>
  Transformed<X> forward_with(const Var<S>& bias, const X& z, const Pass<S>& pass) const {
    if constexpr (detail::is_dual<X>)
      return exact_forward(bias, z);
    else
      return std::visit([&](const auto& estimator) { return forward_by(estimator, bias, z, pass); },
                        pass.training ? training : evaluation);
  }

  template <Traced X>
  void check(const X& x) const {
    require(!network.layers.empty(), "residual: the network has no layers, expected at least one");
    require(x.cols() == dim(), "residual: x has ", x.cols(), " columns, this layer has dimension ", dim());
  }

  // Returns whether z, the first bias of g or any parameter of the network requires a gradient.
  bool records(const Var<S>& bias, const Var<S>& z) const {
    bool records = z.requires_grad() || (bias && bias.requires_grad());
    if constexpr (detail::is_var<T>)
      for_each_parameter(network, [&records](const auto& p) { records = records || p.requires_grad(); });
    return records;
  }

  // ---- log-determinants ----
  Transformed<Var<S>> forward_by(const ExactLogDet&, const Var<S>& bias, const Var<S>& z, const Pass<S>&) const {
    const MultiDual<S> g = network.with_jacobian(z, bias);
    return {z + value_of(g), log_det_identity_plus(g)};
  }

  template <class Series>
  Transformed<Var<S>> forward_by(const Series& series, const Var<S>& bias, const Var<S>& z, const Pass<S>& pass) const {
    series.check();
    Tape<S>& tape = z.tape();
    const Index rows = z.rows(), dim = z.cols();
    const Var<S> estimate = zeros(z, 1), points = tape.constant(z.value());
    auto* parts = tape.template allocate<detail::SeriesEstimate<S>>(static_cast<std::size_t>(series.probes));
    for (Index probe = 0; probe < series.probes; ++probe)
      parts[probe] = {tape.make(rows, 1, false), tape.make(rows, dim, false), tape.make(rows, dim, false)};
    const S share = S(1) / static_cast<S>(series.probes);
    const auto mark = tape.mark();
    const Linearised<S> jacobian = network.linearised(points, bias);
    for (Index probe = 0; probe < series.probes; ++probe) {
      detail::sum_series(series, jacobian, points.value(), pass, probe, parts[probe]);
      math::map_add(
          tape.mutable_value(estimate), false, [share](auto v) { return share * v; }, parts[probe].value.value());
    }
    tape.release(mark);
    const bool recorded = records(bias, z);
    Var<S> value, source;
    for (Index probe = 0; recorded && probe < series.probes; ++probe) {
      const Dual<Var<S>> g = network(Dual<Var<S>>{z, parts[probe].direction}, bias);
      if (!value) value = g.value;
      const Var<S> one = sum_cols(g.tangent * parts[probe].probe) * share;
      source = source ? source + one : one;
    }
    if (!recorded) return {z + network(z, bias), estimate};
    return {z + value, with_gradient_of(estimate, source)};
  }

  // ---- tangents ----
  // Returns I + J, column by column. It is positive definite in the sense that v'(I + J)v > 0, so that elimination
  // needs no pivots.
  template <class X>
  detail::MatrixOfColumns<X> identity_plus_jacobian(const Var<S>& bias, const X& z) const {
    const Index d = dim();
    detail::MatrixOfColumns<X> a(static_cast<std::size_t>(d));
    for (Index j = 0; j < d; ++j) {
      X direction = zeros(z, d);
      auto seed = innermost(direction);
      math::map(seed.tape().mutable_value(seed).cols_block(j, 1), [] { return simd::broadcast<S>(1); });
      const X column = network(Dual<X>{z, direction}, bias).tangent + direction;
      for (Index i = 0; i < d; ++i) a[static_cast<std::size_t>(i)].push_back(cols(column, i, 1));
    }
    return a;
  }
  template <class X>
  Transformed<X> exact_forward(const Var<S>& bias, const X& z) const {
    auto a = identity_plus_jacobian(bias, z);
    return {z + network(z, bias), detail::log_det_without_pivoting(std::move(a))};
  }

  // ---- the inverse ----
  template <class X>
  Dual<X> solved(const Var<S>& bias, const Dual<X>& x) const {
    const X z = solved(bias, x.value);
    return {z, detail::solve_without_pivoting(identity_plus_jacobian(bias, z), x.tangent)};
  }
  Var<S> solved(const Var<S>& bias, const Var<S>& x) const {
    return detail::ResidualInverse<T>(network, bias, inverse_options)(x, records(bias, x));
  }
};

/// Options of make_residual().
///
/// | option      | type                   | default                                                           |
/// |-------------|------------------------|-------------------------------------------------------------------|
/// | hidden      | widths                 | {128, 128}                                                        |
/// | activation  | Activation             | lip_swish; tanh, elu and sin have slopes of at most 1 too         |
/// | coefficient | double                 | 0.97: upper bound of the Lipschitz constant of g, between 0 and 1 |
/// | last_scale  | double                 | 0.05: factor on the initial weights of the last layer             |
/// | first_scale | double                 | 1: factor on the initial weights of the first layer               |
/// | training    | LogDetEstimator        | ExactLogDet: estimator of the log-determinant in training         |
/// | evaluation  | LogDetEstimator        | ExactLogDet: estimator of the log-determinant otherwise           |
/// | inverse     | ResidualInverseOptions | ResidualInverseOptions{}: as accurate as rounding allows          |
/// | context_dim | Index                  | 0: number of columns of the context                               |
struct ResidualOptions {
  std::vector<Index> hidden = {128, 128};
  Activation activation = Activation::lip_swish;
  double coefficient = 0.97;
  double last_scale = 0.05;
  double first_scale = 1;
  LogDetEstimator training = ExactLogDet{};
  LogDetEstimator evaluation = ExactLogDet{};
  ResidualInverseOptions inverse = {};
  Index context_dim = 0;

  /// Returns the options of the network.
  MlpOptions network() const {
    return {.hidden = hidden, .activation = activation, .last_scale = last_scale, .first_scale = first_scale};
  }
};

/// Returns a residual layer with D = dim and weights drawn from (seed, stream). Throws invalid_argument for dim < 1, a
/// coefficient outside (0, 1), no hidden layer, and for options that an estimator or make_spectral_mlp() refuses.
template <Real S>
Residual<S> make_residual(Index dim, const ResidualOptions& options = {}, std::uint64_t seed = 0,
                          std::uint64_t stream = 0) {
  require(dim >= 1, "make_residual: dimension ", dim, ", expected at least 1");
  require(options.coefficient > 0 && options.coefficient < 1, "make_residual: coefficient is ", options.coefficient,
          ", expected between 0 and 1");
  require(!options.hidden.empty(), "make_residual: no hidden layer, expected at least one");
  options.inverse.check();
  for (const LogDetEstimator* estimator : {&options.training, &options.evaluation})
    std::visit(
        [](const auto& e) {
          if constexpr (requires { e.check(); }) e.check();
        },
        *estimator);
  return {make_spectral_mlp<S>(dim, dim, options.network(), options.coefficient, seed, stream, options.context_dim),
          options.training, options.evaluation, options.inverse};
}

}  // namespace diffeo::inline DIFFEO_ISA
