// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/autodiff/ops/implicit.hpp>
#include <diffeo/math/fixed_point.hpp>
#include <diffeo/math/linear_solve.hpp>
#include <diffeo/nn/spectral_norm.hpp>
#include <limits>
#include <numeric>
#include <span>

/// The inverse of a residual layer x = z + g(z), by fixed-point iteration and by Newton's method.
namespace diffeo::inline DIFFEO_ISA {

/// Methods that solve z + g(z) = x for z.
///
/// | method      |                                                                                                   |
/// |-------------|---------------------------------------------------------------------------------------------------|
/// | automatic   | Fixed-point iteration first. A row continues by Newton's method if it has not converged after the |
/// |             | cost of 3 Newton steps (10 for 8 < D <= 64), or, for D <= 64, if rounding stopped it before its   |
/// |             | error was certain to be within the tolerance. For D > 64, Newton's method is not used.            |
/// | fixed_point | The iteration z <- x - g(z) alone.                                                                |
/// | newton      | Newton's method with the exact Jacobian alone.                                                    |
///
/// A Newton step costs D + 1 times as much as a fixed-point step. Newton's method was 1.2 to 6 times as fast for D = 2
/// to 12 with networks whose Lipschitz constant is well below its bound.
enum class InverseMethod { automatic, fixed_point, newton };

/// Returns the name of a method.
inline const char* to_string(InverseMethod method) {
  return method == InverseMethod::automatic     ? "automatic"
         : method == InverseMethod::fixed_point ? "fixed_point"
                                                : "newton";
}

/// Options of the inverse of a residual layer.
///
/// | option         | type          | default                                                                      |
/// |----------------|---------------|------------------------------------------------------------------------------|
/// | tolerance      | double        | 0: as exact as rounding allows; otherwise the largest error of a coordinate  |
/// | max_iterations | int           | 10000: largest number of evaluations of g by each of the methods, and by the |
/// |                |               | iteration that solves for the gradient                                       |
/// | method         | InverseMethod | automatic                                                                    |
///
/// Rounding in g causes an error of a few epsilons times |x| / (1 - coefficient). If the tolerance is smaller than
/// that, a layer in float computes the last steps with g in double, after which the error is within the tolerance or
/// the rounding of z itself, whichever is larger.
struct ResidualInverseOptions {
  double tolerance = 0;
  int max_iterations = 10000;
  InverseMethod method = InverseMethod::automatic;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("tolerance", self.tolerance, "max_iterations", self.max_iterations, "method", self.method);
  }

  /// Throws invalid_argument for options out of range.
  void check() const {
    require(tolerance >= 0 && std::isfinite(tolerance), "residual inverse: tolerance is ", tolerance,
            ", expected finite and at least 0");
    require(max_iterations >= 1, "residual inverse: max_iterations is ", max_iterations, ", expected at least 1");
  }
};

namespace detail {

// Largest dimension for which `automatic` starts Newton's method early, and solves for the gradient with the whole
// inverse Jacobian.
inline constexpr Index early_newton_max_dim = 8;
// Largest dimension for which `automatic` uses Newton's method at all, and for which the refinement in double does.
inline constexpr Index newton_max_dim = 64;
// Number of Newton steps whose cost `automatic` spends on the fixed-point iteration before it starts Newton's method:
// up to early_newton_max_dim, and above it.
inline constexpr int early_newton_after = 3, late_newton_after = 10;

// Returns the memory that math::contract() and math::fixed_point() need for rows x cols values, valid until the tape is
// reset or released.
template <Real S>
math::FixedPointWorkspace<S> fixed_point_workspace(Tape<S>& tape, Index rows, Index cols) {
  const auto count = static_cast<std::size_t>(rows);
  return {tape.template allocate<Index>(2 * count), tape.template allocate<double>(count),
          tape.allocate_values(rows * cols), tape.allocate_values(rows * cols)};
}

// The first bias of a network for rows chosen from a batch: none, one row for all, or as many rows as the batch has,
// from which those of the chosen rows are gathered.
template <Real S>
class FirstBiasOfRows {
 public:
  // Takes memory of the tape, which is valid until it is reset or released.
  FirstBiasOfRows(Tape<S>& tape, const Var<S>& all) : tape_(tape), all_(all) {
    if (per_row()) memory_ = tape.allocate_values(all.value().stride * all.cols());
  }

