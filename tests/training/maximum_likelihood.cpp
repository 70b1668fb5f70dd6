// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/validate.hpp>
#include <limits>
#include <memory>
#include <numeric>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::invalid_argument;
using diffeo::MaximumLikelihood;
using diffeo::Var;

TEMPLATE_TEST_CASE("maximum likelihood: the loss is -log p of the chosen rows", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  Array<S> data(5, 2);
  data << 0, 0, 1, 0, 0, 2, 3, 0, 0, 4;
  const MaximumLikelihood<S> objective(data);
  CHECK(objective.size() == 5);
  CHECK(&objective.data() == &data);
  const std::vector<Index> rows{4, 1, 1, 0};
  diffeo::Tape<S> tape;
  const auto loss = objective.loss(diffeo::StandardNormal<S>(2), tape, {rows, 0, 0, 0});
  REQUIRE(loss.rows() == 4);
  REQUIRE(loss.cols() == 1);
  const double at_zero = diffeo::detail::log_two_pi;
  const double expected[] = {8, 0.5, 0.5, 0};
  for (std::size_t i = 0; i < 4; ++i) CHECK(loss.value().data[i] == Approx(at_zero + expected[i]).epsilon(1e-6));
}

namespace {

// z = x - shift, which costs |first coordinate of x| in training.
template <class T>
struct Toll {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::param_t<T> shift;

  Index dim() const { return shift.cols(); }
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.shift);
  }
  template <class U>
  Toll<U> rebind() const {
    return {};
  }
  diffeo::Transformed<Var<Scalar>> forward(const Var<Scalar>& z) const { return {z + shift, zeros(z, 1)}; }
  diffeo::Transformed<Var<Scalar>> inverse(const Var<Scalar>& x, const diffeo::Pass<Scalar>& pass = {}) const {
    if (pass.training) pass.penalties->add(abs(diffeo::cols(x, 0, 1)));
    return {x - shift, zeros(x, 1)};
  }
};

}  // namespace

TEMPLATE_TEST_CASE("maximum likelihood: a penalty is part of the loss while it is trained", "[training]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  Array<S> data(4, 2);
  data << 0, 0, 1, 0, -2, 2, 3, 1;
  const MaximumLikelihood<S> objective(data);
  const std::vector<Index> rows{3, 2, 0};
  const diffeo::TransformedDistribution model(diffeo::StandardNormal<S>(2), Toll<S>{Array<S>::Ones(1, 2)});
  diffeo::Tape<S> tape;
  Array<S> values = diffeo::parameters(model), grads(values.rows(), 1);
  const auto lifted = diffeo::lift(tape, model, values.data(), grads.data());
  const auto trained = objective.loss(lifted, tape, {.rows = rows, .training = true}),
             plain = objective.loss(model, tape, {rows, 0, 0, 0}),
             evaluated = objective.loss(lifted, tape, {rows, 0, 0, 0});
  const Array<S> log_prob = model.log_prob(data);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(plain.value().data[i] == -log_prob(rows[i], 0));
    CHECK(evaluated.value().data[i] == -log_prob(rows[i], 0));
    CHECK(trained.value().data[i] == std::abs(data(rows[i], 0)) - log_prob(rows[i], 0));
  }
  // log_prob itself is without it.
  diffeo::Penalties<S> penalties;
  const auto with = lifted.log_prob(tape.copy(data), {.training = true, .penalties = &penalties});
  CHECK((diffeo::as_eigen(with.value()) == log_prob).all());
  CHECK((diffeo::as_eigen(penalties.sum().value()) == data.col(0).abs()).all());
}

TEMPLATE_TEST_CASE("maximum likelihood: bad data", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  Array<S> data = Array<S>::Zero(5, 2);
  CHECK(contains(thrown_message<invalid_argument>([] {
                   const Array<S> none(0, 2);
                   MaximumLikelihood<S> o(none);
                 }),
                 "fit: data is empty"));
  data(3, 1) = std::numeric_limits<S>::quiet_NaN();
  CHECK(thrown_message<invalid_argument>([&] { MaximumLikelihood<S> o(data); }) ==
        "fit: data is nan at (row 3, column 1), expected finite values");
  data(2, 0) = -std::numeric_limits<S>::infinity();
  CHECK(thrown_message<invalid_argument>([&] { MaximumLikelihood<S> o(data); }) ==
        "fit: data is -inf at (row 2, column 0), expected finite values");
}

TEST_CASE("maximum likelihood: owns data that nobody else does", "[training]") {
  const Array<double> data = Array<double>::Random(50, 2);
  const std::vector<Index> rows{0, 9};
  const auto losses = [&rows](const MaximumLikelihood<double>& objective) {
    diffeo::Tape<double> tape;
    return Array<double>(
        diffeo::as_eigen(objective.loss(diffeo::StandardNormal<double>(2), tape, {rows, 0, 0, 0}).value()));
  };
  auto made = std::make_unique<MaximumLikelihood<double>>(data.topRows(10));
  const MaximumLikelihood<double> copy = *made;
  made.reset();
  const std::vector<Array<double>> others(50, Array<double>::Constant(10, 2, 1000.0));
  CHECK(copy.size() == 10);
  CHECK((losses(copy) == losses(MaximumLikelihood<double>(data))).all());
}

namespace {

// Asks for a penalty wherever somebody would collect it.
struct AlwaysPenalised {
  using Scalar = float;
  Index dim() const { return 2; }
  template <class Self>
  static auto fields(Self&) {
    return std::tuple<>();
  }
  template <class U>
  AlwaysPenalised rebind() const {
    return *this;
  }
  Var<float> log_prob(const Var<float>& x, const diffeo::Pass<float>& pass) const {
    if (pass.penalties) pass.penalties->add(zeros(x, 1) + 100.0F);
    return zeros(x, 1);
  }
  Var<float> log_prob(const Var<float>& x) const { return zeros(x, 1); }
};

}  // namespace

TEST_CASE("maximum likelihood: validation collects no penalties", "[training]") {
  const Array<float> data = Array<float>::Ones(20, 2);
  std::vector<Index> rows(20);
  std::iota(rows.begin(), rows.end(), Index{0});
  CHECK(mean_loss(AlwaysPenalised{}, MaximumLikelihood<float>(data), rows) == 0);
}
