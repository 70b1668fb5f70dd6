// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstdint>
#include <cstring>
#include <diffeo/data/npy.hpp>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "../child.hpp"
#include "../files.hpp"

using diffeo::Array;

namespace {

template <class T>
std::string raw(const std::vector<T>& values) {
  std::string out(values.size() * sizeof(T), '\0');
  if (!values.empty()) std::memcpy(out.data(), values.data(), out.size());
  return out;
}

std::string npy(const std::string& header, const std::string& data, int version = 1) {
  std::string out = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) out += static_cast<char>(header.size() >> (8 * i) & 255);
  return out + header + data;
}

std::string header(const std::string& dtype, const std::string& shape, const std::string& fortran = "False") {
  return "{'descr': '" + dtype + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }   \n";
}

template <class S = double>
std::string npy_error(const std::string& bytes) {
  const Folder folder;
  const std::string path = folder.write(bytes);
  const std::string message = thrown_message<diffeo::io_error>([&] { diffeo::read_npy<S>(path); });
  CHECK(message.substr(0, path.size()) == path);
  return message.substr(path.size());
}

}  // namespace

TEMPLATE_TEST_CASE("write_npy and read_npy are inverse", "[npy]", float, double) {
  const Folder folder;
  const std::string path = folder.file("t.npy");
  for (const auto& [rows, cols] : {std::pair{1, 1}, {3, 2}, {1000, 7}, {5, 20000}, {0, 2}, {4, 0}, {100000, 1}}) {
    CAPTURE(rows, cols);
    const Array<TestType> x = Array<TestType>::Random(rows, cols);
    diffeo::write_npy(path, x);
    const Array<TestType> y = diffeo::read_npy<TestType>(path);
    REQUIRE(y.rows() == rows);
    REQUIRE(y.cols() == cols);
    CHECK((x == y).all());
  }
  const TestType inf = std::numeric_limits<TestType>::infinity();
  Array<TestType> odd(1, 3);
  odd << inf, -inf, std::numeric_limits<TestType>::quiet_NaN();
  diffeo::write_npy(path, odd);
  const Array<TestType> back = diffeo::read_npy<TestType>(path);
  CHECK((back(0, 0) == inf && back(0, 1) == -inf && std::isnan(back(0, 2))));
}

TEST_CASE("write_npy takes expressions and writes what NumPy does", "[npy]") {
  const Folder folder;
  const std::string path = folder.file("t.npy");
  Array<float> x(2, 2);
  x << 1, 2, 3, 4;
  diffeo::write_npy(path, x.col(1) * 2.f);
  // The bytes of numpy.save(path, numpy.array([[4], [8]], 'f4')).
  std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }";
  text.resize(117, ' ');
  CHECK(bytes_of(path) == npy(text + '\n', raw<float>({4, 8})));
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);

  const Eigen::MatrixXd a = Eigen::MatrixXd::Random(3, 4), b = Eigen::MatrixXd::Random(4, 2);
  diffeo::write_npy(path, a * b);
  CHECK((diffeo::read_npy<double>(path).matrix() - a * b).norm() < 1e-12);
  std::vector<float> buffer{1, 2, 3, 4, 5, 6};
  using RowMajor = Eigen::Array<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  diffeo::write_npy(path, Eigen::Map<RowMajor>(buffer.data(), 3, 2));
  CHECK(diffeo::read_npy<float>(path)(2, 0) == 5);
}

TEST_CASE("a failed write leaves the old file and no other", "[npy]") {
  const Folder folder;
  const Array<float> x = Array<float>::Zero(2, 2);
  const std::string nowhere = folder.file("none/t.npy");
  CHECK(contains(thrown_message<diffeo::io_error>([&] { diffeo::write_npy(nowhere, x); }), nowhere + ": cannot write"));
  std::filesystem::create_directory(folder.path / "taken.npy");
  CHECK_THROWS_AS(diffeo::write_npy(folder.file("taken.npy"), x), diffeo::io_error);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
  const std::string other = folder.write("somebody else's", "t.npy.tmp0");
  diffeo::write_npy(folder.file("t.npy"), x);
  CHECK(bytes_of(other) == "somebody else's");
  CHECK(diffeo::read_npy<float>(folder.file("t.npy")).rows() == 2);
}

