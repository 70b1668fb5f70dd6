// SPDX-License-Identifier: MIT
#include <atomic>
#include <chrono>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/testing/flow_laws.hpp>
#include <thread>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Dual;
using diffeo::Index;
using diffeo::Transformed;
using diffeo::Var;
using diffeo::testing::check_flow_laws;
using diffeo::testing::FlowLawOptions;
using diffeo::testing::FlowLawReport;

namespace {

const std::thread::id first_thread = std::this_thread::get_id();

enum class Fault {
  none,
  log_det_sign,        // of the inverse
  log_det_missing,     // one coordinate forgotten, in both directions
  not_inverse,         // everywhere
  clamped,             // the tails only
  rows_mixed,          // by 1e-6 of the sum of the rows
  thread_dependent,    // by the number of the thread
  tile_dependent,      // by the number of calls: rows in the second tile differ
  wrong_adjoint,       // of the input, in forward
  detached_parameter,  // a parameter's gradient is lost in the inverse's log_det
  wrong_tangent,       // of Dual
  recording,           // a different value when derivatives are wanted
  throws_on_no_rows,
  drops_no_rows,  // wrong shape of log_det
  non_finite_tail,
  forgets_setting,  // rebind does not copy a setting
  noise_by_tile,    // in training, noise is drawn by the row's place in the tile
};

// v, with an adjoint that is 1 % too large.
template <diffeo::Real S>
Var<S> bent(Var<S> x) {
  return diffeo::detail::unary(
      "bent", x, [](auto v) { return v; }, [](auto g, auto...) { return g * S(1.01); });
}
template <class X>
Dual<X> bent(const Dual<X>& x) {
  return x;
}
// A constant of the same value.
template <diffeo::Real S>
Var<S> detached(Var<S> x) {
  return x.tape().constant(x.value());
}
// v, with a tangent that is 1 % too large.
template <diffeo::Real S>
Var<S> leaning(Var<S> x) {
  return x;
}
template <class X>
Dual<X> leaning(const Dual<X>& x) {
  return {x.value, x.tangent * typename X::Scalar(1.01)};
}

// x = z exp(s) with one fault.
template <class T>
struct Scale {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::param_t<T> log_scale;
  Fault fault = Fault::none;
  bool flag = false;

  Index dim() const { return log_scale.cols(); }
  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.log_scale);
  }
  template <class U>
  Scale<U> rebind() const {
    return {{}, fault, flag && fault != Fault::forgets_setting};
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("flag", self.flag);
  }

  template <diffeo::Traced X>
  Transformed<X> forward(const X& z, const diffeo::Pass<typename X::Scalar>& pass = {}) const {
    using S = typename X::Scalar;
    if (fault == Fault::throws_on_no_rows) diffeo::require(z.rows() > 0, "no rows");
    const auto s = as_var(z.tape(), log_scale);
    X v = z;
    if (fault == Fault::noise_by_tile && pass.training && z.rows() > 0)
      v = v + S(pass.noise(1, diffeo::innermost(z).value(), 0)() % 100);
    if (fault == Fault::wrong_adjoint) v = bent(v);
    if (fault == Fault::wrong_tangent) v = leaning(v);
    if (fault == Fault::rows_mixed) v = v + sum_rows(v) * S(1e-6);
    if (fault == Fault::recording && z.requires_grad()) v = v * S(1.01);
    if (fault == Fault::non_finite_tail) v = log(exp(v * v));
    if (fault == Fault::thread_dependent) {
      if (std::this_thread::get_id() != first_thread)
        v = v + S(1e-3);
      else
        std::this_thread::sleep_for(std::chrono::milliseconds(20));  // so that the others get their turn
    }
    if (fault == Fault::tile_dependent) {
      static std::atomic<int> calls{0};
      v = v + S(1e-3) * S(++calls % 2);
    }
    if (fault == Fault::clamped) v = v - relu(v + S(-6));
    if (fault == Fault::drops_no_rows && z.rows() == 0) return {v * exp(s), zeros(z, 2)};
    return {v * exp(s), zeros(z, 1) + sum(s)};
  }
  template <diffeo::Traced X>
  Transformed<X> inverse(const X& x) const {
    using S = typename X::Scalar;
    const auto s = as_var(x.tape(), log_scale);
    const X z = x * exp(-s);
    switch (fault) {
      case Fault::log_det_sign:
        return {z, zeros(x, 1) + sum_cols(s)};
      case Fault::not_inverse:
        return {z + S(0.01), zeros(x, 1) - sum_cols(s)};
      case Fault::detached_parameter:
        return {z, zeros(x, 1) - detached(sum_cols(s))};
      default:
        return {z, zeros(x, 1) - sum_cols(s)};
    }
  }

 private:
  template <class V>
  V sum(const V& s) const {
    return fault == Fault::log_det_missing ? sum_cols(cols(s, 1, s.cols() - 1)) : sum_cols(s);
  }
};

