// SPDX-License-Identifier: MIT

// Shows that residual blocks with ever smaller steps converge to a continuous flow, in both the map and log p.

#include <CLI/CLI.hpp>
#include <array>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iomanip>
#include <iostream>
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
using diffeo::Var;
using support::at_least;
using support::fixed;

struct Options {
  std::string toy = "moons", out = "pictures";
  long steps = 2000;
  Index batch = 512;
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
};

constexpr Index training_points = 500'000, test_points = 5'000;
constexpr std::array<Index, 9> blocks = {1, 2, 4, 8, 16, 32, 64, 128, 256};
constexpr std::array<Index, 3> shown = {1, 4, 16};

// ---------------------------------------------------------------------------------------------------------------------
// The flow as residual blocks.

// A chain of `count` residual blocks y + g(t, y) with g = -v / count at t = 1, 1 - 1 / count, ..., 1 / count: the steps
// of Euler's method from the data at time 1 to the latent point at time 0. Each block has its exact log-determinant.
// Because log|det(I - J / count)| = -tr J / count + O(1 / count^2), their sum tends to minus the integral of the trace.
struct ResidualBlocks {
  using Scalar = double;

  diffeo::MlpField<double> step;  // g
  Index count;
  diffeo::Standardize<double> standardize;

  ResidualBlocks(const diffeo::CnfFlow<double>& flow, Index n)
      : step(std::get<0>(flow.layers).field), count(n), standardize(std::get<1>(flow.layers)) {
    step.network.layers.back().weight /= -static_cast<double>(count);
    step.network.layers.back().bias /= -static_cast<double>(count);
  }

  diffeo::Transformed<Var<double>> inverse(const Var<double>& x) const {
    diffeo::Transformed<Var<double>> y = standardize.inverse(x);
    for (Index k = count; k > 0; --k) {
      const Var<double> t = zeros(x, 1) + static_cast<double>(k) / static_cast<double>(count);
      const diffeo::MultiDual<double> g = step.with_jacobian(t, y.value);
      y.value = y.value + value_of(g);
      y.log_det = y.log_det + log_det_identity_plus(g);
    }
    return y;
  }
};

// Returns the latent points that a flow maps the data x to.
template <class Flow>
Array<double> latent(const Flow& flow, const Array<double>& x, int threads) {
  Array<double> z(x.rows(), x.cols());
  diffeo::for_each_tile<double>(x.rows(), threads, [&](diffeo::Tape<double>& tape, Index first, Index count) {
    z.middleRows(first, count) = as_eigen(flow.inverse(tape.copy(x.middleRows(first, count))).value.value());
  });
  return z;
}

// Returns the model in double, with its equations solved to tolerances of 1e-10.
auto refined(const diffeo::CnfFlow<float>& flow) {
  const auto& [cnf, standardize] = flow.layers;
  diffeo::CnfOptions options;
  options.evaluation.solver.relative_tolerance = options.evaluation.solver.absolute_tolerance = 1e-10;
  std::vector<Index> hidden;
  for (const auto& layer : cnf.field.network.layers) hidden.push_back(layer.weight.rows());
  hidden.pop_back();
  diffeo::CnfFlow<double> exact = diffeo::cnf<double>(
      flow.dim(), {.network = {.hidden = hidden, .activation = cnf.field.network.activation}, .cnf = options});
  diffeo::set_parameters(exact, diffeo::Array<double>(diffeo::parameters(flow).cast<double>()));
  std::get<1>(exact.layers) =
      diffeo::Standardize<double>::from(standardize.mean.value.cast<double>(), standardize.scale.value.cast<double>());
  return diffeo::TransformedDistribution(diffeo::StandardNormal<double>(flow.dim()), std::move(exact));
}

// ---------------------------------------------------------------------------------------------------------------------
// Comparison with the continuous flow.

struct Comparison {
  Index count;
  double map_error;    // root mean square distance of latent points
  double log_p_error;  // mean absolute difference of log p
  double mass;         // integral of the density over the picture
};

double order(double before, double after) { return std::log2(before / after); }

// Returns the order of convergence: minus the least-squares slope of log2 error against log2 of the number of blocks,
// over the last half of the chains.
double order_of(const std::vector<Comparison>& all, double Comparison::*error) {
  const auto n = all.size() / 2;
  double sum = 0, weights = 0;
  for (std::size_t i = 0; i <= n; ++i) {
    const double x = static_cast<double>(i) - static_cast<double>(n) / 2;
    sum -= x * std::log2(all[all.size() - 1 - n + i].*error);
    weights += x * x;
  }
  return sum / weights;
}

// ---------------------------------------------------------------------------------------------------------------------
// The picture.

struct Densities {
  support::Frame frame;
  std::vector<std::pair<std::string, Array<double>>> log_density;  // titles, and values at the cells
};

