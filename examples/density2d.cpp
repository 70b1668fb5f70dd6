// SPDX-License-Identifier: MIT

// Fits a flow to points in the plane, scores it on held-out points, and draws what it learned.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/command_line.hpp"
#include "support/conditional_picture.hpp"
#include "support/density_picture.hpp"
#include "support/json.hpp"
#include "support/text.hpp"

namespace {

using diffeo::Array;
using diffeo::Index;
using support::at_least;
using support::fixed;
using support::grouped;
using Points = Array<float>;  // N x 2

// ---------------------------------------------------------------------------------------------------------------------
// How flows are fitted unless the command line says otherwise.

// The library's defaults, where there is nothing here.
struct Settings {
  std::optional<Index> layers;
  std::optional<diffeo::MlpOptions> network;
  diffeo::FitOptions fit;
};

// Toy densities: no end of points, so that a large flow has nothing to learn by heart.
constexpr Index toy_training_points = 2'000'000;
constexpr Index toy_test_points = 20'000;
Settings toy_settings(std::string_view flow) {
  Settings settings;
  if (flow == "cnf") settings.fit.steps = 4000;
  if (flow == "fm") settings.fit.steps = 30'000;
  if (flow == "otcfm") settings.fit.steps = 15'000;
  return settings;
}

// Files: the fewer the rows, the smaller the flow, and the sooner it must stop.
constexpr Index least_rows = 20;
constexpr double test_fraction = 0.1;
Settings file_settings(Index rows, std::string_view flow) {
  Settings settings;
  const bool few = rows < 500;
  settings.layers = few || flow == "residual" ? 8 : 32;
  settings.network = {
      .hidden = few ? std::vector<Index>{32, 32} : std::vector<Index>{64, 64}, .last_scale = 0.01, .first_scale = 1};
  diffeo::FitOptions& fit = settings.fit;
  fit.steps = few ? 500 : 8000;
  fit.batch = rows < 2000 ? 256 : 512;
  fit.rate = {.learning_rate = few ? 1e-3 : 2e-3};
  fit.adam = {.weight_decay = few ? 2 : 0.05};
  fit.clip_norm = few ? 0 : 1;
  fit.clip_ratio = 0;
  // The parameters of the lowest validation loss are kept, and the training ends after 15 validations without a lower.
  fit.validation_fraction = few ? 0.15 : 0.1;
  fit.patience = 15;
  return settings;
}

// ---------------------------------------------------------------------------------------------------------------------
// Data sets.
struct Problem {
  std::string data;  // name of the toy density, or path of the file
  std::string name;  // prefix of the names of the files that are written
  std::array<std::string, 2> columns;
  Points train, test, shown;
  std::optional<double> best;     // toys only: mean of the true log-density, the best possible score
  std::optional<double> on_test;  // toys only: mean of the true log-density over the test points
  bool geographic = false;        // whether the columns are latitude and longitude in degrees
  Settings settings;

