// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/instruction_set.hpp>
// Eigen comes after the checks of the compiler.
#include <Eigen/Core>
#include <cstddef>
#include <type_traits>

/// The array vocabulary. A batch is N x D: rows are samples, columns are coordinates, stored column-major, so that one
/// coordinate of all samples is contiguous.
namespace diffeo::inline DIFFEO_ISA {

using Index = Eigen::Index;
static_assert(sizeof(Index) == sizeof(std::ptrdiff_t),
              "diffeo counts as std::ptrdiff_t does: compile without EIGEN_DEFAULT_DENSE_INDEX_TYPE");

/// float and double, both first class.
template <class S>
concept Real = std::is_same_v<S, float> || std::is_same_v<S, double>;

/// An owning N x D batch or a parameter: Eigen's array, whose memory comes from malloc. Eigen would else align it, and
/// free it, in a way that depends on the instruction set, and objects of one program that are compiled with different
/// -m flags must be able to free each other's arrays. The library owns no other type of Eigen's for this reason.
template <Real S>
using Array = Eigen::Array<S, Eigen::Dynamic, Eigen::Dynamic,
                           static_cast<int>(Eigen::ColMajor) | static_cast<int>(Eigen::DontAlign)>;

/// Any Eigen array, matrix or expression of them.
template <class D>
concept DenseExpression = requires { typename D::Scalar; } && std::is_base_of_v<Eigen::DenseBase<D>, D>;

/// A non-owning column-major block: element (i, j) lies at data[i + j * stride]. What the numerical kernels work on.
template <class S>
struct View {
  S* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;

  constexpr Index size() const { return rows * cols; }
  /// Whether the elements form one run without gaps.
  constexpr bool contiguous() const { return stride == rows || cols == 1; }
  constexpr S* col(Index j) const { return data + j * stride; }
  constexpr View cols_block(Index first, Index count) const { return {data + first * stride, rows, count, stride}; }
  constexpr operator View<const S>() const
    requires(!std::is_const_v<S>)
  {
    return {data, rows, cols, stride};
  }
};

template <Real S>
View<S> view(Array<S>& x) {
  return {x.data(), x.rows(), x.cols(), x.rows()};
}
template <Real S>
View<const S> view(const Array<S>& x) {
  return {x.data(), x.rows(), x.cols(), x.rows()};
}

/// x itself where its entries lie in memory, else a copy of them, so that an expression is computed once, however many
/// tiles read it.
template <class Derived>
decltype(auto) evaluated(const Eigen::DenseBase<Derived>& x) {
  if constexpr ((static_cast<unsigned>(Derived::Flags) & Eigen::DirectAccessBit) != 0 &&
                requires { x.derived().data(); }) {
    return x.derived();
  } else {
    return Array<typename Derived::Scalar>(x.derived().array());
  }
}

/// The same block as an Eigen expression.
template <class S>
auto as_eigen(View<S> x) {
  using Plain = Array<std::remove_const_t<S>>;
  using Target = std::conditional_t<std::is_const_v<S>, const Plain, Plain>;
  return Eigen::Map<Target, 0, Eigen::OuterStride<>>(x.data, x.rows, x.cols, Eigen::OuterStride<>(x.stride));
}

}  // namespace diffeo::inline DIFFEO_ISA
