// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/distributions/network_distribution.hpp>
#include <diffeo/distributions/normal.hpp>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

/// Normal distributions on R^D with diagonal covariance. The outputs of the network are D means, followed by D
/// logarithms of standard deviations, which are held between -22 and 22 in float, -177 and 177 in double: there exp()
/// stays finite also for contexts far from those of the data.
struct NormalFamily {
  static constexpr const char* name = "conditional normal";

  Index dim = 1;  ///< D

  template <Real S>
  struct Parameters {
    Var<S> mean, log_scale;  ///< R x D
  };

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "normal", "dim", self.dim);
  }

  Index outputs() const { return 2 * dim; }

  template <Real S>
  Parameters<S> parameters(const Var<S>& output, const Var<S>& shift, const Var<S>& scale) const {
    return {cols(output, 0, dim) * scale + shift, detail::bounded_log_scale(cols(output, dim, dim)) + log(scale)};
  }
  template <Traced X, Real S>
  X log_prob(const X& z, const Parameters<S>& p) const {
    return detail::diagonal_normal_log_prob(z, p.mean, p.log_scale);
  }
  template <Real S>
  void sample_into(View<S> z, const Parameters<S>& p, std::uint64_t seed, std::uint64_t stream, Index first_row) const {
    fill_normal(z, seed, stream, first_row);
    detail::scale_and_shift<S>(z, p.mean.value(), p.log_scale.value());
  }
  template <Real S>
  Var<S> draw(const Parameters<S>& p, Tape<S>& tape, Index rows, std::uint64_t seed, std::uint64_t stream,
              Index first_row) const {
    return detail::standard_normal_constant(tape, rows, dim, seed, stream, first_row) * exp(p.log_scale) + p.mean;
  }
  template <Real S>
  DiagonalNormal<S> distribution(const Parameters<S>& p) const {
    return {as_eigen(p.mean.value()), as_eigen(p.log_scale.value())};
  }
};

/// Normal distribution with diagonal covariance, whose means and log standard deviations are functions of a context.
template <class T, class Net = Mlp<T>>
using ConditionalNormal = NetworkDistribution<T, NormalFamily, Net>;

/// Returns a conditional normal of x (N x D) given a context c (N x C), both standardised. It starts near the normal
/// distribution with the means and standard deviations of x, whatever the context. Throws invalid_argument where c has
/// another number of rows, and as Standardize::fit() and make_mlp() do.
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
ConditionalNormal<typename Data::Scalar> conditional_normal(const Data& x, const Context& c,
                                                            const NetworkDistributionOptions& options = {}) {
  const NormalFamily family{x.cols()};
  return conditional_normal(x, c,
                            detail::parameter_network<typename Data::Scalar>(c.cols(), family.outputs(), options));
}
/// Returns a conditional normal of x given c with the given network of the standardised context, which gives D means
/// and D logarithms of standard deviations of the standardised x. Throws as above, and where the network gives another
/// number of columns.
template <DenseExpression Data, DenseExpression Context, detail::ParameterNetwork<typename Data::Scalar> Net>
  requires Real<typename Data::Scalar>
ConditionalNormal<typename Data::Scalar, Net> conditional_normal(const Data& x, const Context& c, Net network) {
  return detail::network_distribution_for("conditional_normal", x, c, std::move(network), NormalFamily{x.cols()});
}
/// Returns a conditional normal of dimension dim given a context like the rows of `contexts` (N x C), near the standard
/// normal distribution: as the base of a flow. Throws invalid_argument for dim < 1, and as above.
template <Real S, DenseExpression Context>
ConditionalNormal<S> conditional_normal(Index dim, const Context& contexts,
                                        const NetworkDistributionOptions& options = {}) {
  require(dim >= 1, "conditional_normal: dimension ", dim, ", expected at least 1");
  const NormalFamily family{dim};
  return detail::network_distribution<S>(detail::standardize_context<S>(contexts),
                                         detail::parameter_network<S>(contexts.cols(), family.outputs(), options),
                                         Standardize<S>::identity(dim), family);
}

}  // namespace diffeo::inline DIFFEO_ISA
