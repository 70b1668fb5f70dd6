// SPDX-License-Identifier: MIT

// Fits a flow to a density in the plane that is known up to a constant, without any data, estimates the constant, and
// draws what it learned.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/command_line.hpp"
#include "support/density_picture.hpp"
#include "support/json.hpp"
#include "support/text.hpp"

namespace {

using diffeo::Array;
using diffeo::Index;
using support::at_least;
using support::fixed;
using Points = Array<float>;  // N x 2

constexpr Index estimate_samples = 200'000;
constexpr Index shown_samples = 10'000;

struct Options {
  std::string target = "U1", flow = "planar", out = "pictures";
  std::optional<Index> layers;
  std::optional<long> steps;
  std::optional<int> tries;
  Index batch = 1024;
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
};

// Default settings of a flow and its training; the command line may change them.
struct Settings {
  Index layers = 16;
  long steps = 10000;
  double learning_rate = 2e-3;   // at the start; it decreases to 0 as half a cosine wave
  bool path_derivative = false;  // see diffeo::ReverseKl
  int tries = 1;                 // number of trainings with different initial weights; the highest ELBO is kept
};

// ---------------------------------------------------------------------------------------------------------------------
// The flows of --flow.

enum class FlowKind { planar, radial, residual, real_nvp };

struct FlowChoice {
  const char* name;
  FlowKind kind;
  Settings settings;
};
// The result of planar and radial layers depends on the initial weights, more so with few layers; as their steps take
// microseconds, several trainings are affordable.
constexpr FlowChoice flows[] = {
    {"planar", FlowKind::planar, {.layers = 32, .steps = 30000, .learning_rate = 5e-3, .tries = 8}},
    {"radial", FlowKind::radial, {.layers = 32, .learning_rate = 5e-3, .tries = 2}},
    {"residual", FlowKind::residual, {.layers = 8, .steps = 5000, .learning_rate = 2e-3}},
    {"realnvp", FlowKind::real_nvp, {.path_derivative = true}},
};

// Calls f with a newly initialised flow.
template <class F>
auto with_flow(FlowKind kind, Index layers, std::uint64_t seed, const F& f) {
  const auto stream = [](Index i) { return static_cast<std::uint64_t>(i); };
  switch (kind) {
    case FlowKind::planar:
      return f(diffeo::repeat(
          layers, [&](Index i) { return diffeo::make_planar<float>(2, diffeo::Activation::tanh, seed, stream(i)); }));
    case FlowKind::radial:
      return f(diffeo::repeat(layers, [&](Index i) { return diffeo::make_radial<float>(2, seed, stream(i)); }));
    case FlowKind::residual: {
      const diffeo::ResidualOptions block{.hidden = {64, 64}, .last_scale = 0.01};
      return f(diffeo::repeat(layers, [&](Index i) {
        return diffeo::make_residual<float>(2, block, seed, stream(i) * streams_of(block.network()));
      }));
    }
    case FlowKind::real_nvp:
      break;
  }
  return f(diffeo::real_nvp<float>(
      2, {.layers = layers, .network = {.hidden = {32, 32}, .last_scale = 0.01, .first_scale = 1}, .seed = seed}));
}

// ---------------------------------------------------------------------------------------------------------------------
// The targets of --target.

using LogDensity = diffeo::Var<float> (*)(diffeo::Var<float>);  // N x 2 -> N x 1

struct TargetChoice {
  const char* name;
  double log_z;
  support::Range x, y;  // of the picture
  LogDensity log_density;
};

template <class T>
TargetChoice target(const char* name, support::Range x, support::Range y) {
  return {name, T().log_z(), x, y, [](diffeo::Var<float> points) { return T()(points); }};
}

using namespace diffeo::targets;
const TargetChoice targets[] = {
    target<U1>("U1", {-4, 4}, {-4, 4}),          target<U2>("U2", {-5, 5}, {-5, 5}),
    target<U3>("U3", {-5, 5}, {-5, 5}),          target<U4>("U4", {-5, 5}, {-5, 5}),
    target<Banana>("banana", {-9, 9}, {-6, 12}), target<Funnel>("funnel", {-9, 9}, {-9, 9}),
};

// ---------------------------------------------------------------------------------------------------------------------
// Fitting.

struct Outcome {
  Index parameters = 0;
  diffeo::FitReport report;
  diffeo::LogZEstimate estimate;
  Points samples;
  Array<float> log_target, log_density;  // at the cells of the picture
};

template <class Flow>
Outcome fit_flow(Flow flow, const TargetChoice& target, const Settings& settings, const Options& options,
                 std::uint64_t seed, const Points& cells) {
  diffeo::TransformedDistribution model(diffeo::StandardNormal<float>(2), std::move(flow));
  Outcome outcome;
  outcome.parameters = diffeo::parameter_count(model);

  // The weight of the target grows over the first half of the training, so that the flow spreads over all modes first.
  const diffeo::ReverseKl objective(
      target.log_density,
      {.beta_start = 0.01, .anneal_steps = settings.steps / 2, .path_derivative = settings.path_derivative});
  outcome.report = diffeo::fit(model, objective,
                               {.steps = settings.steps,
                                .batch = options.batch,
                                .rate = {.learning_rate = settings.learning_rate},
                                .clip_ratio = 3,
                                .seed = seed,
                                .threads = options.threads,
                                .progress = true});

  outcome.estimate = diffeo::estimate_log_z(model, target.log_density, estimate_samples, seed, options.threads);
  outcome.samples = model.sample(shown_samples, seed, options.threads);
  outcome.log_density = model.log_prob(cells, options.threads);
  outcome.log_target.resize(cells.rows(), 1);
  diffeo::for_each_tile<float>(cells.rows(), options.threads, [&](diffeo::Tape<float>& tape, Index first, Index count) {
    outcome.log_target.middleRows(first, count) =
        as_eigen(target.log_density(tape.copy(cells.middleRows(first, count))).value()) -
        static_cast<float>(target.log_z);
  });
  return outcome;
}

Outcome fit_target(const TargetChoice& target, const FlowChoice& choice, const Settings& settings,
                   const Options& options, const Points& cells) {
  std::optional<Outcome> best;
  for (int i = 0; i < settings.tries; ++i) {
    const std::uint64_t seed =
        options.seed * static_cast<std::uint64_t>(settings.tries) + static_cast<std::uint64_t>(i);
    Outcome outcome = with_flow(choice.kind, settings.layers, seed, [&](auto flow) {
      return fit_flow(std::move(flow), target, settings, options, seed, cells);
    });
    if (settings.tries > 1) std::cout << "try " << i + 1 << ": ELBO " << fixed(outcome.estimate.elbo, 4) << std::endl;
    if (!best || outcome.estimate.elbo > best->estimate.elbo) best = std::move(outcome);
  }
  return *std::move(best);
}

template <class Choices>
const auto& chosen(const Choices& choices, const std::string& name) {
  return *std::find_if(std::begin(choices), std::end(choices), [&](const auto& choice) { return name == choice.name; });
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

// Fits the flow, prints the results and draws the picture; returns the line for --json.
std::string study(const Options& options) {
  const TargetChoice& target = chosen(targets, options.target);
  const FlowChoice& flow = chosen(flows, options.flow);
  Settings settings = flow.settings;
  settings.layers = options.layers.value_or(settings.layers);
  settings.steps = options.steps.value_or(settings.steps);
  settings.tries = options.tries.value_or(settings.tries);
  const Index layers = settings.layers;
  // Fails before the training if the folder cannot be written.
  const std::filesystem::path folder = options.out;
  support::create_folder(folder);
  const std::string name = options.target + "_" + flow.name + std::to_string(layers);
  support::write_file(folder / (name + ".gp"), "");

  const support::PictureStyle style{.same_units = true, .goal = -target.log_z, .elbo = true};
  const support::Frame frame(target.x, target.y, style);
  const Outcome outcome = fit_target(target, flow, settings, options, frame.cells());
  const diffeo::FitReport& report = outcome.report;
  const diffeo::LogZEstimate& estimate = outcome.estimate;
  const double kl = target.log_z - estimate.elbo;

  std::cout << flow.name << " of " << layers << " layers, " << support::grouped(outcome.parameters)
            << " parameters: " << report << '\n'
            << "reverse KL " << fixed(kl, 4) << " +- " << fixed(estimate.elbo_error, 4) << " nats\nlog Z "
            << fixed(estimate.log_z, 4) << " +- " << fixed(estimate.log_z_error, 4) << ", exactly "
            << fixed(target.log_z, 4) << "; effective sample size " << std::lround(estimate.ess) << " of "
            << estimate.samples << ", Pareto k-hat " << fixed(estimate.k_hat, 2) << '\n';
  if (!estimate.reliable()) std::cout << "warning: " << estimate.warning() << '\n';

  support::DensityPicture picture{.title = options.target + ", " + flow.name + " of " + std::to_string(layers) +
                                           " layers: reverse KL " + fixed(kl, 4) + " nats",
                                  .data_title = "target density",
                                  .samples_title = support::grouped(outcome.samples.rows()) + " samples of the model",
                                  .axes = {"z1", "z2"},
                                  .style = style,
                                  .data = {},
                                  .samples = outcome.samples,
                                  .frame = frame,
                                  .log_density = outcome.log_density,
                                  .log_target = outcome.log_target};
  support::write_picture(folder, name, picture, report);
  std::cout << support::draw_picture(folder, name) << std::endl;

  support::JsonObject json;
  json.add("target", options.target).add("flow", flow.name).add("layers", layers);
  json.add("parameters", outcome.parameters).add("steps", report.steps).add("seconds", report.seconds);
  json.add("step_ms", 1e3 * report.seconds / static_cast<double>(report.steps));  // null if there were no steps
  json.add("tries", settings.tries).add("loss", report.final_loss()).add("elbo", estimate.elbo).add("kl", kl);
  json.add("log_z", estimate.log_z).add("log_z_error", estimate.log_z_error).add("log_z_exact", target.log_z);
  json.add("ess", estimate.ess).add("samples", estimate.samples).add("k_hat", estimate.k_hat);
  return json.text();
}

void add_options(CLI::App& app, Options& options) {
  std::vector<std::string> target_names, flow_names;
  for (const TargetChoice& target : targets) target_names.emplace_back(target.name);
  for (const FlowChoice& flow : flows) flow_names.emplace_back(flow.name);
  app.add_option("--target", options.target, "target density, " + options.target + " by default")
      ->check(CLI::IsMember(target_names));
  app.add_option("--flow", options.flow, "flow, " + options.flow + " by default")->check(CLI::IsMember(flow_names));
  app.add_option("--layers", options.layers, "layers of the flow; by default what suits it")->check(at_least(1));
  app.add_option("--steps", options.steps, "training steps; by default what suits the flow")->check(at_least(0));
  app.add_option("--tries", options.tries,
                 "trainings from different weights, of which the best counts; by default what suits the flow")
      ->check(at_least(1));
  app.add_option("--batch", options.batch, "samples a step, " + std::to_string(options.batch) + " by default")
      ->check(at_least(1));
  app.add_option("--seed", options.seed, "of weights and samples: 0 by default")->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_option("--out", options.out, "folder for the picture, its script and data: " + options.out + " by default");
  app.add_flag("--json", options.json, "end with the results as JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Fits a normalizing flow to an unnormalised density in the plane by variational inference, and estimates the "
      "density's integral Z by importance weighting.");
  Options options;
  add_options(app, options);
  return support::run_program("variational2d", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result << '\n';
  });
}
