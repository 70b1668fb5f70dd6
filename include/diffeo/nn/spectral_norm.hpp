// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/lift.hpp>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/nn/jacobian.hpp>
#include <diffeo/nn/mlp.hpp>
#include <limits>

/// Dense layers and networks with a bound on their Lipschitz constant.
namespace diffeo::inline DIFFEO_ISA {

/// What a power iteration found.
struct SpectralNormReport {
  double norm = 0;    ///< estimate of the largest singular value, from below
  double change = 0;  ///< relative change in the last iteration
  long iterations = 0;
  bool converged = false;  ///< whether that change is within the tolerance
};

namespace detail {

template <class S>
auto as_vector(Array<S>& x) {
  return Eigen::Map<Eigen::Matrix<S, Eigen::Dynamic, 1>>(x.data(), x.size());
}

// |x|, also where squares over- or underflow.
template <class V>
typename V::Scalar length_of(const V& x) {
  using S = typename V::Scalar;
  const S length = x.norm();
  const bool safe = length * length > std::numeric_limits<S>::min() / std::numeric_limits<S>::epsilon() &&
                    length <= std::numeric_limits<S>::max();
  return safe ? length : x.stableNorm();
}

// (w'w)^(2^squarings) or (ww')^..., whichever is smaller, over its trace; and log(trace) / 2^squarings of the power.
struct GramPower {
  Eigen::MatrixXd matrix;
  double log_trace = 0;  // -infinity for a zero matrix
};
template <Real S>
GramPower gram_power(const Array<S>& w, int squarings) {
  // Of order 1, so that no square over- or underflows.
  const double largest = static_cast<double>(w.abs().maxCoeff()), unit = largest > 0 ? largest : 1;
  const Eigen::MatrixXd wide = w.template cast<double>().matrix() / unit;
  GramPower gram;
  gram.log_trace = 2 * std::log(unit);
  if (wide.rows() < wide.cols())
    gram.matrix = wide * wide.transpose();
  else
    gram.matrix = wide.transpose() * wide;
  double power = 1;
  for (int k = 0;; ++k, power *= 2) {
    const double trace = gram.matrix.trace();
    gram.log_trace += std::log(trace) / power;
    if (!(trace > 0)) return gram;
    gram.matrix /= trace;
    if (k == squarings) return gram;
    gram.matrix = (gram.matrix * gram.matrix).eval();
  }
}

/// Largest singular value of w by power iteration from `right` (1 x K), which ends as its right singular vector, and
/// `left` (1 x M) as the left one. Stops when the estimate's relative growth from one half-step to the next is at most
/// `tolerance`.
template <Real S>
SpectralNormReport power_iteration(const Array<S>& w, Array<S>& left, Array<S>& right, double tolerance,
                                   long max_iterations) {
  const auto matrix = w.matrix();
  auto u = as_vector(left), v = as_vector(right);
  SpectralNormReport report;
  const S length = length_of(v);
  if (!(length > 0)) v.setOnes();
  v /= length > 0 ? length : v.norm();
  for (report.iterations = 1; report.iterations <= max_iterations; ++report.iterations) {
    u.noalias() = matrix * v;
    const S stretched = length_of(u);
    if (!(stretched > 0)) {  // a zero matrix, or NaN
      report.converged = stretched == 0;
      return report;
    }
    u /= stretched;
    v.noalias() = matrix.transpose() * u;
    const S norm = length_of(v);
    v /= norm;
    // |w v| and then |w' u| are bounds from below that grow.
    report.change = std::abs(static_cast<double>(norm - stretched)) / static_cast<double>(norm);
    report.norm = static_cast<double>(norm);
    if (report.change <= tolerance) {
      report.converged = true;
      return report;
    }
  }
  report.iterations = max_iterations;
  return report;
}

/// The same from a start that depends on w alone and has all but converged, unless singular values are closer than one
/// part in ten thousand.
template <Real S>
SpectralNormReport power_iteration_from_scratch(const Array<S>& w, Array<S>& left, Array<S>& right, double tolerance,
                                                long max_iterations) {
  const GramPower gram = gram_power(w, 14);
  Index largest = 0;
  gram.matrix.diagonal().maxCoeff(&largest);
  const Eigen::VectorXd start = gram.matrix.col(largest);
  if (w.rows() < w.cols())
    as_vector(right) = w.matrix().transpose() * start.template cast<S>();
  else
    as_vector(right) = start.template cast<S>();
  return power_iteration(w, left, right, tolerance, max_iterations);
}

/// An upper bound of the largest singular value of w, at most 0.1 % above it for up to 1000 rows or columns:
/// trace((w'w)^p)^(1 / 2p) for p = 2^12.
template <Real S>
double spectral_norm_bound(const Array<S>& w) {
  constexpr double rounding = 1 + 1e-9;  // of the products
  return std::exp(0.5 * gram_power(w, 12).log_trace) * rounding;
}

}  // namespace detail

/// A dense layer whose matrix has a bounded spectral norm: W min(1, bound / sigma(W)), after Miyato et al. 2018 and
/// Behrmann et al. 2019 (eq. 6). sigma comes from a power iteration that starts from the vectors of the last one.
///
/// refresh() must follow every change of the weights; set_parameters() and training see to that. Between refreshes the
/// layer multiplies by the matrix that the last one made.
template <class T>
struct SpectralLinear {
  using Scalar = scalar_t<T>;

