// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/training/fit.hpp>
#include <filesystem>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "files.hpp"
#include "gnuplot.hpp"

/// Picture of a density in two dimensions fitted by a flow: data or target density, learned density and samples side by
/// side, with the training curve below.
namespace support {

/// Interval of an axis.
struct Range {
  double low = 0, high = 1;

  double length() const { return high - low; }

  /// Returns the interval that holds all values, with a margin on either side as a fraction of its length.
  static Range around(const Eigen::Ref<const Eigen::ArrayXf>& values, double margin = 0.06) {
    Range range{values.minCoeff(), values.maxCoeff()};
    const double extra = margin * range.length();
    return {range.low - extra, range.high + extra};
  }
  /// Returns an interval with the same middle and a length of at least `least`.
  Range widened(double least) const {
    const double extra = std::max(0.0, (least - length()) / 2);
    return {low - extra, high + extra};
  }
  /// Returns the part of the interval that lies within `limits`.
  Range within(Range limits) const { return {std::max(low, limits.low), std::min(high, limits.high)}; }
};

/// Options of a picture.
struct PictureStyle {
  bool same_units = false;           ///< whether both axes have the same scale
  bool log_colour = false;           ///< whether colours show log p instead of p, for faint structure
  double panel = 400;                ///< width of a square panel in pixels
  double cell = 2;                   ///< width of a cell of the heat map in pixels
  std::optional<double> goal;        ///< best possible loss, drawn into the training curve
  bool elbo = false;                 ///< whether the curve shows minus the loss, a lower bound of log Z
  std::string loss = "loss (nats)";  ///< label of the curve unless it shows the ELBO
};

/// Layout of a picture in pixels, and resolution of its heat map.
class Frame {
 public:
  /// Creates panels for these ranges: square, or, if both axes have the same scale, with the aspect ratio of the
  /// ranges.
  Frame(Range x, Range y, const PictureStyle& style) : x_(x), y_(y) {
    if (style.same_units) {
      x_ = x.widened(y.length());
      y_ = y.widened(x_.length() * 0.5);
    }
    // The area of a panel does not depend on its aspect ratio.
    const double shape = style.same_units ? std::sqrt(x_.length() / y_.length()) : 1;
    width_ = std::round(style.panel * shape);
    height_ = std::round(style.panel / shape);
    nx_ = static_cast<diffeo::Index>(width_ / style.cell);
    ny_ = static_cast<diffeo::Index>(height_ / style.cell);
  }

  Range x() const { return x_; }
  Range y() const { return y_; }
  /// Width and height of a panel in pixels.
  double width() const { return width_; }
  double height() const { return height_; }

  /// Returns the centres of the cells of the heat map, row by row from below: one point per row of the array.
  diffeo::Array<float> cells() const {
    diffeo::Array<float> points(nx_ * ny_, 2);
    for (diffeo::Index j = 0; j < ny_; ++j)
      for (diffeo::Index i = 0; i < nx_; ++i) {
        points(j * nx_ + i, 0) = static_cast<float>(x_.low + x_.length() * (double(i) + 0.5) / double(nx_));
        points(j * nx_ + i, 1) = static_cast<float>(y_.low + y_.length() * (double(j) + 0.5) / double(ny_));
      }
    return points;
  }

  double total_width() const { return left_ + 3 * width_ + 2 * gap_ + colour_bar_ + right_; }
  double total_height() const { return top_ + height_ + between_ + curve_height_ + bottom_; }

  /// Returns the gnuplot commands that place the next plot in panel 0, 1 or 2.
  std::string panel(int i) const {
    const double x0 = left_ + i * (width_ + gap_) + (i == 2 ? colour_bar_ : 0);
    return place(x0, x0 + width_, top_, top_ + height_);
  }
  /// Returns the gnuplot commands that place the next plot where the training curve belongs.
  std::string curve() const {
    const double y0 = top_ + height_ + between_;
    return place(left_, total_width() - right_, y0, y0 + curve_height_);
  }
  /// Returns the gnuplot command that places the colour bar.
  std::string colour_box() const {
    const double x0 = left_ + 2 * width_ + gap_ + 12;
    return "set colorbox user origin " + part(x0, total_width()) + ", " +
           part(bottom_ + curve_height_ + between_, total_height()) + " size " + part(16, total_width()) + ", " +
           part(height_, total_height()) + "\n";
  }

 private:
  static std::string part(double pixels, double total) { return gnuplot::number(pixels / total); }

  std::string place(double x0, double x1, double y0, double y1) const {
    const double w = total_width(), h = total_height();
    return "set lmargin at screen " + part(x0, w) + "; set rmargin at screen " + part(x1, w) +
           "; set tmargin at screen " + part(h - y0, h) + "; set bmargin at screen " + part(h - y1, h) + "\n";
  }

