// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <diffeo/autodiff/describe.hpp>
#include <diffeo/autodiff/leaves.hpp>
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/version.hpp>
#include <diffeo/io/architecture.hpp>
#include <diffeo/io/json.hpp>
#include <diffeo/io/safetensors.hpp>
#include <diffeo/nn/context.hpp>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// Models in files of the safetensors format. The tensors are the parameters and buffers, called by their paths in the
/// model; arrays without entries are left out. `__metadata__` has
///
/// | text                   | what                                                                               |
/// |------------------------|------------------------------------------------------------------------------------|
/// | diffeo.format          | version of what this table says: 1                                                 |
/// | diffeo.version         | version of the library that wrote the file                                         |
/// | diffeo.scalar          | float or double                                                                    |
/// | diffeo.architecture    | structure and settings of the model, see architecture_of()                         |
/// | diffeo.standardisation | list of the paths of its layers that standardise; each has tensors mean and scale  |
/// | diffeo.columns         | list of the names of the columns of x; only where given                            |
/// | diffeo.context_columns | list of the names of the columns of the context; only where given                  |
/// | others                 | the user's own                                                                     |
///
/// Lists are in JSON. Names of tensors and texts that begin with "diffeo." belong to the library; load() passes over
/// tensors of such names.
namespace diffeo::inline DIFFEO_ISA {

/// Options of save().
///
/// | option          | type                     | default                                                           |
/// |-----------------|--------------------------|-------------------------------------------------------------------|
/// | columns         | std::vector<std::string> | empty: none; names of the D columns of x                          |
/// | context_columns | std::vector<std::string> | empty: none; names of the C columns of the context                |
/// | metadata        | std::map of std::string  | empty: none; texts of the user's own, by names that do not begin  |
/// |                 |                          | with "diffeo."                                                    |
struct SaveOptions {
  std::vector<std::string> columns = {};
  std::vector<std::string> context_columns = {};
  std::map<std::string, std::string> metadata = {};
};

/// Options of load().
///
/// | option         | type | default                                                                          |
/// |----------------|------|----------------------------------------------------------------------------------|
/// | convert_scalar | bool | false: a file of float loads into a model of float alone, one of double likewise |
struct LoadOptions {
  bool convert_scalar = false;
};

/// What a file says of itself, as checkpoint_info() returns it.
struct CheckpointInfo {
  int format = 0;                               ///< version of the format; 0 for a file that save() did not write
  std::string version;                          ///< of the library that wrote the file
  std::string scalar;                           ///< float or double
  std::string architecture;                     ///< JSON, see architecture_of()
  std::vector<std::string> standardisation;     ///< paths of the layers that standardise
  std::vector<std::string> columns;             ///< names of the columns of x; may be empty
  std::vector<std::string> context_columns;     ///< names of the columns of the context; may be empty
  std::map<std::string, std::string> metadata;  ///< texts of the user's own
  std::map<std::string, TensorInfo> tensors;    ///< by name
};

namespace detail {

inline constexpr int checkpoint_format = 1;
inline constexpr std::string_view checkpoint_prefix = "diffeo.";

// Reads a JSON list of texts.
class TextListReader final : public JsonReader {
 public:
  using JsonReader::JsonReader;
  std::vector<std::string> texts;

  bool start_array(std::size_t) override { return !std::exchange(open_, true) || JsonReader::start_array(0); }
  bool end_array() override { return true; }
  bool string(std::string& text) override {
    if (!open_) return JsonReader::string(text);
    texts.push_back(std::move(text));
    return true;
  }

