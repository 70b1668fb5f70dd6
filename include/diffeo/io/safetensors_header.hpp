// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <diffeo/core/error.hpp>
#include <diffeo/data/text.hpp>
#include <diffeo/io/json.hpp>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// What the header of a safetensors file says of a tensor.
struct TensorInfo {
  std::string dtype;                 ///< for instance "F32"
  std::vector<std::uint64_t> shape;  ///< of any number of dimensions
  std::uint64_t begin = 0, end = 0;  ///< its bytes, counted from the end of the header
};

/// Header of a safetensors file: the tensors by name, and texts by name, `__metadata__`.
struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

namespace detail {

/// Most bytes that a header may have, by the format.
inline constexpr std::uint64_t safetensors_header_limit = 100'000'000;
/// Most dimensions that this reader accepts.
inline constexpr std::size_t tensor_dimension_limit = 64;
/// Most texts of __metadata__: a short one takes ten times as many bytes in memory as in the file.
inline constexpr std::size_t metadata_limit = 10000;

/// Returns the number of bits of a value of a dtype, 0 for one that the format does not know.
inline std::uint64_t tensor_bits(std::string_view dtype) {
  static constexpr std::pair<std::string_view, std::uint64_t> known[] = {
      {"F32", 32},    {"F64", 64},    {"F16", 16},        {"BF16", 16},      {"I8", 8},      {"U8", 8},
      {"I16", 16},    {"U16", 16},    {"I32", 32},        {"U32", 32},       {"I64", 64},    {"U64", 64},
      {"BOOL", 8},    {"C64", 64},    {"F4", 4},          {"F6_E2M3", 6},    {"F6_E3M2", 6}, {"F8_E5M2", 8},
      {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}};
  for (const auto& [name, bits] : known)
    if (name == dtype) return bits;
  return 0;
}

/// Returns the shape as Python writes it.
inline std::string tensor_shape_text(const std::vector<std::uint64_t>& shape) {
  std::string text = "(";
  for (const std::uint64_t size : shape) text += std::to_string(size) + (shape.size() == 1 ? "," : ", ");
  if (shape.size() > 1) text.resize(text.size() - 2);
  return text + ')';
}

/// Reads the JSON of a header: the names, and that each thing is there once and of the right kind.
class SafetensorsHeaderReader final : public JsonReader {
 public:
  explicit SafetensorsHeaderReader(const std::string& path) : JsonReader(path + ": the header") {}

  SafetensorsHeader header;

  bool start_object(std::size_t) override {
    if (place_ == Place::begin)
      place_ = Place::names;
    else if (place_ == Place::entry)
      place_ = name_ == "__metadata__" ? Place::metadata : Place::tensor;
    else
      return JsonReader::start_object(0);
    return true;
  }
  bool key(std::string& key) override {
    switch (place_) {
      case Place::names:
        name_ = std::move(key);
        place_ = Place::entry;
        if (name_ == "__metadata__" ? std::exchange(has_metadata_, true) : !header.tensors.try_emplace(name_).second)
          fail(excerpt(name_) + " is there twice");
        has_ = 0;
        break;
      case Place::metadata:
        text_ = std::move(key);
        place_ = Place::text;
        if (header.metadata.contains(text_)) fail(excerpt(text_) + " of __metadata__ is there twice");
        if (header.metadata.size() == metadata_limit)
          fail(concat_message("__metadata__ has more than ", metadata_limit, " texts"));
        break;
      case Place::tensor: {
        const unsigned which = key == "dtype" ? 1 : key == "shape" ? 2 : key == "data_offsets" ? 4 : 0;
        if (which == 0 || (has_ & which) != 0)
          fail(excerpt(key) + " of " + excerpt(name_) + " is unknown or there twice");
        has_ |= which;
        place_ = which == 1 ? Place::dtype : which == 2 ? Place::shape : Place::offsets;
        break;
      }
      default:
        return JsonReader::key(key);
    }
    return true;
  }
  bool end_object() override {
    if (place_ == Place::tensor && has_ != 7) fail("dtype, shape or data_offsets of " + excerpt(name_) + " is missing");
    place_ = place_ == Place::names ? Place::end : Place::names;
    return true;
  }
  bool string(std::string& value) override {
    if (place_ == Place::text) {
      header.metadata.emplace(std::move(text_), std::move(value));
      place_ = Place::metadata;
    } else if (place_ == Place::dtype) {
      if (tensor_bits(value) == 0) fail("the dtype " + excerpt(value) + " of " + excerpt(name_) + " is unknown");
      header.tensors[name_].dtype = std::move(value);
      place_ = Place::tensor;
    } else {
      return JsonReader::string(value);
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::shape)
      place_ = Place::sizes;
    else if (place_ == Place::offsets)
      place_ = Place::first_offset;
    else
      return JsonReader::start_array(0);
    return true;
  }
  bool number_unsigned(std::uint64_t value) override {
    TensorInfo* const tensor = place_ == Place::sizes || place_ == Place::first_offset || place_ == Place::last_offset
                                   ? &header.tensors[name_]
                                   : nullptr;
    if (place_ == Place::sizes) {
      if (tensor->shape.size() == tensor_dimension_limit)
        fail(concat_message(excerpt(name_), " has more than ", tensor_dimension_limit, " dimensions"));
      tensor->shape.push_back(value);
    } else if (place_ == Place::first_offset) {
      tensor->begin = value;
      place_ = Place::last_offset;
    } else if (place_ == Place::last_offset) {
      tensor->end = value;
      place_ = Place::end_of_offsets;
    } else {
      return JsonReader::number_unsigned(value);
    }
    return true;
  }
  bool end_array() override {
    if (place_ != Place::sizes && place_ != Place::end_of_offsets)
      fail("data_offsets of " + excerpt(name_) + " are not two numbers");
    place_ = Place::tensor;
    return true;
  }

