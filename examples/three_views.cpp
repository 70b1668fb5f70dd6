// SPDX-License-Identifier: MIT

// Draws three views of a continuous flow from a Gaussian to the data: the density p_t, the velocity field that
// transports it, and particles that move with the velocity; as a picture and as an animation.

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
using support::Panel;
using support::Range;
using support::Sheet;
using support::detail::range;
using support::gnuplot::literal;
using support::gnuplot::number;
using Model = diffeo::TransformedDistribution<diffeo::StandardNormal<float>, diffeo::CnfFlow<float>>;
using Path = diffeo::ProbabilityPath<diffeo::StandardNormal<float>, diffeo::MlpField<float>>;

struct Options {
  int dim = 1;
  std::string toy = "moons", out = "pictures";
  std::optional<long> steps;
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
};

constexpr Index batch = 512, frames = 41, latent_seed = 1;

double time_of(Index frame) { return static_cast<double>(frame) / static_cast<double>(frames - 1); }
std::vector<double> frame_times() {
  std::vector<double> times;
  for (Index i = 0; i < frames; ++i) times.push_back(time_of(i));
  return times;
}

// Returns the beginning of a script, with the settings that all its panels share.
std::string begin(const std::string& script, const std::string& picture, const Sheet& sheet, bool animated) {
  return support::script_begin(
      script, picture,
      animated ? "gif animate delay 7 loop 0 optimize font 'Sans,10'" : "pngcairo font 'Sans,11' noenhanced", sheet);
}

// The heat map uses only part of the single palette that a GIF has, because lines and text need colours as well.
std::string viridis(bool animated) {
  return support::gnuplot::viridis + std::string(animated ? "; set palette maxcolors 64\n" : "\n");
}

// Palette of the velocity: blue for motion against the axis, red for motion along it.
constexpr const char* blue_red =
    "set palette defined (-3 '#2166ac', -2 '#67a9cf', -1 '#d1e5f0', 0 '#f7f7f7', 1 '#fddbc7', 2 '#ef8a62', 3 "
    "'#b2182b')";

// Loops over the frames i forward, and back at twice the speed, to show both directions of the flow.
std::string animation_loop() {
  const std::string last = std::to_string(frames - 1);
  return "do for [n = 0:" + std::to_string(frames - 1 + (frames - 2) / 2) + "] {\ni = n <= " + last + " ? n : 3 * " +
         last + " - 2 * n\n";
}

// Returns the largest deviation of the integral of p_t from 1 over all frames.
double mass_error(const Array<float>& density, double cell) {
  double worst = 0;
  for (Index i = 0; i < density.cols(); ++i)
    worst = std::max(worst, std::abs(density.col(i).cast<double>().sum() * cell - 1));
  return worst;
}

Array<float> densities(const Path& path, const Array<float>& x, int threads) {
  Array<float> p(x.rows(), frames);
  for (Index i = 0; i < frames; ++i) p.col(i) = path.log_prob(time_of(i), x, threads).exp();
  return p;
}

// ---------------------------------------------------------------------------------------------------------------------
// One dimension, from one mode to two, with time from left to right.

constexpr Index cells_1d = 320, bins = 48, particles_1d = 20'000, threads_shown = 25;

diffeo::GaussianMixture<float> two_modes() {
  diffeo::GaussianMixture<float> mixture{Array<float>(1, 2), Array<float>(2, 1), Array<float>(2, 1)};
  mixture.logits << std::log(0.4F), std::log(0.6F);
  mixture.means << -1.6F, 1.4F;
  mixture.log_scales << std::log(0.35F), std::log(0.5F);
  return mixture;
}

template <class Derived>
void write(const std::filesystem::path& folder, const std::string& name, std::vector<std::string> columns,
           const Eigen::DenseBase<Derived>& table) {
  while (static_cast<Index>(columns.size()) < table.cols())
    columns.push_back("t" + fixed(time_of(static_cast<Index>(columns.size()) % frames), 3));
  support::write_file(folder / name, support::csv_text(columns, Array<typename Derived::Scalar>(table.derived())));
}

