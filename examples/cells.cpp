// SPDX-License-Identifier: MIT

// Cells measured at several times, other cells each time: learns how their distribution moves by flow matching between
// the snapshots, leaves each time between the first and the last out in turn, and compares the cells that the flow
// predicts for it with those that were measured.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <diffeo/diffeo.hpp>
#include <filesystem>
#include <iostream>
#include <numeric>
#include <optional>
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
  std::optional<double> left_out;
  long steps = 4000;
  Index batch = 512;
  double sigma = 0.1;
  std::uint64_t seed = 0;
  int threads = 0;
  bool json = false;
};

// ---------------------------------------------------------------------------------------------------------------------
// Data: the first column is the time, the others are features of a cell.

struct Data {
  std::vector<double> times;         // ascending
  std::vector<Cells> cells;          // of each time
  std::array<std::string, 2> names;  // of the first two features

  std::size_t size() const { return times.size(); }
  // Time of the flow, from 0 to 1.
  double flow_time(std::size_t k) const { return (times[k] - times.front()) / (times.back() - times.front()); }
};

std::string time_text(double time) { return support::significant(time, 6); }

Cells rows_of(const Cells& cells, const std::vector<Index>& rows) {
  Cells some(static_cast<Index>(rows.size()), cells.cols());
  for (std::size_t i = 0; i < rows.size(); ++i) some.row(static_cast<Index>(i)) = cells.row(rows[i]);
  return some;
}

Data read_data(const std::string& path) {
  constexpr std::size_t most_times = 20;
  diffeo::CsvData<float> table;
  if (path.ends_with(".npy"))
    table.values = diffeo::read_npy<float>(path);
  else
    table = diffeo::read_csv<float>(path);
  const Cells& values = table.values;
  diffeo::require(values.cols() >= 3, path, " has ", values.cols(), values.cols() == 1 ? " column" : " columns",
                  ", expected the time and at least two features");
  diffeo::require_finite_columns(path + ": a value", values, table.columns);
  std::vector<float> times(values.col(0).begin(), values.col(0).end());
  std::sort(times.begin(), times.end());
  times.erase(std::unique(times.begin(), times.end()), times.end());
  diffeo::require(times.size() >= 3 && times.size() <= most_times, path, ": the first column of numbers has ",
                  times.size(), times.size() == 1 ? " value" : " different values", ", expected 3 to ", most_times,
                  " times of cells");
  for (Index j = 1; j < values.cols(); ++j)
    diffeo::require(values.col(j).maxCoeff() > values.col(j).minCoeff(), path, ": ",
                    table.columns.empty() ? "column " + std::to_string(j) : table.columns[static_cast<std::size_t>(j)],
                    " is ", values(0, j), " in all rows, expected a feature that varies");
  Data data;
  for (const float time : times) {
    std::vector<Index> rows;
    for (Index i = 0; i < values.rows(); ++i)
      if (values(i, 0) == time) rows.push_back(i);
    data.times.push_back(static_cast<double>(time));
    data.cells.push_back(rows_of(values.rightCols(values.cols() - 1), rows));
    diffeo::require(rows.size() >= 2, path, ": time ", time_text(data.times.back()),
                    " has one cell, expected at least two (times are the first column of numbers)");
  }
  data.names = {"feature 1", "feature 2"};
  if (!table.columns.empty()) data.names = {table.columns[1], table.columns[2]};
  return data;
}

// Returns the numbers of the times to leave out.
std::vector<std::size_t> left_out(const Data& data, const Options& options) {
  std::vector<std::size_t> result;
  std::string between;
  for (std::size_t k = 1; k + 1 < data.size(); ++k) {
    between += (k > 1 ? ", " : "") + time_text(data.times[k]);
    if (!options.left_out || static_cast<float>(*options.left_out) == static_cast<float>(data.times[k]))
      result.push_back(k);
  }
  diffeo::require(!result.empty(), "cannot leave out time ", options.left_out.value_or(0),
                  ", expected one between the first and the last: ", between);
  return result;
}

// Returns n of the cells, in random order.
Cells chosen(const Cells& cells, Index n, std::uint64_t seed, std::uint64_t stream) {
  std::vector<Index> rows(static_cast<std::size_t>(cells.rows()));
  std::iota(rows.begin(), rows.end(), Index{0});
  diffeo::PhiloxEngine engine(seed, stream);
  for (std::size_t i = rows.size() - 1; i > 0; --i) std::swap(rows[i], rows[engine.below(i + 1)]);
  rows.resize(static_cast<std::size_t>(n));
  return rows_of(cells, rows);
}

