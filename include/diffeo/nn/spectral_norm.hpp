// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/multi_dual.hpp>
#include <diffeo/nn/mlp.hpp>
#include <limits>

/// Dense layers and networks with a bound on their Lipschitz constant.
namespace diffeo {

/// What a power iteration found.
struct SpectralNormReport {
  double norm = 0;    ///< estimate of the largest singular value, from below
  double change = 0;  ///< relative change in the last iteration
  long iterations = 0;
  bool converged = false;  ///< whether that change is within the tolerance
};

namespace detail {

/// Largest singular value of w by power iteration on w'w from `right` (1 x K), which ends as its right singular vector,
/// and `left` (1 x M) as the left one.
template <Real S>
SpectralNormReport power_iteration(const Array<S>& w, Array<S>& left, Array<S>& right, double tolerance,
                                   long max_iterations) {
  const auto matrix = w.matrix();
  SpectralNormReport report;
  const double length = static_cast<double>(right.matrix().norm());
  if (!(length > 0)) right.setOnes();
  right /= static_cast<S>(right.matrix().norm());
  double norm = 0;
  for (report.iterations = 1; report.iterations <= max_iterations; ++report.iterations) {
    left.matrix().transpose().noalias() = matrix * right.matrix().transpose();
    const double stretched = static_cast<double>(left.matrix().norm());
    if (!(stretched > 0)) {  // a zero matrix, or a right vector in its kernel
      report.norm = 0;
      report.converged = stretched == 0;
      return report;
    }
    left /= static_cast<S>(stretched);
    right.matrix().noalias() = left.matrix() * matrix;
    norm = static_cast<double>(right.matrix().norm());
    right /= static_cast<S>(norm);
    // Both |w v| and |w' u| are lower bounds that grow from half-step to half-step.
    report.change = (norm - stretched) / norm;
    report.norm = norm;
    if (report.change <= tolerance) {
      report.converged = true;
      return report;
    }
  }
  report.iterations = max_iterations;
  return report;
}

/// An upper bound of the largest singular value of w, at most 0.1 % above it for up to 1000 rows or columns:
/// trace((w'w)^p)^(1 / 2p) for p = 2^12.
template <Real S>
double spectral_norm_bound(const Array<S>& w) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic>;
  const Matrix wide = w.template cast<double>().matrix();
  Matrix gram = wide.rows() < wide.cols() ? Matrix(wide * wide.transpose()) : Matrix(wide.transpose() * wide);
  double log_scale = 0;  // of gram, as a power of w'w
  double power = 1;
  for (int k = 0;; ++k) {
    const double trace = gram.trace();
    if (!(trace > 0)) return trace == 0 ? 0 : std::numeric_limits<double>::quiet_NaN();
    gram /= trace;
    log_scale += std::log(trace) / power;
    if (k == 12) break;
    const Matrix squared = gram * gram;
    gram = squared;
    power *= 2;
  }
  return std::exp(0.5 * log_scale) * (1 + 1e-6);  // rounding of the products
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

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.weight, self.bias, self.bounded, self.left, self.right);
  }
  template <class U>
  SpectralLinear<U> rebind() const {
    return {{}, {}, {}, {}, {}, bound};
  }

  /// Brings the bounded matrix up to date. `tolerance`: relative change of sigma at which the iteration stops.
  SpectralNormReport refresh(double tolerance = default_tolerance, long max_iterations = 1000)
    requires Real<T>
  {
    const SpectralNormReport report =
        detail::power_iteration(weight, left.value, right.value, tolerance, max_iterations);
    bounded.value = weight;
    if (report.norm > bound) bounded.value *= static_cast<Scalar>(bound / report.norm);
    return report;
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

  static constexpr double default_tolerance = 1e-4;

 private:
  // y = W min(1, c / sigma), sigma = u' W v with d sigma = u' dW v at the singular vectors.
  template <class V>
  static void backward(V y, V w, V u, V v, double limit) {
    using S = Scalar;
    const auto g = as_eigen(y.grad()).matrix();
    const auto from = as_eigen(w.value()).matrix();
    const auto left_vector = as_eigen(u.value()).matrix();
    const auto right_vector = as_eigen(v.value()).matrix();
    const S sigma = (left_vector * from).cwiseProduct(right_vector).sum();
    const GradTarget<S> target = y.tape().grad_target(w);
    auto to = as_eigen(target.grad);
    S factor = 1, along = 0;
    if (static_cast<double>(sigma) > limit) {
      factor = static_cast<S>(limit) / sigma;
      along = factor * g.cwiseProduct(from).sum() / sigma;
    }
    for (Index j = 0; j < to.cols(); ++j) {
      const S by = along * right_vector(0, j);
      if (target.assign)
        to.col(j) = factor * g.col(j).array() - by * left_vector.transpose().array();
      else
        to.col(j) += factor * g.col(j).array() - by * left_vector.transpose().array();
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

  /// N x inputs -> N x outputs.
  template <Traced X>
  X operator()(X x) const {
    for (std::size_t i = 0; i < layers.size(); ++i)
      x = affine(x, layers[i].matrix(innermost(x).tape()), layers[i].bias,
                 i + 1 < layers.size() ? activation : Activation::identity);
    return x;
  }

  /// The same with the whole Jacobian: one direction per input.
  MultiDual<Scalar> with_jacobian(Var<Scalar> x) const {
    using S = Scalar;
    Tape<S>& tape = x.tape();
    const Var<S> first = layers[0].matrix(tape);
    detail::HiddenInput<S> in{affine(x, first, layers[0].bias), first, {}};
    for (std::size_t i = 1;; ++i) {
      const MultiDual<S> y =
          detail::hidden_product(in, activation, layers[i].matrix(tape), as_var(tape, layers[i].bias));
      if (i + 1 == layers.size()) return y;
      in = {{}, {}, y};
    }
  }

  double lipschitz_bound() const
    requires Real<T>
  {
    double bound = 1;
    for (const auto& layer : layers) bound *= layer.lipschitz_bound();
    return bound * std::pow(lipschitz_constant(activation), static_cast<double>(layers.size() - 1));
  }
};

}  // namespace diffeo
