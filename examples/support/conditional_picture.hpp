// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/core/array.hpp>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "density_picture.hpp"
#include "files.hpp"
#include "gnuplot.hpp"
#include "sheet.hpp"

/// Picture of p(x | c) in the plane for several contexts: a column of panels for each, with the learned density below
/// the exact one or the data.
namespace support {

/// Contents of a picture of K contexts.
struct ConditionalPicture {
  std::string title;
  std::vector<std::string> axes;      ///< names of the two coordinates
  std::vector<std::string> contexts;  ///< titles of the K columns
  bool log_colour = false;            ///< whether colours show log p instead of p
  Frame frame;                        ///< ranges and cells of every panel
  diffeo::Array<float> log_density;   ///< learned log-density at frame.cells(): cells x K
  /// Exact log-density in the same shape; if there is none, the data are shown.
  diffeo::Array<float> log_target = {};
  std::vector<diffeo::Array<float>> data = {};  ///< points of each column of panels
};

/// Returns the layout of a panel of a conditional picture for these ranges.
inline Frame conditional_frame(Range x, Range y, bool same_units) {
  PictureStyle style;
  style.same_units = same_units;
  style.panel = 200;
  return {x, y, style};
}

/// Writes the gnuplot script `name`.gp and the tables that it plots to `folder`. Throws io_error.
inline void write_conditional_picture(const std::filesystem::path& folder, const std::string& name,
                                      const ConditionalPicture& picture) {
  using diffeo::Index;
  using gnuplot::literal;
  using gnuplot::number;
  const auto count = static_cast<Index>(picture.contexts.size());
  const bool exact = picture.log_target.size() > 0;
  const diffeo::Array<float> cells = picture.frame.cells();

  std::vector<std::string> columns = picture.axes;
  diffeo::Array<float> table(cells.rows(), 2 + (exact ? 2 : 1) * count);
  table.leftCols(2) = cells;
  table.middleCols(2, count) = picture.log_density;
  for (const std::string& context : picture.contexts) columns.push_back("learned log p, " + context);
  if (exact) {
    table.rightCols(count) = picture.log_target;
    for (const std::string& context : picture.contexts) columns.push_back("exact log p, " + context);
  }
  write_file(folder / (name + "_density.csv"), csv_text(columns, table));
  Index most_points = 0;  // of a panel, so that all panels have points of one size
  for (const diffeo::Array<float>& points : picture.data) most_points = std::max(most_points, points.rows());
  const auto data_file = [&](Index k) { return name + "_data_" + std::to_string(k + 1) + ".csv"; };
  if (!exact)
    for (Index k = 0; k < count; ++k)
      write_file(folder / data_file(k), csv_text(picture.axes, picture.data[static_cast<std::size_t>(k)]));

  const Range x = picture.frame.x(), y = picture.frame.y();
  const double width = picture.frame.width(), height = picture.frame.height();
  const double left = 95, top = 75, gap = 14;
  const Sheet sheet(left + double(count) * (width + gap) + 90, top + 2 * (height + gap) + 50);

  // One colour scale for all panels; the highest cells share the last colour, because a ridge may be thin.
  const diffeo::Array<float>& scaled = exact ? picture.log_target : picture.log_density;
  const double highest = detail::quantile(scaled.reshaped().cast<double>(), 0.998);
  std::string limits;
  if (picture.log_colour)
    limits = detail::range({highest - 9, highest});
  else if (std::isfinite(highest) && std::exp(highest) > 0)
    limits = "[0:" + number(std::exp(highest)) + "]";

  std::ostringstream script;
  script << script_begin(name + ".gp", name + ".png", "pngcairo font 'Sans,11' noenhanced", sheet) << gnuplot::viridis
         << "\nset multiplot\n"
         << sheet.title(1, literal(picture.title)) << "set xrange " << detail::range(x) << "; set yrange "
         << detail::range(y) << "\n";
  if (!limits.empty()) script << "set cbrange " << limits << "\n";
  for (Index row = 0; row < 2; ++row)
    for (Index k = 0; k < count; ++k) {
      const Panel panel{left + double(k) * (width + gap), top + double(row) * (height + gap), width, height};
      const bool last = row == 1 && k + 1 == count;
      script << "\n" << sheet.place(panel);
      script << (last ? "set colorbox\n" + sheet.colour_bar(panel) : std::string("unset colorbox\n"));
      script << (row == 0 ? "set title " + literal(picture.contexts[static_cast<std::size_t>(k)]) + " offset 0,-0.5"
                          : std::string("unset title"))
             << "; "
             << (row == 1 ? "set xlabel " + literal(picture.axes[0]) + "; set format x '%g'"
                          : std::string("unset xlabel; set format x ''"))
             << "\n";
      const std::string label = row == 1 ? "learned" : exact ? "exact" : "data";
      script << (k == 0 ? "set ylabel " + literal(label + ": " + picture.axes[1]) + "; set format y '%g'"
                        : std::string("unset ylabel; set format y ''"))
             << "\n";
      if (row == 0 && !exact) {
        script << "plot '" << data_file(k) << "' skip 1 using 1:2 " << detail::points(most_points, "1f3b73") << "\n";
      } else {
        const Index column = 3 + k + (row == 0 ? count : 0);
        const std::string value = "$" + std::to_string(column);
        script << "plot '" << name << "_density.csv' skip 1 using 1:2:("
               << (picture.log_colour ? value : "exp(" + value + ")") << ") with image\n";
      }
      if (row == 0 && k == 0) script << "unset label 1\n";
    }
  script << "unset multiplot\nset output\n";
  write_file(folder / (name + ".gp"), script.str());
}

}  // namespace support
