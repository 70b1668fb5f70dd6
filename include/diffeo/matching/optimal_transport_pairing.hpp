// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/core/error.hpp>
#include <diffeo/matching/pairing.hpp>
#include <diffeo/math/sample_engine.hpp>
#include <diffeo/transport/assignment.hpp>
#include <diffeo/transport/distances.hpp>
#include <diffeo/transport/sinkhorn.hpp>
#include <utility>

/// Pairings of a minibatch by optimal transport (Tong et al. 2024, "Improving and generalizing flow-based generative
/// models with minibatch optimal transport", section 3.2.3; Pooladian et al. 2023, "Multisample flow matching:
/// straightening flows with minibatch couplings").
///
/// The cost of a pair is the squared distance of its points, in the coordinates of the Cnf. If the model takes a
/// context, context_weight times the squared distance of the pair's contexts is added, in units of the standard
/// deviations of their columns (Kerrigan, Migliorini & Smyth 2024, "Dynamic conditional optimal transport through
/// simulation-free flows"; Chemseddine, Hagemann, Steidl & Wald 2024, "Conditional Wasserstein distances
/// with applications in Bayesian OT flow matching"). A source point from the base, or from data without
/// contexts, has the context of the target row that it was drawn for. Without this term, the sources that go with one
/// context would be a selection of all, which the base is not at the time of sampling. Where contexts are classes, a
/// pair of different classes costs so much at the default weight that all pairs are within a class. Where all contexts
/// differ, a smaller weight gives shorter paths, a larger one a smaller error of the sources given a context.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

inline void require_context_weight(const char* pairing, double weight) {
  require(weight >= 0 && std::isfinite(weight), pairing, ": context_weight is ", weight,
          ", expected finite and at least 0");
}

// Returns the mean of the squared distances of all points of x from all points of y.
template <Real S>
double mean_squared_distance(View<const S> x, View<const S> y) {
  double sum = 0;
  for (Index j = 0; j < x.cols; ++j) {
    const auto moments = [](const S* column, Index n) {
      double mean = 0, square = 0;
      for (Index i = 0; i < n; ++i) mean += static_cast<double>(column[i]) / static_cast<double>(n);
      for (Index i = 0; i < n; ++i) {
        const double deviation = static_cast<double>(column[i]) - mean;
        square += deviation * deviation / static_cast<double>(n);
      }
      return std::pair(mean, square);
    };
    const auto [mean_x, square_x] = moments(x.col(j), x.rows);
    const auto [mean_y, square_y] = moments(y.col(j), y.rows);
    sum += square_x + square_y + (mean_x - mean_y) * (mean_x - mean_y);
  }
  return sum;
}

// Costs of the pairs of a minibatch, in memory that grows to the largest one and is kept.
template <Real S>
class PairingCosts {
 public:
  // Returns the costs, a row for each row of the target and a column for each row of the source; valid until the next
  // call.
  View<const S> of(const PairingTask<S>& task, double context_weight) {
    const Index n = task.target.rows;
    View<const S> source = task.source, target = task.target;
    if (task.target_context.cols > 0 && context_weight > 0) {
      // Contexts are further coordinates.
      source = joined(source_, task.source, task.source_context, context_weight);
      target = joined(target_, task.target, task.target_context, context_weight);
    }
    const View<S> cost = resized(cost_, n, source.rows);
    squared_distances_into<S>(target, source, cost);
    return cost;
  }

 private:
  static View<S> resized(Array<S>& memory, Index rows, Index cols) {
    if (memory.size() < rows * cols) memory.resize(rows * cols, 1);
    return {memory.data(), rows, cols, rows};
  }
  static View<const S> joined(Array<S>& memory, View<const S> points, View<const S> contexts, double weight) {
    const View<S> out = resized(memory, points.rows, points.cols + contexts.cols);
    const S factor = static_cast<S>(std::sqrt(weight));
    for (Index j = 0; j < points.cols; ++j) std::copy_n(points.col(j), points.rows, out.col(j));
    for (Index j = 0; j < contexts.cols; ++j)
      std::transform(contexts.col(j), contexts.col(j) + contexts.rows, out.col(points.cols + j),
                     [factor](S c) { return factor * c; });
    return out;
  }

