// SPDX-License-Identifier: MIT
#include <diffeo/layers/log_det_estimator.hpp>
#include <diffeo/layers/residual.hpp>
#include <numeric>

#include "laws.hpp"

namespace {

using diffeo::Array;
using diffeo::ExactLogDet;
using diffeo::Index;
using diffeo::LogDetEstimator;
using diffeo::PowerSeriesLogDet;
using diffeo::RouletteLength;
using diffeo::RouletteLogDet;
using diffeo::Tape;
using diffeo::Var;
using Layer = diffeo::Residual<double>;

Layer random_layer(Index dim, double coefficient) {
  return randomised(diffeo::make_residual<double>(dim, {.hidden = {12, 12}, .coefficient = coefficient}, 1), 5);
}

Array<double> points(Index rows, Index dim) {
  Array<double> x(rows, dim);
  diffeo::fill_normal(diffeo::view(x), 11, 0);
  return x;
}

// log_det as evaluated, N x 1.
Array<double> log_det(Layer layer, const LogDetEstimator& estimator, const Array<double>& z) {
  layer.evaluation = estimator;
  Tape<double> tape;
  return diffeo::as_eigen(layer.forward(tape.copy(z)).log_det.value());
}

// Derivatives of the mean log_det of each of `groups` batches along one direction of the parameters and of the input.
std::vector<double> derivatives(Layer layer, const LogDetEstimator& estimator, const Array<double>& z, Index groups) {
  layer.training = estimator;
  Array<double> values = diffeo::parameters(layer), direction(values.rows(), 1);
  diffeo::fill_normal(diffeo::view(direction), 12, 0);
  std::vector<double> of_group;
  const Index size = z.rows() / groups;
  for (Index g = 0; g < groups; ++g) {
    Array<double> grads(values.rows(), 1);
    Tape<double> tape;
    const auto lifted = diffeo::lift(tape, layer, values.data(), grads.data());
    const Array<double> part = z.middleRows(g * size, size), weights = Array<double>::Ones(size, 1) / double(size);
    const Var<double> x = tape.variable(part);
    // Each group is a step of its own, with noise of its own.
    tape.backward(lifted.forward(x, {.training = true, .step = static_cast<std::uint64_t>(g)}).log_det,
                  diffeo::view(weights));
    tape.finish_parameter_grads();
    of_group.push_back((grads * direction).sum() + diffeo::as_eigen(x.grad()).sum());
  }
  return of_group;
}

struct Difference {
  double mean = 0, standard_error = 0, size = 0;  // size: of what is compared
};
Difference gradient_error(const Layer& layer, const LogDetEstimator& estimator, const Array<double>& z, Index groups) {
  const auto expected = derivatives(layer, ExactLogDet{}, z, groups), found = derivatives(layer, estimator, z, groups);
  Difference d;
  for (std::size_t i = 0; i < found.size(); ++i) {
    d.mean += (found[i] - expected[i]) / double(groups);
    d.size += expected[i] / double(groups);
  }
  for (std::size_t i = 0; i < found.size(); ++i)
    d.standard_error += std::pow(found[i] - expected[i] - d.mean, 2) / double(groups) / double(groups - 1);
  d.standard_error = std::sqrt(d.standard_error);
  return d;
}

}  // namespace

TEST_CASE("roulette agrees with the exact log-determinant within its standard error", "[layers][long]") {
  const Layer layer = random_layer(2, 0.8);
  const Array<double> z = points(10000, 2), exact = log_det(layer, ExactLogDet{}, z);
  for (const RouletteLogDet& roulette :
       {RouletteLogDet{}, RouletteLogDet{.exact_terms = 0, .parameter = 0.4}, RouletteLogDet{.probes = 3},
        RouletteLogDet{.length = RouletteLength::poisson, .parameter = 2}}) {
    CAPTURE(roulette.exact_terms, roulette.parameter, roulette.probes);
    const Array<double> error = log_det(layer, roulette, z) - exact;
    const double mean = error.mean(), se = std::sqrt((error - mean).square().mean() / double(error.rows()));
    CAPTURE(mean, se);
    CHECK(se < 0.02);
    CHECK(se > 1e-5);  // it is random
    CHECK(std::abs(mean) < 3 * se);
    const Difference gradient = gradient_error(layer, roulette, z, 50);
    CAPTURE(gradient.mean, gradient.standard_error, gradient.size);
    CHECK(std::abs(gradient.mean) < 3 * gradient.standard_error);
    CHECK(gradient.standard_error < 0.1 * std::abs(gradient.size));
  }
}

