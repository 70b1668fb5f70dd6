// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/instruction_set.hpp>
// Eigen comes after the checks of the compiler.
#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <new>
#include <string_view>
#include <type_traits>
#include <utility>

/// Arrays and views. A batch is N x D: rows are samples, columns are coordinates, stored column-major, so that one
/// coordinate of all samples is contiguous.
namespace diffeo::inline DIFFEO_ISA {

using Index = Eigen::Index;
static_assert(sizeof(Index) == sizeof(std::ptrdiff_t),
              "diffeo counts as std::ptrdiff_t does: compile without EIGEN_DEFAULT_DENSE_INDEX_TYPE");

/// Scalar types: float and double.
template <class S>
concept Real = std::is_same_v<S, float> || std::is_same_v<S, double>;

template <Real S>
class Array;

namespace detail {

// Alignment of arrays in bytes, that of a cache line, for every instruction set: with AVX-512 a product whose weights
// cross lines takes a fifth longer.
inline constexpr std::size_t array_alignment = 64;

// Returns rows * cols. Throws bad_alloc for a negative extent and where that many numbers cannot be addressed.
template <class S>
Index array_size(Index rows, Index cols) {
  constexpr Index most = (std::numeric_limits<Index>::max() - Index{array_alignment}) / Index{sizeof(S)};
  if (rows < 0 || cols < 0 || (rows > 0 && cols > most / rows)) throw std::bad_alloc();
  return rows * cols;
}

// The memory of an Array: aligned, and made and given back by functions of this instruction set alone.
template <class S>
class ArrayStorage {
 public:
  ArrayStorage() = default;
  explicit ArrayStorage(Eigen::internal::constructor_without_unaligned_array_assert) {}
  ArrayStorage(Index, Index rows, Index cols) : data_(allocate(array_size<S>(rows, cols))), rows_(rows), cols_(cols) {}
  ArrayStorage(const ArrayStorage& other) : ArrayStorage(0, other.rows_, other.cols_) {
    std::copy_n(other.data_, rows_ * cols_, data_);
  }
  ArrayStorage(ArrayStorage&& other) noexcept { swap(other); }
  ArrayStorage& operator=(const ArrayStorage& other) {
    if (this != &other) ArrayStorage(other).swap(*this);
    return *this;
  }
  ArrayStorage& operator=(ArrayStorage&& other) noexcept {
    swap(other);
    return *this;
  }
  ~ArrayStorage() { release(); }

  void swap(ArrayStorage& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
  }
  void resize(Index, Index rows, Index cols) {
    if (const Index size = array_size<S>(rows, cols); size != rows_ * cols_) {
      S* const data = allocate(size);
      release();
      data_ = data;
    }
    rows_ = rows;
    cols_ = cols;
  }
  // Keeps the entries in their order in memory.
  void conservativeResize(Index, Index rows, Index cols) {
    ArrayStorage resized(0, rows, cols);
    std::copy_n(data_, std::min(rows * cols, rows_ * cols_), resized.data_);
    swap(resized);
  }
  Index rows() const noexcept { return rows_; }
  Index cols() const noexcept { return cols_; }
  const S* data() const { return data_; }
  S* data() { return data_; }

 private:
  // The address that malloc returned stands before the first entry.
  static S* allocate(Index size) {
    if (size == 0) return nullptr;
    char* const whole = static_cast<char*>(std::malloc(static_cast<std::size_t>(size) * sizeof(S) + array_alignment));
    if (!whole) throw std::bad_alloc();
    char* const data = whole + (array_alignment - reinterpret_cast<std::uintptr_t>(whole) % array_alignment);
    std::memcpy(data - sizeof whole, &whole, sizeof whole);
    return reinterpret_cast<S*>(data);
  }
  void release() {
    if (!data_) return;
    char* whole = nullptr;
    std::memcpy(&whole, reinterpret_cast<char*>(data_) - sizeof whole, sizeof whole);
    std::free(whole);
  }

  S* data_ = nullptr;
  Index rows_ = 0, cols_ = 0;
};

// A number below -1 for the instruction set, by which Eigen finds the storage.
inline constexpr int storage_tag = [] {
  int hash = 0;
  for (const char c : std::string_view(DIFFEO_ISA_NAME)) hash = (31 * hash + c) % 1000003;
  return -2 - hash;
}();

template <class S>
struct ArrayExpression : Eigen::ArrayBase<Array<S>> {
  enum { MaxSizeAtCompileTime = storage_tag };
};

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA

/// Storage that Eigen uses for the entries of an Array.
template <class S>
class Eigen::DenseStorage<S, diffeo::detail::storage_tag, Eigen::Dynamic, Eigen::Dynamic,
                          static_cast<int>(Eigen::ColMajor) | Eigen::DontAlign>
    : public diffeo::detail::ArrayStorage<S> {
  using diffeo::detail::ArrayStorage<S>::ArrayStorage;
};

/// Properties that Eigen requires of a type that owns its coefficients.
namespace Eigen::internal {

template <class S>
struct traits<diffeo::Array<S>> : traits<Eigen::Array<S, Dynamic, Dynamic, static_cast<int>(ColMajor) | DontAlign>> {
  using XprBase = ArrayBase<diffeo::Array<S>>;
};
template <>
struct check_rows_cols_for_overflow<diffeo::detail::storage_tag> : check_rows_cols_for_overflow<Dynamic> {};
template <class S>
struct dense_xpr_base<diffeo::Array<S>, ArrayXpr> {
  using type = diffeo::detail::ArrayExpression<S>;
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

/// An array that owns its memory, for batches and parameters, with the interface of Eigen::Array. It is a distinct type
/// for each instruction set, because the functions that Eigen instantiates for Eigen::Array have the same names for all
/// instruction sets, and the linker would keep one of them. Its memory begins at a cache line for every instruction
/// set, while the alignment that Eigen uses depends on the instruction set.
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

  /// Creates a rows x cols array with uninitialised entries.
  Array(Index rows, Index cols) : Base(0, rows, cols) {}
  /// Creates an array from its rows, nested lists of equal length.
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

/// A non-owning column-major block with element (i, j) at data[i + j * stride]. Numerical kernels work on views.
template <class S>
struct View {
  S* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;

  constexpr Index size() const { return rows * cols; }
  /// Returns whether the elements are contiguous.
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

/// Returns a reference to x if its entries lie in memory, otherwise an array with its entries, so that an expression is
/// computed once, however often it is read.
template <class Derived>
decltype(auto) evaluate_once(const Eigen::DenseBase<Derived>& x) {
  if constexpr ((static_cast<unsigned>(Derived::Flags) & Eigen::DirectAccessBit) != 0 &&
                requires { x.derived().data(); }) {
    return x.derived();
  } else {
    return Array<typename Derived::Scalar>(x.derived().array());
  }
}

/// Returns the block as an Eigen expression.
template <class S>
auto as_eigen(View<S> x) {
  using Plain = Array<std::remove_const_t<S>>;
  using Target = std::conditional_t<std::is_const_v<S>, const Plain, Plain>;
  return Eigen::Map<Target, 0, Eigen::OuterStride<>>(x.data, x.rows, x.cols, Eigen::OuterStride<>(x.stride));
}

}  // namespace diffeo::inline DIFFEO_ISA