  bool per_row() const { return all_ && all_.rows() > 1; }

  // Returns the bias of rows row(0), ..., row(count - 1), a constant that the next call overwrites. A call with as many
  // rows as the one before is taken to be for the same ones.
  template <class Row>
  Var<S> operator()(Index count, const Row& row) {
    if (!per_row()) return all_;
    if (count != gathered_.rows) {
      const View<const S> from = all_.value();
      // A single row is contiguous, as a bias is that all rows share.
      gathered_ = {memory_, count, from.cols, count == 1 ? 1 : from.stride};
      for (Index j = 0; j < from.cols; ++j)
        for (Index k = 0; k < count; ++k) gathered_.col(j)[k] = from.col(j)[row(k)];
    }
    return tape_.constant(View<const S>(gathered_));
  }

 private:
  Tape<S>& tape_;
  Var<S> all_;
  S* memory_ = nullptr;
  View<S> gathered_{nullptr, -1, 0, 0};
};

// Refines solutions z of z + g(z) = x that were computed in float, with g in double: by a few steps of Newton's
// method with the inverse Jacobian in float, then by fixed-point iteration for the rows that have not converged. Rows
// that have converged are written to z and removed; the others stay contiguous at the front.
//
// |(I + J)^-1| <= 1 / (1 - L) bounds the error by the residual, L being the Lipschitz constant of g. An error below the
// rounding of z cannot be certified.
template <class T>
class RefinementInDouble {
 public:
  using S = scalar_t<T>;

  // first_bias: see ResidualInverse.
  RefinementInDouble(const SpectralMlp<T>& network, const Var<S>& first_bias, const ResidualInverseOptions& options,
                     View<const S> x, View<S> z, Tape<S>& tape)
      : network_(network),
        first_bias_(first_bias),
        options_(options),
        x_(x),
        z_(z),
        tape_(tape),
        lipschitz_(network.coefficient()) {}

  // Lists in `row`, which has room for all rows, those whose error may exceed the tolerance because g was rounded to
  // float. Returns whether there are any.
  bool select(Index* row) {
    row_ = row;
    // The sum of the biases' norms bounds the size of numbers inside of the network.
    const View<const S> first = constants(0).second.value();
    const double* size_of_first = norms(first);
    double biases = 0;
    for (std::size_t i = 1; i < network_.layers.size(); ++i)
      biases += static_cast<double>(as_eigen(constants(i).second.value()).matrix().norm());
    const double rounding = 16 * std::sqrt(static_cast<double>(x_.cols)) * eps / (1 - lipschitz_);
    for (Index n = 0; n < x_.rows; ++n)
      if (rounding * (scale(n) + 2 * (size_of_first[first.rows > 1 ? n : 0] + biases)) > options_.tolerance)
        row_[count_++] = n;
    return count_ > 0;
  }

  // Refines the selected rows. `inverse_jacobian(points, first_bias)` returns (I + J)^-1 at points in float, given
  // their first bias, as D^2 columns. Throws convergence_error if the fixed-point iteration does not converge.
  template <class InverseJacobian>
  void refine(const InverseJacobian& inverse_jacobian) {
    convert();
    if (options_.method != InverseMethod::fixed_point && x_.cols <= newton_max_dim) {
      const Var<S> start = tape_.make(count_, x_.cols, false);
      as_eigen(tape_.mutable_value(start)) = as_eigen(View<const double>(point_)).template cast<S>();
      FirstBiasOfRows<S> bias(tape_, first_bias_);
      const View<const S> inverse = inverse_jacobian(start, bias(count_, [this](Index k) { return row_[k]; }));
      constexpr int most_steps = 4;
      for (int step = 0; step < most_steps && count_ > 0; ++step) newton_step(inverse);
    }
    if (count_ > 0) iterate();
  }