TEMPLATE_TEST_CASE("read_npy reads all versions, orders and number types", "[npy]", float, double) {
  const Folder folder;
  Array<TestType> expected(2, 3);
  expected << 1, 2, 3, 4, 5, 6;
  const auto check = [&](const std::string& bytes) {
    const Array<TestType> x = diffeo::read_npy<TestType>(folder.write(bytes));
    REQUIRE((x.rows() == 2 && x.cols() == 3));
    CHECK((x == expected).all());
  };
  for (const int version : {1, 2, 3}) check(npy(header("<f8", "(2, 3)"), raw<double>({1, 2, 3, 4, 5, 6}), version));
  check(npy(header("<f4", "(2, 3)"), raw<float>({1, 2, 3, 4, 5, 6})));
  check(npy(header("<f4", "(2, 3)", "True"), raw<float>({1, 4, 2, 5, 3, 6})));
  check(npy(header("|u1", "(2L, 3L)"), raw<std::uint8_t>({1, 2, 3, 4, 5, 6})));
  check(npy(header("<i2", "(2, 3)"), raw<std::int16_t>({1, 2, 3, 4, 5, 6})));
  check(npy(header("<u4", "(2, 3)"), raw<std::uint32_t>({1, 2, 3, 4, 5, 6})));
  check(npy(header("<i8", "(2, 3)", "True"), raw<std::int64_t>({1, 4, 2, 5, 3, 6})));
  check(npy("{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}", raw<float>({1, 2, 3, 4, 5, 6})));

  const Array<TestType> column = diffeo::read_npy<TestType>(folder.write(npy(header("|i1", "(3,)"), "\x01\x02\xff")));
  REQUIRE((column.rows() == 3 && column.cols() == 1));
  CHECK(column(2, 0) == -1);
}

TEMPLATE_TEST_CASE("read_npy converts big-endian files", "[npy]", float, double) {
  const Folder folder;
  Array<TestType> expected(2, 2);
  expected << 1, -2, TestType(0.5), 300;
  // Bytes of numpy.array([[1, -2], [.5, 300]], '>f4') and so on, in C or Fortran order.
  const auto check = [&](const std::string& dtype, const std::string& bytes, const char* fortran = "False") {
    CAPTURE(dtype, fortran);
    const Array<TestType> x = diffeo::read_npy<TestType>(folder.write(npy(header(dtype, "(2, 2)", fortran), bytes)));
    REQUIRE((x.rows() == 2 && x.cols() == 2));
    CHECK((x == expected).all());
  };
  const auto bytes = [](std::initializer_list<int> values) {
    std::string out;
    for (const int v : values) out += static_cast<char>(v);
    return out;
  };
  check(">f4", bytes({0x3F, 0x80, 0, 0, 0xC0, 0, 0, 0, 0x3F, 0, 0, 0, 0x43, 0x96, 0, 0}));
  check(">f4", bytes({0x3F, 0x80, 0, 0, 0x3F, 0, 0, 0, 0xC0, 0, 0, 0, 0x43, 0x96, 0, 0}), "True");
  const std::string one = bytes({0x3F, 0xF0, 0, 0, 0, 0, 0, 0}), minus_two = bytes({0xC0, 0, 0, 0, 0, 0, 0, 0}),
                    half = bytes({0x3F, 0xE0, 0, 0, 0, 0, 0, 0}), more = bytes({0x40, 0x72, 0xC0, 0, 0, 0, 0, 0});
  check(">f8", one + minus_two + half + more);
  check(">f8", one + half + minus_two + more, "True");

  expected << 1, -2, 77, 300;
  check(">i2", bytes({0, 1, 0xFF, 0xFE, 0, 77, 1, 44}));
  check(">i4", bytes({0, 0, 0, 1, 0, 0, 0, 77, 0xFF, 0xFF, 0xFF, 0xFE, 0, 0, 1, 44}), "True");
  check(">i8", bytes({0,    0,    0,    0,    0,    0,    0,    1,    0, 0, 0, 0, 0, 0, 0, 77,
                      0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0, 0, 0, 0, 0, 0, 1, 44}),
        "True");
  expected << 1, 65534, 77, 300;
  check(">u2", bytes({0, 1, 0xFF, 0xFE, 0, 77, 1, 44}));
  check(">u4", bytes({0, 0, 0, 1, 0, 0, 0xFF, 0xFE, 0, 0, 0, 77, 0, 0, 1, 44}));
  expected << 1, 254, 77, 3;
  check(">u1", bytes({1, 254, 77, 3}));  // of one byte, without an order
  CHECK(npy_error<float>(npy(header(">i4", "(1,)"), bytes({1, 0, 0, 1}))) ==
        ": 16777217 at (row 0, column 0) does not fit in float");
}

