// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/columns.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// The Jacobian J of a dense network at given points, row by row, as a linear map and its transpose, constants of a
/// tape. One pass through the network serves any number of products.
template <Real S>
class Linearised {
 public:
  Linearised() = default;

  /// Linearises the network at x (N x inputs). layer(i) returns the matrix and bias of layer i < count, as constants.
  template <class Layer>
  Linearised(Var<S> x, Activation activation, std::size_t count, const Layer& layer) : count_(count) {
    Tape<S>& tape = x.tape();
    weights_ = tape.template allocate<Var<S>>(count);
    slopes_ = tape.template allocate<Var<S>>(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto [w, b] = layer(i);
      weights_[i] = w;
      if (i + 1 == count) break;
      const Var<S> pre = affine(x, w, b);
      slopes_[i] = tape.make(pre.rows(), pre.cols(), false);
      detail::with_activation<S>(activation, [&](auto kernel) {
        math::map(
            tape.mutable_value(slopes_[i]), [kernel](auto v) { return kernel.derivatives(v).slope; }, pre.value());
      });
      x = activate(activation, pre);
    }
  }

  /// Returns J v: N x inputs -> N x outputs.
  Var<S> forward(Var<S> v) const {
    for (std::size_t i = 0; i < count_; ++i) {
      v = linear(v, weights_[i]);
      if (i + 1 < count_) v = v * slopes_[i];
    }
    return v;
  }

  /// Returns J' v: N x outputs -> N x inputs.
  Var<S> transposed(Var<S> v) const {
    for (std::size_t i = count_; i-- > 0;) {
      if (i + 1 < count_) v = v * slopes_[i];
      v = matmul(v, weights_[i]);
    }
    return v;
  }

 private:
  std::size_t count_ = 0;
  Var<S>* weights_ = nullptr;
  Var<S>* slopes_ = nullptr;
};

}  // namespace diffeo::inline DIFFEO_ISA
