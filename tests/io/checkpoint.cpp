// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <diffeo/continuous/cnf.hpp>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/io/checkpoint.hpp>
#include <diffeo/layers/recipes.hpp>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "../files.hpp"

using namespace diffeo;

namespace {

template <Real S>
auto small_model(std::uint64_t seed, Index hidden = 3) {
  return TransformedDistribution(
      DiagonalNormal<S>{gaussian<S>(1, 2, seed), gaussian<S>(1, 2, seed + 1)},
      FlowSequence(make_coupling<S>(Mask::keep_even(2), {.hidden = {hidden}}, seed), Standardize<S>::identity(2)));
}

// All arrays of a model behind one another.
template <class M>
auto all_values(const M& model) {
  std::vector<typename M::Scalar> values;
  for_each_leaf(model, [&](const Path&, LeafKind, const auto& leaf) {
    values.insert(values.end(), leaf.data(), leaf.data() + leaf.size());
  });
  return values;
}

// The message of loading a file into a model, without the file's name; checks that the model stays as it is.
template <class M>
std::string load_message(const std::string& path, M model, const LoadOptions& options = {}) {
  const auto before = all_values(model);
  const std::string message = thrown_message<io_error>([&] { load(path, model, options); });
  CHECK(message.starts_with(path));
  CHECK(all_values(model) == before);
  return message.substr(path.size());
}

// A copy of a file with one text in place of another, of the same length.
std::string replaced_in(const Folder& folder, const std::string& path, const std::string& from, const std::string& to) {
  std::string bytes = bytes_of(path);
  const std::size_t at = bytes.find(from);
  REQUIRE(at != std::string::npos);
  REQUIRE(from.size() == to.size());
  return folder.write(bytes.replace(at, from.size(), to), "replaced.safetensors");
}

// Arrays that a file is written from, without the metadata of a checkpoint.
struct Arrays {
  std::map<std::string, Array<double>> values;
  std::string write(const Folder& folder) const {
    std::vector<NamedTensor> tensors;
    for (const auto& [name, array] : values) tensors.push_back({name, view(array)});
    write_safetensors(folder.file("arrays.safetensors"), tensors);
    return folder.file("arrays.safetensors");
  }
};

}  // namespace

TEMPLATE_TEST_CASE("checkpoint: a model is what it was", "[io]", float, double) {
  using S = TestType;
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  const auto model = small_model<S>(1);
  save(model, path, {.columns = {"a", "b\xc3\xa4"}, .metadata = {{"note", "two \"words\""}}});
  CHECK(folder.size() == 1);
  auto other = small_model<S>(7);
  CHECK(all_values(other) != all_values(model));
  load(path, other);
  CHECK(all_values(other) == all_values(model));
  // The file is a function of the model.
  const std::string bytes = bytes_of(path);
  save(other, path, {.columns = {"a", "b\xc3\xa4"}, .metadata = {{"note", "two \"words\""}}});
  CHECK(bytes_of(path) == bytes);

  const CheckpointInfo info = checkpoint_info(path);
  CHECK(info.format == 1);
  CHECK(info.version == version);
  CHECK(info.scalar == (sizeof(S) == 4 ? "float" : "double"));
  CHECK(info.architecture == architecture_of(model));
  CHECK(info.standardisation == std::vector<std::string>{"flow.layers.1"});
  CHECK(info.columns == std::vector<std::string>{"a", "b\xc3\xa4"});
  CHECK(info.context_columns.empty());
  CHECK(info.metadata == std::map<std::string, std::string>{{"note", "two \"words\""}});
  CHECK(info.tensors.size() == 8);  // without the weights of the context, which this model does not have
  CHECK(info.tensors.at("flow.layers.0.conditioner.layers.0.weight").shape == std::vector<std::uint64_t>{3, 1});
}

TEST_CASE("checkpoint: parts by themselves", "[io]") {
  const Folder folder;
  const std::string path = folder.file("part.safetensors");
  const auto network = make_mlp<float>(2, 3, {.hidden = {4}}, 1);
  save(network, path);
  auto other = make_mlp<float>(2, 3, {.hidden = {4}}, 2);
  load(path, other);
  CHECK(all_values(other) == all_values(network));
  const auto standardize = Standardize<double>::from(Array<double>{{1, 2}}, Array<double>{{3, 4}});
  save(standardize, path);
  CHECK(checkpoint_info(path).standardisation == std::vector<std::string>{""});
  auto loaded = Standardize<double>::identity(2);
  load(path, loaded);
  CHECK(loaded.scale.value(0, 1) == 4);
  // Without any array.
  const StandardNormal<float> normal(3);
  save(normal, path);
  StandardNormal<float> same(3);
  load(path, same);
  CHECK(contains(load_message(path, StandardNormal<float>(4)), "\n  dim = 3, not dim = 4"));
}

