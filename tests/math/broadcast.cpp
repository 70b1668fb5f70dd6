// SPDX-License-Identifier: MIT
#include <diffeo/math/broadcast.hpp>
#include <vector>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::View;
using diffeo::math::Shape;

namespace {

// A block within larger memory, the rest of which is marked.
template <class S>
struct Block {
  Array<S> memory;
  Index rows;
  Block(const Array<S>& x, Index gap) : memory(Array<S>::Constant(x.rows() + gap, x.cols(), S(77))), rows(x.rows()) {
    memory.topRows(rows) = x;
  }
  View<S> view() { return {memory.data(), rows, memory.cols(), memory.rows()}; }
  View<const S> view() const { return {memory.data(), rows, memory.cols(), memory.rows()}; }
  Array<S> value() const { return memory.topRows(rows); }
};

// Small integers, so that sums are exact in any order.
template <class S>
Array<S> integers(Index n, Index m, int salt) {
  Array<S> x(n, m);
  for (Index j = 0; j < m; ++j)
    for (Index i = 0; i < n; ++i) x(i, j) = static_cast<S>((i * 7 + j * 3 + salt) % 11 - 5);
  return x;
}

template <class S>
S at(const Array<S>& x, Index i, Index j) {
  return x(x.rows() == 1 ? 0 : i, x.cols() == 1 ? 0 : j);
}

std::vector<Shape> shapes(Index n, Index m) { return {{n, m}, {n, 1}, {1, m}, {1, 1}}; }

}  // namespace

TEST_CASE("broadcast: the common shape", "[broadcast]") {
  using diffeo::math::broadcast_shape;
  CHECK(broadcast_shape("op", {{4, 3}}) == Shape{4, 3});
  CHECK(broadcast_shape("op", {{4, 1}, {1, 3}}) == Shape{4, 3});
  CHECK(broadcast_shape("op", {{1, 1}, {4, 3}, {1, 3}}) == Shape{4, 3});
  CHECK(broadcast_shape("op", {{0, 3}, {1, 3}}) == Shape{0, 3});
  CHECK(broadcast_shape("op", {{1, 3}, {0, 1}}) == Shape{0, 3});
  CHECK(broadcast_shape("op", {}) == Shape{1, 1});
  const auto message = [](std::initializer_list<Shape> s) {
    return thrown_message<diffeo::invalid_argument>([s] { broadcast_shape("op", s); });
  };
  CHECK(message({{4, 3}, {5, 3}}) == "op: shapes 4 x 3 and 5 x 3 do not broadcast");
  CHECK(message({{4, 3}, {4, 2}}) == "op: shapes 4 x 3 and 4 x 2 do not broadcast");
  CHECK(message({{1, 3}, {4, 1}, {4, 5}}) == "op: shapes 4 x 3 and 4 x 5 do not broadcast");
  CHECK(message({{0, 3}, {4, 3}}) == "op: shapes 0 x 3 and 4 x 3 do not broadcast");
}

TEMPLATE_TEST_CASE("broadcast_to repeats", "[broadcast]", float, double) {
  using S = TestType;
  for (const Index n : {0, 1, 2, 3, 8, 16, 17, 35})
    for (const Index m : {0, 1, 2, 5})
      for (const Shape& sa : shapes(n, m))
        for (const Index gap : {0, 3}) {
          const Block<S> a(integers<S>(sa.rows, sa.cols, 1), gap);
          Block<S> out(integers<S>(n, m, 2), gap);
          diffeo::math::broadcast_to<S>(out.view(), a.view());
          CAPTURE(n, m, sa.rows, sa.cols, gap);
          const Array<S> got = out.value(), va = a.value();
          for (Index j = 0; j < m; ++j)
            for (Index i = 0; i < n; ++i) REQUIRE(got(i, j) == at(va, i, j));
          if (n > 0 && m > 0) REQUIRE((out.memory.bottomRows(gap) == S(77)).all());
        }
}

TEMPLATE_TEST_CASE("broadcast: map applies to every element", "[broadcast]", float, double) {
  using S = TestType;
  for (const Index n : {0, 1, 2, 17, 35})
    for (const Index m : {0, 1, 2, 5})
      for (const Index gap_a : {0, 3})
        for (const Index gap_b : {0, 3}) {
          const Block<S> a(integers<S>(n, m, 1), gap_a), b(integers<S>(n, m, 4), gap_b);
          Block<S> out(integers<S>(n, m, 2), gap_a);
          diffeo::math::map(
              out.view(), [](auto x, auto y) { return x + x - y; }, a.view(), b.view());
          CAPTURE(n, m, gap_a, gap_b);
          const Array<S> va = a.value(), vb = b.value();
          REQUIRE((out.value() == 2 * va - vb).all());
          // Nothing beyond the last element is written.
          if (n > 0 && m > 0) REQUIRE((out.memory.col(m - 1).tail(gap_a) == S(77)).all());
        }
}

TEMPLATE_TEST_CASE("broadcast: map_add assigns or adds", "[broadcast]", float, double) {
  using S = TestType;
  for (const Index n : {0, 1, 2, 17, 35})
    for (const Index m : {0, 1, 5})
      for (const Index gap_a : {0, 5})
        for (const Index gap : {0, 3})
          for (const bool assign : {true, false}) {
            const Block<S> a(integers<S>(n, m, 1), gap_a);
            const Array<S> before = integers<S>(n, m, 2), va = a.value();
            Block<S> out(before, gap);
            diffeo::math::map_add(
                out.view(), assign, [](auto x) { return x * x + 1; }, a.view());
            CAPTURE(n, m, gap_a, gap, assign);
            const Array<S> got = out.value();
            for (Index j = 0; j < m; ++j)
              for (Index i = 0; i < n; ++i)
                REQUIRE(got(i, j) == at(va, i, j) * at(va, i, j) + 1 + (assign ? S(0) : before(i, j)));
          }
}

TEMPLATE_TEST_CASE("broadcast: sum_to sums what was broadcast", "[broadcast]", float, double) {
  using S = TestType;
  for (const Index n : {0, 1, 2, 3, 8, 16, 17, 35})
    for (const Index m : {0, 1, 2, 5, 18})
      for (const Shape& so : shapes(n, m))
        for (const Index gap : {0, 3})
          for (const bool assign : {true, false}) {
            // Whatever lies between the columns must not be counted.
            Block<S> x(integers<S>(n, m, 1), gap);
            if (x.memory.rows() > n) x.memory.bottomRows(x.memory.rows() - n) = S(1000);
            const Array<S> before = integers<S>(so.rows, so.cols, 2), vx = x.value();
            Block<S> out(before, gap);
            diffeo::math::sum_to<S>(out.view(), assign, x.view());
            Array<S> expected = assign ? Array<S>(Array<S>::Zero(so.rows, so.cols)) : before;
            for (Index j = 0; j < m; ++j)
              for (Index i = 0; i < n; ++i) expected(so.rows == 1 ? 0 : i, so.cols == 1 ? 0 : j) += vx(i, j);
            CAPTURE(n, m, so.rows, so.cols, gap, assign);
            REQUIRE((out.value() == expected).all());
            if (so.cols > 0 && so.rows > 0) REQUIRE((out.memory.col(so.cols - 1).tail(gap) == S(77)).all());
          }
}
