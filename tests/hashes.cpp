// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/math/elementwise.hpp>
#include <diffeo/math/matmul.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/trainer.hpp>
#include <fstream>
#include <iomanip>
#include <map>
#include <numeric>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"

// Hashes of results, kept in tests/hashes.txt with a column for each instruction set. Where two columns hold the
// same hash, results have the same bits on both; that the compilers agree is tested by compiling this file with
// each of them. After a change of results that is meant, `cmake --build build/test --target hashes` writes the file
// anew.

using namespace diffeo;

namespace {

// FNV-1a of the bytes of a result.
class Hash {
 public:
  template <class S>
  void add(const S* data, Index size) {
    for (Index i = 0; i < size; ++i)
      for (const unsigned char byte : std::bit_cast<std::array<unsigned char, sizeof(S)>>(data[i]))
        state_ = (state_ ^ byte) * 0x100000001b3U;
  }
  template <class S>
  void add(const Array<S>& values) {
    CHECK(values.isFinite().all());
    add(values.data(), values.size());
  }
  std::string text() const {
    std::ostringstream out;
    out << std::hex << std::setw(16) << std::setfill('0') << state_;
    return out.str();
  }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325U;
};

// Compilers differ in which products of a gradient they fuse, where nothing says it, and GCC does so from -O2 on: what
// training makes of parameters is compared where there is no fused multiply-add.
#if defined(__FMA__)
constexpr bool fused = true;
#else
constexpr bool fused = false;
#endif

// Hashes by name, in the order of the file.
using Hashes = std::vector<std::pair<std::string, std::string>>;

template <class S>
std::string text(const std::string& name) {
  return name + (sizeof(S) == 4 ? ".float" : ".double");
}
template <class S>
void add(Hashes& hashes, const std::string& name, const Hash& hash) {
  hashes.emplace_back(text<S>(name), hash.text());
}

// Multiples of 1 / 64 from -range to range, whose bits are the same everywhere.
template <class S>
Array<S> grid(int range) {
  Array<S> x(128 * range + 1, 1);
  for (Index i = 0; i < x.rows(); ++i) x(i) = static_cast<S>(i - 64 * range) / S(64);
  return x;
}

template <class S>
void add_elementwise(Hashes& hashes) {
  const auto function = [&](const std::string& name, const Array<S>& x, const auto& f) {
    Array<S> y(x.rows(), 1);
    simd::transform<S>(x.size(), y.data(), f, x.data());
    Hash hash;
    hash.add(y);
    add<S>(hashes, "elementwise." + name, hash);
  };
  using Vec = simd::Vec<S>;
  const Array<S> some = grid<S>(20), large = grid<S>(80);
  const Array<S> positive = some.abs() + S(0.015625), near_zero = some / S(23);
  function("tanh", some, [](Vec x) { return simd::tanh<S>(x); });
  function("exp", large, [](Vec x) { return simd::exp<S>(x); });
  function("expm1", large, [](Vec x) { return simd::expm1<S>(x); });
  function("log", positive, [](Vec x) { return simd::log<S>(x); });
  function("log1p", near_zero, [](Vec x) { return simd::log1p<S>(x); });
  function("log1p_exp", large, [](Vec x) { return simd::log1p_exp<S>(x); });
  function("log_sigmoid", large, [](Vec x) { return simd::log_sigmoid<S>(x); });
  function("sigmoid", large, [](Vec x) { return simd::sigmoid<S>(x); });
  function("sin", large, [](Vec x) { return simd::sin<S>(x); });
  function("cos", large, [](Vec x) { return simd::cos<S>(x); });
}

template <class S>
void add_random(Hashes& hashes) {
  Array<S> numbers(200, 3);
  Hash uniform, normal;
  fill_uniform(view(numbers), 5, 6, 7);
  uniform.add(numbers);
  add<S>(hashes, "random.uniform", uniform);
  fill_normal(view(numbers), 5, 6, 7);
  normal.add(numbers);
  add<S>(hashes, "random.normal", normal);
}

// Uniform numbers between -1 / 2 and 1 / 2, with the same bits everywhere.
template <class S>
Array<S> uniform(Index rows, Index cols, std::uint64_t stream) {
  Array<S> x(rows, cols);
  fill_uniform(view(x), 3, stream);
  return x - S(0.5);
}

template <class S>
void add_products(Hashes& hashes) {
  Hash products, of_transposed;
  for (const Index rows : {1, 37, 128})
    for (const Index inner : {1, 3, 19})
      for (const Index cols : {1, 8, 21}) {
        const Array<S> a = uniform<S>(rows, inner, 1), b = uniform<S>(inner, cols, 2), c = uniform<S>(rows, cols, 3);
        Array<S> out(rows, cols), gradient(inner, cols);
        math::product<S>(view(out), view(a), {b.data(), 1, b.rows()}, nullptr, math::Start::zero);
        math::product_of_transposed<S>(view(gradient), true, view(a), view(c));
        products.add(out);
        of_transposed.add(gradient);
      }
  add<S>(hashes, "product", products);
  add<S>(hashes, "product_of_transposed", of_transposed);
}

// The log-density of a model whose parameters have the same bits everywhere, its samples and what some steps of
// training make of its parameters.
template <class Flow>
void add_model(Hashes& hashes, const std::string& name, Flow flow) {
  using S = typename Flow::Scalar;
  set_parameters(flow, Array<S>(S(0.5) * uniform<S>(parameter_count(flow), 1, 4)));
  const Index dim = flow.dim();
  const TransformedDistribution model{StandardNormal<S>(dim), std::move(flow)};
  Hash log_prob, sample, training;
  const Array<S> data = S(3) * uniform<S>(150, dim, 5);
  log_prob.add(model.log_prob(data));
  add<S>(hashes, name + ".log_prob", log_prob);
  sample.add(model.sample(100, 6));
  add<S>(hashes, name + ".sample", sample);
  if constexpr (fused) {
    hashes.emplace_back(text<S>(name + ".training"), "-");
  } else {
    std::vector<Index> rows(static_cast<std::size_t>(data.rows()));
    std::iota(rows.begin(), rows.end(), Index{0});
    const MaximumLikelihood<S> objective(data);
    Trainer trainer(model, objective, rows, FitOptions{.batch = 140, .clip_ratio = 0});
    for (int k = 0; k < 3; ++k) trainer.step(1e-2);
    training.add(trainer.result());
    add<S>(hashes, name + ".training", training);
  }
}

Hashes computed() {
  Hashes hashes;
  add_elementwise<float>(hashes);
  add_elementwise<double>(hashes);
  add_random<float>(hashes);
  add_random<double>(hashes);
  add_products<float>(hashes);
  add_products<double>(hashes);
  const MlpOptions network{.hidden = {12, 9}, .last_scale = 0.01, .first_scale = 1};
  add_model(hashes, "real_nvp", real_nvp<float>(3, {.layers = 2, .network = network}));
  add_model(hashes, "cnf", cnf<double>(3, {.network = network}));
  return hashes;
}

// Instruction sets that have a column, in their order.
const std::vector<std::string> columns = {"sse2", "avx2_fma", "avx512"};

const std::string instruction_set = DIFFEO_ISA_NAME;

// The hashes of a file by name, one for each column.
using Table = std::map<std::string, std::vector<std::string>>;
Table read_table(const std::string& path) {
  Table table;
  std::ifstream file(path);
  for (std::string line, name; std::getline(file, line);) {
    std::istringstream words(line);
    if (line.starts_with('#') || !(words >> name)) continue;
    std::vector<std::string>& row = table[name];
    for (std::string hash; words >> hash;) row.push_back(hash);
  }
  return table;
}

// The file with one column taken from `hashes`; rows of other names are left out.
void write_table(const std::string& path, const Hashes& hashes, std::size_t column) {
  Table table = read_table(path);
  std::ofstream file(path);
  file << "# Hashes of results by instruction set, see hashes.cpp. Written by: cmake --build build/test --target "
          "hashes\n";
  file << std::left << std::setw(32) << "# name";
  for (const std::string& name : columns) file << ' ' << std::setw(name == columns.back() ? 0 : 16) << name;
  file << '\n';
  for (const auto& [name, hash] : hashes) {
    std::vector<std::string>& row = table[name];
    row.resize(columns.size(), "-");
    row[column] = hash;
    file << std::setw(32) << name;
    for (const std::string& one : row) file << ' ' << std::setw(one == row.back() ? 0 : 16) << one;
    file << '\n';
  }
}

}  // namespace

TEST_CASE("results have the bits of the instruction set's column, whatever the compiler", "[hashes]") {
#if !defined(__x86_64__)
  WARN("hashes are kept for x86-64 only");
#else
  const auto column =
      static_cast<std::size_t>(std::find(columns.begin(), columns.end(), instruction_set) - columns.begin());
  if (column == columns.size()) {
    WARN("there is no column for " << instruction_set);
    return;
  }
  const std::string path = DIFFEO_TESTS_DIR "/hashes.txt";
  const Hashes hashes = computed();
  if (std::getenv("DIFFEO_WRITE_HASHES")) return write_table(path, hashes, column);
  Table table = read_table(path);
  CHECK(table.size() == hashes.size());
  for (const auto& [name, hash] : hashes) {
    INFO(name);
    REQUIRE(table[name].size() == columns.size());
    CHECK(table[name][column] == hash);
    // Elementary functions, random numbers, products and what is made of them row by row have the same bits wherever
    // there is a fused multiply-add; sums over rows go by the width of a register.
    const bool sums_rows = contains(name, "product_of_transposed");
    if (!sums_rows) CHECK(table[name][1] == table[name][2]);
  }
#endif
}
