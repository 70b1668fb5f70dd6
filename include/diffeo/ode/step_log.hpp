// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/tape.hpp>
#include <diffeo/ode/integrate.hpp>

namespace diffeo::ode {

/// The steps that a solve accepted, sample by sample, and the states before every `every`-th of them: what it takes to
/// go through the solve again, backwards.
template <Real S>
struct StepRecord {
  Index samples = 0;
  Index width = 0;  ///< values of a state
  Index every = 1;
  const Index* first = nullptr;        ///< samples + 1: where the steps of each sample begin
  const double* t = nullptr;           ///< at the start of each step
  const double* step = nullptr;        ///< signed
  const double* end = nullptr;         ///< t + step, or the end time itself
  const Index* first_state = nullptr;  ///< samples + 1: where the states of each sample begin
  const S* states = nullptr;           ///< each `width` values in a row

  Index steps(Index sample) const { return first[sample + 1] - first[sample]; }
  /// The state before step `number` of a sample, a multiple of `every`.
  const S* state(Index sample, Index number) const { return states + (first_state[sample] + number / every) * width; }
};

/// Takes the steps down while a solve runs. States that outgrow the budget are thinned out, every second one at a time.
template <Real S>
class StepLog {
 public:
  /// `budget` is in bytes, of states.
  void begin(Index samples, Index width, std::size_t budget) {
    width_ = width;
    every_ = 1;
    budget_ = budget;
    count_.assign(static_cast<std::size_t>(samples), 0);
    steps_.clear();
    places_.clear();
    states_.clear();
  }

  void add(const AcceptedSteps<S>& accepted) {
    for (Index i = 0; i < accepted.count; ++i) {
      const Index r = accepted.row[i], sample = accepted.sample[r];
      const Index number = count_[static_cast<std::size_t>(sample)]++;
      steps_.push_back({sample, accepted.t[r], accepted.step[r], accepted.end[r]});
      if (number % every_ != 0) continue;
      places_.push_back({sample, number});
      for (Index j = 0; j < width_; ++j) states_.push_back(accepted.before.col(j)[r]);
    }
    while (states_.size() * sizeof(S) > budget_ && every_ < longest_segment) thin_out();
  }

  /// Everything sorted by sample, in memory of the tape.
  StepRecord<S> keep(Tape<S>& tape) const {
    const auto samples = count_.size();
    StepRecord<S> record{static_cast<Index>(samples), width_, every_};
    auto* first = tape.template storage<Index>(samples + 1);
    auto* first_state = tape.template storage<Index>(samples + 1);
    first[0] = first_state[0] = 0;
    for (std::size_t i = 0; i < samples; ++i) {
      first[i + 1] = first[i] + count_[i];
      first_state[i + 1] = first_state[i] + (count_[i] + every_ - 1) / every_;
    }
    auto* t = tape.template storage<double>(steps_.size());
    auto* step = tape.template storage<double>(steps_.size());
    auto* end = tape.template storage<double>(steps_.size());
    auto* filled = tape.template storage<Index>(samples);
    std::copy_n(first, samples, filled);
    for (const Step& s : steps_) {
      const Index at = filled[s.sample]++;
      t[at] = s.t;
      step[at] = s.step;
      end[at] = s.end;
    }
    S* states = tape.template storage<S>(states_.size());
    for (std::size_t i = 0; i < places_.size(); ++i)
      std::copy_n(states_.data() + i * static_cast<std::size_t>(width_), width_,
                  states + (first_state[places_[i].sample] + places_[i].number / every_) * width_);
    record.first = first;
    record.t = t;
    record.step = step;
    record.end = end;
    record.first_state = first_state;
    record.states = states;
    return record;
  }

 private:
  // Steps between kept states: those of a segment are in memory together when it is computed again.
  static constexpr Index longest_segment = 64;

  struct Step {
    Index sample;
    double t, step, end;
  };
  struct Place {
    Index sample, number;
  };

  void thin_out() {
    every_ *= 2;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < places_.size(); ++i) {
      if (places_[i].number % every_ != 0) continue;
      places_[kept] = places_[i];
      const auto width = static_cast<std::ptrdiff_t>(width_);
      const auto from = states_.begin() + static_cast<std::ptrdiff_t>(i) * width;
      std::copy(from, from + width, states_.begin() + static_cast<std::ptrdiff_t>(kept) * width);
      ++kept;
    }
    places_.resize(kept);
    states_.resize(kept * static_cast<std::size_t>(width_));
  }

  Index width_ = 0, every_ = 1;
  std::size_t budget_ = 0;
  std::vector<Index> count_;
  std::vector<Step> steps_;
  std::vector<Place> places_;
  std::vector<S> states_;
};

}  // namespace diffeo::ode
