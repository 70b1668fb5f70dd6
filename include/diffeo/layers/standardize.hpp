// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/math/column_moments.hpp>

namespace diffeo::inline DIFFEO_ISA {

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
    const Standardize layer{{mean}, {scale}};
    layer.check();
    return layer;
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

  /// Throws invalid_argument unless mean and scale have the same shape 1 x D and are finite, and every scale is
  /// positive.
  void check() const {
    require(mean.value.rows() == 1 && scale.value.rows() == 1 && mean.value.cols() == scale.value.cols(),
            "standardize: mean is ", mean.value.rows(), " x ", mean.value.cols(), ", scale is ", scale.value.rows(),
            " x ", scale.value.cols(), ", expected both 1 x D");
    if constexpr (Real<T>) {
      require_finite(mean.value, "standardize: mean");
      for (Index j = 0; j < dim(); ++j)
        require(scale.value(0, j) > 0, "standardize: the scale of column ", j, " is ", scale.value(0, j),
                ", expected > 0");
      require_finite(scale.value, "standardize: scale");
    }
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
