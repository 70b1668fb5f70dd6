// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/training/loss_watch.hpp>
#include <utility>
#include <vector>

#include "../catch.hpp"

using diffeo::LossWatch;

namespace {

// Losses of `steps` steps about `mean(step)`, with normal noise of standard deviation `noise`. Returns the step at
// which the watch says that they have diverged, -1 if it never does.
template <class Mean>
long diverged_at(LossWatch& watch, long steps, double noise, std::uint64_t seed, const Mean& mean) {
  for (long step = 0; step < steps; ++step) {
    watch.add(mean(step) + noise * diffeo::normal<double>(seed, 1, static_cast<diffeo::Index>(step)), noise);
    if (watch.diverged()) return step;
  }
  return -1;
}

}  // namespace

TEST_CASE("loss watch: the smoothed loss is the mean of the last 50", "[training]") {
  LossWatch watch(5);
  CHECK(std::isnan(watch.smoothed()));
  CHECK(std::isinf(watch.best()));
  double sum = 0;
  for (int k = 0; k < 50; ++k) {
    CHECK_FALSE(watch.full());
    watch.add(k * k, 0.1);
    sum += k * k;
    CHECK(watch.smoothed() == Approx(sum / (k + 1)));
  }
  CHECK(watch.full());
  watch.add(1e6, 0.1);
  CHECK(watch.smoothed() == Approx((sum + 1e6) / 50));
  watch.restart();
  CHECK(std::isnan(watch.smoothed()));
  CHECK(watch.best() == 0);
  watch.add(7, 0.1);
  CHECK(watch.smoothed() == 7);
}

TEST_CASE("loss watch: parameters are kept where the loss falls, at intervals", "[training]") {
  LossWatch watch(5);
  std::vector<long> kept;
  for (long step = 0; step < 1000; ++step)
    if (watch.add(1000 - static_cast<double>(step), 0.01)) kept.push_back(step);
  REQUIRE(kept.size() > 60);
  for (long k = 0; k < 8; ++k) CHECK(kept[static_cast<std::size_t>(k)] == k);
  for (std::size_t k = 1; k < kept.size(); ++k) CHECK(kept[k] - kept[k - 1] <= 16);
  CHECK(kept.size() < 100);
  CHECK(1000 - kept.back() <= 16);
  // While it rises nothing is.
  for (int k = 0; k < 200; ++k) CHECK_FALSE(watch.add(1000 + k, 0.01));
  // A loss above the mean is not taken for the best, even where the mean has fallen.
  LossWatch falling(5);
  for (int k = 0; k < 100; ++k) falling.add(100 - k, 0.01);
  for (int k = 0; k < 20; ++k) CHECK_FALSE(falling.add(30, 0.01));
}

TEST_CASE("loss watch: the latest parameters are kept while losses cannot be compared", "[training]") {
  LossWatch watch(5);
  std::vector<long> kept;
  for (long step = 0; step < 300; ++step)
    if (watch.add_incomparable()) kept.push_back(step);
  CHECK(kept.front() == 0);
  CHECK(300 - kept.back() <= 16);
  CHECK(std::isinf(watch.best()));
  long first = 0;
  while (!watch.add(3, 0.1)) ++first;
  CHECK(first <= 16);
  CHECK(watch.best() == 3);
}

TEST_CASE("loss watch: noise, outliers and overshoots are no divergence", "[training]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    // At the optimum from the start, whatever the noise.
    for (const double noise : {1e-3, 1.0, 1e3}) {
      LossWatch flat(5);
      CHECK(diverged_at(flat, 3000, noise, seed, [](long) { return 4.0; }) == -1);
    }
    // Outliers in every third step.
    LossWatch outliers(5);
    CHECK(diverged_at(outliers, 1000, 0.1, seed, [](long step) { return step % 3 == 2 ? 1e14 : 4; }) == -1);
    // A first step that is far too long, and is made good slowly.
    LossWatch overshoot(5);
    CHECK(diverged_at(overshoot, 1000, 0.1, seed, [](long step) {
            return step == 0 ? 4 : 3 + 500 * std::exp(-0.02 * static_cast<double>(step));
          }) == -1);
    // A training that loses a third of what it had learned just before.
    LossWatch unlearns(5);
    CHECK(diverged_at(unlearns, 240, 0.1, seed,
                      [](long step) { return step < 100 ? 20.0 - 0.15 * double(step) : 10; }) == -1);
  }
}

