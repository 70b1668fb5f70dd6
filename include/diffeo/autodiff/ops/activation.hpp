// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/elementwise.hpp>

/// The activations of neural networks, chosen at run time.
namespace diffeo::inline DIFFEO_ISA {

/// x for x > 0, else slope x.
template <Real S>
Var<S> leaky_relu(Var<S> x, std::type_identity_t<S> slope = S(detail::leaky_slope)) {
  return detail::activation_op("leaky_relu", x, detail::ActivationKernel<S, Activation::leaky_relu>{slope});
}
template <class X>
Dual<X> leaky_relu(const Dual<X>& x, typename X::Scalar slope = typename X::Scalar(detail::leaky_slope)) {
  return {leaky_relu(x.value, slope), x.tangent * (step(x.value) * (1 - slope) + slope)};
}

/// x for x > 0, else exp(x) - 1.
template <Real S>
Var<S> elu(Var<S> x) {
  return activate<Activation::elu>(x);
}
template <class X>
Dual<X> elu(const Dual<X>& x) {
  const X y = elu(x.value);
  return {y, x.tangent * (1 - relu(-y))};  // the slope is 1 for y > 0, else 1 + y
}

/// elu with the scale and alpha of self-normalizing networks.
template <Real S>
Var<S> selu(Var<S> x) {
  return activate<Activation::selu>(x);
}
template <class X>
Dual<X> selu(const Dual<X>& x) {
  using S = typename X::Scalar;
  const X y = selu(x.value), positive = step(x.value);
  return {y, x.tangent * (positive * S(detail::selu_scale) +
                          (1 - positive) * (y + S(detail::selu_scale * detail::selu_alpha)))};
}

/// x sigmoid(x).
template <Real S>
Var<S> silu(Var<S> x) {
  return activate<Activation::silu>(x);
}
template <class X>
Dual<X> silu(const Dual<X>& x) {
  return x * sigmoid(x);
}

/// x sigmoid(x) / 1.1.
template <Real S>
Var<S> lip_swish(Var<S> x) {
  return activate<Activation::lip_swish>(x);
}
template <class X>
Dual<X> lip_swish(const Dual<X>& x) {
  return silu(x) * typename X::Scalar(detail::lip_swish_scale);
}

/// The activation chosen at run time, applied elementwise.
template <Traced X>
X activate(Activation a, const X& x) {
  switch (a) {
    case Activation::tanh:
      return tanh(x);
    case Activation::relu:
      return relu(x);
    case Activation::leaky_relu:
      return leaky_relu(x);
    case Activation::elu:
      return elu(x);
    case Activation::selu:
      return selu(x);
    case Activation::silu:
      return silu(x);
    case Activation::softplus:
      return softplus(x);
    case Activation::sin:
      return sin(x);
    case Activation::lip_swish:
      return lip_swish(x);
    case Activation::identity:
      break;
  }
  return x;
}

}  // namespace diffeo::inline DIFFEO_ISA
