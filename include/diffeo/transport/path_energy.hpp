// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/execution.hpp>
#include <diffeo/math/gauss_legendre.hpp>
#include <span>
#include <vector>

/// Path energy: by how much more than needed the points of a continuous flow move (Tong, Fatras, Malkin, Huguet, Zhang,
/// Rector-Brooks, Wolf and Bengio, "Improving and generalizing flow-based generative models with minibatch optimal
/// transport", Transactions on Machine Learning Research, 2024).
namespace diffeo::inline DIFFEO_ISA {

/// Returns the path energy E int |v|^2 dt from the speeds |v| of points along their trajectories (N x T, any Eigen
/// expression) at T times that ascend: the mean over the rows of the integral of the squared speeds by the trapezoidal
/// rule. Throws invalid_argument for no rows, fewer than two times, another number of columns than times, times that do
/// not ascend, negative speeds, NaN and infinity, and speeds so large that the energy overflows.
template <class Derived>
double path_energy(const Eigen::DenseBase<Derived>& speeds, std::span<const double> times) {
  require(speeds.rows() > 0, "path_energy: the speeds have no rows");
  require(times.size() >= 2, "path_energy: there are ", times.size(), " times, expected at least 2");
  require(speeds.cols() == static_cast<Index>(times.size()), "path_energy: the speeds have ", speeds.cols(),
          " columns, expected one for each of ", times.size(), " times");
  require_finite(speeds.derived(), "path_energy: the speed");
  require(speeds.derived().minCoeff() >= 0, "path_energy: a speed is ", speeds.derived().minCoeff(),
          ", expected at least 0");
  const auto square = [&speeds](std::size_t k) {
    return speeds.derived().col(static_cast<Index>(k)).template cast<double>().array().square().mean();
  };
  require(std::isfinite(times[0]), "path_energy: time 0 is ", times[0], ", expected a finite time");
  double energy = 0, before = square(0);
  for (std::size_t k = 1; k < times.size(); ++k) {
    require(times[k] > times[k - 1] && std::isfinite(times[k]), "path_energy: time ", k, " is ", times[k], " after ",
            times[k - 1], ", expected times that ascend");
    const double next = square(k);
    energy += 0.5 * (times[k] - times[k - 1]) * (before + next);
    before = next;
  }
  require(std::isfinite(energy), "path_energy: the energy overflows");
  return energy;
}

/// A path of distributions from time 0 to 1 along which points move, such as a ProbabilityPath.
template <class P>
concept PointPath = requires(const P& path, const Array<typename P::Scalar>& x, const std::vector<double>& times,
                             const Execution& execution) {
  { path.trajectories(x, times, execution) } -> std::convertible_to<std::vector<Array<typename P::Scalar>>>;
  { path.velocity(0.5, x, execution) } -> std::convertible_to<Array<typename P::Scalar>>;
};

/// Returns the path energy E int |v|^2 dt from time 0 to 1 of points that are at z (N x D) at time 0: the mean over the
/// rows of z, for instance path.latent(n, seed). The integral is by the rule of Gauss and Legendre with `places` times,
/// with the velocities at the points of path.trajectories(). The work is that of one solve and `places` evaluations of
/// the field. A model's flow becomes a path by ProbabilityPath(model), a Cnf by ProbabilityPath(base, cnf). Throws
/// invalid_argument for no rows, for places out of the range of math::gauss_legendre() and where the energy overflows,
/// and what the path throws.
template <PointPath P, class Derived>
double path_energy(const P& path, const Eigen::DenseBase<Derived>& z, Index places = 16,
                   const Execution& execution = {}) {
  require(z.rows() > 0, "path_energy: z has no rows");
  const math::Quadrature rule = math::gauss_legendre(places);
  const std::vector<Array<typename P::Scalar>> x = path.trajectories(z.derived(), rule.places, execution);
  double energy = 0;
  for (std::size_t k = 0; k < x.size(); ++k) {
    const Array<typename P::Scalar> v = path.velocity(rule.places[k], x[k], execution);
    energy += rule.weights[k] * v.template cast<double>().square().sum() / static_cast<double>(z.rows());
  }
  require(std::isfinite(energy), "path_energy: the energy overflows");
  return energy;
}

/// Returns the normalised path energy |PE - W2^2| / W2^2 (Tong et al. 2024) of a path with the path energy PE between
/// distributions at the 2-Wasserstein distance W2: 0 for optimal transport, larger where paths are longer than needed
/// or end elsewhere. Throws invalid_argument for an energy that is not finite or negative, and a distance that is not
/// finite and positive.
inline double normalised_path_energy(double energy, double wasserstein2) {
  require(energy >= 0 && std::isfinite(energy), "normalised_path_energy: the energy is ", energy,
          ", expected finite and at least 0");
  const double square = wasserstein2 * wasserstein2;
  require(wasserstein2 > 0 && square > 0 && std::isfinite(square), "normalised_path_energy: the distance is ",
          wasserstein2, ", expected finite and greater than 0");
  return std::abs(energy - square) / square;
}

}  // namespace diffeo::inline DIFFEO_ISA
