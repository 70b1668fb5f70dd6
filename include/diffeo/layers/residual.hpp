// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/implicit.hpp>
#include <diffeo/autodiff/ops/surrogate.hpp>
#include <diffeo/layers/flow.hpp>
#include <diffeo/layers/log_det_estimator.hpp>
#include <diffeo/math/fixed_point.hpp>
#include <diffeo/nn/spectral_norm.hpp>
#include <numeric>
#include <span>

namespace diffeo::inline DIFFEO_ISA {

/// How the inverse of a residual layer is found. A step of Newton's method costs D + 1 times one of the contraction z
/// <- x - g(z), which is faster wherever its steps shrink quickly (measured for D = 2 to 12, far from the bound: 1.2 to
/// 6 times). `automatic` begins with the contraction. A row that has not ended after what three steps of Newton's
/// method cost (ten for 8 < D <= 64) goes on by that method, and so does, for D <= 64, a row that rounding stopped
/// before its error was sure. `fixed_point` alone stops there.
enum class InverseMethod { automatic, fixed_point, newton };

inline const char* to_string(InverseMethod method) {
  return method == InverseMethod::automatic     ? "automatic"
         : method == InverseMethod::fixed_point ? "fixed_point"
                                                : "newton";
}

/// | option         | type          | default                                                               |
/// |----------------|---------------|-----------------------------------------------------------------------|
/// | tolerance      | double        | 0: until rounding stops it; else the largest |error| of a coordinate  |
/// | max_iterations | int           | 10000 evaluations of the network, by each of the two methods, and for |
/// |                |               | the gradient                                                          |
/// | method         | InverseMethod | automatic                                                             |
///
/// Rounding in g leaves an error of a few epsilons times |x| / (1 - coefficient). Where a tolerance asks for less than
/// that, a layer in float computes its last steps with g in double; what remains is the rounding of z itself.
struct ResidualInverseOptions {
  double tolerance = 0;
  int max_iterations = 10000;
  InverseMethod method = InverseMethod::automatic;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("tolerance", self.tolerance, "max_iterations", self.max_iterations, "method", self.method);
  }

  void check() const {
    require(tolerance >= 0 && std::isfinite(tolerance), "residual inverse: tolerance is ", tolerance,
            ", expected finite and at least 0");
    require(max_iterations >= 1, "residual inverse: max_iterations is ", max_iterations, ", expected at least 1");
  }
};

/// x = z + g(z) with a network g whose Lipschitz constant is below 1 (i-ResNet: Behrmann et al. 2019; Residual Flows:
/// Chen et al. 2019). forward is explicit; inverse is solved, by the contraction z = x - g(z) or by Newton's method
/// with the exact Jacobian, and differentiated by the implicit function theorem.
///
/// With an activation whose slope jumps, like relu, log_det jumps too where a unit bends, and the gradient of a mean
/// over samples, which knows nothing of samples that cross a jump, is not that of the mean.
///
/// In training (Pass::training) log_det comes from the estimator `training`, else from `evaluation`. Tangents (Dual)
/// always take the exact log-determinant.
template <class T>
struct Residual {
  using Scalar = scalar_t<T>;

  SpectralMlp<T> network;  ///< D -> D, with a Lipschitz constant below 1
  LogDetEstimator training = ExactLogDet{};
  LogDetEstimator evaluation = ExactLogDet{};
  ResidualInverseOptions inverse_options = {};

  static constexpr double suggested_learning_rate = 2e-3;

  Index dim() const { return network.inputs(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("network", self.network);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "residual", "training", self.training, "evaluation", self.evaluation, "inverse",
                            self.inverse_options);
  }
  template <class U>
  Residual<U> rebind() const {
    return {network.template rebind<U>(), training, evaluation, inverse_options};
  }

  /// An upper bound of the Lipschitz constant of g that holds whatever the power iteration did.
  double lipschitz_bound() const
    requires Real<T>
  {
    return network.lipschitz_bound();
  }

