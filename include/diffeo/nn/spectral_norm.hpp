// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/math/matmul.hpp>
#include <diffeo/nn/jacobian.hpp>
#include <diffeo/nn/linearised.hpp>
#include <diffeo/nn/mlp.hpp>
#include <limits>

/// Dense layers and networks with a bound on their Lipschitz constant.
namespace diffeo::inline DIFFEO_ISA {

/// Result of a power iteration.
struct SpectralNormReport {
  double norm = 0;         ///< estimate of the largest singular value, a lower bound
  double change = 0;       ///< relative change of the estimate in the last iteration
  long iterations = 0;     ///< number of iterations
  bool converged = false;  ///< whether `change` is within the tolerance
};

namespace detail {

// Returns the Euclidean norm of x, accurate also where squares of entries over- or underflow.
template <Real S>
S length_of(const Array<S>& x) {
  const S length = std::sqrt(x.square().sum());
  const bool safe = length * length > std::numeric_limits<S>::min() / std::numeric_limits<S>::epsilon() &&
                    length <= std::numeric_limits<S>::max();
  if (safe) return length;
  const S largest = x.abs().maxCoeff();
  return largest > 0 && std::isfinite(largest) ? largest * std::sqrt((x / largest).square().sum()) : length;
}

// Returns the matrix product a b.
inline Array<double> multiplied(const Array<double>& a, const Array<double>& b) {
  Array<double> out(a.rows(), b.cols());
  math::product<double>(view(out), view(a), {b.data(), 1, b.rows()}, nullptr, math::Start::zero);
  return out;
}

// Power of a Gram matrix, (w'w)^p or (ww')^p, whichever is smaller, divided by its trace; log_trace is log(trace) / p.
struct GramPower {
  Array<double> matrix;
  double log_trace = 0;  // -infinity for a zero matrix
};
// Returns the GramPower of w with p = 2^squarings.
template <Real S>
GramPower gram_power(const Array<S>& w, int squarings) {
  // Scaled to order 1, so that no square over- or underflows.
  const double largest = static_cast<double>(w.abs().maxCoeff()), unit = largest > 0 ? largest : 1;
  const Array<double> wide = w.template cast<double>() / unit, across = wide.transpose();
  GramPower gram;
  gram.log_trace = 2 * std::log(unit);
  gram.matrix = wide.rows() < wide.cols() ? multiplied(wide, across) : multiplied(across, wide);
  double power = 1;
  for (int k = 0;; ++k, power *= 2) {
    const double trace = gram.matrix.matrix().trace();
    gram.log_trace += std::log(trace) / power;
    if (!(trace > 0)) return gram;
    gram.matrix /= trace;
    if (k == squarings) return gram;
    gram.matrix = multiplied(gram.matrix, gram.matrix);
  }
}

/// Estimates the largest singular value of w (M x K) by power iteration. `right` (1 x K) is the start vector and
/// becomes the right singular vector, `left` (1 x M) becomes the left one. Stops when the relative growth of the
/// estimate from one half-step to the next is at most `tolerance`, or after max_iterations.
template <Real S>
SpectralNormReport power_iteration(const Array<S>& w, Array<S>& left, Array<S>& right, double tolerance,
                                   long max_iterations) {
  const View<S> u{left.data(), w.rows(), 1, w.rows()}, v{right.data(), w.cols(), 1, w.cols()};
  SpectralNormReport report;
  const S length = length_of(right);
  if (length > 0)
    right /= length;
  else
    right = 1 / std::sqrt(static_cast<S>(w.cols()));
  for (report.iterations = 1; report.iterations <= max_iterations; ++report.iterations) {
    math::product<S>(u, view(w), {right.data(), 1, 0}, nullptr, math::Start::zero);
    const S stretched = length_of(left);
    if (!(stretched > 0)) {  // a zero matrix, or NaN
      report.converged = stretched == 0;
      return report;
    }
    left /= stretched;
    math::product_of_transposed<S>(v, true, view(w), u);
    const S norm = length_of(right);
    right /= norm;
    // |w v| and then |w' u| are increasing lower bounds of the largest singular value.
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

/// Estimates the largest singular value of w by power_iteration() from a start vector that depends on w alone: a column
/// of a high power of the Gram matrix, which is nearly the singular vector unless the two largest singular values are
/// closer than one part in ten thousand.
template <Real S>
SpectralNormReport power_iteration_from_scratch(const Array<S>& w, Array<S>& left, Array<S>& right, double tolerance,
                                                long max_iterations) {
  const GramPower gram = gram_power(w, 14);
  Index largest = 0;
  gram.matrix.matrix().diagonal().maxCoeff(&largest);
  const Array<S> start = gram.matrix.col(largest).template cast<S>();
  if (w.rows() < w.cols())
    math::product_of_transposed<S>({right.data(), w.cols(), 1, w.cols()}, true, view(w), view(start));
  else
    right = start.transpose();
  return power_iteration(w, left, right, tolerance, max_iterations);
}

/// Returns an upper bound of the largest singular value of w, trace((w'w)^p)^(1 / 2p) with p = 2^12, which is at most
/// 0.1 % above it for up to 1000 rows or columns.
template <Real S>
double spectral_norm_bound(const Array<S>& w) {
  constexpr double rounding = 1 + 1e-9;  // covers the rounding of the products
  return std::exp(0.5 * gram_power(w, 12).log_trace) * rounding;
}

}  // namespace detail

/// Dense layer whose matrix has a bounded spectral norm: W min(1, bound / sigma(W)), after Miyato et al. 2018 and
/// Behrmann et al. 2019 (eq. 6). sigma, the largest singular value, comes from a power iteration; during training each
/// one starts from the vectors of the one before.
///
/// refresh() must be called after every change of the weights; set_parameters() and training do so. Until then the
/// layer uses the matrix of the last refresh.
template <class T>
struct SpectralLinear {
  using Scalar = scalar_t<T>;

  param_t<T> weight;  ///< W, M x K
  param_t<T> bias;    ///< 1 x M
  Buffer<T> bounded;  ///< W min(1, bound / sigma)
  Buffer<T> left;     ///< left singular vector, 1 x M
  Buffer<T> right;    ///< right singular vector, 1 x K
  double bound = 1;
  double step_tolerance = 1e-4;  ///< tolerance of the power iteration after a training step
  long step_iterations = 20;     ///< largest number of iterations after a training step
  SpectralNormReport last = {};

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("weight", self.weight, "bias", self.bias, "bounded", self.bounded, "left", self.left, "right",
                          self.right);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "spectral dense", "bound", self.bound, "step_tolerance", self.step_tolerance,
                            "step_iterations", self.step_iterations);
  }
  template <class U>
  SpectralLinear<U> rebind() const {
    return {{}, {}, {}, {}, {}, bound, step_tolerance, step_iterations, last};
  }

