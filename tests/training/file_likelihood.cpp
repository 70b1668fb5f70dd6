// SPDX-License-Identifier: MIT
#include <cstring>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/training/file_likelihood.hpp>
#include <diffeo/training/fit.hpp>
#include <filesystem>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::DiagonalNormal;
using diffeo::FileLikelihood;
using diffeo::FileLikelihoodOptions;
using diffeo::FitOptions;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::MaximumLikelihood;

namespace {

/// An .npy file in the folder for temporary files that is removed at the end.
struct TemporaryNpy {
  std::string path = (std::filesystem::temp_directory_path() /
                      ("diffeo_file_likelihood_" + std::to_string(std::random_device{}()) + ".npy"))
                         .string();
  template <class Derived>
  explicit TemporaryNpy(const Eigen::DenseBase<Derived>& values) {
    diffeo::write_npy(path, values);
  }
  ~TemporaryNpy() { std::filesystem::remove(path); }
  TemporaryNpy(const TemporaryNpy&) = delete;
  TemporaryNpy& operator=(const TemporaryNpy&) = delete;
};

template <class S>
Array<S> two_columns(Index rows) {
  Array<S> x(rows, 2);
  diffeo::fill_normal(diffeo::view(x), 5, 1);
  x.col(1) = S(0.5) * x.col(1) + S(3);
  return x;
}

// Column 0 is the number of the row.
Array<double> numbered(Index rows) {
  Array<double> x(rows, 2);
  for (Index i = 0; i < rows; ++i) x.row(i) << static_cast<double>(i), static_cast<double>(2 * i);
  return x;
}

template <class Model>
auto trained(Model model, const auto& objective, const FitOptions& options) {
  diffeo::fit(model, objective, options);
  return diffeo::parameters(model);
}

}  // namespace

TEMPLATE_TEST_CASE("file likelihood: a file in one block trains with the bits of data in memory", "[training]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = two_columns<S>(3000);
  const TemporaryNpy file(x);
  const diffeo::TransformedDistribution model(diffeo::StandardNormal<S>(2),
                                              diffeo::real_nvp(x, {.layers = 2, .network = {.hidden = {8}}}));
  for (const int threads : {1, 2}) {
    const FitOptions options{.steps = 30, .batch = 256, .seed = 4, .threads = threads};
    const Array<S> expected = trained(model, MaximumLikelihood<S>(x), options);
    const Array<S> found = trained(model, FileLikelihood<S>(file.path), options);
    REQUIRE(found.size() == expected.size());
    CHECK(std::memcmp(found.data(), expected.data(), sizeof(S) * static_cast<std::size_t>(found.size())) == 0);
  }
  // Blocks give another order of the rows, which is the same every time.
  const FitOptions options{.steps = 30, .batch = 256, .seed = 4};
  const FileLikelihood<S> in_blocks(file.path, {.block_bytes = 600 * 2 * sizeof(S), .chunk_rows = 50});
  CHECK(in_blocks.blocks() == 5);
  const Array<S> once = trained(model, in_blocks, options), again = trained(model, in_blocks, options);
  CHECK((once == again).all());
  CHECK((once != trained(model, MaximumLikelihood<S>(x), options)).any());
}

TEST_CASE("file likelihood: an epoch chooses each row once, from blocks that mix the file", "[training]") {
  const TemporaryNpy file(numbered(1017));
  const FileLikelihood<double> data(file.path, {.block_bytes = 200 * 2 * sizeof(double), .chunk_rows = 10});
  CHECK((data.size() == 1017 && data.dim() == 2 && data.context_dim() == 0));
  REQUIRE(data.blocks() == 6);
  FileLikelihood<double>::StepState state;
  std::vector<Index> chosen(30);
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::set<Index> seen;
    Index taken = 0;
    for (Index block = 0; block < data.blocks(); ++block) {
      double low = 2000, high = 0;
      // A block has 167 or 170 rows, 5 minibatches of 30.
      for (int step = 0; step < 5; ++step) {
        data.choose_rows(state, chosen, 7);
        data.begin_step(state, diffeo::Minibatch{.rows = chosen});
        for (std::size_t i = 0; i < chosen.size(); ++i) {
          const double row = static_cast<double>(chosen[i]);
          seen.insert(chosen[i]);
          low = std::min(low, row), high = std::max(high, row);
          CHECK((state.x(static_cast<Index>(i), 0) == row && state.x(static_cast<Index>(i), 1) == 2 * row));
        }
        taken += 30;
      }
      CHECK(high - low > 500);
    }
    CAPTURE(epoch);
    CHECK(static_cast<Index>(seen.size()) == taken);
    CHECK(taken == 900);
  }
}

