// SPDX-License-Identifier: MIT
#pragma once

#include <cstring>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/continuous/concat_squash_field.hpp>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/testing/gradient_check.hpp>

#include "../arrays.hpp"
#include "../catch.hpp"

/// Functions shared by the tests of vector fields and of their divergences.
namespace fields {

using namespace diffeo;

inline constexpr Activation smooth[] = {Activation::identity, Activation::tanh,      Activation::softplus,
                                        Activation::silu,     Activation::lip_swish, Activation::sin};
inline constexpr Activation kinked[] = {Activation::relu, Activation::leaky_relu, Activation::elu, Activation::selu};

template <Real S>
Array<S> times(Index rows) {
  Array<S> t(rows, 1);
  fill_uniform(view(t), 5, 1);
  return t;
}

// Returns the field with normal noise of standard deviation `size` added to every parameter, so that none is 0.
template <class F>
F perturbed(F field, double size = 0.3) {
  std::uint64_t stream = 70;
  for_each_parameter(field, [&](auto& p) {
    using S = typename F::Scalar;
    p += static_cast<S>(size) * gaussian<S>(p.rows(), p.cols(), stream++);
  });
  return field;
}

template <Real S>
MlpField<S> mlp(Index dim, std::vector<Index> hidden, Activation a) {
  return perturbed(make_mlp_field<S>(dim, {.hidden = std::move(hidden), .activation = a, .last_scale = 1}, 4));
}
template <Real S>
ConcatSquashField<S> concat_squash(Index dim, std::vector<Index> hidden, Activation a, bool gate_output) {
  return perturbed(
      make_concat_squash_field<S>(dim, {.hidden = std::move(hidden), .activation = a, .gate_output = gate_output}, 4));
}
// Returns a field given as a function, in which every coordinate depends on itself and on the next one.
template <Real S>
auto function(Index dim) {
  return make_field<S>(dim, [dim](const auto& t, const auto& x) {
    const auto next = dim == 1 ? x : concat(cols(x, 1, dim - 1), cols(x, 0, 1));
    return next * sin(x) + square(x) * t - tanh(next * x);
  });
}

// Calls f(name, field) for a field of every kind.
template <Real S, class F>
void for_each_field(Index dim, Activation a, const F& f) {
  f("mlp 0", mlp<S>(dim, {}, a));
  f("mlp 1", mlp<S>(dim, {9}, a));
  f("mlp 2", mlp<S>(dim, {5, 7}, a));
  f("mlp 3", mlp<S>(dim, {6, 3, 5}, a));
  f("concat squash 0", concat_squash<S>(dim, {}, a, true));
  f("concat squash 1", concat_squash<S>(dim, {9}, a, false));
  f("concat squash 1 gated", concat_squash<S>(dim, {9}, a, true));
  f("concat squash 2", concat_squash<S>(dim, {5, 7}, a, false));
  f("concat squash 2 gated", concat_squash<S>(dim, {5, 7}, a, true));
  f("concat squash 3", concat_squash<S>(dim, {6, 3, 5}, a, false));
  f("function", function<S>(dim));
}

}  // namespace fields
