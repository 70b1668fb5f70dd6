// SPDX-License-Identifier: MIT
#include <algorithm>
#include <atomic>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/trainer.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::DiagonalNormal;
using diffeo::FitOptions;
using diffeo::Index;
using diffeo::MaximumLikelihood;
using diffeo::Trainer;

namespace {

template <diffeo::Real S>
Array<S> some_data(Index n) {
  Array<S> x(n, 2);
  diffeo::fill_normal(diffeo::view(x), 4, 4);
  x.col(1) = x.col(1) * S(0.5) + S(2);
  return x;
}
std::vector<Index> all_rows(Index n) { return diffeo::permutation(n, 1); }

// d/d(mean, log_scale) of the mean of -log p over the data, by hand.
Array<double> exact_gradient(const DiagonalNormal<double>& d, const Array<double>& x) {
  Array<double> g(4, 1);
  for (Index j = 0; j < 2; ++j) {
    const Array<double> z = (x.col(j) - d.mean(0, j)) * std::exp(-d.log_scale(0, j));
    g(j, 0) = -z.mean() * std::exp(-d.log_scale(0, j));
    g(2 + j, 0) = 1 - z.square().mean();
  }
  return g;
}

template <diffeo::Real S>
using NormalTrainer = Trainer<DiagonalNormal<S>, MaximumLikelihood<S>>;

}  // namespace

TEST_CASE("a step follows the mean gradient of the minibatch", "[training]") {
  const Array<double> x = some_data<double>(700);  // several shards, each of several tiles, with rests
  const MaximumLikelihood<double> objective(x);
  auto d = DiagonalNormal<double>::standard(2);
  d.mean << 0.3, 1;
  d.log_scale << 0.5, -0.2;
  const Array<double> before = diffeo::parameters(d), g = exact_gradient(d, x);
  // So large an epsilon makes Adam's first step proportional to the gradient.
  const diffeo::AdamOptions linear{.epsilon = 1e9};
  const double norm = std::sqrt(g.square().sum());
  for (const double clip : {0.0, 10 * norm, 0.1 * norm}) {
    CAPTURE(clip);
    NormalTrainer<double> trainer(d, objective, all_rows(700),
                                  {.batch = 700, .adam = linear, .clip_norm = clip, .threads = 1});
    const double loss = trainer.step(1e9);
    double expected_loss = 0;
    for (Index i = 0; i < 700; ++i)
      for (Index j = 0; j < 2; ++j) {
        const double z = (x(i, j) - d.mean(0, j)) * std::exp(-d.log_scale(0, j));
        expected_loss += (0.5 * z * z + d.log_scale(0, j) + 0.5 * diffeo::detail::log_two_pi) / 700;
      }
    CHECK(loss == Approx(expected_loss).epsilon(1e-12));
    CHECK(trainer.gradient_norm() == Approx(norm).epsilon(1e-10));  // before clipping
    const double scale = clip > 0 && clip < norm ? clip / norm : 1;
    const Array<double> moved = trainer.result() - before;
    CHECK((moved + g * scale).abs().maxCoeff() < 1e-7);
  }
  CHECK((diffeo::parameters(d) == before).all());  // the model itself is not touched
}

TEST_CASE("gradients are clipped relative to those before", "[training]") {
  const Array<double> x = some_data<double>(700);
  const MaximumLikelihood<double> objective(x);
  auto d = DiagonalNormal<double>::standard(2);
  d.mean << 0.3, 1;
  // Steps proportional to the gradient.
  const diffeo::AdamOptions linear{.beta1 = 0, .epsilon = 1e9};
  for (const double ratio : {0.0, 1.5}) {
    CAPTURE(ratio);
    NormalTrainer<double> trainer(d, objective, all_rows(700),
                                  {.batch = 700, .adam = linear, .clip_ratio = ratio, .threads = 1});
    trainer.step(-2e9);  // uphill, where it is steeper
    const Array<double> start = trainer.result();
    const double first = trainer.gradient_norm();
    CHECK((start - diffeo::parameters(d)).matrix().norm() == Approx(2 * first).epsilon(1e-6));  // nothing came before
    trainer.step(1e9);
    const double second = trainer.gradient_norm();
    CHECK(second > 2 * first);
    CHECK((trainer.result() - start).matrix().norm() == Approx(ratio > 0 ? ratio * first : second).epsilon(1e-6));
  }
}