  // With --context: its name, and that of each row. The flow is then one of p(x | c).
  std::optional<std::string> context;
  Points train_context, test_context, shown_context;  // N x 1
};

Problem toy_problem(const std::string& toy, std::string_view flow, std::uint64_t seed) {
  Problem problem;
  problem.data = problem.name = toy;
  problem.columns = {"x", "y"};
  problem.train = diffeo::toy2d::sample<float>(toy, toy_training_points, seed);
  problem.test = diffeo::toy2d::sample<float>(toy, toy_test_points, ~seed);
  problem.shown = problem.train.topRows(toy_test_points);
  problem.best = diffeo::toy2d::best_log_prob(toy);
  problem.on_test = diffeo::toy2d::log_prob<double>(toy, problem.test).mean();
  problem.settings = toy_settings(flow);
  return problem;
}

// Returns whether `name`, in lower case, begins with `start`: "lat" and "lon" stand for latitude and longitude.
bool begins_like(std::string name, std::string_view start) {
  std::transform(name.begin(), name.end(), name.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return name.starts_with(start);
}

// Replaces all characters except letters, digits, '-' and '_' by '_', so that file names need no quoting.
std::string plain_name(std::string text) {
  for (char& c : text)
    if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '-' && c != '_') c = '_';
  return text.empty() ? "data" : text;
}

// Reads a file of two columns, or with a context of three, of which that of the context comes last in the result.
diffeo::CsvData<float> read_table(const std::string& path, const std::optional<std::string>& context) {
  diffeo::CsvData<float> table;
  if (path.ends_with(".npy"))
    table.values = diffeo::read_npy<float>(path);
  else
    table = diffeo::read_csv<float>(path);
  const Index count = table.values.cols(), expected = context ? 3 : 2;
  diffeo::require(count == expected, path, " has ", count, count == 1 ? " column" : " columns", ", expected ", expected,
                  context ? ": two and that of the context" : "");
  diffeo::require_finite(table.values, path.c_str());
  if (!context) return table;

  // By its name, or counted from 0.
  Index column = 0;
  const auto is_context = [&](Index j) {
    return table.columns.empty() ? *context == std::to_string(j)
                                 : table.columns[static_cast<std::size_t>(j)] == *context;
  };
  while (column < count && !is_context(column)) ++column;
  if (column == count && !table.columns.empty() && context->size() == 1 && (*context)[0] >= '0' && (*context)[0] < '3')
    column = (*context)[0] - '0';
  diffeo::require(column < count, path, " has no column '", *context, "' for --context, expected ",
                  table.columns.empty() ? std::string("0, 1 or 2")
                                        : table.columns[0] + ", " + table.columns[1] + " or " + table.columns[2]);
  for (Index j = column; j + 1 < count; ++j) {
    table.values.col(j).swap(table.values.col(j + 1));
    if (!table.columns.empty())
      std::swap(table.columns[static_cast<std::size_t>(j)], table.columns[static_cast<std::size_t>(j + 1)]);
  }
  return table;
}

Problem file_problem(const std::string& path, const std::optional<std::string>& context, std::string_view flow,
                     std::uint64_t seed) {
  Problem problem;
  problem.data = path;
  const std::string stem = std::filesystem::path(path).stem().string();
  problem.name = plain_name(stem);
  const diffeo::CsvData<float> table = read_table(path, context);
  const Points& all = table.values;
  const Index rows = all.rows();
  diffeo::require(rows >= least_rows, path, " has ", rows, " rows, expected at least ", least_rows,
                  " to fit a density and to test it");
  if (context) {
    problem.context = table.columns.empty() ? "column " + *context : table.columns[2];
    problem.name += "_given_" + plain_name(*problem.context);
  }

  if (!table.columns.empty())
    problem.columns = {table.columns[0], table.columns[1]};
  else if (stem.find("latlon") != stem.npos)
    problem.columns = {"latitude", "longitude"};
  else if (stem.find("lonlat") != stem.npos)
    problem.columns = {"longitude", "latitude"};
  else
    problem.columns = {"column 0", "column 1"};
  problem.geographic = (begins_like(problem.columns[0], "lat") && begins_like(problem.columns[1], "lon")) ||
                       (begins_like(problem.columns[0], "lon") && begins_like(problem.columns[1], "lat"));

  constexpr std::uint64_t test_stream = 0x64656e7369747932;  // a use of the seed of its own
  const std::vector<Index> order = diffeo::permutation(rows, seed, test_stream);
  const auto held_out = static_cast<std::ptrdiff_t>(std::ceil(test_fraction * static_cast<double>(rows)));
  const auto take = [&](Points& points, Points& contexts, std::ptrdiff_t first, std::ptrdiff_t last) {
    Points taken(last - first, all.cols());
    for (std::ptrdiff_t i = first; i < last; ++i) taken.row(i - first) = all.row(order[static_cast<std::size_t>(i)]);
    points = taken.leftCols(2);
    if (context) contexts = taken.col(2);
  };
  take(problem.test, problem.test_context, 0, held_out);
  take(problem.train, problem.train_context, held_out, rows);
  take(problem.shown, problem.shown_context, 0, std::min<Index>(rows, toy_test_points));
  problem.settings = file_settings(rows, flow);
  return problem;
}

// ---------------------------------------------------------------------------------------------------------------------
// Fitting and scoring.

struct Run {
  const Problem& problem;
  std::uint64_t seed;
  int threads;
  Points cells;     // of the heat map
  Points contexts;  // that heat maps are drawn for, K x 1
};

// Number of evaluations of the velocity for the log-density of a point.
struct Evaluations {
  double mean = 0;
  Index most = 0;
};

struct Outcome {
  Index parameters = 0;
  diffeo::FitReport report;
  double test_log_prob = 0, standard_error = 0;
  double log_prob_per_s = 0, samples_per_s = 0;
  std::optional<Evaluations> evaluations;  // of continuous flows
  Points samples;
  Array<float> log_density;  // at the cells, a column for each context if there are any
};

constexpr Index timed_points = 20'000;

// Returns the number of calls of f per second, measured for a quarter of a second after a first call.
template <class F>
double rate(const F& f) {
  using Clock = std::chrono::steady_clock;
  f();
  const auto start = Clock::now();
  for (int calls = 1;; ++calls) {
    f();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds > 0.25) return calls / seconds;
  }
}