 private:
  bool open_ = false;
};

inline std::string json_list(const std::vector<std::string>& texts, const std::string& what) {
  std::string json = "[";
  for (const std::string& text : texts) json += (json.size() > 1 ? "," : "") + json_quoted(text, what);
  return json + ']';
}

// Returns the version of the format that a file says it has, 0 where it says none. Throws io_error for one that is not
// known.
inline int format_of(const SafetensorsFile& file) {
  const auto found = file.metadata().find("diffeo.format");
  if (found == file.metadata().end()) return 0;
  if (found->second != std::to_string(checkpoint_format))
    throw io_error(concat_message(file.path(), " is a checkpoint of format ", excerpt(found->second),
                                  ", this version of diffeo reads format ", checkpoint_format));
  return checkpoint_format;
}

inline const std::string& checkpoint_text(const SafetensorsFile& file, const std::string& name) {
  const auto found = file.metadata().find(name);
  if (found == file.metadata().end()) throw io_error(file.path() + ": " + name + " is missing in __metadata__");
  return found->second;
}

// Lines of text, up to so many bytes of them: a corrupt file could differ in more places than there is memory for.
class BoundedLines {
 public:
  void add(const std::string& line) {
    if (text_.size() + line.size() > (std::size_t{1} << 20))
      ++left_out_;
    else
      text_ += "\n  " + line;
  }
  bool empty() const { return text_.empty() && left_out_ == 0; }
  std::string text() const { return left_out_ == 0 ? text_ : concat_message(text_, "\n  and ", left_out_, " more"); }