// ---------------------------------------------------------------------------------------------------------------------
// Predictions of the cells at a time that was left out.

struct Prediction {
  std::string name, title;
  Cells cells;
  double w1 = 0, w2 = 0;  // distances from the measured cells
  std::optional<diffeo::FitReport> report;
};

struct Result {
  std::size_t left_out = 0;             // number of the time
  Cells before, measured, after;        // n cells of each, which all distances are those of
  double halves_w1 = 0, halves_w2 = 0;  // of one half of the measured cells from the other
  std::vector<Prediction> predictions;
};

void add_prediction(Result& result, const char* name, const char* title, Cells cells,
                    std::optional<diffeo::FitReport> report = {}) {
  Prediction p{name, title, std::move(cells), 0, 0, std::move(report)};
  p.w1 = diffeo::wasserstein1(p.cells, result.measured);
  p.w2 = diffeo::wasserstein2(p.cells, result.measured);
  if (p.report) std::cout << "  " << title << ": " << *p.report << '\n';
  std::cout << "  " << title << ": W1 " << fixed(p.w1, 3) << ", W2 " << fixed(p.w2, 3) << std::endl;
  result.predictions.push_back(std::move(p));
}

// Returns the cells on the straight lines between optimal pairs of x and y (McCann 1997), at a share of the way.
Cells interpolated(const Cells& x, const Cells& y, double share) {
  const diffeo::Assignment pairs = diffeo::assignment(diffeo::squared_distances(x, y));
  const auto s = static_cast<float>(share);
  Cells between(x.rows(), x.cols());
  for (Index i = 0; i < x.rows(); ++i)
    between.row(i) = (1 - s) * x.row(i) + s * y.row(pairs.columns[static_cast<std::size_t>(i)]);
  return between;
}

// The network, sigma and minibatches are those of Tong et al. (2024); rate and schedule are what fit() suggests.
template <class PairingPolicy>
void predict(Result& result, const char* name, const char* title, const Data& data, const PairingPolicy& pairing,
             const Options& options) {
  std::vector<diffeo::Snapshot<float>> snapshots;
  Index rows = 0;
  for (std::size_t k = 0; k < data.size(); ++k)
    if (k != result.left_out) {
      snapshots.push_back({data.flow_time(k), {data.cells[k]}});
      rows += data.cells[k].rows();
    }
  Cells all(rows, data.cells.front().cols());
  rows = 0;
  for (const diffeo::Snapshot<float>& snapshot : snapshots) {
    all.middleRows(rows, snapshot.data.x.rows()) = snapshot.data.x;
    rows += snapshot.data.x.rows();
  }
  diffeo::TransformedDistribution model(
      diffeo::StandardNormal<float>(all.cols()),
      diffeo::cnf(all, {.network = {.hidden = {64, 64, 64}, .activation = diffeo::Activation::selu, .first_scale = 1},
                        .seed = options.seed}));
  diffeo::FitReport report =
      diffeo::fit(model, diffeo::FlowMatching(model, snapshots, diffeo::LinearPath{options.sigma}, pairing),
                  {.steps = options.steps,
                   .batch = options.batch,
                   .seed = options.seed,
                   .threads = options.threads,
                   .progress = true});
  Cells cells = diffeo::move_points(model.flow, result.before, data.flow_time(result.left_out - 1),
                                    data.flow_time(result.left_out), options.threads);
  add_prediction(result, name, title, std::move(cells), std::move(report));
}

Result leave_out(const Data& data, std::size_t k, const Options& options) {
  constexpr Index most_compared = 2000;  // an assignment takes up to the third power of it
  Result result;
  result.left_out = k;
  const Index n = std::min({most_compared, data.cells[k - 1].rows(), data.cells[k].rows(), data.cells[k + 1].rows()});
  result.before = chosen(data.cells[k - 1], n, options.seed, 1);
  result.measured = chosen(data.cells[k], n, options.seed, 2);
  result.after = chosen(data.cells[k + 1], n, options.seed, 3);
  const Index half = std::min(n, data.cells[k].rows() / 2);
  const Cells halves = chosen(data.cells[k], 2 * half, options.seed, 4);
  result.halves_w1 = diffeo::wasserstein1(halves.topRows(half), halves.bottomRows(half));
  result.halves_w2 = diffeo::wasserstein2(halves.topRows(half), halves.bottomRows(half));
  std::cout << "time " << time_text(data.times[k]) << " left out, distances of " << n
            << " cells from as many measured ones:\n  half of the measured cells from the other half (" << half
            << "): W1 " << fixed(result.halves_w1, 3) << ", W2 " << fixed(result.halves_w2, 3) << std::endl;

  add_prediction(result, "before", "time before", result.before);
  add_prediction(result, "after", "time after", result.after);
  const double share = (data.times[k] - data.times[k - 1]) / (data.times[k + 1] - data.times[k - 1]);
  add_prediction(result, "interpolation", "interpolation", interpolated(result.before, result.after, share));
  predict(result, "independent", "independent pairs", data, diffeo::IndependentPairing{}, options);
  predict(result, "optimal", "optimal pairs", data, diffeo::OptimalTransportPairing{}, options);
  return result;
}

