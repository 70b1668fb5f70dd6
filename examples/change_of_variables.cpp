// SPDX-License-Identifier: MIT

// Draws what the change of variables does to a density: a map pushes it forward, stretching keeps its areas, a planar
// layer moves it along one direction, and a continuous flow thins it out or gathers it by the divergence of its
// velocity.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <string>
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
using support::Panel;
using support::Range;
using support::Sheet;
using support::detail::range;
using support::gnuplot::literal;
using support::gnuplot::number;
using Values = Array<double>;

struct Options {
  std::string out = "pictures";
  std::uint64_t seed = 0;
  long steps = 4000;
  bool json = false;
};

// Where the pictures and the tables that they plot are written.
struct Output {
  std::filesystem::path folder;

  void table(const std::string& name, const std::vector<std::string>& columns, const Values& values) const {
    support::write_file(folder / (name + ".csv"), support::csv_text(columns, values));
  }
  void script(const std::string& name, const Sheet& sheet, const std::string& title, const std::string& body) const {
    support::write_file(
        folder / (name + ".gp"),
        support::script_begin(name + ".gp", name + ".png", "pngcairo font 'Sans,11' noenhanced", sheet) +
            "set multiplot\n" + sheet.title(1, literal(title)) + body + "unset multiplot\nset output\n");
    std::cout << support::draw_picture(folder, name) << std::endl;
  }
};

Values evenly(Index n, Range over) {
  return over.low + over.length() * (Eigen::ArrayXd::LinSpaced(n, 0, static_cast<double>(n - 1)) + 0.5) / double(n);
}

// Returns the points of a grid of n x n cells, a row each.
Values grid(Index n, Range over) {
  const Values at = evenly(n, over);
  Values points(n * n, 2);
  for (Index i = 0; i < points.rows(); ++i) points.row(i) << at(i % n, 0), at(i / n, 0);
  return points;
}

constexpr const char *blue = "#1f3b73", *red = "#8b1a1a";
constexpr std::array<const char*, 5> strip_colours = {"#3b518b", "#2c718e", "#21908d", "#5cc863", "#aadc32"};

// Commands that remove what the first panel has shown and the others are not to repeat.
constexpr const char* after_first = "unset label 1\n";

// ---------------------------------------------------------------------------------------------------------------------
// A map pushes samples and density forward.

