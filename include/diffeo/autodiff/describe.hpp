// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <diffeo/autodiff/settings.hpp>
#include <iomanip>
#include <limits>
#include <map>
#include <optional>
#include <ostream>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

/// One parameter or buffer of a model, as a description lists it.
struct LeafSummary {
  std::string path;
  LeafKind kind;
  Index rows, cols;
  double norm;  ///< Frobenius norm; NaN or infinity where an entry is not finite
};

/// What a model consists of, as a table: its settings, and its parameters and buffers with shapes and norms. operator<<
/// writes a line for each; lines that differ in one index of the path alone are one line, with the list of indices
/// and the range of the norms.
struct Description {
  std::vector<Setting> settings;
  std::vector<LeafSummary> arrays;

  /// Number of trainable values.
  Index parameters() const {
    Index count = 0;
    for (const LeafSummary& a : arrays)
      if (a.kind == LeafKind::parameter) count += a.rows * a.cols;
    return count;
  }
};

/// Returns the description of a model over float or double.
template <class M>
Description describe(const M& model) {
  Description description{settings_of(model), {}};
  for_each_leaf(model, [&](const Path& path, LeafKind kind, const auto& leaf) {
    if (leaf.size() == 0) return;  // what a structure could have, such as weights of a context
    const double norm = leaf.template cast<double>().matrix().stableNorm();
    description.arrays.push_back({path.str(), kind, leaf.rows(), leaf.cols(), norm});
  });
  return description;
}

namespace detail {

// A line of the table. `path` is cut at the dots.
struct DescriptionLine {
  std::vector<std::string> path;
  std::string kind, value;
  double norm;  // -1: none

  bool is_index(std::size_t place) const {
    return !path[place].empty() && path[place].find_first_not_of("0123456789") == std::string::npos;
  }

  // What equal lines have in common, whatever the index at that place of the path.
  std::string key(std::size_t place) const {
    std::string text = kind + ' ' + value;
    for (std::size_t i = 0; i < path.size(); ++i) text += '.' + (i == place ? "*" : path[i]);
    return text;
  }

  // The path with `text` at that place.
  std::string path_with(std::size_t place, const std::string& text) const {
    std::string joined;
    for (std::size_t i = 0; i < path.size(); ++i) joined += (i > 0 ? "." : "") + (i == place ? text : path[i]);
    return joined;
  }
};

inline std::vector<std::string> split_path(const std::string& path) {
  std::vector<std::string> parts(1);
  for (const char c : path)
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

// Writes increasing indices in braces: {0..63}, {0, 2..62} for every second one, {0, 3, 4}.
inline std::string index_list(const std::vector<long>& indices) {
  const long step = indices[1] - indices[0];
  bool even = indices.size() > 2;
  for (std::size_t i = 1; i < indices.size(); ++i) even = even && indices[i] - indices[i - 1] == step;
  std::string text = "{" + std::to_string(indices[0]);
  if (even) {
    if (step > 1) text += ", " + std::to_string(indices[1]);
    return text + ".." + std::to_string(indices.back()) + "}";
  }
  for (std::size_t i = 1; i < indices.size(); ++i) text += ", " + std::to_string(indices[i]);
  return text + "}";
}

// Writes the norms of some arrays, whose paths differ in the index at place `varied`: their range, and those that are
// not finite one by one.
inline std::string norms(const std::vector<const DescriptionLine*>& lines, std::size_t varied) {
  const auto number = [](double value) {
    std::ostringstream text;
    text << std::setprecision(4) << value;
    return text.str();
  };
  if (lines.size() == 1) return number(lines[0]->norm);
  double least = std::numeric_limits<double>::infinity(), most = 0;
  std::string others;
  for (const DescriptionLine* line : lines) {
    if (std::isfinite(line->norm)) {
      least = std::min(least, line->norm);
      most = std::max(most, line->norm);
    } else {
      others += ", " + number(line->norm) + " at " + line->path[varied];
    }
  }
  if (least > most) return others.substr(2);
  return (number(least) == number(most) ? number(least) : number(least) + " to " + number(most)) + others;
}

// The lines of the table as {path, kind, value}, with those that differ in one index put together.
inline std::vector<std::array<std::string, 3>> table_rows(const std::vector<DescriptionLine>& lines) {
  std::map<std::string, std::vector<const DescriptionLine*>> alike;
  for (const DescriptionLine& line : lines)
    for (std::size_t place = 0; place < line.path.size(); ++place)
      if (line.is_index(place)) alike[line.key(place)].push_back(&line);
  std::vector<std::array<std::string, 3>> rows;
  std::map<const DescriptionLine*, bool> written;
  for (const DescriptionLine& line : lines) {
    if (written[&line]) continue;
    // The index that most of the unwritten lines share a row by.
    std::vector<const DescriptionLine*> group{&line};
    std::size_t varied = line.path.size();
    for (std::size_t place = 0; place < line.path.size(); ++place) {
      if (!line.is_index(place)) continue;
      auto others = alike[line.key(place)];
      std::erase_if(others, [&](const DescriptionLine* other) { return written[other]; });
      if (others.size() > group.size()) group = others, varied = place;
    }
    std::vector<long> indices;
    for (const DescriptionLine* member : group) {
      written[member] = true;
      if (varied < line.path.size()) indices.push_back(std::stol(member->path[varied]));
    }
    std::string value = line.value;
    if (line.norm != -1)
      value += std::string(value.size() < 9 ? 9 - value.size() : 0, ' ') + "  norm " + norms(group, varied);
    rows.push_back({indices.empty() ? line.path_with(0, line.path[0]) : line.path_with(varied, index_list(indices)),
                    line.kind, value});
  }
  return rows;
}

}  // namespace detail

inline std::ostream& operator<<(std::ostream& out, const Description& description) {
  std::vector<detail::DescriptionLine> lines;
  for (const Setting& s : description.settings)
    lines.push_back({detail::split_path(s.path), "setting", to_string(s.value), -1});
  for (const LeafSummary& a : description.arrays)
    lines.push_back({detail::split_path(a.path), to_string(a.kind),
                     std::to_string(a.rows) + " x " + std::to_string(a.cols), a.norm});
  const auto rows = detail::table_rows(lines);
  std::size_t width = 4;
  for (const auto& row : rows) width = std::max(width, row[0].size());
  for (const auto& [path, kind, value] : rows)
    out << path << std::string(width - path.size(), ' ') << "  " << kind << std::string(9 - kind.size(), ' ') << "  "
        << value << '\n';
  return out << description.parameters() << " parameters\n";
}

/// Path, kind and shape of a parameter or buffer.
struct LeafShape {
  std::string path;
  LeafKind kind;
  Index rows, cols;
};

/// Returns the shapes of the parameters and buffers of a model, in the order of its fields.
template <class M>
std::vector<LeafShape> leaf_shapes(const M& model) {
  std::vector<LeafShape> shapes;
  for_each_leaf(model, [&shapes](const Path& path, LeafKind kind, const auto& leaf) {
    shapes.push_back({path.str(), kind, leaf.rows(), leaf.cols()});
  });
  return shapes;
}

namespace detail {

inline std::string setting_text(const std::string& path, const std::string& value) { return path + " = " + value; }
inline std::string shape_text(const LeafShape& leaf) {
  return concat_message(leaf.path, " (", to_string(leaf.kind), ", ", leaf.rows, " x ", leaf.cols, ")");
}

}  // namespace detail

/// Finds how a first list of named things differs from a second one, a line of text for each difference. The second
/// list is known before the first, which is compared entry by entry and not kept.
class StructureComparison {
 public:
  /// `first` and `second` are what messages call the two lists.
  explicit StructureComparison(std::string first = "the first", std::string second = "the second")
      : first_(std::move(first)), second_(std::move(second)) {}

