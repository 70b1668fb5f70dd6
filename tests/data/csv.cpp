// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstdio>
#include <diffeo/data/csv.hpp>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "../catch.hpp"

using diffeo::CsvOptions;
using diffeo::parse_csv;

namespace {

template <class S = double>
std::string csv_error(const std::string& text, const CsvOptions& options = {}) {
  return thrown_message<diffeo::io_error>([&] { parse_csv<S>(text, options, "t.csv"); });
}

std::string temporary_file(const std::string& content) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("diffeo_csv_" + std::to_string(std::random_device{}()) + ".csv");  // tests may run side by side
  std::ofstream(path, std::ios::binary) << content;
  return path.string();
}

}  // namespace

TEMPLATE_TEST_CASE("read_csv reads a table with its header", "[csv]", float, double) {
  const std::string path = temporary_file("eruptions,waiting\n3.6,79\n1.8,54\n3.333,74\n");
  const auto data = diffeo::read_csv<TestType>(path);
  REQUIRE(data.values.rows() == 3);
  REQUIRE(data.values.cols() == 2);
  CHECK(data.columns == std::vector<std::string>{"eruptions", "waiting"});
  CHECK(data.values(2, 0) == TestType(3.333));
  CHECK(data.values(1, 1) == TestType(54));
  std::filesystem::remove(path);
}

TEMPLATE_TEST_CASE("parse_csv finds separator and header by itself", "[csv]", float, double) {
  diffeo::Array<TestType> expected(2, 3);
  expected << TestType(1.5), -2, 3, 4, 5, TestType(6e-3);
  for (const std::string text :
       {"1.5,-2,3\n4,5,6e-3\n", "1.5;-2;3\n4;5;6e-3\n", "1.5\t-2\t3\n4\t5\t6e-3\n", "1.5 -2   3\n  4 5 \t 6e-3  \n",
        "a,b,c\n1.5,-2,3\n4,5,6e-3", "\"a, x\";b;c\r\n1.5;-2;3\r\n4;5;6e-3\r\n",
        "\xEF\xBB\xBF"
        "1.5,-2,3\n4,5,6E-3\n",
        "# made by hand\n\n a b c # names\n1.5 -2 3\n\n# middle\n4 5 6e-3 # last\n \t\n",
        " +1.5 , -2 ,\t3\n\"4\", \"5\" ,6e-3\n"}) {
    CAPTURE(text);
    const auto data = parse_csv<TestType>(text);
    REQUIRE(data.values.rows() == 2);
    REQUIRE(data.values.cols() == 3);
    CHECK((data.values == expected).all());
    CHECK((data.columns.empty() || data.columns.size() == 3));
  }
}

TEST_CASE("parse_csv unquotes header fields", "[csv]") {
  const auto data = parse_csv<double>("\"a, b\",\"say \"\"x\"\" # 1\", c d \n1,2,3\n");
  CHECK(data.columns == std::vector<std::string>{"a, b", "say \"x\" # 1", "c d"});
  CHECK(parse_csv<double>("\"time\" \"wait\"\n1 2\n").columns == std::vector<std::string>{"time", "wait"});
}

TEST_CASE("parse_csv follows its options", "[csv]") {
  CsvOptions options;
  options.header = CsvOptions::Header::present;
  CHECK(parse_csv<double>("1,2\n3,4\n", options).columns == std::vector<std::string>{"1", "2"});
  options.header = CsvOptions::Header::absent;
  CHECK(contains(csv_error("a,b\n3,4\n", options), "line 1, column 1: 'a' is not a number"));

  CsvOptions pipe;
  pipe.separator = '|';
  pipe.comment = '%';
  const auto data = parse_csv<double>("% c\na|b,c\n1|2\n", pipe);
  CHECK(data.columns == std::vector<std::string>{"a", "b,c"});
  CHECK(data.values(0, 1) == 2);

  CsvOptions chosen;
  chosen.columns = {"z", "x"};
  const auto two = parse_csv<double>("x,label,z\n1,red,3\n4,blue,6\n", chosen);
  CHECK(two.columns == chosen.columns);
  REQUIRE(two.values.cols() == 2);
  CHECK(two.values(1, 0) == 6);
  CHECK(two.values(1, 1) == 4);
  CHECK(csv_error("x,y\n1,2\n", chosen) == "t.csv has no column 'z', only x, y");
  CHECK(csv_error("1,2\n", chosen) == "t.csv has no column 'z' because it has no header");
  CHECK(csv_error("x,z,z\n1,2,3\n", chosen) == "t.csv has several columns 'z'");

  CsvOptions wrong;
  wrong.separator = '.';
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { parse_csv<double>("1", wrong); }), "separator is '.'"));
  wrong.separator = wrong.comment = ';';
  CHECK_THROWS_AS(parse_csv<double>("1", wrong), diffeo::invalid_argument);
}