TEST_CASE("read_npy refuses values that would change", "[npy]") {
  CHECK(npy_error<float>(npy(header("<f8", "(2, 1)"), raw<double>({1, -1e300}))) ==
        ": -1e+300 at (row 1, column 0) does not fit in float");
  CHECK(npy_error<float>(npy(header("<i4", "(1, 2)"), raw<std::int32_t>({1, (1 << 24) + 1}))) ==
        ": 16777217 at (row 0, column 1) does not fit in float");
  CHECK(contains(npy_error(npy(header("<i8", "(1,)"), raw<std::int64_t>({-(std::int64_t{1} << 53) - 1}))), "not fit"));
  CHECK(contains(npy_error(npy(header("<u8", "(1,)"), raw<std::uint64_t>({~std::uint64_t{0}}))), "not fit in double"));
  const Folder folder;
  const std::string path = folder.write(npy(header("<i4", "(1,)"), raw<std::int32_t>({-(1 << 24)})));
  CHECK(diffeo::read_npy<float>(path)(0, 0) == -16777216.f);
}

TEST_CASE("read_npy says what is wrong", "[npy]") {
  const Folder folder;
  CHECK(contains(thrown_message<diffeo::io_error>([&] { diffeo::read_npy<float>(folder.file("none.npy")); }),
                 "none.npy: cannot open: No such file"));
  CHECK(contains(thrown_message<diffeo::io_error>([&] { diffeo::read_npy<float>(folder.path.string()); }), "cannot"));

  const std::string six = raw<float>({1, 2, 3, 4, 5, 6}), good = npy(header("<f4", "(3, 2)"), six);
  CHECK(npy_error("") == " is not an .npy file");
  CHECK(npy_error("eruptions,waiting\n3.6,79\n") == " is not an .npy file");
  CHECK(npy_error(npy(header("<f4", "(3, 2)"), six, 4)) == " has format version 4.0, expected 1.0, 2.0 or 3.0");
  for (const std::size_t length : {7U, 8U, 9U, 10U, 11U, 40U}) {
    CHECK(npy_error(good.substr(0, length)) == " is truncated in its header");
    CHECK(npy_error(npy(header("<f4", "(3, 2)"), six, 2).substr(0, length)) == " is truncated in its header");
  }
  CHECK(npy_error(good.substr(0, good.size() - 4)) ==
        " is truncated: shape (3, 2) of dtype <f4 is 24 bytes of data, found 20");
  CHECK(npy_error(good + "xyz") == " is too long: shape (3, 2) of dtype <f4 is 24 bytes of data, found 27");

  CHECK(npy_error(npy(header("<f4", "(1, 3, 2)"), six)) == " has 3 dimensions, expected 1 or 2");
  CHECK(npy_error(npy(header("<f4", "()"), raw<float>({1}))) == " has 0 dimensions, expected 1 or 2");
  CHECK(npy_error(npy(header("|O", "(3, 2)"), six)) ==
        ": dtype '|O' is not supported, expected float32, float64 or an integer type");
  for (const std::string dtype : {"<c8", ">c8", ">f2", "<f2", "|b1", "<U4", "", "f4", "=f4",
                                  "\x01"
                                  "f4",
                                  "|f4"})
    CHECK(contains(npy_error(npy(header(dtype, "(3, 2)"), six)), " is not supported"));
  CHECK(npy_error(npy("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (6,)}", six)) ==
        ": dtype is a structure, expected float32 or float64");

  CHECK(contains(npy_error(npy(header("<f4", "(999999999999999, 2)"), six)), "a dimension exceeds 2^40"));
  CHECK(contains(npy_error(npy(header("<f4", "(1000000000000, 1000000000000)"), six)), " has an absurd shape"));
  CHECK(contains(npy_error(npy(header("<f4", "(1000000000, 1000000000)"), six)), "bytes of data, found 24"));
  for (const std::string text :
       {"", "{", "{}", "{'descr': '<f4'}", "{'descr': '<f4", "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (6,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-6,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 6}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6 1)}", "{'descr': '<f4', 'descr': '<f4'}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} x", "{'other': '<f4'}", "['descr']"})
    CHECK(contains(npy_error(npy(text, six)), ": the header is corrupt at byte "));
}

