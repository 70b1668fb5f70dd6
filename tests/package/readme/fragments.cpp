// SPDX-License-Identifier: MIT
// The fragments of README.md, by their number there, each in a function that has what the fragment speaks of.
#include <cmath>
#include <cstdlib>
#include <diffeo/diffeo.hpp>
#include <fstream>
#include <iostream>

#include "10.cpp"  // a layer: Stretch

#ifdef WITH_IO
#include <diffeo/io/checkpoint.hpp>
#endif

namespace {

void expect(bool condition, const char* what) {
  if (condition) return;
  std::cerr << what << '\n';
  std::exit(1);
}

void own_data() {
  std::ofstream csv("points.csv");
  const diffeo::Array<double> points = diffeo::toy2d::sample<double>("moons", 500, /*seed=*/1);
  for (diffeo::Index i = 0; i < points.rows(); ++i) csv << points(i, 0) << ',' << points(i, 1) << '\n';
  csv.close();
#include "2_short.cpp"
  const auto samples = diffeo::read_npy<double>("samples.npy");
  expect(samples.rows() == 100000 && samples.cols() == 2 && samples.allFinite(), "samples.npy");
}

void data_on_disk() {
  diffeo::write_npy("events.npy", diffeo::toy2d::sample<float>("moons", 2000, /*seed=*/1));
#include "3_short.cpp"
  expect(diffeo::parameters(model).allFinite(), "events.npy");
}

void known_density() {
#include "4_short.cpp"
}

void continuous_flow() {
  const diffeo::Array<float> data = diffeo::toy2d::sample<float>("moons", 1000, /*seed=*/1), x = data.topRows(10);
#include "5_short.cpp"
  expect(log_p.rows() == 10 && log_p.allFinite(), "path.log_prob");
}

void flow_matching() {
  const auto moons = [](std::uint64_t seed) { return diffeo::toy2d::sample<float>("moons", 1000, seed); };
  const diffeo::Array<float> data = moons(1), before = moons(2), between = moons(3);
#include "6_short.cpp"
  expect(diffeo::parameters(model).allFinite() && predicted.rows() == 1000 && predicted.allFinite(), "move_points");
}

void conditional_flow() {
  const diffeo::Array<float> x = diffeo::toy2d::sample<float>("moons", 1000, /*seed=*/1),
                             c = x.rowwise().sum() + diffeo::toy2d::sample<float>("moons", 1000, /*seed=*/2).col(0);
#include "7_short.cpp"
  expect(log_p.rows() == 1000 && log_p.allFinite() && drawn.rows() == 1000 && many.rows() == 1000, "p(x | c)");
}

#ifdef WITH_IO
void checkpoint() {
  const auto make_model = [] {
    return diffeo::TransformedDistribution(diffeo::StandardNormal<float>(2), diffeo::planar<float>(2, {.layers = 2}));
  };
  auto model = make_model();
  diffeo::set_parameters(model, diffeo::Array<float>(diffeo::parameters(model) * 0.5F));
#include "8_short.cpp"
  expect((diffeo::parameters(loaded) == diffeo::parameters(model)).all(), "moons.safetensors");
  expect(diffeo::checkpoint_info("moons.safetensors").metadata.at("run") == "7", "checkpoint_info");
}
#endif

void own_layer() {
  const diffeo::FlowSequence flow(Stretch<float>{diffeo::Array<float>::Constant(1, 2, std::log(2.0F))});
  const diffeo::Array<float> z = diffeo::toy2d::sample<float>("moons", 10, /*seed=*/1);
  expect((diffeo::forward(flow, z).value / z - 2).abs().maxCoeff() < 1e-5F, "Stretch");
}

}  // namespace

int main() {
  own_data();
  data_on_disk();
  known_density();
  continuous_flow();
  flow_matching();
  conditional_flow();
#ifdef WITH_IO
  checkpoint();
#endif
  own_layer();
}