// The largest difference between the learned density and the one it was fitted to.
double draw_transport(const Output& output, const std::string& name, const Options& options) {
  diffeo::GaussianMixture<double> target{Values(1, 2), Values(2, 1), Values(2, 1)};
  target.logits << std::log(0.4), std::log(0.6);
  target.means << -1.6, 1.2;
  target.log_scales << std::log(0.35), std::log(0.5);
  const Values data = target.sample(20'000, options.seed);
  diffeo::TransformedDistribution model(diffeo::StandardNormal<double>(1),
                                        diffeo::planar(data, {.layers = 16, .seed = options.seed}));
  diffeo::fit(model, data, {.steps = options.steps, .seed = options.seed});

  constexpr Index points = 600, lines = 40, bins = 60;
  const Range in{-3.2, 3.2}, out{-3, 3.4};
  const Values z = evenly(points, in), x = evenly(points, out);
  Values curve(points, 5);
  curve << z, model.base.log_prob(z).exp(), forward(model.flow, z).value, x, model.log_prob(x).exp();
  output.table(name + "_curves", {"z", "p_z", "x_of_z", "x", "p_x"}, curve);

  // The same share of the base lies between any two neighbouring lines.
  Values start = model.base.sample(400 * lines, options.seed);
  std::sort(start.data(), start.data() + start.size());
  Values quantiles(lines, 2);
  for (Index i = 0; i < lines; ++i) quantiles(i, 0) = start(400 * i + 200, 0);
  quantiles.col(1) = forward(model.flow, quantiles.col(0)).value;
  output.table(name + "_lines", {"z", "x"}, quantiles);

  const Values samples = model.sample(20'000, options.seed);
  Values histogram = Values::Zero(bins, 2);
  histogram.col(0) = evenly(bins, out);
  const double bin = out.length() / bins;
  for (Index i = 0; i < samples.rows(); ++i) {
    const auto k = static_cast<Index>(std::floor((samples(i, 0) - out.low) / bin));
    if (k >= 0 && k < bins) histogram(k, 1) += 1 / (bin * static_cast<double>(samples.rows()));
  }
  output.table(name + "_samples", {"x", "share"}, histogram);

  const double across = 430, tall = 430, side = 170, left = 65, top = 60, gap = 12;
  const Sheet sheet(left + side + gap + across + 30, top + tall + gap + side + 55);
  const double highest = 1.1 * std::max(curve.col(4).maxCoeff(), histogram.col(1).maxCoeff());
  const Panel map{left + side + gap, top, across, tall};
  std::ostringstream body;
  body << "set xrange " << range(in) << "; set yrange " << range(out) << "\n"
       << sheet.place(map) << "set format x ''; set format y ''\nplot '" << name << "_lines.csv' skip 1 using 1:("
       << out.low << "):(0):($2 - " << number(out.low)
       << ") with vectors nohead lw 0.6 lc rgb '#9db0d0', '' skip 1 using (" << in.low << "):2:($1 - " << number(in.low)
       << "):(0) with vectors nohead lw 0.6 lc rgb '#d09d9d', '" << name
       << "_curves.csv' skip 1 using 1:3 with lines lw 2.5 lc rgb '#202020'\n"
       << after_first << sheet.place({map.left, top + tall + gap, across, side})
       << "set format x '%g'; set xlabel 'z, from the base'; set yrange [0.44:0]; unset ytics\nplot '" << name
       << "_curves.csv' skip 1 using 1:2 with filledcurves y1=0 fs solid 0.35 lc rgb '" << blue
       << "', '' skip 1 using 1:2 "
       << "with lines lw 1.5 lc rgb '" << blue << "'\n"
       << sheet.place({left, top, side, tall}) << "unset xtics; unset xlabel; set ytics; set format y '%g'; set ylabel "
       << "'x, as the data' offset 1\nset xrange [" << number(highest) << ":0]; set yrange " << range(out) << "\nplot '"
       << name << "_samples.csv' skip 1 using ($2 / 2):1:($2 / 2):(" << number(0.52 * bin)
       << ") with boxxyerror fs solid noborder lc rgb '#e0c4c4', '" << name
       << "_curves.csv' skip 1 using 5:4 with lines lw 2 lc rgb '" << red << "'\n";
  output.script(name, sheet, "x = f(z): where the map is flat the density is high", body.str());
  return (curve.col(4) - target.log_prob(x).exp()).abs().maxCoeff();
}

// ---------------------------------------------------------------------------------------------------------------------
// Stretching keeps areas.

struct Stretching {
  double height_ratio = 0;     // of the densities at corresponding points
  double area_difference = 0;  // largest, of corresponding strips
};

Stretching draw_stretching(const Output& output, const std::string& name) {
  constexpr double factor = 2;
  constexpr Index strips = 5, points = 400;
  const diffeo::TransformedDistribution model(diffeo::StandardNormal<double>(1),
                                              diffeo::DiagonalScale<double>{Values::Constant(1, 1, std::log(factor))});
  const Range in{-2.5, 2.5}, all{-6, 6};
  Stretching result;
  Values table(strips * points, 5);
  std::ostringstream before, after;
  for (Index k = 0; k < strips; ++k) {
    const double width = in.length() / strips, low = in.low + width * static_cast<double>(k);
    auto rows = table.middleRows(k * points, points);
    rows.col(0) = static_cast<double>(k);
    rows.col(1) = Eigen::ArrayXd::LinSpaced(points, low, low + width);
    rows.col(2) = model.base.log_prob(rows.col(1)).exp();
    rows.col(3) = forward(model.flow, rows.col(1)).value;
    rows.col(4) = model.log_prob(rows.col(3)).exp();
    const auto area = [&](Index from) {  // by the trapezoidal rule
      double sum = 0;
      for (Index i = 1; i < points; ++i)
        sum += 0.5 * (rows(i, from) - rows(i - 1, from)) * (rows(i, from + 1) + rows(i - 1, from + 1));
      return sum;
    };
    result.height_ratio = rows(0, 4) / rows(0, 2);
    result.area_difference = std::max(result.area_difference, std::abs(area(1) - area(3)));
    const auto label = [&](std::ostream& to, Index from) {
      to << "set label " << 10 + k << " '" << fixed(area(from), 3) << "' at " << number(rows(points / 2, from)) << ", "
         << number(rows.col(from + 1).maxCoeff() + 0.025) << " center front\n";
    };
    label(before, 1);
    label(after, 3);
  }
  output.table(name, {"strip", "z", "p_z", "x", "p_x"}, table);

  const double width = 620, height = 210, left = 65, top = 80, between = 75;
  const Sheet sheet(left + width + 25, top + 2 * height + between + 55);
  std::ostringstream body;
  const auto plot = [&](int from) {
    std::ostringstream commands;
    for (Index k = 0; k < strips; ++k)
      commands << (k == 0 ? "plot '" + name + ".csv'" : std::string("''")) << " skip 1 using ($1 == " << k << " ? $"
               << from << " : NaN):" << from + 1 << " with filledcurves y1=0 fs solid lc rgb '"
               << strip_colours[static_cast<std::size_t>(k)] << "', ";
    return commands.str();
  };
  body << "set xrange " << range(all)
       << "; set yrange [0:0.46]; set ytics 0.2; normal(x, s) = exp(-0.5 * (x / s)**2) / (s "
       << "* sqrt(2 * pi))\nset samples 400\n"
       << sheet.place({left, top, width, height}) << "set title 'before: z, standard normal'\n"
       << before.str() << plot(2) << "normal(x, 1) with lines lw 1.5 lc rgb '#202020'\n"
       << after_first << sheet.place({left, top + height + between, width, height}) << "set title 'after: x = 2 z'\n"
       << after.str() << plot(4) << "normal(x, 2) with lines lw 1.5 lc rgb '#202020'\n";
  output.script(name, sheet, "Stretched to twice the width, at half the height: every strip keeps its area",
                body.str());
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// A planar layer.

// The largest distance of a displacement from the direction of the layer, and from that of a point on the same
// hyperplane, as a share of the longest.
double draw_planar(const Output& output, const std::string& name) {
  diffeo::Planar<double> layer{Values(1, 2), Values(1, 2), Values(1, 1)};
  layer.u << 1.5, 1.1;
  layer.w << 2, -0.6;
  layer.b << 0.4;
  const diffeo::TransformedDistribution model(diffeo::StandardNormal<double>(2), layer);
  const Range shown{-3, 3};

  constexpr Index across = 13, cells = 200;
  const Values start = grid(across, shown), moved = forward(model.flow, start).value - start;
  Values arrows(start.rows(), 4);
  arrows << start, moved;
  output.table(name + "_arrows", {"z1", "z2", "d1", "d2"}, arrows);
  const Values fine = grid(cells, shown);
  Values fields(fine.rows(), 4);
  fields << fine, forward(model.flow, fine).log_det, model.log_prob(fine).exp();
  output.table(name + "_fields", {"x", "y", "log_det", "density"}, fields);

  // Points of one hyperplane, which is at right angles to w.
  Values along(1, 2);
  along << -layer.w(0, 1), layer.w(0, 0);
  const Values shifted = start.rowwise() + along.row(0);
  const Values same = forward(model.flow, shifted).value - shifted;
  const Values direction = moved.row(0);
  const double longest = std::sqrt(moved.square().rowwise().sum().maxCoeff());
  const Values cross =
      (moved.col(0) * direction(0, 1) - moved.col(1) * direction(0, 0)) / std::sqrt(direction.square().sum());
  const double error =
      std::max(cross.abs().maxCoeff(), std::sqrt((same - moved).square().rowwise().sum().maxCoeff())) / longest;

  const double size = 400, left = 65, top = 85, gap = 130;
  const Sheet sheet(left + 2 * size + gap + 90, top + size + 55);
  const double steepest = fields.col(2).abs().maxCoeff();
  const auto hyperplanes = [&] {
    std::ostringstream lines;
    for (int k = -3; k <= 3; ++k)
      lines << (k > -3 ? ", " : "") << "(" << number(layer.w(0, 0)) << " * x + " << number(layer.b(0, 0)) << " - "
            << number(1.6 * k) << ") / " << number(-layer.w(0, 1)) << " with lines dt 3 lw 1 lc rgb '#555555'";
    return lines.str();
  };
  std::ostringstream body;
  body << "set xrange " << range(shown) << "; set yrange " << range(shown)
       << "; set ylabel 'z2' offset 1; set xlabel 'z1'\n"
       << sheet.place({left, top, size, size}) << sheet.colour_bar({left, top, size, size})
       << "set title 'log-determinant, displacements along u, hyperplanes w.z + b = const'\n"
       << "set palette defined (-3 '#2166ac', -2 '#67a9cf', -1 '#d1e5f0', 0 '#f7f7f7', 1 '#fddbc7', 2 '#ef8a62', 3 "
          "'#b2182b')\nset cbrange "
       << range({-steepest, steepest}) << "\nplot '" << name << "_fields.csv' skip 1 using 1:2:3 with image, "
       << hyperplanes() << ", '" << name
       << "_arrows.csv' skip 1 using 1:2:(0.3 * $3):(0.3 * $4) with vectors filled head "
       << "size 0.09,20,60 lw 1.3 lc rgb '#202020'\n"
       << after_first << sheet.place({left + size + gap, top, size, size})
       << sheet.colour_bar({left + size + gap, top, size, size}) << support::gnuplot::viridis
       << "\nset xlabel 'x1'; set ylabel 'x2' offset 1; set cbrange [0:*]\nset title 'density of a standard normal "
          "behind "
          "the layer'\nplot '"
       << name << "_fields.csv' skip 1 using 1:2:4 with image\n";
  output.script(name, sheet, "A planar layer moves all points along u, as far as w.z + b says", body.str());
  return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Divergence.

// Velocity rate * x.
struct Linear {
  double rate;

  template <class X>
  X operator()(const X&, const X& x) const {
    return x * rate;
  }
};

// The factors by which the densities of a source and of a sink change at the centre.
std::array<double, 2> draw_divergence(const Output& output, const std::string& name) {
  constexpr std::array<double, 2> rates = {0.6, -0.6};
  constexpr std::array<double, 3> times = {0, 0.5, 1};
  constexpr Index cells = 160, across = 9;
  const Range shown{-3, 3};
  const Values fine = grid(cells, shown), coarse = grid(across, shown);
  Values density(fine.rows(), 8), arrows(coarse.rows(), 6);
  density.leftCols(2) = fine;
  arrows.leftCols(2) = coarse;
  std::array<double, 2> factors{};
  for (std::size_t k = 0; k < 2; ++k) {
    const diffeo::ProbabilityPath path(diffeo::StandardNormal<double>(2),
                                       diffeo::Cnf{diffeo::make_field<double>(2, Linear{rates[k]})});
    for (std::size_t i = 0; i < 3; ++i)
      density.col(static_cast<Index>(2 + 3 * k + i)) = path.log_prob(times[i], fine).exp();
    arrows.middleCols(static_cast<Index>(2 + 2 * k), 2) = path.velocity(0, coarse);
    const Values centre = Values::Zero(1, 2);
    factors[k] = std::exp(path.log_prob(1, centre)(0, 0) - path.log_prob(0, centre)(0, 0));
  }
  output.table(name + "_density", {"x", "y", "source_0", "source_1", "source_2", "sink_0", "sink_1", "sink_2"},
               density);
  output.table(name + "_arrows", {"x", "y", "source_x", "source_y", "sink_x", "sink_y"}, arrows);

  const double size = 230, left = 75, top = 85, gap = 20, between = 75;
  const Sheet sheet(left + 3 * size + 2 * gap + 90, top + 2 * size + between + 45);
  std::ostringstream body;
  body << support::gnuplot::viridis << "\nset xrange " << range(shown) << "; set yrange " << range(shown) << "\n";
  for (int k = 0; k < 2; ++k)
    for (int i = 0; i < 3; ++i) {
      const Panel panel{left + i * (size + gap), top + k * (size + between), size, size};
      body << sheet.place(panel) << "set cbrange [0:" << number(density.middleCols(2 + 3 * k, 3).maxCoeff()) << "]\n"
           << (i == 2 ? "set colorbox\n" + sheet.colour_bar(panel) : std::string("unset colorbox\n"))
           << (i == 0 ? std::string("set format y '%g'; set ylabel ") + (k == 0 ? "'source'" : "'sink'") + " offset 1\n"
                      : std::string("set format y ''; unset ylabel\n"))
           << "set title "
           << literal((k == 0 ? "source, div v > 0: t = " : "sink, div v < 0: t = ") +
                      number(times[static_cast<std::size_t>(i)]))
           << "\nplot '" << name << "_density.csv' skip 1 using 1:2:" << 3 + 3 * k + i << " with image, '" << name
           << "_arrows.csv' skip 1 using 1:2:(0.28 * $" << 3 + 2 * k << "):(0.28 * $" << 4 + 2 * k
           << ") with vectors filled head size 0.14,20,60 lw 1.1 lc rgb '#ffffff'\n"
           << (k == 0 && i == 0 ? after_first : "");
    }
  output.script(name, sheet, "d log p / dt = -div v along the path: the density falls at a source and rises at a sink",
                body.str());
  return factors;
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

// Draws the pictures; returns the line for --json.
std::string study(const Options& options) {
  const Output output{options.out};
  support::create_folder(output.folder);
  const double transport = draw_transport(output, "change_transport", options);
  std::cout << "learned map: its density is within " << fixed(transport, 3) << " of the one of the data\n\n";
  const Stretching stretching = draw_stretching(output, "change_stretching");
  std::cout << "x = 2 z: height " << fixed(stretching.height_ratio, 3) << " of before, areas of strips the same up to "
            << number(stretching.area_difference) << "\n\n";
  const double planar = draw_planar(output, "change_planar");
  std::cout << "planar layer: displacements leave the direction of u, and differ on a hyperplane, by " << number(planar)
            << " of the longest\n\n";
  const std::array<double, 2> factors = draw_divergence(output, "change_divergence");
  std::cout << "v = 0.6 x and -0.6 x: the density at 0 changes by the factors " << fixed(factors[0], 4) << " and "
            << fixed(factors[1], 4) << ", expected exp(-1.2) = " << fixed(std::exp(-1.2), 4)
            << " and exp(1.2) = " << fixed(std::exp(1.2), 4) << '\n';
  support::JsonObject json;
  json.add("transport_error", transport).add("height_ratio", stretching.height_ratio);
  json.add("area_difference", stretching.area_difference).add("planar_error", planar);
  json.add("source_factor", factors[0]).add("sink_factor", factors[1]);
  return json.text();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Draws four pictures of the change of variables: a learned map, stretching, a planar layer, divergence.");
  Options options;
  app.add_option("--steps", options.steps,
                 "training steps of the map, " + std::to_string(options.steps) + " by default")
      ->check(at_least(0));
  app.add_option("--seed", options.seed, "of data, weights and order: 0 by default")->check(at_least(0));
  app.add_option("--out", options.out,
                 "folder for the pictures, their scripts and data: " + options.out + " by default");
  app.add_flag("--json", options.json, "end with the results as JSON");
  return support::run_program("change_of_variables", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result << '\n';
  });
}
