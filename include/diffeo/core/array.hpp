// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/instruction_set.hpp>
// Eigen comes after the checks of the compiler.
#include <Eigen/Core>
#include <cstddef>
#include <initializer_list>
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

template <Real S>
class Array;

}  // namespace diffeo::inline DIFFEO_ISA

/// What Eigen asks of a type that owns its coefficients.
namespace Eigen::internal {

template <class S>
struct traits<diffeo::Array<S>> : traits<Eigen::Array<S, Dynamic, Dynamic, static_cast<int>(ColMajor) | DontAlign>> {
  using XprBase = ArrayBase<diffeo::Array<S>>;
};
template <class S>
struct evaluator<diffeo::Array<S>> : evaluator<PlainObjectBase<diffeo::Array<S>>> {
  using XprType = diffeo::Array<S>;
  evaluator() = default;
  explicit evaluator(const diffeo::Array<S>& x) : evaluator<PlainObjectBase<diffeo::Array<S>>>(x) {}
};
template <class S>
struct plain_matrix_type<diffeo::Array<S>, Dense> {
  using type = diffeo::Array<S>;
};
template <class S>
struct eval<diffeo::Array<S>, Dense> {
  using type = const diffeo::Array<S>&;
};

}  // namespace Eigen::internal

namespace diffeo::inline DIFFEO_ISA {

/// An owning N x D batch or a parameter: an array of Eigen's with all that Eigen offers, of a type of its own for each
/// instruction set. What Eigen makes of it (loops, sums) is then machine code of this instruction set alone, while
/// that of Eigen::Array has one name for all. Its memory comes from malloc, aligned as any, because how Eigen aligns
/// depends on the instruction set too, and objects that differ there must be able to free each other's.
template <Real S>
class Array : public Eigen::PlainObjectBase<Array<S>> {
 public:
  using Base = Eigen::PlainObjectBase<Array>;
  using Scalar = S;
  using PlainObject = Array;
  using Nested = const Array&;
  enum { Options = static_cast<int>(Eigen::ColMajor) | Eigen::DontAlign };

  Array() = default;
  Array(const Array&) = default;
  Array(Array&&) noexcept = default;
  Array& operator=(const Array& x) { return Base::_set(x); }
  Array& operator=(Array&&) noexcept = default;

  /// Leaves the entries unset.
  Array(Index rows, Index cols) : Base(rows * cols, rows, cols) {}
  /// Takes rows, as nested lists of one length.
  Array(const std::initializer_list<std::initializer_list<S>>& rows) : Base(rows) {}
  template <class Derived>
  Array(const Eigen::EigenBase<Derived>& x) : Base(x.derived()) {}

  template <class Derived>
  Array& operator=(const Eigen::EigenBase<Derived>& x) {
    return Base::operator=(x);
  }
  template <class Derived>
  Array& operator=(const Eigen::DenseBase<Derived>& x) {
    return Base::_set(x);
  }
  Array& operator=(const S& value) {
    Base::setConstant(value);
    return *this;
  }

  Index innerStride() const { return 1; }
  Index outerStride() const { return Base::rows(); }

 private:
  template <class Derived, class Other, bool is_vector>
  friend struct Eigen::internal::conservative_resize_like_impl;
};

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
