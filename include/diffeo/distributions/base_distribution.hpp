// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <diffeo/autodiff/parameter.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// A distribution on R^D that a flow starts from.
///
/// | expression                            | type   | meaning                                                      |
/// |---------------------------------------|--------|--------------------------------------------------------------|
/// | b.dim()                               | Index  | D                                                            |
/// | b.log_prob(z)                         | Var<S> | z: N x D -> N x 1, natural logarithm of the density          |
/// | b.sample_into(v, seed, stream, first) | void   | fills the View v; row i depends on (seed, stream, first + i) |
/// | B::fields(b), b.rebind<Var<S>>()      |        | as for Flow                                                  |
///
/// Models: StandardNormal, DiagonalNormal, UniformBox, GaussianMixture.
///
/// Sampling is by row index and not by a generator's state, so that tiles on any number of threads draw the same rows.
template <class B, class S>
concept BaseDistributionOf =
    Real<S> && requires(const B& b, B& m, const Var<S>& z, View<S> v, std::uint64_t seed, Index first) {
      { b.dim() } -> std::convertible_to<Index>;
      { b.log_prob(z) } -> std::same_as<Var<S>>;
      b.sample_into(v, seed, seed, first);
      B::fields(m);
      b.template rebind<Var<S>>();
    };

template <class B>
concept BaseDistribution = requires { typename B::Scalar; } && BaseDistributionOf<B, typename B::Scalar>;

/// A base whose samples are differentiable functions of its parameters, as training towards a density without samples
/// needs (Kingma & Welling 2014, section 2.4).
///
/// | expression                              | type   | meaning                                                    |
/// |-----------------------------------------|--------|------------------------------------------------------------|
/// | b.draw(tape, rows, seed, stream, first) | Var<S> | rows x D; row i depends on (seed, stream, first + i)       |
///
/// Models: StandardNormal, DiagonalNormal, with arrays or tape variables; rows are those of sample_into, up to
/// rounding. The component of a GaussianMixture is no differentiable function of the weights.
template <class B>
concept ReparametrisedBase = requires(const B& b, Tape<typename B::Scalar>& tape, Index n, std::uint64_t seed) {
  { b.draw(tape, n, seed, seed, n) } -> std::same_as<Var<typename B::Scalar>>;
};

namespace detail {

inline constexpr double log_two_pi = 1.8378770664093454835606594728112;

/// log of the standard normal density of each row: N x D -> N x 1.
template <Traced X>
X standard_normal_log_prob(const X& z) {
  using S = typename X::Scalar;
  return sum_cols(square(z)) * S(-0.5) - S(0.5 * log_two_pi) * static_cast<S>(z.cols());
}

inline void require_dim(const char* what, Index columns, Index dim) {
  require(columns == dim, what, ": z has ", columns, " columns, this distribution has dimension ", dim);
}

template <Real S>
void require_positive(const char* what, S value, Index row, Index column) {
  require(value > 0 && std::isfinite(value), what, " is ", value, " at (row ", row, ", column ", column,
          "), expected finite and greater than 0");
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