template <class Flow>
std::optional<Evaluations> evaluations(const Flow&, const Points&) {
  return {};
}
std::optional<Evaluations> evaluations(const diffeo::CnfFlow<float>& flow, const Points& x) {
  const auto& [cnf, standardize] = flow.layers;
  Evaluations evaluations;
  for (const auto& solve : cnf.solve_statistics(diffeo::inverse(standardize, x).value)) {
    evaluations.mean += static_cast<double>(solve.evaluations) / static_cast<double>(x.rows());
    evaluations.most = std::max(evaluations.most, solve.evaluations);
  }
  return evaluations;
}

// How the parameters of a flow are found.
template <class Flow>
using Model = diffeo::TransformedDistribution<diffeo::StandardNormal<float>, Flow>;
template <class Flow>
using Training = diffeo::FitReport (*)(Model<Flow>&, const Problem&, const diffeo::FitOptions&);

template <class Flow>
diffeo::FitReport by_likelihood(Model<Flow>& model, const Problem& problem, const diffeo::FitOptions& options) {
  return problem.context ? diffeo::fit(model, problem.train, problem.train_context, options)
                         : diffeo::fit(model, problem.train, options);
}

template <class PairingPolicy, class Flow>
diffeo::FitReport by_matching(Model<Flow>& model, const Problem& problem, const diffeo::FitOptions& options) {
  const diffeo::Dataset<float> data{.x = problem.train, .context = problem.train_context};
  return diffeo::fit(model, diffeo::FlowMatching(model, data, diffeo::LinearPath{}, PairingPolicy{}), options);
}

