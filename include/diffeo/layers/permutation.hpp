// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/core/random.hpp>
#include <diffeo/layers/flow.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Flow that reorders the coordinates: coordinate j of x is coordinate order[j] of z. It has no parameters; its
/// log-determinant is 0.
template <class T>
struct Permutation {
  using Scalar = scalar_t<T>;

  std::vector<Index> order;
  std::vector<Index> inverse_order;

  /// Returns the layer with the given order. Throws invalid_argument unless `order` holds each of 0 ... D-1 once.
  static Permutation from(std::vector<Index> order) {
    const Index dim = static_cast<Index>(order.size());
    std::vector<Index> inverse(order.size(), -1);
    for (Index j = 0; j < dim; ++j) {
      const Index from = order[static_cast<std::size_t>(j)];
      require(from >= 0 && from < dim, "Permutation: coordinate ", from, " is out of the range 0 to ", dim - 1);
      require(inverse[static_cast<std::size_t>(from)] < 0, "Permutation: coordinate ", from, " is listed twice");
      inverse[static_cast<std::size_t>(from)] = j;
    }
    return {std::move(order), std::move(inverse)};
  }
  /// Returns the layer that reverses the order of the coordinates. Throws invalid_argument for dim < 0.
  static Permutation reverse(Index dim) {
    require(dim >= 0, "Permutation: dimension ", dim, ", expected at least 0");
    std::vector<Index> order(static_cast<std::size_t>(dim));
    for (std::size_t j = 0; j < order.size(); ++j) order[j] = dim - 1 - static_cast<Index>(j);
    return from(std::move(order));
  }
  /// Returns a layer with a uniformly random order, a function of (dim, seed, stream). Throws invalid_argument for
  /// dim < 0.
  static Permutation random(Index dim, std::uint64_t seed, std::uint64_t stream = 0) {
    require(dim >= 0, "Permutation: dimension ", dim, ", expected at least 0");
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

  /// Throws invalid_argument unless `order` holds each of 0 ... D-1 once and `inverse_order` undoes it.
  void check() const {
    require(from(order).inverse_order == inverse_order, "Permutation: inverse_order does not undo order");
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
    require(x.cols() == dim(), "Permutation: x has ", x.cols(), " columns, this layer has dimension ", dim());
    return {take(x, std::span(from)), zeros(x, 1)};
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
