// SPDX-License-Identifier: MIT
#include <atomic>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/training/objective.hpp>
#include <mutex>
#include <numeric>
#include <set>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::Minibatch;
using diffeo::Tape;
using diffeo::Var;

namespace {

// y = x w' + b, to be fitted by least squares: a model and an objective that know nothing of flows.
template <class T>
struct Line {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::param_t<T> weight, bias;
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.weight, self.bias);
  }
  template <class U>
  Line<U> rebind() const {
    return {};
  }
};

template <diffeo::Real S>
struct LeastSquares {
  Array<S> x, y;
  S noise = 0;
  Index size() const { return x.rows(); }
  template <class Model>
  Var<S> loss(const Model& model, Tape<S>& tape, const Minibatch& batch) const {
    const auto n = static_cast<Index>(batch.rows.size());
    Array<S> inputs(n, x.cols()), outputs(n, 1);
    for (Index i = 0; i < n; ++i) {
      inputs.row(i) = x.row(batch.rows[static_cast<std::size_t>(i)]);
      outputs(i, 0) = y(batch.rows[static_cast<std::size_t>(i)], 0) +
                      noise * diffeo::normal<S>(batch.seed, batch.step, batch.first + i);
    }
    return square(affine(tape.copy(inputs), model.weight, model.bias) - tape.copy(outputs));
  }
};

struct NoLoss {
  Index size() const { return 1; }
};
struct NoSize {
  template <class Model>
  Var<float> loss(const Model&, Tape<float>& tape, const Minibatch&) const {
    return tape.make(1, 1, false);
  }
};
struct WrongScalar {
  Index size() const { return 1; }
  template <class Model>
  Var<double> loss(const Model&, Tape<float>&, const Minibatch&) const {
    return {};
  }
};

// One that draws its samples, and one that says it does not.
struct Draws : NoSize {
  static constexpr bool draws_samples = true;
};
struct DrawsNot : NoSize {
  static constexpr bool draws_samples = false;
};

using Base = diffeo::StandardNormal<float>;
static_assert(diffeo::Objective<Draws, Base> && diffeo::DrawsSamples<Draws>);
static_assert(!diffeo::Objective<DrawsNot, Base> && !diffeo::DrawsSamples<DrawsNot>);
static_assert(diffeo::Objective<diffeo::MaximumLikelihood<float>, Base>);
static_assert(diffeo::Objective<diffeo::MaximumLikelihood<double>, diffeo::StandardNormal<double>>);
static_assert(!diffeo::Objective<diffeo::MaximumLikelihood<double>, Base>);
static_assert(diffeo::Objective<LeastSquares<float>, Line<float>>);
static_assert(!diffeo::Objective<NoLoss, Base>);
static_assert(!diffeo::Objective<NoSize, Base>);
static_assert(!diffeo::Objective<WrongScalar, Base>);

template <diffeo::Real S>
LeastSquares<S> some_problem(Index n) {
  LeastSquares<S> problem{Array<S>(n, 2), Array<S>(n, 1)};
  diffeo::fill_normal(diffeo::view(problem.x), 1, 1);
  problem.y = problem.x.col(0) * S(3) - problem.x.col(1) * S(0.5) + S(2);
  return problem;
}

