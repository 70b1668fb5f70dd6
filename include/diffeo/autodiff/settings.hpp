// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <cstdint>
#include <diffeo/autodiff/leaves.hpp>
#include <diffeo/core/error.hpp>
#include <optional>
#include <sstream>
#include <variant>

/// The settings of a model: everything besides its leaves that decides what it computes (see fields.hpp).
namespace diffeo::inline DIFFEO_ISA {

/// The value of one setting. Enumerations and the names of alternatives are texts.
using SettingValue =
    std::variant<bool, std::int64_t, std::uint64_t, double, std::string, std::vector<Index>, std::vector<double>>;

inline std::string to_string(const SettingValue& value) {
  std::ostringstream out;
  const auto write = [&out]<class N>(const N& number) {
    if constexpr (std::is_arithmetic_v<N>) {
      char digits[32];  // the shortest that read back as the same number, in any locale
      out.write(digits, std::to_chars(digits, digits + sizeof(digits), number).ptr - digits);
    } else {
      out << number;
    }
  };
  std::visit(
      [&]<class V>(const V& v) {
        if constexpr (std::is_same_v<V, bool>) {
          out << (v ? "true" : "false");
        } else if constexpr (requires { v.front(); } && !std::is_same_v<V, std::string>) {
          out << '[';
          for (std::size_t i = 0; i < v.size(); ++i) {
            out << (i > 0 ? ", " : "");
            write(v[i]);
          }
          out << ']';
        } else {
          write(v);
        }
      },
      value);
  return out.str();
}

/// One setting of a model, with its path.
struct Setting {
  std::string path;
  SettingValue value;

  friend bool operator==(const Setting&, const Setting&) = default;
};

namespace detail {

template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;
template <class T>
inline constexpr bool is_variant = false;
template <class... T>
inline constexpr bool is_variant<std::variant<T...>> = true;

template <class P>
concept HasSettings = requires(const P& p) { P::settings(p); };

// A list of floating-point numbers (Number = double) or of integers.
template <class V, class Number>
concept ListOf = requires(const V& list) {
  list.begin();
  list.end();
  requires std::is_arithmetic_v<std::remove_cvref_t<decltype(*list.begin())>>;
  requires std::is_floating_point_v<std::remove_cvref_t<decltype(*list.begin())>> == std::is_floating_point_v<Number>;
};

// A setting that is a single value.
template <class V>
SettingValue setting_value(const V& value) {
  if constexpr (std::is_same_v<V, bool>)
    return value;
  else if constexpr (std::is_enum_v<V>)
    return std::string(to_string(value));
  else if constexpr (std::is_same_v<V, std::uint64_t>)
    return value;
  else if constexpr (std::is_integral_v<V>)
    return static_cast<std::int64_t>(value);
  else if constexpr (std::is_floating_point_v<V>)
    return static_cast<double>(value);
  else if constexpr (std::is_convertible_v<const V&, std::string_view>)
    return std::string(std::string_view(value));
  else if constexpr (ListOf<V, double>)
    return std::vector<double>(value.begin(), value.end());
  else if constexpr (ListOf<V, Index>)
    return std::vector<Index>(value.begin(), value.end());
  else
    static_assert(!sizeof(V), "settings: expected a value or list of a type that fields.hpp names");
}

template <class Values>
void add_settings(const Values& named, const Path& path, std::vector<Setting>& list);

template <class V>
void add_setting(const V& value, const Path& path, std::vector<Setting>& list) {
  if constexpr (HasSettings<V>)
    add_settings(V::settings(value), path, list);
  else if constexpr (is_variant<V>)
    std::visit([&](const auto& alternative) { add_setting(alternative, path, list); }, value);
  else if constexpr (is_optional<V>)
    value ? add_setting(*value, path, list) : list.push_back({path.str(), std::string("none")});
  else
    list.push_back({path.str(), setting_value(value)});
}

template <class Values>
void add_settings(const Values& named, const Path& path, std::vector<Setting>& list) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (add_setting(std::get<I>(named.values), Path(path, named.names[I]), list), ...);
  }(std::make_index_sequence<std::tuple_size_v<decltype(named.values)>>{});
}

// Calls enter(path, part) for every structure of a model, from the outside inwards.
template <class M, class F>
void walk_structures(M& part, const Path& path, const F& enter) {
  using P = std::remove_const_t<M>;
  if constexpr (is_structure<P>) enter(path, part);
  if constexpr (!is_parameter<P> && !is_buffer<P> && (!is_structure<P> || HasFields<P>))
    for_each_part(part, path, [&enter](auto& inner, const Path& place) { walk_structures(inner, place, enter); });
}

}  // namespace detail

/// Returns the settings of a model and all its parts, the outer ones first. Layers without settings() give none.
template <class M>
std::vector<Setting> settings_of(const M& model) {
  std::vector<Setting> list;
  detail::walk_structures(model, Path(), [&list](const Path& path, const auto& part) {
    using P = std::remove_cvref_t<decltype(part)>;
    if constexpr (detail::HasSettings<P>) detail::add_settings(P::settings(part), path, list);
  });
  return list;
}

/// Throws invalid_argument where a part of a model, for instance one that was put together by hand, does not fit
/// together: calls check() of every part that has one and names the part's path in the message.
template <class M>
void check_structure(const M& model) {
  detail::walk_structures(model, Path(), [](const Path& path, const auto& part) {
    if constexpr (requires { part.check(); }) {
      try {
        part.check();
      } catch (const invalid_argument& e) {
        const std::string place = path.str();
        throw invalid_argument(place.empty() ? std::string(e.what()) : place + ": " + e.what());
      }
    }
  });
}

namespace detail {

// Runs an evaluation of a model. Where that throws invalid_argument because the model's parts do not fit together, the
// error names the part.
template <class M>
void evaluate_checked(const M& model, FunctionRef<void()> evaluate) {
  try {
    evaluate();
  } catch (const invalid_argument&) {
    check_structure(model);
    throw;
  }
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