  /// Throws invalid_argument unless the shapes of the arrays agree.
  void check() const {
    const Index outputs = weight.rows(), inputs = weight.cols();
    const auto fits = [](const auto& x, Index rows, Index cols) { return x.rows() == rows && x.cols() == cols; };
    require(outputs > 0 && inputs > 0 && fits(bias, 1, outputs) && fits(bounded.value, outputs, inputs) &&
                fits(left.value, 1, outputs) && fits(right.value, 1, inputs),
            "spectral dense layer: weight is ", outputs, " x ", inputs, ", bias ", bias.rows(), " x ", bias.cols(),
            ", bounded ", bounded.value.rows(), " x ", bounded.value.cols(), ", left ", left.value.rows(), " x ",
            left.value.cols(), ", right ", right.value.rows(), " x ", right.value.cols(),
            ", expected M x K, 1 x M, M x K, 1 x M and 1 x K");
  }

  /// Recomputes the bounded matrix from the weights. last.converged tells whether sigma was found to tolerance.
  void refresh(ParameterChange change)
    requires Real<T>
  {
    constexpr double tight =
        4 * static_cast<double>(std::numeric_limits<Scalar>::epsilon());  // the best that rounding allows
    last = change == ParameterChange::any
               ? detail::power_iteration_from_scratch(weight, left.value, right.value, tight, 100)
               : detail::power_iteration(weight, left.value, right.value, step_tolerance, step_iterations);
    bounded.value = weight;
    if (last.norm > bound) bounded.value *= static_cast<Scalar>(bound / last.norm);
  }

  /// Returns an upper bound of the spectral norm of the bounded matrix that does not depend on the power iteration.
  double lipschitz_bound() const
    requires Real<T>
  {
    return detail::spectral_norm_bound(bounded.value);
  }

