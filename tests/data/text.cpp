// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/data/text.hpp>
#include <limits>
#include <string>

#include "../catch.hpp"

using diffeo::detail::NumberText;
using diffeo::detail::parse_number;

TEMPLATE_TEST_CASE("parse_number reads decimal numbers", "[csv]", float, double) {
  const auto read = [](const std::string& text) {
    TestType value = 77;
    REQUIRE(parse_number(text, value) == NumberText::good);
    return value;
  };
  CHECK(read("3.6") == TestType(3.6));
  CHECK(read("+.5") == TestType(0.5));
  CHECK(read("-1.e2") == TestType(-100));
  CHECK(read("1E+3") == TestType(1000));
  CHECK(read("0.1") == TestType(0.1));
  CHECK(read("1e-999") == 0);
  CHECK(std::isnan(read("NaN")));
  CHECK(read("-inf") == -std::numeric_limits<TestType>::infinity());
}

TEMPLATE_TEST_CASE("parse_number refuses everything else", "[csv]", float, double) {
  TestType value = 0;
  for (const std::string text :
       {"", " ", "abc", "+-3", "++3", "-+3", "3+", "0x10", "1e", ".", "-", "1.2.3", "1,5", " 1", "1 ", "e5"}) {
    CAPTURE(text);
    CHECK(parse_number(text, value) == NumberText::not_a_number);
    CHECK(diffeo::detail::parse_by_strtod(text, value).ec == std::errc::invalid_argument);
  }
  CHECK(parse_number(std::string("1\0", 2), value) == NumberText::not_a_number);
  CHECK(parse_number("1e999", value) == NumberText::out_of_range);
  CHECK(parse_number("-1e999", value) == NumberText::out_of_range);
}

TEMPLATE_TEST_CASE("the replacement for std::from_chars agrees with it", "[csv]", float, double) {
  for (const std::string text :
       {"0", "-0.25", "3.333", "1e10", "6.02E+23", "1e-30", "123456789.125", "inf", "-Infinity"}) {
    CAPTURE(text);
    TestType expected = 0, value = 1;
    REQUIRE(parse_number(text, expected) == NumberText::good);
    const auto result = diffeo::detail::parse_by_strtod(text, value);
    CHECK(result.ec == std::errc());
    CHECK(result.ptr == text.data() + text.size());
    CHECK(value == expected);
  }
  TestType value = 0;
  CHECK(diffeo::detail::parse_by_strtod("1e999", value).ec == std::errc::result_out_of_range);
}

TEST_CASE("excerpts are short and printable", "[csv]") {
  CHECK(diffeo::detail::excerpt("a\tb\n") == "'a?b?'");
  CHECK(diffeo::detail::excerpt(std::string(41, 'x')) == "'" + std::string(40, 'x') + "...'");
}
