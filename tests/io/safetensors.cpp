// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/io/safetensors.hpp>
#include <filesystem>
#include <limits>
#include <string>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "../child.hpp"
#include "../files.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::io_error;
using diffeo::NamedTensor;
using diffeo::SafetensorsFile;
using diffeo::view;
using diffeo::write_safetensors;

namespace {

// A file of a header and data.
std::string with_length(const std::string& json, const std::string& data) {
  std::string text;
  for (unsigned i = 0; i < 8; ++i) text += static_cast<char>(json.size() >> (8 * i) & 255);
  return text + json + data;
}

// The message of opening such a file, without its name.
std::string open_message(const std::string& bytes) {
  const Folder folder;
  const std::string path = folder.write(bytes);
  const std::string message = thrown_message<io_error>([&] { const SafetensorsFile file(path); });
  CHECK(message.starts_with(path));
  return message.substr(path.size());
}

}  // namespace

TEMPLATE_TEST_CASE("safetensors: what is written is read", "[io]", float, double) {
  using S = TestType;
  const Folder folder;
  const std::string path = folder.file("a.safetensors");
  const Array<S> a = gaussian<S>(3, 2, 1), b = gaussian<S>(1, 20000, 2), c(0, 4), d = gaussian<S>(301, 97, 3);
  const Array<float> e{{1.5F}};
  const Array<double> f{{2.5}};
  write_safetensors(path,
                    {{"a", view(a)}, {"b.0", view(b)}, {"c", view(c)}, {"d", view(d)}, {"e", view(e)}, {"f", view(f)}},
                    {{"k", "v"}});
  CHECK(folder.size() == 1);
  const SafetensorsFile file(path);
  CHECK(file.path() == path);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"k", "v"}});
  CHECK(file.tensors().size() == 6);
  CHECK(file.tensors().at("a").shape == std::vector<std::uint64_t>{3, 2});
  CHECK(file.tensors().at("e").dtype == "F32");
  CHECK(file.tensors().at("f").dtype == "F64");
  CHECK(same_bits(file.read<S>("d"), d));
  CHECK(same_bits(file.read<S>("a"), a));
  CHECK(same_bits(file.read<S>("b.0"), b));
  CHECK((file.read<S>("c").rows() == 0 && file.read<S>("c").cols() == 4));
  CHECK(file.read<S>(sizeof(S) == 4 ? "e" : "f")(0, 0) == (sizeof(S) == 4 ? S(1.5) : S(2.5)));
  // Into a part of an array.
  Array<S> whole = Array<S>::Zero(5, 4);
  file.read("a", diffeo::View<S>{&whole(1, 1), 3, 2, 5});
  CHECK(same_bits(Array<S>(whole.block(1, 1, 3, 2)), a));
  CHECK((whole.row(0) == 0).all());
  CHECK((whole.col(3) == 0).all());
  CHECK((whole.row(4) == 0).all());
  // NaN and infinity are for the reader to judge.
  const Array<S> odd{{std::numeric_limits<S>::quiet_NaN(), -std::numeric_limits<S>::infinity(), S(-0.0),
                      std::numeric_limits<S>::denorm_min()}};
  write_safetensors(path, {{"odd", view(odd)}});
  CHECK(same_bits(SafetensorsFile(path).read<S>("odd"), odd));
  write_safetensors(path, {});
  CHECK(SafetensorsFile(path).tensors().empty());
}

TEST_CASE("safetensors: the bytes are those of the format", "[io]") {
  const Folder folder;
  const std::string path = folder.file("a.safetensors");
  const Array<float> a{{1, 2}, {3, 4}};
  const Array<double> b{{-1}};
  write_safetensors(path, {{"b", view(b)}, {"a", view(a)}}, {{"k", "v"}});
  std::string json = R"({"__metadata__":{"k":"v"},"b":{"dtype":"F64","shape":[1,1],"data_offsets":[0,8]},)"
                     R"("a":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]}})";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  CHECK(bytes_of(path) == with_length(json, std::string("\0\0\0\0\0\0\xf0\xbf"
                                                        "\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40",
                                                        24)));
}

