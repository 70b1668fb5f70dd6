// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/move_points.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/matching/sde_sampler.hpp>
#include <limits>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::BrownianBridge;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::LinearPath;
using diffeo::SdeMethod;
using diffeo::SdeOptions;
using diffeo::StandardNormal;
using diffeo::TransformedDistribution;
using diffeo::WithDenoiser;

namespace {

// Between N(0, I) and N(m, diag(b)), drawn independently, on the straight path with noise of constant size: at time t
// each coordinate is normal with mean t m and variance v = (1 - t)^2 + b t^2 + sigma^2. The velocity is m + v' / (2 v)
// (x - t m), and the mean of the noise given x is sigma (x - t m) / v.
struct Gaussians {
  Array<double> m{{1.5, -1.0}}, b{{0.25, 2.25}};
  double sigma = 0.5;

  Array<double> variance(double t) const { return (1 - t) * (1 - t) + b * (t * t) + sigma * sigma; }
  auto model() const {
    const auto at = [of = *this](const auto& t, const auto& x, const auto& use) {
      const auto mean = t * x.tape().copy(of.m);
      const auto v = square(1.0 - t) + square(t) * x.tape().copy(of.b) + of.sigma * of.sigma;
      return use(x - mean, v, of);
    };
    return WithDenoiser{
        TransformedDistribution(StandardNormal<double>(2),
                                diffeo::Cnf(diffeo::make_field<double>(
                                    2,
                                    [at](const auto& t, const auto& x) {
                                      return at(t, x, [&](const auto& away, const auto& v, const Gaussians& of) {
                                        return (t * x.tape().copy(of.b) - (1.0 - t)) / v * away + x.tape().copy(of.m);
                                      });
                                    }))),
        diffeo::make_field<double>(2, [at](const auto& t, const auto& x) {
          return at(t, x, [&](const auto& away, const auto& v, const Gaussians& of) { return away / v * of.sigma; });
        })};
  }
};

}  // namespace

TEST_CASE("sde: exact mean and covariance between normal distributions, whatever the diffusion", "[matching]") {
  const Gaussians of;
  const auto model = of.model();
  const LinearPath path{of.sigma};
#ifdef DIFFEO_SANITIZE
  const Index n = 2000;
#else
  const Index n = 40000;
#endif
  const auto check = [&](const char* name, const SdeOptions& options) {
    CAPTURE(name, options.end);
    const Array<double> x = diffeo::sample_sde(model, path, n, 1, options);
    const double count = static_cast<double>(n);
    const Array<double> v = of.variance(options.end);
    for (Index j = 0; j < 2; ++j) {
      CHECK(x.col(j).mean() == Approx(options.end * of.m(0, j)).margin(5 * std::sqrt(v(0, j) / count)));
      CHECK(mean_square(x.col(j) - options.end * of.m(0, j)) / v(0, j) == Approx(1).margin(5 * std::sqrt(2 / count)));
    }
    const double covariance = ((x.col(0) - options.end * of.m(0, 0)) * (x.col(1) - options.end * of.m(0, 1))).mean();
    CHECK(std::abs(covariance) < 5 * std::sqrt(v(0, 0) * v(0, 1) / count));
  };
  check("heun", {.steps = 100});
  check("half-way", {.steps = 60, .end = 0.5});
  check("heun, large diffusion", {.diffusion = [](double) { return 1.0; }, .steps = 150});
  check("diffusion that varies", {.diffusion = [](double t) { return 2 * t * (1 - t); }, .steps = 150});
  check("euler", {.diffusion = [](double t) { return 0.3 * t; }, .steps = 1500, .method = SdeMethod::euler_maruyama});
}