  /// Adds an entry of the second list: its path, and its text, which begins with the path.
  void expect(const std::string& path, std::string text) {
    by_path_.emplace(path, expected_.size());
    expected_.push_back(std::move(text));
  }
  /// Compares an entry of the first list. Returns how it differs; nothing where the second list has an equal one.
  std::optional<std::string> compare(const std::string& path, const std::string& text) {
    const auto [begin, end] = by_path_.equal_range(path);
    if (begin == end) return "only in " + first_ + ": " + text;
    auto match = begin;
    while (match != end && expected_[match->second] != text) ++match;
    const bool equal = match != end;
    if (!equal) match = begin;
    const std::string other = std::exchange(expected_[match->second], {});
    by_path_.erase(match);
    if (equal) return std::nullopt;
    return text + ", not " + other;
  }
  /// Returns a line for each entry of the second list that was compared with none of the first, in their order.
  std::vector<std::string> missing() const {
    std::vector<std::string> lines;
    for (const std::string& text : expected_)
      if (!text.empty()) lines.push_back("only in " + second_ + ": " + text);
    return lines;
  }

 private:
  std::string first_, second_;
  std::vector<std::string> expected_;                // empty: compared
  std::multimap<std::string, std::size_t> by_path_;  // of those that were not compared
};

/// Returns how two models differ in all but the values of their arrays, one line for each difference: settings, and
/// parameters and buffers of other paths, kinds or shapes. Empty where the values of one may be given to the other.
template <class A, class B>
std::vector<std::string> structure_differences(const A& a, const B& b) {
  std::vector<std::string> differences;
  const auto compare = [&](const auto& left, const auto& right, const auto& text) {
    StructureComparison comparison;
    for (const auto& entry : right) comparison.expect(entry.path, text(entry));
    for (const auto& entry : left)
      if (auto difference = comparison.compare(entry.path, text(entry))) differences.push_back(*std::move(difference));
    for (std::string& line : comparison.missing()) differences.push_back(std::move(line));
  };
  compare(settings_of(a), settings_of(b),
          [](const Setting& s) { return detail::setting_text(s.path, to_string(s.value)); });
  compare(leaf_shapes(a), leaf_shapes(b), detail::shape_text);
  return differences;
}

}  // namespace diffeo::inline DIFFEO_ISA
