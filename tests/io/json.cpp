// SPDX-License-Identifier: MIT
#include <diffeo/io/json.hpp>
#include <string>

#include "../catch.hpp"

using diffeo::detail::json_quoted;
using diffeo::detail::JsonReader;

namespace {

// Accepts lists of lists of texts, and keeps the texts.
struct Texts : JsonReader {
  using JsonReader::JsonReader;
  std::string all;
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool string(std::string& text) override {
    all += text + ';';
    return true;
  }
};

std::string json_message(const std::string& text) {
  return thrown_message<diffeo::io_error>([&] { Texts("f: the list").read(text); });
}

}  // namespace

TEST_CASE("json: quoted texts are read back", "[io]") {
  const std::string odd = "quote \" backslash \\ line\nbell\a zero" + std::string(1, '\0') + " umlaut \xc3\xa4";
  CHECK(json_quoted(odd, "") == "\"quote \\\" backslash \\\\ line\\nbell\\u0007 zero\\u0000 umlaut \xc3\xa4\"");
  Texts reader("f");
  reader.read("[" + json_quoted(odd, "") + ",[\"\\u00e4\\ud83d\\ude00\"]]");
  CHECK(reader.all == odd + ";\xc3\xa4\xf0\x9f\x98\x80;");
  CHECK(thrown_message<diffeo::invalid_argument>([] { json_quoted("a\xff", "save: a name"); }) ==
        "save: a name: 'a\xff' is not UTF-8");
}

TEST_CASE("json: what is no JSON or is not expected is an error", "[io]") {
  CHECK(json_message("[\"a\", ]") == "f: the list is corrupt: no JSON at byte 7");
  for (const std::string text : {"", " ", "[", "[\"a]", "[\"a\"]]", "[\"a\"] x", "[\"\\ud800\"]", "[\"\x80\"]",
                                 "[\"\n\"]", "['a']", "[\"a\" \"b\"]", "\xef\xbb"}) {
    CAPTURE(text);
    CHECK(contains(json_message(text), "f: the list is corrupt: no JSON at byte "));
  }
  // A byte of value 0 does not end the text.
  CHECK(json_message(std::string("[]\0", 3)) == "f: the list is corrupt: no JSON at byte 3");
  CHECK(json_message(std::string("[]\0]", 4)) == "f: the list is corrupt: no JSON at byte 3");
  const std::pair<const char*, const char*> unexpected[] = {
      {"null", "null"},     {"true", "true or false"},    {"-1", "a negative number"},
      {"1", "a number"},    {"1.5", "a decimal number"},  {"{\"a\":1}", "an object"},
      {"1e999", "no JSON"}, {"-0.5", "a decimal number"}, {"[[1]]", "a number"}};
  for (const auto& [text, what] : unexpected) {
    CAPTURE(text);
    CHECK(contains(json_message(text), what));
  }
  // Neither the stack nor memory by the depth.
  CHECK(contains(json_message(std::string(1 << 16, '[')), "no JSON at byte 65537"));
}
