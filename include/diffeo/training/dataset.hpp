// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/data/column_checks.hpp>
#include <string>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Data for maximum likelihood, of the scalar of the model: `fit(model, {.x = x, .weights = w})`.
template <Real S>
struct Dataset {
  Array<S> x;  ///< N x D, one sample in each row
  // Not {}: in a list of several data sets GCC 12 would end with an internal error.
  Array<S> context = Array<S>(0, 0);  ///< N x C for a model of p(x | c), else empty
  /// N x 1, finite and not negative, but not all 0; empty: all rows count the same
  Array<S> weights = Array<S>(0, 0);
  /// D names of the columns of x, for messages; may be empty
  std::vector<std::string> names = std::vector<std::string>(0);

  bool has_context() const { return context.cols() > 0; }
  bool has_weights() const { return weights.rows() > 0 || weights.cols() > 0; }

  /// Throws invalid_argument for data without rows, for another number of names than columns, for contexts or weights
  /// of another number of rows, for NaN or infinity (with the place), and for weights that are negative or all 0.
  /// Messages begin with `who`.
  void check(const std::string& who = "fit") const {
    require(x.rows() > 0, who, ": data is empty, expected at least one row");
    require(names.empty() || static_cast<Index>(names.size()) == x.cols(), who, ": got ", names.size(), " names for ",
            x.cols(), " columns");
    require_finite_columns(who + ": data", x, names);
    if (has_context()) {
      require(context.rows() == x.rows(), who, ": the context has ", context.rows(), " rows, the data ", x.rows());
      require_finite(context, (who + ": the context").c_str());
    }
    if (!has_weights()) return;
    require(weights.rows() == x.rows() && weights.cols() == 1, who, ": the weights are ", weights.rows(), " x ",
            weights.cols(), ", expected ", x.rows(), " x 1, one for each row of the data");
    for (Index row = 0; row < weights.rows(); ++row)
      require(weights(row, 0) >= 0 && std::isfinite(weights(row, 0)), who, ": the weight of row ", row, " is ",
              weights(row, 0), ", expected a finite number >= 0");
    require((weights > 0).any(), who, ": the weights of all rows are 0");
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
