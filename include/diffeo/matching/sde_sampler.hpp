// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/continuous/continuous_part.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/matching/denoiser.hpp>
#include <diffeo/matching/paths.hpp>
#include <diffeo/math/random_fill.hpp>
#include <utility>
#include <vector>

/// Samples of a flow-matched model by a stochastic differential equation that has the same densities at all times as
/// the continuous flow.
namespace diffeo::inline DIFFEO_ISA {

/// Methods for equations whose noise does not depend on the point. Both have strong order 1. Samples of
/// euler_maruyama, which takes one evaluation of both fields a step, have distributions of weak order 1; those of heun,
/// the trapezoidal rule with a predictor by Euler's method and the same noise, which takes two, of weak order 2
/// (Kloeden & Platen 1992, "Numerical solution of stochastic differential equations", sections 10.2 and 15.1).
enum class SdeMethod { euler_maruyama, heun };

/// | option    | type         | default                                                                               |
/// |-----------|--------------|---------------------------------------------------------------------------------------|
/// | diffusion | PathFunction | none: gamma(t) of the path; else eps(t), finite and at least 0, and 0 where gamma is  |
/// | steps     | Index        | 200, of equal length                                                                  |
/// | method    | SdeMethod    | heun                                                                                  |
/// | end       | double       | 1: the time of the samples, above 0 and at most 1                                     |
///
/// The larger eps is, the more an error of the velocity is corrected by the score, and the more steps are needed. With
/// eps = 0 the equation is that of the continuous flow.
struct SdeOptions {
  PathFunction diffusion = {};
  Index steps = 200;
  SdeMethod method = SdeMethod::heun;
  double end = 1;

