// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <string>

#include "gnuplot.hpp"

/// Layout of pictures with several panels, in pixels from the upper left corner.
namespace support {

/// Rectangle within the axes of a plot.
struct Panel {
  double left = 0, top = 0, width = 100, height = 100;
};

/// Drawing area; its functions return gnuplot commands that place plots on it.
class Sheet {
 public:
  Sheet(double width, double height) : width_(width), height_(height) {}

  /// Returns "width, height" for `set terminal`.
  std::string size() const { return gnuplot::number(width_) + ", " + gnuplot::number(height_); }

  /// Returns the commands that place the next plot in a panel.
  std::string place(const Panel& p) const {
    return "set lmargin at screen " + x(p.left) + "; set rmargin at screen " + x(p.left + p.width) +
           "; set tmargin at screen " + y(p.top) + "; set bmargin at screen " + y(p.top + p.height) + "\n";
  }
  /// Returns the command that places the colour bar of the next plot to the right of its panel.
  std::string colour_bar(const Panel& p, double distance = 12) const {
    return "set colorbox user origin " + x(p.left + p.width + distance) + ", " + y(p.top + p.height) + " size " +
           x(14) + ", " + gnuplot::number(p.height / height_) + "\n";
  }
  /// Returns the command that makes `expression`, in gnuplot's language, the title of the picture, as label `number`.
  std::string title(int number, const std::string& expression) const {
    return "set label " + std::to_string(number) + " " + expression + " at screen 0.5, screen " + y(20) +
           " center font 'Sans,14'\n";
  }
  /// Returns the command that draws a point at (left, top) and a text to its right, a line of a key, as label `number`.
  /// `colour` is in gnuplot's notation, '#rrggbb'.
  std::string key(int number, const std::string& text, const std::string& colour, double left, double top) const {
    return "set label " + std::to_string(number) + " " + gnuplot::literal(text) + " at screen " + x(left) +
           ", screen " + y(top) + " left point pt 7 ps 0.9 lc rgb '" + colour + "' offset 1,0\n";
  }

 private:
  std::string x(double pixels) const { return gnuplot::number(pixels / width_); }
  std::string y(double pixels) const { return gnuplot::number(1 - pixels / height_); }

  double width_, height_;
};

/// Returns the beginning of a script that draws to the file named by its variable `picture`. `terminal` is the terminal
/// with its options that precede the size.
inline std::string script_begin(const std::string& script, const std::string& picture, const std::string& terminal,
                                const Sheet& sheet) {
  return "# Draws " + picture + ". Change what you like and run again, in this folder: gnuplot " + script +
         "\nif (!exists('picture')) picture = '" + picture + "'\nset terminal " + terminal + " size " + sheet.size() +
         "\nset output picture\nset datafile separator comma\nset key noautotitle\nset tics out nomirror scale 0.6\n";
}

}  // namespace support