 private:
  std::string text_;
  std::size_t left_out_ = 0;
};

// What a file is compared with before a model is loaded from it.
struct LoadTarget {
  std::vector<Setting> settings;
  std::vector<LeafShape> leaves;
  std::string dtype;
};

// Compares what the metadata say of the model.
inline void compare_architectures(const SafetensorsFile& file, const LoadTarget& model, BoundedLines& differences) {
  StructureComparison settings("the file", "the model"), leaves("the file", "the model");
  for (const Setting& setting : model.settings)
    settings.expect(setting.path, setting_text(setting.path, to_string(setting.value)));
  for (const LeafShape& leaf : model.leaves) leaves.expect(leaf.path, shape_text(leaf));
  const auto add = [&differences](const std::optional<std::string>& difference) {
    if (difference) differences.add(*difference);
  };
  const auto on_setting = [&](const std::string& path, const std::string& value) {
    add(settings.compare(path, setting_text(path, value)));
  };
  const auto on_leaf = [&](const LeafShape& leaf) { add(leaves.compare(leaf.path, shape_text(leaf))); };
  ArchitectureReader(file.path(), on_setting, on_leaf).read(checkpoint_text(file, "diffeo.architecture"));
  for (const StructureComparison* comparison : {&settings, &leaves})
    for (const std::string& line : comparison->missing()) differences.add(line);
}

// Compares the tensors with the arrays. Returns whether there are some of another scalar.
inline bool compare_tensors(const SafetensorsFile& file, const LoadTarget& model, BoundedLines& differences) {
  bool other_scalar = false;
  std::set<std::string_view> names;
  for (const LeafShape& leaf : model.leaves) {
    names.insert(leaf.path);
    const auto found = file.tensors().find(leaf.path);
    if (found == file.tensors().end()) {
      if (leaf.rows > 0 && leaf.cols > 0) differences.add("only in the model: " + shape_text(leaf));
      continue;
    }
    const TensorInfo& tensor = found->second;
    if (!SafetensorsFile::fits(tensor.shape, leaf.rows, leaf.cols))
      differences.add(leaf.path + " of shape " + tensor_shape_text(tensor.shape) + ", not " + shape_text(leaf));
    if (tensor.dtype != "F32" && tensor.dtype != "F64")
      differences.add(leaf.path + " has dtype " + tensor.dtype + ", expected F32 or F64");
    other_scalar = other_scalar || tensor.dtype != model.dtype;
  }
  for (const auto& [name, tensor] : file.tensors())
    if (!names.contains(name) && !name.starts_with(checkpoint_prefix))
      differences.add("only in the file: " + name + " of shape " + tensor_shape_text(tensor.shape));
  return other_scalar;
}

// Throws io_error unless the file holds a model of the structure of the target.
inline void require_loadable(const SafetensorsFile& file, const LoadTarget& model, const LoadOptions& options) {
  BoundedLines differences;
  if (format_of(file) > 0) compare_architectures(file, model, differences);
  const bool other_scalar = differences.empty() && compare_tensors(file, model, differences);
  if (!differences.empty())
    throw io_error(file.path() + " holds another model than the one to load into; the file has" + differences.text());
  if (other_scalar && !options.convert_scalar)
    throw io_error(file.path() + " holds " + (model.dtype == "F32" ? "double" : "float") + ", the model is of " +
                   (model.dtype == "F32" ? "float" : "double") + "; the option convert_scalar converts");
}

template <Real S>
void require_finite_leaf(const std::string& path, const Path& place, const Array<S>& leaf) {
  try {
    require_finite(leaf, place.str().c_str());
  } catch (const invalid_argument& e) {
    throw io_error(path + ": " + e.what());
  }
}

// The part of save() that does not depend on the model's type.
inline void write_checkpoint(const std::string& path, const std::vector<NamedTensor>& tensors,
                             const std::string& architecture, const std::vector<Setting>& settings, const char* scalar,
                             const SaveOptions& options) {
  for (const NamedTensor& tensor : tensors)
    require(!tensor.name.starts_with(checkpoint_prefix), "save: the array ", tensor.name,
            " has a name that belongs to the library");
  for (const auto& [name, text] : options.metadata)
    require(!name.starts_with(checkpoint_prefix), "save: metadata has ", excerpt(name),
            ", a name that belongs to the library");
  std::vector<std::string> standardisation;
  const std::string_view kind = ".kind";
  for (const Setting& setting : settings)
    if (setting.value == SettingValue(std::string("standardize")) && ('.' + setting.path).ends_with(kind))
      standardisation.push_back(
          setting.path.substr(0, setting.path.size() - std::min(setting.path.size(), kind.size())));
  std::map<std::string, std::string> metadata = options.metadata;
  metadata["diffeo.format"] = std::to_string(checkpoint_format);
  metadata["diffeo.version"] = version;
  metadata["diffeo.scalar"] = scalar;
  metadata["diffeo.architecture"] = architecture;
  metadata["diffeo.standardisation"] = json_list(standardisation, "save: a path");
  if (!options.columns.empty()) metadata["diffeo.columns"] = json_list(options.columns, "save: columns");
  if (!options.context_columns.empty())
    metadata["diffeo.context_columns"] = json_list(options.context_columns, "save: context_columns");
  write_safetensors(path, tensors, metadata);
}

}  // namespace detail

/// Writes a model to a file: its parameters, buffers and settings. An existing file is replaced when the new one is
/// complete and on the disk; whatever happens before, it stays as it is (AtomicFile). The bytes of the file are a
/// function of the model and the options.
///
/// Throws `io_error` where the file cannot be written, and invalid_argument for parts that do not fit together, NaN or
/// infinity (with the path of the array), two arrays of the same path, another number of names than columns, and texts
/// that are not UTF-8.
template <class M>
void save(const M& model, const std::string& path, const SaveOptions& options = {}) {
  using S = typename leaf_t<M>::Scalar;
  static_assert(Real<S>, "save: expected a model over float or double");
  check_structure(model);
  if constexpr (requires { model.dim(); }) {
    require(options.columns.empty() || static_cast<Index>(options.columns.size()) == model.dim(),
            "save: ", options.columns.size(), " columns are named, the model has dimension ", model.dim());
  }
  if (!options.context_columns.empty())
    require(static_cast<Index>(options.context_columns.size()) == context_dim(model),
            "save: ", options.context_columns.size(), " columns of the context are named, the model takes ",
            context_dim(model));
  std::vector<NamedTensor> tensors;
  for_each_leaf(model, [&tensors](const Path& place, LeafKind, const Array<S>& leaf) {
    if (leaf.size() == 0) return;
    const std::string name = place.str();
    require_finite(leaf, ("save: " + name).c_str());
    tensors.push_back({name, view(leaf)});
  });
  detail::write_checkpoint(path, tensors, architecture_of(model), settings_of(model),
                           std::is_same_v<S, float> ? "float" : "double", options);
}

/// Reads a model from a file that save() wrote, or another program: the values of its parameters and buffers. The model
/// must have the structure and the settings of the one that was saved; layers without settings() and functions, such as
/// that of a FieldFunction, are compared by the names and shapes of their arrays alone. A file without `diffeo.format`,
/// say of Python, must have a tensor of the right shape for each array of the model and no others; one of D numbers
/// fits a 1 x D and a D x 1 array, a single number one of 1 x 1. Buffers that derive from parameters are computed
/// again, as set_parameters() does.
///
/// The model is changed at the end, by one assignment; after an error it is what it was. Nothing is allocated before
/// its size has been found to agree with the file's: beside the header, which the format bounds, loading takes the
/// memory of a copy of the model.
///
/// Throws `io_error`, naming the file, where it is missing, truncated or corrupt; where it holds another model, with
/// all settings and arrays that differ; where its scalar is another, unless that is to be converted, or the model's
/// cannot hold a value; for NaN or infinity, with the path of the array; and for values that a part refuses, such as a
/// scale that is not positive.
template <class M>
void load(const std::string& path, M& model, const LoadOptions& options = {}) {
  using S = typename leaf_t<M>::Scalar;
  static_assert(Real<S>, "load: expected a model over float or double");
  M loaded = [&] {
    const SafetensorsFile file(path);
    detail::require_loadable(file, {settings_of(model), leaf_shapes(model), tensor_dtype<S>()}, options);
    M copy = model;
    for_each_leaf(copy, [&](const Path& place, LeafKind, Array<S>& leaf) {
      if (leaf.size() == 0) return;
      file.read(place.str(), view(leaf), options.convert_scalar);
      detail::require_finite_leaf(path, place, leaf);
    });
    return copy;
  }();
  try {
    check_structure(loaded);
  } catch (const invalid_argument& e) {
    throw io_error(path + ": " + e.what());
  }
  refresh(loaded);
  for_each_leaf(loaded, [&](const Path& place, LeafKind, const Array<S>& leaf) {
    detail::require_finite_leaf(path, place, leaf);
  });
  if constexpr (std::is_move_assignable_v<M>) {
    model = std::move(loaded);
  } else {  // holds a function that cannot be assigned
    std::vector<Array<S>*> arrays;
    arrays.reserve(leaf_count(model));
    for_each_leaf(model, [&arrays](const Path&, LeafKind, Array<S>& leaf) { arrays.push_back(&leaf); });
    std::size_t at = 0;
    for_each_leaf(loaded, [&](const Path&, LeafKind, Array<S>& leaf) { arrays[at++]->swap(leaf); });
  }
}

/// Returns what a file says of itself: its metadata, and names, dtypes and shapes of its tensors. Throws `io_error` as
/// SafetensorsFile does, for a format of checkpoints that is not known, and for one whose metadata are incomplete.
inline CheckpointInfo checkpoint_info(const std::string& path) {
  const SafetensorsFile file(path);
  CheckpointInfo info;
  info.format = detail::format_of(file);
  info.tensors = file.tensors();
  for (const auto& [name, text] : file.metadata())
    if (!name.starts_with(detail::checkpoint_prefix)) info.metadata.emplace(name, text);
  if (info.format == 0) return info;
  info.version = detail::checkpoint_text(file, "diffeo.version");
  info.scalar = detail::checkpoint_text(file, "diffeo.scalar");
  info.architecture = detail::checkpoint_text(file, "diffeo.architecture");
  const auto list = [&](const std::string& name) {
    detail::TextListReader reader(path + ": " + name);
    reader.read(detail::checkpoint_text(file, name));
    return std::move(reader.texts);
  };
  info.standardisation = list("diffeo.standardisation");
  if (file.metadata().contains("diffeo.columns")) info.columns = list("diffeo.columns");
  if (file.metadata().contains("diffeo.context_columns")) info.context_columns = list("diffeo.context_columns");
  return info;
}

}  // namespace diffeo::inline DIFFEO_ISA
