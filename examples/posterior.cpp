// SPDX-License-Identifier: MIT

// Fits a flow to the posterior of the eight schools model by variational inference and compares it with draws of a long
// Markov chain.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <optional>
#include <string>

#include "support/command_line.hpp"
#include "support/json.hpp"
#include "support/text.hpp"

namespace {

using diffeo::Array;
using diffeo::Index;
using support::at_least;
using support::fixed;
using Schools = diffeo::targets::EightSchools<float>;

constexpr Index dim = Schools::schools + 2;
constexpr Index posterior_samples = 200'000;

struct Options {
  std::string reference;
  Index layers = 8;
  long steps = 5000;
  Index batch = 512;
  double learning_rate = 2e-3;  // at the start; it decreases to 0 as half a cosine wave
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
};

std::string parameter_name(Index j) {
  return j < Schools::schools ? "theta_" + std::to_string(j + 1) : j == Schools::schools ? "mu" : "tau";
}

// Returns draws of theta_1 ... theta_8, mu and tau (N x 10), or none if there is no such file. `path` is the file, or
// the folder of draws.npy.
std::optional<Array<double>> reference_draws(const std::string& path) {
  if (path.empty()) return std::nullopt;
  const std::filesystem::path given = path;
  const std::filesystem::path file = std::filesystem::is_directory(given) ? given / "draws.npy" : given;
  if (!std::filesystem::exists(file)) return std::nullopt;
  const Array<double> draws = diffeo::read_npy<double>(file.string());
  diffeo::require(draws.cols() == dim && draws.rows() > 1, file.string(), " is ", draws.rows(), " x ", draws.cols(),
                  ", expected draws of theta_1 ... theta_8, mu and tau in 10 columns");
  diffeo::require_finite(draws, file.c_str());
  return draws;
}

diffeo::Moments moments(const Array<double>& x) {
  return diffeo::weighted_moments(x, Array<double>::Zero(x.rows(), 1));
}

// Fits the flow and prints the results; returns the line for --json.
std::string study(const Options& options) {
  const std::optional<Array<double>> draws = reference_draws(options.reference);
  if (!draws)
    std::cout << (options.reference.empty() ? "no reference draws given (--reference)"
                                            : options.reference + " does not exist: no reference draws")
              << ", so there is nothing to compare with\n";

  const Schools target;
  diffeo::TransformedDistribution model(
      diffeo::StandardNormal<float>(dim),
      diffeo::real_nvp<float>(
          dim, {.layers = options.layers, .network = {.hidden = {32, 32}, .last_scale = 0.01}, .seed = options.seed}));
  // The path derivative has little noise when the flow is close to the target, and here it comes close.
  const diffeo::FitReport report = diffeo::fit(model, diffeo::ReverseKl(target, {.path_derivative = true}),
                                               {.steps = options.steps,
                                                .batch = options.batch,
                                                .rate = {.learning_rate = options.learning_rate},
                                                .clip_ratio = 0,
                                                .seed = options.seed,
                                                .threads = options.threads,
                                                .progress = true});
  const diffeo::LogZEstimate evidence =
      diffeo::estimate_log_z(model, target, posterior_samples, options.seed, options.threads);
  // The means below are those of the flow itself, so its samples are not weighted.
  const diffeo::Moments flow = moments(
      Schools::constrained(model.sample(posterior_samples, options.seed, options.threads)).template cast<double>());

  std::cout << "real NVP of " << options.layers << " layers, " << support::grouped(diffeo::parameter_count(model))
            << " parameters: " << report << "\nlog p(y) " << fixed(evidence.log_z, 4) << " +- "
            << fixed(evidence.log_z_error, 4) << ", exactly " << fixed(target.log_z(), 4) << "; ELBO "
            << fixed(evidence.elbo, 4) << ", Pareto k-hat " << fixed(evidence.k_hat, 2) << "\n";
  if (!evidence.reliable()) std::cout << "warning: " << evidence.warning() << '\n';

  std::cout << "\n             mean      sd";
  if (draws) std::cout << "   reference: mean      sd   difference of means / sd   ratio of sds";
  std::cout << '\n';
  support::JsonObject json;
  json.add("target", "eight_schools").add("flow", "realnvp").add("layers", options.layers);
  json.add("steps", report.steps).add("seconds", report.seconds);
  json.add("step_ms", 1e3 * report.seconds / static_cast<double>(report.steps));  // null if there were no steps
  json.add("loss", report.final_loss()).add("elbo", evidence.elbo).add("kl", target.log_z() - evidence.elbo);
  json.add("log_z", evidence.log_z).add("log_z_error", evidence.log_z_error);
  json.add("ess", evidence.ess).add("samples", evidence.samples).add("k_hat", evidence.k_hat);

  const std::optional<diffeo::Moments> reference = draws ? std::optional(moments(*draws)) : std::nullopt;
  double worst_mean = 0, worst_sd = 0;
  for (Index j = 0; j < dim; ++j) {
    const double mean = flow.mean(0, j), sd = flow.standard_deviation(0, j);
    std::cout << std::left << std::setw(9) << parameter_name(j) << std::right << std::setw(8) << fixed(mean, 3)
              << std::setw(8) << fixed(sd, 3);
    json.add(parameter_name(j) + "_mean", mean).add(parameter_name(j) + "_sd", sd);
    if (reference) {
      const double true_mean = reference->mean(0, j), true_sd = reference->standard_deviation(0, j);
      const double difference = (mean - true_mean) / true_sd, ratio = sd / true_sd;
      std::cout << std::setw(19) << fixed(true_mean, 3) << std::setw(8) << fixed(true_sd, 3) << std::setw(27)
                << fixed(difference, 3) << std::setw(15) << fixed(ratio, 3);
      worst_mean = std::max(worst_mean, std::abs(difference));
      worst_sd = std::max(worst_sd, std::abs(ratio - 1));
    }
    std::cout << '\n';
  }
  if (reference) {
    std::cout << "\nworst: a mean " << fixed(worst_mean, 3) << " standard deviations off, a standard deviation "
              << fixed(100 * worst_sd, 1) << " % off\n";
    json.add("worst_mean_error", worst_mean).add("worst_sd_error", worst_sd);
  }
  std::cout << std::flush;
  return json.text();
}

void add_options(CLI::App& app, Options& options) {
  const auto by_default = [](auto value) { return ", " + std::to_string(value) + " by default"; };
  app.add_option("--reference", options.reference,
                 "reference draws of theta_1 ... theta_8, mu and tau: an .npy file of 10 columns, or the folder of "
                 "draws.npy; without them there is no comparison");
  app.add_option("--layers", options.layers, "couplings" + by_default(options.layers))->check(at_least(1));
  app.add_option("--steps", options.steps, "training steps" + by_default(options.steps))->check(at_least(0));
  app.add_option("--batch", options.batch, "samples a step" + by_default(options.batch))->check(at_least(1));
  app.add_option("--seed", options.seed, "of weights and samples: 0 by default")->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_flag("--json", options.json, "end with the results as JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Fits a normalizing flow to the posterior of the eight schools (Rubin 1981) by variational inference, and prints "
      "means and standard deviations beside those of reference draws.");
  Options options;
  add_options(app, options);
  return support::run_program("posterior", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result << '\n';
  });
}
