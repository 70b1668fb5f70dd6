// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/fields.hpp>
#include <diffeo/autodiff/parameter.hpp>
#include <vector>

/// Walks through a model: its structures, and the vectors and tuples that hold them, down to its parameters and buffers
/// (see fields.hpp).
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

template <class T>
inline constexpr bool is_parameter = is_var<T>;
template <Real S>
inline constexpr bool is_parameter<Array<S>> = true;

template <class T>
inline constexpr bool is_buffer = false;
template <class T>
inline constexpr bool is_buffer<Buffer<T>> = true;

template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;

template <class T>
inline constexpr bool is_tuple = false;
template <class... T>
inline constexpr bool is_tuple<std::tuple<T...>> = true;

template <class T>
inline constexpr bool is_named = false;
template <class... T>
inline constexpr bool is_named<Named<T...>> = true;

// A layer, network or distribution; what only evaluates need not have fields.
template <class P>
inline constexpr bool is_structure = !is_parameter<P> && !is_buffer<P> && !is_vector<P> && !is_tuple<P> && !is_named<P>;
template <class P>
concept HasFields = is_structure<P> && requires(P& part) { P::fields(part); };

// Calls f(part, path) for what a structure, vector or tuple holds directly, in order.
template <class M, class F>
void for_each_part(M& whole, const Path& path, const F& f) {
  using P = std::remove_const_t<M>;
  if constexpr (is_vector<P>) {
    for (std::size_t i = 0; i < whole.size(); ++i) f(whole[i], Path(path, i));
  } else if constexpr (is_tuple<P>) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f(std::get<I>(whole), Path(path, I)), ...);
    }(std::make_index_sequence<std::tuple_size_v<P>>{});
  } else if constexpr (is_named<P>) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f(std::get<I>(whole.values), Path(path, whole.names[I])), ...);
    }(std::make_index_sequence<std::tuple_size_v<decltype(whole.values)>>{});
  } else {
    auto fields = P::fields(whole);
    for_each_part(fields, path, f);
  }
}

// Returns f(... f(value, type) ..., type) over the types of the structures of M, std::type_identity each, the outer
// ones first.
template <class M, class V, class F>
constexpr V fold_structures(V value, const F& f) {
  if constexpr (is_vector<M>)
    return fold_structures<typename M::value_type>(value, f);
  else if constexpr (is_tuple<M>)
    return [&]<class... P>(std::type_identity<std::tuple<P...>>) {
      ((value = fold_structures<std::remove_cvref_t<P>>(value, f)), ...);
      return value;
    }(std::type_identity<M>{});
  else if constexpr (is_named<M>)
    return fold_structures<decltype(M::values)>(value, f);
  else if constexpr (HasFields<M>)
    return fold_structures<decltype(M::fields(std::declval<M&>()))>(f(value, std::type_identity<M>{}), f);
  else if constexpr (is_structure<M>)
    return f(value, std::type_identity<M>{});
  else
    return value;
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
