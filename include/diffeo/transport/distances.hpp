// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/simd.hpp>

/// Euclidean distances between the points of two sets: the costs of transport.
namespace diffeo::inline DIFFEO_ISA {

/// Fills out (N x M) with the squared Euclidean distances of the points x (N x D) from the points y (M x D). They are
/// sums of squared differences, so that they are accurate for points that are close to each other and far from 0. An
/// entry has the same bits in any batch. Throws invalid_argument for shapes that do not fit.
template <Real S>
void squared_distances_into(View<const S> x, View<const S> y, View<S> out) {
  require(x.cols == y.cols, "squared_distances: x has ", x.cols, " columns, y ", y.cols);
  require(out.rows == x.rows && out.cols == y.rows, "squared_distances: the result is ", out.rows, " x ", out.cols,
          ", expected ", x.rows, " x ", y.rows);
  constexpr Index lanes = simd::lanes<S>;
  for (Index j = 0; j < y.rows; ++j) {
    const auto from = [&](Index i, auto... count) {
      simd::Vec<S> sum{};
      for (Index d = 0; d < x.cols; ++d) {
        const simd::Vec<S> difference = simd::load<S>(x.col(d) + i, count...) - y.col(d)[j];
        sum = simd::mul_add<S>(difference, difference, sum);
      }
      return sum;
    };
    Index i = 0;
    for (; i + lanes <= x.rows; i += lanes) simd::store<S>(out.col(j) + i, from(i));
    if (i < x.rows) simd::store<S>(out.col(j) + i, from(i, x.rows - i), x.rows - i);
  }
}

namespace detail {

// Throws invalid_argument unless x and y are finite, not empty and of one dimension; `what` names the caller.
template <class X, class Y>
void require_point_sets(const char* what, const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y) {
  require(x.cols() == y.cols(), what, ": x has ", x.cols(), " columns, y ", y.cols());
  require(x.cols() > 0, what, ": x and y have no columns");
  require(x.rows() > 0, what, ": x has no rows");
  require(y.rows() > 0, what, ": y has no rows");
  require_finite(x.derived(), concat_message(what, ": x").c_str());
  require_finite(y.derived(), concat_message(what, ": y").c_str());
}

}  // namespace detail

/// Returns the squared Euclidean distances of the points x (N x D) from the points y (M x D), any Eigen expressions of
/// one scalar: N x M. Throws invalid_argument for NaN, infinity, an empty set and different numbers of columns.
template <class X, class Y>
  requires Real<typename X::Scalar> && std::is_same_v<typename X::Scalar, typename Y::Scalar>
Array<typename X::Scalar> squared_distances(const Eigen::DenseBase<X>& x, const Eigen::DenseBase<Y>& y) {
  using S = typename X::Scalar;
  detail::require_point_sets("squared_distances", x, y);
  const Array<S> from = x.derived().array(), to = y.derived().array();
  Array<S> out(x.rows(), y.rows());
  squared_distances_into<S>(view(from), view(to), view(out));
  return out;
}

}  // namespace diffeo::inline DIFFEO_ISA
