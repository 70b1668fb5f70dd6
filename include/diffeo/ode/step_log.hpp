// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <diffeo/autodiff/tape.hpp>
#include <diffeo/ode/integrate.hpp>
#include <limits>
#include <vector>

namespace diffeo::inline DIFFEO_ISA::ode {

/// Steps that a solve accepted, sorted by sample, and the states before every `every`-th step. The gradient repeats the
/// steps from them, from the last to the first.
template <Real S>
struct StepRecord {
  Index samples = 0;
  Index width = 0;  ///< number of values of a state
  Index every = 1;
  const Index* first = nullptr;        ///< index of the first step of each sample, samples + 1 entries
  const double* t = nullptr;           ///< time at the start of each step
  const double* step = nullptr;        ///< size of each step, with its sign
  const double* last_end = nullptr;    ///< time at the end of the last step of each sample
  const Index* first_state = nullptr;  ///< index of the first state of each sample, samples + 1 entries
  const S* states = nullptr;           ///< states, each of `width` contiguous values

  Index steps(Index sample) const { return first[sample + 1] - first[sample]; }
  /// Returns the time at which step `number` of a sample ends, which is where the next one starts.
  double end(Index sample, Index number) const {
    return number + 1 < steps(sample) ? t[first[sample] + number + 1] : last_end[sample];
  }
  /// Returns the state before step `number` of a sample; `number` must be a multiple of `every`.
  const S* state(Index sample, Index number) const { return states + (first_state[sample] + number / every) * width; }
};

/// Stores the accepted steps during a solve. If the states exceed the memory budget, every second one is removed.
template <Real S>
class StepLog {
 public:
  /// Removes all steps. `budget` bounds the memory of the states in bytes. Throws invalid_argument if the number of
  /// samples exceeds 32 bits.
  void begin(Index samples, Index width, std::size_t budget) {
    require(samples <= max_samples, "StepLog: ", samples, " samples, expected at most ", max_samples);
    width_ = width;
    every_ = 1;
    budget_ = budget;
    count_.assign(static_cast<std::size_t>(samples), 0);
    last_end_.assign(static_cast<std::size_t>(samples), 0);
    sample_.clear();
    t_.clear();
    step_.clear();
    states_.clear();
  }

  void add(const AcceptedSteps<S>& accepted) {
    for (Index i = 0; i < accepted.count; ++i) {
      const Index r = accepted.row[i], sample = accepted.sample[r];
      const Index number = count_[static_cast<std::size_t>(sample)]++;
      sample_.push_back(static_cast<std::uint32_t>(sample));
      t_.push_back(accepted.t[r]);
      step_.push_back(accepted.step[r]);
      last_end_[static_cast<std::size_t>(sample)] = accepted.end[r];
      if (number % every_ != 0) continue;
      for (Index j = 0; j < width_; ++j) states_.push_back(accepted.before.col(j)[r]);
    }
    while (states_.size() * sizeof(S) > budget_ && every_ < longest_segment) thin_out();
  }

  /// Returns the steps sorted by sample, in memory of the tape that is valid until its reset().
  StepRecord<S> keep(Tape<S>& tape) const {
    const auto samples = count_.size();
    StepRecord<S> record{static_cast<Index>(samples), width_, every_};
    auto* first = tape.template allocate<Index>(samples + 1);
    auto* first_state = tape.template allocate<Index>(samples + 1);
    first[0] = first_state[0] = 0;
    for (std::size_t i = 0; i < samples; ++i) {
      first[i + 1] = first[i] + count_[i];
      first_state[i + 1] = first_state[i] + (count_[i] + every_ - 1) / every_;
    }
    auto* t = tape.template allocate<double>(t_.size());
    auto* step = tape.template allocate<double>(t_.size());
    auto* last_end = tape.template allocate<double>(samples);
    auto* taken = tape.template allocate<Index>(samples);
    S* states = tape.template allocate<S>(states_.size());
    std::copy_n(last_end_.data(), samples, last_end);
    std::fill_n(taken, samples, Index{0});
    const S* from = states_.data();
    for (std::size_t i = 0; i < t_.size(); ++i) {
      const std::uint32_t sample = sample_[i];
      const Index number = taken[sample]++;
      t[first[sample] + number] = t_[i];
      step[first[sample] + number] = step_[i];
      if (number % every_ != 0) continue;
      std::copy_n(from, width_, states + (first_state[sample] + number / every_) * width_);
      from += width_;
    }
    record.first = first;
    record.t = t;
    record.step = step;
    record.last_end = last_end;
    record.first_state = first_state;
    record.states = states;
    return record;
  }

 private:
  static constexpr Index max_samples = Index{std::numeric_limits<std::uint32_t>::max()};

  // Steps between kept states: those of a segment are in memory together when it is computed again.
  static constexpr Index longest_segment = 64;

  // States lie in the order of the steps before which they were.
  void thin_out() {
    const Index before = every_;
    every_ *= 2;
    number_.assign(count_.size(), 0);
    const std::ptrdiff_t width = width_;
    auto from = states_.begin(), to = states_.begin();
    for (const std::uint32_t sample : sample_) {
      const Index number = number_[sample]++;
      if (number % before != 0) continue;
      if (number % every_ == 0) to = std::copy(from, from + width, to);
      from += width;
    }
    states_.erase(to, states_.end());
  }

  Index width_ = 0, every_ = 1;
  std::size_t budget_ = 0;
  std::vector<Index> count_;
  std::vector<Index> number_;
  std::vector<double> last_end_;  // of each sample
  std::vector<std::uint32_t> sample_;
  std::vector<double> t_, step_;
  std::vector<S> states_;
};

}  // namespace diffeo::inline DIFFEO_ISA::ode