double draw_1d(const Path& path, const std::filesystem::path& folder, const std::string& name, int threads) {
  const Range shown{-3.4, 3.4};
  const double height = shown.length() / cells_1d;
  Array<float> x(cells_1d, 1);
  for (Index i = 0; i < cells_1d; ++i)
    x(i, 0) = static_cast<float>(shown.low + height * (static_cast<double>(i) + 0.5));

  const Array<float> density = densities(path, x, threads);
  Array<float> field(cells_1d * frames, 4), arrows(11 * 14, 3);
  for (Index i = 0; i < frames; ++i) {
    auto rows = field.middleRows(i * cells_1d, cells_1d);
    rows << Array<float>::Constant(cells_1d, 1, static_cast<float>(time_of(i))), x, density.col(i),
        path.velocity(time_of(i), x, threads);
  }
  for (Index i = 0; i < 11; ++i) {
    const double t = 0.02 + 0.087 * static_cast<double>(i);
    auto rows = arrows.middleRows(i * 14, 14);
    for (Index j = 0; j < 14; ++j)
      rows(j, 1) = static_cast<float>(shown.low + shown.length() * (static_cast<double>(j) + 0.5) / 14);
    rows.col(0) = static_cast<float>(t);
    rows.col(2) = path.velocity(t, rows.col(1), threads);
  }
  write(folder, name + "_field.csv", {"t", "x", "density", "velocity"}, field);
  write(folder, name + "_arrows.csv", {"t", "x", "velocity"}, arrows);
  Array<float> curve(cells_1d, 1 + frames);
  curve << x, density;
  write(folder, name + "_density.csv", {"x"}, curve);

  // Trajectories start at equally spaced quantiles of the base distribution.
  Array<float> start = path.latent(threads_shown * 400, latent_seed);
  std::sort(start.data(), start.data() + start.size());
  Array<float> quantiles(threads_shown, 1);
  for (Index i = 0; i < threads_shown; ++i) quantiles(i, 0) = start(i * 400 + 200, 0);
  const auto lines = path.trajectories(quantiles, frame_times(), threads);
  Array<float> trajectories(frames, 1 + threads_shown);
  for (Index i = 0; i < frames; ++i) {
    trajectories(i, 0) = static_cast<float>(time_of(i));
    trajectories.row(i).tail(threads_shown) = lines[static_cast<std::size_t>(i)].col(0).transpose();
  }
  std::vector<std::string> columns = {"t"};
  for (Index i = 0; i < threads_shown; ++i) columns.push_back("x" + std::to_string(i));
  write(folder, name + "_trajectories.csv", columns, trajectories);

  const double bin = shown.length() / bins;
  Array<float> histogram = Array<float>::Zero(bins, 1 + frames);
  for (Index k = 0; k < bins; ++k)
    histogram(k, 0) = static_cast<float>(shown.low + bin * (static_cast<double>(k) + 0.5));
  const auto particles = path.trajectories(path.latent(particles_1d, latent_seed), frame_times(), threads);
  for (Index i = 0; i < frames; ++i)
    for (Index n = 0; n < particles_1d; ++n) {
      const double at = std::floor((double(particles[static_cast<std::size_t>(i)](n, 0)) - shown.low) / bin);
      if (at >= 0 && at < bins)
        histogram(static_cast<Index>(at), 1 + i) += static_cast<float>(1 / (bin * double(particles_1d)));
    }
  write(folder, name + "_particles.csv", {"x"}, histogram);
  Array<float> velocity(bins, 1 + frames);
  velocity.col(0) = histogram.col(0);
  for (Index i = 0; i < frames; ++i) velocity.col(1 + i) = path.velocity(time_of(i), histogram.col(0), threads);
  write(folder, name + "_velocity.csv", {"x"}, velocity);

  const double top_velocity = support::detail::quantile(field.col(3).abs().cast<double>(), 0.98);
  const double top_density = density.maxCoeff();
  const double dt = 1 / double(frames - 1);
  for (const bool animated : {false, true}) {
    const double width = animated ? 270 : 330, tall = animated ? 250 : 330, left = 55, top = 75, bar = 70, gap = 55;
    const Sheet sheet(left + 3 * width + 2 * gap + (animated ? 1 : 2) * bar + 25, top + tall + 60);
    const auto panel = [&](int i) {
      return Panel{left + i * (width + gap) + (animated && i > 1 ? 1 : i) * bar, top, width, tall};
    };
    const std::string file = animated ? name + "_animation" : name;
    std::ostringstream script;
    script << begin(file + ".gp", file + (animated ? ".gif" : ".png"), sheet, animated);
    if (animated) script << animation_loop();
    script << "set multiplot\n"
           << sheet.title(1, animated ? "sprintf('A Gaussian flows into two modes: t = %.2f', i / " +
                                            number(double(frames - 1)) + ".)"
                                      : literal("A Gaussian flows into two modes"))
           << "set yrange " << range(shown) << "; set xrange " << range({-dt / 2, 1 + dt / 2})
           << "; set xlabel 't'; set ylabel 'x' offset 1\n"
           << "# the density, and where the flow takes every " << 100 / threads_shown << "th per cent of the base\n"
           << sheet.place(panel(0)) << sheet.colour_bar(panel(0)) << viridis(animated)
           << "set cbrange [0:" << number(top_density) << "]\nset title 'density and trajectories'\n"
           << "plot '" << name << "_field.csv' skip 1 using 1:2:3 with image, for [j = 2:" << threads_shown + 1 << "] '"
           << name << "_trajectories.csv' skip 1 using 1:j with lines lw 0.7 lc rgb '#ffffff'";
    if (animated)
      script << ", for [j = 2:" << threads_shown + 1 << "] '" << name
             << "_trajectories.csv' skip 1 every ::i::i using 1:j with points pt 7 ps 0.5 lc rgb '#ff9050'";
    const auto frame_column = [](const char* frame) { return "column(2 + " + std::string(frame) + ")"; };
    const auto bars = [&](const std::string& column, const char* colour) {
      return "using (" + column + " / 2):1:(" + column + " / 2):(" + number(0.52 * bin) +
             ") with boxxyerror fill solid noborder lc rgb '" + colour + "'";
    };
    script << "\nunset label 1; unset colorbox\n\n" << sheet.place(panel(1)) << "set title 'velocity'\n";
    if (animated) {
      const std::string v = frame_column("i");
      script << "set xrange " << range({-1.1 * top_velocity, 1.1 * top_velocity}) << "; set xlabel 'v(t, x)'\n"
             << "plot '" << name << "_velocity.csv' skip 1 " << bars("(" + v + " > 0 ? " + v + " : 0)", "#ef8a62")
             << ", '' skip 1 " << bars("(" + v + " < 0 ? " + v + " : 0)", "#67a9cf") << "\n\n"
             << sheet.place(panel(2))
             << "set title 'particles and density'; set xrange [0:" << number(1.05 * top_density)
             << "]; set xtics 0.1; set xlabel 'p(t, x)'\n"
             << "plot '" << name << "_particles.csv' skip 1 " << bars(v, "#b9c6de") << ", '" << name
             << "_density.csv' skip 1 using (" << v << "):1 with lines lw 2 lc rgb '#8b1a1a'\n"
             << "set xtics autofreq\nunset multiplot\n}\nset output\n";
    } else {
      // An arrow shows the displacement of a particle at constant velocity during a twentieth of the time.
      const std::string quarter = std::to_string((frames - 1) / 4), column = "column(2 + k * " + quarter + ")";
      script << "set colorbox\n"
             << sheet.colour_bar(panel(1)) << blue_red << "\nset cbrange " << range({-top_velocity, top_velocity})
             << "\nplot '" << name << "_field.csv' skip 1 using 1:2:4 with image, '" << name
             << "_arrows.csv' skip 1 using 1:2:(0.055):(0.055 * $3) with vectors filled head size 0.016,20,60 lw 1 lc "
                "rgb '#303030'\n\n"
             // Densities at five times, each drawn to the right of its time.
             << sheet.place(panel(2)) << "set title 'particles and density'; s = " << number(0.22 / top_density)
             << "\nset xrange [-0.03:1.27]; set xtics 0, 0.25, 1\n"
             << "plot for [k = 0:4] '" << name << "_particles.csv' skip 1 using (0.25 * k + s * " << column
             << " / 2):1:(s * " << column << " / 2):(" << number(0.52 * bin)
             << ") with boxxyerror fill solid noborder lc rgb '#b9c6de', for [k = 0:4] '" << name
             << "_density.csv' skip 1 using (0.25 * k + s * " << column
             << "):1 with lines lw 1.5 lc rgb '#8b1a1a'\nunset multiplot\nset output\n";
    }
    support::write_file(folder / (file + ".gp"), script.str());
  }
  const Array<float> wide = Eigen::ArrayXf::LinSpaced(501, -8, 8);
  return mass_error(densities(path, wide, threads), 16.0 / 500);
}

