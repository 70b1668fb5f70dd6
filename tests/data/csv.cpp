// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <diffeo/data/csv.hpp>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

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
  CHECK(two.columns == std::vector<std::string>{"z", "x"});
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
  CHECK(csv_error("3.6,abc\n1.8,2\n") == "t.csv: line 1, column 2: 'abc' is not a number");
  CHECK(csv_error("1,2\n3,\n") == "t.csv: line 2, column 2 is empty, expected a number");
  CHECK(contains(csv_error("1;2\n1,5;2\n"), "t.csv: line 2, column 1: '1,5' is not a number"));
  CHECK(csv_error("1,2\n3,\"4\n") == "t.csv: line 2, column 2: '\"4' has a quote that is not closed at its end");
  CHECK(csv_error("a,b\n") == "t.csv has a header but no rows of numbers");
  CHECK(csv_error("NA,NA\n1,2\n") == "t.csv: line 1, column 1: 'NA' is not a number");
  CHECK(csv_error(std::string("\xFF\xFE\x31\0\n\0", 6)) == "t.csv is UTF-16 text, expected UTF-8 or ASCII");
  for (const std::string nothing : {"", "\n\r\n", "# only this", "\xEF\xBB\xBF"})
    CHECK(csv_error(nothing) == "t.csv is empty, expected rows of numbers");
  for (const std::string odd : {"+-3", "++3", "3+", "0x10", "1e", ".", "-", "1.2.3", "1e5x", "--1", "- 1"})
    CHECK(csv_error("1,2\n1," + odd) == "t.csv: line 2, column 2: '" + odd + "' is not a number");
}

TEST_CASE("decimal commas are an error", "[csv]") {
  const std::string what = "is not a number: it has a decimal comma";
  for (const char separator : {';', '\t'}) {
    const auto with = [&](std::string text) {
      std::replace(text.begin(), text.end(), ';', separator);
      return csv_error(text);
    };
    CHECK(contains(with("1,5;2,5\n3,25;4,75\n"), "t.csv: line 1, column 1: '1,5' " + what));
    CHECK(contains(with("temp (C, mean);hum\n1,5;3\n"), "t.csv: line 2, column 1: '1,5' " + what));
    CHECK(contains(with("x;n\n1,5;3\n2,5;4\n"), "t.csv: line 2, column 1: '1,5' " + what));
    CHECK(contains(with("n;x\n1;-\n2;-2,5\n"), "t.csv: line 3, column 2: '-2,5' " + what));
  }
  CHECK(contains(csv_error("x\n1,5\n2,5\n"), "t.csv: line 2, column 1: '1,5' " + what));
  CHECK(contains(csv_error("1,5 2,5\n3,5 4,5\n"), "t.csv: line 1, column 2: '5 2' looks like a number"));
  CHECK(contains(csv_error("a, b, c\n1,5;2,5\n3,5;4,5\n"), "t.csv: line 2, column 2: '5;2' looks like a number"));
  CHECK(contains(csv_error("a,\tb\n1,5\t2\n3,5\t4\n"), "t.csv: line 2, column 2: '5?2' "));
  CHECK(parse_csv<double>("x;n\n1,5;3\n2,5;4\n", {.columns = {"n"}}).values(1, 0) == 4);
  CHECK(parse_csv<double>("who;n\nDoe, J.;3\nRoe, R.;4\n").left_out == std::vector<std::string>{"who"});
}

