// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/matching/schroedinger_bridge.hpp>
#include <numeric>
#include <type_traits>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;

// Between N(0, a) and N(m, b) in one dimension the bridge of variance s^2 is a Gaussian process. The covariance c of
// its ends solves c^2 + s^2 c = a b (Bunne, Hsieh, Cuturi and Krause 2023, "The Schroedinger bridge between Gaussian
// measures has a closed form", with another name), and its marginal at time t has the variance v = (1 - t)^2 a + t^2 b
// + 2 t (1 - t) c + s^2 t (1 - t). The velocity of the marginals is m + v' / (2 v) (x - t m).
TEST_CASE("schroedinger bridge: marginals and velocity between normal distributions", "[matching]") {
  const Index n = 250;
  const double a = 1, m = 2, deviation = 0.5;
  Array<double> data = gaussian<double>(n, 1, 3) * deviation;
  data += m - data.mean();
  const double b = (data - m).square().mean();
  const diffeo::TransformedDistribution model(
      diffeo::StandardNormal<double>(1),
      diffeo::Cnf(diffeo::make_field<double>(1, [](const auto&, const auto& x) { return x * 0.0; })));
  std::vector<Index> rows(static_cast<std::size_t>(n));
  std::iota(rows.begin(), rows.end(), Index{0});
  for (const double sigma : {0.3, 1.0}) {
#ifdef DIFFEO_SANITIZE
    if (sigma < 1) continue;  // many more iterations for each plan
#endif
    const double s2 = sigma * sigma, c = (std::sqrt(s2 * s2 + 4 * a * b) - s2) / 2;
    for (const double t : {0.25, 0.5, 0.75}) {
      const auto objective =
          diffeo::schroedinger_bridge(model, data, sigma, {.times = diffeo::TimeFunction([t](double) { return t; })});
      CHECK(objective.path().sigma == sigma);
      const double v = (1 - t) * (1 - t) * a + t * t * b + 2 * t * (1 - t) * c + s2 * t * (1 - t);
      const double rate = -2 * (1 - t) * a + 2 * t * b + 2 * (1 - 2 * t) * c + s2 * (1 - 2 * t);
      double variance = 0, covariance = 0;
      const int steps = 100;
      for (int step = 0; step < steps; ++step) {
        typename std::remove_cvref_t<decltype(objective)>::StepState state;
        const diffeo::Minibatch whole{
            .rows = rows, .step = static_cast<std::uint64_t>(step), .seed = 1, .training = true};
        objective.begin_step(state, whole);
        diffeo::Tape<double> tape;
        const auto sample = objective.sample(tape, whole, state);
        const Array<double> x = to_array(sample.point) - t * m, u = to_array(sample.velocity) - m;
        variance += x.square().mean() / steps;
        covariance += (x * u).mean() / steps;
      }
      CAPTURE(sigma, t, v, rate);
      // 25,000 draws, but of one set of targets.
      const double error = std::sqrt(2.0 / (n * steps));
      CHECK(variance == Approx(v).epsilon(5 * error));
      CHECK(covariance / variance == Approx(rate / (2 * v)).margin(0.03));
      // Independent pairs differ visibly.
      CHECK(std::abs(variance - (v - 2 * t * (1 - t) * c)) > 0.05);
    }
  }
}

TEST_CASE("schroedinger bridge: bad input", "[matching]") {
  using diffeo::invalid_argument;
  const auto message = [](double sigma) {
    return thrown_message<invalid_argument>([&] { diffeo::schroedinger_pairing(sigma); });
  };
  CHECK(contains(message(0), "schroedinger bridge: sigma is 0"));
  CHECK(contains(message(-1), "sigma is -1"));
  CHECK(contains(message(std::nan("")), "sigma is nan"));
}
