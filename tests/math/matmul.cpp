// SPDX-License-Identifier: MIT
#include <cstring>
#include <diffeo/math/matmul.hpp>
#include <limits>
#include <utility>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::View;
using diffeo::math::Start;
using diffeo::math::Strided;

namespace {

// The largest error of a sum of `inner` + 1 products of numbers up to 1, with some room.
template <class S>
S tolerance(Index inner) {
  return static_cast<S>(inner + 2) * 4 * std::numeric_limits<S>::epsilon();
}

constexpr Index inners[] = {1, 2, 3, 7, 64, 100};

std::vector<Index> outers() {
  std::vector<Index> all;
  for (Index m = 1; m <= 17; ++m) all.push_back(m);
  all.push_back(64);
  return all;
}

// Memory of `stride` rows around a block of `rows`; the rest is marked.
template <class S>
struct Padded {
  Array<S> memory;
  Index rows;
  Padded(const Array<S>& x, Index stride) : memory(Array<S>::Constant(stride, x.cols(), S(77))), rows(x.rows()) {
    memory.topRows(rows) = x;
  }
  View<S> view() { return {memory.data(), rows, memory.cols(), memory.rows()}; }
  Array<S> block() const { return memory.topRows(rows); }
  bool padding_untouched() const { return (memory.bottomRows(memory.rows() - rows) == S(77)).all(); }
};

// b (K x M) as a right operand in the two orders that layers use.
template <class S>
struct RightOperand {
  Array<S> memory;
  Strided<S> strided;
};
template <class S>
RightOperand<S> right_operand(const Array<S>& b, bool turned) {
  RightOperand<S> r;
  if (turned) {
    r.memory = b.transpose();
    r.strided = {r.memory.data(), b.cols(), 1};
  } else {
    r.memory = b;
    r.strided = {r.memory.data(), 1, b.rows()};
  }
  return r;
}

template <class S>
Array<S> product(const Array<S>& a, const RightOperand<S>& b, Index outer, const Array<S>& bias, Start start,
                 const Array<S>& before) {
  Array<S> out = before;
  diffeo::math::product<S>({out.data(), a.rows(), outer, out.rows()}, {a.data(), a.rows(), a.cols(), a.rows()},
                           b.strided, bias.data(), start);
  return out;
}

// Coefficient by coefficient in double: Eigen's blocked products make GCC 12 warn of its own AVX-512 headers.
template <class S>
Array<S> exact(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  return a.lazyProduct(b).array().cast<S>();
}

constexpr std::pair<Start, const char*> starts[] = {
    {Start::zero, "zero"}, {Start::bias, "bias"}, {Start::accumulate, "accumulate"}};

}  // namespace

TEMPLATE_TEST_CASE("product: agrees with Eigen, and stays within its block", "[matmul]", float, double) {
  using S = TestType;
  for (const Index inner : inners)
    for (const Index outer : outers()) {
      const Array<S> b = Array<S>::Random(inner, outer), bias = Array<S>::Random(1, outer);
      const auto straight = right_operand<S>(b, false), turned = right_operand<S>(b, true);
      for (Index n = 1; n <= 100; n += n < 35 ? 1 : 13) {
        const Array<S> a = Array<S>::Random(n, inner), before = Array<S>::Random(n, outer);
        const Array<S> ab = exact<S>(a.matrix().template cast<double>(), b.matrix().template cast<double>());
        for (const auto& [start, name] : starts)
          for (const auto* right : {&straight, &turned}) {
            CAPTURE(n, inner, outer, name, right == &turned);
            Array<S> expected = ab;
            if (start == Start::bias) expected.rowwise() += bias.row(0);
            if (start == Start::accumulate) expected += before;
            Padded<S> out(before, n + 3), left(a, n + 5);
            diffeo::math::product<S>(out.view(), left.view(), right->strided, bias.data(), start);
            REQUIRE((out.block() - expected).abs().maxCoeff() <= tolerance<S>(inner));
            REQUIRE(out.padding_untouched());
          }
      }
    }
}