  param_t<T> weight;  ///< W, M x K
  param_t<T> bias;    ///< 1 x M
  Buffer<T> bounded;  ///< W min(1, bound / sigma)
  Buffer<T> left;     ///< left singular vector, 1 x M
  Buffer<T> right;    ///< right singular vector, 1 x K
  double bound = 1;
  double step_tolerance = 1e-4;  ///< of the power iteration after a step of training
  long step_iterations = 20;     ///< at most, after a step of training
  SpectralNormReport last = {};

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.weight, self.bias, self.bounded, self.left, self.right);
  }
  template <class U>
  SpectralLinear<U> rebind() const {
    return {{}, {}, {}, {}, {}, bound, step_tolerance, step_iterations, last};
  }

  /// Brings the bounded matrix up to date: `converged` in `last` says whether sigma was found to tolerance.
  void refresh(ParameterChange change)
    requires Real<T>
  {
    constexpr double tight = 4 * static_cast<double>(std::numeric_limits<Scalar>::epsilon());  // what rounding allows
    last = change == ParameterChange::any
               ? detail::power_iteration_from_scratch(weight, left.value, right.value, tight, 100)
               : detail::power_iteration(weight, left.value, right.value, step_tolerance, step_iterations);
    bounded.value = weight;
    if (last.norm > bound) bounded.value *= static_cast<Scalar>(bound / last.norm);
  }

  /// An upper bound of the spectral norm of the matrix in use, free of the power iteration's error.
  double lipschitz_bound() const
    requires Real<T>
  {
    return detail::spectral_norm_bound(bounded.value);
  }

  /// The matrix in use as a value of the tape, differentiable with respect to W.
  Var<Scalar> matrix(Tape<Scalar>& tape) const {
    using S = Scalar;
    const Var<S> value = as_var(tape, bounded), w = as_var(tape, weight);
    if (!w.requires_grad()) return value;
    const Var<S> y = tape.alias(value.value(), true);
    const Var<S> u = as_var(tape, left), v = as_var(tape, right);
    tape.on_backward({y}, [y, w, u, v, limit = bound] { backward(y, w, u, v, limit); });
    return y;
  }

 private:
  // y = W min(1, c / sigma), sigma = u' W v with d sigma = u' dW v at the singular vectors.
  template <class V>
  static void backward(V y, V w, V u, V v, double limit) {
    using S = Scalar;
    const auto g = as_eigen(y.grad()).matrix();
    const auto from = as_eigen(w.value()).matrix();
    using Vector = Eigen::Map<const Eigen::Matrix<S, Eigen::Dynamic, 1>>;
    const Vector left_vector(u.value().data, from.rows()), right_vector(v.value().data, from.cols());
    S sigma = 0;  // column by column: a product would be put into memory of its own
    for (Index j = 0; j < from.cols(); ++j) sigma += right_vector[j] * from.col(j).dot(left_vector);
    const GradTarget<S> target = y.tape().grad_target(w);
    auto to = as_eigen(target.grad);
    S factor = 1, along = 0;
    if (static_cast<double>(sigma) > limit) {
      factor = static_cast<S>(limit) / sigma;
      along = factor * g.cwiseProduct(from).sum() / sigma;
    }
    for (Index j = 0; j < to.cols(); ++j) {
      const S by = along * right_vector[j];
      if (target.assign)
        to.col(j) = factor * g.col(j).array() - by * left_vector.array();
      else
        to.col(j) += factor * g.col(j).array() - by * left_vector.array();
    }
  }
};

