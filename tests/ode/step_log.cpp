// SPDX-License-Identifier: MIT
#include <diffeo/ode/step_log.hpp>
#include <vector>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::Real;
using diffeo::Tape;
using diffeo::ode::AcceptedSteps;
using diffeo::ode::StepLog;
using diffeo::ode::StepRecord;

namespace {

// The numbers by which a step and its state are known.
double time_of(Index sample, Index number) { return double(sample) + 0.001 * double(number); }
double state_of(Index sample, Index number, Index column) { return double(1000000 * sample + 10 * number + column); }

// Samples with so many steps each, as rounds of a block bring them: a few rows at a time, in changing places, some of
// them rejected.
template <Real S>
void fill(StepLog<S>& log, const std::vector<Index>& steps, Index width) {
  constexpr Index rows = 8;
  std::vector<Index> done(steps.size(), 0);
  Array<S> before(rows, width), after = Array<S>::Constant(rows, width, S(-1));
  for (Index round = 0;; ++round) {
    Index sample[rows], row[rows], used = 0, count = 0;
    double t[rows], step[rows], end[rows];
    for (std::size_t s = 0; s < steps.size() && used < rows; ++s) {
      const std::size_t i = (s + std::size_t(round)) % steps.size();
      if (done[i] == steps[i]) continue;
      const bool rejected = (Index(i) + round) % 5 == 0;
      sample[used] = Index(i);
      t[used] = time_of(Index(i), done[i]);
      step[used] = 0.5 * t[used];
      end[used] = time_of(Index(i), done[i] + 1);
      for (Index j = 0; j < width; ++j) before(used, j) = static_cast<S>(state_of(Index(i), done[i], j));
      if (!rejected) {
        row[count++] = used;
        ++done[i];
      }
      ++used;
    }
    if (used == 0) return;
    if (count > 0)
      log.add(AcceptedSteps<S>{count,
                               row,
                               sample,
                               t,
                               step,
                               end,
                               {before.data(), used, width, rows},
                               {after.data(), used, width, rows},
                               nullptr});
  }
}

template <Real S>
void check_record(const StepRecord<S>& record, const std::vector<Index>& steps, Index width) {
  REQUIRE(record.samples == Index(steps.size()));
  REQUIRE(record.width == width);
  for (Index i = 0; i < record.samples; ++i) {
    REQUIRE(record.steps(i) == steps[std::size_t(i)]);
    for (Index n = 0; n < record.steps(i); ++n) {
      const Index at = record.first[i] + n;
      REQUIRE(record.t[at] == time_of(i, n));
      REQUIRE(record.step[at] == 0.5 * time_of(i, n));
      REQUIRE(record.end(i, n) == time_of(i, n + 1));
      if (n % record.every != 0) continue;
      for (Index j = 0; j < width; ++j) REQUIRE(record.state(i, n)[j] == static_cast<S>(state_of(i, n, j)));
    }
  }
}

template <Real S>
Index kept_states(const StepRecord<S>& record) {
  return record.first_state[record.samples];
}

}  // namespace

TEMPLATE_TEST_CASE("a log of steps: sorted by sample, whatever order they came in", "[ode]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const std::vector<Index> steps{5, 0, 1, 37, 12, 12, 3, 0, 9, 20, 1, 2};
  StepLog<S> log;
  Tape<S> tape;
  for (int round = 0; round < 2; ++round) {  // a log is used again
    tape.reset();
    log.begin(12, 3, std::size_t{1} << 20);
    fill(log, steps, 3);
    const StepRecord<S> record = log.keep(tape);
    CHECK(record.every == 1);
    CHECK(kept_states(record) == 102);
    check_record(record, steps, 3);
  }
}

TEMPLATE_TEST_CASE("a log of steps: states that outgrow the budget are thinned out", "[ode]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const std::vector<Index> steps{300, 1, 0, 64, 65, 63, 8, 100, 5};
  const Index width = 4, all = 606;
  const std::size_t size = sizeof(S) * std::size_t(width);
  for (const std::size_t states : std::vector<std::size_t>{606, 605, 303, 100, 50, 20}) {
    CAPTURE(states);
    StepLog<S> log;
    Tape<S> tape;
    log.begin(Index(steps.size()), width, states * size);
    fill(log, steps, width);
    const StepRecord<S> record = log.keep(tape);
    check_record(record, steps, width);
    CHECK(kept_states(record) <= Index(states));
    // No more than needed: with half as large a distance there would be too many.
    Index denser = 0;
    for (const Index n : steps) denser += (n + record.every / 2 - 1) / std::max<Index>(record.every / 2, 1);
    if (record.every > 1)
      CHECK(denser > Index(states));
    else
      CHECK(states >= std::size_t(all));
  }
}

TEMPLATE_TEST_CASE("a log of steps: the first state of each sample stays whatever the budget", "[ode]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const std::vector<Index> steps{300, 1, 0, 64, 65, 63, 8, 100, 5};
  for (const std::size_t budget : std::vector<std::size_t>{0, 1, 100}) {
    StepLog<S> log;
    Tape<S> tape;
    log.begin(Index(steps.size()), 2, budget);
    fill(log, steps, 2);
    const StepRecord<S> record = log.keep(tape);
    check_record(record, steps, 2);
    CHECK(kept_states(record) < 606 / 8);
    for (Index i = 0; i < record.samples; ++i)
      CHECK((record.first_state[i + 1] > record.first_state[i]) == (steps[std::size_t(i)] > 0));
  }
}

TEMPLATE_TEST_CASE("a log of steps: none", "[ode]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  StepLog<S> log;
  Tape<S> tape;
  log.begin(0, 2, 100);
  CHECK(log.keep(tape).samples == 0);
  log.begin(3, 2, 100);
  const StepRecord<S> record = log.keep(tape);
  for (Index i = 0; i < 3; ++i) CHECK(record.steps(i) == 0);
  CHECK(kept_states(record) == 0);
}

TEST_CASE("step log: samples that 32 bits do not number are refused", "[step_log]") {
  diffeo::ode::StepLog<double> log;
  CHECK(thrown_message<diffeo::invalid_argument>([&] { log.begin(diffeo::Index{1} << 32, 2, 0); }) ==
        "StepLog: 4294967296 samples, expected at most 4294967295");
}
