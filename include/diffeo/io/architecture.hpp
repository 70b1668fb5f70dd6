// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <diffeo/autodiff/describe.hpp>
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/function_ref.hpp>
#include <diffeo/data/text.hpp>
#include <diffeo/io/json.hpp>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// What a model consists of besides the values of its arrays, as a JSON text.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

/// Returns the value of a setting as JSON. Numbers have as many digits as it takes to read them back as they are; those
/// that JSON does not have are the texts "inf", "-inf" and "nan".
inline std::string json_of(const SettingValue& value, const std::string& what) {
  if (const auto* text = std::get_if<std::string>(&value)) return json_quoted(*text, what);
  if (const auto* number = std::get_if<double>(&value)) {
    if (!std::isfinite(*number)) return '"' + to_string(value) + '"';
    if (*number == 0 && std::signbit(*number)) return "-0.0";  // as an integer it would lose its sign
  }
  const auto list_of = [&what](const auto& list) {
    std::string text = "[";
    for (const auto number : list) text += (text.size() > 1 ? "," : "") + json_of(setting_value(number), what);
    return text + ']';
  };
  if (const auto* list = std::get_if<std::vector<double>>(&value)) return list_of(*list);
  if (const auto* list = std::get_if<std::vector<Index>>(&value)) return list_of(*list);
  return to_string(value);
}

inline void append_settings(const std::vector<Setting>& settings, std::string& json) {
  json += "\"settings\":{";
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const std::string what = "save: the setting " + settings[i].path;
    json += (i > 0 ? "," : "") + json_quoted(settings[i].path, what) + ':' + json_of(settings[i].value, what);
  }
  json += '}';
}

template <class M>
void append_part(const M& part, std::string& json) {
  using P = std::remove_const_t<M>;
  if constexpr (is_parameter<P>) {
    json += concat_message("{\"parameter\":[", part.rows(), ',', part.cols(), "]}");
  } else if constexpr (is_buffer<P>) {
    json += concat_message("{\"buffer\":[", part.value.rows(), ',', part.value.cols(), "]}");
  } else if constexpr (is_vector<P> || is_tuple<P>) {
    json += '[';
    for_each_part(part, Path(), [&json](const auto& inner, const Path&) {
      if (!json.ends_with('[')) json += ',';
      append_part(inner, json);
    });
    json += ']';
  } else {
    json += '{';
    if constexpr (HasSettings<P>) {
      std::vector<Setting> settings;
      add_settings(P::settings(part), Path(), settings);
      append_settings(settings, json);
    }
    if constexpr (!is_structure<P> || HasFields<P>) {
      json += json.ends_with('{') ? "\"fields\":[" : ",\"fields\":[";
      for_each_part(part, Path(), [&json](const auto& inner, const Path& name) {
        json += (json.ends_with('[') ? "[" : ",[") + json_quoted(name.str(), "save: the name of a field") + ',';
        append_part(inner, json);
        json += ']';
      });
      json += ']';
    }
    json += '}';
  }
}

}  // namespace detail

/// Returns the structure of a model as JSON, from which it could be built again. Each part is one of
///
/// | part                               | JSON                                                                        |
/// |------------------------------------|-----------------------------------------------------------------------------|
/// | parameter, buffer                  | {"parameter": [rows, columns]}, {"buffer": [rows, columns]}                 |
/// | vector or tuple                    | [part, ...]                                                                 |
/// | structure (layer, network, ...)    | {"settings": {"kind": ..., ...}, "fields": [["name", part], ...]}           |
///
/// with settings and fields in the order in which the structure lists them. A setting of a setting is called by both
/// names with a dot between them. Throws invalid_argument for texts that are not UTF-8.
template <class M>
std::string architecture_of(const M& model) {
  std::string json;
  detail::append_part(model, json);
  return json;
}

namespace detail {

/// Reads the JSON of a structure and calls a function for each setting, with its path and its value as to_string()
/// writes it, and one for each parameter and buffer.
class ArchitectureReader final : public JsonReader {
 public:
  using OnSetting = FunctionRef<void(const std::string& path, const std::string& value)>;
  using OnLeaf = FunctionRef<void(const LeafShape&)>;

  ArchitectureReader(const std::string& file, OnSetting on_setting, OnLeaf on_leaf)
      : JsonReader(file + ": the architecture"), on_setting_(on_setting), on_leaf_(on_leaf) {}

