// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <diffeo/autodiff/parameter.hpp>
#include <diffeo/distributions/distribution.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Base distribution of a flow, on R^D, with scalar type S.
///
/// | expression                            | type   | meaning                                                      |
/// |---------------------------------------|--------|--------------------------------------------------------------|
/// | b.dim()                               | Index  | D                                                            |
/// | b.log_prob(z)                         | Var<S> | natural logarithm of the density, N x D -> N x 1             |
/// | b.sample_into(v, seed, stream, first) | void   | fills the View v; row i depends on (seed, stream, first + i) |
/// | B::fields(b), b.rebind<Var<S>>()      |        | as for Flow                                                  |
///
/// A base that depends on a context, p(z | c), takes a Pass as an optional last argument of log_prob, sample_into and
/// draw, as layers do, and answers b.context_dim() and b.given(c), which returns a base without context.
///
/// Models: StandardNormal, DiagonalNormal, MultivariateNormal, UniformBox, GaussianMixture; with a context
/// ConditionalNormal and ConditionalMixture. Each is a Distribution, too; a base of your own need not be.
///
/// Samples are functions of the row index instead of a generator's state, so that any division into tiles and threads
/// draws the same rows.
template <class B, class S>
concept BaseDistributionOf =
    Real<S> && requires(const B& b, B& m, const Var<S>& z, View<S> v, std::uint64_t seed, Index first) {
      { b.dim() } -> std::convertible_to<Index>;
      { b.log_prob(z) } -> std::same_as<Var<S>>;
      b.sample_into(v, seed, seed, first);
      B::fields(m);
      b.template rebind<Var<S>>();
    };

/// Base distribution whose scalar type is B::Scalar; see BaseDistributionOf.
template <class B>
concept BaseDistribution = requires { typename B::Scalar; } && BaseDistributionOf<B, typename B::Scalar>;

/// Base distribution whose samples are differentiable functions of its parameters (reparametrisation, Kingma & Welling
/// 2014, section 2.4). Training towards a known density instead of data (ReverseKl) needs it.
///
/// | expression                              | type   | meaning                                              |
/// |-----------------------------------------|--------|------------------------------------------------------|
/// | b.draw(tape, rows, seed, stream, first) | Var<S> | rows x D; row i depends on (seed, stream, first + i) |
///
/// Models: StandardNormal, DiagonalNormal, MultivariateNormal and ConditionalNormal, with parameters that are arrays or
/// tape variables; draw() returns the rows of sample_into() up to rounding. GaussianMixture is no model: the component
/// that a sample is drawn from is not a differentiable function of the weights.
template <class B>
concept ReparametrisedBase = requires(const B& b, Tape<typename B::Scalar>& tape, Index n, std::uint64_t seed) {
  { b.draw(tape, n, seed, seed, n) } -> std::same_as<Var<typename B::Scalar>>;
};

namespace detail {

inline constexpr double log_two_pi = 1.8378770664093454835606594728112;

/// Returns the logarithm of the standard normal density of each row, N x D -> N x 1.
template <Traced X>
X standard_normal_log_prob(const X& z) {
  using S = typename X::Scalar;
  return sum_cols(square(z)) * S(-0.5) - S(0.5 * log_two_pi) * static_cast<S>(z.cols());
}

/// Throws invalid_argument unless columns == dim; `what` names the distribution.
inline void require_dim(const char* what, Index columns, Index dim) {
  require(columns == dim, what, ": z has ", columns, " columns, this distribution has dimension ", dim);
}

/// Throws invalid_argument unless value is finite and greater than 0; `what` and the place name it in the message.
template <Real S>
void require_positive(const char* what, S value, Index row, Index column) {
  require(value > 0 && std::isfinite(value), what, " is ", value, " at (row ", row, ", column ", column,
          "), expected finite and greater than 0");
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
