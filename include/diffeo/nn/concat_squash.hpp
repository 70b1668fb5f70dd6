// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/nn/linear.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Dense layer modulated by time ("concatsquash" of FFJORD: Grathwohl et al. 2019, appendix B.1):
/// (x W' + b) * sigmoid(t g' + c) + t s', where g and c are weights and bias of the gate, and s the weights of the
/// shift.
template <class T>
struct ConcatSquash {
  using Scalar = scalar_t<T>;

  Linear<T> dense;
  Linear<T> gate;    ///< weight M x 1, bias 1 x M
  param_t<T> shift;  ///< M x 1

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("dense", self.dense, "gate", self.gate, "shift", self.shift);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "concat squash");
  }
  template <class U>
  ConcatSquash<U> rebind() const {
    return {};
  }

  /// Throws invalid_argument unless the shapes of the parts agree.
  void check() const {
    require(
        gate.inputs() == 1 && gate.outputs() == dense.outputs() && shift.rows() == dense.outputs() && shift.cols() == 1,
        "concat squash: the gate has ", gate.inputs(), " inputs and ", gate.outputs(), " outputs, shift is ",
        shift.rows(), " x ", shift.cols(), ", expected 1 input, ", dense.outputs(), " outputs and ", dense.outputs(),
        " x 1");
  }

  /// Returns the layer's outputs for times t, N x 1, and inputs x, N x inputs -> N x outputs, where `bias` takes the
  /// place of b as in Linear::with_bias().
  template <Traced X>
  X operator()(const X& t, const X& x, const Var<Scalar>& bias = {}) const {
    return dense.with_bias(x, bias) * sigmoid(gate(t)) + linear(t, shift);
  }
  /// Returns the outputs without the gate, x W' + b + t s'.
  template <Traced X>
  X ungated(const X& t, const X& x, const Var<Scalar>& bias = {}) const {
    return dense.with_bias(x, bias) + linear(t, shift);
  }
};

/// Returns a layer whose dense weights are drawn by initialise(), whose weights of gate and shift are uniform on [-1,
/// 1), and whose biases are 0. Uses the streams `stream`, stream + 1 and stream + 2. Throws as make_linear().
template <Real S>
ConcatSquash<S> make_concat_squash(Index inputs, Index outputs, Initialisation how, std::uint64_t seed,
                                   std::uint64_t stream) {
  const auto uniform_column = [&](std::uint64_t from) {
    Array<S> w(outputs, 1);
    fill_uniform(view(w), seed, from);
    return Array<S>(w * S(2) - S(1));
  };
  Linear<S> dense = make_linear<S>(inputs, outputs, how, seed, stream);
  return {std::move(dense), {uniform_column(stream + 1), Array<S>::Zero(1, outputs)}, uniform_column(stream + 2)};
}

}  // namespace diffeo::inline DIFFEO_ISA