TEST_CASE("a first row of numbers and text may be a header", "[csv]") {
  for (const std::string corner : {"country", "\"\"", "", "NA"})
    for (const std::string rest : {"France,1.5,2.5\n", "France,1.5,2.5\nSpain,3,4\n", "France,1,2\n,3,4\n"}) {
      const std::string text = corner + ",2019,2020\n" + rest;
      CAPTURE(text);
      CHECK(contains(csv_error(text), "t.csv: the first row has numbers and text: "));
      CHECK(contains(csv_error(text, {.missing = CsvOptions::Missing::drop}), "say by CsvOptions::header"));
      CHECK(contains(csv_error(text, {.columns = {2}}), "Header::present or absent"));
      const auto data = parse_csv<double>(text, {.header = CsvOptions::Header::present});
      CHECK(data.columns == std::vector<std::string>{"2019", "2020"});
      CHECK(parse_csv<double>(text, {.header = CsvOptions::Header::absent}).values(0, 0) == 2019);
    }
  CHECK(contains(csv_error("1.5,2,foo\n"), "the first row has numbers and text: 'foo' in column 3"));
  for (const std::string text :
       {"5.1,3.5,1.4,0.2,Iris-setosa\n4.9,3.0,1.4,0.2,Iris-setosa\n5.9,3.0,5.1,1.8,Iris-virginica\n",
        "5.1,3.5,1.4,0.2,2024-01-09\n4.9,3.0,1.4,0.2,2024-01-10\n5.9,3.0,5.1,1.8,2024-01-11\n",
        "5.1,3.5,1.4,0.2,?\n4.9,3.0,1.4,0.2,?\n5.9,3.0,5.1,1.8,a\n"}) {
    CAPTURE(text);
    const auto data = parse_csv<double>(text);
    CHECK(data.left_out == std::vector<std::string>{"4"});
    REQUIRE((data.values.rows() == 3 && data.values.cols() == 4));
    CHECK((data.values(0, 0) == 5.1 && data.values(2, 3) == 1.8));
  }
  CHECK(parse_csv<double>("mean,5%,95%\n1,2,3\n").columns == std::vector<std::string>{"mean", "5%", "95%"});
}

TEST_CASE("carriage returns end lines", "[csv]") {
  const std::string text = "# old\rx,\"a\rb\"\r1,2\r\r3,4\r\n\"5\", 6 # end\r";
  const auto data = parse_csv<double>(text);
  CHECK(data.columns == std::vector<std::string>{"x", "a\rb"});
  REQUIRE((data.values.rows() == 3 && data.values.cols() == 2));
  CHECK((data.values(0, 0) == 1 && data.values(1, 1) == 4 && data.values(2, 0) == 5 && data.values(2, 1) == 6));
  CHECK(parse_csv<double>("1,2\r3,4\r5,6\r").values.rows() == 3);
  CHECK(parse_csv<double>("\"1\" 2\r3 \"4\"\r5 6").values.rows() == 3);
  CHECK(csv_error(text + "7,x\r") == "t.csv: line 8, column 2: 'x' is not a number");
}

TEST_CASE("columns are chosen by name or index", "[csv]") {
  const std::string text = "x,label,z,z\n1,red,3,7\n4,blue,6,8\n";
  const auto data = parse_csv<double>(text, {.columns = {3, "x"}});
  CHECK(data.columns == std::vector<std::string>{"z", "x"});
  CHECK(data.indices == std::vector<diffeo::Index>{3, 0});
  CHECK(data.left_out.empty());
  REQUIRE(data.values.cols() == 2);
  CHECK(data.values(0, 0) == 7);
  CHECK(data.values(1, 1) == 4);
  const CsvOptions third{.header = CsvOptions::Header::absent, .columns = {std::size_t{2}}};
  const auto bare = parse_csv<double>("1,red,3\n4,blue,6\n", third);
  CHECK(bare.columns.empty());
  CHECK(bare.indices == std::vector<diffeo::Index>{2});
  CHECK(bare.values(1, 0) == 6);

  CHECK(csv_error(text, {.columns = {0, 4}}) == "t.csv has no column with index 4, only 0 to 3");
  CHECK(csv_error(text, {.columns = {"y"}}) == "t.csv has no column 'y', only x, label, z, z");
  CHECK(csv_error(text, {.columns = {"x", "label"}}) == "t.csv: line 2, column 2: 'red' is not a number");
  const auto misuse = [&](const CsvOptions& options) {
    return thrown_message<diffeo::invalid_argument>([&] { parse_csv<double>(text, options, "t.csv"); });
  };
  CHECK(misuse({.columns = {-1}}) == "read_csv: a column has index -1, expected 0 or more");
  CHECK(misuse({.columns = {"x", 2, "x"}}) == "read_csv: column x of t.csv is chosen twice");
  CHECK(misuse({.columns = {"x", 0}}) == "read_csv: column x of t.csv is chosen twice");
}

