// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/slope.hpp>
#include <diffeo/continuous/vector_field.hpp>
#include <diffeo/nn/mlp.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Vector field given by a multi-layer perceptron of [x, t], which may take a context.
template <class T>
struct MlpField {
  using Scalar = scalar_t<T>;

  Mlp<T> network;  ///< N x (D + 1) -> N x D; the last input is time

  Index dim() const { return network.layers.empty() ? 0 : network.layers.back().weight.rows(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("network", self.network);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "perceptron field");
  }
  template <class U>
  MlpField<U> rebind() const {
    return {network.template rebind<U>()};
  }

  /// Throws invalid_argument unless the network has D + 1 inputs and D outputs.
  void check() const {
    require(network.inputs() == network.outputs() + 1, "MlpField: the network has ", network.inputs(), " inputs and ",
            network.outputs(), " outputs, expected one input more than outputs");
  }

  /// Number of columns C of the context; 0 for a field that takes none.
  Index context_dim() const { return network.context_dim(); }

  /// Returns the velocities. The context, N x C or 1 x C, is ignored by a field that takes none. Throws
  /// invalid_argument where it is missing or of another shape.
  template <Traced X>
  X operator()(const X& t, const X& x, const Var<Scalar>& context = {}) const {
    detail::require_point("MlpField", t, x, dim());
    return network(concat(x, t), context);
  }

  Var<Scalar> context_bias(const Var<Scalar>& context) const { return network.context_bias(context); }
  template <Traced X>
  X with_bias(const X& t, const X& x, const Var<Scalar>& bias) const {
    detail::require_point("MlpField", t, x, dim());
    return network.with_bias(concat(x, t), bias);
  }

  std::size_t layer_count() const { return network.layers.size(); }
  bool gates_output() const { return false; }
  Var<Scalar> weights(Tape<Scalar>& tape, std::size_t i) const {
    const Var<Scalar> w = as_var(tape, network.layers[i].weight);
    return i == 0 ? cols(w, 0, dim()) : w;
  }

  Linearised<Scalar> linearised(const Var<Scalar>& t, const Var<Scalar>& x, const Var<Scalar>& bias = {}) const {
    using S = Scalar;
    detail::require_point("MlpField", t, x, dim());
    detail::require_context_bias("MlpField", bias, context_dim());
    Tape<S>& tape = x.tape();
    const std::size_t count = layer_count();
    auto* slopes = tape.template allocate<Var<S>>(count);
    auto* matrices = tape.template allocate<Var<S>>(count);
    Var<S> h = concat(x, t);
    for (std::size_t i = 0; i < count; ++i) {
      new (matrices + i) Var<S>(weights(tape, i));
      new (slopes + i) Var<S>();
      if (i + 1 == count) break;
      const auto [value, slope] =
          affine_with_slope(h, network.layers[i].weight, bias_of(tape, i, bias), network.activation);
      h = value;
      slopes[i] = slope;
    }
    return {network.layers.back().with_bias(h, count == 1 ? bias : Var<S>()), count, matrices, slopes};
  }

  MultiDual<Scalar> with_jacobian(const Var<Scalar>& t, const Var<Scalar>& x, const Var<Scalar>& bias = {}) const {
    detail::require_point("MlpField", t, x, dim());
    detail::require_context_bias("MlpField", bias, context_dim());
    return detail::dense_with_jacobian<Scalar>(
        concat(x, t), network.activation, layer_count(),
        [&](std::size_t i) {
          return std::pair(as_var(x.tape(), network.layers[i].weight), bias_of(x.tape(), i, bias));
        },
        dim());
  }

 private:
  // The bias of layer i; `first` that of the first one where it is given.
  Var<Scalar> bias_of(Tape<Scalar>& tape, std::size_t i, const Var<Scalar>& first) const {
    return i == 0 && first ? first : as_var(tape, network.layers[i].bias);
  }
};

/// Returns a field with random weights and the options of its network, which takes a context of context_dim columns
/// where that is above 0. The network's last_scale is 1 by default, which gives velocities of order 1, as in other
/// libraries; with 0.01 the flow is close to the identity. Throws invalid_argument for a dimension below 1, and as
/// make_mlp() does.
template <Real S>
MlpField<S> make_mlp_field(Index dim, const MlpOptions& options = {}, std::uint64_t seed = 0, std::uint64_t stream = 0,
                           Index context_dim = 0) {
  require(dim >= 1, "make_mlp_field: dim is ", dim, ", expected at least 1");
  return {make_mlp<S>(dim + 1, dim, options.with_scales(1, 1), seed, stream, context_dim)};
}

}  // namespace diffeo::inline DIFFEO_ISA