  /// Returns the bounded matrix, M x K, as a value of the tape, differentiable with respect to W.
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
  // Adjoint of y = W min(1, limit / sigma), where sigma = u' W v and d sigma = u' dW v at the singular vectors u, v.
  template <class V>
  static void backward(V y, V w, V u, V v, double limit) {
    using S = Scalar;
    const auto g = as_eigen(y.grad()), from = as_eigen(w.value());
    const auto left_vector = as_eigen(View<const S>{u.value().data, from.rows(), 1, from.rows()}).col(0);
    const S* const right_vector = v.value().data;
    S sigma = 0;  // summed column by column, because Eigen would allocate a temporary for the product
    for (Index j = 0; j < from.cols(); ++j) sigma += right_vector[j] * (from.col(j) * left_vector).sum();
    const GradTarget<S> target = y.tape().grad_target(w);
    auto to = as_eigen(target.grad);
    S factor = 1, along = 0;
    if (static_cast<double>(sigma) > limit) {
      factor = static_cast<S>(limit) / sigma;
      along = factor * (g * from).sum() / sigma;
    }
    for (Index j = 0; j < to.cols(); ++j) {
      const S by = along * right_vector[j];
      if (target.assign)
        to.col(j) = factor * g.col(j) - by * left_vector;
      else
        to.col(j) += factor * g.col(j) - by * left_vector;
    }
  }
};

/// Multi-layer perceptron of SpectralLinear layers. Its Lipschitz constant is at most the product of the layers' bounds
/// and of the Lipschitz constants of the activations. The first layer may also take a context c: c V' is added to its
/// bias. V is not bounded, because the Lipschitz constant is that in x for any fixed c.
///
/// first_bias() computes that bias once; what evaluates the network takes it as an argument, which is left out for a
/// network without context.
template <class T>
struct SpectralMlp {
  using Scalar = scalar_t<T>;