TEST_CASE("safetensors: scalars are converted where that is asked for", "[io]") {
  const Folder folder;
  const std::string path = folder.file("a.safetensors");
  const Array<float> a{{0.1F, 2}};
  const Array<double> b{{0.1, 1e-60, 3e38}}, large{{1, 3.5e38}};
  write_safetensors(path, {{"a", view(a)}, {"b", view(b)}, {"large", view(large)}});
  const SafetensorsFile file(path);
  CHECK(thrown_message<io_error>([&] { file.read<double>("a"); }) ==
        path + ": a has dtype F32, expected F64; convert_scalar converts it");
  CHECK(thrown_message<io_error>([&] { file.read<float>("b"); }) ==
        path + ": b has dtype F64, expected F32; convert_scalar converts it");
  CHECK(file.read<double>("a", true)(0, 0) == static_cast<double>(0.1F));
  CHECK(same_bits(file.read<float>("b", true), Array<float>{{0.1F, 0, 3e38F}}));
  CHECK(thrown_message<io_error>([&] { file.read<float>("large", true); }) ==
        path + ": large: 3.5e+38 at (row 0, column 1) does not fit in float");
}

TEST_CASE("safetensors: Python's files", "[io]") {
  const SafetensorsFile file(DIFFEO_TESTS_DIR "/io/golden/python_arrays.safetensors");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"by", "Python \"numpy\" \xc3\xa4"}});
  CHECK(file.tensors().size() == 10);
  CHECK(same_bits(file.read<double>("x"), Array<double>{{-1.125, -0.75}, {-0.375, 0}, {0.375, 0.75}, {1.125, 1.5}}));
  CHECK(same_bits(file.read<double>("transposed"), Array<double>{{0, 3}, {1, 4}, {2, 5}}));
  CHECK(same_bits(file.read<float>("vector"), Array<float>{{0, 0.5F, 1}}));
  Array<float> column(3, 1);
  file.read("vector", view(column));
  CHECK(column(1, 0) == 0.5F);
  CHECK(same_bits(file.read<double>("number"), Array<double>{{2.5}}));
  CHECK((file.read<float>("empty").rows() == 0 && file.read<float>("empty").cols() == 3));
  const auto message = [&](const std::string& name) {
    return thrown_message<io_error>([&] { file.read<float>(name); }).substr(file.path().size());
  };
  CHECK(message("cube") == ": cube has 3 dimensions, expected at most 2");
  CHECK(message("half") == ": half has dtype F16, expected F32");
  CHECK(message("count") == ": count has dtype I64, expected F32");
  CHECK(message("flag") == ": flag has dtype BOOL, expected F32");
  CHECK(message("z") == ": there is no tensor 'z'");
  Array<double> other(3, 2);
  CHECK(thrown_message<io_error>([&] { file.read("x", view(other)); }) ==
        file.path() + ": x has shape (4, 2), expected 3 x 2");
}

TEST_CASE("safetensors: shapes that fit", "[io]") {
  const auto fits = [](std::vector<std::uint64_t> shape, Index rows, Index cols) {
    return SafetensorsFile::fits(shape, rows, cols);
  };
  CHECK(fits({2, 3}, 2, 3));
  CHECK_FALSE(fits({2, 3}, 3, 2));
  CHECK_FALSE(fits({6}, 2, 3));
  CHECK(fits({3}, 1, 3));
  CHECK(fits({3}, 3, 1));
  CHECK_FALSE(fits({3, 1}, 1, 3));
  CHECK(fits({}, 1, 1));
  CHECK(fits({1}, 1, 1));
  CHECK_FALSE(fits({}, 1, 0));
  CHECK_FALSE(fits({1, 2, 3}, 2, 3));
}

