// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/nn/init.hpp>
#include <tuple>

namespace diffeo::inline DIFFEO_ISA {

/// Dense layer x W' + b.
template <class T>
struct Linear {
  using Scalar = scalar_t<T>;

  param_t<T> weight;  ///< outputs x inputs
  param_t<T> bias;    ///< 1 x outputs

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("weight", self.weight, "bias", self.bias);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "dense");
  }
  template <class U>
  Linear<U> rebind() const {
    return {};
  }

  Index inputs() const { return weight.cols(); }
  Index outputs() const { return weight.rows(); }

  /// Throws invalid_argument unless the shapes of weight and bias agree.
  void check() const {
    require(weight.rows() > 0 && weight.cols() > 0 && bias.rows() == 1 && bias.cols() == weight.rows(),
            "dense layer: weight is ", weight.rows(), " x ", weight.cols(), ", bias is ", bias.rows(), " x ",
            bias.cols(), ", expected outputs x inputs and 1 x outputs");
  }

  /// Returns activation(x W' + b), N x inputs -> N x outputs.
  template <Traced X>
  X operator()(const X& x, Activation activation = Activation::identity) const {
    return affine(x, weight, bias, activation);
  }
  /// Returns activation(x W' + c) for a bias c of 1 x outputs, or of N x outputs with a row for each sample, that takes
  /// the place of b. An empty Var leaves b.
  template <Traced X>
  X with_bias(const X& x, const Var<Scalar>& c, Activation activation = Activation::identity) const {
    return c ? affine(x, weight, c, activation) : (*this)(x, activation);
  }
};

/// Returns x after the layers of a perceptron, with the activation between them and none after the last: layer(i, x, a)
/// is layer i < count with the activation a.
template <class X, class Layer>
X perceptron(X x, std::size_t count, Activation activation, const Layer& layer) {
  for (std::size_t i = 0; i < count; ++i) x = layer(i, x, i + 1 < count ? activation : Activation::identity);
  return x;
}

/// Returns a dense layer with weights drawn by initialise() and zero bias. Throws invalid_argument for fewer than one
/// input or output.
template <Real S>
Linear<S> make_linear(Index inputs, Index outputs, Initialisation how, std::uint64_t seed, std::uint64_t stream) {
  require(inputs > 0 && outputs > 0, "make_linear: ", inputs, " inputs and ", outputs,
          " outputs, expected at least one of each");
  Linear<S> layer{Array<S>(outputs, inputs), Array<S>::Zero(1, outputs)};
  initialise(layer.weight, how, seed, stream);
  return layer;
}

}  // namespace diffeo::inline DIFFEO_ISA