TEST_CASE("file likelihood: a sorted file is learned in blocks", "[training]") {
  Array<double> x = two_columns<double>(20000);
  std::sort(x.col(0).begin(), x.col(0).end());
  const TemporaryNpy file(x);
  DiagonalNormal<double> model{Array<double>::Zero(1, 2), Array<double>::Zero(1, 2)};
  const FileLikelihood<double> data(file.path, {.block_bytes = 2000 * 2 * sizeof(double), .chunk_rows = 20});
  diffeo::fit(model, data, {.steps = 3000, .rate = {.learning_rate = 0.02}});
  const double rows = static_cast<double>(x.rows());
  for (Index j = 0; j < 2; ++j) {
    const double mean = x.col(j).mean(), spread = std::sqrt((x.col(j) - mean).square().sum() / rows);
    CHECK(model.mean(0, j) == Approx(mean).margin(0.01 * spread));
    CHECK(std::exp(model.log_scale(0, j)) == Approx(spread).epsilon(0.01));
  }
}

TEST_CASE("file likelihood: columns are chosen, for x and for the context", "[training]") {
  Array<float> table(500, 4);
  diffeo::fill_normal(diffeo::view(table), 2, 2);
  const TemporaryNpy file(table);
  const FileLikelihood<float> data(file.path, {.columns = {3, 1}, .context = {0}});
  CHECK((data.dim() == 2 && data.context_dim() == 1));
  const auto some = data.sample(50);
  REQUIRE((some.x.rows() == 50 && some.x.cols() == 2 && some.context.cols() == 1));
  for (Index i = 0; i < 50; ++i) {  // one of each ten rows
    const auto ten = table.middleRows(10 * i, 10);
    Index row = 0;
    while (row < 9 && ten(row, 3) != some.x(i, 0)) ++row;
    CHECK((some.x(i, 0) == ten(row, 3) && some.x(i, 1) == ten(row, 1) && some.context(i, 0) == ten(row, 0)));
  }
  CHECK(data.sample(10'000).x.rows() == 500);
  CHECK(FileLikelihood<float>(file.path, {.context = {2}}).dim() == 3);

  Array<float> x(500, 2), c(500, 1);
  x << table.col(3), table.col(1);
  c << table.col(0);
  const diffeo::TransformedDistribution model(diffeo::StandardNormal<float>(2),
                                              diffeo::real_nvp(x, c, {.layers = 2, .network = {.hidden = {8}}}));
  const FitOptions options{.steps = 20, .batch = 128};
  CHECK((trained(model, data, options) == trained(model, MaximumLikelihood<float>(x, c), options)).all());
  // Rows that are in no block are read one by one, as validation on a file does.
  std::vector<Index> rows(100);
  std::iota(rows.begin(), rows.end(), Index{300});
  CHECK(diffeo::mean_loss(model, data, rows) ==
        Approx(diffeo::mean_loss(model, MaximumLikelihood<float>(x, c), rows)).epsilon(1e-6));
  const auto refused = [&](const FileLikelihood<float>& objective) {
    return thrown_message<diffeo::invalid_argument>([&] { trained(model, objective, options); });
  };
  CHECK(refused(FileLikelihood<float>(file.path, {.columns = {3, 1}})) ==
        "fit: this model takes a context of 1 columns, got none");
  CHECK(refused(FileLikelihood<float>(file.path, {.columns = {3, 1}, .context = {0, 2}})) ==
        "fit: the context has 2 columns, this model takes one of 1");
}

TEST_CASE("file likelihood: mistakes are named", "[training]") {
  Array<double> x = two_columns<double>(1000);
  const TemporaryNpy file(x);
  const auto message = [&file](const FileLikelihoodOptions& options) {
    return thrown_message<diffeo::invalid_argument>([&] { FileLikelihood<double>(file.path, options); });
  };
  CHECK(contains(message({.columns = {2}}), "fit: column 2, " + file.path + " has 2 columns"));
  CHECK(contains(message({.columns = {0, 0}}), "column 0 of " + file.path + " is named twice"));
  CHECK(contains(message({.columns = {0}, .context = {0}}), "is named twice"));
  CHECK(contains(message({.context = {0, 1}}), "no columns of " + file.path + " are left for x"));
  CHECK(contains(message({.chunk_rows = 0}), "fit: chunk_rows is 0"));
  CHECK(contains(message({.block_bytes = 8}), "fit: block_bytes is 8, a row has 16"));
  CHECK_THROWS_AS(FileLikelihood<double>("none.npy"), diffeo::io_error);
  const TemporaryNpy empty(Array<double>(0, 2));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { FileLikelihood<double>{empty.path}; }), "has no rows"));

  DiagonalNormal<double> model{Array<double>::Zero(1, 2), Array<double>::Zero(1, 2)};
  const FileLikelihood<double> data(file.path, {.block_bytes = 160, .chunk_rows = 5});
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { diffeo::fit(model, data, {.steps = 3}); }),
                 "rows, the minibatch 512: raise block_bytes"));
  CHECK(contains(
      thrown_message<diffeo::invalid_argument>([&] { diffeo::fit(model, data, {.validation_fraction = 0.1}); }),
      "this objective chooses its rows"));
  // The blocks of a file differ by few rows, so that the smallest holds a minibatch, or none does.
  const TemporaryNpy uneven(two_columns<double>(10'001));
  for (const Index rows : {1000, 3334, 5001, 10'000}) {
    const FileLikelihood<double> blocks(uneven.path, {.block_bytes = static_cast<std::size_t>(16 * rows)});
    CAPTURE(rows, blocks.blocks());
    CHECK_NOTHROW(diffeo::fit(model, blocks, {.steps = 60}));
  }
  CHECK_THROWS_AS(data.sample(0), diffeo::invalid_argument);
  DiagonalNormal<double> wide{Array<double>::Zero(1, 3), Array<double>::Zero(1, 3)};
  CHECK(contains(thrown_message<diffeo::invalid_argument>(
                     [&] { diffeo::fit(wide, FileLikelihood<double>(file.path), {.steps = 3}); }),
                 "fit: data has 2 columns, this flow has dimension 3"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] {
                   diffeo::fit(model, MaximumLikelihood<double>(x), FileLikelihood<double>(file.path, {.columns = {0}}),
                               {.steps = 3});
                 }),
                 "fit: validation: data has 1 columns, this flow has dimension 2"));
  DiagonalNormal<double> narrow{Array<double>::Zero(1, 1), Array<double>::Zero(1, 1)};
  CHECK(contains(thrown_message<diffeo::invalid_argument>(
                     [&] { diffeo::fit(narrow, FileLikelihood<double>(file.path, {.context = {1}}), {.steps = 3}); }),
                 "fit: got a context, but this model takes none"));

  x(777, 1) = std::numeric_limits<double>::quiet_NaN();
  const TemporaryNpy with_nan(x);
  CHECK(contains(thrown_message<diffeo::invalid_argument>(
                     [&] { diffeo::fit(model, FileLikelihood<double>(with_nan.path), {.steps = 3}); }),
                 "is nan at (row 777, column 1)"));
}