template <diffeo::Real S>
Scale<S> scale_with(Fault fault) {
  Scale<S> layer{Array<S>(1, 2), fault, true};
  layer.log_scale << S(0.7), S(-0.3);
  return layer;
}

bool breaks(const FlowLawReport& report, const std::string& law) {
  for (const auto& broken : report.violations())
    if (contains(broken.name, law)) return true;
  return false;
}

}  // namespace

TEMPLATE_TEST_CASE("a layer without fault breaks no law", "[testing]", DIFFEO_TEST_SCALARS) {
  const FlowLawReport report = check_flow_laws(scale_with<TestType>(Fault::none));
  INFO(report);
  CHECK(report.ok());
  CHECK(report.violations().empty());
  CHECK(report.laws.size() == (std::is_same_v<TestType, float> ? 34 : 30));
  for (const auto& law : report.laws) CHECK(law.error >= 0);
}

TEMPLATE_TEST_CASE("each fault breaks its law", "[testing]", DIFFEO_TEST_SCALARS) {
  const auto require_broken = [](Fault fault, const std::vector<std::string>& laws) {
    const FlowLawReport report = check_flow_laws(scale_with<TestType>(fault));
    CAPTURE(static_cast<int>(fault));
    INFO(report);
    CHECK_FALSE(report.ok());
    for (const std::string& law : laws) {
      CAPTURE(law);
      CHECK(breaks(report, law));
    }
  };
  require_broken(Fault::log_det_sign,
                 {"log_det of inverse = -log_det of forward", "log_det of inverse = log|det| by Dual",
                  "log_det of inverse = log|det| by central differences", "the density integrates to 1"});
  require_broken(Fault::log_det_missing,
                 {"log_det of forward = log|det| by Dual", "log_det of forward = log|det| by central differences"});
  require_broken(Fault::not_inverse, {"inverse(forward(x)) = x", "forward(inverse(x)) = x"});
  require_broken(Fault::clamped, {"inverse(forward(x)) = x"});
  require_broken(Fault::rows_mixed, {"rows of forward are independent"});
  require_broken(Fault::tile_dependent, {"rows of forward are independent"});
  require_broken(Fault::thread_dependent, {"threads do not change forward"});
  require_broken(Fault::wrong_adjoint, {"gradients of the value of forward"});
  require_broken(Fault::detached_parameter, {"gradients of log_det of inverse"});
  require_broken(Fault::wrong_tangent, {"tangents of the value of forward", "log_det of forward = log|det| by Dual"});
  require_broken(Fault::recording, {"recording does not change forward"});
  require_broken(Fault::throws_on_no_rows, {"forward of 0 rows and of 1 row"});
  require_broken(Fault::drops_no_rows, {"forward of 0 rows and of 1 row"});
  require_broken(Fault::forgets_setting, {"rebind keeps the structure"});
  require_broken(Fault::noise_by_tile, {"noise of forward does not depend on tiles"});
  require_broken(Fault::non_finite_tail, {"inverse(forward(x)) = x"});
}

TEST_CASE("a report says which law, by how much and where", "[testing]") {
  const FlowLawReport report = check_flow_laws(scale_with<double>(Fault::not_inverse));
  std::ostringstream text;
  text << report;
  CHECK(contains(text.str(), "BROKEN  inverse(forward(x)) = x: error 0.01"));
  CHECK(contains(text.str(), "allowed 1e-09 at point"));
  CHECK(contains(text.str(), "holds   threads do not change forward"));
  bool found = false;
  for (const auto& law : report.violations())
    if (law.name == "inverse(forward(x)) = x") {
      found = true;
      CHECK(law.error == Approx(0.01));
      CHECK(law.tolerance == 1e-9);
      CHECK(contains(law.where, "row "));
    }
  CHECK(found);
}

TEST_CASE("options of the laws", "[testing]") {
  const auto layer = scale_with<double>(Fault::not_inverse);
  CHECK(check_flow_laws(layer, {.round_trip = 0.1}).violations().size() <
        check_flow_laws(layer, {.round_trip = 1e-3}).violations().size());
  // A clamp beyond 6 is not seen from points within 3.
  CHECK_FALSE(breaks(check_flow_laws(scale_with<double>(Fault::clamped), {.tail = 1}), "inverse(forward"));
  CHECK(check_flow_laws(scale_with<double>(Fault::none), {.rows = 5, .seed = 9}).ok());
}
