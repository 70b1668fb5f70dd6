// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/network_distribution.hpp>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Mixtures of K normal distributions on R^D with diagonal covariance. The outputs of the network are the K logits of
/// the weights, then for each coordinate the means of the K components, and then for each coordinate the logarithms of
/// their K standard deviations, held between the same limits as those of NormalFamily.
struct MixtureFamily {
  static constexpr const char* name = "conditional mixture";

  Index dim = 1;         ///< D
  Index components = 1;  ///< K

  template <Real S>
  struct Parameters {
    Var<S> output, shift, scale;
    Index components;

    Var<S> logits() const { return cols(output, 0, components); }  ///< R x K
    /// Means and log standard deviations of coordinate j: R x K.
    Var<S> mean(Index j) const {
      return cols(output, (1 + j) * components, components) * cols(scale, j, 1) + cols(shift, j, 1);
    }
    Var<S> log_scale(Index j) const {
      const Var<S> raw = cols(output, (1 + scale.cols() + j) * components, components);
      return detail::bounded_log_scale(raw) + log(cols(scale, j, 1));
    }
  };

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "gaussian mixture", "dim", self.dim, "components", self.components);
  }

  Index outputs() const { return components * (1 + 2 * dim); }

  template <Real S>
  Parameters<S> parameters(const Var<S>& output, const Var<S>& shift, const Var<S>& scale) const {
    return {output, shift, scale, components};
  }
  template <Traced X, Real S>
  X log_prob(const X& z, const Parameters<S>& p) const {
    return detail::mixture_log_prob(
        z, p.logits(), [&p](Index j) { return p.mean(j); }, [&p](Index j) { return p.log_scale(j); });
  }
  template <Real S>
  void sample_into(View<S> z, const Parameters<S>& p, std::uint64_t seed, std::uint64_t stream, Index first_row) const {
    fill_normal(z, seed, stream, first_row);
    const std::vector<Index> chosen = detail::choose_components<S>(p.logits().value(), z.rows, seed, stream, first_row);
    const bool shared = p.output.rows() == 1;
    for (Index j = 0; j < z.cols; ++j) {
      const View<const S> mean = p.mean(j).value(), log_scale = p.log_scale(j).value();
      detail::scale_and_shift_rows(
          z.cols_block(j, 1), chosen, [&](Index i, Index k) { return mean.col(k)[shared ? 0 : i]; },
          [&](Index i, Index k) { return log_scale.col(k)[shared ? 0 : i]; });
    }
  }
  template <Real S>
  GaussianMixture<S> distribution(const Parameters<S>& p) const {
    GaussianMixture<S> mixture{as_eigen(p.logits().value()), Array<S>(components, dim), Array<S>(components, dim)};
    for (Index j = 0; j < dim; ++j) {
      mixture.means.col(j) = as_eigen(p.mean(j).value()).row(0).transpose();
      mixture.log_scales.col(j) = as_eigen(p.log_scale(j).value()).row(0).transpose();
    }
    return mixture;
  }
};

/// Mixture of normal distributions with diagonal covariance, whose weights, means and log standard deviations are
/// functions of a context: a mixture density network (Bishop 1994, "Mixture density networks", eq. 22 to 29, with a
/// standard deviation for each coordinate).
template <class T, class Net = Mlp<T>>
using ConditionalMixture = NetworkDistribution<T, MixtureFamily, Net>;

namespace detail {

// Returns a perceptron whose outputs are near the parameters of `start` for all contexts.
template <Real S>
Mlp<S> mixture_network(Index inputs, const GaussianMixture<S>& start, const NetworkDistributionOptions& options) {
  const Index k = start.components(), dim = start.dim();
  Mlp<S> network = parameter_network<S>(inputs, MixtureFamily{dim, k}.outputs(), options);
  Array<S>& bias = network.layers.back().bias;
  bias.leftCols(k) = start.logits - start.logits.mean();
  for (Index j = 0; j < dim; ++j) {
    bias.middleCols((1 + j) * k, k) = start.means.col(j).transpose();
    bias.middleCols((1 + dim + j) * k, k) = start.log_scales.col(j).transpose();
  }
  return network;
}

}  // namespace detail

/// Returns a conditional mixture of x (N x D) given a context c (N x C), both standardised. It starts near
/// GaussianMixture::around(components, x, options.seed), whatever the context. Throws invalid_argument where c has
/// another number of rows, and as GaussianMixture::around(), Standardize::fit() and make_mlp() do.
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
ConditionalMixture<typename Data::Scalar> conditional_mixture(const Data& x, const Context& c, Index components,
                                                              const NetworkDistributionOptions& options = {}) {
  using S = typename Data::Scalar;
  const Standardize<S> units = Standardize<S>::fit(x);
  auto start = GaussianMixture<S>::around(components, x, options.seed);
  start.means = (start.means.rowwise() - units.mean.value.row(0)).rowwise() / units.scale.value.row(0);
  start.log_scales = start.log_scales.rowwise() - units.scale.value.row(0).log();
  return conditional_mixture(x, c, components, detail::mixture_network(c.cols(), start, options));
}
/// Returns a conditional mixture of x given c with the given network of the standardised context, whose outputs are
/// those that MixtureFamily describes, for the standardised x. Throws as above, and where the network gives another
/// number of columns.
template <DenseExpression Data, DenseExpression Context, detail::ParameterNetwork<typename Data::Scalar> Net>
  requires Real<typename Data::Scalar>
ConditionalMixture<typename Data::Scalar, Net> conditional_mixture(const Data& x, const Context& c, Index components,
                                                                   Net network) {
  require(components >= 1, "conditional_mixture: ", components, " components, expected at least 1");
  return detail::network_distribution_for("conditional_mixture", x, c, std::move(network),
                                          MixtureFamily{x.cols(), components});
}
/// Returns a conditional mixture of dimension dim given a context like the rows of `contexts` (N x C), near
/// GaussianMixture::random(components, dim, options.seed): as the base of a flow. Throws invalid_argument for dim < 1,
/// and as above.
template <Real S, DenseExpression Context>
ConditionalMixture<S> conditional_mixture(Index dim, const Context& contexts, Index components,
                                          const NetworkDistributionOptions& options = {}) {
  const auto start = GaussianMixture<S>::random(components, dim, options.seed);
  return detail::network_distribution<S>(detail::standardize_context<S>(contexts),
                                         detail::mixture_network(contexts.cols(), start, options),
                                         Standardize<S>::identity(dim), MixtureFamily{dim, components});
}

}  // namespace diffeo::inline DIFFEO_ISA
