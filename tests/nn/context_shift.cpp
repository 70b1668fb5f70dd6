// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/describe.hpp>
#include <diffeo/nn/context_shift.hpp>

#include "../catch.hpp"

using namespace diffeo;

TEST_CASE("context shift: a network at the context", "[nn]") {
  const auto shift = make_context_shift<double>(2, 3, {.hidden = {}}, 1, 0);
  CHECK(context_dim(shift) == 2);
  CHECK(shift.outputs() == 3);
  const auto& layer = shift.network[0].layers[0];
  Array<double> c(4, 2);
  c << 1, 2, -1, 0.5, 0, 0, 3, -2;
  const Array<double> expected = (c.matrix() * layer.weight.matrix().transpose()).array() + layer.bias.replicate(4, 1);
  Tape<double> tape;
  CHECK((as_eigen(shift("layer", tape.copy(c), 4).value()) - expected).abs().maxCoeff() < 1e-15);
  // One row for all samples stays one row.
  const auto shared = shift("layer", tape.copy(c.topRows(1)), 4);
  CHECK(shared.rows() == 1);
  CHECK((as_eigen(shared.value()) - expected.topRows(1)).abs().maxCoeff() < 1e-15);
}

TEST_CASE("context shift: none without context", "[nn]") {
  const auto none = make_context_shift<float>(0, 3, {}, 1, 0);
  CHECK(none.empty());
  CHECK(context_dim(none) == 0);
  CHECK(none.outputs() == 0);
  CHECK(leaf_count(none) == 0);
  check_structure(none);
}

TEST_CASE("context shift: layers have weights of their own", "[nn]") {
  const MlpOptions options{.hidden = {3}};
  const Array<double> first = parameters(make_context_shift<double>(2, 3, options, 1, 0)),
                      second = parameters(make_context_shift<double>(2, 3, options, 1, 1)),
                      again = parameters(make_context_shift<double>(2, 3, options, 1, 0));
  CHECK((first == again).all());
  CHECK(((first == 0) || (first != second)).all());
}

TEST_CASE("context shift: what does not fit is refused", "[nn]") {
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  auto shift = make_context_shift<double>(2, 3, {.hidden = {4}}, 1, 0);
  Tape<double> tape;
  const Array<double> c = Array<double>::Ones(4, 2);
  CHECK(message([&] { shift("layer", {}, 4); }) == "layer: expected a context of 2 columns, got none");
  CHECK(message([&] { shift("layer", tape.copy(c.leftCols(1)), 4); }) ==
        "layer: the context has 1 columns, expected 2");
  CHECK(message([&] { shift("layer", tape.copy(c), 5); }) == "layer: the context has 4 rows, expected 5 or 1");
  CHECK(contains(message([] { make_context_shift<double>(-1, 3, {}, 1, 0); }), "context_dim is -1"));
  shift.network.push_back(shift.network[0]);
  CHECK(contains(message([&] { check_structure(shift); }), "2 networks, expected at most one"));
  shift.network = {make_mlp<double>(2, 3, {.hidden = {4}}, 1, 0, 1)};
  CHECK(contains(message([&] { check_structure(shift); }), "takes a context besides its inputs"));
}