TEST_CASE("checkpoint: scalars are converted by an option", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  const auto in_float = small_model<float>(1);
  save(in_float, path);
  CHECK(load_message(path, small_model<double>(2)) ==
        " holds float, the model is of double; the option convert_scalar converts");
  auto in_double = small_model<double>(2);
  load(path, in_double, {.convert_scalar = true});
  const auto floats = all_values(in_float);
  CHECK(all_values(in_double) == std::vector<double>(floats.begin(), floats.end()));
  auto again = small_model<float>(3);
  load(path, again, {.convert_scalar = true});  // where there is nothing to convert
  CHECK(all_values(again) == floats);

  in_double.base.mean(0, 1) = 0.1;
  save(in_double, path);
  CHECK(load_message(path, small_model<float>(2)) ==
        " holds double, the model is of float; the option convert_scalar converts");
  load(path, again, {.convert_scalar = true});
  CHECK(again.base.mean(0, 1) == 0.1F);
  in_double.base.mean(0, 1) = 1e39;
  save(in_double, path);
  CHECK(load_message(path, small_model<float>(2), {.convert_scalar = true}) ==
        ": base.mean: 1e+39 at (row 0, column 1) does not fit in float");
}

TEST_CASE("checkpoint: another model is refused with all that differs", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  save(small_model<float>(1), path);
  CHECK(load_message(path, small_model<float>(1, 4)) ==
        " holds another model than the one to load into; the file has"
        "\n  flow.layers.0.conditioner.layers.0.weight (parameter, 3 x 1), not "
        "flow.layers.0.conditioner.layers.0.weight (parameter, 4 x 1)"
        "\n  flow.layers.0.conditioner.layers.0.bias (parameter, 1 x 3), not "
        "flow.layers.0.conditioner.layers.0.bias (parameter, 1 x 4)"
        "\n  flow.layers.0.conditioner.layers.1.weight (parameter, 2 x 3), not "
        "flow.layers.0.conditioner.layers.1.weight (parameter, 2 x 4)");
  auto other = small_model<float>(1);
  auto& coupling = std::get<0>(other.flow.layers);
  coupling.mask = Mask::keep_odd(2);
  coupling.transform.log_scale_bound = 2;
  coupling.conditioner.activation = Activation::relu;
  coupling.conditioner.context_weight = Array<float>::Zero(3, 1);
  const std::string message = load_message(path, other);
  for (const char* line : {"moved = [1], not flow.layers.0.moved = [0]", "kept = [0], not flow.layers.0.kept = [1]",
                           "log_scale_bound = 1.5, not flow.layers.0.transform.log_scale_bound = 2",
                           "activation = tanh, not flow.layers.0.conditioner.activation = relu",
                           "context_weight (parameter, 0 x 0), not flow.layers.0.conditioner.context_weight "
                           "(parameter, 3 x 1)"})
    CHECK(contains(message, line));
  CHECK(std::ranges::count(message, '\n') == 5);
  // In either direction, as for two models in memory.
  const auto shorter = planar<double>(2, {.layers = 2}), longer = planar<double>(2, {.layers = 3});
  save(shorter, path);
  const std::string missing = load_message(path, longer);
  CHECK(std::ranges::count(missing, '\n') == 5);
  CHECK(contains(missing, "\n  only in the model: layers.0.2.activation = tanh"));
  CHECK(contains(missing, "\n  only in the model: layers.0.2.u (parameter, 1 x 2)"));
  save(longer, path);
  CHECK(contains(load_message(path, shorter), "\n  only in the file: layers.0.2.activation = tanh"));
}

TEST_CASE("checkpoint: files of other programs load where names and shapes are those of the model", "[io]") {
  const Folder folder;
  const auto model = small_model<double>(1);
  Arrays arrays;
  for (const auto& leaf : leaves(model))
    if (leaf.array->size() > 0) arrays.values[leaf.path] = *leaf.array;
  auto loaded = small_model<double>(2);
  load(arrays.write(folder), loaded);
  CHECK(all_values(loaded) == all_values(model));
  CHECK(checkpoint_info(arrays.write(folder)).format == 0);
  CHECK(checkpoint_info(arrays.write(folder)).tensors.size() == arrays.values.size());
  // Tensors of the library's own, as a training may put beside the model, are passed over.
  arrays.values["diffeo.moments"] = Array<double>::Zero(3, 3);
  load(arrays.write(folder), loaded);
  arrays.values["flow.layers.0.conditioner.context_weight"] = Array<double>(0, 0);
  load(arrays.write(folder), loaded);

  const auto changed = [&](const std::string& name, const Array<double>& values) {
    Arrays other = arrays;
    other.values[name] = values;
    return load_message(other.write(folder), loaded);
  };
  CHECK(contains(changed("base.mean", Array<double>::Ones(2, 1)),
                 "\n  base.mean of shape (2, 1), not base.mean (parameter, 1 x 2)"));
  CHECK(contains(changed("base.more", Array<double>::Ones(2, 1)), "\n  only in the file: base.more of shape (2, 1)"));
  arrays.values.erase("base.mean");
  arrays.values.erase("flow.layers.1.scale");
  const std::string message = load_message(arrays.write(folder), loaded);
  CHECK(contains(message, "\n  only in the model: base.mean (parameter, 1 x 2)"));
  CHECK(contains(message, "\n  only in the model: flow.layers.1.scale (buffer, 1 x 2)"));
  CHECK(std::ranges::count(message, '\n') == 2);
}

