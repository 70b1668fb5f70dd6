// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/permutation.hpp>
#include <diffeo/layers/recipes.hpp>
#include <locale>
#include <string>

#include "../catch.hpp"

using namespace diffeo;

namespace {

std::string value_at(const std::vector<Setting>& settings, const std::string& path) {
  for (const Setting& s : settings)
    if (s.path == path) return to_string(s.value);
  return "missing";
}

// A structure with settings of many kinds.
struct Knots {
  std::vector<double> positions = {0.5, 1.5};
  std::uint64_t seed = ~std::uint64_t{0};
  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("positions", self.positions, "seed", self.seed);
  }
};

}  // namespace

TEST_CASE("settings: texts of numbers do not depend on the locale", "[settings]") {
  struct Grouped : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Grouped));
  const std::string integer = to_string(SettingValue(std::int64_t{-1500})),
                    natural = to_string(SettingValue(~std::uint64_t{0})), real = to_string(SettingValue(1234567.5)),
                    list = to_string(SettingValue(std::vector<Index>{1000, 2000}));
  std::locale::global(before);
  CHECK(integer == "-1500");
  CHECK(natural == "18446744073709551615");
  CHECK(real == "1234567.5");
  CHECK(list == "[1000, 2000]");
}

TEST_CASE("settings: numbers keep their values", "[settings]") {
  CHECK(value_at(settings_of(Knots{}), "positions") == "[0.5, 1.5]");
  CHECK(value_at(settings_of(Knots{}), "seed") == "18446744073709551615");
  CHECK(settings_of(Knots{}) != settings_of(Knots{{0.7, 1.9}, 1}));
}

TEST_CASE("settings: parts that do not fit together are named", "[settings]") {
  const auto named = [](const auto& flow) {
    const TransformedDistribution model(StandardNormal<double>(2), flow);
    return thrown_message<invalid_argument>([&] { model.log_prob(Array<double>::Zero(2, 2)); });
  };
  CHECK(thrown_message<invalid_argument>([] {
          check_structure(FlowSequence(Permutation<double>::reverse(2), Permutation<double>{{1, 0}, {0, 1}}));
        }) == "layers.1: Permutation: inverse_order does not undo order");
  CHECK(named(FlowSequence(Permutation<double>::reverse(2), Permutation<double>{{0, 5}, {0, 5}})) ==
        "flow.layers.1: Permutation: coordinate 5 is out of the range 0 to 1");
  CHECK(contains(named(DiagonalScale<double>{Array<double>::Zero(2, 2)}), "flow: diagonal scale: log_scale is 2 x 2"));
  auto layers = planar<double>(2, {.layers = 3});
  std::get<0>(layers.layers).layers[1].u = Array<double>::Zero(1, 3);
  CHECK(contains(named(layers), "flow.layers.0.1: planar: u is 1 x 3"));
}

TEST_CASE("settings: all that decides what a model computes besides its arrays", "[settings]") {
  const auto coupling = settings_of(real_nvp<float>(3, {.layers = 2, .log_scale_bound = 2.5}));
  CHECK(value_at(coupling, "layers.0.0.kind") == "coupling");
  CHECK(value_at(coupling, "layers.0.0.moved") == "[1]");
  CHECK(value_at(coupling, "layers.0.1.kept") == "[1]");
  CHECK(value_at(coupling, "layers.0.1.transform.kind") == "affine");
  CHECK(value_at(coupling, "layers.0.1.transform.log_scale_bound") == "2.5");
  CHECK(value_at(coupling, "layers.0.1.conditioner.activation") == "tanh");
  CHECK(value_at(coupling, "layers.1.kind") == "standardize");

  CHECK(value_at(settings_of(planar<float>(2, {.activation = Activation::leaky_relu})), "layers.0.3.activation") ==
        "leaky_relu");

  const auto residual_flow = settings_of(residual<double>(
      2, {.layers = 2, .block = {.training = RouletteLogDet{.length = RouletteLength::poisson, .parameter = 2}}}));
  CHECK(value_at(residual_flow, "layers.0.1.inverted") == "true");
  CHECK(value_at(residual_flow, "layers.0.1.training.kind") == "roulette");
  CHECK(value_at(residual_flow, "layers.0.1.training.length") == "poisson");
  CHECK(value_at(residual_flow, "layers.0.1.evaluation.kind") == "exact");
  CHECK(value_at(residual_flow, "layers.0.1.network.layers.0.bound") != "missing");

  CnfFlowOptions options;
  options.cnf.evaluation.solver.method = ode::Method::tsit5;
  options.cnf.evaluation.log_det = ode::Tolerance{1e-3, 1e-4};
  const auto continuous = settings_of(TransformedDistribution(StandardNormal<float>(2), cnf<float>(2, options)));
  CHECK(value_at(continuous, "base.dim") == "2");
  CHECK(value_at(continuous, "flow.layers.0.options.evaluation.solver.method") == "tsit5");
  CHECK(value_at(continuous, "flow.layers.0.options.evaluation.log_det.relative") == "0.001");
  CHECK(value_at(continuous, "flow.layers.0.options.training.log_det") == "none");
  CHECK(value_at(continuous, "flow.layers.0.options.training.divergence.method") == "automatic");

  CHECK(settings_of(Permutation<float>::reverse(3)) ==
        std::vector<Setting>{{"kind", std::string("permutation")}, {"order", std::vector<Index>{2, 1, 0}}});
}

TEST_CASE("settings: a part that does not fit is named by its path", "[settings]") {
  TransformedDistribution model(StandardNormal<double>(2),
                                real_nvp<double>(2, {.layers = 3, .network = {.hidden = {4}}}));
  check_structure(model);
  const Array<double> x = Array<double>::Zero(3, 2);
  const auto messages = [&] {
    std::vector<std::string> all;
    all.push_back(thrown_message<invalid_argument>([&] { model.log_prob(x); }));
    all.push_back(thrown_message<invalid_argument>([&] { model.score(x); }));
    all.push_back(thrown_message<invalid_argument>([&] { model.sample(3, 1); }));
    all.push_back(thrown_message<invalid_argument>([&] { model.sample_and_log_prob(3, 1); }));
    all.push_back(thrown_message<invalid_argument>([&] { check_structure(model); }));
    return all;
  };
  auto& coupling = std::get<0>(model.flow.layers).layers[1];
  const auto good = coupling;
  coupling.conditioner.layers.back() = {Array<double>::Zero(3, 4), Array<double>::Zero(1, 3)};
  for (const std::string& message : messages())
    CHECK(message ==
          "flow.layers.0.1: coupling: the conditioner has 1 inputs and 3 outputs, expected 1 (the kept coordinates) "
          "and 2 "
          "(2 for each moved coordinate)");
  coupling = good;
  coupling.conditioner.layers[0].bias = Array<double>::Zero(1, 5);
  for (const std::string& message : messages())
    CHECK(message ==
          "flow.layers.0.1.conditioner.layers.0: dense layer: weight is 4 x 1, bias is 1 x 5, expected outputs x "
          "inputs and "
          "1 x outputs");
  coupling = good;
  for (const std::string& message :
       {thrown_message<invalid_argument>([&] { model.log_prob(Array<double>::Zero(2, 3)); })})
    CHECK(message == "log_prob: x has 3 columns, this flow has dimension 2");  // errors of the data stay what they were
}
