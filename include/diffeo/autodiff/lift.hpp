// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/parameter.hpp>
#include <tuple>
#include <vector>

/// Reflection over the parameters of a structure. A structure offers `static auto fields(Self& self)`, a std::tie of
/// its parameters (param_t<T>), buffers (Buffer<T>) and parts, and `rebind<U>()`, the same structure over U with
/// parameters still to be set. All orders below are that of the fields.
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

// Calls f(a, b...) on corresponding parameters or buffers of structures of the same shape.
template <class F, class A, class... B>
void visit(const F& f, A& a, B&... b) {
  using T = std::remove_const_t<A>;
  if constexpr (is_parameter<T> || is_buffer<T>) {
    f(a, b...);
  } else if constexpr (is_vector<T>) {
    for (std::size_t i = 0; i < a.size(); ++i) visit(f, a[i], b[i]...);
  } else if constexpr (is_tuple<T>) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      [[maybe_unused]] const auto part = [&]<std::size_t K>(std::integral_constant<std::size_t, K>) {
        visit(f, std::get<K>(a), std::get<K>(b)...);
      };
      (part(std::integral_constant<std::size_t, I>{}), ...);
    }(std::make_index_sequence<std::tuple_size_v<T>>{});
  } else {
    [&](auto fields, auto... other) { visit(f, fields, other...); }(T::fields(a), std::remove_const_t<B>::fields(b)...);
  }
}

}  // namespace detail

/// How far parameters have moved since what is computed from them was brought up to date.
enum class ParameterChange {
  any,         ///< anywhere: what is computed must be a function of the parameters alone
  small_step,  ///< by a step of training: may start from what was computed last
};

namespace detail {

template <class T>
struct Refreshes {
  template <class U>
  static constexpr bool of_parts() {
    if constexpr (is_vector<U>)
      return Refreshes<typename U::value_type>::value;
    else if constexpr (is_tuple<U>)
      return []<class... P>(std::type_identity<std::tuple<P...>>) {
        return (Refreshes<std::remove_cvref_t<P>>::value || ...);
      }(std::type_identity<U>{});
    else if constexpr (is_parameter<U> || is_buffer<U>)
      return false;
    else
      return Refreshes<decltype(U::fields(std::declval<U&>()))>::value;
  }
  static constexpr bool value = requires(T& t) { t.refresh(ParameterChange::any); } || of_parts<T>();
};

}  // namespace detail

/// Whether a structure holds parts with something computed from parameters: they offer refresh(ParameterChange), which
/// brings it up to date.
template <class M>
inline constexpr bool refreshes = detail::Refreshes<M>::value;

/// Brings all that is computed from parameters up to date. set_parameters() does so itself; call it after parameters
/// were changed by hand.
template <class M>
void refresh(M& model, ParameterChange change = ParameterChange::any) {
  if constexpr (detail::is_vector<M>) {
    if constexpr (refreshes<M>)
      for (auto& part : model) refresh(part, change);
  } else if constexpr (detail::is_tuple<M>) {
    std::apply([&](auto&... parts) { (refresh(parts, change), ...); }, model);
  } else if constexpr (refreshes<M>) {
    auto fields = M::fields(model);
    refresh(fields, change);
    if constexpr (requires { model.refresh(change); }) model.refresh(change);
  }
}

/// Calls f on every parameter (an array or Var) of a structure.
template <class M, class F>
void for_each_parameter(M& model, const F& f) {
  detail::visit(
      [&f](auto& field) {
        if constexpr (detail::is_parameter<std::remove_cvref_t<decltype(field)>>) f(field);
      },
      model);
}

/// Calls f on the array of every parameter and buffer: all that must be saved to restore the structure.
template <class M, class F>
void for_each_array(M& model, const F& f) {
  detail::visit(
      [&f](auto& field) {
        if constexpr (detail::is_buffer<std::remove_cvref_t<decltype(field)>>)
          f(field.value);
        else
          f(field);
      },
      model);
}

/// Number of trainable values.
template <class M>
Index parameter_count(const M& model) {
  Index count = 0;
  for_each_parameter(model, [&count](const auto& p) { count += p.size(); });
  return count;
}

/// The trainable values one after another, each array column by column.
template <class M>
auto parameters(const M& model) {
  Array<typename M::Scalar> flat(parameter_count(model), 1);
  Index at = 0;
  for_each_parameter(model, [&](const auto& p) {
    std::copy_n(p.data(), p.size(), flat.data() + at);
    at += p.size();
  });
  return flat;
}

/// Sets the trainable values from a flat vector, and brings up to date what depends on them. Throws invalid_argument
/// when the length differs.
template <class M>
void set_parameters(M& model, const Array<typename M::Scalar>& flat, ParameterChange change = ParameterChange::any) {
  require(flat.size() == parameter_count(model), "set_parameters: ", flat.size(), " values, the model has ",
          parameter_count(model));
  Index at = 0;
  for_each_parameter(model, [&](auto& p) {
    std::copy_n(flat.data() + at, p.size(), p.data());
    at += p.size();
  });
  refresh(model, change);
}

namespace detail {

// The structure over Var, with parameter(from, at) for each parameter that begins `at` values into the flat vector.
template <class M, class Parameter>
auto lift_with(Tape<typename M::Scalar>& tape, const M& model, const Parameter& parameter) {
  auto lifted = model.template rebind<Var<typename M::Scalar>>();
  Index at = 0;
  visit(
      [&](const auto& from, auto& to) {
        if constexpr (is_buffer<std::remove_cvref_t<decltype(from)>>) {
          to.value = tape.persistent_constant(view(from.value));
        } else {
          to = parameter(from, at);
          at += from.size();
        }
      },
      model, lifted);
  return lifted;
}

}  // namespace detail

/// The same structure with tape variables for parameters. Their values are those at `values`, a flat vector in the
/// order of parameters() that the caller keeps alive and may change between sweeps; their gradients go to `grads`, of
/// the same layout. Buffers become constants that refer to `model`.
template <class M>
auto lift(Tape<typename M::Scalar>& tape, const M& model, typename M::Scalar* values, typename M::Scalar* grads) {
  return detail::lift_with(tape, model, [&](const auto& from, Index at) {
    return tape.parameter({values + at, from.rows(), from.cols(), from.rows()}, grads ? grads + at : nullptr);
  });
}

/// The same structure with constants for parameters: of what is computed with it, no gradient reaches the parameters.
/// Otherwise as lift().
template <class M>
auto lift_detached(Tape<typename M::Scalar>& tape, const M& model, const typename M::Scalar* values) {
  return detail::lift_with(tape, model, [&](const auto& from, Index at) {
    return tape.persistent_constant({values + at, from.rows(), from.cols(), from.rows()});
  });
}

}  // namespace diffeo::inline DIFFEO_ISA
