// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

/// Returns exp(A) by the Taylor series of A / 2^k, squared k times: the reference for solutions of linear equations.
inline Eigen::MatrixXd matrix_exponential(const Eigen::MatrixXd& a) {
  const double size = a.cwiseAbs().rowwise().sum().maxCoeff();
  const int squarings = std::max(0, static_cast<int>(std::ceil(std::log2(std::max(size, 1e-300)))) + 3);
  const Eigen::MatrixXd small = a / std::ldexp(1.0, squarings);
  Eigen::MatrixXd sum = Eigen::MatrixXd::Identity(a.rows(), a.cols()), term = sum;
  for (int k = 1; k < 18; ++k) {  // the norm is at most 1/8, so that the remaining terms are below rounding
    term = term * small / k;
    sum += term;
  }
  for (int k = 0; k < squarings; ++k) sum = sum * sum;
  return sum;
}