template <class Flow>
Outcome fit_flow(Flow flow, const Run& run, Training<Flow> train = by_likelihood<Flow>) {
  const Problem& problem = run.problem;
  Model<Flow> model(diffeo::StandardNormal<float>(2), std::move(flow));

  Outcome outcome;
  outcome.parameters = diffeo::parameter_count(model);
  diffeo::FitOptions options = problem.settings.fit;
  options.validation_every = std::max(1L, options.steps / 60);
  options.seed = run.seed;
  options.threads = run.threads;
  options.progress = true;
  const auto& c = problem.train_context;
  const int threads = run.threads;
  outcome.report = train(model, problem, options);

  const Array<float> log_p = problem.context ? model.log_prob(problem.test, problem.test_context, threads)
                                             : model.log_prob(problem.test, threads);
  const Eigen::ArrayXd scores = log_p.cast<double>();
  const auto count = static_cast<double>(scores.size());
  outcome.test_log_prob = scores.mean();
  outcome.standard_error = std::sqrt((scores - scores.mean()).square().mean() / count);

  if (!problem.context) outcome.evaluations = evaluations(model.flow, problem.test);
  if (problem.context) {
    outcome.log_density.resize(run.cells.rows(), run.contexts.rows());
    for (Index k = 0; k < run.contexts.rows(); ++k)
      outcome.log_density.col(k) = model.log_prob(run.cells, run.contexts.row(k), threads).col(0);
  } else {
    outcome.samples = model.sample(problem.shown.rows(), run.seed, threads);
    outcome.log_density = model.log_prob(run.cells, threads);
  }

  // A timed point has the context of some row of the data.
  Points timed_context(problem.context ? timed_points : 0, 1);
  for (Index i = 0; i < timed_context.rows(); ++i) timed_context(i, 0) = c(i % c.rows(), 0);
  const auto draw = [&] {
    return problem.context ? model.sample(timed_context, run.seed, threads)
                           : model.sample(timed_points, run.seed, threads);
  };
  const Points x = draw();
  outcome.log_prob_per_s =
      timed_points *
      rate([&] { return problem.context ? model.log_prob(x, timed_context, threads) : model.log_prob(x, threads); });
  outcome.samples_per_s = timed_points * rate(draw);
  return outcome;
}

// Fits what a recipe returns for the data, or for the data and their contexts.
template <class Recipe>
Outcome fit_recipe(const Recipe& recipe, const Run& run) {
  const Problem& problem = run.problem;
  if (problem.context) return fit_flow(recipe(problem.train, problem.train_context), run);
  return fit_flow(recipe(problem.train), run);
}

// The options of a recipe that has layers, with those of this run.
template <class RecipeOptions>
RecipeOptions with_layers(RecipeOptions options, const Run& run) {
  options.layers = run.problem.settings.layers.value_or(options.layers);
  options.seed = run.seed;
  return options;
}

diffeo::CouplingFlowOptions coupling_options(const Run& run) {
  diffeo::CouplingFlowOptions options = with_layers(diffeo::CouplingFlowOptions(), run);
  options.network = run.problem.settings.network.value_or(options.network);
  return options;
}

diffeo::ResidualFlowOptions residual_options(const Run& run) {
  diffeo::ResidualFlowOptions options = with_layers(diffeo::ResidualFlowOptions(), run);
  if (const auto& network = run.problem.settings.network) {
    options.block.hidden = network->hidden;
    options.block.last_scale = network->last_scale.value_or(options.block.last_scale);
  }
  return options;
}

diffeo::CnfFlowOptions cnf_options(const Run& run) {
  diffeo::CnfFlowOptions options;
  options.network = run.problem.settings.network.value_or(options.network);
  options.seed = run.seed;
  return options;
}

// Fits a continuous flow by flow matching.
template <class PairingPolicy>
Outcome fit_matching(const Run& run) {
  const Problem& problem = run.problem;
  const auto fit = [&]<class Flow>(Flow flow) {
    return fit_flow(std::move(flow), run, by_matching<PairingPolicy, Flow>);
  };
  return problem.context ? fit(diffeo::cnf(problem.train, problem.train_context, cnf_options(run)))
                         : fit(diffeo::cnf(problem.train, cnf_options(run)));
}

// The flows of --flow.
struct FlowChoice {
  const char* name;
  Outcome (*fit)(const Run&);
  bool has_layers = true;
  bool likelihood = true;  // whether the loss is minus log p
};
constexpr FlowChoice flows[] = {
    {"realnvp",
     [](const Run& run) {
       return fit_recipe([&](const auto&... data) { return diffeo::real_nvp(data..., coupling_options(run)); }, run);
     }},
    {"planar",
     [](const Run& run) {
       const auto options = with_layers(diffeo::PlanarFlowOptions(), run);
       return fit_recipe([&](const auto&... data) { return diffeo::planar(data..., options); }, run);
     }},
    {"radial",
     [](const Run& run) {
       const auto options = with_layers(diffeo::RadialFlowOptions(), run);
       return fit_recipe([&](const auto&... data) { return diffeo::radial(data..., options); }, run);
     }},
    {"residual",
     [](const Run& run) {
       return fit_recipe([&](const auto&... data) { return diffeo::residual(data..., residual_options(run)); }, run);
     }},
    {"cnf",
     [](const Run& run) {
       return fit_recipe([&](const auto&... data) { return diffeo::cnf(data..., cnf_options(run)); }, run);
     },
     /*has_layers=*/false},
    {"fm", fit_matching<diffeo::IndependentPairing>, /*has_layers=*/false, /*likelihood=*/false},
    {"otcfm", fit_matching<diffeo::OptimalTransportPairing>, /*has_layers=*/false, /*likelihood=*/false},
    {"nice",
     [](const Run& run) {
       return fit_recipe([&](const auto&... data) { return diffeo::nice(data..., coupling_options(run)); }, run);
     }},
};

