// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/targets/banana.hpp>
#include <diffeo/targets/eight_schools.hpp>
#include <diffeo/targets/funnel.hpp>
#include <diffeo/targets/rezende_mohamed.hpp>
#include <diffeo/targets/target.hpp>

#include "../catch.hpp"

using diffeo::Dual;
using diffeo::Target;
using diffeo::Var;

namespace {

// Of Var and of Dual, in both precisions.
template <class T>
constexpr bool is_target =
    Target<T, Var<float>> && Target<T, Var<double>> && Target<T, Dual<Var<float>>> && Target<T, Dual<Var<double>>>;

static_assert(is_target<diffeo::targets::U1> && is_target<diffeo::targets::U2>);
static_assert(is_target<diffeo::targets::U3> && is_target<diffeo::targets::U4>);
static_assert(is_target<diffeo::targets::Banana> && is_target<diffeo::targets::Funnel>);
static_assert(Target<diffeo::targets::EightSchools<float>, Var<float>>);
static_assert(Target<diffeo::targets::EightSchools<double>, Dual<Var<double>>>);
static_assert(!Target<diffeo::targets::EightSchools<float>, Var<double>>);

struct NoValue {
  template <class X>
  void operator()(const X&) const {}
};
static_assert(!Target<NoValue, Var<float>>);
static_assert(!Target<int, Var<float>>);

}  // namespace

TEST_CASE("a lambda over the ops is a target", "[targets]") {
  const auto gaussian = [](const auto& x) { return sum_cols(square(x)) * -0.5F; };
  static_assert(is_target<decltype(gaussian)>);
  diffeo::Tape<float> tape;
  const auto y = gaussian(tape.copy(diffeo::Array<float>::Constant(3, 2, 2.0F)));
  CHECK(y.rows() == 3);
  CHECK(y.value().data[2] == -4);
}