  Array<S> source_, target_, cost_;
};

}  // namespace detail

/// Minibatch optimal transport: of all ways to give each row of the target a source point of its own, the one of least
/// total cost (OT-CFM). Paths that are joined so hardly cross, so that the velocity is simpler and the flow straighter.
///
///     diffeo::fit(model, diffeo::FlowMatching(model, x, diffeo::LinearPath{}, diffeo::OptimalTransportPairing{}));
///
/// | option         | type   | default                                                                            |
/// |----------------|--------|------------------------------------------------------------------------------------|
/// | context_weight | double | 100; of the squared distance of contexts. 0: contexts do not matter                |
///
/// Data with weights are refused, because rows of different weights need shares of several source points:
/// EntropicPairing allows for them. The work is up to the order of n^3. Throws invalid_argument for costs that
/// overflow.
struct OptimalTransportPairing {
  double context_weight = 100;

  static constexpr bool independent = false, takes_weights = false;
  template <class S>
  struct State {
    detail::PairingCosts<S> costs;
    AssignmentSolver<S> solver;
  };

  template <Real S>
  void pair(State<S>& state, const PairingTask<S>& task) const {
    const auto columns = state.solver.solve(state.costs.of(task, context_weight));
    std::copy(columns.begin(), columns.end(), task.partner.begin());
  }
  void check() const { detail::require_context_weight("optimal transport pairing", context_weight); }
};

/// Minibatch optimal transport with entropic regularisation: the source point of a row of the target is drawn from the
/// row of the transport plan, so that a source point may be used several times or never. Rows of the target have the
/// shares of their weights, source points equal ones.
///
/// | option         | type   | default                                                                            |
/// |----------------|--------|------------------------------------------------------------------------------------|
/// | regularisation | double | 0.05, greater than 0: weight of the entropy                                        |
/// | relative       | bool   | true: the regularisation is in units of the mean squared distance of source from   |
/// |                |        | target points in the minibatch; false: in units of the squared distance            |
/// | context_weight | double | 100; of the squared distance of contexts. 0: contexts do not matter                |
/// | tolerance      | double | 1e-3: error of the plan's row sums at which it is good enough (SinkhornOptions)    |
/// | max_iterations | int    | 1000: a plan that is not as good after these is used as it is                      |
///
/// As the regularisation goes to 0 the pairs become those of OptimalTransportPairing, as it grows those of
/// IndependentPairing.
struct EntropicPairing {
  double regularisation = 0.05;
  bool relative = true;
  double context_weight = 100;
  double tolerance = 1e-3;
  int max_iterations = 1000;

  static constexpr bool independent = false, takes_weights = true;
  template <class S>
  struct State {
    detail::PairingCosts<S> costs;
    SinkhornSolver<S> solver = SinkhornSolver<S>();
  };

  template <Real S>
  void pair(State<S>& state, const PairingTask<S>& task) const {
    const View<const S> cost = state.costs.of(task, context_weight);
    const double mean = relative ? detail::mean_squared_distance(task.source, task.target) : 1;
    // If all points are the same, any plan will do.
    state.solver.set_options({regularisation * (mean > 0 ? mean : 1), tolerance, max_iterations});
    state.solver.solve(cost, task.weights, {});
    state.solver.sample_columns(cost, detail::mix_bits(task.seed + detail::mix_bits(task.stream)), task.partner);
  }
  void check() const {
    const char* const who = "entropic pairing";
    require(regularisation > 0 && std::isfinite(regularisation), who, ": regularisation is ", regularisation,
            ", expected finite and greater than 0 (OptimalTransportPairing is the limit)");
    detail::require_context_weight(who, context_weight);
    require(tolerance > 0 && std::isfinite(tolerance), who, ": tolerance is ", tolerance,
            ", expected finite and greater than 0");
    require(max_iterations >= 1, who, ": max_iterations is ", max_iterations, ", expected at least 1");
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