const FlowChoice& choice(const std::string& flow) {
  return *std::find_if(std::begin(flows), std::end(flows), [&](const FlowChoice& one) { return flow == one.name; });
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

struct Options {
  std::optional<std::string> toy, data, context;
  std::string flow = "realnvp", out = "pictures";
  std::optional<long> steps;
  std::optional<Index> batch, layers;
  std::uint64_t seed = 0;
  int threads = 0;
  bool swap = false, log_colour = false, json = false;
};

Points columns(const Points& points, bool swapped) { return swapped ? Points(points.rowwise().reverse()) : points; }

// Returns whether the columns are swapped in the picture; longitude is the horizontal axis, as on maps.
bool swapped_axes(const Problem& problem, const Options& options) {
  return options.swap != (problem.geographic && begins_like(problem.columns[0], "lat"));
}

support::PictureStyle picture_style(const Problem& problem, const Options& options) {
  support::PictureStyle style;
  style.same_units = problem.geographic || problem.best;
  style.log_colour = options.log_colour || problem.geographic;
  if (problem.geographic) style.panel = 500, style.cell = 1;
  const FlowChoice& flow = choice(options.flow);
  if (problem.best && flow.likelihood) style.goal = -*problem.best;
  if (!flow.likelihood) style.loss = "flow matching loss";
  return style;
}

support::Frame picture_frame(const Problem& problem, const Options& options) {
  const Points shown = columns(problem.shown, swapped_axes(problem, options));
  support::Range x = support::Range::around(shown.col(0)), y = support::Range::around(shown.col(1));
  if (problem.geographic) {
    const support::Range latitude{-90, 90},
        longitude = shown.maxCoeff() > 180 ? support::Range{0, 360} : support::Range{-180, 180};
    x = x.within(options.swap ? latitude : longitude);
    y = y.within(options.swap ? longitude : latitude);
  }
  const support::PictureStyle style = picture_style(problem, options);
  return problem.context ? support::conditional_frame(x, y, style.same_units) : support::Frame(x, y, style);
}

// Returns up to six different contexts, K x 1: quantiles, each of which stands for as many rows.
Points contexts_to_show(const Problem& problem) {
  constexpr Index most = 6;
  if (!problem.context) return {};
  Points sorted = problem.shown_context;
  std::sort(sorted.data(), sorted.data() + sorted.size());
  std::vector<float> contexts;
  for (Index k = 0; k < most; ++k) contexts.push_back(sorted((2 * k + 1) * sorted.rows() / (2 * most), 0));
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  return Eigen::Map<const Eigen::ArrayXf>(contexts.data(), static_cast<Index>(contexts.size()));
}

// Writes the picture of p(x | c) with the learned densities below the data whose contexts are nearest.
void write_picture_given(const std::filesystem::path& folder, const std::string& name, const std::string& title,
                         const Problem& problem, const Options& options, const Run& run, const support::Frame& frame,
                         const Outcome& outcome) {
  const bool swapped = swapped_axes(problem, options);
  support::ConditionalPicture picture{.title = title,
                                      .axes = {problem.columns.begin(), problem.columns.end()},
                                      .contexts = {},
                                      .log_colour = picture_style(problem, options).log_colour,
                                      .frame = frame,
                                      .log_density = outcome.log_density};
  if (swapped) std::swap(picture.axes[0], picture.axes[1]);
  std::vector<std::vector<Index>> nearest(static_cast<std::size_t>(run.contexts.rows()));
  for (Index i = 0; i < problem.shown.rows(); ++i) {
    Index k = 0;
    (run.contexts.col(0) - problem.shown_context(i, 0)).abs().minCoeff(&k);
    nearest[static_cast<std::size_t>(k)].push_back(i);
  }
  for (Index k = 0; k < run.contexts.rows(); ++k) {
    picture.contexts.push_back(*problem.context + " = " +
                               support::significant(static_cast<double>(run.contexts(k, 0)), 3));
    const std::vector<Index>& rows = nearest[static_cast<std::size_t>(k)];
    Points shown(static_cast<Index>(rows.size()), 2);
    for (std::size_t i = 0; i < rows.size(); ++i) shown.row(static_cast<Index>(i)) = problem.shown.row(rows[i]);
    picture.data.push_back(columns(shown, swapped));
  }
  support::write_conditional_picture(folder, name, picture);
}

// Fits the flow, prints the results and draws the picture; returns the line for --json.
std::string study(Problem problem, const Options& options) {
  Settings& settings = problem.settings;
  if (options.steps) settings.fit.steps = *options.steps;
  if (options.batch) settings.fit.batch = *options.batch;
  if (options.layers) settings.layers = *options.layers;
  const FlowChoice& flow = choice(options.flow);

  // Fails before the training if the folder cannot be written.
  const std::filesystem::path folder = options.out;
  support::create_folder(folder);
  const std::string name = problem.name + "_" + flow.name;
  const bool swapped = swapped_axes(problem, options);
  std::array<std::string, 2> axes = problem.columns;
  if (swapped) std::swap(axes[0], axes[1]);
  if (problem.context)
    support::write_file(folder / (name + ".gp"), "");
  else
    support::write_file(folder / (name + "_data.csv"),
                        support::csv_text({axes[0], axes[1]}, columns(problem.shown, swapped)));

  std::cout << problem.data << ": " << grouped(problem.train.rows()) << " points to fit, "
            << grouped(problem.test.rows())
            << (problem.best ? " fresh ones to test\n" : " others, held out by the seed, to test\n") << std::flush;
  support::Frame frame = picture_frame(problem, options);
  const Run run{problem, options.seed, options.threads, columns(frame.cells(), swapped), contexts_to_show(problem)};
  const Outcome outcome = flow.fit(run);
  const diffeo::FitReport& report = outcome.report;
  const double score = outcome.test_log_prob;

  std::cout << flow.name << " of " << grouped(outcome.parameters) << " parameters: " << report << '\n'
            << "test log p " << fixed(score, 3) << " +- " << fixed(outcome.standard_error, 3) << " nats a point";
  if (problem.best)
    std::cout << ", the best possible is " << fixed(*problem.best, 3) << ": gap " << fixed(*problem.best - score, 3);
  std::cout << "\nlog p of " << grouped(std::lround(outcome.log_prob_per_s)) << " points a second, "
            << grouped(std::lround(outcome.samples_per_s)) << " samples a second\n";
  if (outcome.evaluations)
    std::cout << "a log p takes " << fixed(outcome.evaluations->mean, 1) << " evaluations of the velocity, at most "
              << outcome.evaluations->most << '\n';

  const std::string title = std::filesystem::path(problem.data).filename().string() + ", " + flow.name +
                            ": test log p " + fixed(score, 3) +
                            (problem.best ? ", gap " + fixed(*problem.best - score, 3) : "") + " nats";
  if (problem.context) {
    write_picture_given(folder, name, title, problem, options, run, frame, outcome);
  } else {
    support::DensityPicture picture{.title = title,
                                    .data_title = grouped(problem.shown.rows()) + " data points",
                                    .samples_title = grouped(outcome.samples.rows()) + " samples of the model",
                                    .axes = axes,
                                    .style = picture_style(problem, options),
                                    .data = columns(problem.shown, swapped),
                                    .samples = columns(outcome.samples, swapped),
                                    .frame = frame,
                                    .log_density = outcome.log_density};
    support::write_picture(folder, name, picture, report);
  }
  std::cout << support::draw_picture(folder, name) << std::endl;

  support::JsonObject json;
  json.add("data", problem.data);
  if (problem.context) json.add("context", *problem.context);
  json.add("flow", flow.name).add("parameters", outcome.parameters);
  json.add("steps", report.steps).add("seconds", report.seconds);
  json.add("step_ms", 1e3 * report.seconds / static_cast<double>(report.steps));  // null if there were no steps
  json.add("test_log_prob", score);
  if (problem.best) json.add("gap", *problem.best - score).add("kl", *problem.on_test - score);
  json.add("log_prob_per_s", outcome.log_prob_per_s).add("samples_per_s", outcome.samples_per_s);
  if (outcome.evaluations)
    json.add("evaluations_mean", outcome.evaluations->mean).add("evaluations_max", outcome.evaluations->most);
  return json.text();
}

void add_options(CLI::App& app, Options& options) {
  std::vector<std::string> toys, names;
  for (const std::string_view toy : diffeo::toy2d::names()) toys.emplace_back(toy);
  for (const FlowChoice& flow : flows) names.emplace_back(flow.name);
  CLI::Option* toy = app.add_option("--toy", options.toy, "toy density")->check(CLI::IsMember(toys));
  CLI::Option* data =
      app.add_option("--data", options.data, "file of two columns: .npy, else text with or without a header (CSV)")
          ->excludes(toy);
  app.add_option("--context", options.context,
                 "column of a file of three, by its name or counted from 0: the flow is one of the other two given it")
      ->needs(data);
  app.add_option("--flow", options.flow,
                 "flow, " + options.flow +
                     " by default; fm and otcfm: a continuous flow (cnf) trained by flow matching, with independent "
                     "pairs or those of optimal transport")
      ->check(CLI::IsMember(names));
  app.add_option("--layers", options.layers, "layers of the flow; by default what suits the data")->check(at_least(1));
  app.final_callback([&options] {
    if (options.layers && !choice(options.flow).has_layers)
      throw CLI::ValidationError("--layers", "is not for --flow " + options.flow + ", which has no layers");
  });
  app.add_option("--steps", options.steps, "training steps; by default what suits the data")->check(at_least(0));
  app.add_option("--batch", options.batch, "points a step; by default what suits the data")->check(at_least(1));
  app.add_option("--seed", options.seed, "of data, test split, weights, order and samples: 0 by default")
      ->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_option("--out", options.out, "folder for pictures, their scripts and data: " + options.out + " by default");
  app.add_flag("--swap", options.swap, "exchange the axes of the picture");
  app.add_flag("--log", options.log_colour, "colours show log p");
  app.add_flag("--json", options.json, "end with the results as JSON, a line for each fit");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Fits a normalizing flow to points in the plane: to Old Faithful's eruptions and then to two moons, or to "
      "what --toy or --data name. Points of latitude and longitude (by the names of the columns, or 'latlon' in "
      "the file's name) are drawn as a map.");
  Options options;
  add_options(app, options);
  return support::run_program("density2d", app, argc, argv, [&] {
    std::vector<std::string> results;
    if (options.data) {
      results.push_back(study(file_problem(*options.data, options.context, options.flow, options.seed), options));
    } else if (options.toy) {
      results.push_back(study(toy_problem(*options.toy, options.flow, options.seed), options));
    } else {
      results.push_back(
          study(file_problem(DIFFEO_EXAMPLE_DATA "/faithful.csv", {}, options.flow, options.seed), options));
      std::cout << '\n';
      results.push_back(study(toy_problem("moons", options.flow, options.seed), options));
    }
    if (options.json)
      for (const std::string& line : results) std::cout << line << '\n';
  });
}