TEST_CASE("a cut series is within its bias", "[layers][long]") {
  for (const double coefficient : {0.5, 0.9})
    for (const Index dim : {1, 2, 5}) {
      const Layer layer = random_layer(dim, coefficient);
      const double lipschitz = layer.lipschitz_bound();
      const Array<double> z = points(20000, dim), exact = log_det(layer, ExactLogDet{}, z);
      for (const Index terms : {1, 4, 40}) {
        CAPTURE(coefficient, dim, terms);
        const Array<double> error = log_det(layer, PowerSeriesLogDet{.terms = terms, .probes = 2}, z) - exact;
        const double mean = error.mean(), se = std::sqrt((error - mean).square().mean() / double(error.rows()));
        const double k = double(terms) + 1;
        const double bias = double(dim) * std::pow(lipschitz, k) / (k * (1 - lipschitz));
        CHECK(std::abs(mean) <= bias + 3 * se);
        if (dim == 1) CHECK(error.abs().maxCoeff() <= bias + 1e-12);  // signs are exact for D = 1
      }
      const Difference gradient = gradient_error(layer, PowerSeriesLogDet{.terms = 200}, z, 200);
      CAPTURE(coefficient, dim, gradient.mean, gradient.standard_error);
      CHECK(std::abs(gradient.mean) < 3 * gradient.standard_error + 1e-8);  // 0.9^200 / 0.1
    }
}

TEST_CASE("estimates depend on the seed and on nothing else", "[layers]") {
  const Layer layer = random_layer(3, 0.9);
  const Array<double> z = points(100, 3);
  const LogDetEstimator one = RouletteLogDet{.seed = 1}, two = RouletteLogDet{.seed = 2};
  const Array<double> a = log_det(layer, one, z);
  CHECK((a == log_det(layer, one, z)).all());
  CHECK((a != log_det(layer, two, z)).any());
  CHECK((a.middleRows(40, 7) == log_det(layer, one, z.middleRows(40, 7))).all());  // not on the batch
}

TEST_CASE("training and evaluation each have their estimator", "[layers]") {
  Layer layer = random_layer(2, 0.9);
  layer.training = PowerSeriesLogDet{.terms = 1};
  const Array<double> z = points(20, 2);
  Tape<double> tape;
  const Array<double> evaluated = diffeo::as_eigen(layer.forward(tape.copy(z)).log_det.value());
  const Array<double> scored = diffeo::as_eigen(layer.forward(tape.variable(z)).log_det.value());
  Array<double> values = diffeo::parameters(layer), grads(values.rows(), 1);
  const auto lifted = diffeo::lift(tape, layer, values.data(), grads.data());
  const Array<double> trained = diffeo::as_eigen(lifted.forward(tape.copy(z), {.training = true}).log_det.value());
  CHECK((evaluated == log_det(layer, ExactLogDet{}, z)).all());
  CHECK((scored == evaluated).all());  // the score is the gradient of what is evaluated
  // The value shown is the estimate, tr(J) by one probe with D = 2: off by the sum of the other entries of J, give or
  // take; and it is the call that decides, not what gradients are recorded.
  CHECK((trained != evaluated).all());
  CHECK((trained == diffeo::as_eigen(layer.forward(tape.copy(z), {.training = true}).log_det.value())).all());
  CHECK((diffeo::as_eigen(lifted.forward(tape.copy(z)).log_det.value()) == evaluated).all());
}

TEST_CASE("weights of a roulette's terms have mean 1", "[layers]") {
  for (const RouletteLogDet& roulette :
       {RouletteLogDet{.exact_terms = 1, .parameter = 0.3},
        RouletteLogDet{.exact_terms = 1, .length = RouletteLength::poisson, .parameter = 3}}) {
    std::vector<double> sum(12), square(12);
    constexpr int draws = 200000;
    diffeo::PhiloxEngine engine(4);
    for (int i = 0; i < draws; ++i) {
      const diffeo::detail::TermWeights weights(roulette, engine);
      for (Index k = 1; k < 12; ++k) {
        const double w = weights.term(k);
        CHECK((w > 0) == (k <= weights.terms()));
        sum[std::size_t(k)] += w;
        square[std::size_t(k)] += w * w;
      }
    }
    for (std::size_t k = 1; k < 12; ++k) {
      const double mean = sum[k] / draws, se = std::sqrt((square[k] / draws - mean * mean) / draws);
      CAPTURE(k, mean, se);
      CHECK(std::abs(mean - 1) <= 4 * se + 1e-12);
    }
  }
}

TEST_CASE("estimators refuse absurd options", "[layers]") {
  const auto make = [](const LogDetEstimator& estimator) {
    diffeo::make_residual<float>(2, {.hidden = {8}, .training = estimator});
  };
  CHECK_THROWS_AS(make(PowerSeriesLogDet{.terms = 0}), diffeo::invalid_argument);
  CHECK_THROWS_AS(make(PowerSeriesLogDet{.probes = 0}), diffeo::invalid_argument);
  CHECK_THROWS_AS(make(RouletteLogDet{.exact_terms = -1}), diffeo::invalid_argument);
  CHECK_THROWS_AS(make(RouletteLogDet{.parameter = 1}), diffeo::invalid_argument);
  CHECK_THROWS_AS(make(RouletteLogDet{.length = RouletteLength::poisson, .parameter = -2}), diffeo::invalid_argument);
  CHECK_THROWS_AS(make(RouletteLogDet{.probes = -1}), diffeo::invalid_argument);
}