TEMPLATE_TEST_CASE("product: a row's bits do not depend on the number or place of other rows", "[matmul]", float,
                   double) {
  using S = TestType;
  constexpr Index most = 70;
  for (const Index inner : {1, 2, 3, 7, 64, 100, 300})
    for (const Index outer : {1, 2, 5, 8, 15, 16, 33, 64}) {
      const Array<S> a = Array<S>::Random(most, inner), b = Array<S>::Random(inner, outer),
                     bias = Array<S>::Random(1, outer), before = Array<S>::Random(most, outer);
      const auto straight = right_operand<S>(b, false), turned = right_operand<S>(b, true);
      for (const auto& [start, name] : starts)
        for (const auto* right : {&straight, &turned}) {
          CAPTURE(inner, outer, name, right == &turned);
          const Array<S> whole = product<S>(a, *right, outer, bias, start, before);
          // Both orders of the right operand give the same bits, too.
          REQUIRE(same_bits<S>(whole, product<S>(a, straight, outer, bias, start, before)));
          for (const Index first : {0, 1, 5, 16, 31, 69})
            for (const Index count : {1, 2, 3, 7, 8, 15, 16, 17, 32, 39, 64}) {
              if (first + count > most) continue;
              CAPTURE(first, count);
              REQUIRE(same_bits<S>(
                  whole.middleRows(first, count),
                  product<S>(a.middleRows(first, count), *right, outer, bias, start, before.middleRows(first, count))));
            }
        }
    }
}

TEMPLATE_TEST_CASE("product: an element's bits do not depend on the number or place of other columns", "[matmul]",
                   float, double) {
  using S = TestType;
  const Index inner = 37, outer = 31;
  const Array<S> a = Array<S>::Random(20, inner), b = Array<S>::Random(inner, outer), bias = Array<S>::Random(1, outer);
  for (const Index n : {1, 20}) {
    const Array<S> left = a.topRows(n), before = Array<S>::Zero(n, outer);
    const Array<S> whole = product<S>(left, right_operand<S>(b, true), outer, bias, Start::bias, before);
    for (Index j = 0; j < outer; ++j)
      REQUIRE(same_bits<S>(whole.col(j), product<S>(left, right_operand<S>(b.col(j), true), 1, bias.middleCols(j, 1),
                                                    Start::bias, before.col(j))));
  }
}

TEMPLATE_TEST_CASE("product: nothing to sum, and no rows", "[matmul]", float, double) {
  using S = TestType;
  const Array<S> bias = Array<S>::Random(1, 9), before = Array<S>::Random(20, 9), none(20, 0), b(0, 9);
  const auto right = right_operand<S>(b, true);
  CHECK((product<S>(none, right, 9, bias, Start::zero, before) == 0).all());
  CHECK((product<S>(none, right, 9, bias, Start::bias, before) == bias.replicate(20, 1)).all());
  CHECK((product<S>(none, right, 9, bias, Start::accumulate, before) == before).all());
  const Array<S> no_rows(0, 4), full = Array<S>::Random(4, 9);
  CHECK(product<S>(no_rows, right_operand<S>(full, true), 9, bias, Start::bias, Array<S>(0, 9)).rows() == 0);
}

TEMPLATE_TEST_CASE("product of transposed: agrees with Eigen, and stays within its block", "[matmul]", float, double) {
  using S = TestType;
  for (const Index n : {0, 1, 2, 7, 15, 16, 17, 31, 33, 64, 100})
    for (const Index k : {1, 2, 3, 8, 9, 16, 17, 40})
      for (const Index m : {1, 2, 3, 8, 9, 16, 17, 40}) {
        const Array<S> a = Array<S>::Random(n, k), b = Array<S>::Random(n, m), before = Array<S>::Random(k, m);
        const Array<S> ab =
            exact<S>(a.matrix().transpose().template cast<double>(), b.matrix().template cast<double>());
        for (const bool assign : {true, false}) {
          CAPTURE(n, k, m, assign);
          Padded<S> out(before, k + 3), left(a, n + 2), right(b, n + 4);
          diffeo::math::product_of_transposed<S>(out.view(), assign, left.view(), right.view());
          const Array<S> expected = assign ? ab : Array<S>(before + ab);
          REQUIRE((out.block() - expected).abs().maxCoeff() <= tolerance<S>(n));
          REQUIRE(out.padding_untouched());
        }
      }
}
