// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/autodiff/ops/row_dot.hpp>
#include <diffeo/continuous/hutchinson.hpp>
#include <limits>

/// The estimator Hutch++ of the trace of a Jacobian, and the orthonormal basis that it needs.
namespace diffeo::inline DIFFEO_ISA {

/// Numbers of the vectors v of an estimate of a trace, each with a term v'Jv.
struct ProbeCounts {
  Index orthonormal = 0;  ///< orthonormal vectors, whose terms are added
  Index random = 0;       ///< random probes, whose terms are averaged

  Index total() const { return orthonormal + random; }
};

/// The estimator Hutch++ of a divergence (Meyer, Musco, Musco, Woodruff 2021, algorithm 1): tr Q'JQ plus the mean of
/// g'(I - QQ')J(I - QQ')g over random signs g. The orthonormal columns of Q span the products of J, at the point and
/// time where the noise is drawn, with probes / 3 random vectors; a third of the probes is left for g. The estimate is
/// unbiased for any fixed Q, at whatever point J is taken, and its variance is small if J has few large singular
/// values. If probes >= 3 D, Q is the identity and the result exact.
///
/// | option | type          | default                                                  |
/// |--------|---------------|----------------------------------------------------------|
/// | probes | Index         | 6: number of products with J, those that form Q included |
/// | seed   | std::uint64_t | 0: seed of the random vectors (see Pass)                 |
struct HutchPlusPlusDivergence {
  Index probes = 6;
  std::uint64_t seed = 0;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "Hutch++", "probes", self.probes, "seed", self.seed);
  }

  /// Throws invalid_argument for options out of range.
  void check() const { require(probes >= 3, "Hutch++: probes is ", probes, ", expected at least 3"); }

  /// Returns the numbers of columns of Q and of probes g in D = dim dimensions.
  ProbeCounts counts(Index dim) const {
    const Index third = probes / 3;
    if (third >= dim) return {dim, 0};
    return {third, probes - 2 * third};
  }
};

namespace detail {

// Draws the vectors that orthonormalise_sketch() starts from into `noise`: Gaussian for Q, random signs for g. Writes
// the identity if Q has D columns; it needs no further work.
template <Real S>
void draw_sketch(const HutchPlusPlusDivergence& of, View<const S> x, View<S> noise, const Pass<S>& pass) {
  const Index d = x.cols;
  const ProbeCounts counts = of.counts(d);
  if (counts.random == 0) {
    for (Index j = 0; j < noise.cols; ++j) std::fill_n(noise.col(j), noise.rows, j / d == j % d ? S(1) : S(0));
    return;
  }
  // In few dimensions random signs would be linearly dependent too often for a sketch.
  draw_probes(ProbeDistribution::gaussian, of.seed, 0, counts.orthonormal, x, noise, pass);
  draw_probes(ProbeDistribution::rademacher, of.seed, counts.orthonormal, counts.random, x, noise, pass);
}

// Multiplies the first counts.orthonormal vectors of `noise` (N x counts.total() D) by J, orthonormalises the products,
// which gives Q, and projects the random vectors onto the complement of Q, row by row. times(v) returns J v for a
// constant v (N x D). Products that depend linearly on the others become 0.
template <Real S, class Times>
void orthonormalise_sketch(Tape<S>& tape, const ProbeCounts& counts, Index d, View<S> noise, const Times& times) {
  const View<S> coefficient = tape.mutable_value(tape.make(noise.rows, 1, false)),
                before = tape.mutable_value(tape.make(noise.rows, 1, false));
  for (Index i = 0; i < counts.total(); ++i) {
    const View<S> vector = noise.cols_block(i * d, d);
    if (i < counts.orthonormal) {
      const auto inner = tape.mark();
      const View<const S> moved = times(tape.constant(View<const S>(vector))).value();
      for (Index j = 0; j < d; ++j) std::copy_n(moved.col(j), moved.rows, vector.col(j));
      tape.release(inner);
      row_dot<S>(before, vector, vector);
    }
    // The Gram-Schmidt method, twice, after which the vectors are orthogonal up to rounding.
    for (int round = 0; round < 2; ++round)
      for (Index k = 0; k < std::min(i, counts.orthonormal); ++k) {
        const View<const S> q = noise.cols_block(k * d, d);
        row_dot<S>(coefficient, q, vector);
        for (Index j = 0; j < d; ++j)
          math::map(
              vector.cols_block(j, 1), [](auto v, auto c, auto w) { return simd::mul_add<S>(-c, w, v); },
              View<const S>(vector.cols_block(j, 1)), View<const S>(coefficient), q.cols_block(j, 1));
      }
    if (i >= counts.orthonormal) continue;
    // A vector that depends on those before except for rounding adds nothing to their span.
    row_dot<S>(coefficient, vector, vector);
    constexpr S least = S(100) * std::numeric_limits<S>::epsilon();
    for (Index j = 0; j < d; ++j)
      math::map(
          vector.cols_block(j, 1),
          [](auto v, auto square, auto whole) {
            return square > least * least * whole ? v / simd::sqrt<S>(square) : simd::Vec<S>{};
          },
          View<const S>(vector.cols_block(j, 1)), View<const S>(coefficient), View<const S>(before));
  }
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