TEST_CASE("read_npy takes flipped bits and cut files", "[npy]") {
  const Folder folder;
  std::mt19937 random(11);
  const std::string good[] = {npy(header("<f4", "(3, 2)"), raw<float>({1, 2, 3, 4, 5, 6})),
                              npy(header("<i8", "(3,)"), raw<std::int64_t>({1, 2, 3}), 2)};
  int errors = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    std::string bytes = good[trial % 2];
    for (std::size_t flips = 1 + random() % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    if (trial % 8 == 0) bytes.resize(random() % bytes.size());
    try {
      const Array<double> x = diffeo::read_npy<double>(folder.write(bytes));
      REQUIRE(x.size() <= 24);
    } catch (const diffeo::io_error&) {
      ++errors;
    }
  }
  CHECK(errors > 2000);
}

TEMPLATE_TEST_CASE("NpyFile reads the rows that are asked for", "[npy]", float, double) {
  const Folder folder;
  const Array<TestType> x = Array<TestType>::Random(1000, 3);
  const auto bytes = [&x](bool fortran) {
    std::vector<float> values;
    for (Eigen::Index k = 0; k < x.size(); ++k)
      values.push_back(static_cast<float>(fortran ? x.data()[k] : x(k / 3, k % 3)));
    return npy(header("<f4", "(1000, 3)", fortran ? "True" : "False"), raw(values));
  };
  for (const bool fortran : {false, true}) {
    const diffeo::NpyFile<TestType> file(folder.write(bytes(fortran)));
    REQUIRE((file.rows() == 1000 && file.cols() == 3));
    const Array<TestType> expected = x.template cast<float>().template cast<TestType>();
    for (const auto& [first, count] : {std::pair{0, 1000}, {0, 1}, {999, 1}, {317, 400}, {5, 0}, {1000, 0}}) {
      CAPTURE(fortran, first, count);
      Array<TestType> rows(count, 3);
      file.read_rows(first, view(rows));
      CHECK((rows == expected.middleRows(first, count)).all());
      std::vector<TestType> in_order(static_cast<std::size_t>(3 * count));
      file.read_rows_in_row_order(first, count, in_order.data());
      bool same = true;
      for (int i = 0; i < 3 * count; ++i)
        same = same && in_order[static_cast<std::size_t>(i)] == expected(first + i / 3, i % 3);
      CHECK(same);
    }
    Array<TestType> rows(2, 3), narrow(2, 2);
    CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { file.read_rows(999, view(rows)); }),
                   "read_rows: rows 999 to 1001, "));
    CHECK_THROWS_AS(file.read_rows(-1, view(rows)), diffeo::invalid_argument);
    CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { file.read_rows(0, view(narrow)); }),
                   "values has 2 columns"));
  }
}

TEST_CASE("NpyFile names the place of a bad value and a file that is cut while open", "[npy]") {
  const Folder folder;
  const std::string path = folder.write(npy(header("<f8", "(3, 1)"), raw<double>({1, 2, 1e300})));
  const diffeo::NpyFile<float> file(path);
  Array<float> one(1, 1);
  file.read_rows(1, view(one));
  CHECK(one(0, 0) == 2);
  CHECK(contains(thrown_message<diffeo::io_error>([&] { file.read_rows(2, view(one)); }),
                 ": 1e+300 at (row 2, column 0) does not fit in float"));

  const Array<double> x = Array<double>::Random(100000, 2);
  diffeo::write_npy(path, x);
  const diffeo::NpyFile<double> other(path);
  std::filesystem::resize_file(path, 1000);
  Array<double> rows(1000, 2);
  CHECK(thrown_message<diffeo::io_error>([&] { other.read_rows(50000, view(rows)); }) ==
        path + " was truncated while it was open");
  CHECK_THROWS_AS(other.read_rows(0, view(rows)), diffeo::io_error);
}

#ifdef DIFFEO_HAS_FORK
TEST_CASE("npy: a pipe is refused", "[npy]") {
  const Folder folder;
  const std::string path = folder.file("pipe");
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  // In a child, because to open it would wait for a writer.
  const int code = exit_code_of(start_child([&] {
    ::alarm(20);
    const std::string message = thrown_message<diffeo::io_error>([&] { diffeo::read_npy<float>(path); });
    return message == path + ": cannot read: it is no regular file" ? 0 : 1;
  }));
  CHECK(code == 0);
}
#endif