  /// Throws invalid_argument for an option out of range. Values of the diffusion are checked where they are used.
  void check() const {
    require(steps >= 1, "sde: steps is ", steps, ", expected at least 1");
    require(end > 0 && end <= 1, "sde: end is ", end, ", expected above 0 and at most 1");
  }
};

namespace detail {

// One step of the equation: where it is evaluated, and the weights there.
struct SdeStep {
  double time = 0, next_time = 0;    // at which the fields are evaluated
  double ratio = 0, next_ratio = 0;  // eps / gamma
  double noise = 0;                  // standard deviation of the noise of the step
};

inline std::vector<SdeStep> sde_steps(const char* who, const PathFunction& gamma, double margin,
                                      const SdeOptions& options) {
  options.check();
  const auto step_length = options.end / static_cast<double>(options.steps);
  // The diffusion and its ratio to gamma.
  const auto at = [&](double t) {
    const double noise = gamma(t);
    if (!options.diffusion) return std::pair(noise, noise > 0 ? 1.0 : 0.0);
    const double diffusion = options.diffusion(t);
    require(diffusion >= 0 && std::isfinite(diffusion), who, ": the diffusion at t = ", t, " is ", diffusion,
            ", expected finite and at least 0");
    require(diffusion == 0 || noise > 0, who, ": the diffusion at t = ", t, " is ", diffusion,
            ", but the path has no noise there, and so no score");
    return std::pair(diffusion, diffusion > 0 ? diffusion / noise : 0.0);
  };
  std::vector<SdeStep> steps;
  steps.reserve(static_cast<std::size_t>(options.steps));
  for (Index k = 0; k < options.steps; ++k) {
    SdeStep step;
    step.time = std::clamp(static_cast<double>(k) * step_length, margin, 1 - margin);
    step.next_time = std::clamp(static_cast<double>(k + 1) * step_length, margin, 1 - margin);
    const auto [diffusion, ratio] = at(step.time);
    const auto [next_diffusion, next_ratio] = at(step.next_time);
    step.ratio = ratio;
    step.next_ratio = next_ratio;
    // The variance is the integral of 2 eps.
    step.noise =
        std::sqrt(step_length * (options.method == SdeMethod::heun ? diffusion + next_diffusion : 2 * diffusion));
    steps.push_back(step);
  }
  return steps;
}

// Moves the points y (N x D), which are in the coordinates of the Cnf, or samples of the base where they are null.
template <class Distribution, class Denoiser, MatchingPath Path>
Array<typename Distribution::Scalar> sde_samples(const char* who, const WithDenoiser<Distribution, Denoiser>& model,
                                                 const Path& path, const Array<typename Distribution::Scalar>* start,
                                                 Index rows, const Array<typename Distribution::Scalar>* contexts,
                                                 std::uint64_t seed, const SdeOptions& options,
                                                 const Execution& execution) {
  using S = typename Distribution::Scalar;
  // Apart from all other uses of a seed; steps are added.
  constexpr std::uint64_t start_stream = 0x7364655f73740000, step_stream = 0x7364655f00000000;
  const auto& flow = model.distribution.flow;
  using Flow = std::remove_cvref_t<decltype(flow)>;
  require_continuous_part<Flow>(who);
  model.check();
  path.check();
  require(rows >= 0, who, ": n is ", rows, ", expected at least 0");
  const PathFunction gamma = [&path](double t) { return path.at(t).gamma; };
  const std::vector<SdeStep> steps = sde_steps(who, gamma, path.margin(), options);
  const double blur = path.margin() > 0 ? 0 : gamma(0);
  const auto length = static_cast<S>(options.end / static_cast<double>(options.steps));
  Array<S> result(rows, model.dim());
  if constexpr (leads_to_cnf<Flow>()) {
    for_each_tile<S>(rows, execution, [&](Tape<S>& tape, Index first, Index count) {
      const Pass<S> outer = pass_for(tape, contexts, first, count);
      Array<S> y(count, model.dim()), e = y, slope = y;
      if (start)
        y = start->middleRows(first, count);
      else
        y = as_eigen(base_sample(model.distribution.base, tape, first, count, seed, outer).value());
      if (blur > 0) {
        fill_normal(view(e), seed, start_stream, first);
        y += static_cast<S>(blur) * e;
      }
      use_continuous_part(flow, tape, outer.context, [&](const auto& cnf, const Var<S>& context) {
        const auto drift = [&](double t, double ratio, const Array<S>& at, Array<S>& out) {
          const auto mark = tape.mark();
          const Var<S> point = tape.copy(at), time = zeros(point, 1) + static_cast<S>(t);
          out = as_eigen(velocity_of_field(cnf.field, time, point, context).value());
          if (ratio > 0)
            out -= static_cast<S>(ratio) * as_eigen(velocity_of_field(model.denoiser, time, point, context).value());
          tape.release(mark);
        };
        Array<S> predicted = y, next_slope = y;
        for (std::size_t k = 0; k < steps.size(); ++k) {
          const SdeStep& step = steps[k];
          drift(step.time, step.ratio, y, slope);
          if (step.noise > 0) {
            fill_normal(view(e), seed, step_stream + k, first);
            e *= static_cast<S>(step.noise);
          } else {
            e.setZero();
          }
          if (options.method == SdeMethod::heun) {
            predicted = y + length * slope + e;
            drift(step.next_time, step.next_ratio, predicted, next_slope);
            slope = S(0.5) * (slope + next_slope);
          }
          y += length * slope + e;
        }
        return 0;
      });
      result.middleRows(first, count) = y;
    });
    require_finite(result, concat_message(who, ": the sample").c_str());
    result = data_side(who, flow, std::move(result), true);
  }
  return result;
}

}  // namespace detail

/// Returns n samples, n x D, of a model with a denoiser that was trained on `path`, by the forward equation
///
///     dX = (v(t, X) + eps(t) s(t, X)) dt + sqrt(2 eps(t)) dW,  s = -eta / gamma
///
/// from time 0 (Albergo, Boffi & Vanden-Eijnden 2023, "Stochastic interpolants: a
/// unifying framework for flows and diffusions"), where eps is any
/// diffusion. If v and s are exact, X_t has the density of the path, whatever eps. The fields are evaluated no nearer
/// to the ends of the time than the path's margin.
///
///     const auto x = diffeo::sample_sde(model, path, 10'000, /*seed=*/1, {.steps = 100});
///
/// The starting points are those of model.distribution.sample(n, seed), with the noise that the path has at time 0, and
/// the samples, in the units of the data, have the noise that it has at the end. Sample i depends on (seed, i) alone.
/// Throws invalid_argument for options out of range, a diffusion that is negative, not finite or above 0 where the path
/// has no noise, a model that takes a context, and samples that are not finite.
template <class Distribution, class Denoiser, MatchingPath Path>
auto sample_sde(const WithDenoiser<Distribution, Denoiser>& model, const Path& path, Index n, std::uint64_t seed,
                const SdeOptions& options = {}, const Execution& execution = {}) {
  detail::require_no_context("sample_sde", model, "model", "call sample_sde(model, path, c, seed)");
  return detail::sde_samples("sample_sde", model, path, nullptr, n, nullptr, seed, options, execution);
}
/// Returns a sample for each row of the contexts c, N x C: N x D. Throws as above, and for a context of another number
/// of columns, with NaN or infinity.
template <class Distribution, class Denoiser, MatchingPath Path, class Context>
auto sample_sde(const WithDenoiser<Distribution, Denoiser>& model, const Path& path, const Eigen::DenseBase<Context>& c,
                std::uint64_t seed, const SdeOptions& options = {}, const Execution& execution = {}) {
  const auto contexts =
      detail::context_of_rows<typename Distribution::Scalar>("sample_sde", c, c.rows(), model.context_dim(), "model");
  return detail::sde_samples("sample_sde", model, path, nullptr, c.rows(), &contexts, seed, options, execution);
}

/// Moves points x (N x D, any Eigen expression, in the units of the data) that are those of the source, such as a
/// snapshot at time 0, by the equation of sample_sde(). Throws as sample_sde() does, and for the wrong number of
/// columns, NaN or infinity in x.
template <class Distribution, class Denoiser, MatchingPath Path, class Derived>
auto move_points_sde(const WithDenoiser<Distribution, Denoiser>& model, const Path& path,
                     const Eigen::DenseBase<Derived>& x, std::uint64_t seed, const SdeOptions& options = {},
                     const Execution& execution = {}) {
  using S = typename Distribution::Scalar;
  const char* const who = "move_points_sde";
  detail::require_no_context(who, model, "model", "its points would need contexts");
  using Flow = std::remove_cvref_t<decltype(model.distribution.flow)>;
  detail::require_continuous_part<Flow>(who);
  const auto& points = evaluate_once(x);
  detail::require_batch<S>("move_points_sde: x", points, model.dim(), "model");
  Array<S> start = points.template cast<S>().array();
  if constexpr (detail::leads_to_cnf<Flow>()) start = detail::data_side(who, model.distribution.flow, std::move(start));
  return detail::sde_samples(who, model, path, &start, start.rows(), nullptr, seed, options, execution);
}

}  // namespace diffeo::inline DIFFEO_ISA
