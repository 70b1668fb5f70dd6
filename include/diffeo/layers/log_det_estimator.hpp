// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/layers/pass.hpp>
#include <diffeo/nn/linearised.hpp>
#include <variant>

/// Estimators of the log-determinant log|det(I + J)| of a residual layer, J = dg/dz with |J| < 1. All return the value
/// and the gradient. For a given seed the estimates are deterministic.
namespace diffeo::inline DIFFEO_ISA {

/// Exact log-determinant, computed from the whole Jacobian. Costs D + 1 passes through the network.
struct ExactLogDet {
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "exact");
  }
};

/// Power series tr(J) - tr(J^2) / 2 + ..., truncated after `terms` terms (i-ResNet: Behrmann et al. 2019, algorithm 2),
/// with traces by Hutchinson's estimator v'J^k v with random signs v. It is biased: the truncation error is at most D
/// L^(terms + 1) / ((terms + 1) (1 - L)), where L is the Lipschitz constant of g.
struct PowerSeriesLogDet {
  Index terms = 10;
  Index probes = 1;
  std::uint64_t seed = 0;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "power series", "terms", self.terms, "probes", self.probes, "seed", self.seed);
  }

  void check() const {
    require(terms >= 1, "power series: terms is ", terms, ", expected at least 1");
    require(probes >= 1, "power series: probes is ", probes, ", expected at least 1");
  }
};

/// Distribution of the number of random terms of RouletteLogDet: geometric, from 1 on, with the probability p to stop
/// after each term, 0 < p < 1, as parameter; or Poisson, from 0 on, with the mean as parameter.
enum class RouletteLength { geometric, poisson };

inline const char* to_string(RouletteLength length) {
  return length == RouletteLength::geometric ? "geometric" : "poisson";
}

/// Unbiased estimate of the power series tr(J) - tr(J^2) / 2 + ... (Residual Flows: Chen et al. 2019, eq. 6):
/// `exact_terms` terms, then a random number of further terms, each divided by the probability that it is reached. The
/// variance is finite if L^2 < 1 - p for the geometric distribution, and always for the Poisson distribution. If L is
/// close to 1, rare samples still have large weights; use more exact terms or a smaller p then.
struct RouletteLogDet {
  Index exact_terms = 2;
  RouletteLength length = RouletteLength::geometric;
  double parameter = 0.5;
  Index probes = 1;
  std::uint64_t seed = 0;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "roulette", "exact_terms", self.exact_terms, "length", self.length, "parameter",
                            self.parameter, "probes", self.probes, "seed", self.seed);
  }

  void check() const {
    require(exact_terms >= 0, "roulette: exact_terms is ", exact_terms, ", expected at least 0");
    require(probes >= 1, "roulette: probes is ", probes, ", expected at least 1");
    if (length == RouletteLength::geometric)
      require(parameter > 0 && parameter < 1, "roulette: parameter is ", parameter, ", expected between 0 and 1");
    else
      require(parameter > 0 && parameter <= 100, "roulette: parameter is ", parameter,
              ", expected a mean above 0 and at most 100");
  }
};

using LogDetEstimator = std::variant<ExactLogDet, PowerSeriesLogDet, RouletteLogDet>;

namespace detail {

// The weights of the terms of a series for one sample: term(k) is that of the k-th, from 1; 0 from `terms` + 1 on.
class TermWeights {
 public:
  TermWeights() = default;
  TermWeights(const PowerSeriesLogDet& series, PhiloxEngine&) : exact_(series.terms), terms_(series.terms) {}
  TermWeights(const RouletteLogDet& roulette, PhiloxEngine& engine)
      : exact_(roulette.exact_terms), length_(roulette.length), parameter_(roulette.parameter) {
    const double u = uniform(engine);
    Index extra = 1;
    if (length_ == RouletteLength::geometric) {
      extra = 1 + static_cast<Index>(std::min(std::log(u) / std::log1p(-parameter_), static_cast<double>(longest)));
    } else {
      for (extra = 0; extra < longest && u <= reached(extra + 1); ++extra) {
      }
    }
    terms_ = exact_ + std::min(extra, longest);
  }

