// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/continuous/mlp_field.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// A field of average velocities (Geng et al. 2025, "Mean flows for one-step generative modeling", eq. 3): between two
/// times t <= s the solution x_t of dx/dt = v(t, x) moves by
///
///     x_s - x_t = (s - t) u(t, s, x_t).
///
/// At s = t it is the velocity v itself, so that an AverageField is a vector field, of which a Cnf gives densities and
/// samples by solving its equation, and which average_samples() follows in one step or a few. It may take a context.
template <class T>
struct AverageField {
  using Scalar = scalar_t<T>;

  Mlp<T> network;  ///< N x (D + 2) -> N x D; the last two inputs are t and s - t

  Index dim() const { return network.layers.empty() ? 0 : network.layers.back().weight.rows(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("network", self.network);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "average field");
  }
  template <class U>
  AverageField<U> rebind() const {
    return {network.template rebind<U>()};
  }

  /// Throws invalid_argument unless the network has D + 2 inputs and D outputs.
  void check() const {
    require(network.inputs() == network.outputs() + 2, "AverageField: the network has ", network.inputs(),
            " inputs and ", network.outputs(), " outputs, expected two inputs more than outputs");
  }

  /// Number of columns C of the context; 0 for a field that takes none.
  Index context_dim() const { return network.context_dim(); }

  /// Returns the average velocities between the times t and t + span (both N x 1) of points that are at x (N x D) at
  /// time t. The context, N x C or 1 x C, is ignored by a field that takes none. Throws invalid_argument where it is
  /// missing or of another shape.
  template <Traced X>
  X average(const X& t, const X& span, const X& x, const Var<Scalar>& context = {}) const {
    detail::require_point("AverageField", t, x, dim());
    detail::require_point("AverageField: span", span, x, dim());
    return network(concat(concat(x, t), span), context);
  }

  /// Returns the velocities at the times t.
  template <Traced X>
  X operator()(const X& t, const X& x, const Var<Scalar>& context = {}) const {
    return average(t, zeros(t, 1), x, context);
  }
};

/// Returns a field with random weights and the options of its network, as make_mlp_field() does. Throws
/// invalid_argument for a dimension below 1, and as make_mlp() does.
template <Real S>
AverageField<S> make_average_field(Index dim, const MlpOptions& options = {}, std::uint64_t seed = 0,
                                   std::uint64_t stream = 0, Index context_dim = 0) {
  require(dim >= 1, "make_average_field: dim is ", dim, ", expected at least 1");
  return {make_mlp<S>(dim + 2, dim, options.with_scales(1, 1), seed, stream, context_dim)};
}

}  // namespace diffeo::inline DIFFEO_ISA
