// SPDX-License-Identifier: MIT
#include <diffeo/io/safetensors_header.hpp>
#include <string>

#include "../catch.hpp"

using diffeo::io_error;
using diffeo::parse_safetensors_header;
using diffeo::SafetensorsHeader;

namespace {

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return '"' + name + R"(":{"dtype":")" + dtype + R"(","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}";
}

std::string header_message(const std::string& text, std::uint64_t bytes) {
  const std::string message = thrown_message<io_error>([&] { parse_safetensors_header(text, bytes, "f"); });
  const std::string begin = "f: the header is corrupt: ";
  CHECK(message.starts_with(begin));
  return message.substr(std::min(begin.size(), message.size()));
}

}  // namespace

TEST_CASE("safetensors header: tensors and texts", "[io]") {
  const SafetensorsHeader header = parse_safetensors_header(
      R"({"b":{"data_offsets":[4,28],"shape":[3,1],"dtype":"F64"},"__metadata__":{"k":"v","":""},)" +
          tensor("a", "F32", "", "0,4") + ',' + tensor("", "BF16", "0,7", "28,28") + ',' +
          tensor("c", "F4", "2,3", "28,31") + "}   \n",
      31, "f");
  REQUIRE(header.tensors.size() == 4);
  CHECK(header.tensors.at("b").dtype == "F64");
  CHECK(header.tensors.at("b").shape == std::vector<std::uint64_t>{3, 1});
  CHECK((header.tensors.at("b").begin == 4 && header.tensors.at("b").end == 28));
  CHECK(header.tensors.at("a").shape.empty());
  CHECK(header.metadata == std::map<std::string, std::string>{{"k", "v"}, {"", ""}});
  CHECK(parse_safetensors_header("{}", 0, "f").tensors.empty());
}

