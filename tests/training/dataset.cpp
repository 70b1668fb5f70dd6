// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/data/csv.hpp>
#include <diffeo/data/dequantise.hpp>
#include <diffeo/data/toy2d.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/training/dataset.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/training/reverse_kl.hpp>
#include <limits>
#include <numeric>
#include <sstream>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Dataset;
using diffeo::DiagonalNormal;
using diffeo::FitOptions;
using diffeo::FitReport;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::MaximumLikelihood;
using diffeo::StandardNormal;
using diffeo::TransformedDistribution;

namespace {

template <diffeo::Real S>
Array<S> skewed(Index rows, std::uint64_t stream) {
  Array<S> x = gaussian<S>(rows, 2, stream);
  x.col(1) = x.col(1).exp() + x.col(0) * S(0.3);
  return x;
}

template <diffeo::Real S>
Array<S> some_weights(Index rows) {
  return gaussian<S>(rows, 1, 77).exp();
}

template <diffeo::Real S>
auto coupling_flow(const Array<S>& data) {
  return TransformedDistribution(StandardNormal<S>(2),
                                 diffeo::real_nvp(data, {.layers = 2, .network = {.hidden = {8, 8}}}));
}

template <class S>
Array<S> normal_pairs(Index rows) {
  Array<S> x(rows, 2);
  diffeo::fill_normal(diffeo::view(x), 3, 3);
  return x;
}

template <class S>
DiagonalNormal<S> centred_normal() {
  return {Array<S>::Zero(1, 2), Array<S>::Zero(1, 2)};
}

const double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEMPLATE_TEST_CASE("weights: a weighted Gaussian is found in closed form", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = skewed<S>(400, 1), weights = some_weights<S>(400);
  const Array<double> w = weights.template cast<double>() / static_cast<double>(weights.sum());
  auto model = DiagonalNormal<S>::standard(2);
  diffeo::fit(model, {.x = x, .weights = weights},
              {.steps = 3000, .batch = 400, .rate = {.learning_rate = 0.02}, .clip_ratio = 0, .threads = 1});
  for (Index j = 0; j < 2; ++j) {
    const Array<double> column = x.col(j).template cast<double>();
    const double mean = (w * column).sum(), variance = (w * (column - mean).square()).sum();
    CHECK(std::abs(static_cast<double>(model.mean(0, j)) - mean) < 1e-3);
    CHECK(std::abs(std::exp(2 * static_cast<double>(model.log_scale(0, j))) - variance) < 1e-3);
    CHECK(std::abs(mean - column.mean()) > 0.01);  // weights matter here
  }
}

TEMPLATE_TEST_CASE("weights: loss and gradient of a step are weighted means", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = skewed<S>(300, 2), weights = some_weights<S>(300);
  Array<S> weights_with_none = weights;
  weights_with_none.topRows(50) = 0;
  for (const Array<S>& given : {weights, weights_with_none})
    for (const int threads : {1, 2}) {
      auto model = DiagonalNormal<S>::standard(2);
      model.mean << S(0.2), S(1);
      const Dataset<S> data{.x = x, .weights = given};
      const MaximumLikelihood<S> objective(data);
      std::vector<Index> rows(300);
      std::iota(rows.begin(), rows.end(), Index{0});
      // So large an epsilon makes Adam's first step proportional to the gradient.
      diffeo::Trainer trainer(model, objective, rows,
                              FitOptions{.batch = 300, .adam = {.epsilon = 1e9}, .threads = threads});
      const double loss = trainer.step(1e9);
      const Array<double> w = given.template cast<double>() / static_cast<double>(given.template cast<double>().sum());
      double expected = 0;
      for (Index i = 0; i < 300; ++i) expected -= w(i, 0) * static_cast<double>(model.log_prob(x.row(i))(0, 0));
      CHECK(loss == Approx(expected).epsilon(1e-5));
      const Array<S> moved = trainer.result() - diffeo::parameters(model);
      for (Index j = 0; j < 2; ++j) {
        const Array<double> z = x.col(j).template cast<double>() - static_cast<double>(model.mean(0, j));
        CHECK(static_cast<double>(moved(j, 0)) == Approx((w * z).sum()).epsilon(1e-4));
        CHECK(static_cast<double>(moved(2 + j, 0)) == Approx((w * z.square()).sum() - 1).epsilon(1e-4));
      }
      CHECK(diffeo::mean_loss(model, objective, rows) == Approx(expected).epsilon(1e-5));
    }
}

TEMPLATE_TEST_CASE("weights: those of 0 and 1 are a choice of rows, bit by bit", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = skewed<S>(200, 3);
  Array<S> weights(200, 1), chosen(120, 2);
  for (Index i = 0, k = 0; i < 200; ++i) {
    weights(i, 0) = i % 5 < 3 ? S(1) : S(0);
    if (i % 5 < 3) chosen.row(k++) = x.row(i);
  }
  const auto start = coupling_flow<S>(x * S(2));  // so that there is something to learn
  for (const double held_out : {0.0, 0.25}) {
    const FitOptions options{.steps = 30, .batch = 32, .validation_fraction = held_out, .validation_every = 10};
    auto weighted = start, subset = start, all = start;
    const FitReport report = diffeo::fit(weighted, {.x = x, .weights = weights}, options),
                    of_subset = diffeo::fit(subset, chosen, options);
    CHECK((diffeo::parameters(weighted) == diffeo::parameters(subset)).all());
    CHECK(report.loss == of_subset.loss);
    CHECK(report.validation_loss == of_subset.validation_loss);
    CHECK((report.best_step > 0) == (held_out > 0));
    diffeo::fit(all, x, options);
    CHECK((diffeo::parameters(weighted) != diffeo::parameters(all)).any());
  }
}

TEMPLATE_TEST_CASE("weights that are all equal are as good as none", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> x = skewed<S>(200, 3), equal = Array<S>::Constant(200, 1, S(0.1));
  auto plain = coupling_flow(x), weighted = plain, aggregate = plain;
  const FitOptions options{.steps = 20, .batch = 32, .validation_fraction = 0.2, .validation_every = 10};
  const FitReport expected = diffeo::fit(plain, x, options),
                  report = diffeo::fit(weighted, {.x = x, .weights = equal}, options);
  CHECK((diffeo::parameters(plain) == diffeo::parameters(weighted)).all());
  CHECK(expected.loss == report.loss);
  CHECK(expected.validation_loss == report.validation_loss);
  diffeo::fit(aggregate, {.x = x}, options);
  CHECK((diffeo::parameters(plain) == diffeo::parameters(aggregate)).all());
}

TEST_CASE("weights: the same bits on any number of threads, and their unit does not matter", "[training]") {
  const Array<double> x = skewed<double>(500, 4), weights = some_weights<double>(500);
  const auto start = coupling_flow(x);
  const auto trained = [&](const Array<double>& w, int threads) {
    auto model = start;
    diffeo::fit(model, {.x = x, .weights = w}, {.steps = 20, .batch = 300, .threads = threads});
    return diffeo::parameters(model);
  };
  const Array<double> values = trained(weights, 1);
  CHECK((trained(weights, 2) == values).all());
  CHECK((trained(weights, 3) == values).all());
  CHECK((trained(weights * 1024, 1) == values).all());
  CHECK((trained(weights.square(), 1) != values).any());
}

TEST_CASE("weights: validation is weighted too", "[training]") {
  const Array<double> x = skewed<double>(300, 5), valid = skewed<double>(100, 6), weights = some_weights<double>(100);
  auto model = coupling_flow(x);
  const FitReport report = diffeo::fit(model, {.x = x}, {.x = valid, .weights = weights},
                                       {.steps = 40, .batch = 64, .validation_every = 10});
  CHECK(report.validation_step == std::vector<long>{10, 20, 30, 40});
  const double expected = -(model.log_prob(valid) * weights).sum() / weights.sum();
  CHECK(report.best_validation_loss == Approx(expected).epsilon(1e-12));
  CHECK(report.best_validation_loss != Approx(-model.log_prob(valid).mean()).epsilon(1e-3));
  // A held-out share takes its weights along.
  const Array<double> all_weights = some_weights<double>(300);
  const FitReport held_out = diffeo::fit(model, {.x = x, .weights = all_weights},
                                         {.steps = 10, .validation_fraction = 0.5, .validation_every = 10});
  CHECK(std::isfinite(held_out.best_validation_loss));
}

TEST_CASE("a validation set of the user's own", "[training]") {
  const Array<float> x = skewed<float>(300, 7), valid = skewed<float>(200, 8);
  const auto start = coupling_flow(x);
  auto model = start, by_objectives = start, plain = start;
  const FitOptions options{.steps = 300,
                           .batch = 64,
                           .rate = {.learning_rate = 0.02, .schedule = diffeo::Schedule::constant},
                           .validation_every = 5,
                           .patience = 4};
  std::vector<Array<float>> seen;
  const FitReport report = diffeo::fit(
      model, {.x = x}, {.x = valid}, options,
      [&](const diffeo::FitProgress&, const auto& latest) { seen.push_back(diffeo::parameters(latest())); });
  CHECK(report.reason == diffeo::StopReason::early_stopping);
  CHECK(report.steps == report.best_step + 20);
  CHECK(report.best_validation_loss == Approx(-model.log_prob(valid).cast<double>().mean()).epsilon(1e-5));
  CHECK((diffeo::parameters(model) == seen.at(static_cast<std::size_t>(report.best_step - 1))).all());
  const MaximumLikelihood<float> training(x), validation(valid);
  CHECK(diffeo::fit(by_objectives, training, validation, options).loss == report.loss);
  CHECK(same_parameters(model, by_objectives));
  // All rows are trained on, in the order of a training without validation.
  const FitReport without = diffeo::fit(plain, x, {.steps = report.steps, .batch = 64, .rate = options.rate});
  CHECK(without.loss == report.loss);

  // Another objective may judge a training that draws its samples.
  const auto target = [](const auto& z) { return diffeo::sum_cols(diffeo::square(z - 1.0F)) * -0.5F; };
  auto variational_model = coupling_flow(x);
  const Array<float> samples = gaussian<float>(500, 2, 9) + 1.0F;
  const FitReport variational =
      diffeo::fit(variational_model, diffeo::ReverseKl(target), MaximumLikelihood<float>(samples),
                  {.steps = 200, .batch = 64, .rate = {.learning_rate = 0.02}, .validation_every = 50});
  REQUIRE(variational.validation_loss.size() == 4);
  CHECK(variational.validation_loss.back() < variational.validation_loss.front());
}

TEST_CASE("data with contexts and weights", "[training]") {
  const Array<double> x = skewed<double>(200, 10), c = gaussian<double>(200, 1, 11);
  Array<double> weights = Array<double>::Ones(200, 1);
  weights.bottomRows(80) = 0;
  TransformedDistribution start(StandardNormal<double>(2),
                                diffeo::real_nvp(x, c, {.layers = 2, .network = {.hidden = {8}}}));
  auto model = start, subset = start;
  diffeo::fit(model, {.x = x, .context = c, .weights = weights}, {.steps = 10, .batch = 50});
  diffeo::fit(subset, x.topRows(120), c.topRows(120), {.steps = 10, .batch = 50});
  CHECK(same_parameters(model, subset));

  // The objective owns what it is given.
  Dataset<double> given{.x = x, .context = c, .weights = weights};
  const MaximumLikelihood<double> owner(std::move(given));
  given = {};
  CHECK(owner.size() == 200);
  CHECK(owner.row_weight(119) == 1);
  CHECK(owner.row_weight(120) == 0);
}

namespace {

// An objective of the user's own that weighs its rows.
struct Weighing {
  MaximumLikelihood<double> good;
  double first_weight;
  Index size() const { return good.size(); }
  double row_weight(Index row) const { return row == 0 ? first_weight : 0; }
  template <class Model>
  diffeo::Var<double> loss(const Model& model, diffeo::Tape<double>& tape, const diffeo::Minibatch& batch) const {
    return good.loss(model, tape, batch);
  }
};

}  // namespace

TEST_CASE("data sets: bad input is refused and leaves the model as it was", "[training]") {
  const Array<double> x = skewed<double>(20, 12), c = gaussian<double>(20, 1, 13);
  const auto start = coupling_flow(x);
  auto model = start;
  const auto message = [&model](const Dataset<double>& data, const FitOptions& options = {}) {
    return thrown_message<invalid_argument>([&] { diffeo::fit(model, data, options); });
  };
  const auto validation_message = [&](const Dataset<double>& data, const FitOptions& options = {}) {
    return thrown_message<invalid_argument>([&] { diffeo::fit(model, {.x = x}, data, options); });
  };
  const Array<double> ones = Array<double>::Ones(20, 1);
  Array<double> negative = ones, infinite = ones, nan = ones, broken = x;
  negative(7, 0) = -0.5;
  infinite(3, 0) = std::numeric_limits<double>::infinity();
  nan(2, 0) = not_a_number;
  broken(4, 1) = not_a_number;
  CHECK(message({.x = x, .weights = ones.topRows(19)}) ==
        "fit: the weights are 19 x 1, expected 20 x 1, one for each row of the data");
  CHECK(message({.x = x, .weights = ones.transpose()}) ==
        "fit: the weights are 1 x 20, expected 20 x 1, one for each row of the data");
  CHECK(contains(message({.x = x, .weights = Array<double>(0, 1)}), "the weights are 0 x 1"));
  CHECK(message({.x = x, .weights = negative}) == "fit: the weight of row 7 is -0.5, expected a finite number >= 0");
  CHECK(contains(message({.x = x, .weights = infinite}), "the weight of row 3 is inf"));
  CHECK(contains(message({.x = x, .weights = nan}), "the weight of row 2 is nan"));
  CHECK(message({.x = x, .weights = 0 * ones}) == "fit: the weights of all rows are 0");
  CHECK(message({.x = broken}) == "fit: data is nan at (row 4, column 1), expected finite values");
  CHECK(message({.x = Array<double>::Zero(20, 3)}) == "fit: data has 3 columns, this flow has dimension 2");
  CHECK(message({.x = x.topRows(1)}) == "fit: data has 1 row, expected at least 2");
  CHECK(message({.x = Array<double>(0, 2)}) == "fit: data is empty, expected at least 2 rows");
  CHECK(message({.x = x, .context = c}) == "fit: got a context, but this model takes none");
  CHECK(contains(message({.x = x}, {.patience = 3}), "patience needs validation_fraction > 0 or a validation set"));

  CHECK(validation_message({.x = Array<double>::Zero(20, 3)}) ==
        "fit: validation: data has 3 columns, this flow has dimension 2");
  CHECK(validation_message({.x = Array<double>(0, 2)}) == "fit: validation: data is empty, expected at least 1 row");
  CHECK(validation_message({.x = broken}) ==
        "fit: validation: data is nan at (row 4, column 1), expected finite values");
  CHECK(contains(validation_message({.x = x, .weights = ones.topRows(3)}), "fit: validation: the weights are 3 x 1"));
  CHECK(contains(validation_message({.x = x, .weights = negative}), "fit: validation: the weight of row 7 is -0.5"));
  CHECK(validation_message({.x = x, .weights = 0 * ones}) == "fit: validation: the weights of all rows are 0");
  CHECK(contains(validation_message({.x = x, .context = c}), "fit: validation: got a context"));
  CHECK(validation_message({.x = x}, {.validation_fraction = 0.1}) ==
        "fit: validation_fraction is 0.1, but there is a validation set; expected 0");
  CHECK(contains(validation_message({.x = x}, {.batch = 0}), "batch is 0"));
  CHECK_NOTHROW(diffeo::fit(model, {.x = x}, {.x = x.topRows(1)}, {.steps = 0}));
  CHECK(same_parameters(model, start));

  TransformedDistribution conditional(StandardNormal<double>(2), diffeo::real_nvp(x, c, {.layers = 2}));
  const auto context_message = [&](const Dataset<double>& data) {
    return thrown_message<invalid_argument>([&] { diffeo::fit(conditional, data); });
  };
  CHECK(context_message({.x = x}) == "fit: this model takes a context of 1 columns, got none");
  CHECK(context_message({.x = x, .context = x}) == "fit: the context has 2 columns, this model takes one of 1");
  CHECK(context_message({.x = x, .context = c.topRows(4)}) == "fit: the context has 4 rows, the data 20");
  CHECK(thrown_message<invalid_argument>([&] { diffeo::fit(conditional, {.x = x, .context = c}, {.x = x}); }) ==
        "fit: validation: this model takes a context of 1 columns, got none");

  // Of an objective of one's own.
  const auto weighing = [&](double weight) {
    return thrown_message<invalid_argument>([&] {
      diffeo::fit(model, Weighing{MaximumLikelihood<double>(x), weight});
    });
  };
  CHECK(weighing(-1) == "fit: the weight of row 0 is -1, expected a finite number >= 0");
  CHECK(contains(weighing(not_a_number), "fit: the weight of row 0 is nan"));
  CHECK(weighing(0) == "fit: the weights of all rows are 0");
  const std::vector<Index> rows{0, 1, 2};
  CHECK(diffeo::mean_loss(model, Weighing{MaximumLikelihood<double>(x), 3}, rows) ==
        Approx(-model.log_prob(x.topRows(1))(0, 0)));
  CHECK(thrown_message<invalid_argument>([&] {
          diffeo::mean_loss(model, Weighing{MaximumLikelihood<double>(x), 0}, rows);
        }) == "mean_loss: the weights of all rows are 0");
}

TEST_CASE("dataset: fit refuses what float rounds to a lattice, however the data come", "[training]") {
  Array<double> exact = normal_pairs<double>(2000);
  exact.col(1) += 1e7;
  const Array<float> x = exact.cast<float>();
  auto model = centred_normal<float>();
  const auto before = diffeo::parameters(model);
  const std::string of_array = thrown_message<invalid_argument>([&] { diffeo::fit(model, exact, {.steps = 3}); });
  CHECK(contains(of_array, "fit: data: column 1 has a standard deviation of 1"));
  CHECK(contains(of_array, "Subtract an offset before the conversion, or fit in double"));
  CHECK_THROWS_AS(diffeo::fit(model, diffeo::MaximumLikelihood<float>(x), {.steps = 3}), invalid_argument);
  CHECK(contains(thrown_message<invalid_argument>([&] {
                   diffeo::fit(model, {.x = x, .names = {"mass", "time"}}, {.steps = 3});
                 }),
                 "column 1 (time) has a standard deviation"));
  CHECK((diffeo::parameters(model) == before).all());
  // Both ways out that the message names.
  auto in_double = centred_normal<double>();
  CHECK(diffeo::fit(in_double, exact, {.steps = 3}).warnings.empty());
  exact.col(1) -= 1e7;
  CHECK(diffeo::fit(model, exact, {.steps = 3}).warnings.empty());
}

TEST_CASE("dataset: contexts may be constant, but not rounded to a lattice", "[training]") {
  const Array<double> x = normal_pairs<double>(500);
  Array<double> c = Array<double>::Constant(500, 1, 4);
  CHECK_NOTHROW(diffeo::MaximumLikelihood<double>(x, c).inspect());
  const Array<float> stamps = (1.7e9 + 1e3 * x.col(0)).cast<float>();
  CHECK(contains(
      thrown_message<invalid_argument>([&] { diffeo::MaximumLikelihood<float>(x.cast<float>(), stamps).inspect(); }),
      "fit: the context: column 0 has a standard deviation of"));
}

TEST_CASE("dataset: the report warns of repeated values by the names of a file, until noise is added", "[training]") {
  std::ostringstream text;
  text << "size,class\n";
  const Array<double> noise = normal_pairs<double>(400);
  for (Index i = 0; i < noise.rows(); ++i) text << noise(i, 0) << ',' << i % 4 << '\n';
  const auto table = diffeo::parse_csv<double>(text.str());
  auto model = centred_normal<double>();
  const auto report = diffeo::fit(model, {.x = table.values, .names = table.columns}, {.steps = 5});
  REQUIRE(report.warnings.size() == 1);
  CHECK(contains(report.warnings[0], "column 1 (class) has 4 distinct values in 400 rows"));
  std::ostringstream told;
  told << report;
  CHECK(contains(told.str(), "\n  warning: column 1 (class)"));
  CHECK(diffeo::fit(model, diffeo::dequantise(table.values, {.columns = {1}}), {.steps = 5}).warnings.empty());
}

TEST_CASE("dataset: NaN and names of another number are told with the name of the column", "[training]") {
  Array<double> x = normal_pairs<double>(20);
  auto model = centred_normal<double>();
  CHECK(contains(thrown_message<invalid_argument>([&] { diffeo::fit(model, {.x = x, .names = {"a"}}); }),
                 "fit: got 1 names for 2 columns"));
  x(7, 1) = std::numeric_limits<double>::infinity();
  CHECK(contains(thrown_message<invalid_argument>([&] {
                   diffeo::fit(model, {.x = x, .names = {"a", "b"}});
                 }),
                 "fit: data is inf at (row 7, column 1 (b)), expected finite values"));
}

TEST_CASE("dataset: rows of weight 0 are not inspected, and the others are", "[training]") {
  Array<double> x = normal_pairs<double>(1000), weights = Array<double>::Ones(1000, 1);
  auto model = centred_normal<double>();
  x.topRows(300) = -999;
  weights.topRows(300) = 0;
  CHECK(diffeo::fit(model, {.x = x, .weights = weights}, {.steps = 3}).warnings.empty());
  weights = 1 - weights;
  CHECK_THROWS_AS(diffeo::fit(model, {.x = x, .weights = weights}, {.steps = 3}), invalid_argument);
  weights.setZero();
  weights(500, 0) = 1;
  CHECK(contains(
      thrown_message<invalid_argument>([&] { diffeo::fit(model, {.x = x, .weights = weights}, {.steps = 3}); }),
      "fit: data has 1 row of a weight above 0, expected at least 2"));
}

TEST_CASE("dataset: an objective with a context and a model without one do not fit", "[training]") {
  const Array<double> x = normal_pairs<double>(100);
  auto model = centred_normal<double>();
  CHECK(contains(
      thrown_message<invalid_argument>([&] { diffeo::fit(model, MaximumLikelihood<double>(x, x), {.steps = 3}); }),
      "fit: got a context, but this model takes none"));
}
