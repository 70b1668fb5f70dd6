// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/continuous/continuous_part.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/matching/paths.hpp>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

/// A distribution with a second field, the denoiser eta, for FlowMatching on a path with noise: it learns the mean of
/// the noise e given x_t, beside the velocity and from the same points, by the loss |eta(t, x_t, c) - e|^2 (Albergo,
/// Boffi & Vanden-Eijnden 2023, eq. 2.19). The score of the density of x_t is -eta(t, x) / gamma(t) (eq. 2.14).
///
///     diffeo::WithDenoiser model{diffeo::TransformedDistribution(diffeo::StandardNormal<float>(2), diffeo::cnf(x)),
///                                diffeo::make_mlp_field<float>(2)};
///     diffeo::fit(model, diffeo::FlowMatching(model, x, path));
///     const auto density = model.distribution.log_prob(x);
///     const auto score = model.score(path, 0.5, y);
///
/// The denoiser gets the context that the field of the continuous flow gets.
template <class Distribution, class Denoiser>
struct WithDenoiser {
  using Scalar = typename Distribution::Scalar;

  Distribution distribution;  ///< a TransformedDistribution with a continuous flow
  Denoiser denoiser;          ///< a vector field

  Index dim() const { return distribution.dim(); }
  /// Number of columns C of the context; 0 where there is none.
  Index context_dim() const { return diffeo::context_dim(distribution); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("distribution", self.distribution, "denoiser", self.denoiser);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "with denoiser");
  }
  template <class U>
  auto rebind() const {
    return WithDenoiser<decltype(distribution.template rebind<U>()), decltype(denoiser.template rebind<U>())>{
        distribution.template rebind<U>(), denoiser.template rebind<U>()};
  }

  /// Throws invalid_argument where the denoiser has another dimension than the distribution.
  void check() const {
    require(denoiser.dim() == distribution.dim(), "denoiser: it has dimension ", denoiser.dim(), ", the distribution ",
            distribution.dim());
  }

  /// Returns the gradient of log p_t at the points y (N x D) for the path that the denoiser was trained on: N x D.
  /// Points and scores are in the coordinates of the Cnf, before the layers behind it. Throws invalid_argument for a
  /// time nearer to 0 or 1 than path.margin(), or where the path has no noise or so little that 1 / gamma overflows,
  /// the wrong number of columns, NaN or infinity, and for a model that takes a context.
  template <MatchingPath Path, class Derived>
  Array<Scalar> score(const Path& path, double t, const Eigen::DenseBase<Derived>& y,
                      const Execution& execution = {}) const {
    detail::require_no_context("score", *this, "model", "call score(path, t, y, c)");
    return score_of(path, t, y, nullptr, execution);
  }
  /// Returns the scores given contexts c, N x C or 1 x C. Throws invalid_argument as well for a context of another
  /// shape, with NaN or infinity, and where the model takes none.
  template <MatchingPath Path, class Derived, class Context>
  Array<Scalar> score(const Path& path, double t, const Eigen::DenseBase<Derived>& y,
                      const Eigen::DenseBase<Context>& c, const Execution& execution = {}) const {
    const auto contexts = detail::context_of_rows<Scalar>("score", c, y.rows(), context_dim(), "model");
    return score_of(path, t, y, &contexts, execution);
  }

 private:
  template <class Path, class Derived>
  Array<Scalar> score_of(const Path& path, double t, const Eigen::DenseBase<Derived>& y, const Array<Scalar>* contexts,
                         const Execution& execution) const {
    using S = Scalar;
    check();
    path.check();
    require(t >= path.margin() && t <= 1 - path.margin(), "score: t is ", t, ", expected a time between ",
            path.margin(), " and ", 1 - path.margin());
    const double gamma = path.at(t).gamma;
    require(gamma > 0, "score: the path has no noise at t = ", t);
    const auto factor = static_cast<S>(-1 / gamma);
    require(std::isfinite(factor), "score: the noise of the path at t = ", t, " is ", gamma,
            ", too little for a score that is finite");
    const auto& points = evaluate_once(y);
    detail::require_batch<S>("score: y", points, dim(), "model");
    Array<S> result(y.rows(), dim());
    for_each_tile<S>(y.rows(), execution, [&](Tape<S>& tape, Index first, Index count) {
      const Var<S> at = tape.copy(points.middleRows(first, count));
      const Pass<S> pass = detail::pass_for(tape, contexts, first, count);
      const Var<S> eta =
          detail::use_continuous_part(distribution.flow, tape, pass.context, [&](const auto&, const Var<S>& context) {
            return detail::velocity_of_field(denoiser, zeros(at, 1) + static_cast<S>(t), at, context);
          });
      result.middleRows(first, count) = as_eigen(eta.value()) * factor;
    });
    return result;
  }
};

template <class Distribution, class Denoiser>
WithDenoiser(Distribution, Denoiser) -> WithDenoiser<Distribution, Denoiser>;

namespace detail {

template <class M>
inline constexpr bool has_denoiser = false;
template <class Distribution, class Denoiser>
inline constexpr bool has_denoiser<WithDenoiser<Distribution, Denoiser>> = true;

/// Returns the distribution of a model with a denoiser, and of others the model.
template <class Model>
const auto& distribution_of(const Model& model) {
  if constexpr (has_denoiser<Model>)
    return model.distribution;
  else
    return model;
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
