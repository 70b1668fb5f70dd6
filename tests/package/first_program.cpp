// SPDX-License-Identifier: MIT

#include <diffeo/diffeo.hpp>
#include <iostream>

int main() {
  // 20,000 points of the two moons: rows are samples, columns are coordinates.
  const diffeo::Array<float> data = diffeo::toy2d::sample<float>("moons", 20000, /*seed=*/1);

  // x = flow.forward(z) for a standard normal z, with densities in the units of the data.
  diffeo::TransformedDistribution model(diffeo::StandardNormal<float>(2), diffeo::real_nvp(data, {.layers = 8}));
  const diffeo::FitReport report = diffeo::fit(model, data, {.steps = 500, .validation_fraction = 0.1});
  std::cout << report << '\n';

  const diffeo::Array<float> test = diffeo::toy2d::sample<float>("moons", 20000, /*seed=*/2);
  std::cout << "log p of new data: " << model.log_prob(test).mean() << " nats (the best possible is -2.390)\n";
  const diffeo::Array<float> x = model.sample(1000, /*seed=*/3);  // 1000 x 2
  const diffeo::Array<float> gradient = model.score(x);           // of log p, for every sample
  return x.allFinite() && gradient.allFinite() ? 0 : 1;
}