TEST_CASE("sde: order of convergence of the distribution", "[matching][long]") {
  const Gaussians of;
  const auto model = of.model();
  const LinearPath path{of.sigma};
  const Index n = 1 << 20;
  // The error of the variance of the first coordinate, and its standard error of 0.14 % of the variance.
  const auto error = [&](SdeMethod method, Index steps) {
    const Array<double> x = diffeo::sample_sde(
        model, path, n, 1, {.diffusion = [](double) { return 1.5; }, .steps = steps, .method = method});
    return mean_square(x.col(0) - x.col(0).mean()) - of.variance(1)(0, 0);
  };
  const double noise = of.variance(1)(0, 0) * std::sqrt(2.0 / static_cast<double>(n));
  const auto order = [&](SdeMethod method, Index steps) {
    const double coarse = error(method, steps), fine = error(method, 2 * steps);
    CAPTURE(steps, coarse, fine, noise);
    CHECK(std::abs(fine) > 10 * noise);
    return std::log2(coarse / fine);
  };
  CHECK(order(SdeMethod::euler_maruyama, 16) == Approx(1).margin(0.2));
  CHECK(order(SdeMethod::heun, 4) == Approx(2).margin(0.5));
}

TEST_CASE("sde: without diffusion the methods are those of the ordinary equation", "[matching]") {
  const Gaussians of;
  const auto model = of.model();
  const LinearPath path{of.sigma};
  const Array<double> x = gaussian<double>(50, 2, 3);
  // The path's noise at time 0 is the same for every method. The flow keeps the number of standard deviations.
  const auto moved = [&](SdeMethod method, Index steps) {
    return diffeo::move_points_sde(model, path, x, 7,
                                   {.diffusion = [](double) { return 0.0; }, .steps = steps, .method = method});
  };
  const Array<double> reference = moved(SdeMethod::heun, 4096);
  const double start = std::sqrt(of.variance(0)(0, 0));
  for (Index j = 0; j < 2; ++j) {
    const double end = std::sqrt(of.variance(1)(0, j));
    const Array<double> blurred = (reference.col(j) - of.m(0, j)) * (start / end), noise = blurred - x.col(j);
    CHECK(std::sqrt(mean_square(noise)) == Approx(of.sigma).epsilon(0.4));
  }
  for (const auto& [method, order] : {std::pair(SdeMethod::euler_maruyama, 1.0), std::pair(SdeMethod::heun, 2.0)}) {
    const double coarse = (moved(method, 64) - reference).abs().maxCoeff(),
                 fine = (moved(method, 128) - reference).abs().maxCoeff();
    CAPTURE(order, coarse, fine);
    CHECK(std::log2(coarse / fine) == Approx(order).margin(0.15));
  }
}

TEST_CASE("sde: a Brownian bridge starts and ends without noise", "[matching]") {
  // Between a point and N(0, 1) with sigma = 1: x_t has variance t^2 + t (1 - t) = t, as a Brownian motion, whose
  // equation with the diffusion 1/2 has no drift.
  const WithDenoiser model{
      TransformedDistribution(
          StandardNormal<double>(1),
          diffeo::Cnf(diffeo::make_field<double>(1, [](const auto& t, const auto& x) { return x / t * 0.5; }))),
      diffeo::make_field<double>(1, [](const auto& t, const auto& x) { return x / t * sqrt(t * (1.0 - t)); })};
  const Index n = 20000;
  const Array<double> zeros = Array<double>::Zero(n, 1);
  const auto at = [&](double end) {
    return diffeo::move_points_sde(
        model, BrownianBridge{.sigma = 1, .least_time = 1e-3}, zeros, 1,
        {.diffusion = [](double) { return 0.5; }, .steps = 50, .method = SdeMethod::euler_maruyama, .end = end});
  };
  for (const double end : {0.25, 1.0})
    CHECK(mean_square(at(end)) == Approx(end).epsilon(5 * std::sqrt(2.0 / static_cast<double>(n))));
}

