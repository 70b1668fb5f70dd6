// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/settings.hpp>
#include <iomanip>
#include <map>
#include <ostream>

namespace diffeo::inline DIFFEO_ISA {

/// What a model consists of, as a table: its settings, and its parameters and buffers with shapes and norms. Written by
/// operator<<, one line each.
struct Description {
  struct Array {
    std::string path;
    LeafKind kind;
    Index rows, cols;
    double norm;  ///< Frobenius norm; NaN or infinity where an entry is not finite
  };

  std::vector<Setting> settings;
  std::vector<Array> arrays;

  /// Number of trainable values.
  Index parameters() const {
    Index count = 0;
    for (const Array& a : arrays)
      if (a.kind == LeafKind::parameter) count += a.rows * a.cols;
    return count;
  }
};

/// Returns the description of a model over float or double.
template <class M>
Description describe(const M& model) {
  Description description{settings_of(model), {}};
  for_each_leaf(model, [&](const Path& path, LeafKind kind, const auto& leaf) {
    const double norm = leaf.template cast<double>().matrix().stableNorm();
    description.arrays.push_back({path.str(), kind, leaf.rows(), leaf.cols(), norm});
  });
  return description;
}

inline std::ostream& operator<<(std::ostream& out, const Description& description) {
  std::size_t width = 4;
  for (const Setting& s : description.settings) width = std::max(width, s.path.size());
  for (const auto& a : description.arrays) width = std::max(width, a.path.size());
  std::ostringstream text;
  const auto column = [&text](const std::string& entry, std::size_t columns) {
    text << entry << std::string(columns > entry.size() ? columns - entry.size() : 0, ' ') << "  ";
  };
  for (const Setting& s : description.settings) {
    column(s.path, width);
    column("setting", 9);
    text << to_string(s.value) << '\n';
  }
  for (const auto& a : description.arrays) {
    column(a.path, width);
    column(to_string(a.kind), 9);
    column(std::to_string(a.rows) + " x " + std::to_string(a.cols), 9);
    text << "norm " << std::setprecision(4) << a.norm << '\n';
  }
  return out << text.str() << description.parameters() << " parameters\n";
}

/// Returns how two models differ in all but the values of their arrays, one line for each difference: settings, and
/// parameters and buffers of other paths, kinds or shapes. Empty where the values of one may be given to the other.
template <class A, class B>
std::vector<std::string> structure_differences(const A& a, const B& b) {
  std::vector<std::string> differences;
  const auto compare = [&](const auto& left, const auto& right, const auto& text) {
    std::map<std::string, std::string> of_right;
    for (const auto& entry : right) of_right[entry.path] = text(entry);
    for (const auto& entry : left) {
      const std::string of_left = text(entry);
      const auto match = of_right.extract(entry.path);
      if (match.empty())
        differences.push_back("only in the first: " + of_left);
      else if (match.mapped() != of_left)
        differences.push_back(of_left + ", not " + match.mapped());
    }
    for (const auto& entry : right)
      if (of_right.contains(entry.path)) differences.push_back("only in the second: " + text(entry));
  };
  compare(settings_of(a), settings_of(b), [](const Setting& s) { return s.path + " = " + to_string(s.value); });
  compare(leaves(a), leaves(b), [](const auto& leaf) {
    return concat_message(leaf.path, " (", to_string(leaf.kind), ", ", leaf.array->rows(), " x ", leaf.array->cols(),
                          ")");
  });
  return differences;
}

}  // namespace diffeo::inline DIFFEO_ISA
