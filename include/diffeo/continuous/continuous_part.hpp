// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/leaves.hpp>
#include <diffeo/continuous/cnf.hpp>
#include <diffeo/layers/conditional.hpp>
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <tuple>
#include <type_traits>

/// The continuous flow inside another flow: the Cnf itself, the first layer of a FlowSequence, or either of them within
/// conditional() and given().
namespace diffeo::inline DIFFEO_ISA::detail {

template <class F>
inline constexpr bool is_cnf = false;
template <class Field>
inline constexpr bool is_cnf<Cnf<Field>> = true;

template <class F>
inline constexpr bool is_flow_sequence = false;
template <class... Layers>
inline constexpr bool is_flow_sequence<FlowSequence<Layers...>> = true;

template <class F>
inline constexpr bool is_given = false;
template <class T, class F>
inline constexpr bool is_given<Given<T, F>> = true;

/// Number of continuous flows among the types of the parts of M.
template <class M>
inline constexpr int cnf_count =
    fold_structures<M>(0, [](int count, auto type) { return count + (is_cnf<typename decltype(type)::type> ? 1 : 0); });

/// Whether use_continuous_part() finds one continuous flow in F, and data_side() one alone.
template <class F>
constexpr bool leads_to_cnf() {
  if constexpr (is_cnf<F>) {
    return true;
  } else if constexpr (is_flow_sequence<F>) {
    using Layers = decltype(F::layers);
    return leads_to_cnf<std::tuple_element_t<0, Layers>>() && cnf_count<F> == 1;
  } else if constexpr (is_conditional<F> || is_given<F>) {
    return leads_to_cnf<decltype(F::flow)>();
  } else {
    return false;
  }
}

/// Throws invalid_argument unless F is a flow of which leads_to_cnf() is true. `who` begins the message.
template <class F>
void require_continuous_part(const char* who) {
  require(cnf_count<F> == 1, who, ": the model has ", cnf_count<F>, " continuous flows, expected one");
  require(leads_to_cnf<F>(), who,
          ": expected the continuous flow as the first layer, with nothing but layers without parameters behind it");
}

/// Returns use(cnf, c), where c is the context that the field of the continuous flow gets for the context of the whole
/// flow. Both are N x C or 1 x C, and empty where there is none.
template <class F, Real S, class Use>
  requires(leads_to_cnf<F>())
auto use_continuous_part(const F& flow, Tape<S>& tape, const Var<S>& context, const Use& use) {
  if constexpr (is_cnf<F>) {
    return use(flow, context);
  } else if constexpr (is_flow_sequence<F>) {
    return use_continuous_part(std::get<0>(flow.layers), tape, context, use);
  } else if constexpr (is_conditional<F>) {
    return use_continuous_part(flow.flow, tape, flow.embedded(context), use);
  } else {
    const Var<S> given = [&] {
      if constexpr (is_var<std::remove_cvref_t<decltype(flow.context.value)>>)
        return flow.context.value;
      else
        return tape.constant_of_all_tiles(flow.context.value);
    }();
    return use_continuous_part(flow.flow, tape, given, use);
  }
}

/// Returns the values of a field at times t (N x 1) and points y (N x D), given the context as use_continuous_part()
/// passes it.
template <class Field, Real S>
Var<S> velocity_of_field(const Field& field, const Var<S>& t, const Var<S>& y, const Var<S>& context) {
  if constexpr (TakesContext<Field>) {
    if (const Index dim = diffeo::context_dim(field); dim > 0) {
      require_context("field", context, y.rows(), dim);
      return field(t, y, TakesContextAsBias<Field> ? context : row_for_each(context, y.rows()));
    }
  }
  return field(t, y);
}

/// Returns where the layers behind the continuous flow, which must have no parameters and take no context, put the
/// points x (N x D): the coordinates in which the field moves them. The other direction if `back`.
template <class F, Real S>
Array<S> data_side(const char* who, const F& flow, Array<S> x, bool back = false) {
  if constexpr (is_cnf<F>) {
    return x;
  } else if constexpr (is_flow_sequence<F>) {
    constexpr std::size_t count = std::tuple_size_v<decltype(flow.layers)>;
    const auto apply = [&](std::size_t place, const auto& layer) {
      require(parameter_count(layer) == 0 && diffeo::context_dim(layer) == 0, who, ": layer ", place,
              " behind the continuous flow has parameters or takes a context, expected one with neither");
      x = back ? diffeo::forward(layer, x).value : diffeo::inverse(layer, x).value;
    };
    if (back) x = data_side(who, std::get<0>(flow.layers), std::move(x), true);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      if (back)
        (apply(I + 1, std::get<I + 1>(flow.layers)), ...);
      else
        (apply(count - 1 - I, std::get<count - 1 - I>(flow.layers)), ...);
    }(std::make_index_sequence<count - 1>{});
    return back ? x : data_side(who, std::get<0>(flow.layers), std::move(x));
  } else {
    return data_side(who, flow.flow, std::move(x), back);
  }
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
