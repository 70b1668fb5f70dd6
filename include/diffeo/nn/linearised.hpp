// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/columns.hpp>
#include <new>

namespace diffeo::inline DIFFEO_ISA {

/// The Jacobian J of a chain of dense layers at given points, row by row, as a product of factors on a tape:
/// J = diag(slopes[count - 1]) weights[count - 1] ... diag(slopes[0]) weights[0]. A slope is an empty Var where it
/// is 1. One pass through the network serves any number of products.
template <Real S>
struct Linearised {
  Var<S> value;  ///< outputs at the points, N x outputs; empty where only products are wanted
  std::size_t count = 0;
  const Var<S>* weights = nullptr;  ///< outputs x inputs of each layer
  const Var<S>* slopes = nullptr;   ///< N x outputs of each layer

  /// Returns J v: N x inputs -> N x outputs.
  Var<S> forward(Var<S> v) const {
    for (std::size_t i = 0; i < count; ++i) {
      v = linear(v, weights[i]);
      if (slopes[i]) v = v * slopes[i];
    }
    return v;
  }

  /// Returns J' v: N x outputs -> N x inputs.
  Var<S> transposed(Var<S> v) const {
    for (std::size_t i = count; i-- > 0;) {
      if (slopes[i]) v = v * slopes[i];
      v = matmul(v, weights[i]);
    }
    return v;
  }
};

/// Returns the Jacobian of a perceptron at x (N x inputs), as constants of the tape and without the value. layer(i)
/// returns the matrix and bias of layer i < count, as constants.
template <Real S, class Layer>
Linearised<S> linearise(Var<S> x, Activation activation, std::size_t count, const Layer& layer) {
  Tape<S>& tape = x.tape();
  auto* weights = tape.template allocate<Var<S>>(count);
  auto* slopes = tape.template allocate<Var<S>>(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto [w, b] = layer(i);
    new (weights + i) Var<S>(w);
    new (slopes + i) Var<S>();
    if (i + 1 == count) break;
    const Var<S> pre = affine(x, w, b);
    slopes[i] = tape.make(pre.rows(), pre.cols(), false);
    detail::with_activation<S>(activation, [&](auto kernel) {
      math::map(
          tape.mutable_value(slopes[i]), [kernel](auto v) { return kernel.derivatives(v).slope; }, pre.value());
    });
    x = activate(activation, pre);
  }
  return {{}, count, weights, slopes};
}

}  // namespace diffeo::inline DIFFEO_ISA