TEST_CASE("checkpoint: a network of Python's", "[io]") {
  const std::string golden = DIFFEO_TESTS_DIR "/io/golden/";
  const SafetensorsFile arrays(golden + "python_arrays.safetensors");
  const auto x = arrays.read<float>("x", true), y = arrays.read<float>("y", true);
  auto network = make_mlp<float>(2, 1, {.hidden = {3}, .activation = Activation::tanh}, 1);
  load(golden + "python_network.safetensors", network);
  Tape<float> tape;
  const Array<float> found = to_array(network(tape.constant(x)));
  CHECK((found - y).abs().maxCoeff() < 1e-6F);
  CHECK(contains(load_message(golden + "python_network.safetensors", make_mlp<float>(2, 2, {.hidden = {3}}, 1)),
                 "\n  layers.1.bias of shape (1,), not layers.1.bias (parameter, 1 x 2)"));
  Mlp<float> of_half = network;
  of_half.layers.resize(1);
  CHECK(contains(load_message(golden + "python_arrays.safetensors", of_half),
                 "\n  only in the file: half of shape (1,)"));
  const StandardNormal<float> normal(2);
  CHECK(contains(load_message(golden + "python_network.safetensors", normal),
                 "\n  only in the file: layers.0.bias of shape (3,)"));
  const DiagonalNormal<float> half{Array<float>{{0}}, Array<float>{{0}}};
  const Folder folder;
  const std::string json = R"({"mean":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},)"
                           R"("log_scale":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})";
  const std::string path =
      folder.write(std::string(1, static_cast<char>(json.size())) + std::string(7, '\0') + json + std::string(6, '\0'));
  CHECK(contains(load_message(path, half), "\n  mean has dtype F16, expected F32 or F64"));
}

TEST_CASE("checkpoint: values that a model cannot have", "[io]") {
  const Folder folder;
  const auto model = small_model<double>(1);
  const std::string path = folder.file("model.safetensors");
  save(model, path);
  // The last number of the file is a scale.
  const auto with_last = [&](double value) {
    std::string bytes = bytes_of(path);
    std::memcpy(bytes.data() + bytes.size() - sizeof value, &value, sizeof value);
    return folder.write(bytes, "other.safetensors");
  };
  CHECK(load_message(with_last(std::nan("")), model) ==
        ": flow.layers.1.scale is nan at (row 0, column 1), expected finite values");
  CHECK(load_message(with_last(-std::numeric_limits<double>::infinity()), model) ==
        ": flow.layers.1.scale is -inf at (row 0, column 1), expected finite values");
  CHECK(load_message(with_last(-2), model) ==
        ": flow.layers.1: standardize: the scale of column 1 is -2, expected > 0");
  auto good = small_model<double>(2);
  load(with_last(2), good);
  CHECK(std::get<1>(good.flow.layers).scale.value(0, 1) == 2);
}

TEST_CASE("checkpoint: metadata that are not ours or not complete", "[io]") {
  const Folder folder;
  const auto model = small_model<float>(1);
  const std::string path = folder.file("model.safetensors");
  save(model, path, {.columns = {"a", "b"}});
  const std::string newer = replaced_in(folder, path, R"("diffeo.format":"1")", R"("diffeo.format":"2")");
  for (const std::string& message :
       {load_message(newer, model), thrown_message<io_error>([&] { checkpoint_info(newer); }).substr(newer.size())})
    CHECK(message == " is a checkpoint of format '2', this version of diffeo reads format 1");
  CHECK(load_message(replaced_in(folder, path, "diffeo.architecture", "diffeo.brchitecture"), model) ==
        ": diffeo.architecture is missing in __metadata__");
  CHECK(contains(load_message(replaced_in(folder, path, R"(\"settings\")", R"(\"settingz\")"), model),
                 ": the architecture is corrupt: 'settingz' is unknown"));
  const std::string texts = replaced_in(folder, path, R"([\"a\",\"b\"])", R"([\"a\",    1])");
  CHECK(contains(thrown_message<io_error>([&] { checkpoint_info(texts); }),
                 texts + ": diffeo.columns is corrupt: a number where none is expected"));
  const std::string scalar = replaced_in(folder, path, "diffeo.scalar", "diffeo.skalar");
  CHECK(contains(thrown_message<io_error>([&] { checkpoint_info(scalar); }), ": diffeo.scalar is missing"));
}

