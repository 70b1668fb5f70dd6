// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/probability_path.hpp>
#include <diffeo/transport/path_energy.hpp>
#include <diffeo/transport/wasserstein.hpp>
#include <limits>
#include <vector>

#include "points.hpp"

using diffeo::Array;
using diffeo::Cnf;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::normalised_path_energy;
using diffeo::path_energy;
using diffeo::ProbabilityPath;
using diffeo::StandardNormal;

namespace {

diffeo::CnfOptions precise() {
  diffeo::CnfOptions options;
  options.evaluation.solver.relative_tolerance = options.evaluation.solver.absolute_tolerance = 1e-9;
  return options;
}

}  // namespace

TEST_CASE("path energy: a translation is optimal", "[transport]") {
  const auto field =
      diffeo::make_field<double>(2, [](const auto& t, const auto& x) { return x * 0.0 + 1.5 + t * 0.0; });
  const ProbabilityPath path(StandardNormal<double>(2), Cnf{field, precise()});
  const Array<double> z = path.latent(60, 1), x = path.sample(1, 60, 1);
  const double energy = path_energy(path, z);
  CHECK(energy == Approx(4.5).epsilon(1e-12));
  CHECK(normalised_path_energy(energy, diffeo::wasserstein2(z, x)) < 1e-12);
}

TEST_CASE("path energy: closed forms", "[transport]") {
  // dx/dt = a x: the integral of |v|^2 is a |z|^2 (e^(2 a) - 1) / 2, optimal transport needs |z|^2 (e^a - 1)^2.
  constexpr double a = 0.9;
  const auto growth = diffeo::make_field<double>(2, [](const auto&, const auto& x) { return x * a; });
  const ProbabilityPath path(StandardNormal<double>(2), Cnf{growth, precise()});
  const Array<double> z = path.latent(50, 2), x = path.sample(1, 50, 2);
  const double square = z.square().rowwise().sum().mean(), expected = a * square * std::expm1(2 * a) / 2;
  const double energy = path_energy(path, z);
  CHECK(energy == Approx(expected).epsilon(1e-7));
  CHECK(path_energy(path, z, 16, 3) == path_energy(path, z, 16, 1));
  CHECK(path_energy(path, z.matrix(), 30) == Approx(expected).epsilon(1e-7));
  const double distance = std::sqrt(square) * std::expm1(a);
  CHECK(diffeo::wasserstein2(z, x) == Approx(distance).epsilon(1e-7));
  CHECK(normalised_path_energy(energy, distance) ==
        Approx(a * std::expm1(2 * a) / (2 * std::pow(std::expm1(a), 2)) - 1).epsilon(1e-6));

  // The same from speeds at times that are not equally spaced: of order 2.
  std::vector<double> times;
  for (int k = 0; k <= 400; ++k) times.push_back(std::pow(k / 400.0, 1.5));
  Array<double> speeds(50, static_cast<Index>(times.size()));
  for (Index k = 0; k < speeds.cols(); ++k)
    speeds.col(k) = z.square().rowwise().sum().sqrt() * a * std::exp(a * times[static_cast<std::size_t>(k)]);
  CHECK(path_energy(speeds, times) == Approx(expected).epsilon(1e-5));
  CHECK(path_energy(speeds.cast<float>(), times) == Approx(expected).epsilon(1e-5));
  const std::vector<double> two = {1, 3};
  CHECK(path_energy(Array<double>{{1, 2}, {3, 4}}, two) == 15);

  // A flow that is followed by a standardisation, in the units of the data: x(t) = t m + s^t e^(a t) z.
  const double b = a + std::log(3.0);
  const auto frame =
      diffeo::Standardize<double>::from(Array<double>::Constant(1, 2, 2), Array<double>::Constant(1, 2, 3));
  const ProbabilityPath framed(
      diffeo::TransformedDistribution(StandardNormal<double>(2), diffeo::FlowSequence(Cnf{growth, precise()}, frame)));
  const double linear = z.mean() * 2;  // of the two columns together
  CHECK(path_energy(framed, z, 24) ==
        Approx(b * square * std::expm1(2 * b) / 2 + 2 * 2 * linear * std::expm1(b) + 8).epsilon(1e-7));
}

TEMPLATE_TEST_CASE("path energy: a network, against speeds", "[transport]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const ProbabilityPath path(StandardNormal<S>(2),
                             Cnf{diffeo::make_mlp_field<S>(2, {.hidden = {8}, .last_scale = 1.5}, 1)});
  const Array<S> z = path.latent(40, 1);
  std::vector<double> times;
  for (int k = 0; k <= 200; ++k) times.push_back(k / 200.0);
  const auto x = path.trajectories(z, times);
  Array<S> speeds(40, 201);
  for (std::size_t k = 0; k < times.size(); ++k)
    speeds.col(static_cast<Index>(k)) = path.velocity(times[k], x[k]).square().rowwise().sum().sqrt();
  CHECK(path_energy(path, z) == Approx(path_energy(speeds, times)).epsilon(1e-4));
  CHECK(path_energy(path, z) > 0.01);
}

TEST_CASE("path energy: bad input", "[transport]") {
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  const std::vector<double> times = {0, 0.5, 1}, back = {0, 0.5, 0.5}, one = {0};
  Array<double> speeds = Array<double>::Ones(4, 3);
  CHECK(message([&] { path_energy(speeds, one); }) == "path_energy: there are 1 times, expected at least 2");
  CHECK(message([&] { path_energy(speeds.leftCols(2), times); }) ==
        "path_energy: the speeds have 2 columns, expected one for each of 3 times");
  CHECK(message([&] { path_energy(speeds.topRows(0), times); }) == "path_energy: the speeds have no rows");
  CHECK(message([&] { path_energy(speeds, back); }) ==
        "path_energy: time 2 is 0.5 after 0.5, expected times that ascend");
  const std::vector<double> endless = {0, 1, std::numeric_limits<double>::infinity()};
  CHECK(contains(message([&] { path_energy(speeds, endless); }), "path_energy: time 2 is inf"));
  CHECK(message([&] { path_energy(speeds * 1e200, times); }) == "path_energy: the energy overflows");
  speeds(1, 2) = -1;
  CHECK(message([&] { path_energy(speeds, times); }) == "path_energy: a speed is -1, expected at least 0");
  speeds(1, 2) = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(message([&] { path_energy(speeds, times); }), "path_energy: the speed is nan at (row 1, column 2)"));
  const auto field = diffeo::make_field<double>(2, [](const auto&, const auto& x) { return x; });
  const ProbabilityPath path(StandardNormal<double>(2), Cnf{field});
  CHECK(message([&] { path_energy(path, Array<double>(0, 2)); }) == "path_energy: z has no rows");
  CHECK(contains(message([&] { path_energy(path, Array<double>::Ones(3, 2), 0); }), "gauss_legendre: n is 0"));
  CHECK(contains(message([&] { path_energy(path, Array<double>::Ones(3, 5)); }), "z has 5 columns"));
  CHECK(message([] { normalised_path_energy(-1, 1); }) ==
        "normalised_path_energy: the energy is -1, expected finite and at least 0");
  CHECK(message([] { normalised_path_energy(1, 0); }) ==
        "normalised_path_energy: the distance is 0, expected finite and greater than 0");
}
