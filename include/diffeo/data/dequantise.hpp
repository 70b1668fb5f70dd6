// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/random.hpp>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Options of dequantise().
///
/// | option  | type                | default                                                                        |
/// |---------|---------------------|--------------------------------------------------------------------------------|
/// | columns | std::vector<Index>  | empty: all columns                                                             |
/// | spacing | std::vector<double> | empty: of each column the smallest difference between values; else one number  |
/// |         |                     | for each of `columns`                                                          |
/// | seed    | std::uint64_t       | 0, of the noise                                                                |
struct DequantiseOptions {
  std::vector<Index> columns = {};
  std::vector<double> spacing = {};
  std::uint64_t seed = 0;
};

/// Returns the data (N x D, any Eigen expression of float or double) with uniform noise added to some columns: an
/// integer or a rounded number v becomes a number drawn from [v - h/2, v + h/2), where h is the spacing of the column's
/// values. Discrete values have no density; those of the result have one, and its mean logarithm, plus log h for each
/// column, is at most the mean log probability of the discrete values under the model integrated over these intervals
/// (Theis, van den Oord, Bethge, "A note on the evaluation of generative models", ICLR 2016, section 3.1). A column
/// without repeated values is left nearly as it is, because its smallest difference is small. Noise is a function of
/// (seed, row, column). Throws invalid_argument for a column that the data do not have or is constant, a spacing that
/// is not positive and finite, and for NaN or infinity in the data.
template <class Derived>
auto dequantise(const Eigen::DenseBase<Derived>& data, const DequantiseOptions& options = {}) {
  using S = typename Derived::Scalar;
  static_assert(Real<S>, "dequantise: expected data of float or double");
  Array<S> values = data.derived().array();
  require_finite(values, "dequantise: data");
  std::vector<Index> columns = options.columns;
  if (columns.empty())
    for (Index j = 0; j < values.cols(); ++j) columns.push_back(j);
  require(options.spacing.empty() || options.spacing.size() == columns.size(), "dequantise: got ",
          options.spacing.size(), " spacings for ", columns.size(), " columns");
  for (std::size_t k = 0; k < columns.size(); ++k) {
    const Index j = columns[k];
    require(j >= 0 && j < values.cols(), "dequantise: column ", j, ", the data have ", values.cols(), " columns");
    double spacing = 0;
    if (options.spacing.empty()) {
      std::vector<S> sorted(values.col(j).begin(), values.col(j).end());
      std::sort(sorted.begin(), sorted.end());
      sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
      for (std::size_t i = 1; i < sorted.size(); ++i) {
        const double difference = static_cast<double>(sorted[i]) - static_cast<double>(sorted[i - 1]);
        spacing = i == 1 ? difference : std::min(spacing, difference);
      }
      require(values.rows() == 0 || spacing > 0, "dequantise: column ", j, " is constant: its spacing is not known");
    } else {
      spacing = options.spacing[k];
      require(spacing > 0 && std::isfinite(spacing), "dequantise: the spacing of column ", j, " is ", spacing,
              ", expected positive and finite");
    }
    PhiloxEngine engine(options.seed, 0x6465717561000000 + static_cast<std::uint64_t>(j));
    for (Index i = 0; i < values.rows(); ++i) {
      const double uniform = static_cast<double>(engine() >> 11) * 0x1p-53;
      values(i, j) = static_cast<S>(static_cast<double>(values(i, j)) + spacing * (uniform - 0.5));
    }
  }
  return values;
}

}  // namespace diffeo::inline DIFFEO_ISA