TEST_CASE("safetensors: files that are none, and misuse", "[io]") {
  const Folder folder;
  CHECK(contains(thrown_message<io_error>([&] { const SafetensorsFile file(folder.file("none")); }),
                 folder.file("none") + ": cannot open: "));
  CHECK(contains(thrown_message<io_error>([&] { const SafetensorsFile file(folder.path.string()); }),
                 folder.path.string() + ": cannot read: "));
  CHECK(open_message("") == " is no safetensors file: it has 0 bytes");
  CHECK(open_message("1234567") == " is no safetensors file: it has 7 bytes");
  CHECK(contains(open_message("text that is none of it"),
                 " is truncated or no safetensors file: its header would have "));
  CHECK(contains(open_message(std::string(8, '\xff') + "{}"), " have 18446744073709551615 bytes, 2 follow"));
  CHECK(contains(open_message(std::string("\x03\0\0\0\0\0\0\0{}", 10)), " have 3 bytes, 2 follow"));
  CHECK(contains(open_message(std::string(8, '\0') + "{}"), ": the header is corrupt: it does not begin with '{'"));
  // A header that is longer than the format allows, in a file that is as long.
  const std::string path = folder.write(std::string("\x01\xe1\xf5\x05\0\0\0\0{", 9));
  std::filesystem::resize_file(path, 8 + 100'000'001);
  CHECK(contains(thrown_message<io_error>([&] { const SafetensorsFile file(path); }),
                 "would have 100000001 bytes, 100000001 follow and the format allows 100000000"));
  // Sizes that no memory is needed for must fit into an Index.
  const std::string huge =
      folder.write(with_length(R"({"a":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}})", ""));
  CHECK(contains(thrown_message<io_error>([&] { SafetensorsFile(huge).read<float>("a"); }), " has an absurd shape "));

  const Array<float> a{{1}};
  const std::string there = folder.write("old", "there");
  const auto misuse = [&](const std::vector<NamedTensor>& tensors, const std::map<std::string, std::string>& texts) {
    return thrown_message<diffeo::invalid_argument>([&] { write_safetensors(there, tensors, texts); });
  };
  CHECK(misuse({{"a", view(a)}, {"a", view(a)}}, {}) == "write_safetensors: two tensors are called 'a'");
  CHECK(contains(misuse({{"__metadata__", view(a)}}, {}), "which the format has for texts"));
  CHECK(contains(misuse({{"a\xff", view(a)}}, {}), "is not UTF-8"));
  CHECK(contains(misuse({{"a", view(a)}}, {{"k", "\xc3"}}), "is not UTF-8"));
  CHECK(bytes_of(there) == "old");
}

TEST_CASE("safetensors: a file that becomes shorter while it is open", "[io]") {
  const Folder folder;
  const std::string path = folder.file("a.safetensors");
  const Array<float> a = gaussian<float>(50000, 2, 1);
  write_safetensors(path, {{"a", view(a)}});
  const SafetensorsFile file(path);
  std::filesystem::resize_file(path, 300000);
  CHECK(
      contains(thrown_message<io_error>([&] { file.read<float>("a"); }), path + ": a was truncated while it was open"));
}

#ifdef DIFFEO_HAS_FORK
TEST_CASE("safetensors: a pipe is refused", "[io]") {
  const Folder folder;
  const std::string path = folder.file("pipe");
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  // In a child, because to open it would wait for a writer.
  const int code = exit_code_of(start_child([&] {
    ::alarm(20);
    const std::string message = thrown_message<io_error>([&] { const SafetensorsFile file(path); });
    return message == path + ": cannot read: it is no regular file" ? 0 : 1;
  }));
  CHECK(code == 0);
}

TEST_CASE("safetensors: a file that is replaced by others of another size while it is read", "[io]") {
  const Folder folder;
  const std::string path = folder.file("a.safetensors");
  const Array<float> small = gaussian<float>(2, 2, 1), large = gaussian<float>(2000, 2, 1);
  write_safetensors(path, {{"a", view(small)}});
  const pid_t child = start_child([&] {
    for (;;) {
      write_safetensors(path, {{"a", view(large)}});
      write_safetensors(path, {{"a", view(small)}});
    }
    return 0;
  });
  // Until it was replaced more than once: on a busy machine the child may have to wait.
  int of_small = 0, of_large = 0, faults = 0;
  for (int i = 0; i < 1'000'000 && (i < 1000 || of_small < 10 || of_large < 10); ++i) {
    try {
      const Array<float> found = SafetensorsFile(path).read<float>("a");
      ++(found.rows() == 2 ? of_small : of_large);
      faults += same_bits(found, found.rows() == 2 ? small : large) ? 0 : 1;
    } catch (const io_error&) {
      ++faults;
    }
  }
  ::kill(child, SIGKILL);
  CHECK(exit_code_of(child) == -1);
  CHECK(faults == 0);
  CHECK(of_small >= 10);
  CHECK(of_large >= 10);
}
#endif