TEST_CASE("columns are assigned from names and lists", "[csv]") {
  const auto train = parse_csv<double>("z,label,x\n1,red,3\n4,blue,6\n");
  CsvOptions options;
  options.columns = train.columns;
  CHECK((options.columns == train.columns && train.columns == options.columns));
  const std::string text = "x,y,z\n1,2,3\n";
  CHECK(parse_csv<double>(text, options).columns == train.columns);
  CHECK(parse_csv<double>(text, {.columns = train.columns}).indices == std::vector<diffeo::Index>{2, 0});
  options.columns = {"x", 2};
  CHECK((options.columns.size() == 2 && options.columns != train.columns));
  CHECK(parse_csv<double>(text, options).indices == std::vector<diffeo::Index>{0, 2});
  const std::vector<diffeo::CsvColumn> list = {2, "y"};
  options.columns = list;
  CHECK(options.columns == diffeo::CsvColumns(list));
  CHECK(parse_csv<double>(text, options).indices == std::vector<diffeo::Index>{2, 1});
  options.columns = {"x"};
  options.columns.push_back("z");
  options.columns.emplace_back("y");
  options.columns.insert(options.columns.begin(), std::string("w"));
  CHECK(options.columns == std::vector<std::string>{"w", "x", "z", "y"});
  options.columns = {};
  CHECK(options.columns.empty());
  options.columns = std::vector<std::string>{"y"};
  CHECK(parse_csv<double>(text, options).values(0, 0) == 2);
}

TEST_CASE("numbers in another spelling are an error, not text", "[csv]") {
  const std::string space = "\xC2\xA0";
  for (const std::string odd : {"5%", "\"1,234\"", "\"1,234.5\"", "1.5D+03", "0x10", "-0xFF", "1'234", "1 234",
                                "1.234.567", "5-", "- 1", "1.5e+",
                                "\xE2\x88\x92"
                                "5",
                                "1\xC2\xA0"
                                "234",
                                "1\xE2\x80\xAF"
                                "234"}) {
    CAPTURE(odd);
    for (const std::string before : {"", "3,NA\n", "3,a\n"}) {
      const std::string line = before.empty() ? "2" : "3";
      const std::string message = csv_error("x,y\n" + before + "1," + odd + "\n2," + odd + "\n");
      CHECK(contains(message, "t.csv: line " + line + ", column 2: '"));
      CHECK(contains(message, "leave the column out by CsvOptions::columns"));
    }
    CHECK(contains(csv_error("1," + odd + "\n2," + odd + "\n"), "t.csv: line 1, column 2: '"));
    CHECK(parse_csv<double>("x,y\n1," + odd + "\n2," + odd + "\n", {.columns = {"x"}}).values(1, 0) == 2);
  }
  for (const std::string text :
       {"2024-01-31", "10-20", "12:30", "D1", "E5", "1e", "5 kg", "1/2", "-", ".", "555-1234", "A 5%"})
    CHECK(parse_csv<double>("x,y\n1," + text + "\n2," + text + "\n").left_out == std::vector<std::string>{"y"});
  for (const std::string& number : {std::string("\" 1.5\""), std::string("\"1.5 \t\""), space + "1.5",
                                    "\" " + space + "1.5" + space + "\"", "1.5" + space}) {
    CAPTURE(number);
    const auto data = parse_csv<double>("x,y\n1," + number + "\n2," + number + "\n");
    REQUIRE(data.values.cols() == 2);
    CHECK(data.values(1, 1) == 1.5);
    CHECK(parse_csv<double>(number + ",1\n2,3\n").values(0, 0) == 1.5);
  }
  CHECK(csv_error("x,y\n1,2\n3,\" \"\n") == "t.csv: line 3, column 2 is empty, expected a number");
}

