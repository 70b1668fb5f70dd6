// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <diffeo/core/instruction_set.hpp>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

/// What a structure (a layer, a network, a distribution) says about itself, in one line each:
///
///     template <class Self> static auto fields(Self& self) {
///       return diffeo::fields("weight", self.weight, "bias", self.bias);  // parameters, buffers and parts
///     }
///     template <class Self> static auto settings(Self& self) {  // optional
///       return diffeo::settings("kind", "dense", "activation", self.activation);  // what is neither
///     }
///
/// Fields are what is trained or saved: parameters (param_t<T>), buffers (Buffer<T>), and parts that have fields of
/// their own: structures, vectors and tuples of them. A field named "" adds nothing to the paths of what it holds.
/// Settings are everything else that decides what the structure computes; they are the same for all scalars, and
/// rebind<U>() copies them. The setting "kind" names the type of the structure. A setting is a bool, an integer, a
/// floating-point number, an enumeration with to_string(), a text, a vector of integers, an optional or a variant of
/// such, or a structure with settings of its own.
///
/// `fields` may also return std::tie(...) of the fields; they are then named by their numbers.
namespace diffeo::inline DIFFEO_ISA {

/// Names and values, in order: references where they were lvalues, else copies. The result of fields() and settings().
template <class... T>
struct Named {
  std::array<std::string_view, sizeof...(T)> names;
  std::tuple<T...> values;
};

namespace detail {

// How a value is held: by reference where it was an lvalue. A text literal is a value, not a variable of the structure.
template <class T>
struct NamedType {
  using type = T;  // T& for lvalues
};
template <class T>
struct NamedType<T&&> {
  using type = T;
};
template <std::size_t N>
struct NamedType<const char (&)[N]> {
  using type = std::string_view;
};

template <class T>
inline constexpr bool lists_references = std::is_lvalue_reference_v<T>;
template <class... T>
inline constexpr bool lists_references<std::tuple<T...>> = (std::is_lvalue_reference_v<T> && ...);
template <class... T>
inline constexpr bool lists_references<Named<T...>> = (lists_references<T> && ...);

// Whether every second argument is an lvalue or a list of references.
template <class... Args>
constexpr bool refer_to_fields() {
  bool all = true, field = false;
  ((all = all && (!field || lists_references<Args>), field = !field), ...);
  return all;
}

template <class... Args, std::size_t... I>
auto named(std::index_sequence<I...>, [[maybe_unused]] std::tuple<Args...> args) {
  using Tuple = std::tuple<Args...>;
  return Named<typename NamedType<std::tuple_element_t<2 * I + 1, Tuple>>::type...>{
      {std::string_view(std::get<2 * I>(args))...},
      {std::forward<std::tuple_element_t<2 * I + 1, Tuple>>(std::get<2 * I + 1>(args))...}};
}

}  // namespace detail

/// Returns the fields of a structure: alternating names and references to them. A field may also be a temporary list of
/// references: std::tie(...) or fields(...).
template <class... Args>
auto fields(Args&&... args) {
  static_assert(sizeof...(Args) % 2 == 0, "fields: expected a name before each field");
  static_assert(detail::refer_to_fields<Args...>(), "fields: a field is a temporary value, expected a reference to it");
  return detail::named(std::make_index_sequence<sizeof...(Args) / 2>{},
                       std::tuple<Args&&...>(std::forward<Args>(args)...));
}

/// Returns the settings of a structure: alternating names and values.
template <class... Args>
auto settings(Args&&... args) {
  static_assert(sizeof...(Args) % 2 == 0, "settings: expected a name before each setting");
  return detail::named(std::make_index_sequence<sizeof...(Args) / 2>{},
                       std::tuple<Args&&...>(std::forward<Args>(args)...));
}

/// The place of a part inside a model, as a chain of names from the part to the model. Paths live on the stack while a
/// model is walked through; str() makes a text like "flow.layers.0.12.conditioner.layers.1.weight".
class Path {
 public:
  Path() = default;
  Path(const Path& parent, std::string_view name) : parent_(&parent), name_(name) {}
  Path(const Path& parent, std::size_t index) : parent_(&parent), index_(index), is_index_(true) {}

  std::string str() const {
    std::string text = parent_ ? parent_->str() : std::string();
    if (!is_index_ && name_.empty()) return text;
    if (!text.empty()) text += '.';
    return is_index_ ? text + std::to_string(index_) : text.append(name_);
  }

 private:
  const Path* parent_ = nullptr;
  std::string_view name_;
  std::size_t index_ = 0;
  bool is_index_ = false;
};

}  // namespace diffeo::inline DIFFEO_ISA
