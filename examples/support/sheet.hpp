// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <string>

#include "gnuplot.hpp"

/// Pictures of several panels, laid out in pixels from the upper left corner.
namespace support {

/// Of a plot: the rectangle within its axes.
struct Panel {
  double left = 0, top = 0, width = 100, height = 100;
};

class Sheet {
 public:
  Sheet(double width, double height) : width_(width), height_(height) {}

  /// "W, H" for `set terminal`.
  std::string size() const { return gnuplot::number(width_) + ", " + gnuplot::number(height_); }

  /// Places the next plot.
  std::string place(const Panel& p) const {
    return "set lmargin at screen " + x(p.left) + "; set rmargin at screen " + x(p.left + p.width) +
           "; set tmargin at screen " + y(p.top) + "; set bmargin at screen " + y(p.top + p.height) + "\n";
  }
  /// The colour bar of the next plot, right of its panel.
  std::string colour_bar(const Panel& p, double distance = 12) const {
    return "set colorbox user origin " + x(p.left + p.width + distance) + ", " + y(p.top + p.height) + " size " +
           x(14) + ", " + gnuplot::number(p.height / height_) + "\n";
  }
  /// Label `number`, an expression of gnuplot's language, above everything.
  std::string title(int number, const std::string& expression) const {
    return "set label " + std::to_string(number) + " " + expression + " at screen 0.5, screen " + y(20) +
           " center font 'Sans,14'\n";
  }

 private:
  std::string x(double pixels) const { return gnuplot::number(pixels / width_); }
  std::string y(double pixels) const { return gnuplot::number(1 - pixels / height_); }

  double width_, height_;
};

/// How a script begins that draws to the file in its variable `picture`. `terminal` is what comes before the size.
inline std::string script_begin(const std::string& script, const std::string& picture, const std::string& terminal,
                                const Sheet& sheet) {
  return "# Draws " + picture + ". Change what you like and run again, in this folder: gnuplot " + script +
         "\nif (!exists('picture')) picture = '" + picture + "'\nset terminal " + terminal + " size " + sheet.size() +
         "\nset output picture\nset datafile separator comma\nset key noautotitle\nset tics out nomirror scale 0.6\n";
}

}  // namespace support