  bool boolean(bool value) override { return setting(value ? "true" : "false") || JsonReader::boolean(value); }
  bool number_integer(std::int64_t value) override {
    return setting(std::to_string(value)) || JsonReader::number_integer(value);
  }
  bool number_unsigned(std::uint64_t value) override {
    if (top() == Place::sizes) {
      if (sizes_ == 2 || value > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) fail("an absurd shape");
      (sizes_++ == 0 ? leaf_.rows : leaf_.cols) = static_cast<Index>(value);
      return true;
    }
    return setting(std::to_string(value)) || JsonReader::number_unsigned(value);
  }
  bool number_float(double value, const std::string&) override {
    return setting(to_string(SettingValue(value))) || JsonReader::number_float(value, {});
  }
  bool string(std::string& value) override {
    if (top() == Place::field) {
      replace(Place::field_end);
      enter(value);
      push(Place::part);
      return true;
    }
    return setting(value) || JsonReader::string(value);
  }
  bool start_object(std::size_t) override {
    if (top() == Place::part)
      replace(Place::structure);
    else if (top() == Place::list)
      enter_element(Place::structure);
    else if (top() == Place::settings_value)
      replace(Place::settings);
    else
      return JsonReader::start_object(0);
    return true;
  }
  bool key(std::string& key) override {
    if (top() == Place::settings) {
      const std::size_t outside = path_.size();
      enter(key);
      push(Place::setting, outside);
    } else if (top() == Place::structure && key == "settings") {
      push(Place::settings_value);
    } else if (top() == Place::structure && key == "fields") {
      push(Place::fields_value);
    } else if (top() == Place::structure && (key == "parameter" || key == "buffer")) {
      leaf_.kind = key == "parameter" ? LeafKind::parameter : LeafKind::buffer;
      push(Place::sizes_value);
    } else {
      fail(excerpt(key) + " is unknown");
    }
    return true;
  }
  bool end_object() override { return pop(); }
  bool start_array(std::size_t) override {
    switch (top()) {
      case Place::part:
        replace(Place::list);
        break;
      case Place::list:
        enter_element(Place::list);
        break;
      case Place::fields_value:
        replace(Place::fields);
        break;
      case Place::fields:
        push(Place::field);
        break;
      case Place::setting:
        replace(Place::values);
        values_ = "[";
        break;
      case Place::sizes_value:
        replace(Place::sizes);
        sizes_ = 0;
        break;
      default:
        return JsonReader::start_array(0);
    }
    return true;
  }
  bool end_array() override {
    const Place place = top();
    if (place != Place::list && place != Place::values && place != Place::fields && place != Place::field_end &&
        place != Place::sizes)
      return JsonReader::end_array();
    if (place == Place::values) on_setting_(path_, values_ + ']');
    if (place == Place::sizes) {
      if (sizes_ != 2) fail("a shape that is not two numbers");
      leaf_.path = path_;
      on_leaf_(leaf_);
    }
    return pop();
  }

 private:
  // What comes next: what is open, or the value behind a name.
  enum class Place {
    part,
    structure,
    settings_value,
    settings,
    setting,
    values,
    fields_value,
    fields,
    field,
    field_end,
    list,
    sizes_value,
    sizes,
    end
  };
  struct Open {
    Place place;
    std::size_t path_size;     // of the path to go back to
    std::size_t elements = 0;  // of a list, until now
  };

  Place top() const { return open_.empty() ? Place::end : open_.back().place; }
  void push(Place place, std::size_t path_size) {
    if (open_.size() == 1000) fail("it nests too deeply");  // far more than models do
    open_.push_back({place, path_size});
  }
  void push(Place place) { push(place, path_.size()); }
  void replace(Place place) { open_.back().place = place; }
  bool pop() {
    path_.resize(open_.back().path_size);
    open_.pop_back();
    return true;
  }
  void enter(std::string_view name) {
    // A path is made for each thing that has one: a bound on the work of a file that has long names and many things.
    if (path_.size() + name.size() > 10000) fail("the path " + excerpt(path_) + " is too long");
    if (!name.empty() && !path_.empty()) path_ += '.';
    path_ += name;
  }
  void enter_element(Place place) {
    const std::size_t outside = path_.size();
    enter(std::to_string(open_.back().elements++));
    push(place, outside);
  }

  // Takes a value where one is expected; returns whether it is.
  bool setting(const std::string& value) {
    if (top() == Place::values) {
      values_ += (values_.size() > 1 ? ", " : "") + value;
      return true;
    }
    if (top() != Place::setting) return false;
    on_setting_(path_, value);
    return pop();
  }

  OnSetting on_setting_;
  OnLeaf on_leaf_;
  std::vector<Open> open_{{Place::part, 0}};
  std::string path_, values_;
  LeafShape leaf_{{}, LeafKind::parameter, 0, 0};
  int sizes_ = 0;
};

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