TEMPLATE_TEST_CASE("averaged weights", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = some_data<S>(300);
  const MaximumLikelihood<S> objective(x);
  const auto d = DiagonalNormal<S>::standard(2);
  NormalTrainer<S> plain(d, objective, all_rows(300), {.batch = 64, .seed = 2, .threads = 1});
  NormalTrainer<S> averaged(d, objective, all_rows(300), {.batch = 64, .ema_decay = 0.9, .seed = 2, .threads = 1});
  Array<double> average = diffeo::parameters(d).template cast<double>();
  for (int step = 1; step <= 200; ++step) {
    CHECK(plain.step(0.01) == averaged.step(0.01));  // averaging does not change the training
    const double decay = std::min(0.9, (1.0 + step) / (10.0 + step));
    average = decay * average + (1 - decay) * plain.result().template cast<double>();
  }
  CHECK((averaged.result().template cast<double>() - average).abs().maxCoeff() < 1e-5);
  CHECK((averaged.result() != plain.result()).any());
}

TEMPLATE_TEST_CASE("the number of threads does not change a bit of a step", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = some_data<S>(1500);
  const MaximumLikelihood<S> objective(x);
  const auto d = DiagonalNormal<S>::standard(2);
  NormalTrainer<S> one(d, objective, all_rows(1500), {.batch = 1111, .threads = 1});
  NormalTrainer<S> two(d, objective, all_rows(1500), {.batch = 1111, .threads = 2});
  NormalTrainer<S> three(d, objective, all_rows(1500), {.batch = 1111, .threads = 3});
  NormalTrainer<S> many(d, objective, all_rows(1500), {.batch = 1111, .threads = 64});
  for (int step = 0; step < 10; ++step) {
    const double loss = one.step(0.01);
    CHECK(two.step(0.01) == loss);
    CHECK(three.step(0.01) == loss);
    CHECK(many.step(0.01) == loss);
    CHECK((one.result() == two.result()).all());
    CHECK((one.result() == three.result()).all());
    CHECK((one.result() == many.result()).all());
  }
}

TEST_CASE("tiles are as long as the model allows, and what is computed stays the same", "[training]") {
  // The first step has the shortest tiles, those after it long ones: their mean gradients agree up to rounding.
  const Array<double> x = some_data<double>(700);
  const MaximumLikelihood<double> objective(x);
  const auto d = DiagonalNormal<double>::standard(2);
  const diffeo::AdamOptions linear{.epsilon = 1e9};
  NormalTrainer<double> trainer(d, objective, all_rows(700), {.batch = 700, .adam = linear, .threads = 1});
  CHECK(trainer.tile() == diffeo::tile_rows<double>);
  const double loss = trainer.step(1e-3), norm = trainer.gradient_norm();
  CHECK(trainer.shards() == 3);
  CHECK(trainer.tile() == 240);  // a whole shard
  CHECK(trainer.step(1e-3) == Approx(loss).epsilon(1e-11));
  CHECK(trainer.gradient_norm() == Approx(norm).epsilon(1e-9));
}

namespace {

// A small model that asks for long tiles, as solvers do.
template <class T>
struct Solved : DiagonalNormal<T> {
  static constexpr Index tile_rows = 256;
};

}  // namespace

TEST_CASE("shards follow the batch, and the threads share them out", "[training]") {
  const Array<float> data = some_data<float>(8192);
  const MaximumLikelihood<float> objective(data);
  const auto check = [&](const auto& model, Index batch, Index shards, Index most_rows) {
    for (const int threads : {1, 2, 4, 16, 64}) {
      CAPTURE(batch, threads);
      Trainer trainer(model, objective, all_rows(8192), {.batch = batch, .threads = threads});
      trainer.step(1e-3);
      CHECK(trainer.shards() == shards);
      CHECK(trainer.shard_begin(0) == 0);
      CHECK(trainer.shard_begin(shards) == batch);
      Index longest = 0, shortest = batch;
      for (Index shard = 0; shard < shards; ++shard) {
        const Index rows = trainer.shard_begin(shard + 1) - trainer.shard_begin(shard);
        longest = std::max(longest, rows);
        shortest = std::min(shortest, rows);
        CHECK(trainer.shard_begin(shard) % 16 == 0);
      }
      CHECK(longest <= most_rows);
      CHECK(longest - shortest <= 16 + 15);  // a unit, and what the last lacks of one
      CHECK(trainer.tile() <= longest);
    }
  };
  // A row that takes much memory: shards of 128 rows, and at least four of them from 256 rows on.
  const diffeo::TransformedDistribution large(diffeo::StandardNormal<float>(2),
                                              diffeo::real_nvp(data, {.layers = 16, .network = {.hidden = {64, 64}}}));
  check(large, 8192, 64, 128);
  check(large, 4096, 32, 128);
  check(large, 1024, 8, 128);
  check(large, 512, 4, 128);
  check(large, 300, 4, 80);
  check(large, 256, 4, 64);
  check(large, 128, 2, 64);
  check(large, 100, 2, 64);
  check(large, 7, 1, 7);
  // So do those of a solver, whatever tiles it asks for.
  const Solved<float> solved{DiagonalNormal<float>::standard(2)};
  check(solved, 4096, 32, 128);
  check(solved, 512, 4, 128);
  // One that takes little: long ones.
  const auto small = DiagonalNormal<float>::standard(2);
  check(small, 8192, 16, 512);
  check(small, 4096, 8, 512);
  check(small, 1024, 2, 512);
  check(small, 512, 2, 256);
  check(small, 256, 2, 128);
  check(small, 128, 2, 64);
}

