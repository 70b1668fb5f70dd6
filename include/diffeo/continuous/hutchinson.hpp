// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/layers/pass.hpp>
#include <diffeo/math/sample_engine.hpp>

/// Hutchinson's estimator of the trace of a Jacobian.
namespace diffeo::inline DIFFEO_ISA {

/// Distribution of the entries of a random probe: random signs or standard normal.
enum class ProbeDistribution { rademacher, gaussian };

/// Returns the name of a distribution.
inline const char* to_string(ProbeDistribution distribution) {
  return distribution == ProbeDistribution::rademacher ? "rademacher" : "gaussian";
}

/// Hutchinson's estimator (1990) of a divergence: the mean of e'Je over random probes e with mean 0 and covariance I
/// (FFJORD: Grathwohl et al. 2019, section 3.1). It is unbiased. The variance per probe is sum_{i<j} (J_ij + J_ji)^2
/// with random signs, and larger by 2 sum_i J_ii^2 with Gaussian probes.
///
/// | option       | type              | default                          |
/// |--------------|-------------------|----------------------------------|
/// | probes       | Index             | 1: number of probes              |
/// | distribution | ProbeDistribution | rademacher                       |
/// | seed         | std::uint64_t     | 0: seed of the probes (see Pass) |
struct HutchinsonDivergence {
  Index probes = 1;
  ProbeDistribution distribution = ProbeDistribution::rademacher;
  std::uint64_t seed = 0;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "Hutchinson", "probes", self.probes, "distribution", self.distribution, "seed",
                            self.seed);
  }

  /// Throws invalid_argument for options out of range.
  void check() const { require(probes >= 1, "Hutchinson: probes is ", probes, ", expected at least 1"); }
};

namespace detail {

// Draws probes number `first` to `first` + `count` - 1 for each row of x (N x D) by the noise of the pass. Probe k is
// written to columns k D to (k + 1) D - 1 of `noise`.
template <Real S>
void draw_probes(ProbeDistribution distribution, std::uint64_t seed, Index first, Index count, View<const S> x,
                 View<S> noise, const Pass<S>& pass) {
  const Index dim = x.cols;
  for (Index probe = first; probe < first + count; ++probe)
    for (Index row = 0; row < x.rows; ++row) {
      PhiloxEngine engine = pass.noise(seed + 0x6A09E667F3BCC909 * static_cast<std::uint64_t>(probe), x, row);
      const View<S> to = noise.cols_block(probe * dim, dim);
      if (distribution == ProbeDistribution::rademacher)
        draw_signs(engine, to, row);
      else
        draw_normal(engine, to, row);
    }
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
