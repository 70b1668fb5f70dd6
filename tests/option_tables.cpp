// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"

// The tables of options in the headers' comments, compared with the structs that follow them: the names in their order,
// and default values where the struct gives a literal.

namespace {

using Lines = std::vector<std::string>;

Lines split(const std::string& text, const std::string& separator) {
  Lines parts;
  std::size_t from = 0;
  for (std::size_t at; (at = text.find(separator, from)) != std::string::npos; from = at + separator.size())
    parts.push_back(text.substr(from, at - from));
  parts.push_back(text.substr(from));
  return parts;
}

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(' '), last = text.find_last_not_of(' ');
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

// The cells of a line of a table. Bars inside a cell have a letter beside them.
Lines cells(const std::string& line) {
  Lines parts = split(line.substr(line.find('|') + 1) + " ", " | ");
  for (std::string& part : parts) part = trimmed(part);
  return parts;
}

struct Option {
  std::string name, value;
};

// The rows of a table from its first line on, which is moved behind the table.
std::vector<Option> table_rows(const Lines& lines, std::size_t& at) {
  const Lines head = cells(lines[at++]);
  std::size_t column = 0;
  while (column < head.size() && !head[column].starts_with("default")) ++column;
  std::vector<Option> rows;
  for (++at; at < lines.size() && lines[at].starts_with("/// |"); ++at) {
    const Lines row = cells(lines[at]);
    if (row[0].empty()) continue;  // the line before goes on
    const Lines names = split(row[0], ", ");
    const Lines values = names.size() == 1 ? Lines{row.at(column)} : split(row.at(column), ", ");
    for (std::size_t i = 0; i < names.size(); ++i) rows.push_back({names[i], values.at(i)});
  }
  return rows;
}

// The data members of a struct from the line after its name on.
std::vector<Option> members(const Lines& lines, std::size_t at) {
  static const std::regex member(R"(^  (?!static |using |enum )[A-Za-z_][\w:<>, ]* (\w+)( = (.*))?;.*$)");
  std::vector<Option> found;
  std::smatch parts;
  for (; at < lines.size() && !lines[at].starts_with("};"); ++at)
    if (std::regex_match(lines[at], parts, member)) found.push_back({parts[1], parts[3]});
  return found;
}

// What a table must begin with to state this default; nothing for those that are no literals.
std::optional<std::string> literal(const std::string& value) {
  std::smatch parts;
  static const std::regex number(R"(-?[0-9][-+0-9.e]*)"), word("true|false"), enumerator(R"((?!std::)\w+::(\w+))"),
      list(R"(\{[0-9, ]+\})"), object(R"((\w+)\{\})"), infinity(R"(std::numeric_limits<\w+>::infinity\(\))");
  if (std::regex_match(value, number) || std::regex_match(value, word) || std::regex_match(value, list)) return value;
  if (std::regex_match(value, parts, enumerator) || std::regex_match(value, parts, object)) return parts[1];
  if (std::regex_match(value, infinity)) return "infinity";
  return std::nullopt;
}

bool begins_with(const std::string& text, const std::string& value) {
  if (!text.starts_with(value)) return false;
  static const std::regex goes_on(R"(^(\w|\.[0-9]|[-+][0-9]))");
  return !std::regex_search(text.substr(value.size()), goes_on);
}

// What is wrong with the tables of a header; `tables` counts them.
Lines faults(const Lines& lines, int& tables) {
  static const std::regex heading(R"(^/// \| option +\|.*\| default.*)"), name(R"(^struct (\w+) \{.*)");
  Lines found;
  for (std::size_t at = 0; at < lines.size();) {
    if (!std::regex_match(lines[at], heading)) {
      ++at;
      continue;
    }
    ++tables;
    const std::vector<Option> rows = table_rows(lines, at);
    std::smatch parts;
    while (at < lines.size() && !std::regex_match(lines[at], parts, name) && !lines[at].empty()) ++at;
    if (parts.empty()) {
      found.push_back("no struct follows the table of " + rows.at(0).name);
      continue;
    }
    const std::string of = std::string(parts[1]) + "::";
    const std::vector<Option> fields = members(lines, at + 1);
    for (std::size_t i = 0; i < std::max(rows.size(), fields.size()); ++i) {
      if (i >= rows.size() || i >= fields.size() || rows[i].name != fields[i].name) {
        found.push_back(of + (i < fields.size() ? fields[i].name : "") + ": the table has " +
                        (i < rows.size() ? rows[i].name : "nothing"));
        break;
      }
      const std::optional<std::string> expected = literal(fields[i].value);
      if (expected && !begins_with(rows[i].value, *expected))
        found.push_back(of + fields[i].name + " is " + *expected + ", the table says: " + rows[i].value);
    }
  }
  return found;
}

}  // namespace

TEST_CASE("tables of options state the defaults of their structs", "[options]") {
  int tables = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(DIFFEO_TESTS_DIR "/../include/diffeo")) {
    if (entry.path().extension() != ".hpp") continue;
    std::ifstream file(entry.path());
    Lines lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    INFO(entry.path());
    CHECK(faults(lines, tables) == Lines());
  }
  CHECK(tables >= 20);
}

TEST_CASE("a table of options that is wrong is found", "[options]") {
  const auto faults_of = [](const std::string& rows, const std::string& fields) {
    int tables = 0;
    const Lines found = faults(split("/// | option | type | default |\n/// |--|--|--|\n" + rows +
                                         "template <class S>\nstruct Options {\n" + fields + "};\n",
                                     "\n"),
                               tables);
    CHECK(tables == 1);
    return found;
  };
  const std::string rows =
      "/// | rate, size | double | 0.9, 2e-3: of |x| |\n"
      "/// | kind | Kind | tanh; or not |\n"
      "/// |      |      | at all |\n"
      "/// | widths | widths | {8, 8} |\n";
  const std::string fields =
      "  double rate = 0.9;\n  double size = 2e-3;\n  Kind kind = Kind::tanh;\n"
      "  std::vector<Index> widths = {8, 8};\n\n  void check() const {\n    x = 4;\n  }\n";
  CHECK(faults_of(rows, fields) == Lines());
  const auto replaced = [](std::string text, const std::string& from, const std::string& to) {
    return text.replace(text.find(from), from.size(), to);
  };
  CHECK(faults_of(rows, replaced(fields, "2e-3", "2e-4")) ==
        Lines{"Options::size is 2e-4, the table says: 2e-3: of |x|"});
  CHECK(faults_of(rows, replaced(fields, "0.9", "0")) == Lines{"Options::rate is 0, the table says: 0.9"});
  CHECK(faults_of(replaced(rows, "tanh", "tan"), fields) ==
        Lines{"Options::kind is tanh, the table says: tan; or not"});
  CHECK(faults_of(replaced(rows, "{8, 8}", "{8, 9}"), fields) ==
        Lines{"Options::widths is {8, 8}, the table says: {8, 9}"});
  CHECK(faults_of(rows, fields + "  int last = 1;\n") == Lines{"Options::last: the table has nothing"});
  CHECK(faults_of(replaced(rows, "kind", "sort"), fields) == Lines{"Options::kind: the table has sort"});
}
