// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/core/array.hpp>
#include <diffeo/math/simd.hpp>
#include <type_traits>

/// Types that an integration passes to the right-hand side f and to an observer of its steps.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Either one time for all samples, or a pointer to one time per sample. The caller owns the memory behind the pointer.
class Times {
 public:
  Times(double all) : all_(all) {}
  template <class P>
    requires std::is_pointer_v<P>  // a template, so that a literal 0 is a time and not a null pointer
  Times(P each) : each_(each) {}

  double operator[](Index sample) const { return each_ ? each_[sample] : all_; }
  /// Returns the pointer to the times per sample, or null when one time holds for all.
  const double* each() const { return each_; }

 private:
  double all_ = 0;
  const double* each_ = nullptr;
};

/// Arguments of one evaluation of f for a block of rows: row i of y is the state of sample sample[i] at time t[i].
template <Real S>
struct Stage {
  const Index* sample;
  const double* t;
  View<const S> y;
};

/// Right-hand side of y' = f(t, y), called as f(in, dy): writes the slope of each row of in.y to dy, a View of the
/// shape of in.y.
template <class F, class S>
concept RightHandSide = std::invocable<const F&, const Stage<S>&, View<S>>;

/// Steps that one round of the solver accepted. For i < count, row r = row[i] of the block holds sample sample[r]; it
/// went from time t[r] by step[r] to end[r] (t + step, or the end time itself) and from state before.col(j)[r] to
/// after.col(j)[r], with the slopes stage(k).col(j)[r]. Rows of the block (before.rows in all) that are not in `row`
/// were rejected; their entries describe the rejected attempt. All pointers are valid only during the observer's call.
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

/// Returns t + c step, the time of a stage of a step from t to `end`; for c == 1 exactly `end`.
inline double stage_time(double c, double t, double step, double end) {
  return c == 1 ? end : simd::mul_add_scalar<double>(c, step, t);
}

/// Observer that does nothing.
struct IgnoreSteps {
  template <Real S>
  void operator()(const AcceptedSteps<S>&) const {}
};

}  // namespace diffeo::inline DIFFEO_ISA::ode
