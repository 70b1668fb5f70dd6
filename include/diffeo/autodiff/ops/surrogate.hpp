// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/tape.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// The values of one computation with the gradient of another of the same shape: for estimators whose gradient is not
/// that of the quantity they report. Throws invalid_argument where the shapes differ.
template <Real S>
Var<S> with_gradient_of(Var<S> value, Var<S> source) {
  require(value.shape() == source.shape(), "with_gradient_of: values are ", value.rows(), " x ", value.cols(),
          ", the source of gradients ", source.rows(), " x ", source.cols());
  Tape<S>& tape = value.tape();
  const Var<S> y = tape.make(value.rows(), value.cols(), source.requires_grad());
  math::copy(tape.mutable_value(y), value.value());
  if (y.requires_grad())
    tape.on_backward({y}, [y, source] {
      add_grad(
          source, [](auto g) { return g; }, y.grad());
    });
  return y;
}

}  // namespace diffeo::inline DIFFEO_ISA
