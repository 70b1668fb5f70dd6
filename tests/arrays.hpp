// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <diffeo/autodiff/leaves.hpp>
#include <diffeo/core/array.hpp>
#include <diffeo/math/random_fill.hpp>

/// What tests of many folders do with arrays.

/// Standard normal numbers, others for each stream.
template <diffeo::Real S>
diffeo::Array<S> gaussian(diffeo::Index rows, diffeo::Index cols, std::uint64_t stream) {
  diffeo::Array<S> x(rows, cols);
  diffeo::fill_normal(diffeo::view(x), 3, stream);
  return x;
}

/// The mean of the squares.
inline double mean_square(const diffeo::Array<double>& x) { return x.square().mean(); }

/// A copy of what a view or a traced array holds.
template <class S>
diffeo::Array<S> to_array(diffeo::View<const S> x) {
  return diffeo::as_eigen(x);
}
template <class X>
  requires requires(const X& x) { x.value(); }
auto to_array(const X& x) {
  return to_array<typename X::Scalar>(x.value());
}

/// Whether two runs of numbers, or two arrays of the same shape, have the same bits: NaN equals itself, and 0 differs
/// from -0.
template <class S>
bool same_bits(const S* a, const S* b, diffeo::Index size) {
  return size == 0 || std::memcmp(a, b, static_cast<std::size_t>(size) * sizeof(S)) == 0;
}
template <diffeo::Real S>
bool same_bits(const diffeo::Array<S>& a, const diffeo::Array<S>& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && same_bits(a.data(), b.data(), a.size());
}

/// Whether two models of one structure have equal parameters.
template <class Model>
bool same_parameters(const Model& a, const Model& b) {
  return (diffeo::parameters(a) == diffeo::parameters(b)).all();
}
