// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>

#include "../catch.hpp"

using namespace diffeo;

namespace {

// A part, and a structure with parts in every arrangement that fields may have.
template <class T>
struct Scale {
  using Scalar = scalar_t<T>;
  param_t<T> factor;
  Buffer<T> offset;

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.factor, self.offset);
  }
  template <class U>
  Scale<U> rebind() const {
    return {};
  }
};

template <class T>
struct Model {
  using Scalar = scalar_t<T>;
  param_t<T> weight, bias;
  std::vector<Scale<T>> scales;
  std::tuple<Scale<T>, std::vector<param_t<T>>> rest;

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.weight, self.bias, self.scales, self.rest);
  }
  template <class U>
  Model<U> rebind() const {
    return {
        {}, {}, std::vector<Scale<U>>(scales.size()), {Scale<U>{}, std::vector<param_t<U>>(std::get<1>(rest).size())}};
  }

  Var<Scalar> operator()(Var<Scalar> x) const {
    x = affine(x, weight, bias);
    for (const Scale<T>& s : scales) x = x * s.factor + s.offset;
    return x * std::get<1>(rest)[0];  // the scale in `rest` is not used
  }
};

template <Real S>
Model<S> make_model() {
  const auto row = [](S first) { return Array<S>{{first, first + 1}}; };
  return {Array<S>{{1, 2, 3}, {4, 5, 6}},
          row(7),
          {{row(9), {row(-1)}}, {row(11), {row(-3)}}},
          {{row(13), {row(-5)}}, {row(15)}}};
}

}  // namespace

TEMPLATE_TEST_CASE("lift: the flat order is that of the fields, arrays column by column", "[lift]", float, double) {
  using S = TestType;
  const Model<S> model = make_model<S>();
  CHECK(parameter_count(model) == 16);
  const Array<S> flat = parameters(model);
  const Array<S> expected{{1}, {4}, {2}, {5}, {3}, {6}, {7}, {8}, {9}, {10}, {11}, {12}, {13}, {14}, {15}, {16}};
  REQUIRE(flat.rows() == 16);
  REQUIRE(flat.cols() == 1);
  CHECK((flat == expected).all());

  std::vector<S> arrays;  // all arrays: buffers too
  for_each_leaf(model, [&arrays](const Path&, LeafKind, const Array<S>& a) { arrays.push_back(a(0)); });
  CHECK(arrays == std::vector<S>{1, 7, 9, -1, 11, -3, 13, -5, 15});
}

TEMPLATE_TEST_CASE("lift: set_parameters takes back what parameters gave", "[lift]", float, double) {
  using S = TestType;
  const Model<S> model = make_model<S>();
  Model<S> other = model;
  set_parameters(other, Array<S>(Array<S>::Zero(16, 1)));
  CHECK((parameters(other) == 0).all());
  CHECK((other.scales[0].offset.value == model.scales[0].offset.value).all());  // not a parameter
  set_parameters(other, parameters(model));
  CHECK((parameters(other) == parameters(model)).all());
  CHECK((other.weight == model.weight).all());
  CHECK(thrown_message<invalid_argument>([&] { set_parameters(other, Array<S>(Array<S>::Zero(15, 1))); }) ==
        "set_parameters: 15 values, the model has 16");
  CHECK((parameters(other) == parameters(model)).all());
}

TEST_CASE("lift: the lifted model has the values and the gradients of the flat vectors", "[lift]") {
  const Model<double> model = make_model<double>();
  Array<double> values = parameters(model), grads = Array<double>::Constant(16, 1, std::nan(""));
  Tape<double> tape;
  const Model<Var<double>> lifted = lift(tape, model, values.data(), grads.data());
  CHECK(lifted.weight.rows() == 2);
  CHECK(lifted.weight.cols() == 3);
  CHECK(lifted.weight.value().data == values.data());
  CHECK(lifted.weight.requires_grad());
  REQUIRE(lifted.scales.size() == 2);
  CHECK(lifted.scales[1].factor.value().data == values.data() + 10);
  // Buffers are constants that refer to the model.
  CHECK(lifted.scales[1].offset.value.value().data == model.scales[1].offset.value.data());
  CHECK_FALSE(lifted.scales[1].offset.value.requires_grad());

  const Array<double> x = Array<double>::Random(20, 3), seed = Array<double>::Random(20, 2);
  const auto value = [&](const Array<double>& flat) {
    Model<double> at = model;
    set_parameters(at, flat);
    Tape<double> t;
    return (as_eigen(at(t.constant(x)).value()) * seed).sum();
  };
  for (int round = 0; round < 2; ++round) {
    tape.redirect_parameter_grads(grads.data());
    tape.reset();
    const Var<double> y = lifted(tape.copy(x));
    CHECK((as_eigen(y.value()) * seed).sum() == Approx(value(values)).epsilon(1e-12));
    tape.backward(y, view(seed));
    tape.finish_parameter_grads();
    for (Index k = 0; k < 16; ++k) {
      Array<double> above = values, below = values;
      above(k) += 1e-4;
      below(k) -= 1e-4;
      CAPTURE(k);
      CHECK(grads(k) == Approx((value(above) - value(below)) / 2e-4).epsilon(1e-6).margin(1e-6));
    }
    CHECK(grads(12) == 0);  // the scale that is not used
    values *= 0.5;          // the lifted model sees it
  }
}

TEST_CASE("lift: a model without parameters", "[lift]") {
  struct Empty {
    using Scalar = double;
    static auto fields(const Empty&) { return std::tuple(); }
  };
  CHECK(parameter_count(Empty{}) == 0);
  CHECK(parameters(Empty{}).size() == 0);
}

TEST_CASE("lift: detached parameters have values but no gradients", "[lift]") {
  const Model<double> model = make_model<double>();
  Array<double> values = parameters(model), grads = Array<double>::Zero(16, 1);
  Tape<double> tape;
  const Model<Var<double>> lifted = lift(tape, model, values.data(), grads.data());
  const Model<Var<double>> detached = lift_detached(tape, model, values.data());
  CHECK(detached.scales[1].factor.value().data == values.data() + 10);
  CHECK(detached.scales[1].offset.value.value().data == model.scales[1].offset.value.data());
  const Array<double> x = Array<double>::Random(20, 3), ones = Array<double>::Ones(20, 2);
  const Var<double> v = tape.variable(x), y = detached(v);
  CHECK((as_eigen(y.value()) == as_eigen(lifted(tape.copy(x)).value())).all());
  tape.backward(y, view(ones));
  CHECK(v.has_grad());
  tape.finish_parameter_grads();
  CHECK((grads == 0).all());
  CHECK_FALSE(detached(tape.copy(x)).requires_grad());

  values *= 2;  // the next sweep sees it
  CHECK((as_eigen(detached(v).value()) == as_eigen(lifted(v).value())).all());
}

namespace {

// A layer whose rebind() forgets how many arrays its vector holds.
template <class T>
struct Forgetful {
  using Scalar = scalar_t<T>;
  std::vector<param_t<T>> scales;
  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("scales", self.scales);
  }
  template <class U>
  Forgetful<U> rebind() const {
    return {};
  }
};

}  // namespace

TEST_CASE("lift: a rebind that loses arrays is found", "[lift]") {
  const Forgetful<double> model{{Array<double>::Ones(1, 2), Array<double>::Ones(1, 3)}};
  Array<double> values = parameters(model);
  Tape<double> tape;
  const std::string message = thrown_message<invalid_argument>([&] { lift(tape, model, values.data(), nullptr); });
  CHECK(message == "rebind: scales.0 of the model has no counterpart");
}