std::string json_of(const Data& data, const Result& result, const Options& options) {
  support::JsonObject json;
  json.add("data", std::filesystem::path(options.data).filename().string())
      .add("time", data.times[result.left_out])
      .add("cells", result.measured.rows())
      .add("features", result.measured.cols())
      .add("steps", options.steps)
      .add("halves_w1", result.halves_w1)
      .add("halves_w2", result.halves_w2);
  for (const Prediction& p : result.predictions) {
    const auto key = [&](const char* what) { return p.name + "_" + what; };
    if (p.report)
      json.add(key("seconds"), p.report->seconds)
          .add(key("step_ms"), 1e3 * p.report->seconds / static_cast<double>(p.report->steps));
    json.add(key("w1"), p.w1).add(key("w2"), p.w2);
  }
  return json.text();
}

// ---------------------------------------------------------------------------------------------------------------------
// The picture: a row for each time that was left out. First the measured cells around it, then each prediction above
// the cells that were left out.

constexpr const char *grey = "#b8b8b8", *orange = "#e08214", *green = "#2d8659", *blue = "#1f4fb4";

void write_cells_picture(const std::filesystem::path& folder, const Data& data, const std::vector<Result>& results) {
  using support::gnuplot::literal;
  const std::string name = "cells";
  const auto file = [&](const Result& result, const std::string& part) {
    return name + "_" + std::to_string(result.left_out + 1) + "_" + part + ".csv";
  };
  const auto write = [&](const Result& result, const std::string& part, const Cells& cells) {
    support::write_file(folder / file(result, part),
                        support::csv_text({data.names[0], data.names[1]}, Cells(cells.leftCols(2))));
  };
  // The plot of a file's points, larger where there are few.
  const auto plotted = [&](const Result& result, const std::string& part, const char* colour) {
    return "'" + file(result, part) + "' skip 1 using 1:2 with points pt 7 ps " +
           (result.measured.rows() < 300 ? "0.6" : "0.3") + " lc rgb '" + colour + "'";
  };
  const auto drawn = [](const Prediction& p) { return p.name != "before" && p.name != "after"; };
  std::array<std::vector<float>, 2> ends;
  const auto add_ends = [&](const Cells& cells) {
    for (const Index j : {0, 1}) {
      ends[static_cast<std::size_t>(j)].push_back(cells.col(j).minCoeff());
      ends[static_cast<std::size_t>(j)].push_back(cells.col(j).maxCoeff());
    }
  };
  for (const Cells& cells : data.cells) add_ends(cells);
  for (const Result& result : results)
    for (const Prediction& p : result.predictions) add_ends(p.cells);
  const auto around = [](const std::vector<float>& values) {
    return support::Range::around(Eigen::Map<const Eigen::ArrayXf>(values.data(), static_cast<Index>(values.size())));
  };

  support::PictureStyle style;
  style.panel = 270;
  const support::Frame frame(around(ends[0]), around(ends[1]), style);
  const double width = frame.width(), height = frame.height(), left = 70, top = 105, gap = 22, between = 42;
  const std::size_t panels = 1 + static_cast<std::size_t>(std::count_if(results.front().predictions.begin(),
                                                                        results.front().predictions.end(), drawn));
  const auto columns = static_cast<double>(panels), rows = static_cast<double>(results.size());
  const support::Sheet sheet(left + columns * width + (columns - 1) * gap + 25,
                             top + rows * height + (rows - 1) * between + 60);
  std::ostringstream script;
  script << support::script_begin(name + ".gp", name + ".png", "pngcairo font 'Sans,11' noenhanced", sheet)
         << "set multiplot\n"
         << sheet.title(1, literal("Cells at a time that was left out: measured and predicted")) << "set xrange "
         << support::detail::range(frame.x()) << "; set yrange " << support::detail::range(frame.y()) << "\n";
  const std::array<std::pair<const char*, const char*>, 4> key = {
      {{"time before", orange}, {"left out", grey}, {"time after", green}, {"predicted", blue}}};
  for (std::size_t i = 0; i < key.size(); ++i)
    script << sheet.key(static_cast<int>(i) + 2, key[i].first, key[i].second,
                        left + columns * width / 2 - 230 + 130 * static_cast<double>(i), 50);

  for (std::size_t row = 0; row < results.size(); ++row) {
    const Result& result = results[row];
    write(result, "before", result.before);
    write(result, "measured", result.measured);
    write(result, "after", result.after);
    std::size_t column = 0;
    const auto panel = [&](const std::string& title, const std::string& plots) {
      script << "\n"
             << sheet.place({left + static_cast<double>(column) * (width + gap),
                             top + static_cast<double>(row) * (height + between), width, height})
             << "set title " << literal(title) << " offset 0,-0.5\n"
             << (column == 0 ? "set ylabel " + literal(data.names[1]) + "; set format y '%g'\n"
                             : "unset ylabel; set format y ''\n")
             << (row + 1 == results.size() ? "set xlabel " + literal(data.names[0]) + "; set format x '%g'\n"
                                           : "unset xlabel; set format x ''\n")
             << "plot " << plots << "\n";
      if (row == 0 && column == 0) script << "unset label\n";
      ++column;
    };
    const std::size_t k = result.left_out;
    panel("time " + time_text(data.times[k]) + ", between " + time_text(data.times[k - 1]) + " and " +
              time_text(data.times[k + 1]),
          plotted(result, "before", orange) + ", \\\n  " + plotted(result, "after", green) + ", \\\n  " +
              plotted(result, "measured", grey));
    for (const Prediction& p : result.predictions)
      if (drawn(p)) {
        write(result, p.name, p.cells);
        panel(p.title + ": W2 " + fixed(p.w2, 3),
              plotted(result, "measured", grey) + ", \\\n  " + plotted(result, p.name, blue));
      }
  }
  script << "unset multiplot\nset output\n";
  support::write_file(folder / (name + ".gp"), script.str());
}

