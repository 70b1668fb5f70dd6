// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/tiles.hpp>

/// Returns the logarithm of the integral of exp(target) over [a, b] x [c, d] by the midpoint rule with n x m cells.
template <class T>
double log_integral(const T& target, double a, double b, diffeo::Index n, double c, double d, diffeo::Index m) {
  using namespace diffeo;
  const double dx = (b - a) / static_cast<double>(n), dy = (d - c) / static_cast<double>(m);
  double sum = 0;
  Array<double> column(m, 2);
  Tape<double> tape;
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < m; ++j) {
      column(j, 0) = a + dx * (static_cast<double>(i) + 0.5);
      column(j, 1) = c + dy * (static_cast<double>(j) + 0.5);
    }
    tape.reset();
    sum += as_eigen(target(tape.copy(column)).value()).exp().sum();
  }
  return std::log(sum * dx * dy);
}
