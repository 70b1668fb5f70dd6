// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/describe.hpp>
#include <diffeo/layers/recipes.hpp>
#include <limits>
#include <sstream>

#include "../catch.hpp"

using namespace diffeo;

TEST_CASE("describe: a table of settings, shapes and norms", "[describe]") {
  auto flow = planar<double>(2, {.layers = 2});
  flow =
      FlowSequence(std::get<0>(flow.layers), Standardize<double>::from(Array<double>{{1, 2}}, Array<double>{{3, 4}}));
  std::get<0>(flow.layers).layers[1].w << 0.6, -0.8;
  const Description description = describe(flow);
  CHECK(description.parameters() == parameter_count(flow));
  REQUIRE(description.arrays.size() == 8);
  CHECK(description.arrays[4].path == "layers.0.1.w");
  CHECK(description.arrays[4].norm == Approx(1).epsilon(1e-14));
  CHECK(description.arrays[7].kind == LeafKind::buffer);
  CHECK(description.arrays[7].norm == Approx(5).epsilon(1e-14));
  std::ostringstream text;
  text << description;
  CHECK(contains(text.str(), "layers.0.{0, 1}.activation  setting    tanh\n"));
  CHECK(contains(text.str(), "layers.0.{0, 1}.w           parameter  1 x 2      norm 1\n"));
  CHECK(contains(text.str(), "layers.1.scale              buffer     1 x 2      norm 5\n"));
  CHECK(contains(text.str(), "\n10 parameters\n"));
  std::get<0>(flow.layers).layers[0].u(0, 1) = std::nan("");
  CHECK(std::isnan(describe(flow).arrays[0].norm));
}

TEST_CASE("describe: what differs in one index alone is one line", "[describe]") {
  auto flow = real_nvp<float>(2, {.layers = 64, .network = {.hidden = {4}}});
  auto& couplings = std::get<0>(flow.layers).layers;
  for (auto& coupling : couplings) coupling.conditioner.layers[0].weight.setConstant(1);
  couplings[9].conditioner.layers[0].weight *= 3;
  couplings[5].conditioner.layers[0].weight(0, 0) = std::numeric_limits<float>::infinity();
  couplings[7].transform.log_scale_bound = 3;
  std::ostringstream text;
  text << describe(flow);
  CHECK(std::ranges::count(text.str(), '\n') < 25);
  CHECK(contains(text.str(), "layers.0.{0, 2..62}.kept"));
  CHECK(contains(text.str(), "layers.0.7.transform.log_scale_bound"));
  CHECK(contains(text.str(), "parameter  4 x 1      norm 2 to 6, inf at 5\n"));
  CHECK(contains(text.str(), "layers.0.{0..63}.conditioner.layers.1.bias "));
  couplings.erase(couplings.begin() + 1, couplings.end());
  text.str("");
  text << describe(flow);
  CHECK(contains(text.str(), "parameter  4 x 1      norm 2\n"));
}

TEST_CASE("describe: how two models differ", "[describe]") {
  const auto one = real_nvp<float>(2, {.layers = 2, .network = {.hidden = {4}}});
  CHECK(structure_differences(one, one).empty());
  CHECK(structure_differences(one, real_nvp<double>(2, {.layers = 2, .network = {.hidden = {4}}, .seed = 4})).empty());
  const auto bound =
      structure_differences(one, real_nvp<float>(2, {.layers = 2, .network = {.hidden = {4}}, .log_scale_bound = 3}));
  REQUIRE(bound.size() == 2);
  CHECK(bound[1] == "layers.0.1.transform.log_scale_bound = 1.5, not layers.0.1.transform.log_scale_bound = 3");
  const auto wider = structure_differences(one, real_nvp<float>(2, {.layers = 2, .network = {.hidden = {5}}}));
  CHECK(wider.size() == 6);
  CHECK(wider[0] ==
        "layers.0.0.conditioner.layers.0.weight (parameter, 4 x 1), not layers.0.0.conditioner.layers.0.weight "
        "(parameter, 5 x 1)");
  const auto shorter = planar<float>(2, {.layers = 2}), longer = planar<float>(2, {.layers = 3});
  const auto missing = structure_differences(shorter, longer);
  REQUIRE(missing.size() == 5);  // kind, activation, u, w, b
  for (const std::string& line : missing) CHECK(contains(line, "only in the second: layers.0.2."));
  CHECK(contains(structure_differences(longer, shorter).front(), "only in the first: layers.0.2."));
  // A mask decides what is computed though every array is the same.
  auto turned = one;
  std::swap(std::get<0>(turned.layers).layers[0].mask.kept, std::get<0>(turned.layers).layers[0].mask.moved);
  CHECK(structure_differences(one, turned).size() == 2);
  // And so does the direction.
  CHECK_FALSE(structure_differences(Invert{make_planar<float>(2)}, make_planar<float>(2)).empty());
}

TEST_CASE("describe: fields without names, and settings that differ in the last digit", "[describe]") {
  struct Nameless {
    Array<double> a = Array<double>::Ones(1, 2), b = Array<double>::Ones(1, 2);
    static auto fields(const Nameless& self) { return diffeo::fields("", self.a, "", self.b); }
  };
  std::ostringstream text;
  text << describe(Nameless{});
  CHECK(contains(text.str(), "4 parameters"));
  const CouplingFlowOptions options{.layers = 1, .network = {.hidden = {4}}};
  CouplingFlowOptions nearly = options;
  nearly.log_scale_bound = 1.5 + 4e-14;
  CHECK(structure_differences(real_nvp<double>(2, options), real_nvp<double>(2, nearly)).size() == 1);
}
