// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/activation.hpp>
#include <diffeo/core/random.hpp>
#include <diffeo/math/random_fill.hpp>

/// Initialisation of the weights of dense layers.
namespace diffeo::inline DIFFEO_ISA {

/// Distribution of initial weights (M x K; fan-in K, fan-out M). "+-a" means uniform on [-a, a); the normal ones have
/// mean 0.
enum class Initialisation {
  zeros,
  glorot_uniform,  ///< +-sqrt(6 / (K + M)); Glorot & Bengio 2010, eq. 16
  glorot_normal,   ///< variance 2 / (K + M)
  he_uniform,      ///< +-sqrt(6 / K)
  he_normal,       ///< variance 2 / K; He et al. 2015, eq. 10
  lecun_uniform,   ///< +-sqrt(3 / K)
  lecun_normal,    ///< variance 1 / K; LeCun et al. 1998, section 4.6
};

/// Returns the common choice for a layer that is followed by the given activation.
constexpr Initialisation default_initialisation(Activation a) {
  switch (a) {
    case Activation::relu:
    case Activation::leaky_relu:
    case Activation::elu:
    case Activation::silu:
    case Activation::lip_swish:
    case Activation::softplus:
      return Initialisation::he_normal;
    case Activation::identity:
    case Activation::tanh:
    case Activation::selu:
    case Activation::sin:
      break;
  }
  return Initialisation::lecun_normal;
}

/// Fills the M x K array `weights`. Equal (seed, stream) give equal weights.
template <Real S>
void initialise(Array<S>& weights, Initialisation how, std::uint64_t seed, std::uint64_t stream) {
  const S out = static_cast<S>(weights.rows()), in = static_cast<S>(weights.cols());
  const auto fill = [&](S variance, bool is_uniform) {
    if (is_uniform) {
      fill_uniform(view(weights), seed, stream);
      weights = (weights * S(2) - S(1)) * std::sqrt(S(3) * variance);
    } else {
      fill_normal(view(weights), seed, stream);
      weights *= std::sqrt(variance);
    }
  };
  switch (how) {
    case Initialisation::zeros:
      weights.setZero();
      return;
    case Initialisation::glorot_uniform:
    case Initialisation::glorot_normal:
      return fill(S(2) / (in + out), how == Initialisation::glorot_uniform);
    case Initialisation::he_uniform:
    case Initialisation::he_normal:
      return fill(S(2) / in, how == Initialisation::he_uniform);
    case Initialisation::lecun_uniform:
    case Initialisation::lecun_normal:
      return fill(S(1) / in, how == Initialisation::lecun_uniform);
  }
}

namespace detail {

// Returns random weights of a context, outputs x context_dim, drawn from a stream apart from all others, so that a
// context does not change the other weights.
template <Real S>
Array<S> make_context_weight(Index outputs, Index context_dim, Initialisation how, std::uint64_t seed,
                             std::uint64_t stream, double scale) {
  constexpr std::uint64_t context_streams = std::uint64_t{1} << 62;
  Array<S> weight(outputs, context_dim);
  initialise(weight, how, seed, context_streams + stream);
  return weight * static_cast<S>(scale);
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
