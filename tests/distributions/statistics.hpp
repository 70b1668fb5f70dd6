// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/autodiff/tape.hpp>
#include <vector>

#include "../catch.hpp"

// Functions shared by the tests of distributions.

/// Returns the distribution function of the standard normal distribution.
inline double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

/// Returns Kolmogorov's statistic sqrt(n) sup |F_n - F| of a sample, N x 1; a sample from F exceeds 1.95 with
/// probability 0.001.
template <class Derived, class Cdf>
double kolmogorov(const Eigen::DenseBase<Derived>& sample, const Cdf& cdf) {
  std::vector<double> x;
  for (Eigen::Index i = 0; i < sample.rows(); ++i) x.push_back(static_cast<double>(sample.derived()(i, 0)));
  std::sort(x.begin(), x.end());
  const double n = static_cast<double>(x.size());
  double distance = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double f = cdf(x[i]), below = static_cast<double>(i) / n;
    distance = std::max({distance, f - below, below + 1 / n - f});
  }
  return distance * std::sqrt(n);
}

/// Returns the log-density of each row of z, N x D -> N x 1.
template <class Base>
diffeo::Array<typename Base::Scalar> log_prob_of(const Base& base, const diffeo::Array<typename Base::Scalar>& z) {
  diffeo::Tape<typename Base::Scalar> tape;
  return diffeo::as_eigen(base.log_prob(tape.copy(z)).value());
}

/// Returns n samples, n x D.
template <class Base>
diffeo::Array<typename Base::Scalar> draw(const Base& base, diffeo::Index n, std::uint64_t seed,
                                          std::uint64_t stream = 0, diffeo::Index first = 0) {
  diffeo::Array<typename Base::Scalar> z(n, base.dim());
  base.sample_into(diffeo::view(z), seed, stream, first);
  return z;
}

/// Checks that samples depend on (seed, stream, row) alone and not on the block in which they are drawn.
template <class Base>
void require_rows_by_index(const Base& base) {
  const auto all = draw(base, 300, 7, 3);
  for (const diffeo::Index first : {0, 1, 16, 63, 64, 100, 255})
    for (const diffeo::Index n : {0, 1, 2, 17, 45}) {
      CAPTURE(first, n);
      CHECK((draw(base, n, 7, 3, first) == all.middleRows(first, n)).all());
    }
  CHECK((draw(base, 300, 8, 3) != all).any());
  CHECK((draw(base, 300, 7, 4) != all).any());
}