// ---------------------------------------------------------------------------------------------------------------------
// The program.

// Predicts the times that are left out and draws the picture; returns the lines for --json.
std::string study(const Options& options) {
  const Data data = read_data(options.data);
  const std::vector<std::size_t> numbers = left_out(data, options);
  const std::filesystem::path folder = options.out;
  support::create_folder(folder);
  support::write_file(folder / "cells.gp", "");  // fails before the training if the folder cannot be written
  for (std::size_t k = 0; k < data.size(); ++k)
    std::cout << "time " << time_text(data.times[k]) << ": " << support::grouped(data.cells[k].rows()) << " cells, "
              << data.cells[k].cols() << " features\n";
  std::vector<Result> results;
  std::string lines;
  for (const std::size_t k : numbers) {
    results.push_back(leave_out(data, k, options));
    lines += json_of(data, results.back(), options) + "\n";
  }
  write_cells_picture(folder, data, results);
  std::cout << support::draw_picture(folder, "cells") << std::endl;
  return lines;
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("--data", options.data,
                 "file of cells: .npy, else text with or without a header (CSV); the first column is the time, the "
                 "others are features")
      ->required();
  app.add_option("--left-out", options.left_out, "time to leave out, each between the first and the last by default");
  app.add_option("--steps", options.steps, "training steps of each flow, 4000 by default")->check(at_least(0));
  app.add_option("--batch", options.batch, "cells a step, 512 by default")->check(at_least(1));
  app.add_option("--sigma", options.sigma,
                 "noise around the straight lines in standard deviations of the features, 0.1 by default")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--seed", options.seed, "of weights, order and choice of cells: 0 by default")->check(at_least(0));
  app.add_option("--threads", options.threads, "threads, all by default")->check(at_least(0));
  app.add_option("--out", options.out, "folder for pictures, their scripts and data: " + options.out + " by default");
  app.add_flag("--json", options.json, "end with the results as JSON, a line for each time left out");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Learns by flow matching how a distribution of cells moves from snapshots at several times, and predicts times "
      "that are left out, compared with interpolation along optimal pairs of the snapshots on either side.");
  Options options;
  add_options(app, options);
  return support::run_program("cells", app, argc, argv, [&] {
    const std::string result = study(options);
    if (options.json) std::cout << result;
  });
}