TEST_CASE("loss watch: with few rows the noise is learned from step to step", "[training]") {
  // Losses of single rows that are no worse than the first, which was a lucky one, at times.
  for (std::uint64_t seed = 0; seed < 200; ++seed)
    for (const long batch : {1L, 2L, 4L}) {
      CAPTURE(seed, batch);
      LossWatch watch(5, static_cast<double>(batch));
      bool diverged = false, kept = false;
      for (diffeo::Index step = 0; step < 400; ++step) {
        double sum = 0, squares = 0;
        for (diffeo::Index i = 0; i < batch; ++i) {
          const double loss = 2 * std::pow(diffeo::normal<double>(seed, static_cast<std::uint64_t>(i), step), 2);
          sum += loss;
          squares += loss * loss;
        }
        const auto rows = static_cast<double>(batch);
        const double mean = sum / rows, variance = std::max(0.0, squares / rows - mean * mean);
        const bool keep = watch.add(mean, std::sqrt(variance / rows));
        if (step == 0) CHECK(keep);
        kept = kept || (keep && step > 0);
        diverged = diverged || watch.diverged();
      }
      CHECK(kept);
      CHECK_FALSE(diverged);
    }
}

TEST_CASE("loss watch: a training that leaves the best by far has diverged", "[training]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    LossWatch jump(5);
    const long jumped = diverged_at(jump, 1000, 0.1, seed, [](long step) { return step < 300 ? 4 : 7; });
    CHECK(jumped >= 320);  // the median of 50, and it must not look as if it fell
    CHECK(jumped < 360);
    LossWatch early(5);
    CHECK(diverged_at(early, 1000, 0.1, seed, [](long step) { return step < 1 ? 4 : 37; }) == 49);
    LossWatch slow(5);
    CHECK(diverged_at(slow, 1000, 0.1, seed, [](long step) { return 4 + 0.02 * static_cast<double>(step); }) > 50);
    // By as much as it may: as the noise says, half of what was learned lately, and never less than 1.
    LossWatch noisy(5), learned(5), quiet(5), off(0);
    CHECK(diverged_at(noisy, 1000, 2, seed, [](long step) { return step < 300 ? 4 : 11; }) == -1);
    CHECK(diverged_at(learned, 240, 0.1, seed, [](long step) { return step < 1 ? 40 : step < 100 ? 4 : 21; }) == -1);
    CHECK(diverged_at(quiet, 1000, 0.01, seed, [](long step) { return step < 300 ? 4 : 4.9; }) == -1);
    CHECK(diverged_at(off, 1000, 0.1, seed, [](long step) { return step < 300 ? 4 : 1e10; }) == -1);
  }
}

TEST_CASE("loss watch: worse than the start", "[training]") {
  LossWatch watch(5);
  for (int k = 0; k < 49; ++k) watch.add(4, 0.1);
  CHECK_FALSE(watch.is_worse_than_start(1e9));  // too soon to say
  watch.add(4, 0.1);
  CHECK(watch.is_worse_than_start(4.31));
  CHECK_FALSE(watch.is_worse_than_start(4.29));
}

TEST_CASE("loss watch: what was learned long ago excuses nothing", "[training]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    LossWatch jump(5);
    const long jumped = diverged_at(jump, 1500, 0.05, seed, [](long step) {
      return step < 1 ? 5e5 : step < 500 ? 1.4 : 1e5;
    });
    CHECK(jumped >= 520);
    CHECK(jumped < 560);
    // Soon after the fall it is seen as well, if later.
    LossWatch soon(5);
    const long seen = diverged_at(soon, 1000, 0.05, seed, [](long step) {
      return step < 60 ? 5e5 : step < 150 ? 1.4 : 1e5;
    });
    CHECK(seen >= 170);
    CHECK(seen < 450);
    // Nor does what was learned before the training went back.
    jump.restart();
    CHECK(diverged_at(jump, 100, 0.05, seed, [](long) { return 30; }) == 49);
  }
  // One outlier is no height to have come down from.
  LossWatch outlier(5);
  CHECK(diverged_at(outlier, 600, 0.05, 1, [](long step) { return step < 400 ? (step == 300 ? 1e9 : 4) : 30; }) > 400);
}

TEST_CASE("loss watch: a constant loss is not above its mean", "[training]") {
  LossWatch watch(5);
  for (int k = 0; k < 200; ++k) watch.add(100 - 0.4 * k, 0.05);
  for (int k = 0; k < 1000; ++k) watch.add(1.4, 0.05);
  CHECK(watch.best() == Approx(1.4).epsilon(1e-12));
}

TEST_CASE("loss watch: the fewer rows count, the more losses make a bound", "[training]") {
  for (const auto& [rows, least] : {std::pair(512.0, 1L), {9.0, 1L}, {8.0, 2L}, {1.0, 9L}, {0.3, 27L}, {1e-6, 50L}}) {
    CAPTURE(rows);
    LossWatch watch(5, rows);
    long losses = 0;
    do {
      watch.add(1, 0.1);
      ++losses;
    } while (std::isinf(watch.best()));
    CHECK(losses == least);
  }
}