TEMPLATE_TEST_CASE("NaN and infinity are values only on request", "[csv]", float, double) {
  CsvOptions options;
  options.allow_non_finite = true;
  const auto data = parse_csv<TestType>("nan,-inf\nInfinity,1\n", options);
  REQUIRE(data.values.rows() == 2);
  CHECK(std::isnan(data.values(0, 0)));
  CHECK(data.values(0, 1) == -std::numeric_limits<TestType>::infinity());
  CHECK(csv_error<TestType>("nan,1\n2,3\n") == "t.csv: line 1, column 1: 'nan' is not finite");
  CHECK(csv_error<TestType>("1,2\n2,-inf\n") == "t.csv: line 2, column 2: '-inf' is not finite");
}

TEMPLATE_TEST_CASE("numbers at the end of the range", "[csv]", float, double) {
  CHECK(contains(csv_error<TestType>("1,2\n1,-1e999\n"), "t.csv: line 2, column 2: '-1e999' is out of the range of"));
  CHECK(parse_csv<TestType>("1e-999\n").values(0, 0) == 0);
  CHECK(parse_csv<TestType>("1e-30\n").values(0, 0) == TestType(1e-30));
  CHECK(parse_csv<TestType>("0.1\n").values(0, 0) == TestType(0.1));
}

TEST_CASE("errors name file, line and column", "[csv]") {
  const std::string path = temporary_file("a,b\n1,2\n\n# note\n3,4,5\n");
  CHECK(thrown_message<diffeo::io_error>([&] { diffeo::read_csv<double>(path); }) ==
        path + ": line 5 has 3 fields, expected 2");
  std::filesystem::remove(path);
  CHECK(
      contains(thrown_message<diffeo::io_error>([&] { diffeo::read_csv<double>(path); }), path + ": cannot open: No"));
  CHECK(contains(thrown_message<diffeo::io_error>(
                     [] { diffeo::read_csv<double>(std::filesystem::temp_directory_path().string()); }),
                 "cannot read"));

  CHECK(csv_error("1,2\n3\n") == "t.csv: line 2 has 1 field, expected 2");
  CHECK(csv_error("1,2\n3,abc\n") == "t.csv: line 2, column 2: 'abc' is not a number");
  CHECK(csv_error("3.6,abc\n") == "t.csv: line 1, column 2: 'abc' is not a number");
  CHECK(csv_error("1,2\n3,\n") == "t.csv: line 2, column 2 is empty, expected a number");
  CHECK(csv_error("1;2\n1,5;2\n") == "t.csv: line 2, column 1: '1,5' is not a number");
  CHECK(csv_error("1,2\n3,\"4\n") == "t.csv: line 2, column 2: '\"4' has a quote that is not closed at its end");
  CHECK(csv_error("a,b\n") == "t.csv has a header but no rows of numbers");
  CHECK(csv_error("NA,NA\n1,2\n") == "t.csv: line 1, column 1: 'NA' is not a number");
  CHECK(csv_error(std::string("\xFF\xFE\x31\0\n\0", 6)) == "t.csv is UTF-16 text, expected UTF-8 or ASCII");
  for (const std::string nothing : {"", "\n\r\n", "# only this", "\xEF\xBB\xBF"})
    CHECK(csv_error(nothing) == "t.csv is empty, expected rows of numbers");
  for (const std::string odd : {"+-3", "++3", "3+", "0x10", "1e", ".", "-", "1.2.3", "1e5x", "--1", "- 1"})
    CHECK(csv_error("1,2\n1," + odd) == "t.csv: line 2, column 2: '" + odd + "' is not a number");
}

TEST_CASE("arbitrary bytes give a table or an io_error", "[csv]") {
  std::mt19937 random(7);
  const std::string alphabet = "0123456789.,;\t \n\r\"#+-eEnaif\xEF\xBB\xBF";
  for (int trial = 0; trial < 20000; ++trial) {
    std::string text(random() % 40, ' ');
    for (char& c : text) c = alphabet[random() % alphabet.size()];
    try {
      const auto data = parse_csv<double>(text);
      REQUIRE(data.values.size() > 0);
      REQUIRE(data.values.allFinite());
    } catch (const diffeo::io_error&) {
    }
  }
}