TEST_CASE("errors of spreadsheets are missing values", "[csv]") {
  const CsvOptions drop{.missing = CsvOptions::Missing::drop};
  for (const std::string mark :
       {"#N/A", "#DIV/0!", "#VALUE!", "#REF!", "#NUM!", "#NAME?", "#NULL!", "#n/a", "\"#N/A\""}) {
    CAPTURE(mark);
    for (const std::string& text : {"a,b\n1,2\n" + mark + ",3\n5,6\n", "a,b\n1,2\n3," + mark + "\n5,6\n"}) {
      CHECK(contains(csv_error(text), "t.csv: line 3, column "));
      const auto data = parse_csv<double>(text, drop);
      CHECK(data.dropped_rows == 1);
      REQUIRE((data.values.rows() == 2 && data.values.cols() == 2));
      CHECK((data.values(0, 1) == 2 && data.values(1, 0) == 5));
    }
    for (const std::string header : {"", "a,b\n"}) {
      const auto data = parse_csv<double>(header + mark + ",3\n5,6\n", drop);
      CHECK(data.dropped_rows == 1);
      CHECK((data.values.rows() == 1 && data.values(0, 0) == 5));
    }
    CHECK(contains(csv_error(mark + ",3\n5,6\n"), "t.csv: line 1, column 1: '#"));
  }
}

TEST_CASE("fields may begin with #", "[csv]") {
  for (const std::string text :
       {"id,x\n#1,5\n#2,6\n", "id,x\nA,5\n#2,6\n", "id,x\n#####,5\n##,6\n", "id,x\n\"#\",5\nC#,6\n",
        "#x,y\n#note, old\n#\n##\n# 1,2\nid,x\n#note\nA,5 # one\n#\n# 3,4\n## 3,4\n#2,6 #\n"}) {
    CAPTURE(text);
    const auto data = parse_csv<double>(text);
    CHECK(data.left_out == std::vector<std::string>{"id"});
    REQUIRE((data.values.rows() == 2 && data.values.cols() == 1));
    CHECK((data.values(0, 0) == 5 && data.values(1, 0) == 6));
  }
  CHECK(parse_csv<double>("#,x\n1,2\n").columns.empty());
  CHECK(parse_csv<double>("n,#,y\n1,2,3\n").columns == std::vector<std::string>{"n", "#", "y"});
  CHECK(contains(csv_error("#1,5\n#2,6\nA,7\n"), "t.csv: line 1 is a comment or a row: '#1,5'; write a blank"));
  CHECK(parse_csv<double>("#1,5\n#2,6\n", {.comment = 0}).values(1, 0) == 6);
  CHECK(csv_error("1,2\n3,4#5\n") == "t.csv: line 2, column 2: '4#5' is not a number");
  CHECK(csv_error("1,2\n#note\n3,4\n") == "t.csv: line 2 has 1 field, expected 2");
  CHECK(parse_csv<double>("1%x\n%2\n3\n", {.comment = '%'}).values(1, 0) == 3);
}

