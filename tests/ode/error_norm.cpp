// SPDX-License-Identifier: MIT
#include <cmath>
#include <diffeo/core/array.hpp>
#include <diffeo/ode/error_norm.hpp>
#include <diffeo/ode/kernels.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
using diffeo::ode::ErrorControl;
using diffeo::ode::MaxNorm;
using diffeo::ode::RmsNorm;
using diffeo::ode::Tolerance;
namespace kernels = diffeo::ode::detail;

static_assert(diffeo::ode::ErrorNorm<RmsNorm>);
static_assert(diffeo::ode::ErrorNorm<MaxNorm>);
static_assert(!diffeo::ode::ErrorNorm<int>);

namespace {

constexpr Index block_rows = kernels::block_rows;

template <class S>
struct RowBlock {
  Array<S> before = Array<S>::Random(block_rows, 3), after = Array<S>::Random(block_rows, 3),
           k0 = Array<S>::Random(block_rows, 3), k1 = Array<S>::Random(block_rows, 3),
           h = Array<S>::Random(block_rows, 1), norm = Array<S>::Zero(block_rows, 1);
  kernels::Combination<S> sum{std::array<double, diffeo::ode::max_stages>{0.25, 0, -0.5}};
  std::array<const S*, 3> stages{k0.data(), nullptr, k1.data()};  // the one in between has no weight

  template <class Norm>
  void measure(Index first, Index cols, S relative, S absolute) {
    kernels::error_norm<Norm, S>(block_rows, first, cols, relative, absolute, norm.data(), before.data(), after.data(),
                                 h.data(), sum, stages.data());
  }
};

}  // namespace

TEMPLATE_TEST_CASE("error norm: rows are measured in units of their tolerance", "[ode]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  RowBlock<S> b;
  const S relative = S(1e-3), absolute = S(1e-4);
  const Array<S> error = (S(0.25) * b.k0 - S(0.5) * b.k1).colwise() * b.h.col(0);
  const Array<S> ratio = error / (absolute + relative * b.before.abs().max(b.after.abs()));
  const S eps = 16 * std::numeric_limits<S>::epsilon();

  b.template measure<RmsNorm>(0, 3, relative, absolute);
  const Array<S> rms = (ratio.square().rowwise().sum() / S(3)).sqrt();
  CHECK(((b.norm - rms) / rms).abs().maxCoeff() < eps);
  b.template measure<MaxNorm>(0, 3, relative, absolute);
  const Array<S> largest = ratio.abs().rowwise().maxCoeff();
  CHECK(((b.norm - largest) / largest).abs().maxCoeff() < eps);
  // Some columns alone.
  b.template measure<RmsNorm>(1, 2, relative, absolute);
  const Array<S> part = (ratio.rightCols(2).square().rowwise().sum() / S(2)).sqrt();
  CHECK(((b.norm - part) / part).abs().maxCoeff() < eps);
}

TEMPLATE_TEST_CASE("error norm: nothing that is not finite is lost, whichever column it is in", "[ode]",
                   DIFFEO_TEST_SCALARS) {
  using S = TestType;
  for (const S bad : {std::numeric_limits<S>::quiet_NaN(), std::numeric_limits<S>::infinity()})
    for (Index column = 0; column < 3; ++column) {
      RowBlock<S> b;
      b.k1(5, column) = bad;
      b.template measure<RmsNorm>(0, 3, S(1e-3), S(1e-3));
      CHECK(std::isnan(b.norm(5)));
      CHECK(b.norm.isNaN().count() == 1);
      b.template measure<MaxNorm>(0, 3, S(1e-3), S(1e-3));
      CHECK(std::isnan(b.norm(5)));
      CHECK(b.norm.isNaN().count() == 1);

      Array<S> not_finite(block_rows, 1);
      const std::array<const S*, 2> stages{b.k0.data(), b.k1.data()};
      kernels::find_not_finite<S>(block_rows, 3, not_finite.data(), b.after.data(), stages.data(), 2);
      CHECK(std::isnan(not_finite(5)));
      CHECK((not_finite == 0).count() == block_rows - 1);
      b.k1(5, column) = 1;
      b.after(6, column) = bad;
      kernels::find_not_finite<S>(block_rows, 3, not_finite.data(), b.after.data(), stages.data(), 2);
      CHECK(std::isnan(not_finite(6)));
      CHECK((not_finite == 0).count() == block_rows - 1);
    }
}

TEST_CASE("error norm: groups and tolerances out of range are refused", "[ode]") {
  const auto refused = [](const ErrorControl<>& control) {
    return thrown_message<diffeo::invalid_argument>([&] { control.check("solve", 3); });
  };
  CHECK_NOTHROW(ErrorControl<>().check("solve", 3));
  CHECK_NOTHROW(ErrorControl<>({{0, 2, {}}, {2, 1, {}}}).check("solve", 3));
  CHECK(refused({{2, 2, {}}}) == "solve: columns 2 ... 3 are measured, the state has 3");
  CHECK(contains(refused({{-1, 2, {}}}), "columns -1 ... 0"));
  CHECK(contains(refused({{0, 0, {}}}), "columns 0 ... -1"));
  CHECK(refused({{0, 1, {0, 1e-6}}}) == "solve: the relative tolerance is 0, expected finite and greater than 0");
  CHECK(contains(refused({{0, 1, {1e-3, -1}}}), "the absolute tolerance is -1"));
  CHECK(contains(refused({{0, 1, {std::nan(""), 1}}}), "the relative tolerance is nan"));
  CHECK(contains(refused({{0, 1, {1, std::numeric_limits<double>::infinity()}}}), "the absolute tolerance is inf"));
  CHECK(contains(thrown_message<diffeo::invalid_argument>([] {
                   const diffeo::ode::ColumnGroup one{0, 1, {}};
                   ErrorControl<>({one, one, one, one, one, one, one, one, one});
                 }),
                 "9 groups, expected at most 8"));
}
