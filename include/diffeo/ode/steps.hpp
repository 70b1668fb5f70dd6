// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/core/array.hpp>
#include <diffeo/math/simd.hpp>
#include <type_traits>

/// What an integration shares with the field that it asks and with those who watch its steps.
namespace diffeo::inline DIFFEO_ISA::ode {

/// One time for all samples, or one for each, in memory of the caller.
class Times {
 public:
  Times(double all) : all_(all) {}
  template <class P>
    requires std::is_pointer_v<P>  // a template, so that 0 is a time
  Times(P each) : each_(each) {}

  double operator[](Index sample) const { return each_ ? each_[sample] : all_; }
  /// Null where there is one for all.
  const double* each() const { return each_; }

 private:
  double all_ = 0;
  const double* each_ = nullptr;
};

/// What f is evaluated at: row i of y is sample[i] at time t[i].
template <Real S>
struct Stage {
  const Index* sample;
  const double* t;
  View<const S> y;
};

/// f(in, dy): writes the slopes of the rows of in.y to dy, which has its shape.
template <class F, class S>
concept RightHandSide = std::invocable<const F&, const Stage<S>&, View<S>>;

/// The steps that a round accepted, for i < count: of the block's row r = row[i], which is sample[r], from t[r] over
/// step[r] to end[r] (t + step, or the end time itself), from before.col(j)[r] to after.col(j)[r] with the slopes
/// stage(k).col(j)[r]. The other rows of the block (before.rows in all) were rejected; their entries are those of the
/// attempt. Everything is valid during the call alone.
template <Real S>
struct AcceptedSteps {
  Index count;
  const Index* row;
  const Index* sample;
  const double* t;
  const double* step;
  const double* end;
  View<const S> before, after;
  const S* const* stages;

  View<const S> stage(std::size_t k) const { return {stages[k], before.rows, before.cols, before.stride}; }
};

/// The time of a stage of a step from t over `step` to `end`.
inline double stage_time(double c, double t, double step, double end) {
  return c == 1 ? end : simd::mul_add_scalar<double>(c, step, t);
}

/// The observer that looks away.
struct IgnoreSteps {
  template <Real S>
  void operator()(const AcceptedSteps<S>&) const {}
};

}  // namespace diffeo::inline DIFFEO_ISA::ode
