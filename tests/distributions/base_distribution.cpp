// SPDX-License-Identifier: MIT
#include <diffeo/distributions/base_distribution.hpp>
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/multivariate_normal.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/uniform.hpp>

#include "statistics.hpp"

using diffeo::Var;

static_assert(diffeo::BaseDistribution<diffeo::StandardNormal<float>>);
static_assert(diffeo::BaseDistribution<diffeo::StandardNormal<double>>);
static_assert(diffeo::BaseDistribution<diffeo::DiagonalNormal<float>>);
static_assert(diffeo::BaseDistribution<diffeo::DiagonalNormal<double>>);
static_assert(diffeo::BaseDistribution<diffeo::MultivariateNormal<float>>);
static_assert(diffeo::BaseDistribution<diffeo::MultivariateNormal<double>>);
static_assert(diffeo::BaseDistribution<diffeo::UniformBox<float>>);
static_assert(diffeo::BaseDistribution<diffeo::UniformBox<double>>);
static_assert(diffeo::BaseDistribution<diffeo::GaussianMixture<float>>);
static_assert(diffeo::BaseDistribution<diffeo::GaussianMixture<double>>);

namespace {
struct NoLogProb : diffeo::StandardNormal<float> {
  void log_prob() const {}
};
struct NoSamples : diffeo::StandardNormal<float> {
  void sample_into() const {}
};
struct NoDim : diffeo::StandardNormal<float> {
  void dim() const {}
};
}  // namespace
static_assert(!diffeo::BaseDistribution<NoLogProb>);
static_assert(!diffeo::BaseDistribution<NoSamples>);
static_assert(!diffeo::BaseDistribution<NoDim>);
static_assert(!diffeo::BaseDistribution<float>);
static_assert(!diffeo::BaseDistributionOf<diffeo::StandardNormal<float>, int>);

static_assert(diffeo::ReparametrisedBase<diffeo::StandardNormal<float>>);
static_assert(diffeo::ReparametrisedBase<diffeo::StandardNormal<Var<double>>>);
static_assert(diffeo::ReparametrisedBase<diffeo::DiagonalNormal<double>>);
static_assert(diffeo::ReparametrisedBase<diffeo::DiagonalNormal<Var<float>>>);
static_assert(diffeo::ReparametrisedBase<diffeo::MultivariateNormal<double>>);
static_assert(diffeo::ReparametrisedBase<diffeo::MultivariateNormal<Var<float>>>);
static_assert(!diffeo::ReparametrisedBase<diffeo::GaussianMixture<float>>);

TEST_CASE("standard normal log-density of traced values", "[distributions]") {
  diffeo::Tape<double> tape;
  diffeo::Array<double> z(2, 2);
  z << 0, 0, 3, -4;
  const auto log_p = diffeo::detail::standard_normal_log_prob(tape.copy(z));
  const double at_zero = -std::log(2 * 3.14159265358979323846);
  CHECK(log_p.rows() == 2);
  CHECK(log_p.cols() == 1);
  CHECK(log_p.value().data[0] == Approx(at_zero).epsilon(1e-15));
  CHECK(log_p.value().data[1] == Approx(at_zero - 12.5).epsilon(1e-15));
}