TEST_CASE("columns of text are left out and reported", "[csv]") {
  const auto data = parse_csv<double>("id,x,day,y\nA1,1,2024-01-01,2\n,3,NA,4\nB2,5,2024-01-03,6\n");
  CHECK(data.columns == std::vector<std::string>{"x", "y"});
  CHECK(data.indices == std::vector<diffeo::Index>{1, 3});
  CHECK(data.left_out == std::vector<std::string>{"id", "day"});
  CHECK(data.dropped_rows == 0);
  REQUIRE((data.values.rows() == 3 && data.values.cols() == 2));
  CHECK(data.values(0, 1) == 2);
  CHECK(data.values(2, 0) == 5);

  const auto bare = parse_csv<float>("5.1,3.5,setosa\n4.9,3.0,setosa\n");
  CHECK(bare.left_out == std::vector<std::string>{"2"});
  CHECK(bare.columns.empty());
  CHECK(bare.values.cols() == 2);
  CHECK(bare.values(1, 1) == 3);

  // Missing values before the first text, and an infinity, which is a name here.
  CHECK(parse_csv<double>("x,who\n1,\n2,NaN\n3,Bob\n4,Inf\n").left_out == std::vector<std::string>{"who"});
  // A column with both is an error, whichever comes first.
  CHECK(csv_error("x,t\n1,PC 17\n2,18\n") == "t.csv: line 2, column 2: 'PC 17' is not a number");
  CHECK(csv_error("x,t\n1,17\n2,PC 18\n") == "t.csv: line 3, column 2: 'PC 18' is not a number");
  CHECK(csv_error("a,b\nc,d\n") == "t.csv: line 2, column 1: 'c' is not a number");
}

TEMPLATE_TEST_CASE("rows with missing values are refused or dropped", "[csv]", float, double) {
  const CsvOptions drop{.missing = CsvOptions::Missing::drop};
  for (const std::string mark :
       {"", "\"\"", " ", "NA", "na", "N/A", "n/a", "NaN", "nan", "NULL", "null", "?", "None", "<NA>", "\"NA\""}) {
    CAPTURE(mark);
    const std::string middle = "a,b\n1,2\n3," + mark + "\n5,6\n", first = "a,b\n" + mark + ",2\n3,4\n";
    CHECK(contains(csv_error<TestType>(middle), "t.csv: line 3, column 2"));
    CHECK(contains(csv_error<TestType>(first), "t.csv: line 2, column 1"));
    const auto data = parse_csv<TestType>(middle, drop);
    CHECK(data.dropped_rows == 1);
    REQUIRE((data.values.rows() == 2 && data.values.cols() == 2));
    CHECK((data.values(0, 0) == 1 && data.values(0, 1) == 2 && data.values(1, 0) == 5 && data.values(1, 1) == 6));
    const auto later = parse_csv<TestType>(first, drop);
    CHECK(later.dropped_rows == 1);
    REQUIRE(later.values.rows() == 1);
    CHECK((later.values(0, 0) == 3 && later.values(0, 1) == 4));
  }
  for (const std::string other : {"-", ".", "inf", "N.A.", "missing"})
    CHECK(contains(csv_error<TestType>("1,2\n3," + other + "\n", drop), "t.csv: line 2, column 2: '" + other));
}

TEST_CASE("rows are dropped for the columns that are returned", "[csv]") {
  CsvOptions options{.columns = {"c", "a"}, .missing = CsvOptions::Missing::drop};
  const std::string text = "a,b,c,name\n1,,,x\n2,,3,\n,5,6,y\n7,NA,8,z\n9,1,?,z\n";
  const auto data = parse_csv<double>(text, options);
  CHECK(data.dropped_rows == 3);
  REQUIRE((data.values.rows() == 2 && data.values.cols() == 2));
  CHECK((data.values(0, 0) == 3 && data.values(0, 1) == 2 && data.values(1, 0) == 8 && data.values(1, 1) == 7));
  options.columns.clear();
  CHECK(csv_error(text, options) == "t.csv has no row without missing values, 5 dropped");
  CHECK(csv_error("a,b\n1,NA\n2,\n", options) == "t.csv: column 2 has missing values only");
  options.allow_non_finite = true;
  const auto kept = parse_csv<double>("a,b\n1,NaN\n2,NA\n", options);
  CHECK(kept.dropped_rows == 1);
  CHECK(std::isnan(kept.values(0, 1)));
}