TEST_CASE("checkpoint: misuse leaves the file as it is", "[io]") {
  const Folder folder;
  const std::string path = folder.write("old", "model.safetensors");
  const auto model = small_model<float>(1);
  const auto message = [&](const auto& of, const SaveOptions& options = {}) {
    const std::string text = thrown_message<invalid_argument>([&] { save(of, path, options); });
    CHECK(bytes_of(path) == "old");
    CHECK(folder.size() == 1);
    return text;
  };
  CHECK(message(model, {.columns = {"a"}}) == "save: 1 columns are named, the model has dimension 2");
  CHECK(message(model, {.context_columns = {"a"}}) == "save: 1 columns of the context are named, the model takes 0");
  CHECK(message(model, {.metadata = {{"diffeo.note", ""}}}) ==
        "save: metadata has 'diffeo.note', a name that belongs to the library");
  CHECK(message(model, {.columns = {"a", "\xff"}}) == "save: columns: '\xff' is not UTF-8");
  CHECK(contains(message(model, {.metadata = {{"a", "\xff"}}}), "is not UTF-8"));
  auto broken = model;
  broken.base.log_scale(0, 1) = std::nanf("");
  CHECK(message(broken) == "save: base.log_scale is nan at (row 0, column 1), expected finite values");
  broken = model;
  std::get<1>(broken.flow.layers).scale.value(0, 0) = 0;
  CHECK(contains(message(broken), "flow.layers.1: standardize: the scale of column 0 is 0"));
  struct Twice {
    Array<double> a = Array<double>::Ones(1, 2), b = a;
    static auto fields(const Twice& self) { return diffeo::fields("x", self.a, "x", self.b); }
  };
  CHECK(message(Twice{}) == "write_safetensors: two tensors are called 'x'");
  struct Ours {
    Array<double> a = Array<double>::Ones(1, 2);
    static auto fields(const Ours& self) { return diffeo::fields("diffeo.a", self.a); }
  };
  CHECK(message(Ours{}) == "save: the array diffeo.a has a name that belongs to the library");
}

TEST_CASE("checkpoint: a model that holds a function", "[io]") {
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  const auto model_of = [](double rate, std::uint64_t seed) {
    return TransformedDistribution(
        DiagonalNormal<double>{gaussian<double>(1, 2, seed), gaussian<double>(1, 2, seed + 1)},
        Cnf{make_field<double>(2, [rate](const auto&, const auto& x) { return x * rate; }), CnfOptions{}});
  };
  const auto model = model_of(0.5, 1);
  static_assert(!std::is_move_assignable_v<std::remove_const_t<decltype(model)>>);
  save(model, path);
  auto loaded = model_of(0.5, 3);
  load(path, loaded);
  CHECK(all_values(loaded) == all_values(model));
}

TEST_CASE("checkpoint: the golden file of this library", "[io]") {
  const std::string golden = DIFFEO_TESTS_DIR "/io/golden/diffeo.safetensors";
  // Entry (i, j) of array k.
  const auto value = [](Index k, Index i, Index j) { return static_cast<double>(1 + 100 * k + 10 * i + j) / 64; };
  auto expected = small_model<double>(1);
  Index k = 0;
  for_each_leaf(expected, [&](const Path&, LeafKind, Array<double>& leaf) {
    if (leaf.size() == 0) return;
    for (Index i = 0; i < leaf.rows(); ++i)
      for (Index j = 0; j < leaf.cols(); ++j) leaf(i, j) = value(k, i, j);
    ++k;
  });
  const SaveOptions options{.columns = {"a", "b"}, .metadata = {{"author", "me \"\xc3\xa4\""}}};
  if (std::getenv("DIFFEO_WRITE_GOLDEN")) save(expected, golden, options);
  auto found = small_model<double>(2);
  load(golden, found);
  CHECK(all_values(found) == all_values(expected));
  // What is written today is what was written then, but for the version of the library.
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  save(expected, path, options);
  const SafetensorsFile now(path), then(golden);
  auto texts = now.metadata(), texts_then = then.metadata();
  CHECK((texts.erase("diffeo.version") == 1 && texts_then.erase("diffeo.version") == 1));
  CHECK(texts == texts_then);
  for (const auto& [name, tensor] : now.tensors()) {
    CAPTURE(name);
    CHECK(then.tensors().at(name).shape == tensor.shape);
    CHECK(then.tensors().at(name).begin == tensor.begin);
  }
}
