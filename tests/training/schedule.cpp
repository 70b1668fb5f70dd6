// SPDX-License-Identifier: MIT
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/multivariate_normal.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/training/schedule.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::LearningRate;
using diffeo::Schedule;

TEST_CASE("constant rate", "[training]") {
  const LearningRate rate{.learning_rate = 0.3, .schedule = Schedule::constant};
  for (const long step : {0L, 1L, 50L, 99L}) CHECK(rate.at(step, 100) == 0.3);
}

TEST_CASE("cosine rate", "[training]") {
  const LearningRate rate{.learning_rate = 0.4};
  CHECK(rate.at(0, 100) == 0.4);
  CHECK(rate.at(50, 100) == Approx(0.2));
  CHECK(rate.at(25, 100) == Approx(0.2 * (1 + std::sqrt(0.5))));
  CHECK(rate.at(75, 100) == Approx(0.2 * (1 - std::sqrt(0.5))));
  CHECK(rate.at(99, 100) < 0.001);
  CHECK(rate.at(99, 100) > 0);
  CHECK(rate.at(100, 100) == Approx(0).margin(1e-15));
  CHECK(rate.at(200, 100) == Approx(0).margin(1e-15));
  for (long step = 1; step < 100; ++step) CHECK(rate.at(step, 100) < rate.at(step - 1, 100));

  const LearningRate above{.learning_rate = 0.4, .final_fraction = 0.25};
  CHECK(above.at(0, 100) == 0.4);
  CHECK(above.at(50, 100) == Approx(0.25));
  CHECK(above.at(100, 100) == Approx(0.1));
}

TEST_CASE("warm-up", "[training]") {
  const LearningRate rate{.learning_rate = 0.4, .warmup_steps = 10};
  CHECK(rate.at(0, 110) == Approx(0.04));
  CHECK(rate.at(4, 110) == Approx(0.2));
  CHECK(rate.at(9, 110) == Approx(0.4));
  CHECK(rate.at(10, 110) == Approx(0.4));
  CHECK(rate.at(60, 110) == Approx(0.2));
  CHECK(rate.at(110, 110) == Approx(0).margin(1e-15));
  const LearningRate constant{.learning_rate = 0.4, .schedule = Schedule::constant, .warmup_steps = 2};
  CHECK(constant.at(0, 5) == Approx(0.2));
  CHECK(constant.at(1, 5) == Approx(0.4));
  CHECK(constant.at(4, 5) == 0.4);
  const LearningRate longer{.learning_rate = 0.4, .warmup_steps = 50};  // than the training
  CHECK(longer.at(19, 20) == Approx(0.16));
}

TEST_CASE("plateau", "[training]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  LearningRate rate{.learning_rate = 0.4, .schedule = Schedule::plateau, .plateau_steps = 30, .plateau_factor = 0.1};
  CHECK(rate.at(0, 100) == 0.4);
  CHECK(rate.at(99, 100) == 0.4);
  diffeo::Plateau plateau(rate);
  const auto scale_after = [&plateau](long step, double loss) {
    plateau.add(step, loss);
    return plateau.scale();
  };
  CHECK(scale_after(10, 5) == 1);
  CHECK(scale_after(20, 4) == 1);
  CHECK(scale_after(30, 4) == 1);  // no lower
  CHECK(scale_after(40, nan) == 1);
  CHECK(scale_after(49, 4.5) == 1);
  CHECK(scale_after(50, 4.5) == 0.1);  // 30 steps after the lowest
  CHECK(scale_after(60, 4.5) == 0.1);
  CHECK(scale_after(70, 3) == 0.1);
  CHECK(scale_after(99, 3) == 0.1);
  plateau.restart(99);
  CHECK(scale_after(120, 3) == 0.1);
  CHECK(scale_after(130, 3) == Approx(0.01));
  // Down to final_fraction.
  rate.final_fraction = 0.05;
  diffeo::Plateau bounded(rate);
  bounded.add(0, 1);
  bounded.add(30, 1);
  CHECK(bounded.scale() == 0.1);
  bounded.add(60, 1);
  CHECK(bounded.scale() == 0.05);
  bounded.add(90, 1);
  CHECK(bounded.scale() == 0.05);
  // Of other schedules it keeps out.
  diffeo::Plateau none(LearningRate{.plateau_steps = 1});
  none.add(0, 1);
  none.add(9, 1);
  CHECK(none.scale() == 1);
}

TEST_CASE("learning rate: bad options", "[training]") {
  const auto message = [](const LearningRate& rate) {
    return thrown_message<diffeo::invalid_argument>([&] { rate.check(); });
  };
  CHECK(message({.learning_rate = -0.001}) == "fit: learning_rate is -0.001, expected a positive number");
  CHECK(contains(message({.learning_rate = 0}), "learning_rate is 0"));
  CHECK(contains(message({.learning_rate = std::numeric_limits<double>::quiet_NaN()}), "learning_rate is nan"));
  CHECK(contains(message({.learning_rate = std::numeric_limits<double>::infinity()}), "learning_rate is inf"));
  CHECK(contains(message({.final_fraction = -0.1}), "final_fraction is -0.1"));
  CHECK(contains(message({.final_fraction = 1.1}), "final_fraction is 1.1"));
  CHECK(contains(message({.warmup_steps = -1}), "warmup_steps is -1"));
  CHECK(contains(message({.plateau_steps = 0}), "plateau_steps is 0"));
  CHECK(contains(message({.plateau_factor = 0}), "plateau_factor is 0, expected 0 < plateau_factor < 1"));
  CHECK(contains(message({.plateau_factor = 1}), "plateau_factor is 1"));
  CHECK(contains(message({.plateau_factor = std::numeric_limits<double>::quiet_NaN()}), "plateau_factor is nan"));
  CHECK_NOTHROW(LearningRate{}.check());
}

TEST_CASE("learning rate: what suits a model is the least that a part of it suggests", "[training]") {
  using namespace diffeo;
  CHECK(suggested_learning_rate<TransformedDistribution<StandardNormal<float>, RealNvp<float>>> == 2e-3);
  CHECK(suggested_learning_rate<TransformedDistribution<StandardNormal<float>, PlanarFlow<float>>> == 5e-3);
  CHECK(suggested_learning_rate<CnfFlow<float>> == 1e-2);
  CHECK(suggested_learning_rate<FlowSequence<CnfFlow<float>, Repeated<Planar<float>>>> == 5e-3);
  CHECK(suggested_learning_rate<GaussianMixture<float>> == 1e-2);
  CHECK(suggested_learning_rate<TransformedDistribution<GaussianMixture<float>, RealNvp<float>>> == 2e-3);
  CHECK(suggested_learning_rate<MultivariateNormal<float>> == usual_learning_rate);
  CHECK(suggested_learning_rate<DiagonalScale<float>> == usual_learning_rate);
  CHECK(LearningRate{}.at(0, 100) == usual_learning_rate);
}