  /// Throws invalid_argument where the network does not go from D to D coordinates, or for options out of range.
  void check() const {
    require(network.inputs() == network.outputs(), "residual: the network has ", network.inputs(), " inputs and ",
            network.outputs(), " outputs, expected as many");
    inverse_options.check();
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const {
    check(z);
    if constexpr (detail::is_dual<X>)
      return exact_forward(z);
    else
      return std::visit([&](const auto& estimator) { return forward_by(estimator, z, pass); },
                        pass.training ? training : evaluation);
  }

  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const {
    check(x);
    const X z = solved(x);
    return {z, -forward(z, pass).log_det};
  }

 private:
  using S = Scalar;

  template <Traced X>
  void check(const X& x) const {
    require(x.cols() == dim(), "residual: x has ", x.cols(), " columns, this layer has dimension ", dim());
  }

  // Whether the network's value needs a gradient: that of z or of any of its parameters.
  bool records(const Var<S>& z) const {
    bool records = z.requires_grad();
    if constexpr (detail::is_var<T>)
      for_each_parameter(network, [&records](const auto& p) { records = records || p.requires_grad(); });
    return records;
  }

  // ---- log-determinants ----
  Transformed<Var<S>> forward_by(const ExactLogDet&, const Var<S>& z, const Pass<S>&) const {
    const MultiDual<S> g = network.with_jacobian(z);
    return {z + value_of(g), log_det_identity_plus(g)};
  }

  template <class Series>
  Transformed<Var<S>> forward_by(const Series& series, const Var<S>& z, const Pass<S>& pass) const {
    series.check();
    Tape<S>& tape = z.tape();
    const Index rows = z.rows(), dim = z.cols();
    const Var<S> estimate = zeros(z, 1), points = tape.constant(z.value());
    auto* parts = tape.template storage<detail::SeriesEstimate<S>>(static_cast<std::size_t>(series.probes));
    for (Index probe = 0; probe < series.probes; ++probe)
      parts[probe] = {tape.make(rows, 1, false), tape.make(rows, dim, false), tape.make(rows, dim, false)};
    const S share = S(1) / static_cast<S>(series.probes);
    const auto mark = tape.mark();
    const Linearised<S> jacobian = linearised(points);
    for (Index probe = 0; probe < series.probes; ++probe) {
      detail::sum_series(series, jacobian, points.value(), pass, probe, parts[probe]);
      math::map_add(
          tape.mutable_value(estimate), false, [share](auto v) { return share * v; }, parts[probe].value.value());
    }
    tape.release(mark);
    const bool recorded = records(z);
    Var<S> value, source;
    for (Index probe = 0; recorded && probe < series.probes; ++probe) {
      const Dual<Var<S>> g = network(Dual<Var<S>>{z, parts[probe].direction});
      if (!value) value = g.value;
      const Var<S> one = sum_cols(g.tangent * parts[probe].probe) * share;
      source = source ? source + one : one;
    }
    if (!recorded) return {z + network(z), estimate};
    return {z + value, with_gradient_of(estimate, source)};
  }

  // ---- tangents: the Jacobian and elimination, column by column, over the op vocabulary ----
  // The matrix I + J is positive definite in the sense that v'(I + J)v > 0, so that elimination needs no pivots.
  template <class X>
  std::vector<std::vector<X>> identity_plus_jacobian(const X& z) const {
    const Index d = dim();
    std::vector<std::vector<X>> a(static_cast<std::size_t>(d));
    for (Index j = 0; j < d; ++j) {
      X direction = zeros(z, d);
      auto seed = innermost(direction);
      math::map(seed.tape().mutable_value(seed).cols_block(j, 1), [] { return simd::broadcast<S>(1); });
      const X column = network(Dual<X>{z, direction}).tangent + direction;
      for (Index i = 0; i < d; ++i) a[static_cast<std::size_t>(i)].push_back(cols(column, i, 1));
    }
    return a;
  }
  template <class X>
  static X eliminate(std::vector<std::vector<X>>& a, std::vector<X>* right) {
    const std::size_t d = a.size();
    X log_det = log(abs(a[0][0]));
    for (std::size_t k = 0; k < d; ++k) {
      if (k > 0) log_det = log_det + log(abs(a[k][k]));
      for (std::size_t i = k + 1; i < d; ++i) {
        const X f = a[i][k] / a[k][k];
        for (std::size_t j = k + 1; j < d; ++j) a[i][j] = a[i][j] - f * a[k][j];
        if (right) (*right)[i] = (*right)[i] - f * (*right)[k];
      }
    }
    return log_det;
  }
  template <class X>
  Transformed<X> exact_forward(const X& z) const {
    auto a = identity_plus_jacobian(z);
    return {z + network(z), eliminate<X>(a, nullptr)};
  }
  template <class X>
  X solve_tangent(const X& z, const X& right) const {
    auto a = identity_plus_jacobian(z);
    const auto d = static_cast<std::size_t>(dim());
    std::vector<X> y;
    for (std::size_t i = 0; i < d; ++i) y.push_back(cols(right, static_cast<Index>(i), 1));
    eliminate(a, &y);
    for (std::size_t i = d; i-- > 0;) {
      for (std::size_t j = i + 1; j < d; ++j) y[i] = y[i] - a[i][j] * y[j];
      y[i] = y[i] / a[i][i];
    }
    X all = y[0];
    for (std::size_t i = 1; i < d; ++i) all = concat(all, y[i]);
    return all;
  }

  // ---- the inverse ----
  template <class X>
  Dual<X> solved(const Dual<X>& x) const {
    const X z = solved(x.value);
    return {z, solve_tangent(z, x.tangent)};
  }

  Var<S> solved(const Var<S>& x) const {
    Tape<S>& tape = x.tape();
    const Var<S> z = tape.make(x.rows(), x.cols(), false);
    solve(x.value(), z);
    if (!records(x)) return z;
    const Var<S> residual = z + network(z) - x;
    if (newton()) {
      const S* inverse = inverse_jacobian(z).data;
      return implicit(z.value(), residual, [inverse](View<const S> g, View<S> v) {
        const Index d = g.cols, at = Residual::padded(g.rows);
        for (Index j = 0; j < d; ++j)
          for (Index i = 0; i < d; ++i)
            math::map_add(
                v.cols_block(j, 1), i == 0, [](auto a, auto b) { return a * b; },
                View<const S>{inverse + (i * d + j) * at, g.rows, 1, at}, g.cols_block(i, 1));
      });
    }
    const Linearised<S> jacobian = linearised(z);
    const math::FixedPointOptions options{0, inverse_options.max_iterations};
    return implicit(z.value(), residual, [jacobian, x, options, l = network.coefficient()](View<const S> g, View<S> v) {
      // (I + J') v = g
      Tape<S>& t = x.tape();
      const auto mark = t.mark();
      copy(g, v);
      const auto space = workspace(t, g);
      math::fixed_point<S>(
          "residual inverse, gradient", v, g,
          [&](View<const S> in, View<S> out) {
            // The slopes belong to rows of the whole block: v holds the latest of all rows.
            const auto inner = t.mark();
            const View<const S> moved = jacobian.transposed(t.constant(View<const S>(v))).value();
            for (Index j = 0; j < in.cols; ++j)
              for (Index i = 0; i < in.rows; ++i) out.col(j)[i] = moved.col(j)[space.row[i]];
            t.release(inner);
          },
          l, options, space);
      t.release(mark);
    });
  }

  static Index padded(Index rows) {
    return std::max(simd::lanes<S>, (rows + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>);
  }

  // Whether the gradient of the inverse comes from the whole Jacobian.
  bool newton() const {
    return inverse_options.method == InverseMethod::newton ||
           (inverse_options.method == InverseMethod::automatic && dim() <= few_dimensions);
  }

  Linearised<S> linearised(const Var<S>& z) const {
    return {z, network.activation, network.layers.size(),
            [&](std::size_t i) { return network.constants(z.tape(), i); }};
  }

  MultiDual<S> constant_jacobian(const Var<S>& z) const {
    return detail::dense_with_jacobian<S>(z, network.activation, network.layers.size(),
                                          [&](std::size_t i) { return network.constants(z.tape(), i); });
  }
  Var<S> constant_value(Var<S> z) const {
    for (std::size_t i = 0; i < network.layers.size(); ++i) {
      const auto [w, b] = network.constants(z.tape(), i);
      z = affine(z, w, b, i + 1 < network.layers.size() ? network.activation : Activation::identity);
    }
    return z;
  }

  // (I + J)^-1 at z, as D^2 columns of padded rows.
  View<const S> inverse_jacobian(const Var<S>& z) const {
    Tape<S>& tape = z.tape();
    const Index d = dim(), at = padded(z.rows());
    S* inverse = tape.scratch(at * d * d);
    const auto mark = tape.mark();
    invert(constant_jacobian(z), inverse);
    tape.release(mark);
    return {inverse, z.rows(), d * d, at};
  }
  static void invert(const MultiDual<S>& g, S* inverse) {
    Tape<S>& tape = g.tape();
    const Index d = g.cols(), at = g.pitch();
    const View<const S> blocks = g.blocks.value();
    math::invert_batch<S>(
        g.rows, d, [&](Index i, Index j) { return blocks.col(i) + (j + 1) * at; }, S(1),
        [&](Index i, Index j) { return inverse + (i * d + j) * at; }, tape.scratch(at),
        tape.scratch(math::invert_batch_workspace(d)), tape.template storage<Index>(static_cast<std::size_t>(d)));
  }

  static math::FixedPointWorkspace<S> workspace(Tape<S>& tape, View<const S> of) {
    const auto rows = static_cast<std::size_t>(of.rows);
    return {tape.template storage<Index>(2 * rows), tape.template storage<double>(rows), tape.scratch(of.size()),
            tape.scratch(of.size())};
  }
  static void copy(View<const S> from, View<S> to) {
    math::map(
        to, [](auto v) { return v; }, from);
  }

  // Up to so many dimensions Newton's method is near to hand, and up to so many it is better than to give up.
  static constexpr Index few_dimensions = 8, some_dimensions = 64;

  // Steps of the contraction before a row goes on by Newton's method.
  int first_steps() const {
    const int most = inverse_options.max_iterations, cost = static_cast<int>(std::min<Index>(dim(), 1000)) + 1;
    if (inverse_options.method == InverseMethod::newton) return 0;
    if (inverse_options.method == InverseMethod::fixed_point || dim() > some_dimensions) return most;
    return std::min(most, (dim() <= few_dimensions ? 3 : 10) * cost);
  }

  // z with z + g(z) = x.
  void solve(View<const S> x, Var<S> z) const {
    inverse_options.check();
    Tape<S>& tape = z.tape();
    const View<S> y = tape.mutable_value(z);
    copy(x, y);
    const auto mark = tape.mark();
    const auto space = workspace(tape, x);
    const int most = inverse_options.max_iterations;
    const int first = first_steps();
    Index open = x.rows;
    if (first > 0) {
      const math::FixedPointProgress progress = math::contract<S>(
          "residual inverse", y, x,
          [&](View<const S> in, View<S> out) {
            const auto inner = tape.mark();
            copy(constant_value(tape.constant(in)).value(), out);
            tape.release(inner);
          },
          network.coefficient(), {inverse_options.tolerance, first}, space);
      open = progress.open;
      if (open > 0 && first == most) throw convergence_error("residual inverse", space.row[0], space.step[0], most);
      if (inverse_options.method == InverseMethod::automatic && dim() <= some_dimensions) {
        std::copy_n(space.row + x.rows, progress.stalled, space.row + open);
        open += progress.stalled;
      }
    } else {
      std::iota(space.row, space.row + open, Index{0});
    }
    if (open > 0) improve_by_newton(x, y, tape, {space.row, static_cast<std::size_t>(open)}, most);
    if constexpr (std::is_same_v<S, float>)
      if (inverse_options.tolerance > 0) improve_in_double(x, y, tape, space.row);
    tape.release(mark);
  }

  // Rows whose error may exceed the tolerance because g was rounded to float are brought there with g in double: by
  // Newton's method with the Jacobian in float, and by the contraction where that is asked for, where the Jacobian is
  // too large, and where it was no good. `row` has room for every row. |(I + J)^-1| <= 1 / (1 - l) bounds the error by
  // the residual; nobody can tell what is below the rounding of z.
  void improve_in_double(View<const S> x, View<S> y, Tape<S>& tape, Index* row) const {
    const Index d = x.cols;
    const double l = network.coefficient();
    constexpr double eps = static_cast<double>(std::numeric_limits<S>::epsilon());
    const auto norm = [d](View<const S> of, Index n) {
      double square = 0;
      for (Index j = 0; j < d; ++j) square += static_cast<double>(of.col(j)[n]) * static_cast<double>(of.col(j)[n]);
      return std::sqrt(square);
    };
    double biases = 0;  // which numbers inside of the network may be as large as
    for (std::size_t i = 0; i < network.layers.size(); ++i)
      biases += static_cast<double>(as_eigen(network.constants(tape, i).second.value()).matrix().norm());
    const auto scale = [&](Index n) { return norm(x, n) + norm(y, n); };
    const double rounding = 16 * std::sqrt(static_cast<double>(d)) * eps / (1 - l);
    Index count = 0;
    for (Index n = 0; n < x.rows; ++n)
      if (rounding * (scale(n) + 2 * biases) > inverse_options.tolerance) row[count++] = n;
    if (count == 0) return;

    auto& wide = tape.template companion<Tape<double>>();
    wide.reset();
    const std::size_t depth = network.layers.size();
    auto* weights = wide.template storage<Var<double>>(2 * depth);
    for (std::size_t i = 0; i < depth; ++i) {
      const auto [w, b] = network.constants(tape, i);
      weights[2 * i] = wide.copy(as_eigen(w.value()));
      weights[2 * i + 1] = wide.copy(as_eigen(b.value()));
    }
    const auto g = [&](View<const double> v) {
      Var<double> h = wide.constant(v);
      for (std::size_t i = 0; i < depth; ++i)
        h = affine(h, weights[2 * i], weights[2 * i + 1], i + 1 < depth ? network.activation : Activation::identity);
      return h.value();
    };
    // Rows that are done leave; those that stay move up.
    const auto block = [&] { return wide.mutable_value(wide.make(count, d, false)); };
    const View<double> target = block(), point = block();
    auto* allowed = wide.template storage<double>(static_cast<std::size_t>(count));
    auto* place = wide.template storage<Index>(static_cast<std::size_t>(count));
    for (Index k = 0; k < count; ++k) {
      place[k] = k;
      allowed[k] = std::max(inverse_options.tolerance, eps / 4 * scale(row[k]));
      for (Index j = 0; j < d; ++j) {
        target.col(j)[k] = static_cast<double>(x.col(j)[row[k]]);
        point.col(j)[k] = static_cast<double>(y.col(j)[row[k]]);
      }
    }
    const auto at = [&](View<double> v, Index rows) { return View<double>{v.data, rows, d, v.stride}; };
    const auto give = [&](Index k) {
      for (Index j = 0; j < d; ++j) y.col(j)[row[k]] = static_cast<S>(point.col(j)[k]);
    };
    if (inverse_options.method != InverseMethod::fixed_point && d <= some_dimensions) {
      const Var<S> start = tape.make(count, d, false);
      as_eigen(tape.mutable_value(start)) = as_eigen(View<const double>(point)).template cast<S>();
      const View<const S> inverse = inverse_jacobian(start);
      constexpr int most_steps = 4;
      for (int step = 0; step < most_steps && count > 0; ++step) {
        const auto mark = wide.mark();
        const View<const double> value = g(at(point, count));
        Index kept = 0;
        for (Index k = 0; k < count; ++k) {
          double residual[some_dimensions], size = 0;
          for (Index j = 0; j < d; ++j) {
            residual[j] = point.col(j)[k] + value.col(j)[k] - target.col(j)[k];
            size += residual[j] * residual[j];
          }
          if (std::sqrt(size) <= (1 - l) * allowed[k]) {
            give(k);
            continue;
          }
          for (Index j = 0; j < d; ++j) {
            double move = 0;
            for (Index i = 0; i < d; ++i) move += static_cast<double>(inverse.col(j * d + i)[place[k]]) * residual[i];
            point.col(j)[kept] = point.col(j)[k] - move;
            target.col(j)[kept] = target.col(j)[k];
          }
          row[kept] = row[k];
          allowed[kept] = allowed[k];
          place[kept++] = place[k];
        }
        wide.release(mark);
        count = kept;
      }
    }
    if (count == 0) return;
    const auto rows = static_cast<std::size_t>(count);
    const math::FixedPointWorkspace<double> space{wide.template storage<Index>(2 * rows),
                                                  wide.template storage<double>(rows), wide.scratch(count * d),
                                                  wide.scratch(count * d)};
    try {
      math::fixed_point<double>(
          "residual inverse", at(point, count), at(target, count),
          [&](View<const double> in, View<double> out) {
            const auto mark = wide.mark();
            as_eigen(out) = as_eigen(g(in));
            wide.release(mark);
          },
          l, {inverse_options.tolerance, inverse_options.max_iterations}, space);
    } catch (const convergence_error& e) {
      e.throw_for(row[e.sample()]);
    }
    for (Index k = 0; k < count; ++k) give(k);
  }

  // Newton's method from the points y of the open rows. Where a step does not bring the residual z + g(z) - x down, one
  // of the contraction does, from the best point so far. A row ends when its step is within the tolerance, or when even
  // the contraction finds nothing better: rounding is all that is left.
  void improve_by_newton(View<const S> x, View<S> y, Tape<S>& tape, std::span<Index> open, int most) const {
    const Index d = x.cols, rows = static_cast<Index>(open.size());
    const View<S> residual = tape.mutable_value(tape.make(x.rows, d, false)),
                  trial = tape.mutable_value(tape.make(x.rows, d, false)),
                  point = tape.mutable_value(tape.make(rows, d, false));
    S* inverse = tape.scratch(padded(rows) * d * d);
    auto* state = tape.template storage<RowState>(static_cast<std::size_t>(x.rows));
    std::fill_n(state, x.rows, RowState{});
    copy(y, trial);
    for (int iteration = 0; !open.empty(); ++iteration) {
      if (iteration == most)
        throw convergence_error("residual inverse", open[0], static_cast<double>(state[open[0]].size),
                                inverse_options.max_iterations);
      const auto mark = tape.mark();
      const auto count = static_cast<Index>(open.size());
      for (Index k = 0; k < count; ++k)
        for (Index j = 0; j < d; ++j) point.col(j)[k] = trial.col(j)[open[static_cast<std::size_t>(k)]];
      const MultiDual<S> g = constant_jacobian(tape.constant(View<const S>{point.data, count, d, point.stride}));
      invert(g, inverse);
      const View<const S> value = detail::stacked(g.blocks.value(), g, 0, count);
      std::size_t kept = 0;
      for (Index k = 0; k < count; ++k) {
        const Index n = open[static_cast<std::size_t>(k)];
        if (!advance(n, k, x, y, value, inverse, g.pitch(), residual, trial, state[n])) open[kept++] = n;
      }
      open = open.first(kept);
      tape.release(mark);
    }
  }

  struct RowState {
    S size = std::numeric_limits<S>::infinity();  // of the residual at the best point, y
    bool by_newton = false;                       // how the trial point was reached
  };

  // Judges the trial point of row n, whose value and inverse Jacobian are those of row k, and sets the next one. True
  // when the row is done.
  bool advance(Index n, Index k, View<const S> x, View<S> y, View<const S> value, const S* inverse, Index at,
               View<S> residual, View<S> trial, RowState& state) const {
    const Index d = x.cols;
    constexpr S eps = std::numeric_limits<S>::epsilon();
    S found = 0, scale = 0;  // the norm in which g contracts
    for (Index j = 0; j < d; ++j) {
      const S r = trial.col(j)[n] + value.col(j)[k] - x.col(j)[n];
      found = std::hypot(found, r);  // whose squares may overflow
      scale = std::max({scale, std::abs(x.col(j)[n]), std::abs(trial.col(j)[n])});
    }
    if (!(found < state.size)) {
      if (!state.by_newton) {
        if (!(state.size <= std::sqrt(eps) * std::max(S(1), scale)))
          throw convergence_error("residual inverse", n, static_cast<double>(found), 1);
        return true;
      }
      for (Index j = 0; j < d; ++j) trial.col(j)[n] = y.col(j)[n] - residual.col(j)[n];
      state.by_newton = false;
      return false;
    }
    state.size = found;
    state.by_newton = true;
    for (Index j = 0; j < d; ++j) {
      y.col(j)[n] = trial.col(j)[n];
      residual.col(j)[n] = trial.col(j)[n] + value.col(j)[k] - x.col(j)[n];
    }
    S step = 0;
    for (Index j = 0; j < d; ++j) {
      S move = 0;
      for (Index i = 0; i < d; ++i) move += inverse[(j * d + i) * at + k] * residual.col(i)[n];
      trial.col(j)[n] = y.col(j)[n] - move;
      step = std::max(step, std::abs(move));
    }
    if (static_cast<double>(step) > std::max(inverse_options.tolerance, static_cast<double>(eps * scale))) return false;
    for (Index j = 0; j < d; ++j) y.col(j)[n] = trial.col(j)[n];
    return true;
  }
};

/// | option          | type            | default                                                      |
/// |-----------------|-----------------|--------------------------------------------------------------|
/// | hidden          | widths          | {128, 128}                                                   |
/// | activation      | Activation      | lip_swish; tanh, elu and sin have slopes of at most 1 too    |
/// | coefficient     | double          | 0.97: bound of the Lipschitz constant of g, between 0 and 1  |
/// | last_scale      | double          | 0.05: factor on the last layer's weights                     |
/// | first_scale     | double          | 1: factor on the first layer's weights                       |
/// | training        | LogDetEstimator | ExactLogDet                                                  |
/// | evaluation      | LogDetEstimator | ExactLogDet                                                  |
/// | inverse         | ResidualInverseOptions |                                                       |
struct ResidualOptions {
  std::vector<Index> hidden = {128, 128};
  Activation activation = Activation::lip_swish;
  double coefficient = 0.97;
  double last_scale = 0.05;
  double first_scale = 1;
  LogDetEstimator training = ExactLogDet{};
  LogDetEstimator evaluation = ExactLogDet{};
  ResidualInverseOptions inverse = {};

  MlpOptions network() const {
    return {.hidden = hidden, .activation = activation, .last_scale = last_scale, .first_scale = first_scale};
  }
};

/// A fresh residual layer. Throws invalid_argument for dim < 1, a coefficient outside (0, 1), no hidden layer, and for
/// options that an estimator or the network refuses.
template <Real S>
Residual<S> make_residual(Index dim, const ResidualOptions& options = {}, std::uint64_t seed = 0,
                          std::uint64_t stream = 0) {
  require(dim >= 1, "make_residual: dimension ", dim, ", expected at least 1");
  require(options.coefficient > 0 && options.coefficient < 1, "make_residual: coefficient is ", options.coefficient,
          ", expected between 0 and 1");
  require(!options.hidden.empty(), "make_residual: no hidden layer, expected at least one");
  options.inverse.check();
  for (const LogDetEstimator* estimator : {&options.training, &options.evaluation})
    std::visit(
        [](const auto& e) {
          if constexpr (requires { e.check(); }) e.check();
        },
        *estimator);
  return {make_spectral_mlp<S>(dim, dim, options.network(), options.coefficient, seed, stream), options.training,
          options.evaluation, options.inverse};
}

}  // namespace diffeo::inline DIFFEO_ISA