void write_limit_picture(const std::filesystem::path& folder, const std::string& name, const std::string& title,
                         const Densities& densities, const std::vector<Comparison>& all) {
  using support::gnuplot::literal;
  using support::gnuplot::number;
  const auto panels = static_cast<Index>(densities.log_density.size());
  const Array<float> cells = densities.frame.cells();
  Array<float> table(cells.rows(), 2 + panels);
  std::vector<std::string> columns = {"x", "y"};
  table.leftCols(2) = cells;
  for (Index i = 0; i < panels; ++i) {
    table.col(2 + i) = densities.log_density[static_cast<std::size_t>(i)].second.col(0).exp().cast<float>();
    columns.push_back(densities.log_density[static_cast<std::size_t>(i)].first);
  }
  support::write_file(folder / (name + "_density.csv"), support::csv_text(columns, table));
  Array<double> errors(static_cast<Index>(all.size()), 4);
  for (std::size_t i = 0; i < all.size(); ++i)
    errors.row(static_cast<Index>(i)) << static_cast<double>(all[i].count), all[i].map_error, all[i].log_p_error,
        all[i].mass;
  support::write_file(folder / (name + "_errors.csv"),
                      support::csv_text({"blocks", "map_error", "log_p_error", "mass"}, errors));

  const support::Range x = densities.frame.x(), y = densities.frame.y();
  const double width = 270, height = std::round(width * y.length() / x.length()), gap = 22, left = 70, top = 75;
  const double curve = top + height + 85, curve_height = 230;
  const support::Sheet sheet(left + 4 * width + 3 * gap + 85, curve + curve_height + 60);
  const double limit = std::exp(support::detail::quantile(densities.log_density.back().second.col(0), 0.998));
  std::ostringstream script;
  script << support::script_begin(name + ".gp", name + ".png", "pngcairo font 'Sans,11' noenhanced", sheet)
         << support::gnuplot::viridis << "\nset multiplot\n"
         << sheet.title(1, literal(title)) << "set xrange " << support::detail::range(x) << "; set yrange "
         << support::detail::range(y) << "; set cbrange [0:" << number(limit) << "]\nset ylabel 'y' offset 1\n\n";
  for (Index i = 0; i < panels; ++i) {
    const support::Panel panel{left + static_cast<double>(i) * (width + gap), top, width, height};
    script << sheet.place(panel)
           << (i + 1 < panels ? std::string("unset colorbox\n") : "set colorbox\n" + sheet.colour_bar(panel))
           << "set title " << literal(densities.log_density[static_cast<std::size_t>(i)].first)
           << "; set xlabel 'x'\nplot '" << name << "_density.csv' skip 1 using 1:2:" << 3 + i << " with image\n"
           << (i == 0 ? "unset label 1; unset ylabel; set format y ''\n" : "") << "\n";
  }
  const double last = static_cast<double>(all.back().count);
  const auto line = [&](double at_last) { return number(at_last * last) + " / x"; };
  script << sheet.place({left, curve, 4 * width + 3 * gap, curve_height})
         << "unset title; unset colorbox; set format y '10^{%L}'; set xlabel 'residual blocks'; set ylabel 'error'\n"
            "set termoption enhanced; set logscale xy; set grid xtics ytics lc rgb '#cccccc' lt 1; set key bottom left "
            "Left reverse\n"
         << "set xrange [0.85:" << number(1.18 * last) << "]; set yrange "
         << support::detail::range({0.5 * std::min(all.back().map_error, all.back().log_p_error),
                                    2 * std::max(all.front().map_error, all.front().log_p_error)})
         << "\nset xtics (";
  for (std::size_t i = 0; i < all.size(); ++i) script << (i > 0 ? ", " : "") << all[i].count;
  script << ")\nplot " << line(all.back().map_error) << " with lines dt 2 lc rgb '#888888' title 'order 1', "
         << line(all.back().log_p_error) << " with lines dt 2 lc rgb '#888888', \\\n  '" << name
         << "_errors.csv' skip 1 using 1:2 with linespoints pt 7 lw 2 lc rgb '#1f3b73' title 'map (root mean square)', "
            "\\\n  '' skip 1 using 1:3 with linespoints pt 5 lw 2 lc rgb '#d95f02' title 'log p (mean, nats)'\n"
            "unset multiplot\nset output\n";
  support::write_file(folder / (name + ".gp"), script.str());
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

// Fits the flow, compares the chains of blocks with it and draws the picture; returns the line for --json.
std::string study(const Options& options) {
  const std::filesystem::path folder = options.out;
  const std::string name = "limit_" + options.toy;
  support::create_folder(folder);
  support::write_file(folder / (name + ".gp"), "");  // fails before the training if the folder cannot be written

  const Array<float> data = diffeo::toy2d::sample<float>(options.toy, training_points, options.seed);
  diffeo::TransformedDistribution fitted(
      diffeo::StandardNormal<float>(2),
      diffeo::cnf(data, {.network = {.hidden = {64, 64}, .first_scale = 1}, .seed = options.seed}));
  const diffeo::FitReport report = diffeo::fit(fitted, data,
                                               {.steps = options.steps,
                                                .batch = options.batch,
                                                .rate = {.learning_rate = 5e-3},
                                                .seed = options.seed,
                                                .threads = options.threads,
                                                .progress = true});
  std::cout << options.toy << ", continuous flow of " << support::grouped(diffeo::parameter_count(fitted))
            << " parameters: " << report << "\n\n";

  const auto model = refined(fitted.flow);
  const Array<double> x = diffeo::toy2d::sample<double>(options.toy, test_points, ~options.seed);
  const Array<double> z = latent(model.flow, x, options.threads), log_p = model.log_prob(x, options.threads);

  support::PictureStyle style;
  style.same_units = true;
  style.panel = 270;
  Densities densities{
      {support::Range::around(x.col(0).cast<float>(), 0.2), support::Range::around(x.col(1).cast<float>(), 0.2), style},
      {}};
  const Array<double> cells = densities.frame.cells().cast<double>();
  const double cell = densities.frame.x().length() * densities.frame.y().length() / static_cast<double>(cells.rows());

  std::vector<Comparison> all;
  std::cout << "residual blocks   error of z   order   error of log p   order   integral of p\n";
  for (const Index n : blocks) {
    const diffeo::TransformedDistribution residual(model.base, ResidualBlocks(model.flow, n));
    const Array<double> reached = latent(residual.flow, x, options.threads),
                        density = residual.log_prob(cells, options.threads);
    all.push_back({n, std::sqrt((reached - z).square().rowwise().sum().mean()),
                   (residual.log_prob(x, options.threads) - log_p).abs().mean(), density.exp().sum() * cell});
    const Comparison& now = all.back();
    const auto write_order = [&](double Comparison::*error) {
      std::cout << std::setw(8) << (all.size() > 1 ? fixed(order(all[all.size() - 2].*error, now.*error), 2) : "");
    };
    std::cout << std::setw(15) << n << std::setw(13) << fixed(now.map_error, 5);
    write_order(&Comparison::map_error);
    std::cout << std::setw(17) << fixed(now.log_p_error, 5);
    write_order(&Comparison::log_p_error);
    std::cout << std::setw(16) << fixed(now.mass, 4) << std::endl;
    for (const Index i : shown)
      if (i == n)
        densities.log_density.emplace_back(std::to_string(n) + (n == 1 ? " residual block" : " residual blocks"),
                                           density);
  }
  densities.log_density.emplace_back("continuous flow", model.log_prob(cells, options.threads));
  std::cout << std::setw(15) << "continuous" << std::setw(54) << " "
            << fixed(densities.log_density.back().second.exp().sum() * cell, 4) << "\n\n";

  const double map_order = order_of(all, &Comparison::map_error), log_p_order = order_of(all, &Comparison::log_p_error);
  write_limit_picture(folder, name,
                      "Residual blocks become a continuous flow: observed order " + fixed(map_order, 2) +
                          " of the map, " + fixed(log_p_order, 2) + " of log p",
                      densities, all);
  std::cout << support::draw_picture(folder, name) << std::endl;

  support::JsonObject json;
  json.add("data", options.toy).add("parameters", diffeo::parameter_count(fitted)).add("steps", report.steps);
  json.add("seconds", report.seconds).add("step_ms", 1e3 * report.seconds / static_cast<double>(report.steps));
  json.add("test_log_prob", log_p.mean()).add("gap", diffeo::toy2d::best_log_prob(options.toy) - log_p.mean());
  for (const Comparison& c : all) {
    const std::string n = std::to_string(c.count);
    json.add("map_error_" + n, c.map_error).add("log_p_error_" + n, c.log_p_error);
  }
  json.add("map_order", map_order).add("log_p_order", log_p_order);
  return json.text();
}

void add_options(CLI::App& app, Options& options) {
  std::vector<std::string> toys;
  for (const std::string_view toy : diffeo::toy2d::names()) toys.emplace_back(toy);
  app.add_option("--toy", options.toy, "toy density, " + options.toy + " by default")->check(CLI::IsMember(toys));
  app.add_option("--steps", options.steps, "training steps, " + std::to_string(options.steps) + " by default")
      ->check(at_least(0));
  app.add_option("--batch", options.batch, "points a step, " + std::to_string(options.batch) + " by default")
      ->check(at_least(1));
  app.add_option("--seed", options.seed, "of data, weights and order: 0 by default")->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_option("--out", options.out, "folder for the picture, its script and data: " + options.out + " by default");
  app.add_flag("--json", options.json, "end with the results as JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Fits a continuous flow to a toy density, then takes its velocity in 1, 2, 4, ..., 256 residual steps, and shows "
      "how their map and density go to those of the continuous flow.");
  Options options;
  add_options(app, options);
  return support::run_program("continuous_limit", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result << '\n';
  });
}