 private:
  static constexpr double eps = static_cast<double>(std::numeric_limits<S>::epsilon());

  double norm(View<const S> of, Index n) const {
    double square = 0;
    for (Index j = 0; j < x_.cols; ++j) square += static_cast<double>(of.col(j)[n]) * static_cast<double>(of.col(j)[n]);
    return std::sqrt(square);
  }
  // Returns the norm of each row, in memory of the tape. The bits do not depend on the number of rows.
  const double* norms(View<const S> of) const {
    auto* const size = tape_.template allocate<double>(static_cast<std::size_t>(of.rows));
    std::fill_n(size, of.rows, 0.0);
    for (Index j = 0; j < of.cols; ++j)
      for (Index n = 0; n < of.rows; ++n) {
        const auto v = static_cast<double>(of.col(j)[n]);
        size[n] = simd::mul_add_scalar(v, v, size[n]);
      }
    for (Index n = 0; n < of.rows; ++n) size[n] = std::sqrt(size[n]);
    return size;
  }
  double scale(Index n) const { return norm(x_, n) + norm(z_, n); }

  // Returns matrix and bias of layer i; the bias of the first one may have a row for each row of x.
  std::pair<Var<S>, Var<S>> constants(std::size_t i) const { return network_.constants(tape_, i, first_bias_); }

  // Converts the parameters and the selected rows to double.
  void convert() {
    const Index d = x_.cols;
    wide_ = &tape_.template singleton<Tape<double>>();
    wide_->reset();
    const std::size_t depth = network_.layers.size();
    weights_ = wide_->template allocate<Var<double>>(2 * depth);
    for (std::size_t i = 0; i < depth; ++i) {
      const auto [w, b] = constants(i);
      weights_[2 * i] = wide_->copy(as_eigen(w.value()));
      weights_[2 * i + 1] = wide_->copy(as_eigen(b.value().rows > 1 ? selected(b) : b.value()));
    }
    target_ = wide_->mutable_value(wide_->make(count_, d, false));
    point_ = wide_->mutable_value(wide_->make(count_, d, false));
    allowed_ = wide_->template allocate<double>(static_cast<std::size_t>(count_));
    place_ = wide_->template allocate<Index>(static_cast<std::size_t>(count_));
    for (Index k = 0; k < count_; ++k) {
      place_[k] = k;
      allowed_[k] = std::max(options_.tolerance, eps / 4 * scale(row_[k]));
      for (Index j = 0; j < d; ++j) {
        target_.col(j)[k] = static_cast<double>(x_.col(j)[row_[k]]);
        point_.col(j)[k] = static_cast<double>(z_.col(j)[row_[k]]);
      }
    }
  }

  // Returns the rows of a first bias that are selected.
  View<const S> selected(const Var<S>& first_bias) const {
    return FirstBiasOfRows<S>(tape_, first_bias)(count_, [this](Index k) { return row_[k]; }).value();
  }

  // Returns g(v) in double, given the first bias of each row.
  View<const double> evaluate(View<const double> v, const Var<double>& first_bias) const {
    return perceptron(wide_->constant(v), network_.layers.size(), network_.activation,
                      [&](std::size_t i, const Var<double>& in, Activation a) {
                        return affine(in, weights_[2 * i], i == 0 ? first_bias : weights_[2 * i + 1], a);
                      })
        .value();
  }

  // Returns the rows of v that have not converged.
  View<double> remaining(View<double> v) const { return {v.data, count_, x_.cols, v.stride}; }

  void write_result(Index k) const {
    for (Index j = 0; j < x_.cols; ++j) z_.col(j)[row_[k]] = static_cast<S>(point_.col(j)[k]);
  }

