// SPDX-License-Identifier: MIT

// Moves the points of one distribution in the plane to another by flow matching, with independent pairs and with those
// of optimal transport, and draws the trajectories of both side by side.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iostream>
#include <numbers>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/command_line.hpp"
#include "support/density_picture.hpp"
#include "support/json.hpp"
#include "support/sheet.hpp"
#include "support/text.hpp"

namespace {

using diffeo::Array;
using diffeo::Index;
using support::at_least;
using support::fixed;
using Points = Array<float>;  // N x 2

struct Options {
  std::string problem = "moons_to_8gaussians", out = "pictures";
  long steps = 5000;
  Index batch = 512;
  double sigma = 0.1;
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
};

// ---------------------------------------------------------------------------------------------------------------------
// The distributions of Tong et al. (2024), whose protocol this is: networks of three hidden layers with 64 selu units,
// AdamW with the rate 1e-3 and the weight decay 1e-5, minibatches of 512, sigma 0.1, Euler's method at 101 points, and
// the 2-Wasserstein distance of 1,000 samples from as many fresh points.

// The distance of one such set from another depends on chance by a third of it: it is averaged over some pairs of sets.

constexpr Index training_points = 200'000, test_points = 1000, euler_steps = 100;
constexpr std::uint64_t test_sets = 5;

enum class Distribution { normal, moons, eight_gaussians };

// Two half circles; each point is moved by a number below 0.2, the same in both coordinates, then 3 x - 1.
Points moons(Index n, std::uint64_t seed) {
  Points shift(n, 1), numbers(n, 1), points(n, 2);
  diffeo::fill_uniform(view(shift), seed, 1);
  diffeo::fill_uniform(view(numbers), seed, 2);
  for (Index i = 0; i < n; ++i) {
    const double a = std::numbers::pi * static_cast<double>(numbers(i, 0)),
                 moved = 0.2 * static_cast<double>(shift(i, 0));
    const bool outer = i % 2 == 0;
    points(i, 0) = static_cast<float>(3 * ((outer ? std::cos(a) : 1 - std::cos(a)) + moved) - 1);
    points(i, 1) = static_cast<float>(3 * ((outer ? std::sin(a) : 0.5 - std::sin(a)) + moved) - 1);
  }
  return points;
}

Points eight_gaussians(Index n, std::uint64_t seed) {
  constexpr double radius = 5, deviation = 0.562;
  Points points(n, 2);
  diffeo::fill_normal(view(points), seed, 3);
  diffeo::PhiloxEngine engine(seed, 4);
  for (Index i = 0; i < n; ++i) {
    const double angle = std::numbers::pi / 4 * static_cast<double>(engine.below(8));
    points(i, 0) = static_cast<float>(radius * std::cos(angle) + deviation * static_cast<double>(points(i, 0)));
    points(i, 1) = static_cast<float>(radius * std::sin(angle) + deviation * static_cast<double>(points(i, 1)));
  }
  return points;
}

// What points are for: of each distribution they are others.
enum class Use { training, test, floor };

// `seed` is that of the run, `set` the number among the sets of one use, below test_sets.
Points sample(Distribution distribution, Index n, std::uint64_t seed, Use use, std::uint64_t set = 0) {
  const std::uint64_t own = (seed * 3 + static_cast<std::uint64_t>(use)) * test_sets + set;
  if (distribution == Distribution::moons) return moons(n, own);
  if (distribution == Distribution::eight_gaussians) return eight_gaussians(n, own);
  Points points(n, 2);
  diffeo::fill_normal(view(points), own, 5);
  return points;
}

struct Problem {
  const char* name;
  const char* title;
  Distribution source, target;
};
constexpr std::array<Problem, 3> problems = {
    {{"moons_to_8gaussians", "moons to eight Gaussians", Distribution::moons, Distribution::eight_gaussians},
     {"8gaussians", "a normal distribution to eight Gaussians", Distribution::normal, Distribution::eight_gaussians},
     {"moons", "a normal distribution to moons", Distribution::normal, Distribution::moons}}};

// ---------------------------------------------------------------------------------------------------------------------
// Training and measurement.

using Model = diffeo::TransformedDistribution<diffeo::StandardNormal<float>, diffeo::CnfFlow<float>>;

struct Result {
  std::string name, title;
  diffeo::FitReport report;
  double wasserstein = 0, one_step_wasserstein = 0;
  double energy = 0, normalised_energy = 0;
  std::vector<Points> trajectories;  // at equidistant times
  Points one_step;                   // samples by one step of Euler's method
};

constexpr Index drawn_every = 4, drawn_times = 41;  // of the test points; of the trajectories

Points by_euler(const Model& model, Index steps, const Points& x, int threads) {
  diffeo::CnfFlow<float> flow = model.flow;
  auto& solver = std::get<0>(flow.layers).options.evaluation.solver;
  solver.method = diffeo::ode::Method::euler;
  solver.steps = steps;
  return diffeo::move_points(flow, x, 0, 1, threads);
}

template <class PairingPolicy>
Result train(const char* name, const char* title, const Problem& problem, const PairingPolicy& pairing,
             const Options& options) {
  Result result;
  result.name = name;
  result.title = title;
  Model model(diffeo::StandardNormal<float>(2),
              diffeo::cnf<float>(
                  2, {.network = {.hidden = {64, 64, 64}, .activation = diffeo::Activation::selu, .first_scale = 1},
                      .seed = options.seed}));
  std::vector<diffeo::Snapshot<float>> snapshots = {
      {1, {sample(problem.target, training_points, options.seed, Use::training)}}};
  if (problem.source != Distribution::normal)
    snapshots.insert(snapshots.begin(), {0, {sample(problem.source, training_points, options.seed, Use::training)}});
  const diffeo::FlowMatching objective(model, snapshots, diffeo::LinearPath{options.sigma}, pairing);
  result.report = diffeo::fit(model, objective,
                              {.steps = options.steps,
                               .batch = options.batch,
                               .rate = {.learning_rate = 1e-3, .schedule = diffeo::Schedule::constant},
                               .adam = {.weight_decay = 1e-5},
                               .clip_ratio = 0,
                               .seed = options.seed,
                               .threads = options.threads,
                               .progress = true});

  const auto source_set = [&](std::uint64_t set) {
    return sample(problem.source, test_points, options.seed, Use::test, set);
  };
  const auto target_set = [&](std::uint64_t set) {
    return sample(problem.target, test_points, options.seed, Use::test, set);
  };
  for (std::uint64_t set = 0; set < test_sets; ++set) {
    const Points from = source_set(set), to = target_set(set);
    constexpr auto share = 1.0 / static_cast<double>(test_sets);
    result.wasserstein += share * diffeo::wasserstein2(by_euler(model, euler_steps, from, options.threads), to);
    result.one_step_wasserstein += share * diffeo::wasserstein2(by_euler(model, 1, from, options.threads), to);
  }
  const Points source = source_set(0);
  const double apart = diffeo::wasserstein2(source, target_set(0));
  result.one_step = by_euler(model, 1, source, options.threads);
  const diffeo::ProbabilityPath path(model);
  result.energy = diffeo::path_energy(path, source, 16, options.threads);
  result.normalised_energy = diffeo::normalised_path_energy(result.energy, apart);
  std::vector<double> times;
  for (Index k = 0; k < drawn_times; ++k) times.push_back(static_cast<double>(k) / (drawn_times - 1));
  Points drawn((test_points - 1) / drawn_every + 1, 2);
  for (Index i = 0; i < drawn.rows(); ++i) drawn.row(i) = source.row(drawn_every * i + i % 2);
  result.trajectories = path.trajectories(drawn, times, options.threads);
  std::cout << title << ": " << result.report << "\n  W2 from " << support::grouped(test_points)
            << " fresh points, mean of " << test_sets << ": " << fixed(result.wasserstein, 3) << " by " << euler_steps
            << " steps of Euler's method, " << fixed(result.one_step_wasserstein, 3) << " by one step\n  path energy "
            << fixed(result.energy, 2) << ", normalised " << fixed(result.normalised_energy, 3) << std::endl;
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// The picture: trajectories above, samples by one step below.

// Returns the trajectories as CSV, with a blank line after each.
std::string trajectories_text(const std::vector<Points>& states) {
  std::string text = "x,y\n";
  for (Index i = 0; i < states.front().rows(); ++i) {
    for (const Points& at : states) {
      support::append_number(text, at(i, 0));
      text += ',';
      support::append_number(text, at(i, 1));
      text += '\n';
    }
    text += '\n';
  }
  return text;
}

void write_trajectories_picture(const std::filesystem::path& folder, const std::string& name, const Problem& problem,
                                const Points& target, const std::array<Result, 2>& results) {
  using support::gnuplot::literal;
  using support::gnuplot::number;
  support::write_file(folder / (name + "_target.csv"), support::csv_text({"x", "y"}, target));
  for (const Result& result : results) {
    const std::string prefix = name + "_" + result.name;
    support::write_file(folder / (prefix + "_trajectories.csv"), trajectories_text(result.trajectories));
    support::write_file(folder / (prefix + "_start.csv"), support::csv_text({"x", "y"}, result.trajectories.front()));
    support::write_file(folder / (prefix + "_end.csv"), support::csv_text({"x", "y"}, result.trajectories.back()));
    support::write_file(folder / (prefix + "_one_step.csv"), support::csv_text({"x", "y"}, result.one_step));
  }

  // One scale for all panels, as wide as the trajectories are.
  support::Range x = support::Range::around(target.col(0)), y = support::Range::around(target.col(1));
  for (const Result& result : results)
    for (const Points& at : result.trajectories) {
      const auto widen = [](support::Range& range, const support::Range& other) {
        range = {std::min(range.low, other.low), std::max(range.high, other.high)};
      };
      widen(x, support::Range::around(at.col(0)));
      widen(y, support::Range::around(at.col(1)));
    }
  support::PictureStyle style;
  style.same_units = true;
  style.panel = 420;
  const support::Frame frame(x, y, style);
  const double width = frame.width(), height = frame.height(), left = 70, top = 80, gap = 30, between = 45;
  const support::Sheet sheet(left + 2 * width + gap + 25, top + 2 * height + between + 65);

  std::ostringstream script;
  script << support::script_begin(name + ".gp", name + ".png", "pngcairo font 'Sans,11' noenhanced", sheet)
         << "set multiplot\n"
         << sheet.title(1, literal(std::string("Flow matching from ") + problem.title)) << "set xrange "
         << support::detail::range(frame.x()) << "; set yrange " << support::detail::range(frame.y()) << "\n";
  for (std::size_t row = 0; row < 2; ++row)
    for (std::size_t k = 0; k < 2; ++k) {
      const Result& result = results[k];
      const std::string prefix = name + "_" + result.name;
      const std::string title =
          row == 0 ? result.title + ": W2 " + fixed(result.wasserstein, 3) + ", path energy " + fixed(result.energy, 1)
                   : "one step of Euler's method: W2 " + fixed(result.one_step_wasserstein, 3);
      script << "\n"
             << sheet.place({left + static_cast<double>(k) * (width + gap),
                             top + static_cast<double>(row) * (height + between), width, height})
             << "set title " << literal(title) << " offset 0,-0.5\n"
             << (k == 0 ? "set ylabel 'y'; set format y '%g'\n" : "unset ylabel; set format y ''\n")
             << (row == 1 ? "set xlabel 'x'; set format x '%g'\n" : "unset xlabel; set format x ''\n") << "plot ";
      if (row == 0)
        script << "'" << prefix << "_trajectories.csv' skip 1 using 1:2 with lines lw 0.7 lc rgb '#b8a04a', \\\n  '"
               << prefix << "_start.csv' skip 1 using 1:2 with points pt 7 ps 0.35 lc rgb '#000000', \\\n  '" << prefix
               << "_end.csv' skip 1 using 1:2 with points pt 7 ps 0.35 lc rgb '#1f4fb4'\n";
      else
        script << "'" << name << "_target.csv' skip 1 using 1:2 with points pt 7 ps 0.35 lc rgb '#c8c8c8', \\\n  '"
               << prefix << "_one_step.csv' skip 1 using 1:2 with points pt 7 ps 0.35 lc rgb '#1f4fb4'\n";
      if (row == 0 && k == 0) script << "unset label 1\n";
    }
  script << "unset multiplot\nset output\n";
  support::write_file(folder / (name + ".gp"), script.str());
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

// Trains both flows and draws the picture; returns the line for --json.
std::string study(const Options& options) {
  const Problem& problem =
      *std::find_if(problems.begin(), problems.end(), [&](const Problem& p) { return options.problem == p.name; });
  const std::filesystem::path folder = options.out;
  const std::string name = "matching_" + options.problem;
  support::create_folder(folder);
  support::write_file(folder / (name + ".gp"), "");  // fails before the training if the folder cannot be written

  const Points target = sample(problem.target, test_points, options.seed, Use::test);
  double floor = 0;
  for (std::uint64_t set = 0; set < test_sets; ++set)
    floor += diffeo::wasserstein2(sample(problem.target, test_points, options.seed, Use::floor, set),
                                  sample(problem.target, test_points, options.seed, Use::test, set)) /
             static_cast<double>(test_sets);
  std::cout << "from " << problem.title << "; W2 of " << support::grouped(test_points)
            << " independent points of the target itself from others: " << fixed(floor, 3) << std::endl;
  const std::array<Result, 2> results = {
      train("independent", "independent pairs", problem, diffeo::IndependentPairing{}, options),
      train("optimal", "optimal pairs", problem, diffeo::OptimalTransportPairing{}, options)};
  write_trajectories_picture(folder, name, problem, target, results);
  std::cout << support::draw_picture(folder, name) << std::endl;

  support::JsonObject json;
  json.add("problem", options.problem).add("steps", options.steps).add("target_w2", floor);
  for (const Result& result : results) {
    const auto key = [&](const char* what) { return result.name + "_" + what; };
    json.add(key("seconds"), result.report.seconds);
    json.add(key("step_ms"), 1e3 * result.report.seconds / static_cast<double>(result.report.steps));
    json.add(key("w2"), result.wasserstein).add(key("one_step_w2"), result.one_step_wasserstein);
    json.add(key("path_energy"), result.energy).add(key("normalised_path_energy"), result.normalised_energy);
  }
  return json.text();
}

void add_options(CLI::App& app, Options& options) {
  std::vector<std::string> names;
  for (const Problem& problem : problems) names.emplace_back(problem.name);
  app.add_option("--problem", options.problem, "source and target, " + options.problem + " by default")
      ->check(CLI::IsMember(names));
  app.add_option("--steps", options.steps, "training steps, 5000 by default")->check(at_least(0));
  app.add_option("--batch", options.batch, "points a step, 512 by default")->check(at_least(1));
  app.add_option("--sigma", options.sigma, "noise around the straight lines, 0.1 by default")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--seed", options.seed, "of data, weights and order: 0 by default")->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_option("--out", options.out, "folder for pictures, their scripts and data: " + options.out + " by default");
  app.add_flag("--json", options.json, "end with the results as JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Moves the points of one distribution in the plane to another by flow matching, with independent pairs and with "
      "those of minibatch optimal transport, and compares trajectories, distances and path energies.");
  Options options;
  add_options(app, options);
  return support::run_program("flow_matching2d", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result << '\n';
  });
}
