// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/math/sample_engine.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// A sum of penalties, N x 1: what layers ask training to add to the loss of each sample, for instance the cost of its
/// path.
template <Real S>
class Penalties {
 public:
  /// Adds a penalty for each sample, N x 1, weighted already.
  void add(const Var<S>& penalty) {
    require(penalty.cols() == 1 && (!sum_ || sum_.rows() == penalty.rows()), "penalty: got ", penalty.rows(), " x ",
            penalty.cols(), ", expected ", sum_ ? sum_.rows() : penalty.rows(), " x 1");
    sum_ = sum_ ? sum_ + penalty : penalty;
    ++count_;
  }

  /// The sum; an empty Var where nothing was added.
  const Var<S>& sum() const { return sum_; }
  /// Number of penalties added.
  long count() const { return count_; }

 private:
  Var<S> sum_;
  long count_ = 0;
};

/// What a layer may know about a call of forward or inverse besides the values: whether it is part of a training, and
/// what its noise is to be a function of. A layer takes it as an optional second argument,
///
///     template <Traced X> Transformed<X> forward(const X& z, const Pass<typename X::Scalar>& pass = {}) const;
///
/// and hands it on to its parts (call_forward, call_inverse). The default is an evaluation without context.
///
/// | member    | default |                                                                                    |
/// |-----------|---------|------------------------------------------------------------------------------------|
/// | training  | false   | true where gradients of the parameters are wanted, as the trainer says             |
/// | seed      | 0       | seed of the training's noise                                                       |
/// | step      | 0       | number of the training step                                                        |
/// | first_row | 0       | place of the first row of the values in the whole minibatch                        |
/// | part      | 0       | identifies the layer among the others of a model; containers set it while training |
/// | context   | none    | what the samples are conditioned on, N x C or 1 x C; layers hand it on             |
/// | penalties | none    | collects what layers ask training to add to the losses; none: nobody wants them    |
template <Real S>
struct Pass {
  bool training = false;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  Index first_row = 0;
  std::uint64_t part = 0;
  Var<S> context = {};
  Penalties<S>* penalties = nullptr;

  /// Returns the pass for part number `index` of a container, whose noise is independent of that of the other parts.
  Pass of_part(std::size_t index) const {
    Pass inner = *this;
    if (training) inner.part = detail::mix_bits(part + index + 1);
    return inner;
  }

  /// Returns a generator of the noise of one row of the values z, where `purpose` tells apart the uses that a
  /// layer has for noise. In training the numbers are a function of (seeds, step, place of the row in the minibatch,
  /// part), so that each step draws anew and parameters may change within a step; in evaluation they are a function of
  /// the purpose and of the row's own values, so that a row's result does not depend on its batch.
  PhiloxEngine noise(std::uint64_t purpose, View<const S> z, Index row) const {
    if (!training) return detail::sample_engine<S>(purpose, z, row);
    std::uint64_t hash = detail::mix_bits(purpose + part);
    hash = detail::mix_bits(hash ^ step);
    return PhiloxEngine(seed ^ hash, detail::mix_bits(hash) + static_cast<std::uint64_t>(first_row + row));
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