  // Ends the rows whose residual is small enough, and moves the others by one step of Newton's method.
  void newton_step(View<const S> inverse) {
    const Index d = x_.cols;
    const auto mark = wide_->mark();
    FirstBiasOfRows<double> bias(*wide_, weights_[1]);
    const View<const double> value = evaluate(remaining(point_), bias(count_, [this](Index k) { return place_[k]; }));
    Index kept = 0;
    for (Index k = 0; k < count_; ++k) {
      double residual[newton_max_dim], size = 0;
      for (Index j = 0; j < d; ++j) {
        residual[j] = point_.col(j)[k] + value.col(j)[k] - target_.col(j)[k];
        size += residual[j] * residual[j];
      }
      if (std::sqrt(size) <= (1 - lipschitz_) * allowed_[k]) {
        write_result(k);
        continue;
      }
      for (Index j = 0; j < d; ++j) {
        double move = 0;
        for (Index i = 0; i < d; ++i) move += static_cast<double>(inverse.col(j * d + i)[place_[k]]) * residual[i];
        point_.col(j)[kept] = point_.col(j)[k] - move;
        target_.col(j)[kept] = target_.col(j)[k];
      }
      row_[kept] = row_[k];
      allowed_[kept] = allowed_[k];
      place_[kept++] = place_[k];
    }
    wide_->release(mark);
    count_ = kept;
  }

  // Ends all rows by fixed-point iteration.
  void iterate() {
    const auto space = fixed_point_workspace(*wide_, count_, x_.cols);
    FirstBiasOfRows<double> bias(*wide_, weights_[1]);
    try {
      math::fixed_point<double>(
          "residual inverse", remaining(point_), remaining(target_),
          [&](View<const double> in, View<double> out) {
            const auto mark = wide_->mark();
            as_eigen(out) = as_eigen(evaluate(in, bias(in.rows, [&](Index k) { return place_[space.row[k]]; })));
            wide_->release(mark);
          },
          lipschitz_, {options_.tolerance, options_.max_iterations}, space);
    } catch (const convergence_error& e) {
      e.throw_for(row_[e.sample()]);
    }
    for (Index k = 0; k < count_; ++k) write_result(k);
  }

  const SpectralMlp<T>& network_;
  Var<S> first_bias_;
  const ResidualInverseOptions& options_;
  View<const S> x_;
  View<S> z_;
  Tape<S>& tape_;
  double lipschitz_;

  Tape<double>* wide_ = nullptr;
  Index count_ = 0;       // rows that have not converged
  Index* row_ = nullptr;  // their row numbers in x and z
  View<double> target_{}, point_{};
  double* allowed_ = nullptr;       // error allowed in each
  Index* place_ = nullptr;          // row of each among the selected ones, as in the inverse Jacobian
  Var<double>* weights_ = nullptr;  // matrix and bias of each layer; the first bias of all selected rows
};

// Solves z + g(z) = x for a network g with a Lipschitz constant below 1.
template <class T>
class ResidualInverse {
 public:
  using S = scalar_t<T>;

  // first_bias is that of network.first_bias(): empty, one row for all, or a row for each row of x.
  ResidualInverse(const SpectralMlp<T>& network, const Var<S>& first_bias, const ResidualInverseOptions& options)
      : network_(network), first_bias_(first_bias), options_(options) {}

  // Returns z (N x D). If `recorded`, z is one op on the tape, differentiable with respect to x, the first bias and the
  // parameters of the network by the implicit function theorem; else a constant. Throws convergence_error for a row
  // that is not solved within the options.
  Var<S> operator()(const Var<S>& x, bool recorded) const {
    Tape<S>& tape = x.tape();
    const Var<S> z = tape.make(x.rows(), x.cols(), false);
    solve(x.value(), z);
    if (!recorded) return z;
    const Var<S> residual = z + network_(z, first_bias_) - x;
    return gradient_by_inverse_jacobian() ? with_inverse_jacobian(z, residual) : with_fixed_point(x, z, residual);
  }

 private:
  Index dim() const { return network_.inputs(); }

  // ---- gradients ----
  // Returns whether the gradient is solved for with the whole inverse Jacobian.
  bool gradient_by_inverse_jacobian() const {
    return options_.method == InverseMethod::newton ||
           (options_.method == InverseMethod::automatic && dim() <= early_newton_max_dim);
  }