  std::vector<SpectralLinear<T>> layers;
  Activation activation = Activation::lip_swish;
  param_t<T> context_weight{};  ///< V, outputs of the first layer x C; empty for a network without context

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("layers", self.layers, "context_weight", self.context_weight);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "spectral perceptron", "activation", self.activation);
  }
  template <class U>
  SpectralMlp<U> rebind() const {
    SpectralMlp<U> bound{{}, activation, {}};
    for (const auto& layer : layers) bound.layers.push_back(layer.template rebind<U>());
    return bound;
  }

  Index inputs() const { return layers.empty() ? 0 : layers.front().weight.cols(); }
  Index outputs() const { return layers.empty() ? 0 : layers.back().weight.rows(); }

  /// Number of columns C of the context; 0 for a network that takes none.
  Index context_dim() const { return detail::columns_of(context_weight); }

  /// Throws invalid_argument if there is no layer, a layer's number of inputs differs from the outputs of the layer
  /// before it, or the weights of the context do not fit the first layer.
  void check() const {
    require(!layers.empty(), "spectral perceptron: no layers, expected at least one");
    for (std::size_t i = 1; i < layers.size(); ++i)
      require(layers[i].weight.cols() == layers[i - 1].weight.rows(), "spectral perceptron: layer ", i, " has ",
              layers[i].weight.cols(), " inputs, the layer before it ", layers[i - 1].weight.rows(), " outputs");
    require(context_dim() == 0 || context_weight.rows() == layers.front().weight.rows(),
            "spectral perceptron: the weights of the context have ", context_dim() == 0 ? 0 : context_weight.rows(),
            " rows, the first layer ", layers.front().weight.rows(), " outputs");
  }

  /// Returns the bound that the Lipschitz constant is kept below: the product of the layers' bounds and of the
  /// Lipschitz constants of the activations.
  double coefficient() const {
    double product = std::pow(lipschitz_constant(activation), static_cast<double>(layers.size() - 1));
    for (const auto& layer : layers) product *= layer.bound;
    return product;
  }

  /// Returns the bias of the first layer for a context of N x C or 1 x C: b + c V', with as many rows as the context;
  /// an empty Var for a network that takes none. `rows` is N. Throws invalid_argument where the context is missing or
  /// of another shape.
  Var<Scalar> first_bias(Tape<Scalar>& tape, const Var<Scalar>& context, Index rows) const {
    if (context_dim() == 0) return {};
    require_context("spectral perceptron", context, rows, context_dim());
    return once_for_context(context, &context_weight,
                            [&] { return affine(context, as_var(tape, context_weight), layers.front().bias); });
  }

  /// Returns the network's outputs, N x inputs -> N x outputs. Throws invalid_argument where the network takes a
  /// context and first_bias is empty.
  template <Traced X>
  X operator()(const X& x, const Var<Scalar>& first_bias = {}) const {
    auto& tape = innermost(x).tape();
    return perceptron(x, layers.size(), activation, [&](std::size_t i, const X& in, Activation a) {
      return affine(in, layers[i].matrix(tape), bias(tape, i, first_bias), a);
    });
  }

  /// Returns the network's outputs with their whole Jacobian, one direction per input.
  MultiDual<Scalar> with_jacobian(Var<Scalar> x, const Var<Scalar>& first_bias = {}) const {
    Tape<Scalar>& tape = x.tape();
    return detail::dense_with_jacobian<Scalar>(x, activation, layers.size(), [&](std::size_t i) {
      return std::pair(layers[i].matrix(tape), bias(tape, i, first_bias));
    });
  }

  /// Returns the bounded matrix and the bias of layer i as constants of the tape, even if the parameters require
  /// gradients.
  std::pair<Var<Scalar>, Var<Scalar>> constants(Tape<Scalar>& tape, std::size_t i,
                                                const Var<Scalar>& first_bias = {}) const {
    return {as_var(tape, layers[i].bounded), tape.constant(bias(tape, i, first_bias).value())};
  }

  /// Returns the network's outputs like operator(), with the parameters and first_bias as constants.
  Var<Scalar> with_constant_parameters(const Var<Scalar>& x, const Var<Scalar>& first_bias = {}) const {
    return perceptron(x, layers.size(), activation, [&](std::size_t i, const Var<Scalar>& in, Activation a) {
      const auto [w, b] = constants(in.tape(), i, first_bias);
      return affine(in, w, b, a);
    });
  }

  /// Returns the network's outputs with their whole Jacobian like with_jacobian(), with the parameters and first_bias
  /// as constants.
  MultiDual<Scalar> with_constant_jacobian(const Var<Scalar>& x, const Var<Scalar>& first_bias = {}) const {
    return detail::dense_with_jacobian<Scalar>(x, activation, layers.size(),
                                               [&](std::size_t i) { return constants(x.tape(), i, first_bias); });
  }

  /// Returns the Jacobian at x, a constant, as a linear map, with the parameters and first_bias as constants.
  Linearised<Scalar> linearised(const Var<Scalar>& x, const Var<Scalar>& first_bias = {}) const {
    return linearise(x, activation, layers.size(), [&](std::size_t i) { return constants(x.tape(), i, first_bias); });
  }

  /// Returns an upper bound of the Lipschitz constant that does not depend on the power iterations.
  double lipschitz_bound() const
    requires Real<T>
  {
    double bound = 1;
    for (const auto& layer : layers) bound *= layer.lipschitz_bound();
    return bound * std::pow(lipschitz_constant(activation), static_cast<double>(layers.size() - 1));
  }

 private:
  Var<Scalar> bias(Tape<Scalar>& tape, std::size_t i, const Var<Scalar>& first_bias) const {
    if (i > 0) return as_var(tape, layers[i].bias);
    require(first_bias || context_dim() == 0, "spectral perceptron: expected a context of ", context_dim(),
            " columns, got none");
    return first_bias ? first_bias : as_var(tape, layers[0].bias);
  }
};

/// Returns a perceptron of SpectralLinear layers whose Lipschitz constant is at most `coefficient`; every layer has the
/// same bound. It takes a context of context_dim columns where that is above 0. Throws invalid_argument for a
/// coefficient that is not positive and finite, and for what make_mlp() refuses.
template <Real S>
SpectralMlp<S> make_spectral_mlp(Index inputs, Index outputs, const MlpOptions& options, double coefficient,
                                 std::uint64_t seed, std::uint64_t stream = 0, Index context_dim = 0) {
  require(coefficient > 0 && std::isfinite(coefficient), "make_spectral_mlp: coefficient is ", coefficient,
          ", expected a positive number");
  const Mlp<S> plain = make_mlp<S>(inputs, outputs, options, seed, stream, context_dim);
  SpectralMlp<S> bounded{{}, options.activation, plain.context_weight};
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