  Range x_, y_;
  double width_ = 0, height_ = 0;
  diffeo::Index nx_ = 0, ny_ = 0;
  static constexpr double left_ = 75, right_ = 35, gap_ = 80, colour_bar_ = 85, top_ = 75, between_ = 85,
                          curve_height_ = 120, bottom_ = 55;
};

/// Contents of a picture. Arrays of points have one column for the horizontal and one for the vertical axis.
struct DensityPicture {
  std::string title;
  std::string data_title, samples_title;
  std::array<std::string, 2> axes;
  PictureStyle style;
  diffeo::Array<float> data, samples;
  Frame frame;
  diffeo::Array<float> log_density;  ///< learned log-density at frame.cells()
  /// Normalised target log-density at frame.cells(); if given, it is shown instead of the data.
  diffeo::Array<float> log_target = {};
};

namespace detail {

/// Returns one row per step: step, loss times `sign`, and its running mean over a fiftieth of the training.
inline diffeo::Array<double> training_curve(const diffeo::FitReport& report, double sign) {
  const auto n = static_cast<diffeo::Index>(report.loss.size()), half = n / 100;
  diffeo::Array<double> curve(n, 3);
  const Eigen::Map<const Eigen::ArrayXd> loss(report.loss.data(), n);
  for (diffeo::Index i = 0; i < n; ++i) {
    const diffeo::Index first = std::max<diffeo::Index>(i - half, 0), last = std::min(i + half, n - 1);
    curve.row(i) << double(i + 1), sign * loss(i), sign * loss.segment(first, last - first + 1).mean();
  }
  return curve;
}

/// Returns the value below which a fraction `share` of the values lies.
inline double quantile(Eigen::ArrayXd values, double share) {
  const auto k = static_cast<diffeo::Index>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.data(), values.data() + k, values.data() + values.size());
  return values(k);
}

/// Returns the smallest number >= `least` that is 1, 2 or 5 times a power of ten.
inline double round_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(std::max(least, 1e-6))));
  for (const double factor : {1, 2, 5})
    if (factor * power >= least) return factor * power;
  return 10 * power;
}

/// Returns a range in gnuplot's notation.
inline std::string range(Range r) { return "[" + gnuplot::number(r.low) + ":" + gnuplot::number(r.high) + "]"; }

/// Returns the style of `count` points: the more points, the smaller and more transparent. `rgb` is a colour, rrggbb.
inline std::string points(diffeo::Index count, const char* rgb) {
  const bool many = count > 3000, few = count < 500;
  return std::string("with points pt 7 ps ") +
         (few    ? "0.6"
          : many ? "0.2"
                 : "0.35") +
         " lc rgb '#" +
         (few    ? "60"
          : many ? "90"
                 : "80") +
         rgb + "'";
}

}  // namespace detail

