// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>

/// Means and standard deviations of data.
namespace diffeo::inline DIFFEO_ISA::detail {

/// Means and standard deviations of the columns of a batch, both 1 x D, in double.
struct ColumnMoments {
  Array<double> mean;
  Array<double> spread;
};

/// Returns the moments of the columns of a batch (N x D). Throws invalid_argument for NaN or infinity and for a
/// constant column; `what` names the caller, whose argument is called data.
template <class Derived>
ColumnMoments column_moments(const char* what, const Eigen::DenseBase<Derived>& values) {
  require_finite(values.derived(), concat_message(what, ": data").c_str());
  ColumnMoments moments{Array<double>(1, values.cols()), Array<double>(1, values.cols())};
  for (Index j = 0; j < values.cols(); ++j) {
    const Array<double> column = values.col(j).template cast<double>().array();
    const double center = column.mean();
    // Rounding may give a constant column a standard deviation above 0.
    const double spread = column.minCoeff() == column.maxCoeff() ? 0 : std::sqrt((column - center).square().mean());
    require(spread > 0 && std::isfinite(spread), what, ": column ", j, " of data has standard deviation ", spread,
            ", expected finite and greater than 0");
    moments.mean(0, j) = center;
    moments.spread(0, j) = spread;
  }
  return moments;
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