// ---------------------------------------------------------------------------------------------------------------------
// Two dimensions, with one time per frame.

constexpr Index particles_2d = 3000, arrows_across = 15;

double draw_2d(const Path& path, const std::string& toy, const std::filesystem::path& folder, const std::string& name,
               int threads) {
  const auto particles = path.trajectories(path.latent(particles_2d, latent_seed), frame_times(), threads);
  Range x{0, 0}, y{0, 0};
  for (const Array<float>& at : particles) {
    // A few may be far out.
    const auto widen = [](Range& r, const Eigen::ArrayXd& v) {
      r = {std::min(r.low, support::detail::quantile(v, 0.001)), std::max(r.high, support::detail::quantile(v, 0.999))};
    };
    widen(x, at.col(0).cast<double>());
    widen(y, at.col(1).cast<double>());
  }
  x = x.widened(1.15 * x.length());
  y = y.widened(1.15 * y.length()).widened(x.length());
  x = x.widened(y.length());

  support::PictureStyle style;
  style.same_units = true;
  style.panel = 240;
  const support::Frame frame(x, y, style);
  const Array<float> cells = frame.cells();
  const Array<float> density = densities(path, cells, threads);
  Array<float> table(cells.rows(), 2 + frames);
  table << cells, density;
  write(folder, name + "_density.csv", {"x", "y"}, table);

  Array<float> grid(arrows_across * arrows_across, 2);
  for (Index i = 0; i < grid.rows(); ++i) {
    const auto part = [](Index k) { return (static_cast<double>(k) + 0.5) / arrows_across; };
    grid(i, 0) = static_cast<float>(x.low + x.length() * part(i % arrows_across));
    grid(i, 1) = static_cast<float>(y.low + y.length() * part(i / arrows_across));
  }
  Array<float> arrows(grid.rows(), 2 + 3 * frames), points(particles_2d, 2 * frames);
  arrows.leftCols(2) = grid;
  std::vector<std::string> arrow_columns = {"x", "y"}, point_columns;
  double fastest = 0;
  for (Index i = 0; i < frames; ++i) {
    const Array<float> v = path.velocity(time_of(i), grid, threads);
    arrows.middleCols(2 + 3 * i, 3) << v, path.log_prob(time_of(i), grid, threads).exp();
    points.middleCols(2 * i, 2) = particles[static_cast<std::size_t>(i)];
    const Array<float> here = path.velocity(time_of(i), particles[static_cast<std::size_t>(i)], threads);
    fastest = std::max(fastest, support::detail::quantile(here.square().rowwise().sum().sqrt().cast<double>(), 0.95));
    for (const char* axis : {"x", "y"}) {
      point_columns.push_back(axis + fixed(time_of(i), 3));
      arrow_columns.push_back("v" + point_columns.back());
    }
    arrow_columns.push_back("p" + fixed(time_of(i), 3));
  }
  write(folder, name + "_arrows.csv", arrow_columns, arrows);
  write(folder, name + "_particles.csv", point_columns, points);

  // The longest arrows reach to the next grid point; larger velocities are drawn at that length.
  const double length = 1.3 * x.length() / arrows_across / fastest;
  const std::string scaled = "l = " + number(length) + "; m = " + number(fastest) +
                             "; speed(u, v) = sqrt(u * u + v * v); arrow(u, v) = l * (speed(u, v) > m ? m / speed(u, "
                             "v) : 1)\n";
  // Every time has its own colour range, because the modes are far higher than the base density.
  // Arrows are pale where there are hardly any particles, because the training does not determine the velocity there.
  const auto views = [&](const std::string& i, const std::array<std::string, 3>& places, double point) {
    const std::string u = "column(3 + 3 * " + i + ")", v = "column(4 + 3 * " + i + ")", p = "column(5 + 3 * " + i + ")",
                      a = "arrow(" + u + ", " + v + ")";
    const auto arrow = [&](const char* where, const char* colour) {
      return "skip 1 using (" + p + where + " ? $1 - 0.5 * " + a + " * " + u + " : NaN):($2 - 0.5 * " + a + " * " + v +
             "):(" + a + " * " + u + "):(" + a + " * " + v + ") with vectors filled head size " +
             number(0.018 * x.length()) + ",20,60 lw 1.2 lc rgb '" + colour + "'";
    };
    return places[0] + "plot '" + name + "_density.csv' skip 1 using 1:2:(column(3 + " + i + ")) with image\n" +
           places[1] + "plot '" + name + "_arrows.csv' " + arrow(" < 0.01", "#c3cad8") + ", '' " +
           arrow(" >= 0.01", "#1f3b73") + "\n" + places[2] + "plot '" + name +
           "_particles.csv' skip 1 using (column(1 + 2 * " + i + ")):(column(2 + 2 * " + i + ")) with points pt 7 ps " +
           number(point) + " lc rgb '#8b1a1a'\n";
  };
  const double across = 250, tall = std::round(across * y.length() / x.length());
  const std::string title = "A Gaussian flows into " + toy;
  const auto axes = [&](bool animated) {
    return "set xrange " + range(x) + "; set yrange " + range(y) + "; set cbrange [0:*]; unset colorbox\n" + scaled +
           viridis(animated);
  };
  {
    const Sheet sheet(45 + 3 * across + 2 * 25 + 20, 70 + tall + 30);
    std::ostringstream script;
    script << begin(name + "_animation.gp", name + "_animation.gif", sheet, true) << axes(true) << animation_loop()
           << "set multiplot\n"
           << sheet.title(1, "sprintf('" + title + ": t = %.2f', i / " + number(double(frames - 1)) + ".)");
    std::array<std::string, 3> places;
    const std::array<const char*, 3> names = {"density", "velocity", "particles"};
    for (std::size_t k = 0; k < 3; ++k)
      places[k] = sheet.place({45 + static_cast<double>(k) * (across + 25), 70, across, tall}) + "set title '" +
                  names[k] + "'" + (k == 1 ? "; unset label 1; set format y ''" : "") + "\n";
    script << views("i", places, 0.18) << "set format y\nunset multiplot\n}\nset output\n";
    support::write_file(folder / (name + "_animation.gp"), script.str());
  }
  {
    const double small = 215, low = std::round(small * y.length() / x.length()), gap = 14, left = 75;
    const Sheet sheet(left + 5 * small + 4 * gap + 20, 75 + 3 * low + 2 * gap + 40);
    std::ostringstream script;
    script << begin(name + ".gp", name + ".png", sheet, false) << axes(false) << "set multiplot\n"
           << sheet.title(1, literal(title)) << "\n";
    const std::array<const char*, 3> names = {"density", "velocity", "particles"};
    for (Index k = 0; k < 5; ++k) {
      std::array<std::string, 3> places;
      for (std::size_t row = 0; row < 3; ++row)
        places[row] =
            sheet.place({left + static_cast<double>(k) * (small + gap), 75 + static_cast<double>(row) * (low + gap),
                         small, low}) +
            (row == 0 ? "set title 't = " + number(0.25 * double(k)) + "'\n" : "unset title; unset label 1\n") +
            (k == 0 ? "set ylabel '" + std::string(names[row]) + "' offset 0.5\n" : "unset ylabel; set format y ''\n") +
            (row == 2 ? "set format x\n" : "set format x ''\n");
      script << views(std::to_string(k * (frames - 1) / 4), places, 0.12) << "\n";
    }
    script << "unset multiplot\nset output\n";
    support::write_file(folder / (name + ".gp"), script.str());
  }
  return mass_error(density, x.length() * y.length() / static_cast<double>(cells.rows()));
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

struct Problem {
  std::string name, data;
  Array<float> train, test;
  double best = 0;  // mean of the true log-density
  std::vector<Index> hidden = {64, 64};
  long steps = 3000;
};

Problem problem_1d(const Options& options) {
  Problem problem;
  problem.name = "views_1d";
  problem.data = "two modes";
  const auto mixture = two_modes();
  problem.train.resize(200'000, 1);
  problem.test.resize(20'000, 1);
  mixture.sample_into(diffeo::view(problem.train), options.seed, 0, 0);
  mixture.sample_into(diffeo::view(problem.test), ~options.seed, 0, 0);
  // Minus the entropy, by the rectangle rule.
  constexpr Index n = 4000;
  const double cell = 12.0 / n;
  diffeo::Tape<float> tape;
  const Array<float> x = Eigen::ArrayXf::LinSpaced(n, -6, 6);
  const Eigen::ArrayXd log_p = as_eigen(mixture.log_prob(tape.copy(x)).value()).cast<double>();
  problem.best = (log_p * log_p.exp()).sum() * cell;
  problem.hidden = {32, 32};
  problem.steps = 1500;
  return problem;
}

Problem problem_2d(const Options& options) {
  Problem problem;
  problem.name = "views_" + options.toy;
  problem.data = options.toy;
  problem.train = diffeo::toy2d::sample<float>(options.toy, 1'000'000, options.seed);
  problem.test = diffeo::toy2d::sample<float>(options.toy, 20'000, ~options.seed);
  problem.best = diffeo::toy2d::best_log_prob(options.toy);
  return problem;
}

// Fits the flow and draws the pictures; returns the line for --json.
std::string study(const Options& options) {
  const Problem problem = options.dim == 1 ? problem_1d(options) : problem_2d(options);
  const std::filesystem::path folder = options.out;
  support::create_folder(folder);
  support::write_file(folder / (problem.name + ".gp"),
                      "");  // fails before the training if the folder cannot be written

  Model model(
      diffeo::StandardNormal<float>(options.dim),
      diffeo::cnf(problem.train, {.network = {.hidden = problem.hidden, .first_scale = 1}, .seed = options.seed}));
  const diffeo::FitReport report = diffeo::fit(model, problem.train,
                                               {.steps = options.steps.value_or(problem.steps),
                                                .batch = batch,
                                                .rate = {.learning_rate = 5e-3},
                                                .seed = options.seed,
                                                .threads = options.threads,
                                                .progress = true});
  const double score = model.log_prob(problem.test, options.threads).cast<double>().mean();
  std::cout << problem.data << ", continuous flow of " << support::grouped(diffeo::parameter_count(model))
            << " parameters: " << report << "\ntest log p " << fixed(score, 3) << " nats a point, the best possible is "
            << fixed(problem.best, 3) << ": gap " << fixed(problem.best - score, 3) << std::endl;

  const Path path(model);
  const double mass = options.dim == 1 ? draw_1d(path, folder, problem.name, options.threads)
                                       : draw_2d(path, options.toy, folder, problem.name, options.threads);
  std::cout << "the integral of p_t is 1 to " << mass << " at all times\n"
            << support::draw_picture(folder, problem.name) << '\n'
            << support::draw_picture(folder, problem.name + "_animation", ".gif") << std::endl;

  support::JsonObject json;
  json.add("data", problem.data).add("dim", options.dim).add("parameters", diffeo::parameter_count(model));
  json.add("steps", report.steps).add("seconds", report.seconds);
  json.add("step_ms", 1e3 * report.seconds / static_cast<double>(report.steps));  // null if there were no steps
  json.add("test_log_prob", score).add("gap", problem.best - score).add("mass_error", mass);
  return json.text();
}

void add_options(CLI::App& app, Options& options) {
  std::vector<std::string> toys;
  for (const std::string_view toy : diffeo::toy2d::names()) toys.emplace_back(toy);
  app.add_option("--dim", options.dim, "1: from one mode to two, by default; 2: to a toy density")
      ->check(CLI::IsMember({1, 2}));
  const CLI::Option* toy =
      app.add_option("--toy", options.toy, "toy density of --dim 2, " + options.toy + " by default")
          ->check(CLI::IsMember(toys));
  app.final_callback([toy, &options] {
    if (toy->count() > 0 && options.dim == 1) throw CLI::ValidationError("--toy", "is for --dim 2");
  });
  app.add_option("--steps", options.steps, "training steps; by default what suits the data")->check(at_least(0));
  app.add_option("--seed", options.seed, "of data, weights and order: 0 by default")->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_option("--out", options.out, "folder for pictures, their scripts and data: " + options.out + " by default");
  app.add_flag("--json", options.json, "end with the results as JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Fits a continuous flow and shows its way from a Gaussian to the data in three views: density, velocity and "
      "particles.");
  Options options;
  add_options(app, options);
  return support::run_program("three_views", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result << '\n';
  });
}
