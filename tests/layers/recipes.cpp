// SPDX-License-Identifier: MIT
#include <diffeo/layers/recipes.hpp>
#include <limits>

#include "laws.hpp"

using diffeo::Array;
using diffeo::CouplingFlowOptions;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::MaskPattern;

static_assert(diffeo::Flow<diffeo::RealNvp<float>>);
static_assert(diffeo::Flow<diffeo::RealNvp<double>>);
static_assert(diffeo::Flow<diffeo::Nice<float>>);
static_assert(diffeo::Flow<diffeo::Nice<double>>);

TEMPLATE_TEST_CASE("recipes: laws", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const CouplingFlowOptions small = {.layers = 4, .network = {.hidden = {12, 12}}};
  Array<S> data = diffeo::testing::detail::normal_array<S>(50, 5, 1, 1);
  data.col(1) = data.col(1) * S(4) + S(7);
  for (const Index dim : {2, 3, 5}) {
    const std::string name = "D = " + std::to_string(dim);
    const Array<S> columns = data.leftCols(dim);
    require_laws("Real NVP, " + name, randomised(diffeo::real_nvp(columns, small), 1, 0.35));
    require_laws("NICE, " + name, randomised(diffeo::nice(columns, small), 2, 0.35));
  }
  CouplingFlowOptions halves = small;
  halves.mask = MaskPattern::halves;
  halves.log_scale_bound = 0.5;
  halves.network.activation = diffeo::Activation::softplus;
  require_laws("Real NVP, halves", randomised(diffeo::real_nvp<S>(5, halves), 3, 0.3));
}

TEMPLATE_TEST_CASE("a fresh flow is close to the identity", "[layers]", float, double) {
  using S = TestType;
  const Array<S> z = diffeo::testing::detail::normal_array<S>(200, 3, 1, 1);
  const auto check = [&z](const auto& flow) {
    const auto x = diffeo::forward(flow, z);
    CHECK((x.value - z).square().mean() < 0.15);  // moves of some hundredths, by each of 64 layers
    CHECK((x.value - z).abs().maxCoeff() < 2.5);
    CHECK((x.value - z).abs().maxCoeff() > 0.001);  // but not stuck there
    CHECK(x.log_det.abs().maxCoeff() < 1.5);
  };
  check(diffeo::real_nvp<S>(3));
  check(diffeo::nice<S>(3));
  check(diffeo::real_nvp<S>(3, {.layers = 8, .network = {.activation = diffeo::Activation::relu}}));

  // Standardised: the identity in units of the data.
  Array<S> data = z;
  data.col(0) = data.col(0) * S(20) + S(100);
  const auto flow = diffeo::real_nvp(data, {.layers = 4});
  const Array<S> latent = diffeo::inverse(flow, data).value;
  for (Index j = 0; j < 3; ++j) {
    CHECK(std::abs(latent.col(j).mean()) < 0.1);
    CHECK(latent.col(j).square().mean() == Approx(1.0).epsilon(0.1));
  }
}

// Root mean square of the first and of the last weights, in units of what a plain network of these widths has.
template <class Net>
std::pair<double, double> scales(const Net& net) {
  std::vector<Index> hidden;
  for (std::size_t i = 0; i + 1 < net.layers.size(); ++i) hidden.push_back(net.layers[i].outputs());
  const auto plain =
      diffeo::make_mlp<double>(net.inputs(), net.outputs(), {.hidden = hidden, .last_scale = 1, .first_scale = 1}, 77);
  const auto ratio = [](const auto& a, const auto& b) {
    return std::sqrt(a.weight.square().mean() / b.weight.square().mean());
  };
  return {ratio(net.layers.front(), plain.layers.front()), ratio(net.layers.back(), plain.layers.back())};
}

TEST_CASE("recipes scale networks by the dimension, whatever other options are chosen", "[layers]") {
  const auto of = [](Index dim, const CouplingFlowOptions& options) {
    return scales(std::get<0>(diffeo::real_nvp<double>(dim, options).layers).layers[0].conditioner);
  };
  const CouplingFlowOptions wide{.layers = 1, .network = {.hidden = {400, 300}}};
  CHECK(of(2, wide).first == Approx(2).epsilon(0.2));
  CHECK(of(3, wide).first == Approx(4.0 / 3).epsilon(0.2));
  CHECK(of(8, wide).first == Approx(1).epsilon(0.2));
  CHECK(of(2, wide).second == Approx(0.05).epsilon(0.2));
  const auto chosen = of(2, {.layers = 1, .network = {.hidden = {400, 300}, .last_scale = 0.5, .first_scale = 3}});
  CHECK(chosen.first == Approx(3).epsilon(0.2));
  CHECK(chosen.second == Approx(0.5).epsilon(0.2));
}