  [[noreturn]] void refuse(const std::string& why) const { fail(why); }

 private:
  enum class Place {
    begin,
    names,
    entry,
    metadata,
    text,
    tensor,
    dtype,
    shape,
    sizes,
    offsets,
    first_offset,
    last_offset,
    end_of_offsets,
    end
  };

  Place place_ = Place::begin;
  std::string name_, text_;
  bool has_metadata_ = false;
  unsigned has_ = 0;  // which of dtype, shape and data_offsets were met
};

}  // namespace detail

/// Returns what the JSON of a header says, for a file with so many bytes behind it. Throws `io_error`, naming the file,
/// for what the format does not allow: text that is no JSON or of another structure, names that are there twice, a
/// dtype that is unknown, a tensor whose size is not that of its shape, and tensors that overlap, leave a gap or end
/// elsewhere than the file.
inline SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes,
                                                  const std::string& path) {
  detail::SafetensorsHeaderReader reader(path);
  if (!text.starts_with('{')) reader.refuse("it does not begin with '{'");
  reader.read(text);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  ranges.reserve(reader.header.tensors.size());
  for (const auto& [name, tensor] : reader.header.tensors) {
    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t bits = detail::tensor_bits(tensor.dtype);
    bool absurd = false;
    for (const std::uint64_t size : tensor.shape) {
      absurd = absurd || (size != 0 && bits > most / size);
      bits *= size;
    }
    const std::string what = concat_message(detail::excerpt(name), " of dtype ", tensor.dtype, " and shape ",
                                            detail::tensor_shape_text(tensor.shape));
    if (absurd || bits % 8 != 0) reader.refuse(what + " has an absurd size");
    if (tensor.begin > tensor.end || tensor.end > data_bytes || tensor.end - tensor.begin != bits / 8)
      reader.refuse(concat_message(what, " has bytes ", tensor.begin, " to ", tensor.end, " of ", data_bytes,
                                   ", expected ", bits / 8));
    ranges.emplace_back(tensor.begin, tensor.end);
  }
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != at)
      reader.refuse(
          concat_message(begin < at ? "tensors overlap at byte " : "no tensor has byte ", std::min(at, begin)));
    at = end;
  }
  if (at != data_bytes)
    reader.refuse(concat_message("the tensors have ", at, " bytes, ", data_bytes, " follow the header"));
  return std::move(reader.header);
}

/// Returns the header, with the tensors in the order of `names`, as the format stores it: its length and its JSON. The
/// data behind it begin at a multiple of 8 bytes. Throws invalid_argument for texts that are not UTF-8, a tensor called
/// __metadata__, more than 10,000 texts, and more than the 100 MB that the format allows.
inline std::string safetensors_header_text(const SafetensorsHeader& header, const std::vector<std::string>& names) {
  const std::string who = "write_safetensors";
  require(header.metadata.size() <= detail::metadata_limit, who, ": metadata has ", header.metadata.size(),
          " texts, expected at most ", detail::metadata_limit);
  std::string json = "{";
  const auto separate = [](std::string& text) { text += text.ends_with('{') ? "" : ","; };
  if (!header.metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : header.metadata) {
      separate(json);
      json += detail::json_quoted(key, who) + ':' + detail::json_quoted(value, who);
    }
    json += '}';
  }
  for (const std::string& name : names) {
    require(name != "__metadata__", who, ": a tensor is called __metadata__, which the format has for texts");
    const TensorInfo& tensor = header.tensors.at(name);
    separate(json);
    json += detail::json_quoted(name, who) + ":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) json += (i > 0 ? "," : "") + std::to_string(tensor.shape[i]);
    json += concat_message("],\"data_offsets\":[", tensor.begin, ',', tensor.end, "]}");
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  require(json.size() <= detail::safetensors_header_limit, who, ": the header has ", json.size(),
          " bytes, the format allows ", detail::safetensors_header_limit);
  std::string text;
  for (unsigned shift = 0; shift < 64; shift += 8)
    text += static_cast<char>(static_cast<std::uint64_t>(json.size()) >> shift & 255U);
  return text + json;
}

}  // namespace diffeo::inline DIFFEO_ISA
