// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/core/random.hpp>
#include <diffeo/layers/flow.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Reorders the coordinates: coordinate j of x is coordinate order[j] of z. Nothing to train; log-determinant 0.
template <class T>
struct Permutation {
  using Scalar = scalar_t<T>;

  std::vector<Index> order;
  std::vector<Index> inverse_order;

  /// Throws invalid_argument unless `order` holds each of 0 ... D-1 once.
  static Permutation from(std::vector<Index> order) {
    const Index dim = static_cast<Index>(order.size());
    std::vector<Index> inverse(order.size(), -1);
    for (Index j = 0; j < dim; ++j) {
      const Index from = order[static_cast<std::size_t>(j)];
      require(from >= 0 && from < dim, "permutation: coordinate ", from, " is out of the range 0 to ", dim - 1);
      require(inverse[static_cast<std::size_t>(from)] < 0, "permutation: coordinate ", from, " is listed twice");
      inverse[static_cast<std::size_t>(from)] = j;
    }
    return {std::move(order), std::move(inverse)};
  }
  /// Last coordinate first.
  static Permutation reverse(Index dim) {
    require(dim >= 0, "permutation: dimension ", dim, ", expected at least 0");
    std::vector<Index> order(static_cast<std::size_t>(dim));
    for (std::size_t j = 0; j < order.size(); ++j) order[j] = dim - 1 - static_cast<Index>(j);
    return from(std::move(order));
  }
  /// A uniformly random order.
  static Permutation random(Index dim, std::uint64_t seed, std::uint64_t stream = 0) {
    return from(permutation(dim, seed, stream));
  }

  Index dim() const { return static_cast<Index>(order.size()); }

  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "permutation", "order", self.order);
  }
  template <class U>
  Permutation<U> rebind() const {
    return {order, inverse_order};
  }

  template <Traced X>
  Transformed<X> forward(const X& z) const {
    return apply(z, order);
  }
  template <Traced X>
  Transformed<X> inverse(const X& x) const {
    return apply(x, inverse_order);
  }

 private:
  template <Traced X>
  Transformed<X> apply(const X& x, const std::vector<Index>& from) const {
    require(x.cols() == dim(), "permutation: x has ", x.cols(), " columns, this layer has dimension ", dim());
    return {take(x, std::span(from)), zeros(x, 1)};
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