// Writes down what it is asked for; of any model.
struct Recorder {
  Index rows;
  mutable std::vector<std::vector<Index>> asked{};
  mutable std::vector<Minibatch> batches{};
  Index size() const { return rows; }
  template <class Model>
  Var<float> loss(const Model& model, Tape<float>& tape, const Minibatch& batch) const {
    asked.emplace_back(batch.rows.begin(), batch.rows.end());
    batches.push_back({{}, batch.first, batch.step, batch.seed});
    return square(affine(tape.copy(Array<float>::Ones(Index(batch.rows.size()), 2)), model.weight, model.bias));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("an objective of one's own", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  auto problem = some_problem<S>(500);
  const Line<S> start{Array<S>::Zero(1, 2), Array<S>::Zero(1, 1)};
  const diffeo::FitOptions options{.steps = 400, .batch = 100, .rate = {.learning_rate = 0.1}, .threads = 1};
  Line<S> line = start;
  const auto report = diffeo::fit(line, problem, options);
  CHECK(report.steps == 400);
  CHECK(report.loss.front() > 1);
  CHECK(report.final_loss() < 0.1);
  CHECK(line.weight(0, 0) == Approx(3).epsilon(1e-2));
  CHECK(line.weight(0, 1) == Approx(-0.5).epsilon(1e-2));
  CHECK(line.bias(0, 0) == Approx(2).epsilon(1e-2));

  // Noise by (seed, step, position) is the same on any number of threads.
  problem.noise = S(0.3);
  Line<S> one = start, two = start;
  diffeo::fit(one, problem, {.steps = 30, .batch = 300, .threads = 1});
  diffeo::fit(two, problem, {.steps = 30, .batch = 300, .threads = 2});
  CHECK((diffeo::parameters(one) == diffeo::parameters(two)).all());
}

TEST_CASE("minibatches cover the data once before any row comes again", "[training]") {
  const Recorder recorder{250};
  Line<float> line{Array<float>::Zero(1, 2), Array<float>::Zero(1, 1)};
  diffeo::fit(line, recorder, {.steps = 5, .batch = 100, .seed = 17, .threads = 1});
  std::vector<Index> order;
  std::vector<std::uint64_t> steps;
  for (std::size_t k = 0; k < recorder.asked.size() && order.size() < 500; ++k) {
    const auto& batch = recorder.batches[k];
    CHECK(batch.seed == 17);
    CHECK(batch.step == order.size() / 100);
    CHECK(batch.first == static_cast<Index>(order.size() % 100));
    order.insert(order.end(), recorder.asked[k].begin(), recorder.asked[k].end());
  }
  REQUIRE(order.size() == 500);
  // In the end the last minibatch comes twice more, and so does the next as 100 rows are few, to compare the parameters
  // after the last step with the best ones.
  CHECK(std::accumulate(recorder.asked.begin(), recorder.asked.end(), std::size_t{0},
                        [](std::size_t n, const auto& rows) { return n + rows.size(); }) == 900);
  CHECK(recorder.batches.back().step == 5);
  const std::set<Index> first(order.begin(), order.begin() + 250), second(order.begin() + 250, order.end());
  CHECK(first.size() == 250);
  CHECK(second.size() == 250);
  CHECK(*first.rbegin() == 249);
  CHECK(!std::equal(order.begin(), order.begin() + 250, order.begin() + 250));
  CHECK(!std::is_sorted(order.begin(), order.begin() + 250));
}

namespace {

// Each row is told which other row of its minibatch is its partner, as a pairing by optimal transport would.
struct Paired {
  struct StepState {
    std::vector<Index> partner;
    int begun = 0;
  };
  Index rows;
  mutable std::vector<std::vector<Index>> wholes{};
  mutable std::mutex guard{};
  mutable std::set<std::pair<Index, Index>> seen{};

  Index size() const { return rows; }
  void begin_step(StepState& state, const Minibatch& whole) const {
    CHECK(whole.first == 0);
    state.partner.assign(whole.rows.rbegin(), whole.rows.rend());
    ++state.begun;
    wholes.emplace_back(whole.rows.begin(), whole.rows.end());
  }
  template <class Model>
  Var<float> loss(const Model& model, Tape<float>& tape, const Minibatch& batch, const StepState& state) const {
    Array<float> x(batch.count, 2);
    const std::lock_guard lock(guard);
    for (Index i = 0; i < batch.count; ++i) {
      const Index row = batch.rows[static_cast<std::size_t>(i)],
                  partner = state.partner.at(static_cast<std::size_t>(batch.first + i));
      seen.emplace(row, partner);
      x.row(i) << float(row) / 1000, float(partner) / 1000;
    }
    return square(affine(tape.copy(x), model.weight, model.bias));
  }
};
static_assert(diffeo::Objective<Paired, Line<float>> && diffeo::BeginsSteps<Paired>);
static_assert(!diffeo::BeginsSteps<LeastSquares<float>>);

// Minimises the square, but validates the absolute value.
struct Judged {
  Index size() const { return 100; }
  mutable std::atomic<int> trained{0}, evaluated{0};
  template <class Model>
  Var<float> loss(const Model& model, Tape<float>& tape, const Minibatch& batch) const {
    ++(batch.training ? trained : evaluated);
    return square(affine(tape.copy(Array<float>::Ones(batch.count, 2)), model.weight, model.bias));
  }
  template <class Model>
  Var<float> validation_loss(const Model& model, Tape<float>& tape, const Minibatch& batch) const {
    CHECK_FALSE(batch.training);
    return abs(affine(tape.copy(Array<float>::Ones(batch.count, 2)), model.weight, model.bias));
  }
};

struct Wrong : Judged {
  template <class Model>
  Var<float> validation_loss(const Model&, Tape<float>& tape, const Minibatch&) const {
    return tape.copy(Array<float>::Ones(3, 1));
  }
};

// A loss of 0 whose gradient is not a number.
struct Cusp {
  Index size() const { return 10; }
  template <class Model>
  Var<float> loss(const Model& model, Tape<float>& tape, const Minibatch& batch) const {
    return zeros(tape.copy(Array<float>::Ones(batch.count, 1)), 1) + sqrt(square(as_var(tape, model.bias)));
  }
};

}  // namespace

TEST_CASE("an objective sees the whole minibatch before its pieces", "[training]") {
  for (const int threads : {1, 3}) {
    const Paired paired{.rows = 700};
    Line<float> line{Array<float>::Ones(1, 2), Array<float>::Zero(1, 1)};
    diffeo::fit(line, paired, {.steps = 2, .batch = 350, .threads = threads});
    REQUIRE(paired.wholes.size() == 2);  // once a step
    CHECK(paired.seen.size() == 700);
    for (const auto& whole : paired.wholes) {
      REQUIRE(whole.size() == 350);
      for (std::size_t i = 0; i < 350; ++i) CHECK(paired.seen.count({whole[i], whole[349 - i]}) == 1);
    }
    // Validation pairs within minibatches of its own.
    std::vector<Index> rows(700);
    std::iota(rows.begin(), rows.end(), Index{0});
    paired.wholes.clear();
    const double loss = diffeo::mean_loss(line, paired, rows, 0, threads);
    REQUIRE(paired.wholes.size() == 2);
    CHECK(paired.wholes[0].size() == 512);
    CHECK(paired.wholes[1].front() == 512);
    double expected = 0;
    for (const Index i : rows) {
      const double partner = double(i < 512 ? 511 - i : 512 + 699 - i);
      const double y = double(line.weight(0, 0)) * double(i) / 1000 + double(line.weight(0, 1)) * partner / 1000 +
                       double(line.bias(0, 0));
      expected += y * y / 700;
    }
    CHECK(loss == Approx(expected).epsilon(1e-5));
  }
}

TEST_CASE("an objective may say how it validates, and is told what is training", "[training]") {
  const Judged judged;
  Line<float> line{Array<float>::Constant(1, 2, 2.0F), Array<float>::Zero(1, 1)};
  const auto report = diffeo::fit(line, judged, {.steps = 1, .batch = 50, .validation_fraction = 0.5, .threads = 1});
  CHECK(judged.trained > 0);
  CHECK(judged.evaluated == 0);
  REQUIRE(report.validation_loss.size() == 1);
  CHECK(report.loss[0] == Approx(16));
  CHECK(report.validation_loss[0] == Approx(std::abs(line.weight.sum() + line.bias(0, 0))).epsilon(1e-5));
  CHECK(thrown_message<diffeo::invalid_argument>([&] {
          diffeo::mean_loss(line, Wrong(), std::vector<Index>{1, 2});
        }) == "mean_loss: the objective returned 3 x 1 losses, expected 2 x 1");
}

TEST_CASE("a gradient that is not finite is named by the parameter's path", "[training]") {
  Line<float> line{Array<float>::Ones(1, 2), Array<float>::Zero(1, 1)};
  const auto report = diffeo::fit(line, Cusp(), {.steps = 5, .threads = 1});
  CHECK(report.reason == diffeo::StopReason::non_finite);
  CHECK(report.steps == 0);
  CHECK(contains(report.failure, "the gradient of 1(row 0, col 0) is"));
  CHECK(contains(report.failure, "nan"));
  CHECK(line.bias(0, 0) == 0);
}
