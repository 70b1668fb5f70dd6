// SPDX-License-Identifier: MIT

// Fits p(x | c), a density in the plane that depends on a context, scores it on fresh pairs, and draws it for six
// contexts.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/command_line.hpp"
#include "support/conditional_picture.hpp"
#include "support/json.hpp"
#include "support/text.hpp"

namespace {

using diffeo::Array;
using diffeo::Index;
using std::numbers::pi;
using support::at_least;
using support::fixed;
using support::grouped;

constexpr Index training_pairs = 1'000'000;
// The entropy of the test pairs themselves differs from the exact one by a standard error of 1 / sqrt(pairs), while the
// difference of exact and learned log-densities has next to no noise; exact ones may take long.
constexpr Index test_pairs = 100'000, kl_pairs = 20'000;
constexpr Index shown_contexts = 6;

// ---------------------------------------------------------------------------------------------------------------------
// Problems: pairs of a context and a point, with the exact density of the point given the context.

struct Pairs {
  Array<double> x, c;  // N x 2 and N x C
};

struct Problem {
  const char* name;
  double best;  // mean of the exact log p(x | c): minus the entropy, which is the same for all contexts
  Pairs (*draw)(Index n, std::uint64_t seed);
  Array<double> (*log_prob)(const Array<double>& x, const Array<double>& c);  // exact, N x 1
  Array<double> (*context)(Index number);                                     // one of those shown, 1 x C
  std::string (*title)(Index number);
};

constexpr std::uint64_t context_stream = 0x636f6e7465787432;  // uses of the seed of their own
constexpr std::uint64_t noise_stream = 0x6e6f697365212121;

Array<double> uniform_numbers(Index n, std::uint64_t seed) {
  Array<double> u(n, 1);
  diffeo::fill_uniform(diffeo::view(u), seed, context_stream);
  return u;
}

// Turns point i by the angle of which row i of c is cosine and sine, or back.
Array<double> turned(const Array<double>& x, const Array<double>& c, bool back) {
  const double sign = back ? -1 : 1;
  Array<double> y(x.rows(), 2);
  y.col(0) = c.col(0) * x.col(0) - sign * c.col(1) * x.col(1);
  y.col(1) = sign * c.col(1) * x.col(0) + c.col(0) * x.col(1);
  return y;
}

double shown_angle(Index number) { return 2 * pi * static_cast<double>(number) / shown_contexts; }

Problem turned_moons() {
  return {
      .name = "turned_moons",
      .best = diffeo::toy2d::best_log_prob("moons"),
      .draw =
          [](Index n, std::uint64_t seed) {
            const Array<double> angle = 2 * pi * uniform_numbers(n, seed);
            Pairs pairs{{}, Array<double>(n, 2)};
            pairs.c << angle.cos(), angle.sin();
            pairs.x = turned(diffeo::toy2d::sample<double>("moons", n, seed), pairs.c, false);
            return pairs;
          },
      .log_prob = [](const Array<double>& x,
                     const Array<double>& c) { return diffeo::toy2d::log_prob<double>("moons", turned(x, c, true)); },
      .context =
          [](Index number) {
            Array<double> c(1, 2);
            c << std::cos(shown_angle(number)), std::sin(shown_angle(number));
            return c;
          },
      .title = [](Index number) { return "angle " + fixed(shown_angle(number) * 180 / pi, 0); }};
}

// The normal distributions that the toy density "8gaussians" is a mixture of.
constexpr Index gaussians = 8;
constexpr double gaussian_radius = 4 / 1.414, gaussian_scale = 0.5 / 1.414;

// Returns the centres of the Gaussians whose numbers are given by one-hot rows.
Array<double> centres(const Array<double>& c) {
  Array<double> centre = Array<double>::Zero(c.rows(), 2);
  for (Index k = 0; k < gaussians; ++k) {
    centre.col(0) += gaussian_radius * std::cos(double(k) * pi / 4) * c.col(k);
    centre.col(1) += gaussian_radius * std::sin(double(k) * pi / 4) * c.col(k);
  }
  return centre;
}

Problem numbered_gaussians() {
  return {.name = "numbered_gaussians",
          .best = -1 - std::log(2 * pi * gaussian_scale * gaussian_scale),
          .draw =
              [](Index n, std::uint64_t seed) {
                const Array<double> u = uniform_numbers(n, seed);
                Pairs pairs{Array<double>(n, 2), Array<double>::Zero(n, gaussians)};
                for (Index i = 0; i < n; ++i) pairs.c(i, static_cast<Index>(u(i, 0) * gaussians)) = 1;
                diffeo::fill_normal(diffeo::view(pairs.x), seed, noise_stream);
                pairs.x = gaussian_scale * pairs.x + centres(pairs.c);
                return pairs;
              },
          .log_prob =
              [](const Array<double>& x, const Array<double>& c) {
                const Array<double> z = (x - centres(c)) / gaussian_scale;
                return Array<double>(-0.5 * z.square().rowwise().sum() -
                                     std::log(2 * pi * gaussian_scale * gaussian_scale));
              },
          .context =
              [](Index number) {
                Array<double> c = Array<double>::Zero(1, gaussians);
                c(0, number) = 1;
                return c;
              },
          .title = [](Index number) { return "number " + std::to_string(number); }};
}

constexpr std::array<Problem (*)(), 2> problems = {turned_moons, numbered_gaussians};

// ---------------------------------------------------------------------------------------------------------------------
// Fitting and scoring.

struct Options {
  std::string problem = "turned_moons", flow = "realnvp", out = "pictures";
  std::optional<long> steps;
  std::optional<Index> batch, layers;
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
};

struct Run {
  const Options& options;
  Array<float> x, c;            // to fit
  Array<float> test_x, test_c;  // to score
  Array<float> cells;           // of the panels of the picture
  Array<float> shown;           // contexts of the panels
};

struct Outcome {
  Index parameters = 0;
  diffeo::FitReport report;
  Array<double> log_prob;    // of the test points: N x 1
  Array<float> log_density;  // at the cells, a column for each context that is shown
};

template <class Model>
Outcome fit_model(Model model, const Run& run, long steps) {
  const Options& options = run.options;
  diffeo::FitOptions fit;
  fit.steps = options.steps.value_or(steps);
  fit.batch = options.batch.value_or(fit.batch);
  fit.seed = options.seed;
  fit.threads = options.threads;
  fit.progress = true;
  Outcome outcome;
  outcome.parameters = diffeo::parameter_count(model);
  outcome.report = diffeo::fit(model, run.x, run.c, fit);
  outcome.log_prob = model.log_prob(run.test_x, run.test_c, options.threads).template cast<double>();
  outcome.log_density.resize(run.cells.rows(), run.shown.rows());
  for (Index k = 0; k < run.shown.rows(); ++k)
    outcome.log_density.col(k) = model.log_prob(run.cells, run.shown.row(k), options.threads).col(0);
  return outcome;
}

template <class Flow>
Outcome fit_flow(Flow flow, const Run& run, long steps) {
  return fit_model(diffeo::TransformedDistribution(diffeo::StandardNormal<float>(2), std::move(flow)), run, steps);
}

// The options of a recipe that has layers, with those of this run.
template <class RecipeOptions>
RecipeOptions with_layers(const Run& run) {
  RecipeOptions options;
  options.layers = run.options.layers.value_or(options.layers);
  options.seed = run.options.seed;
  return options;
}

// The divergence of a network with two hidden layers has a closed form, which costs a third of what the tangents of
// three layers do. Training needs less accurate solutions than the densities of the test points.
diffeo::CnfFlowOptions cnf_options(const Run& run) {
  diffeo::CnfFlowOptions options{.network = {.hidden = {96, 96}}, .seed = run.options.seed};
  options.cnf.training.solver.relative_tolerance = options.cnf.training.solver.absolute_tolerance = 1e-3;
  return options;
}

// The models of --flow, with the steps that they take unless the command line says otherwise.
struct FlowChoice {
  const char* name;
  Outcome (*fit)(const Run&);
  bool has_layers = true;
};
constexpr Index mixture_components = 16;
constexpr FlowChoice flows[] = {
    {"realnvp",
     [](const Run& run) {
       return fit_flow(diffeo::real_nvp(run.x, run.c, with_layers<diffeo::CouplingFlowOptions>(run)), run, 5000);
     }},
    {"residual",
     [](const Run& run) {
       return fit_flow(diffeo::residual(run.x, run.c, with_layers<diffeo::ResidualFlowOptions>(run)), run, 8000);
     }},
    {"planar",
     [](const Run& run) {
       return fit_flow(diffeo::planar(run.x, run.c, with_layers<diffeo::PlanarFlowOptions>(run)), run, 8000);
     }},
    {"radial",
     [](const Run& run) {
       return fit_flow(diffeo::radial(run.x, run.c, with_layers<diffeo::RadialFlowOptions>(run)), run, 8000);
     }},
    {"cnf", [](const Run& run) { return fit_flow(diffeo::cnf(run.x, run.c, cnf_options(run)), run, 8000); },
     /*has_layers=*/false},
    {"nice",
     [](const Run& run) {
       return fit_flow(diffeo::nice(run.x, run.c, with_layers<diffeo::CouplingFlowOptions>(run)), run, 5000);
     }},
    {"normal",
     [](const Run& run) {
       return fit_model(diffeo::conditional_normal(run.x, run.c, {.seed = run.options.seed}), run, 8000);
     },
     /*has_layers=*/false},
    {"mixture",
     [](const Run& run) {
       return fit_model(diffeo::conditional_mixture(run.x, run.c, mixture_components, {.seed = run.options.seed}), run,
                        8000);
     },
     /*has_layers=*/false},
};

const FlowChoice& choice(const std::string& flow) {
  return *std::find_if(std::begin(flows), std::end(flows), [&](const FlowChoice& one) { return flow == one.name; });
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

// Fits the model, prints the results and draws the picture; returns the line for --json.
std::string study(const Options& options) {
  Problem problem = problems[0]();
  for (const auto& make : problems)
    if (options.problem == make().name) problem = make();
  const FlowChoice& flow = choice(options.flow);

  // Fails before the training if the folder cannot be written.
  const std::filesystem::path folder = options.out;
  const std::string name = std::string(problem.name) + "_" + flow.name;
  support::create_folder(folder);
  support::write_file(folder / (name + ".gp"), "");

  const Pairs train = problem.draw(training_pairs, options.seed), test = problem.draw(test_pairs, ~options.seed);
  Run run{options, train.x.cast<float>(), train.c.cast<float>(), test.x.cast<float>(), test.c.cast<float>(), {}, {}};
  const support::Frame frame = support::conditional_frame(support::Range::around(run.test_x.col(0)),
                                                          support::Range::around(run.test_x.col(1)), true);
  run.cells = frame.cells();
  run.shown.resize(shown_contexts, run.c.cols());
  support::ConditionalPicture picture{.title = {},
                                      .axes = {"x", "y"},
                                      .contexts = {},
                                      .frame = frame,
                                      .log_density = {},
                                      .log_target = Array<float>(run.cells.rows(), shown_contexts)};
  for (Index k = 0; k < shown_contexts; ++k) {
    const Array<double> c = problem.context(k);
    run.shown.row(k) = c.row(0).cast<float>();
    picture.contexts.push_back(problem.title(k));
    picture.log_target.col(k) =
        problem.log_prob(run.cells.cast<double>(), c.replicate(run.cells.rows(), 1)).col(0).cast<float>();
  }

  std::cout << problem.name << ": " << grouped(training_pairs) << " pairs to fit, " << grouped(test_pairs)
            << " fresh ones to test, context of " << run.c.cols() << " numbers\n"
            << std::flush;
  const Outcome outcome = flow.fit(run);
  const diffeo::FitReport& report = outcome.report;
  const double score = outcome.log_prob.mean(), gap = problem.best - score;
  const Array<double> difference =
      problem.log_prob(run.test_x.topRows(kl_pairs).cast<double>(), run.test_c.topRows(kl_pairs).cast<double>()) -
      outcome.log_prob.topRows(kl_pairs);
  const double kl = difference.mean();
  const auto error = [](const Array<double>& values) {
    return std::sqrt((values - values.mean()).square().mean() / static_cast<double>(values.size()));
  };
  std::cout << flow.name << " of " << grouped(outcome.parameters) << " parameters: " << report << "\ntest log p(x | c) "
            << fixed(score, 3) << " +- " << fixed(error(outcome.log_prob), 3) << " nats a point, the best possible is "
            << fixed(problem.best, 3) << ": gap " << fixed(gap, 3) << "\nKL divergence from the exact density "
            << fixed(kl, 4) << " +- " << fixed(error(difference), 4) << '\n';

  picture.title = std::string(problem.name) + ", " + flow.name + ": test log p " + fixed(score, 3) + ", gap " +
                  fixed(gap, 3) + " nats";
  picture.log_density = outcome.log_density;
  support::write_conditional_picture(folder, name, picture);
  std::cout << support::draw_picture(folder, name) << std::endl;

  support::JsonObject json;
  json.add("problem", problem.name).add("flow", flow.name).add("parameters", outcome.parameters);
  json.add("steps", report.steps).add("seconds", report.seconds);
  json.add("test_log_prob", score).add("gap", gap).add("kl", kl);
  return json.text();
}

void add_options(CLI::App& app, Options& options) {
  std::vector<std::string> problem_names, flow_names;
  for (const auto& make : problems) problem_names.emplace_back(make().name);
  for (const FlowChoice& flow : flows) flow_names.emplace_back(flow.name);
  app.add_option("--problem", options.problem, "pairs to learn from, " + options.problem + " by default")
      ->check(CLI::IsMember(problem_names));
  app.add_option("--flow", options.flow, "flow, or normal or mixture, " + options.flow + " by default")
      ->check(CLI::IsMember(flow_names));
  app.add_option("--layers", options.layers, "layers of the flow; by default what suits it")->check(at_least(1));
  app.final_callback([&options] {
    if (options.layers && !choice(options.flow).has_layers)
      throw CLI::ValidationError("--layers", "is not for --flow " + options.flow + ", which has no layers");
  });
  app.add_option("--steps", options.steps, "training steps; by default what suits the flow")->check(at_least(0));
  app.add_option("--batch", options.batch, "pairs a step; by default what suits the flow")->check(at_least(1));
  app.add_option("--seed", options.seed, "of pairs, weights and order: 0 by default")->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_option("--out", options.out, "folder for the picture, its script and data: " + options.out + " by default");
  app.add_flag("--json", options.json, "end with the results as JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Fits a density in the plane that depends on a context: two moons that are turned by an angle, which is given by "
      "its cosine and sine, or eight Gaussians, of which a one-hot context gives the number.");
  Options options;
  add_options(app, options);
  return support::run_program("conditional2d", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result << '\n';
  });
}