/// Writes the gnuplot script `name`.gp and the tables that it plots to `folder`. Throws io_error.
inline void write_picture(const std::filesystem::path& folder, const std::string& name, const DensityPicture& picture,
                          const diffeo::FitReport& report) {
  const auto file = [&](const char* part) { return name + "_" + part + ".csv"; };
  const std::vector<std::string> axes(picture.axes.begin(), picture.axes.end());
  const bool given = picture.log_target.size() > 0;
  if (!given) write_file(folder / file("data"), csv_text(axes, picture.data));
  write_file(folder / file("samples"), csv_text(axes, picture.samples));

  const diffeo::Array<float> cells = picture.frame.cells();
  const auto write_cells = [&](const char* part, const diffeo::Array<float>& log_density) {
    diffeo::Array<float> table(cells.rows(), 3);
    table << cells, log_density;
    write_file(folder / file(part), csv_text({axes[0], axes[1], "log_density"}, table));
  };
  write_cells("density", picture.log_density);
  if (given) write_cells("target", picture.log_target);

  const bool elbo = picture.style.elbo;
  const diffeo::Array<double> curve = detail::training_curve(report, elbo ? -1 : 1);
  write_file(folder / file("training"), csv_text({"step", elbo ? "elbo" : "loss", "smoothed"}, curve));
  const auto validations = static_cast<diffeo::Index>(report.validation_loss.size());
  if (validations > 0) {
    diffeo::Array<double> table(validations, 2);
    for (diffeo::Index i = 0; i < validations; ++i)
      table.row(i) << double(report.validation_step[std::size_t(i)]), report.validation_loss[std::size_t(i)];
    write_file(folder / file("validation"), csv_text({"step", "loss"}, table));
  }

  using gnuplot::literal;
  using gnuplot::number;
  const Frame& frame = picture.frame;
  std::ostringstream script;
  script << "# Draws " << name << ".png. Change what you like and run again, in this folder: gnuplot " << name
         << ".gp\n"
            "if (!exists('picture')) picture = '"
         << name << ".png'\n"
         << "set terminal pngcairo size " << number(frame.total_width()) << ", " << number(frame.total_height())
         << " font 'Sans,11' noenhanced\n"
            "set output picture\n"
            "set datafile separator comma\n"
            "set key noautotitle\n"
            "set tics out nomirror scale 0.6\n"
         << gnuplot::viridis << "\n"
         << "set multiplot\n"
            "set label 1 "
         << literal(picture.title) << " at screen 0.5, screen " << number(1 - 20 / frame.total_height())
         << " center font 'Sans,14'\n"
         << "set xlabel " << literal(axes[0]) << "; set ylabel " << literal(axes[1]) << " offset 1\n"
         << "set xrange " << detail::range(frame.x()) << "; set yrange " << detail::range(frame.y()) << "\n\n";

  // Both densities share one colour scale, that of the target if there is one.
  const Eigen::ArrayXd scaled = (given ? picture.log_target : picture.log_density).cast<double>();
  std::string limits;
  if (picture.style.log_colour) {
    // Log-densities more than nine nats below the top are shown as background.
    const double top = detail::quantile(scaled, 0.999);
    limits = "set cbrange " + detail::range({top - 9, top}) + "\n";
  } else {
    // The highest cells share the last colour, because a thin ridge may be far higher than the rest.
    const double top = std::exp(detail::quantile(scaled, 0.998));
    if (std::isfinite(top) && top > 0) limits = "set cbrange [0:" + number(top) + "]\n";
  }
  const auto plot_cells = [&](const char* part) {
    return limits + "plot '" + file(part) + "' skip 1 using 1:2:" + (picture.style.log_colour ? "3" : "(exp($3))") +
           " with image\n";
  };
  script << frame.panel(0) << "set title " << literal(picture.data_title) << "\n";
  if (given)
    script << "unset colorbox\n" << plot_cells("target") << "set colorbox\n";
  else
    script << "plot '" << file("data") << "' skip 1 using 1:2 " << detail::points(picture.data.rows(), "1f3b73")
           << "\n";
  script << "unset label 1\n\n"
         << frame.panel(1) << frame.colour_box() << "set title '"
         << (picture.style.log_colour ? "learned log density (nats)" : "learned density") << "'\n"
         << plot_cells("density") << "\n";

  script << frame.panel(2) << "set title " << literal(picture.samples_title) << "\n"
         << "plot '" << file("samples") << "' skip 1 using 1:2 " << detail::points(picture.samples.rows(), "8b1a1a")
         << "\n\n";

  if (curve.rows() > 0) {
    // Losses of the first steps are large, more so while the target is annealed; quantiles leave them out of the range.
    const double sign = elbo ? -1 : 1;
    const Eigen::ArrayXd smoothed = sign * curve.col(2), loss = sign * curve.col(1);
    double low = smoothed.minCoeff(), high = detail::quantile(loss, elbo ? 0.8 : 0.97);
    for (const double v : report.validation_loss) low = std::min(low, v), high = std::max(high, v);
    if (picture.style.goal) low = std::min(low, *picture.style.goal);
    if (elbo) std::tie(low, high) = std::pair(-high, -low);
    const double extra = 0.08 * std::max(high - low, 1e-3), tic = detail::round_step((high - low) / 4);
    script << frame.curve() << "unset title; set xlabel 'training step' offset 0,0.3; set ylabel '"
           << (elbo ? "ELBO (nats)" : picture.style.loss) << "'\nset key " << (elbo ? "bottom" : "top")
           << " right horizontal; set grid ytics lc rgb '#dddddd'\n"
           << "set ytics " << number(tic) << "\n"
           << "set xrange [0:" << curve.rows() << "]; set yrange " << detail::range({low - extra, high + extra}) << "\n"
           << "plot '" << file("training") << "' skip 1 using 1:2 with lines lc rgb '#c8d2e6' title 'minibatch', \\\n"
           << "  '' skip 1 using 1:3 with lines lw 2 lc rgb '#1f3b73' title 'smoothed'";
    if (validations > 0)
      script << ", \\\n  '" << file("validation")
             << "' skip 1 using 1:2 with linespoints pt 7 ps 0.5 lc rgb '#d95f02' title 'validation'";
    if (picture.style.goal)
      script << ", \\\n  " << number(sign * *picture.style.goal) << " with lines dt 2 lc rgb '#444444' title '"
             << (elbo ? "log Z'" : "best possible'");
    script << "\n";
  }
  script << "unset multiplot\nset output\n";
  write_file(folder / (name + ".gp"), script.str());
}

/// Runs the script `name`.gp, which draws `name` + `ending`. Returns a message for the user: the picture's path, or why
/// there is no picture.
inline std::string draw_picture(const std::filesystem::path& folder, const std::string& name,
                                const char* ending = ".png") {
  try {
    gnuplot::draw(folder, name + ".gp", name + ending);
    return "picture: " + (folder / (name + ending)).string();
  } catch (const gnuplot::not_found& missing) {
    return std::string("no picture, ") + missing.what() +
           "; its script and data: " + (folder / (name + ".gp")).string();
  }
}

}  // namespace support
