// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <numeric>
#include <span>

/// Which source point of a minibatch goes with which target point.
namespace diffeo::inline DIFFEO_ISA {

/// The points of a minibatch that are to be paired, in the coordinates of the Cnf.
template <Real S>
struct PairingTask {
  View<const S> source;                  ///< n x D, in random order
  View<const S> target;                  ///< n x D
  std::span<const double> weights = {};  ///< of the rows of the target; empty where all count the same
  std::uint64_t seed = 0, stream = 0;    ///< of random numbers, others in each step
  std::span<Index> partner = {};         ///< to be filled: the row of the source that goes with each row of the target
  View<const S> source_context = {};     ///< n x C, in units of the standard deviations of the columns of the data's
                                      ///< contexts; of a source without contexts those that its points were drawn for
  View<const S> target_context = {};  ///< n x C likewise; both are empty where the model takes no context
};

/// A policy of FlowMatching, called once a step for the whole minibatch, by one thread. What it keeps from step to step
/// is its State, so that it may use its memory again.
///
/// | expression          | type | meaning                                                                           |
/// |---------------------|------|-----------------------------------------------------------------------------------|
/// | P::State<S>         | type | default-constructible                                                             |
/// | p.pair(state, task) | void | fills task.partner, from 0 to n - 1                                               |
/// | P::independent      | bool | true for IndependentPairing, which is not called                                  |
/// | P::takes_weights    | bool | whether the pairing allows for task.weights; otherwise data with weights are      |
/// |                     |      | refused, because the sources of heavy rows would not be distributed as all are    |
/// | p.check()           | void | throws invalid_argument for options out of range                                  |
template <class P, class S>
concept Pairing = Real<S> && std::copy_constructible<P> &&
                  requires(const P& p, typename P::template State<S>& state, const PairingTask<S>& task) {
                    p.pair(state, task);
                    p.check();
                    { P::independent } -> std::convertible_to<bool>;
                    { P::takes_weights } -> std::convertible_to<bool>;
                  };

/// Source and target are drawn independently of each other.
struct IndependentPairing {
  static constexpr bool independent = true, takes_weights = true;
  template <class S>
  struct State {};

  template <Real S>
  void pair(State<S>&, const PairingTask<S>& task) const {
    std::iota(task.partner.begin(), task.partner.end(), Index{0});
  }
  void check() const {}
};

}  // namespace diffeo::inline DIFFEO_ISA