namespace {

// Counts the rows that it gives losses for, and the most rows at a time.
struct Counting {
  MaximumLikelihood<float> likelihood;
  mutable std::atomic<Index> rows = 0, calls = 0;
  Index size() const { return likelihood.size(); }
  template <class Model>
  diffeo::Var<float> loss(const Model& model, diffeo::Tape<float>& tape, const diffeo::Minibatch& batch) const {
    rows += batch.count;
    ++calls;
    return likelihood.loss(model, tape, batch);
  }
};

}  // namespace

TEST_CASE("every row of a step is asked for once, on any number of threads", "[training]") {
  const Array<float> data = some_data<float>(1000);
  for (const int threads : {1, 2, 3, 8}) {
    CAPTURE(threads);
    const Counting objective{MaximumLikelihood<float>(data)};
    const auto d = DiagonalNormal<float>::standard(2);
    Trainer trainer(d, objective, all_rows(1000), {.batch = 700, .threads = threads});
    for (int step = 0; step < 12; ++step) {
      const Index before = objective.calls;
      trainer.step(1e-3);
      CHECK(objective.rows == 700 * (step + 1));
      if (step > 0) CHECK(objective.calls - before == trainer.shards());
    }
  }
}

TEST_CASE("a batch is at most what there is", "[training]") {
  const Array<double> x = some_data<double>(10);
  const MaximumLikelihood<double> objective(x);
  const auto d = DiagonalNormal<double>::standard(2);
  NormalTrainer<double> trainer(d, objective, all_rows(10), {.batch = 512});
  CHECK(trainer.batch() == 10);
  CHECK(trainer.step(0.01) ==
        Approx(-d.mean.sum() + 0.5 * x.square().rowwise().sum().mean() + diffeo::detail::log_two_pi));
}

TEST_CASE("trainer: bad options", "[training]") {
  const Array<double> x = some_data<double>(10);
  const MaximumLikelihood<double> objective(x);
  const auto d = DiagonalNormal<double>::standard(2);
  const auto message = [&](const FitOptions& options, Index rows = 10) {
    return thrown_message<diffeo::invalid_argument>(
        [&] { NormalTrainer<double> trainer(d, objective, all_rows(rows), options); });
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(message({.batch = 0}), "fit: batch is 0"));
  CHECK(contains(message({.batch = -5}), "fit: batch is -5"));
  CHECK(contains(message({.clip_norm = -1}), "fit: clip_norm is -1"));
  CHECK(contains(message({.clip_norm = nan}), "fit: clip_norm is nan"));
  CHECK(contains(message({.clip_ratio = 0.5}), "fit: clip_ratio is 0.5"));
  CHECK(contains(message({.clip_ratio = nan}), "fit: clip_ratio is nan"));
  CHECK(contains(message({.ema_decay = 1}), "fit: ema_decay is 1"));
  CHECK(contains(message({.ema_decay = -0.5}), "fit: ema_decay is -0.5"));
  CHECK(contains(message({.adam = {.beta2 = 1}}), "beta2"));
  CHECK(contains(message({.threads = -1}), "threads is -1"));
  CHECK(contains(message({}, 0), "no rows to train on"));
}

TEST_CASE("a trainer refuses rows that the objective does not have", "[training]") {
  const Array<double> x = some_data<double>(50);
  const MaximumLikelihood<double> objective(x);
  const auto d = DiagonalNormal<double>::standard(2);
  for (const Index row : {Index{50}, Index{-1}})
    CHECK(contains(thrown_message<diffeo::invalid_argument>([&] {
                     NormalTrainer<double>(d, objective, {0, 1, row}, FitOptions{});
                   }),
                   "the objective has 50 rows"));
}