/// A multi-layer perceptron of such layers, with Lipschitz constant below the product of their bounds and of the
/// activation's.
template <class T>
struct SpectralMlp {
  using Scalar = scalar_t<T>;

  std::vector<SpectralLinear<T>> layers;
  Activation activation = Activation::lip_swish;

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.layers);
  }
  template <class U>
  SpectralMlp<U> rebind() const {
    SpectralMlp<U> bound{{}, activation};
    for (const auto& layer : layers) bound.layers.push_back(layer.template rebind<U>());
    return bound;
  }

  Index inputs() const { return layers.front().weight.cols(); }
  Index outputs() const { return layers.back().weight.rows(); }

  /// What the Lipschitz constant is kept below: the product of the layers' bounds and the activation's slopes.
  double coefficient() const {
    double product = std::pow(lipschitz_constant(activation), static_cast<double>(layers.size() - 1));
    for (const auto& layer : layers) product *= layer.bound;
    return product;
  }

  /// N x inputs -> N x outputs.
  template <Traced X>
  X operator()(X x) const {
    auto& tape = innermost(x).tape();
    for (std::size_t i = 0; i < layers.size(); ++i)
      x = affine(x, layers[i].matrix(tape), layers[i].bias, i + 1 < layers.size() ? activation : Activation::identity);
    return x;
  }

  /// The same with the whole Jacobian: one direction per input.
  MultiDual<Scalar> with_jacobian(Var<Scalar> x) const {
    Tape<Scalar>& tape = x.tape();
    return detail::dense_with_jacobian<Scalar>(x, activation, layers.size(), [&](std::size_t i) {
      return std::pair(layers[i].matrix(tape), as_var(tape, layers[i].bias));
    });
  }

  /// Matrix and bias of a layer as constants, whatever the parameters are.
  std::pair<Var<Scalar>, Var<Scalar>> constants(Tape<Scalar>& tape, std::size_t i) const {
    return {as_var(tape, layers[i].bounded), tape.constant(as_var(tape, layers[i].bias).value())};
  }

  double lipschitz_bound() const
    requires Real<T>
  {
    double bound = 1;
    for (const auto& layer : layers) bound *= layer.lipschitz_bound();
    return bound * std::pow(lipschitz_constant(activation), static_cast<double>(layers.size() - 1));
  }
};

/// A network of such layers with the Lipschitz constant `coefficient` at most, the same share of it for every layer.
/// Throws invalid_argument for a coefficient that is not positive and for what make_mlp() refuses.
template <Real S>
SpectralMlp<S> make_spectral_mlp(Index inputs, Index outputs, const MlpOptions& options, double coefficient,
                                 std::uint64_t seed, std::uint64_t stream = 0) {
  require(coefficient > 0 && std::isfinite(coefficient), "make_spectral_mlp: coefficient is ", coefficient,
          ", expected a positive number");
  const Mlp<S> plain = make_mlp<S>(inputs, outputs, options, seed, stream);
  SpectralMlp<S> bounded{{}, options.activation};
  const auto count = static_cast<double>(plain.layers.size());
  const double slope = std::pow(lipschitz_constant(options.activation), count - 1);
  for (const Linear<S>& layer : plain.layers) {
    SpectralLinear<S> linear{layer.weight, layer.bias, {layer.weight},
                             {},           {},         std::pow(coefficient / slope, 1 / count)};
    linear.left.value = Array<S>::Ones(1, layer.weight.rows());
    linear.right.value = Array<S>::Ones(1, layer.weight.cols());
    linear.refresh(ParameterChange::any);
    bounded.layers.push_back(std::move(linear));
  }
  return bounded;
}

}  // namespace diffeo::inline DIFFEO_ISA
