// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/random.hpp>
#include <type_traits>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Options of dequantise().
///
/// | option  | type                | default                                                                     |
/// |---------|---------------------|-----------------------------------------------------------------------------|
/// | columns | std::vector<Index>  | empty: all columns whose values are multiples of a spacing from one another |
/// | spacing | std::vector<double> | empty: found from the values; else one number for each of `columns`         |
/// | seed    | std::uint64_t       | 0, of the noise                                                             |
struct DequantiseOptions {
  std::vector<Index> columns = {};
  std::vector<double> spacing = {};
  std::uint64_t seed = 0;
};

namespace detail {

// Returns the spacing of the values of a column: the smallest difference between values that are not equal but for
// rounding, of which nearly all differences are multiples; 0 where there is none.
template <Real S>
double spacing_of(std::vector<S> values, double rounding) {
  std::sort(values.begin(), values.end());
  std::vector<double> gaps;
  for (std::size_t i = 1; i < values.size(); ++i) {
    const double gap = static_cast<double>(values[i]) - static_cast<double>(values[i - 1]);
    if (gap > rounding) gaps.push_back(gap);
  }
  if (gaps.empty()) return 0;
  const double spacing = *std::min_element(gaps.begin(), gaps.end());
  const auto multiples = std::count_if(gaps.begin(), gaps.end(), [spacing](double gap) {
    return std::abs(gap / spacing - std::round(gap / spacing)) < 0.02;
  });
  return 20 * multiples >= 19 * static_cast<std::ptrdiff_t>(gaps.size()) ? spacing : 0;
}

}  // namespace detail

/// Returns the data (N x D, any Eigen expression of float or double) with uniform noise added to some columns: an
/// integer or a rounded number v becomes a number drawn from [v - h/2, v + h/2), where h is the spacing of the column's
/// values. Discrete values have no density; those of the result have one, and its mean logarithm, plus log h for each
/// column, is at most the mean log probability of the discrete values under the model integrated over these intervals
/// (Theis, van den Oord, Bethge, "A note on the evaluation of generative models", ICLR 2016, section 3.1). Noise is a
/// function of (seed, row, column). Throws invalid_argument for a column that the data do not have, for one of
/// `columns` whose values have no spacing, for a spacing that is not positive and finite or is less than 100 steps of
/// the scalar at the column's largest value, and for NaN or infinity in the data.
template <class Derived>
auto dequantise(const Eigen::DenseBase<Derived>& data, const DequantiseOptions& options = {}) {
  using S = typename Derived::Scalar;
  static_assert(Real<S>, "dequantise: expected data of float or double");
  constexpr double least_steps = 100;
  Array<S> values = data.derived().array();
  require_finite(values, "dequantise: data");
  const bool all = options.columns.empty();
  const Index count = all ? values.cols() : static_cast<Index>(options.columns.size());
  require(options.spacing.empty() || static_cast<Index>(options.spacing.size()) == count, "dequantise: got ",
          options.spacing.size(), " spacings for ", count, " columns");
  for (Index k = 0; k < count && values.rows() > 0; ++k) {
    const auto at = static_cast<std::size_t>(k);
    const Index j = all ? k : options.columns[at];
    require(j >= 0 && j < values.cols(), "dequantise: column ", j, ", the data have ", values.cols(), " columns");
    const S largest = values.col(j).abs().maxCoeff();
    const double step = static_cast<double>(largest - std::nextafter(largest, S(0)));
    double spacing = 0;
    if (options.spacing.empty()) {
      spacing = detail::spacing_of(std::vector<S>(values.col(j).begin(), values.col(j).end()), least_steps * step);
      if (all && spacing == 0) continue;
      require(spacing > 0, "dequantise: the values of column ", j,
              " are not multiples of a spacing from one another: ", "give the spacing, or leave the column out");
    } else {
      spacing = options.spacing[at];
      require(spacing > 0 && std::isfinite(spacing), "dequantise: the spacing of column ", j, " is ", spacing,
              ", expected positive and finite");
      require(spacing >= least_steps * step, "dequantise: the spacing of column ", j, " is ", spacing,
              ", less than 100 steps of ", std::is_same_v<S, float> ? "float" : "double", " at its values, of ", step,
              ": subtract an offset", std::is_same_v<S, float> ? ", or use double" : "");
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