TEST_CASE("a separator may end every line", "[csv]") {
  for (const std::string text :
       {"a,b,\n1,2,\n3,4,\n", "1;2;\r\n3;4;\r\n", "1\t2\t\n3\t4\t\n", "\"a\",b, # names\n1,2,\n3,4,\n"}) {
    CAPTURE(text);
    const auto data = parse_csv<double>(text);
    REQUIRE((data.values.rows() == 2 && data.values.cols() == 2));
    CHECK(data.values(1, 1) == 4);
    CHECK(data.left_out.empty());
    CHECK((data.columns.empty() || data.columns == std::vector<std::string>{"a", "b"}));
  }
  CHECK(csv_error("a,b\n1,2,\n") == "t.csv: line 2 has 3 fields, expected 2");
  CHECK(csv_error("a,b,\n1,2\n") == "t.csv: line 2 has 2 fields, expected 3");
  CHECK(csv_error("a,b,c\n1,2,\n") == "t.csv: line 2, column 3 is empty, expected a number");
  CHECK(csv_error("1,2,\n3,4,NA\n") == "t.csv: line 1, column 3 is empty, expected a number");
  CHECK(csv_error("1,2,?\n3,4,?\n") == "t.csv: line 1, column 3: '?' is not a number");
  CHECK(csv_error("1,2,\n3,4,\n", {.columns = {0, 2}}) == "t.csv: line 1, column 3 is empty, expected a number");
  CHECK(csv_error("1,2,\n3,4,5\n") == "t.csv: line 1, column 3 is empty, expected a number");
}

TEST_CASE("quoted fields hold separators, comments and line ends", "[csv]") {
  for (const std::string end : {"\n", "\r\n"}) {
    const auto data = parse_csv<double>("x,note,y" + end + "1,\"a, b # \"\"c\"\"" + end + "second\",2" + end +
                                        "\"3\" , 6\" pipe,\"4\" # end" + end);
    CHECK(data.left_out == std::vector<std::string>{"note"});
    REQUIRE((data.values.rows() == 2 && data.values.cols() == 2));
    CHECK((data.values(0, 1) == 2 && data.values(1, 0) == 3 && data.values(1, 1) == 4));
    const auto runs = parse_csv<double>(" \"1\"  \"two  words\" 3 " + end + "4 five \"6\"" + end,
                                        {.header = CsvOptions::Header::absent});
    CHECK(runs.left_out == std::vector<std::string>{"1"});
    REQUIRE((runs.values.rows() == 2 && runs.values.cols() == 2));
    CHECK((runs.values(0, 1) == 3 && runs.values(1, 1) == 6));
    CHECK(csv_error("x,y" + end + "\"1" + end + "\",2" + end + "3,4" + end) ==
          "t.csv: line 2, column 1: '1" + std::string(end.size(), '?') + "' is not a number");
    CHECK(csv_error("x,t,y" + end + "1,\"a" + end + "b\",3" + end + "4,c,z" + end) ==
          "t.csv: line 4, column 3: 'z' is not a number");
  }
  CHECK(csv_error("1,2\n\"3\"x,4\n") == "t.csv: line 2, column 1: '\"3\"x' has a quote that is not closed at its end");
}