TEST_CASE("recipes have the structure of their options", "[layers]") {
  const CouplingFlowOptions options = {.layers = 3, .network = {.hidden = {7, 5}}, .mask = MaskPattern::halves};
  const auto flow = diffeo::real_nvp<double>(5, options);
  const auto& couplings = std::get<0>(flow.layers).layers;
  REQUIRE(couplings.size() == 3);
  CHECK(couplings[0].mask.moved == std::vector<Index>{2, 3, 4});
  CHECK(couplings[1].mask.moved == std::vector<Index>{0, 1});
  CHECK(couplings[2].mask.moved == std::vector<Index>{2, 3, 4});
  // Kept -> 7 -> 5 -> 2 x moved, weights and biases.
  const Index keeps_two = 2 * 7 + 7 + 7 * 5 + 5 + 5 * 6 + 6, keeps_three = 3 * 7 + 7 + 7 * 5 + 5 + 5 * 4 + 4;
  CHECK(diffeo::parameter_count(flow) == 2 * keeps_two + keeps_three);
  CHECK(diffeo::parameter_count(diffeo::nice<double>(5, options)) ==
        2 * (keeps_two - 5 * 3 - 3) + (keeps_three - 5 * 2 - 2) + 5);
  CHECK(flow.dim() == 5);

  const auto values = [](std::uint64_t seed) {
    return diffeo::parameters(diffeo::real_nvp<double>(2, {.layers = 2, .seed = seed}));
  };
  CHECK((values(1) == values(1)).all());
  CHECK((values(1) != values(2)).any());
  const auto layers = std::get<0>(diffeo::real_nvp<double>(2, {.layers = 3}).layers).layers;
  CHECK((layers[0].conditioner.layers[0].weight != layers[2].conditioner.layers[0].weight).any());
}

TEMPLATE_TEST_CASE("planar and radial recipes", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  static_assert(diffeo::Flow<diffeo::PlanarFlow<S>>);
  static_assert(diffeo::Flow<diffeo::RadialFlow<S>>);
  Array<S> data = diffeo::testing::detail::normal_array<S>(50, 2, 1, 1);
  data.col(1) = data.col(1) * S(4) + S(7);
  require_laws("planar", diffeo::planar(data, {.layers = 5}));
  require_laws("planar, leaky relu", diffeo::planar(data, {.layers = 5, .activation = diffeo::Activation::leaky_relu}));
  require_laws("radial", diffeo::radial(data, {.layers = 5}));
  const auto values = [](std::uint64_t seed) {
    return diffeo::parameters(diffeo::planar<S>(3, {.layers = 2, .seed = seed}));
  };
  CHECK(values(1).rows() == 2 * 7);
  CHECK((values(1) == values(1)).all());
  CHECK((values(1) != values(2)).all());
  CHECK((values(1).topRows(7) != values(1).bottomRows(7)).all());
  const auto message = [](const auto& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([] { diffeo::planar<S>(2, {.layers = 0}); }) == "planar: 0 layers, expected at least 1");
  CHECK(message([] { diffeo::planar<S>(0); }) == "planar: dimension 0, expected at least 1");
  CHECK(contains(message([] { diffeo::planar<S>(2, {.activation = diffeo::Activation::elu}); }), "activation elu"));
  CHECK(message([] { diffeo::radial<S>(2, {.layers = 0}); }) == "radial: 0 layers, expected at least 1");
  CHECK(message([] { diffeo::radial<S>(-1); }) == "radial: dimension -1, expected at least 1");
}

TEMPLATE_TEST_CASE("recipes: bad input", "[layers]", float, double) {
  using S = TestType;
  const auto message = [](Index dim, const CouplingFlowOptions& options) {
    return thrown_message<invalid_argument>([&] { diffeo::real_nvp<S>(dim, options); });
  };
  CHECK(message(1, {}) ==
        "real_nvp: dimension 1 leaves a coupling nothing to condition on, expected at least 2: use planar, "
        "radial, residual or cnf");
  CHECK(contains(message(0, {}), "real_nvp: dimension 0"));
  CHECK(contains(message(-1, {}), "real_nvp: dimension -1"));
  CHECK(contains(thrown_message<invalid_argument>([] { diffeo::nice<S>(-1); }), "nice: dimension -1"));
  CHECK(message(2, {.layers = 0}) == "real_nvp: 0 layers, expected at least 1");
  CHECK(contains(message(2, {.layers = -2}), "-2 layers"));
  CHECK(message(2, {.log_scale_bound = 0}) == "real_nvp: log_scale_bound is 0, expected > 0");
  CHECK(contains(message(2, {.log_scale_bound = -1}), "log_scale_bound is -1"));
  CHECK(contains(message(2, {.log_scale_bound = std::numeric_limits<double>::quiet_NaN()}), "log_scale_bound is nan"));
  CHECK(contains(message(2, {.network = {.hidden = {64, 0}}}), "width 0"));
  CHECK(contains(thrown_message<invalid_argument>([] { diffeo::nice<S>(1); }), "nice: dimension 1"));
  CHECK(contains(thrown_message<invalid_argument>([] { diffeo::nice<S>(2, {.layers = 0}); }), "nice: 0 layers"));

  Array<S> data = diffeo::testing::detail::normal_array<S>(5, 2, 1, 1);
  const auto on_data = [](const Array<S>& x) {
    return thrown_message<invalid_argument>([&] { diffeo::real_nvp(x, {.layers = 1}); });
  };
  CHECK(contains(on_data(data.leftCols(1)), "real_nvp: dimension 1"));
  CHECK(contains(on_data(data.topRows(1)), "data has 1 rows"));
  CHECK(contains(on_data(data.topRows(0)), "data has 0 rows"));
  data.col(1) = 3;
  CHECK(contains(on_data(data), "column 1 of data has standard deviation 0"));
  data(4, 0) = std::numeric_limits<S>::quiet_NaN();
  CHECK(contains(on_data(data), "nan at (row 4, column 0)"));
  CHECK(contains(thrown_message<invalid_argument>([&] { diffeo::standardized(diffeo::real_nvp<S>(3), data); }),
                 "data has 2 columns, this flow has dimension 3"));
}