TEST_CASE("safetensors header: what is written is read", "[io]") {
  const std::string odd = "a \"b\"\\\n\xc3\xa4";
  const SafetensorsHeader header{{{odd, {"F32", {2, 3}, 8, 32}}, {"z", {"F64", {1, 1}, 0, 8}}},
                                 {{"k", "v"}, {odd, odd}}};
  const std::string text = diffeo::safetensors_header_text(header, {"z", odd});
  CHECK(text.size() % 8 == 0);
  CHECK(static_cast<unsigned char>(text[0]) + 256U * static_cast<unsigned char>(text[1]) == text.size() - 8);
  CHECK(text.substr(2, 6) == std::string(6, '\0'));
  const SafetensorsHeader read = parse_safetensors_header(text.substr(8), 32, "f");
  CHECK(read.metadata == header.metadata);
  REQUIRE(read.tensors.size() == 2);
  CHECK(read.tensors.at(odd).shape == std::vector<std::uint64_t>{2, 3});
  CHECK(read.tensors.at(odd).begin == 8);
  CHECK(diffeo::safetensors_header_text({}, {}) == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  CHECK_THROWS_AS(diffeo::safetensors_header_text({{}, {{"k", "\xff"}}}, {}), diffeo::invalid_argument);
}

TEST_CASE("safetensors header: each fault is named", "[io]") {
  const std::string a = tensor("a", "F32", "2", "0,8");
  // The JSON.
  CHECK(header_message(" {}", 0) == "it does not begin with '{'");
  CHECK(header_message("[]", 0) == "it does not begin with '{'");
  CHECK(header_message("{" + a, 8) == "no JSON at byte 54");
  CHECK(header_message("{" + a + ",}", 8) == "no JSON at byte 55");
  CHECK(contains(header_message("{" + a + "}{}", 8), "no JSON at byte "));
  CHECK(contains(header_message("{\"a\":" + std::string(100000, '['), 0), "a list where none is expected"));
  // Its structure.
  CHECK(header_message("{" + a + ',' + a + '}', 8) == "'a' is there twice");
  CHECK(header_message(R"({"__metadata__":{},"__metadata__":{}})", 0) == "'__metadata__' is there twice");
  CHECK(header_message(R"({"__metadata__":{"k":"1","k":"2"}})", 0) == "'k' of __metadata__ is there twice");
  CHECK(header_message(R"({"__metadata__":{"k":1}})", 0) == "a number where none is expected");
  CHECK(header_message(R"({"__metadata__":{"k":{}}})", 0) == "an object where none is expected");
  CHECK(header_message(R"({"__metadata__":[]})", 0) == "a list where none is expected");
  CHECK(header_message(R"({"a":"b"})", 0) == "a text where none is expected");
  CHECK(header_message(R"({"a":{}})", 0) == "dtype, shape or data_offsets of 'a' is missing");
  CHECK(header_message(R"({"a":{"dtype":"F32","shape":[2]}})", 8) == "dtype, shape or data_offsets of 'a' is missing");
  CHECK(header_message(R"({"a":{"dtype":"F32","dtype":"F32"}})", 8) == "'dtype' of 'a' is unknown or there twice");
  CHECK(header_message(R"({"a":{"size":2}})", 8) == "'size' of 'a' is unknown or there twice");
  CHECK(header_message(R"({"a":{"dtype":["F32"]}})", 8) == "a list where none is expected");
  CHECK(header_message("{" + tensor("a", "F33", "2", "0,8") + '}', 8) == "the dtype 'F33' of 'a' is unknown");
  for (const char* shape : {"-2", "2.0", "\"2\"", "[2]", "null", "{}", "2e0", "18446744073709551616"}) {
    CAPTURE(shape);
    CHECK(contains(header_message("{" + tensor("a", "F32", shape, "0,8") + '}', 8), "where none is expected"));
  }
  for (const char* offsets : {"", "8"}) {
    CAPTURE(offsets);
    CHECK(header_message("{" + tensor("a", "F32", "2", offsets) + '}', 8) == "data_offsets of 'a' are not two numbers");
  }
  CHECK(header_message("{" + tensor("a", "F32", "2", "0,8,8") + '}', 8) == "a number where none is expected");
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  CHECK(header_message("{" + tensor("a", "F32", ones, "0,4") + '}', 4) == "'a' has more than 64 dimensions");
  CHECK(parse_safetensors_header("{" + tensor("a", "F32", ones.substr(2), "0,4") + '}', 4, "f").tensors.size() == 1);
  // More texts than are accepted.
  SafetensorsHeader many;
  for (int i = 0; i < 10000; ++i) many.metadata[std::to_string(i)];
  const std::string most = diffeo::safetensors_header_text(many, {}).substr(8);
  CHECK(parse_safetensors_header(most, 0, "f").metadata == many.metadata);
  CHECK(header_message(most.substr(0, most.rfind("}}")) + ",\"more\":\"\"}}", 0) ==
        "__metadata__ has more than 10000 texts");
  many.metadata["more"];
  CHECK_THROWS_AS(diffeo::safetensors_header_text(many, {}), diffeo::invalid_argument);
  // Its numbers.
  CHECK(header_message("{" + a + '}', 7) == "'a' of dtype F32 and shape (2,) has bytes 0 to 8 of 7, expected 8");
  CHECK(header_message("{" + a + '}', 9) == "the tensors have 8 bytes, 9 follow the header");
  CHECK(header_message("{}", 1) == "the tensors have 0 bytes, 1 follow the header");
  CHECK(header_message("{" + tensor("a", "F32", "2,1", "8,0") + '}', 8) ==
        "'a' of dtype F32 and shape (2, 1) has bytes 8 to 0 of 8, expected 8");
  CHECK(header_message("{" + tensor("a", "F64", "2", "0,8") + '}', 8) ==
        "'a' of dtype F64 and shape (2,) has bytes 0 to 8 of 8, expected 16");
  CHECK(header_message("{" + tensor("a", "F32", "", "0,8") + '}', 8) ==
        "'a' of dtype F32 and shape () has bytes 0 to 8 of 8, expected 4");
  // 2^62 x 2^62 wraps to 0, 2^61 F64 to 0 bytes, and a size of 0 comes too late.
  for (const char* shape : {"4611686018427387904,4611686018427387904", "2305843009213693952,8",
                            "4611686018427387904,4611686018427387904,0"}) {
    CAPTURE(shape);
    CHECK(contains(header_message("{" + tensor("a", "F64", shape, "0,0") + '}', 0), " has an absurd size"));
  }
  CHECK(contains(header_message("{" + tensor("a", "F4", "3", "0,1") + '}', 1), " has an absurd size"));
  CHECK(contains(header_message("{" + tensor("a", "F32", "2", "18446744073709551608,0") + '}', 8), "expected 8"));
  // How tensors lie beside each other.
  CHECK(header_message("{" + a + ',' + tensor("b", "F32", "2", "4,12") + '}', 12) == "tensors overlap at byte 4");
  CHECK(header_message("{" + a + ',' + tensor("b", "F32", "2", "0,8") + '}', 8) == "tensors overlap at byte 0");
  CHECK(header_message("{" + a + ',' + tensor("b", "F32", "2", "9,17") + '}', 17) == "no tensor has byte 8");
  CHECK(header_message("{" + tensor("a", "F32", "2", "4,12") + '}', 12) == "no tensor has byte 0");
}