TEST_CASE("numbers that the scalar cannot tell apart are reported", "[csv]") {
  const std::string remedy =
      "; read the file as double and subtract an offset before a conversion to float, leave the "
      "column out by CsvOptions::columns, or accept it by CsvOptions::allow_rounding";
  const std::string stamps = "t,x\n1700000000,1\n1700000123.25,2\n";
  CHECK(csv_error<float>(stamps) == "t.csv: line 3, column 1: '1700000123.25' becomes 1700000128 in float" + remedy);
  CHECK(parse_csv<double>(stamps).values(1, 0) == 1700000123.25);
  CHECK(parse_csv<float>(stamps, {.allow_rounding = true}).values(1, 0) == 1700000128.F);
  CHECK(parse_csv<float>(stamps, {.columns = {"x"}}).values(1, 0) == 2);
  CHECK(csv_error<float>("1.70000012325e9\n1.70000012400e9\n1.70000312400e9\n") ==
        "t.csv: line 1, column 1: 1700000123.25 and 1700000124 on line 2 are the same number in float" + remedy);
  CHECK(contains(csv_error<float>("x,t,y\n1,a,0.1000000002\n# one more\n2,b,0.1000000001\n"),
                 "t.csv: line 4, column 3: 0.1000000001 and 0.1000000002 on line 2 are the same"));
  CHECK(contains(csv_error<float>("t\n?\n1.5e9\nNA\n1.500000001e9\n", {.missing = CsvOptions::Missing::drop}),
                 "t.csv: line 3, column 1: 1.5e+09 and 1500000001 on line 5 are the same"));

  for (const std::string number : {"1700000100", "169999990", "123456789000000000000000", "16777217", "-16777217",
                                   "+0016777217.", "16777217.0", "1234567890123", "123456789012345678901"})
    CHECK(contains(csv_error<float>("1\n" + number + "\n"), "t.csv: line 2, column 1: '" + number + "' becomes"));
  for (const std::string number : {"9007199254740993", "12345678901234567100", "1234567890123456700",
                                   "-1234567890123456789", "123456789012345678901"})
    CHECK(contains(csv_error<double>("1\n" + number + "\n"), "t.csv: line 2, column 1: '" + number + "' becomes"));
}

TEST_CASE("ordinary rounding is accepted", "[csv]") {
  for (const std::string number :
       {"0.1", "3.14159265358979323846", "-0.30000000000000004", "16777216", "16777215.75", "16777216.5", "16777218",
        "100000000000", "123400000000000", "1e10", "1.23456789012e12", "1000000000000000000000", "1e-300"}) {
    CAPTURE(number);
    CHECK(parse_csv<float>("1\n" + number + "\n").values(1, 0) == static_cast<float>(std::stod(number)));
    CHECK(parse_csv<float>(number + "\n" + number + "\n").values(1, 0) == static_cast<float>(std::stod(number)));
    CHECK(parse_csv<double>(number + "\n").values(0, 0) == std::stod(number));
  }
  // What printf writes of doubles beyond the integers is exact.
  CHECK(parse_csv<double>("12344999999999999704301568.000000\n").values(0, 0) == 1.2345e25);
  // Of doubles with all their digits some fall together; that is no loss in a column that spreads.
  std::mt19937_64 random(5);
  std::string text;
  for (int i = 0; i < 20000; ++i) text += std::to_string(random() >> 11) + "e-16\n";
  const auto data = parse_csv<float>(text);
  std::vector<float> sorted(data.values.data(), data.values.data() + data.values.rows());
  std::sort(sorted.begin(), sorted.end());
  REQUIRE(std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end());
  // Three decimals at an offset are told apart.
  CHECK(parse_csv<float>("1013.251\n1013.252\n1013.253\n").values(2, 0) == 1013.253F);
}

TEST_CASE("arbitrary bytes give a table or an io_error", "[csv]") {
  std::mt19937 random(7);
  const std::string alphabet = "0123456789.,;\t \n\r\"#+-eEnaif\xEF\xBB\xBF";
  for (int trial = 0; trial < 20000; ++trial) {
    std::string text(random() % 40, ' ');
    for (char& c : text) c = alphabet[random() % alphabet.size()];
    try {
      CsvOptions options;
      if (trial % 2 == 1) options.missing = CsvOptions::Missing::drop;
      const auto data = parse_csv<float>(text, options);
      REQUIRE(data.values.size() > 0);
      REQUIRE(data.values.allFinite());
    } catch (const diffeo::io_error&) {
    }
  }
}
