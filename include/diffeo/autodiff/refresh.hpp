// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/fields.hpp>
#include <diffeo/autodiff/parameter.hpp>
#include <vector>

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

}  // namespace detail

/// How far parameters have moved since what is computed from them was brought up to date.
enum class ParameterChange {
  any,         ///< anywhere: what is computed must be a function of the parameters alone
  small_step,  ///< by a step of training: may start from what was computed last
};

namespace detail {

template <class T>
struct Refreshes {
  template <class... P>
  static constexpr bool any_of(std::type_identity<std::tuple<P...>>) {
    return (Refreshes<std::remove_cvref_t<P>>::value || ...);
  }
  template <class U>
  static constexpr bool of_parts() {
    if constexpr (is_vector<U>)
      return Refreshes<typename U::value_type>::value;
    else if constexpr (is_tuple<U>)
      return any_of(std::type_identity<U>{});
    else if constexpr (is_named<U>)
      return any_of(std::type_identity<decltype(U::values)>{});
    else if constexpr (is_parameter<U> || is_buffer<U>)
      return false;
    else
      return Refreshes<decltype(U::fields(std::declval<U&>()))>::value;
  }
  static constexpr bool value = requires(T& t) { t.refresh(ParameterChange::any); } || of_parts<T>();
};

}  // namespace detail

/// Whether a structure holds parts with buffers that are computed from parameters: such a part offers
/// refresh(ParameterChange), which computes them again. refresh() must write into the arrays that are there and not
/// replace them by arrays of another size, because lifted copies of the model refer to their memory.
template <class M>
inline constexpr bool refreshes = detail::Refreshes<M>::value;

/// Computes again all buffers that depend on parameters. set_parameters() does so itself; call it after parameters were
/// changed by hand.
template <class M>
void refresh(M& model, ParameterChange change = ParameterChange::any) {
  if constexpr (!refreshes<M>) {
    return;
  } else if constexpr (detail::is_vector<M>) {
    for (auto& part : model) refresh(part, change);
  } else if constexpr (detail::is_tuple<M>) {
    std::apply([&](auto&... parts) { (refresh(parts, change), ...); }, model);
  } else if constexpr (detail::is_named<M>) {
    refresh(model.values, change);
  } else {
    auto fields = M::fields(model);
    refresh(fields, change);
    if constexpr (requires { model.refresh(change); }) model.refresh(change);
  }
}

}  // namespace diffeo::inline DIFFEO_ISA