TEST_CASE("sde: samples depend on seed and row alone, start at those of the model, and are in the data's units",
          "[matching]") {
  const Gaussians of;
  const auto plain = of.model();
  const LinearPath path{of.sigma};
  const SdeOptions options{.steps = 8};
  const Array<double> x = diffeo::sample_sde(plain, path, 200, 5, options, 1);
  CHECK(same_bits(x, diffeo::sample_sde(plain, path, 200, 5, options, 3)));
  CHECK(same_bits(Array<double>(x.topRows(70)), diffeo::sample_sde(plain, path, 70, 5, options)));
  CHECK((x != diffeo::sample_sde(plain, path, 200, 6, options)).all());
  CHECK(diffeo::sample_sde(plain, path, 0, 5, options).rows() == 0);
  // As the samples of the base moved.
  const Array<double> z = diffeo::move_points(plain.distribution.flow, plain.distribution.sample(200, 5), 1, 0);
  CHECK((diffeo::move_points_sde(plain, path, z, 5, options) - x).abs().maxCoeff() < 1e-4);
  const Array<double> mean{{100.0, -50.0}}, scale{{3.0, 0.5}};
  const WithDenoiser scaled{
      TransformedDistribution(
          StandardNormal<double>(2),
          diffeo::FlowSequence(plain.distribution.flow, diffeo::Standardize<double>::from(mean, scale))),
      plain.denoiser};
  const Array<double> expected = (x.rowwise() * scale.row(0)).rowwise() + mean.row(0);
  CHECK((diffeo::sample_sde(scaled, path, 200, 5, options) - expected).abs().maxCoeff() < 1e-10);
  const Array<double> z_scaled = (z.rowwise() * scale.row(0)).rowwise() + mean.row(0);
  CHECK((diffeo::move_points_sde(scaled, path, z_scaled, 5, options) - expected).abs().maxCoeff() < 1e-3);
}

TEST_CASE("sde: contexts", "[matching]") {
  const auto field = [](double factor) {
    return diffeo::make_field<double>(
        1, [factor](const auto&, const auto& x, const auto& c) { return x * 0.0 + c * factor; }, 1);
  };
  const WithDenoiser model{TransformedDistribution(StandardNormal<double>(1), diffeo::Cnf(field(1))), field(0.5)};
  const Array<double> c = gaussian<double>(100, 1, 1), none = Array<double>::Zero(100, 1);
  const LinearPath path{0.2};
  // A drift of c - eps / gamma c / 2 = c / 2.
  const Array<double> difference =
      diffeo::sample_sde(model, path, c, 3, {.steps = 4}) - diffeo::sample_sde(model, path, none, 3, {.steps = 4});
  CHECK((difference - c * 0.5).abs().maxCoeff() < 1e-12);
  CHECK(contains(thrown_message<invalid_argument>([&] { diffeo::sample_sde(model, path, 10, 3); }),
                 "call sample_sde(model, path, c, seed)"));
  CHECK(contains(
      thrown_message<invalid_argument>([&] { diffeo::sample_sde(model, path, gaussian<double>(10, 2, 1), 3); }),
      "sample_sde: the context has 2 columns"));
}

TEST_CASE("sde: bad input", "[matching]") {
  const auto model = Gaussians().model();
  const auto refused = [&](const auto& path, const SdeOptions& options, const std::string& part) {
    const std::string message =
        thrown_message<invalid_argument>([&] { diffeo::sample_sde(model, path, 5, 1, options); });
    CAPTURE(message, part);
    CHECK(contains(message, part));
  };
  const auto constant = [](double value) { return [value](double) { return value; }; };
  refused(LinearPath{0.5}, {.steps = 0}, "sde: steps is 0");
  refused(LinearPath{0.5}, {.end = 0}, "sde: end is 0");
  refused(LinearPath{0.5}, {.end = 1.5}, "sde: end is 1.5");
  refused(LinearPath{0.5}, {.diffusion = constant(-1)}, "the diffusion at t = 0 is -1");
  refused(LinearPath{0.5}, {.diffusion = constant(std::nan(""))}, "is nan, expected finite");
  refused(LinearPath{}, {.diffusion = constant(0.1)}, "but the path has no noise there");
  refused(LinearPath{-1}, {}, "linear path: sigma is -1");
  refused(LinearPath{0.5}, {.diffusion = constant(1e300)}, "sample_sde: the sample");
  CHECK(contains(thrown_message<invalid_argument>([&] { diffeo::sample_sde(model, LinearPath{0.5}, -1, 1); }),
                 "n is -1"));
  CHECK(contains(thrown_message<invalid_argument>(
                     [&] { diffeo::move_points_sde(model, LinearPath{0.5}, gaussian<double>(3, 1, 1), 1); }),
                 "move_points_sde: x"));
}