  Var<S> with_inverse_jacobian(const Var<S>& z, const Var<S>& residual) const {
    const S* inverse = inverse_jacobian(z, first_bias_).data;
    return implicit(z.value(), residual, [inverse](View<const S> g, View<S> v) {
      const Index d = g.cols, at = padded(g.rows);
      for (Index j = 0; j < d; ++j)
        for (Index i = 0; i < d; ++i)
          math::map_add(
              v.cols_block(j, 1), i == 0, [](auto a, auto b) { return a * b; },
              View<const S>{inverse + (i * d + j) * at, g.rows, 1, at}, g.cols_block(i, 1));
    });
  }

  Var<S> with_fixed_point(const Var<S>& x, const Var<S>& z, const Var<S>& residual) const {
    const Linearised<S> jacobian = network_.linearised(z, first_bias_);
    const math::FixedPointOptions options{0, options_.max_iterations};
    return implicit(z.value(), residual,
                    [jacobian, x, options, l = network_.coefficient()](View<const S> g, View<S> v) {
                      // (I + J') v = g
                      Tape<S>& t = x.tape();
                      const auto mark = t.mark();
                      math::copy(v, g);
                      const auto space = fixed_point_workspace(t, g.rows, g.cols);
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

  // ---- Jacobians ----
  static Index padded(Index rows) {
    return std::max(simd::lanes<S>, (rows + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>);
  }

  // Returns (I + J)^-1 at z given a first bias, as D^2 columns of padded rows.
  View<const S> inverse_jacobian(const Var<S>& z, const Var<S>& first_bias) const {
    Tape<S>& tape = z.tape();
    const Index d = dim(), at = padded(z.rows());
    S* inverse = tape.allocate_values(at * d * d);
    const auto mark = tape.mark();
    invert(network_.with_constant_jacobian(z, first_bias), inverse);
    tape.release(mark);
    return {inverse, z.rows(), d * d, at};
  }

  // Writes (I + J)^-1 to `inverse`, as D^2 columns of padded rows.
  static void invert(const MultiDual<S>& g, S* inverse) {
    Tape<S>& tape = g.tape();
    const Index d = g.cols(), at = g.pitch();
    const View<const S> blocks = g.blocks.value();
    math::invert_batch<S>(
        g.rows, d, [&](Index i, Index j) { return blocks.col(i) + (j + 1) * at; }, S(1),
        [&](Index i, Index j) { return inverse + (i * d + j) * at; }, tape.allocate_values(at),
        tape.allocate_values(math::invert_batch_workspace(d)),
        tape.template allocate<Index>(static_cast<std::size_t>(d)));
  }

  // ---- solution ----
  // Returns the number of fixed-point steps before a row continues by Newton's method.
  int first_steps() const {
    const int most = options_.max_iterations, cost = static_cast<int>(std::min<Index>(dim(), 1000)) + 1;
    if (options_.method == InverseMethod::newton) return 0;
    if (options_.method == InverseMethod::fixed_point || dim() > newton_max_dim) return most;
    return std::min(most, (dim() <= early_newton_max_dim ? early_newton_after : late_newton_after) * cost);
  }

  // Computes z with z + g(z) = x.
  void solve(View<const S> x, Var<S> z) const {
    options_.check();
    Tape<S>& tape = z.tape();
    const View<S> y = tape.mutable_value(z);
    math::copy(y, x);
    const auto mark = tape.mark();
    const auto space = fixed_point_workspace(tape, x.rows, x.cols);
    const int most = options_.max_iterations;
    const int first = first_steps();
    Index open = x.rows;
    if (first > 0) {
      FirstBiasOfRows<S> bias(tape, first_bias_);
      const math::FixedPointProgress progress = math::contract<S>(
          "residual inverse", y, x,
          [&](View<const S> in, View<S> out) {
            const auto inner = tape.mark();
            const Var<S> bias_of_rows = bias(in.rows, [&](Index k) { return space.row[k]; });
            math::copy(out, network_.with_constant_parameters(tape.constant(in), bias_of_rows).value());
            tape.release(inner);
          },
          network_.coefficient(), {options_.tolerance, first}, space);
      open = progress.open;
      if (open > 0 && first == most) throw convergence_error("residual inverse", space.row[0], space.step[0], most);
      if (options_.method == InverseMethod::automatic && dim() <= newton_max_dim) {
        std::copy_n(space.row + x.rows, progress.stalled, space.row + open);
        open += progress.stalled;
      }
    } else {
      std::iota(space.row, space.row + open, Index{0});
    }
    if (open > 0) solve_by_newton(x, y, tape, {space.row, static_cast<std::size_t>(open)}, most);
    if constexpr (std::is_same_v<S, float>)
      if (options_.tolerance > 0) {
        RefinementInDouble<T> refinement(network_, first_bias_, options_, x, y, tape);
        if (refinement.select(space.row))
          refinement.refine(
              [this](const Var<S>& points, const Var<S>& bias) { return inverse_jacobian(points, bias); });
      }
    tape.release(mark);
  }

  // ---- Newton's method ----
  struct RowState {
    S size = std::numeric_limits<S>::infinity();  // norm of the residual at the best point, y
    bool by_newton = false;                       // whether a step of Newton's method led to the trial point
  };

  // Solves for the open rows by Newton's method, starting at y. If a step does not reduce the residual z + g(z) - x, a
  // fixed-point step from the best point so far replaces it. A row ends when its step is within the tolerance, or when
  // a fixed-point step does not reduce the residual either, which is then due to rounding.
  void solve_by_newton(View<const S> x, View<S> y, Tape<S>& tape, std::span<Index> open, int most) const {
    const Index d = x.cols, rows = static_cast<Index>(open.size());
    const View<S> residual = tape.mutable_value(tape.make(x.rows, d, false)),
                  trial = tape.mutable_value(tape.make(x.rows, d, false)),
                  point = tape.mutable_value(tape.make(rows, d, false));
    S* inverse = tape.allocate_values(padded(rows) * d * d);
    auto* state = tape.template allocate<RowState>(static_cast<std::size_t>(x.rows));
    std::fill_n(state, x.rows, RowState{});
    math::copy(trial, y);
    FirstBiasOfRows<S> bias(tape, first_bias_);
    for (int iteration = 0; !open.empty(); ++iteration) {
      if (iteration == most)
        throw convergence_error("residual inverse", open[0], static_cast<double>(state[open[0]].size),
                                options_.max_iterations);
      const auto mark = tape.mark();
      const auto count = static_cast<Index>(open.size());
      for (Index k = 0; k < count; ++k)
        for (Index j = 0; j < d; ++j) point.col(j)[k] = trial.col(j)[open[static_cast<std::size_t>(k)]];
      const MultiDual<S> g =
          network_.with_constant_jacobian(tape.constant(View<const S>{point.data, count, d, point.stride}),
                                          bias(count, [&](Index k) { return open[static_cast<std::size_t>(k)]; }));
      invert(g, inverse);
      const View<const S> value = stacked(g.blocks.value(), g, 0, count);
      std::size_t kept = 0;
      for (Index k = 0; k < count; ++k) {
        const Index n = open[static_cast<std::size_t>(k)];
        if (!advance(n, k, x, y, value, inverse, g.pitch(), residual, trial, state[n])) open[kept++] = n;
      }
      open = open.first(kept);
      tape.release(mark);
    }
  }

  // Accepts or rejects the trial point of row n, whose g and inverse Jacobian are in row k, and sets the next trial
  // point. Returns whether the row has ended.
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
    if (static_cast<double>(step) > std::max(options_.tolerance, static_cast<double>(eps * scale))) return false;
    for (Index j = 0; j < d; ++j) y.col(j)[n] = trial.col(j)[n];
    return true;
  }

  const SpectralMlp<T>& network_;
  Var<S> first_bias_;
  const ResidualInverseOptions& options_;
};

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
