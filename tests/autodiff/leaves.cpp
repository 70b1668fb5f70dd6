// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/leaves.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/recipes.hpp>

#include "../catch.hpp"

using namespace diffeo;

namespace {

// Fields without names, as a tuple.
template <class T>
struct Unnamed {
  using Scalar = scalar_t<T>;
  param_t<T> weight;
  Buffer<T> offset;
  std::vector<param_t<T>> more;
  std::tuple<param_t<T>, Buffer<T>> rest;

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.weight, self.offset, self.more, self.rest);
  }
};

// Fields with names, one of which is transparent.
template <class T>
struct NamedParts {
  using Scalar = scalar_t<T>;
  Unnamed<T> inner;
  std::vector<Unnamed<T>> list;

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("inner", self.inner, "", self.list);
  }
};

struct Empty {
  using Scalar = float;
  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
};

Unnamed<double> unnamed() {
  const auto row = [](double x) { return Array<double>{{x, x + 1}}; };
  return {row(0), {row(2)}, {row(4), row(6)}, {row(8), {row(10)}}};
}

}  // namespace

TEST_CASE("leaves: paths, kinds and arrays in the order of the fields", "[leaves]") {
  NamedParts<double> model{unnamed(), {unnamed(), unnamed()}};
  const auto list = leaves(std::as_const(model));
  REQUIRE(list.size() == 18);
  const char* expected[] = {"inner.0", "inner.1", "inner.2.0", "inner.2.1", "inner.3.0", "inner.3.1", "0.0"};
  const LeafKind kinds[] = {LeafKind::parameter, LeafKind::buffer, LeafKind::parameter, LeafKind::parameter,
                            LeafKind::parameter, LeafKind::buffer, LeafKind::parameter};
  for (std::size_t i = 0; i < std::size(expected); ++i) {
    CHECK(list[i].path == expected[i]);
    CHECK(list[i].kind == kinds[i]);
    CHECK((*list[i].array)(0, 0) == 2.0 * double(i % 6));
  }
  CHECK(list[17].path == "1.3.1");
  CHECK(leaf_count(model) == 18);
  // They point into the model.
  leaves(model)[2].array->setConstant(7);
  CHECK(model.inner.more[0](0, 1) == 7);
  const Empty none;
  CHECK(leaves(none).empty());
  static_assert(std::is_same_v<leaf_t<Empty>, Array<float>> &&
                std::is_same_v<leaf_t<NamedParts<double>>, Array<double>> &&
                std::is_same_v<leaf_t<NamedParts<Var<float>>>, Var<float>>);
}

TEST_CASE("leaves: the name of an entry of the flat vector", "[leaves]") {
  const NamedParts<double> model{unnamed(), {unnamed()}};
  REQUIRE(parameter_count(model) == 16);
  CHECK(parameter_name(model, 0) == "inner.0(row 0, col 0)");
  CHECK(parameter_name(model, 3) == "inner.2.0(row 0, col 1)");  // buffers are passed over
  CHECK(parameter_name(model, 15) == "0.3.0(row 0, col 1)");
  CHECK(thrown_message<invalid_argument>([&] { parameter_name(model, 16); }) ==
        "parameter_name: index 16, the model has 16 parameters");
  CHECK_THROWS_AS(parameter_name(model, -1), invalid_argument);

  Array<double> flat(16, 1);
  for (Index i = 0; i < 16; ++i) flat(i) = double(i);
  NamedParts<double> copy = model;
  set_parameters(copy, flat);
  CHECK(copy.inner.more[0](0, 1) == 3);
}

TEST_CASE("leaves: pairs of structures over other scalars", "[leaves]") {
  const NamedParts<double> from{unnamed(), {unnamed()}};
  NamedParts<float> to{{}, std::vector<Unnamed<float>>(1)};
  to.inner.more.resize(2);
  to.list[0].more.resize(2);
  std::vector<const Array<double>*> memory(leaf_count(from));
  int buffers = 0;
  for_each_leaf_pair(from, to, memory.data(), [&](LeafKind kind, const Array<double>& a, Array<float>& b) {
    b = a.cast<float>();
    buffers += kind == LeafKind::buffer;
  });
  CHECK(buffers == 4);
  CHECK(to.list[0].more[1](0, 0) == 6);
  to.list.emplace_back();
  CHECK(contains(thrown_message<invalid_argument>(
                     [&] { for_each_leaf_pair(from, to, memory.data(), [](LeafKind, const auto&, const auto&) {}); }),
                 "1.0 has no counterpart"));
}

TEST_CASE("leaves: paths of a whole model", "[leaves]") {
  const TransformedDistribution model(StandardNormal<float>(2),
                                      real_nvp<float>(2, {.layers = 13, .network = {.hidden = {4}}}));
  const auto list = leaves(model);
  CHECK(list.front().path == "flow.layers.0.0.conditioner.layers.0.weight");
  CHECK(list[62].path == "flow.layers.0.12.conditioner.layers.1.weight");
  CHECK(list.back().path == "flow.layers.1.scale");
  CHECK(list.back().kind == LeafKind::buffer);
}
