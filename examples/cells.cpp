// SPDX-License-Identifier: MIT

// Cells measured at several times, other cells each time: learns how their distribution moves by flow matching between
// the snapshots, leaves each time between the first and the last out in turn, and compares the cells that the flow
// predicts for it with those that were measured.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iostream>
#include <numeric>
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
using Cells = Array<float>;  // N x D

struct Options {
  std::string data, out = "pictures";
  long steps = 4000;
  Index batch = 512;
  double sigma = 0.1;
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
};

// ---------------------------------------------------------------------------------------------------------------------
// Data: the first column is the time, the others are features of a cell.

struct Snapshot {
  double time = 0;
  Cells cells;
};

Cells read_table(const std::string& path) {
  return path.ends_with(".npy") ? diffeo::read_npy<float>(path) : diffeo::read_csv<float>(path).values;
}

std::vector<Snapshot> read_snapshots(const std::string& path) {
  const Cells table = read_table(path);
  diffeo::require(table.cols() >= 3, "cells: ", path, " has ", table.cols(),
                  " columns, expected the time and at least two features");
  diffeo::require_finite(table, "cells: the table");
  std::vector<float> times(table.col(0).begin(), table.col(0).end());
  std::sort(times.begin(), times.end());
  times.erase(std::unique(times.begin(), times.end()), times.end());
  diffeo::require(times.size() >= 3 && times.size() <= 100, "cells: ", path, " has ", times.size(),
                  " times, expected 3 to 100");
  std::vector<Snapshot> snapshots;
  for (const float time : times) {
    std::vector<Index> rows;
    for (Index i = 0; i < table.rows(); ++i)
      if (table(i, 0) == time) rows.push_back(i);
    diffeo::require(rows.size() >= 2, "cells: time ", time, " has 1 cell, expected at least 2");
    snapshots.push_back({static_cast<double>(time), table(rows, Eigen::seq(1, Eigen::last))});
  }
  return snapshots;
}

// Returns n of the cells, in random order.
Cells chosen(const Cells& cells, Index n, std::uint64_t seed) {
  std::vector<Index> rows(static_cast<std::size_t>(cells.rows()));
  std::iota(rows.begin(), rows.end(), Index{0});
  diffeo::PhiloxEngine engine(seed, 1);
  for (std::size_t i = rows.size() - 1; i > 0; --i) std::swap(rows[i], rows[engine.below(i + 1)]);
  rows.resize(static_cast<std::size_t>(n));
  return cells(rows, Eigen::all);
}

// ---------------------------------------------------------------------------------------------------------------------
// Predictions for a time that was left out.

// Distances of a prediction from the cells that were measured.
struct Distances {
  double w1 = 0, w2 = 0;
};

// Of as many cells of both as the smaller set has.
Distances distances(const Cells& predicted, const Cells& measured, std::uint64_t seed) {
  const Index n = std::min(predicted.rows(), measured.rows());
  const Cells a = chosen(predicted, n, seed), b = chosen(measured, n, seed + 1);
  return {diffeo::wasserstein1(a, b), diffeo::wasserstein2(a, b)};
}

struct Result {
  double time = 0;
  Distances flow, interpolation, before;  // `before`: the cells of the time before, unchanged
  Cells predicted, measured;
  diffeo::FitReport report;
};

// Cells on the straight lines between optimal pairs of the snapshots on either side.
Cells interpolated(const Snapshot& before, const Snapshot& after, double time, std::uint64_t seed) {
  const Index n = std::min(before.cells.rows(), after.cells.rows());
  const Cells a = chosen(before.cells, n, seed), b = chosen(after.cells, n, seed + 1);
  const diffeo::Assignment pairs = diffeo::assignment(diffeo::squared_distances(a, b));
  const auto share = static_cast<float>((time - before.time) / (after.time - before.time));
  Cells x(n, a.cols());
  for (Index i = 0; i < n; ++i)
    x.row(i) = (1 - share) * a.row(i) + share * b.row(pairs.columns[static_cast<std::size_t>(i)]);
  return x;
}