TEST_CASE("file likelihood: a file that is cut during the training ends it with an error and a usable model",
          "[training]") {
  const TemporaryNpy file(two_columns<double>(50000));
  DiagonalNormal<double> model{Array<double>::Zero(1, 2), Array<double>::Zero(1, 2)};
  const FileLikelihood<double> data(file.path, {.block_bytes = 16 * 1000, .chunk_rows = 100});
  const auto cut = [&file](const diffeo::FitProgress& progress) {
    if (progress.step == 20) std::filesystem::resize_file(file.path, 1000);
  };
  CHECK(thrown_message<diffeo::io_error>([&] { diffeo::fit(model, data, {.steps = 1000, .batch = 100}, cut); }) ==
        file.path + " was truncated while it was open");
  CHECK((model.mean != 0).all());
  CHECK(model.mean.allFinite());
}

TEST_CASE("file likelihood: data are inspected by the columns of the file", "[training]") {
  Array<double> x = two_columns<double>(100'000);
  for (Index i = 0; i < x.rows(); ++i) x(i, 1) = static_cast<double>(i % 3);
  for (Index i = 0; i < x.rows(); i += 10) x(i, 0) = 0;
  const TemporaryNpy file(x);
  const auto warnings = FileLikelihood<double>(file.path, {.columns = {1}}).inspect();
  REQUIRE(warnings.size() == 1);
  CHECK(contains(warnings[0], "column 0 (column 1 of " + file.path + ") has 3 distinct values in 10000 rows"));
  x.col(0) += 1e15;
  const TemporaryNpy lattice(x);
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { FileLikelihood<double>(lattice.path).inspect(); }),
                 "column 0 (column 0 of " + lattice.path + ") has a standard deviation of"));
}
