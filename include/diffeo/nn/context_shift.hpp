// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/nn/mlp.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// What a context c adds to the P parameters of a layer that has no network of its own: the outputs of a perceptron at
/// c. A layer without context has an empty ContextShift, without parameters.
template <class T>
struct ContextShift {
  using Scalar = scalar_t<T>;

  std::vector<Mlp<T>> network;  ///< one perceptron, C -> P; none for a layer without context

  bool empty() const { return network.empty(); }
  /// Number of columns C of the context; 0 for a layer that takes none.
  Index context_dim() const { return empty() ? 0 : network.front().inputs(); }
  /// Number P of parameters that are shifted; 0 for a layer that takes no context.
  Index outputs() const { return empty() ? 0 : network.front().outputs(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("", self.network);
  }
  template <class U>
  ContextShift<U> rebind() const {
    ContextShift<U> shift;
    for (const Mlp<T>& one : network) shift.network.push_back(one.template rebind<U>());
    return shift;
  }

  /// Throws invalid_argument for more than one network, and for a network that takes a context besides its inputs.
  void check() const {
    require(network.size() <= 1, "context shift: ", network.size(), " networks, expected at most one");
    require(empty() || network.front().context_dim() == 0,
            "context shift: the network takes a context besides its inputs, which are the context");
  }

  /// Returns the shifts for a context of N x C or 1 x C: N x P or 1 x P, where `rows` is N. Throws invalid_argument
  /// where the context is missing or of another shape; the message begins with `who`.
  Var<Scalar> operator()(const char* who, const Var<Scalar>& context, Index rows) const {
    require_context(who, context, rows, context_dim());
    const auto& weight = network.front().layers.front().weight;
    return once_for_context(context, &weight, [&] { return network.front()(context); });
  }
};

namespace detail {

// Returns the vectors x shortened to x / sqrt(1 + |x|^2 / limit^2), hence below the limit, and much as they are where
// they are well below it. `square` is |x|^2, in the unit of the limit.
template <Real S>
Var<S> shortened(Var<S> x, Var<S> square, double limit) {
  return x / sqrt(square * static_cast<S>(1 / (limit * limit)) + 1);
}

}  // namespace detail

/// Returns a fresh ContextShift from context_dim columns to `parameters` values, whose network starts near zero; an
/// empty one for context_dim = 0. Where the options choose no scales, last_scale is 0.05 and first_scale 2 for at most
/// two columns, 4 / context_dim for more, at least 1. The network's streams of random numbers are those of layer number
/// `stream` and are used by no recipe otherwise. Throws invalid_argument for a negative context_dim and for what
/// make_mlp() refuses.
template <Real S>
ContextShift<S> make_context_shift(Index context_dim, Index parameters, const MlpOptions& network, std::uint64_t seed,
                                   std::uint64_t stream) {
  require(context_dim >= 0, "make_context_shift: context_dim is ", context_dim, ", expected at least 0");
  if (context_dim == 0) return {};
  constexpr std::uint64_t shift_streams = std::uint64_t{1} << 61;
  const MlpOptions chosen = network.with_scales(0.05, detail::first_scale_for(context_dim, 2));
  return {{make_mlp<S>(context_dim, parameters, chosen, seed, shift_streams + stream * streams_of(network))}};
}

}  // namespace diffeo::inline DIFFEO_ISA
