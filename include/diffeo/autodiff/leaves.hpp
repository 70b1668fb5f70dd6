// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/autodiff/fields.hpp>
#include <diffeo/autodiff/parameter.hpp>
#include <diffeo/autodiff/refresh.hpp>
#include <diffeo/core/function_ref.hpp>
#include <vector>

/// The leaves of a model: its parameters and buffers, found through its fields (see fields.hpp), in their order.
namespace diffeo::inline DIFFEO_ISA {

/// What a leaf is: trained, or kept with the model but not trained.
enum class LeafKind { parameter, buffer };

inline const char* to_string(LeafKind kind) { return kind == LeafKind::parameter ? "parameter" : "buffer"; }

namespace detail {

// The type of the leaves of P: Array<S> or Var<S>; void where there are none.
template <class P>
struct LeafTypeOf;
template <class... P>
struct FirstLeafType {
  using type = void;
};
template <class P, class... Rest>
struct FirstLeafType<P, Rest...> {
  using first = typename LeafTypeOf<std::remove_cvref_t<P>>::type;
  using type =
      typename std::conditional_t<std::is_void_v<first>, FirstLeafType<Rest...>, std::type_identity<first>>::type;
};
template <class F>
struct LeafTypeOfFields;
template <class... T>
struct LeafTypeOfFields<Named<T...>> : FirstLeafType<T...> {};
template <class... T>
struct LeafTypeOfFields<std::tuple<T...>> : FirstLeafType<T...> {};
template <class P>
struct LeafTypeOf {
  static auto find() {
    if constexpr (is_parameter<P>)
      return std::type_identity<P>{};
    else if constexpr (is_buffer<P>)
      return std::type_identity<decltype(P::value)>{};
    else if constexpr (is_vector<P>)
      return std::type_identity<typename LeafTypeOf<typename P::value_type>::type>{};
    else if constexpr (is_tuple<P>)
      return std::type_identity<typename LeafTypeOfFields<P>::type>{};
    else
      return std::type_identity<typename LeafTypeOfFields<decltype(P::fields(std::declval<P&>()))>::type>{};
  }
  using type = typename decltype(find())::type;
};

template <class M>
struct LeafTypeOfModel {
  using found = typename LeafTypeOf<M>::type;
  static auto find() {
    if constexpr (!std::is_void_v<found>)
      return std::type_identity<found>{};
    else if constexpr (requires { typename M::Scalar; })
      return std::type_identity<Array<typename M::Scalar>>{};
    else
      return std::type_identity<Array<double>>{};
  }
  using type = typename decltype(find())::type;
};

template <class Leaf>
using LeafSink = FunctionRef<void(const Path&, LeafKind, Leaf&)>;

template <class Leaf, class M>
void walk_leaves(M& part, const Path& path, const LeafSink<Leaf>& sink) {
  using P = std::remove_const_t<M>;
  if constexpr (is_parameter<P>) {
    sink(path, LeafKind::parameter, part);
  } else if constexpr (is_buffer<P>) {
    sink(path, LeafKind::buffer, part.value);
  } else {
    for_each_part(part, path, [&sink](auto& inner, const Path& place) { walk_leaves<Leaf>(inner, place, sink); });
  }
}

}  // namespace detail

/// The type of a model's leaves: Array<S>, or Var<S> for a model that was lifted to a tape.
template <class M>
using leaf_t = typename detail::LeafTypeOfModel<std::remove_const_t<M>>::type;

/// Calls f(path, kind, leaf) for every parameter and buffer, `leaf` an Array or Var (const where the model is).
/// Allocates nothing.
template <class M, class F>
void for_each_leaf(M& model, const F& f) {
  using Leaf = std::conditional_t<std::is_const_v<M>, const leaf_t<M>, leaf_t<M>>;
  detail::walk_leaves<Leaf>(model, Path(), detail::LeafSink<Leaf>(f));
}

/// Calls f(parameter) for every parameter, an Array or Var.
template <class M, class F>
void for_each_parameter(M& model, const F& f) {
  for_each_leaf(model, [&f](const Path&, LeafKind kind, auto& leaf) {
    if (kind == LeafKind::parameter) f(leaf);
  });
}

/// One parameter or buffer of a model, with its path.
template <class T>
struct Leaf {
  std::string path;
  T* array;  ///< points into the model
  LeafKind kind;
};

/// Returns the parameters and buffers of a model with their paths, in the order of its fields.
template <class M>
auto leaves(M& model) {
  using T = std::conditional_t<std::is_const_v<M>, const leaf_t<M>, leaf_t<M>>;
  std::vector<Leaf<T>> list;
  for_each_leaf(model, [&list](const Path& path, LeafKind kind, T& leaf) {
    list.push_back({path.str(), &leaf, kind});
  });
  return list;
}

/// Whether a model of that type can have leaves at all.
template <class M>
inline constexpr bool has_leaves = !std::is_void_v<typename detail::LeafTypeOf<std::remove_const_t<M>>::type>;

/// Calls f(kind, from_leaf, to_leaf) for corresponding leaves of two models of the same structure, which may be over
/// different scalars or variables. Pointers to the leaves of `from` are kept in `memory`, room for at least
/// leaf_count(from) pointers to const leaf_t<From>. Throws invalid_argument where `to` has more leaves or fewer, for
/// instance because rebind() made a vector of arrays of another length.
template <class From, class To, class Pointer, class F>
void for_each_leaf_pair(From& from, To& to, Pointer* memory, const F& f) {
  if constexpr (has_leaves<From> && has_leaves<To>) {
    std::size_t count = 0, at = 0;
    for_each_leaf(from, [&](const Path&, LeafKind, auto& leaf) { memory[count++] = &leaf; });
    for_each_leaf(to, [&](const Path& path, LeafKind kind, auto& leaf) {
      if (at == count) throw invalid_argument("rebind: " + path.str() + " has no counterpart in the model");
      f(kind, *memory[at++], leaf);
    });
    if (at == count) return;
    std::size_t place = 0;
    for_each_leaf(from, [&](const Path& path, LeafKind, const auto&) {
      if (place++ == at) throw invalid_argument("rebind: " + path.str() + " of the model has no counterpart");
    });
  }
}

/// Number of parameters and buffers.
template <class M>
std::size_t leaf_count(const M& model) {
  std::size_t count = 0;
  for_each_leaf(model, [&count](const Path&, LeafKind, const auto&) { ++count; });
  return count;
}

/// Number of trainable values.
template <class M>
Index parameter_count(const M& model) {
  Index count = 0;
  for_each_parameter(model, [&count](const auto& p) { count += p.size(); });
  return count;
}

/// Returns the trainable values one after another, each array column by column.
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

/// Returns path and place of one entry of the flat vector of parameters(), for messages:
/// "flow.layers.0.weight(row 2, col 1)". Throws invalid_argument for an index out of range.
template <class M>
std::string parameter_name(const M& model, Index index) {
  require(index >= 0 && index < parameter_count(model), "parameter_name: index ", index, ", the model has ",
          parameter_count(model), " parameters");
  std::string name;
  for_each_leaf(model, [&](const Path& path, LeafKind kind, const auto& leaf) {
    if (kind != LeafKind::parameter) return;
    if (index >= 0 && index < leaf.size())
      name = concat_message(path.str(), "(row ", index % leaf.rows(), ", col ", index / leaf.rows(), ")");
    index -= leaf.size();
  });
  return name;
}

}  // namespace diffeo::inline DIFFEO_ISA
