// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/io/architecture.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/permutation.hpp>
#include <diffeo/layers/recipes.hpp>
#include <limits>
#include <string>
#include <vector>

#include "../catch.hpp"

using namespace diffeo;

namespace {

// A structure with settings of every kind, and fields that are lists, without names or without anything.
struct Odd {
  using Scalar = double;
  std::vector<double> knots = {0.1, -0.0, 1e300, std::numeric_limits<double>::infinity()};
  std::vector<Index> none = {};
  double nan = std::nan(""), tiny = 5e-324, zero = -0.0, large = 123456789012345680000.0, integral = 2;
  std::uint64_t seed = ~std::uint64_t{0};
  std::int64_t negative = std::numeric_limits<std::int64_t>::min();
  std::string text = "a \"b\".c\n";
  std::optional<double> maybe = std::nullopt;
  std::vector<Array<double>> arrays = {Array<double>::Ones(2, 3), Array<double>(0, 4)};
  std::tuple<> empty = {};
  Buffer<double> buffer = {Array<double>::Ones(1, 1)};
  Array<double> first = Array<double>::Ones(1, 2), second = Array<double>::Ones(3, 1);

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("arrays", self.arrays, "empty", self.empty, "", diffeo::fields("x.y", self.buffer), "pair",
                          std::tie(self.first, self.second));
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "odd", "knots", self.knots, "none", self.none, "nan", self.nan, "tiny", self.tiny,
                            "zero", self.zero, "large", self.large, "integral", self.integral, "seed", self.seed,
                            "negative", self.negative, "text", self.text, "maybe", self.maybe, "yes", true);
  }
};

using Lines = std::vector<std::string>;

// What a text says, a line for each setting and array.
Lines lines_of(const std::string& json) {
  Lines lines;
  const auto on_setting = [&](const std::string& path, const std::string& value) {
    lines.push_back(path + " = " + value);
  };
  const auto on_leaf = [&](const LeafShape& leaf) { lines.push_back(detail::shape_text(leaf)); };
  detail::ArchitectureReader("f", on_setting, on_leaf).read(json);
  return lines;
}

// The same of the model, settings of a part before its arrays.
template <class M>
void require_same_lines(const M& model) {
  Lines expected;
  for (const Setting& s : settings_of(model)) expected.push_back(s.path + " = " + to_string(s.value));
  for (const LeafShape& leaf : leaf_shapes(model)) expected.push_back(detail::shape_text(leaf));
  Lines found = lines_of(architecture_of(model));
  std::sort(found.begin(), found.end());
  std::sort(expected.begin(), expected.end());
  CHECK(found.size() > 1);
  CHECK(found == expected);
}

std::string architecture_message(const std::string& json) {
  const std::string message = thrown_message<io_error>([&] { lines_of(json); });
  const std::string begin = "f: the architecture is corrupt: ";
  CHECK(message.starts_with(begin));
  return message.substr(std::min(begin.size(), message.size()));
}

}  // namespace

TEST_CASE("architecture: a model as JSON", "[io]") {
  const FlowSequence flow(Permutation<float>::reverse(2), Invert{DiagonalScale<float>{Array<float>::Zero(1, 2)}});
  CHECK(architecture_of(flow) == R"({"settings":{"kind":"sequence"},"fields":[["layers",[)"
                                 R"({"settings":{"kind":"permutation","order":[1,0]},"fields":[]},)"
                                 R"({"settings":{"inverted":true},"fields":[["",{"settings":{"kind":"diagonal scale"},)"
                                 R"("fields":[["log_scale",{"parameter":[1,2]}]]}]]}]]]})");
  CHECK(
      architecture_of(Odd{}) ==
      R"({"settings":{"kind":"odd","knots":[0.1,-0.0,1e+300,"inf"],"none":[],"nan":"nan","tiny":5e-324,"zero":-0.0,)"
      R"("large":123456789012345683968,"integral":2,"seed":18446744073709551615,"negative":-9223372036854775808,)"
      R"("text":"a \"b\".c\n","maybe":"none","yes":true},"fields":[["arrays",[{"parameter":[2,3]},{"parameter":[0,4]}]],)"
      R"(["empty",[]],["",{"fields":[["x.y",{"buffer":[1,1]}]]}],)"
      R"(["pair",[{"parameter":[1,2]},{"parameter":[3,1]}]]]})");
  CHECK_THROWS_AS(architecture_of(Odd{.text = "\xff"}), invalid_argument);
}

TEST_CASE("architecture: the text says what the model says", "[io]") {
  require_same_lines(Odd{});
  require_same_lines(real_nvp<float>(3, {.layers = 3, .network = {.hidden = {4}}, .context_dim = 2}));
  require_same_lines(residual<double>(2, {.layers = 2}));
  require_same_lines(planar<double>(2, {.layers = 2, .context_dim = 1}));
  require_same_lines(cnf<float>(2, {}));
}

TEST_CASE("architecture: texts of another form are errors", "[io]") {
  CHECK(lines_of(R"({"fields":[["a",{"parameter":[1,2]}]],"settings":{"k":[1,"x",-2.5]}})") ==
        Lines{"a (parameter, 1 x 2)", "k = [1, x, -2.5]"});
  for (const char* json : {"1",
                           "\"a\"",
                           "null",
                           "true",
                           "[1]",
                           "[\"a\"]",
                           R"({"settings":1})",
                           R"({"settings":[]})",
                           R"({"settings":{"a":null}})",
                           R"({"settings":{"a":{}}})",
                           R"({"settings":{"a":[[]]}})",
                           R"({"fields":{}})",
                           R"({"fields":["a"]})",
                           R"({"fields":[["a",1]]})",
                           R"({"fields":[["a",[],"b"]]})",
                           R"({"fields":[["a",[],[]]]})",
                           R"({"fields":[[[]]]})",
                           R"({"fields":[["a"]]})",
                           R"({"fields":[[]]})",
                           R"({"parameter":[1,-2]})",
                           R"({"parameter":[1,2.5]})",
                           R"({"parameter":1})"}) {
    CAPTURE(json);
    CHECK(contains(architecture_message(json), "where none is expected"));
  }
  CHECK(architecture_message(R"({"layers":[]})") == "'layers' is unknown");
  CHECK(architecture_message(R"({"parameter":[1]})") == "a shape that is not two numbers");
  for (const char* json : {R"({"parameter":[1,2,3]})", R"({"parameter":[1,9223372036854775808]})"})
    CHECK(architecture_message(json) == "an absurd shape");
  for (const char* json : {"", "{", R"({"fields":[["a",)"})
    CHECK(contains(architecture_message(json), "no JSON at byte "));
  CHECK(architecture_message(std::string(1 << 16, '[')) == "it nests too deeply");
  CHECK(contains(architecture_message(R"({"fields":[[")" + std::string(20000, 'a') + R"(",[]]]})"), " is too long"));
}
