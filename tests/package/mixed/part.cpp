// SPDX-License-Identifier: MIT
#include "part.hpp"

#include <diffeo/diffeo.hpp>
#include <fstream>

// PART is the name of this object's Part.
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

namespace {

using diffeo::Array;

template <class S>
struct Run {
  std::vector<double>& results;
  std::string path;

  template <class Derived>
  void note(const Eigen::DenseBase<Derived>& x) {
    results.push_back(static_cast<double>(x.derived().array().mean()));
    results.push_back(static_cast<double>(x.derived().array().abs().maxCoeff()));
  }

  template <class Model>
  void use(Model& model, const Array<S>& data) {
    note(model.log_prob(data));
    const Array<S> x = model.sample(20, /*seed=*/3);
    note(x);
    note(model.score(x));
    // A buffer of the user's. Arrays of Eigen's own, Eigen::ArrayXXf and the like, need one set of flags everywhere.
    const Array<S> rows = data.transpose();
    using RowMajor = Eigen::Array<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    note(model.log_prob(Eigen::Map<const RowMajor>(rows.data(), data.rows(), data.cols())));
  }

  template <class Flow>
  void fit(const Array<S>& data, Flow flow) {
    diffeo::TransformedDistribution model(diffeo::StandardNormal<S>(data.cols()), std::move(flow));
    const diffeo::FitReport report =
        diffeo::fit(model, data, {.steps = 2, .batch = 64, .validation_fraction = 0.1, .progress = false});
    results.push_back(report.best_validation_loss);
    use(model, data);
  }

  void all() {
    const Array<S> data = diffeo::toy2d::sample<S>("moons", 200, /*seed=*/1);
    fit(data, diffeo::real_nvp(data, {.layers = 3}));
    fit(data, diffeo::nice(data, {.layers = 3}));
    fit(data, diffeo::planar(data, {.layers = 4}));
    fit(data, diffeo::radial(data, {.layers = 4}));
    fit(data, diffeo::cnf(data));
    fit(data, diffeo::residual(data, {.layers = 2}));
    Array<S> wide(100, 6);
    diffeo::fill_normal(diffeo::view(wide), /*seed=*/5, /*stream=*/0);
    fit(wide, diffeo::residual(wide, {.layers = 1}));

    const auto target = [](const auto& x) {
      const auto r = sqrt(sum_cols(square(x)));
      return square(r - S(2)) * S(-8);
    };
    diffeo::TransformedDistribution model(diffeo::StandardNormal<S>(2), diffeo::planar<S>(2, {.layers = 4}));
    diffeo::fit(model, diffeo::ReverseKl(target), {.steps = 2, .batch = 64});
    results.push_back(diffeo::estimate_log_z(model, target, 200, /*seed=*/1).elbo);
    note(diffeo::ProbabilityPath(
             diffeo::TransformedDistribution(diffeo::GaussianMixture<S>::random(3, 2, /*seed=*/1), diffeo::cnf(data)))
             .log_prob(0.5, data.topRows(10)));

    diffeo::write_npy(path + ".npy", data);
    note(diffeo::read_npy<S>(path + ".npy"));
    std::ofstream(path + ".csv") << "a,b\n1,2\n3,4.5\n";
    note(diffeo::read_csv<S>(path + ".csv").values);
  }
};

std::vector<double> run(const std::string& path) {
  std::vector<double> results;
  Run<float>{results, path + "_float"}.all();
  Run<double>{results, path + "_double"}.all();
  return results;
}

void throw_invalid_argument() {
  const auto flow = diffeo::planar<float>(2);
  diffeo::forward(flow, Array<float>::Zero(4, 3));
}

void throw_io_error() { diffeo::read_csv<double>("no such file"); }

void throw_convergence_error() {
  diffeo::ResidualOptions options;
  options.last_scale = 10;
  options.inverse.max_iterations = 1;
  diffeo::inverse(diffeo::make_residual<float>(2, options), Array<float>::Ones(4, 2));
}

void throw_integration_error() {
  diffeo::CnfFlowOptions options;
  options.cnf.evaluation.solver.max_steps = 1;
  options.network.last_scale = 10;
  diffeo::forward(diffeo::cnf<double>(2, options), Array<double>::Ones(4, 2));
}

}  // namespace

extern const Part PART;
const Part PART{TEXT(PART),
                TEXT(DIFFEO_ISA),
                run,
                throw_invalid_argument,
                throw_io_error,
                throw_convergence_error,
                throw_integration_error};