Result leave_out(const std::vector<Snapshot>& snapshots, std::size_t left_out, const Options& options) {
  const double first = snapshots.front().time, duration = snapshots.back().time - first;
  const auto flow_time = [&](std::size_t k) { return (snapshots[k].time - first) / duration; };
  Result result;
  result.time = snapshots[left_out].time;
  result.measured = snapshots[left_out].cells;

  Index rows = 0;
  std::vector<diffeo::Snapshot<float>> others;
  for (std::size_t k = 0; k < snapshots.size(); ++k) {
    if (k == left_out) continue;
    rows += snapshots[k].cells.rows();
    others.push_back({flow_time(k), {snapshots[k].cells}});
  }
  Cells all(rows, result.measured.cols());
  rows = 0;
  for (const auto& other : others) {
    all.middleRows(rows, other.data.x.rows()) = other.data.x;
    rows += other.data.x.rows();
  }
  diffeo::TransformedDistribution model(
      diffeo::StandardNormal<float>(all.cols()),
      diffeo::cnf(all, {.network = {.activation = diffeo::Activation::selu, .first_scale = 1}, .seed = options.seed}));
  result.report = diffeo::fit(
      model, diffeo::FlowMatching(model, others, diffeo::LinearPath{options.sigma}, diffeo::OptimalTransportPairing{}),
      {.steps = options.steps,
       .batch = options.batch,
       .seed = options.seed,
       .threads = options.threads,
       .progress = true});

  const Snapshot &before = snapshots[left_out - 1], &after = snapshots[left_out + 1];
  result.predicted =
      diffeo::move_points(model.flow, before.cells, flow_time(left_out - 1), flow_time(left_out), options.threads);
  result.flow = distances(result.predicted, result.measured, options.seed);
  result.interpolation =
      distances(interpolated(before, after, result.time, options.seed), result.measured, options.seed);
  result.before = distances(before.cells, result.measured, options.seed);
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// The picture: the first two features, all cells by time, then the cells of each time that was left out.

void write_cells_picture(const std::filesystem::path& folder, const std::vector<Snapshot>& snapshots,
                         const std::vector<Result>& results) {
  using support::gnuplot::literal;
  const std::string name = "cells";
  std::ostringstream all;
  all << "x,y,time\n";
  support::Range x = support::Range::around(snapshots.front().cells.col(0)),
                 y = support::Range::around(snapshots.front().cells.col(1));
  for (const Snapshot& snapshot : snapshots) {
    const auto widen = [](support::Range& range, const support::Range& other) {
      range = {std::min(range.low, other.low), std::max(range.high, other.high)};
    };
    widen(x, support::Range::around(snapshot.cells.col(0)));
    widen(y, support::Range::around(snapshot.cells.col(1)));
    for (Index i = 0; i < snapshot.cells.rows(); ++i)
      all << snapshot.cells(i, 0) << ',' << snapshot.cells(i, 1) << ',' << snapshot.time << '\n';
  }
  support::write_file(folder / "cells_all.csv", all.str());

  support::PictureStyle style;
  style.panel = 360;
  const support::Frame frame(x, y, style);
  const double width = frame.width(), height = frame.height(), left = 70, top = 80, gap = 30, bar = 95;
  const auto panels = static_cast<double>(results.size() + 1);
  const support::Sheet sheet(left + panels * width + (panels - 1) * gap + bar + 25, top + height + 65);
  std::ostringstream script;
  script << support::script_begin(name + ".gp", name + ".png", "pngcairo font 'Sans,11' noenhanced", sheet)
         << support::gnuplot::viridis << "\nset multiplot\n"
         << sheet.title(1, literal("Cells at " + std::to_string(snapshots.size()) + " times, the first two features"))
         << "set xrange " << support::detail::range(frame.x()) << "; set yrange " << support::detail::range(frame.y())
         << "\nset xlabel 'feature 1'; set ylabel 'feature 2'\n";
  const support::Panel first{left, top, width, height};
  script
      << sheet.place(first) << sheet.colour_bar(first) << "set cblabel 'time'\nset title 'measured' offset 0,-0.5\n"
      << "plot 'cells_all.csv' skip 1 using 1:2:3 with points pt 7 ps 0.3 lc palette\nunset label 1; unset colorbox; "
         "unset ylabel\n";
  for (std::size_t k = 0; k < results.size(); ++k) {
    const std::string prefix = "cells_left_out_" + std::to_string(k + 1);
    support::write_file(folder / (prefix + "_measured.csv"),
                        support::csv_text({"x", "y"}, Cells(results[k].measured.leftCols(2))));
    support::write_file(folder / (prefix + "_predicted.csv"),
                        support::csv_text({"x", "y"}, Cells(results[k].predicted.leftCols(2))));
    script << sheet.place({left + bar + static_cast<double>(k + 1) * (width + gap), top, width, height}) << "set title "
           << literal("time " + support::significant(results[k].time, 3) + " left out: W2 " +
                      fixed(results[k].flow.w2, 3) + ", interpolated " + fixed(results[k].interpolation.w2, 3))
           << " offset 0,-0.5\nplot '" << prefix
           << "_measured.csv' skip 1 using 1:2 with points pt 7 ps 0.4 lc rgb '#c0c0c0', \\\n  '" << prefix
           << "_predicted.csv' skip 1 using 1:2 with points pt 7 ps 0.3 lc rgb '#1f4fb4'\n";
  }
  script << "unset multiplot\nset output\n";
  support::write_file(folder / (name + ".gp"), script.str());
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

std::string study(const Options& options) {
  const std::filesystem::path folder = options.out;
  support::create_folder(folder);
  support::write_file(folder / "cells.gp", "");  // fails before the training if the folder cannot be written
  const std::vector<Snapshot> snapshots = read_snapshots(options.data);
  for (const Snapshot& snapshot : snapshots)
    std::cout << "time " << support::significant(snapshot.time, 3) << ": " << snapshot.cells.rows() << " cells, "
              << snapshot.cells.cols() << " features\n";
  std::vector<Result> results;
  support::JsonObject json;
  json.add("data", std::filesystem::path(options.data).filename().string()).add("steps", options.steps);
  for (std::size_t k = 1; k + 1 < snapshots.size(); ++k) {
    results.push_back(leave_out(snapshots, k, options));
    const Result& r = results.back();
    std::cout << "time " << support::significant(r.time, 3) << " left out: " << r.report << '\n'
              << "  flow           W1 " << fixed(r.flow.w1, 3) << "  W2 " << fixed(r.flow.w2, 3) << '\n'
              << "  interpolation  W1 " << fixed(r.interpolation.w1, 3) << "  W2 " << fixed(r.interpolation.w2, 3)
              << '\n'
              << "  cells before   W1 " << fixed(r.before.w1, 3) << "  W2 " << fixed(r.before.w2, 3) << std::endl;
    const std::string suffix = "_" + std::to_string(k);
    json.add("time" + suffix, r.time).add("seconds" + suffix, r.report.seconds);
    json.add("flow_w1" + suffix, r.flow.w1).add("flow_w2" + suffix, r.flow.w2);
    json.add("interpolation_w1" + suffix, r.interpolation.w1).add("interpolation_w2" + suffix, r.interpolation.w2);
    json.add("before_w1" + suffix, r.before.w1).add("before_w2" + suffix, r.before.w2);
  }
  write_cells_picture(folder, snapshots, results);
  std::cout << support::draw_picture(folder, "cells") << std::endl;
  return json.text();
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("data", options.data, "table of cells (.npy or .csv): the time, then features")->required();
  app.add_option("--steps", options.steps, "training steps for each time left out, 4000 by default")
      ->check(at_least(0));
  app.add_option("--batch", options.batch, "cells a step, 512 by default")->check(at_least(2));
  app.add_option("--sigma", options.sigma, "noise around the straight lines, in standard deviations: 0.1 by default")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--seed", options.seed, "of weights and order: 0 by default")->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_option("--out", options.out, "folder for pictures, their scripts and data: " + options.out + " by default");
  app.add_flag("--json", options.json, "end with the results as JSON");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Learns how a distribution of cells moves from snapshots at several times, and predicts each time that is left "
      "out in turn.");
  Options options;
  add_options(app, options);
  return support::run_program("cells", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result << '\n';
  });
}