  Index terms() const { return terms_; }
  double term(Index k) const { return k <= exact_ ? 1 : k <= terms_ ? 1 / reached(k - exact_) : 0; }

 private:
  static constexpr Index longest = 1000;  // the chance of more is below 1e-16 unless p < 0.04

  // Probability of at least j terms after the exact ones.
  double reached(Index j) const {
    if (length_ == RouletteLength::geometric) return std::pow(1 - parameter_, static_cast<double>(j - 1));
    double chance = std::exp(-parameter_), below = 0;    // of exactly i, and of fewer than j
    if (static_cast<double>(j) > 2 * parameter_ + 20) {  // the sum from above keeps its digits
      double log_chance =
          -parameter_ + static_cast<double>(j) * std::log(parameter_) - std::lgamma(static_cast<double>(j) + 1);
      double total = 0, factor = 1;
      for (Index i = j; factor > 1e-17; ++i) {
        total += factor;
        factor *= parameter_ / static_cast<double>(i + 1);
      }
      return std::exp(log_chance) * total;
    }
    for (Index i = 0; i < j; ++i) {
      below += chance;
      chance *= parameter_ / static_cast<double>(i + 1);
    }
    return 1 - below;
  }

  Index exact_ = 0, terms_ = 0;
  RouletteLength length_ = RouletteLength::geometric;
  double parameter_ = 0.5;
};

/// Contribution of one probe to an estimate: the value (N x 1), and v and u (N x D) with d(estimate) = v' dJ u.
template <Real S>
struct SeriesEstimate {
  Var<S> value, probe, direction;
};

/// Computes the series at the constant points z with probe number `probe`, whose random numbers come from `pass`.
template <Real S, class Estimator>
void sum_series(const Estimator& estimator, const Linearised<S>& jacobian, View<const S> z, const Pass<S>& pass,
                Index probe, const SeriesEstimate<S>& out) {
  Tape<S>& tape = out.value.tape();
  const Index rows = z.rows, dim = z.cols;
  const View<S> value = tape.mutable_value(out.value), v = tape.mutable_value(out.probe),
                u = tape.mutable_value(out.direction);
  auto* terms = tape.template allocate<TermWeights>(static_cast<std::size_t>(rows));
  Index most = 0;
  for (Index n = 0; n < rows; ++n) {
    PhiloxEngine engine = pass.noise(estimator.seed + 0x6A09E667F3BCC909 * static_cast<std::uint64_t>(probe), z, n);
    draw_signs(engine, v, n);
    terms[n] = TermWeights(estimator, engine);
    most = std::max(most, terms[n].terms());
    value.data[n] = 0;
    for (Index j = 0; j < dim; ++j) u.col(j)[n] = static_cast<S>(terms[n].term(1)) * v.col(j)[n];
  }
  Var<S> power = tape.make(rows, dim, false);  // J^k v
  math::copy(tape.mutable_value(power), View<const S>(v));
  for (Index k = 1; k <= most; ++k) {
    const auto mark = tape.mark();
    const View<const S> next = jacobian.forward(power).value();
    math::copy(tape.mutable_value(power), next);
    tape.release(mark);
    const double sign = k % 2 == 1 ? 1 : -1;
    for (Index n = 0; n < rows; ++n) {
      if (k > terms[n].terms()) continue;
      S trace = 0;
      for (Index j = 0; j < dim; ++j) trace += v.col(j)[n] * power.value().col(j)[n];
      value.data[n] += static_cast<S>(sign * terms[n].term(k) / static_cast<double>(k)) * trace;
      const S next_weight = static_cast<S>(-sign * terms[n].term(k + 1));
      for (Index j = 0; j < dim; ++j) u.col(j)[n] += next_weight * power.value().col(j)[n];
    }
  }
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
