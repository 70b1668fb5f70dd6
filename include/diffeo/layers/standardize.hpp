// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/layers/flow_sequence.hpp>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Means and standard deviations of the columns of a batch, both 1 x D, in double.
struct ColumnMoments {
  Array<double> mean;
  Array<double> spread;
};

// Throws invalid_argument for NaN or infinity and for a constant column; `what` names the caller, whose argument is
// called data.
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

}  // namespace detail

/// Flow x = mean + scale z with the mean and standard deviation of the data, which are not trained. As the last layer
/// of a flow it lets the other layers work on coordinates of order 1, while densities stay in the units of the data.
template <class T>
struct Standardize {
  using Scalar = scalar_t<T>;

  Buffer<T> mean;   ///< 1 x D
  Buffer<T> scale;  ///< 1 x D, positive

  /// Returns the layer with the given mean and scale. Throws invalid_argument unless both are 1 x D and finite, and
  /// every scale is positive.
  static Standardize from(const Array<Scalar>& mean, const Array<Scalar>& scale)
    requires Real<T>
  {
    require(mean.rows() == 1 && scale.rows() == 1 && mean.cols() == scale.cols(), "standardize: mean is ", mean.rows(),
            " x ", mean.cols(), ", scale is ", scale.rows(), " x ", scale.cols(), ", expected both 1 x D");
    require_finite(mean, "standardize: mean");
    require_finite(scale, "standardize: scale");
    for (Index j = 0; j < scale.cols(); ++j)
      require(scale(0, j) > 0, "standardize: the scale of column ", j, " is ", scale(0, j), ", expected > 0");
    return {{mean}, {scale}};
  }

  /// Returns the layer with mean 0 and scale 1. Throws invalid_argument for dim < 1.
  static Standardize identity(Index dim)
    requires Real<T>
  {
    require(dim >= 1, "standardize: dimension ", dim, ", expected at least 1");
    return from(Array<Scalar>::Zero(1, dim), Array<Scalar>::Ones(1, dim));
  }

  /// Returns the layer with the mean and standard deviation of the columns of `data`, any Eigen expression. Throws
  /// invalid_argument, with a message that begins with `what`, for fewer than two rows, NaN or infinity, or a constant
  /// column.
  template <class Derived>
  static Standardize fit(const Eigen::DenseBase<Derived>& data, const char* what = "standardize")
    requires Real<T>
  {
    require(data.rows() >= 2, what, ": data has ", data.rows(), " rows, expected at least 2");
    const detail::ColumnMoments moments = detail::column_moments(what, evaluate_once(data));
    return from(moments.mean.template cast<Scalar>(), moments.spread.template cast<Scalar>());
  }

  Index dim() const { return mean.value.cols(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("mean", self.mean, "scale", self.scale);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "standardize");
  }
  template <class U>
  Standardize<U> rebind() const {
    return {};
  }

  template <Traced X>
  Transformed<X> forward(const X& z) const {
    check(z);
    return {z * scale + mean, zeros(z, 1) + log_scales(z)};
  }
  template <Traced X>
  Transformed<X> inverse(const X& x) const {
    check(x);
    return {(x - mean) / scale, zeros(x, 1) - log_scales(x)};
  }

  /// Throws invalid_argument unless mean and scale have the same shape 1 x D and every scale is positive and finite.
  void check() const {
    require(mean.value.rows() == 1 && scale.value.rows() == 1 && mean.value.cols() == scale.value.cols(),
            "standardize: mean is ", mean.value.rows(), " x ", mean.value.cols(), ", scale is ", scale.value.rows(),
            " x ", scale.value.cols(), ", expected both 1 x D");
    if constexpr (Real<T>)
      for (Index j = 0; j < dim(); ++j)
        require(scale.value(0, j) > 0 && std::isfinite(scale.value(0, j)), "standardize: the scale of column ", j,
                " is ", scale.value(0, j), ", expected finite and > 0");
  }

 private:
  // 1 x 1. Computed at each call, so that it cannot disagree with a scale that was set by hand.
  template <Traced X>
  Var<Scalar> log_scales(const X& x) const {
    return sum_cols(log(as_var(x.tape(), scale)));
  }
  template <Traced X>
  void check(const X& x) const {
    require(x.cols() == dim(), "standardize: x has ", x.cols(), " columns, this layer has dimension ", dim());
  }
};

/// Returns the flow with its last layer, a Standardize, set to the mean and standard deviation of the data (N x D). The
/// other layers then work on coordinates of order 1, and densities are in the units of the data. Throws as
/// Standardize::fit() does, and invalid_argument if the dimensions differ.
template <class... Layers, class Derived>
FlowSequence<Layers...> standardized(FlowSequence<Layers...> flow, const Eigen::DenseBase<Derived>& data) {
  auto& last = std::get<sizeof...(Layers) - 1>(flow.layers);
  require(data.cols() == last.dim(), "standardized: data has ", data.cols(), " columns, this flow has dimension ",
          last.dim());
  last = std::decay_t<decltype(last)>::fit(data);
  return flow;
}

}  // namespace diffeo::inline DIFFEO_ISA
