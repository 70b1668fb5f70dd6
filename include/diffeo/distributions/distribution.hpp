// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstdint>
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/autodiff/tiles.hpp>
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/layers/pass.hpp>

/// What every distribution answers on arrays: those that flows start from as well as those that they give.
namespace diffeo::inline DIFFEO_ISA {

/// Samples with the log-density of each.
template <class S>
struct SampleAndLogProb {
  Array<S> sample;    ///< N x D
  Array<S> log_prob;  ///< N x 1
};

/// Samples on a tape with the log-density of each.
template <Real S>
struct Draw {
  Var<S> sample;
  Var<S> log_prob;
};

/// Random stream of the samples of sample() and sample_and_log_prob(), different from those of initial weights. It is
/// the same for all distributions: the samples of a base are the latent points of the samples of a flow over it.
inline constexpr std::uint64_t sample_stream = 0x6c6174656e747321;

/// Distribution on R^D, with scalar type S = D::Scalar. x is any Eigen expression, N x D. The work is done in tiles on
/// several threads (see Execution, which may be left out); the result of a row depends neither on the other rows nor
/// on the threads.
///
/// | expression                                | type                | meaning                                     |
/// |-------------------------------------------|---------------------|---------------------------------------------|
/// | d.dim()                                   | Index               | D                                           |
/// | d.log_prob(x, execution)                  | Array<S>            | log-density of each row in nats: N x 1      |
/// | d.score(x, execution)                     | Array<S>            | its gradient with respect to the row: N x D |
/// | d.sample(n, seed, execution)              | Array<S>            | n x D; sample i depends on (seed, i) alone  |
/// | d.sample_and_log_prob(n, seed, execution) | SampleAndLogProb<S> | the same samples with their log-densities   |
///
/// The log-density may be -infinity far from the mass of the distribution; its gradient may not be finite there.
/// Methods throw invalid_argument for the wrong number of columns, for NaN or infinity, naming the place, and for
/// negative n.
///
/// Models: StandardNormal, DiagonalNormal, MultivariateNormal, UniformBox, GaussianMixture, TransformedDistribution.
/// Those that depend on a context answer a ConditionalDistribution's methods, too.
template <class D>
concept Distribution =
    requires(const D& d, const Array<typename D::Scalar>& x, Index n, std::uint64_t seed, const Execution& execution) {
      { d.dim() } -> std::convertible_to<Index>;
      { d.log_prob(x, execution) } -> std::same_as<Array<typename D::Scalar>>;
      { d.score(x, execution) } -> std::same_as<Array<typename D::Scalar>>;
      { d.sample(n, seed, execution) } -> std::same_as<Array<typename D::Scalar>>;
      { d.sample_and_log_prob(n, seed, execution) } -> std::same_as<SampleAndLogProb<typename D::Scalar>>;
    };

namespace detail {

// The functions below are what the methods of distributions call. They need d.dim() and the log-density of values on a
// tape, d.log_prob(x).

// Number of rows that a distribution is evaluated on at a time.
template <class D>
inline constexpr Index distribution_tile = [] {
  if constexpr (requires { D::tile_rows; })
    return Index{D::tile_rows};
  else
    return tile_rows<typename D::Scalar>;
}();

// Returns the log-densities of the rows of x, which evaluate(x, first, count) computes for the rows of a tile; `owner`
// says in messages what has the dimension.
template <class D, class Derived, class Evaluate>
Array<typename D::Scalar> log_prob_of_rows(const D& d, const char* owner, const Eigen::DenseBase<Derived>& x,
                                           const Execution& execution, const Evaluate& evaluate) {
  using S = typename D::Scalar;
  const auto& points = evaluate_once(x);
  require_batch<S>("log_prob: x", points, d.dim(), owner);
  Array<S> result(x.rows(), 1);
  evaluate_checked(d, [&] {
    for_each_tile<S>(x.rows(), distribution_tile<D>, execution, [&](Tape<S>& tape, Index first, Index count) {
      const Var<S> tile = tape.copy(points.middleRows(first, count));
      result.middleRows(first, count) = as_eigen(evaluate(tile, first, count).value());
    });
  });
  return result;
}
template <class D, class Derived>
Array<typename D::Scalar> log_prob_of_rows(const D& d, const char* owner, const Eigen::DenseBase<Derived>& x,
                                           const Execution& execution) {
  if constexpr (requires { d.context_dim(); })
    require_no_context("log_prob", d, owner, "call log_prob(x, c) or given(c)");
  return log_prob_of_rows(d, owner, x, execution, [&d](const auto& tile, Index, Index) { return d.log_prob(tile); });
}

// A variable of a tile and the log-densities that are a function of it.
template <Real S>
struct RecordedLogProb {
  Var<S> variable, log_prob;
};

// Returns the gradients (rows x cols) of log-densities, which record(tape, first, count) records for the rows of a
// tile.
template <class D>
Array<typename D::Scalar> gradient_of_rows(
    const D& d, Index rows, Index cols, const Execution& execution,
    FunctionRef<RecordedLogProb<typename D::Scalar>(Tape<typename D::Scalar>& tape, Index first, Index count)> record) {
  using S = typename D::Scalar;
  Array<S> result(rows, cols);
  const Array<S> ones = Array<S>::Ones(distribution_tile<D>, 1);
  evaluate_checked(d, [&] {
    for_each_tile<S>(rows, distribution_tile<D>, execution, [&](Tape<S>& tape, Index first, Index count) {
      const RecordedLogProb<S> tile = record(tape, first, count);
      tape.backward(tile.log_prob, {ones.data(), count, 1, count});
      if (tile.variable.has_grad())
        result.middleRows(first, count) = as_eigen(tile.variable.grad());
      else
        result.middleRows(first, count).setZero();
    });
  });
  return result;
}

// Returns the gradient of the log-density with respect to each row of x, as evaluate(x, first, count) computes it.
template <class D, class Derived, class Evaluate>
Array<typename D::Scalar> score_of_rows(const D& d, const char* owner, const Eigen::DenseBase<Derived>& x,
                                        const Execution& execution, const Evaluate& evaluate) {
  using S = typename D::Scalar;
  const auto& points = evaluate_once(x);
  require_batch<S>("score: x", points, d.dim(), owner);
  return gradient_of_rows(d, x.rows(), x.cols(), execution, [&](Tape<S>& tape, Index first, Index count) {
    const Var<S> tile = tape.variable(points.middleRows(first, count));
    return RecordedLogProb<S>{tile, evaluate(tile, first, count)};
  });
}
template <class D, class Derived>
Array<typename D::Scalar> score_of_rows(const D& d, const char* owner, const Eigen::DenseBase<Derived>& x,
                                        const Execution& execution) {
  if constexpr (requires { d.context_dim(); }) require_no_context("score", d, owner, "call score(x, c) or given(c)");
  return score_of_rows(d, owner, x, execution, [&d](const auto& tile, Index, Index) { return d.log_prob(tile); });
}

// Returns n samples; `draw` makes those of a tile.
template <class D>
Array<typename D::Scalar> sample_rows(
    const D& d, Index n, const Execution& execution,
    FunctionRef<Var<typename D::Scalar>(Tape<typename D::Scalar>& tape, Index first, Index count)> draw) {
  using S = typename D::Scalar;
  require(n >= 0, "sample: n is ", n, ", expected at least 0");
  Array<S> x(n, d.dim());
  evaluate_checked(d, [&] {
    for_each_tile<S>(n, distribution_tile<D>, execution, [&](Tape<S>& tape, Index first, Index count) {
      x.middleRows(first, count) = as_eigen(draw(tape, first, count).value());
    });
  });
  return x;
}

// Returns n samples with their log-densities; `draw` makes those of a tile.
template <class D>
SampleAndLogProb<typename D::Scalar> sample_and_log_prob_rows(
    const D& d, Index n, const Execution& execution,
    FunctionRef<Draw<typename D::Scalar>(Tape<typename D::Scalar>& tape, Index first, Index count)> draw) {
  using S = typename D::Scalar;
  require(n >= 0, "sample_and_log_prob: n is ", n, ", expected at least 0");
  SampleAndLogProb<S> result{Array<S>(n, d.dim()), Array<S>(n, 1)};
  evaluate_checked(d, [&] {
    for_each_tile<S>(n, distribution_tile<D>, execution, [&](Tape<S>& tape, Index first, Index count) {
      const Draw<S> tile = draw(tape, first, count);
      result.sample.middleRows(first, count) = as_eigen(tile.sample.value());
      result.log_prob.middleRows(first, count) = as_eigen(tile.log_prob.value());
    });
  });
  return result;
}

// Whether a base takes a Pass, as those that depend on a context do.
template <class Base>
concept BaseTakesPass = requires(const Base& base, const Var<typename Base::Scalar>& z,
                                 const Pass<typename Base::Scalar>& pass) { base.log_prob(z, pass); };

// Returns samples first to first + count - 1 of a base as a constant of the tape.
template <class Base, Real S>
Var<S> base_sample(const Base& base, Tape<S>& tape, Index first, Index count, std::uint64_t seed,
                   [[maybe_unused]] const Pass<S>& pass = {}) {
  const Var<S> z = tape.make(count, base.dim(), false);
  if constexpr (BaseTakesPass<Base>)
    base.sample_into(tape.mutable_value(z), seed, sample_stream, first, pass);
  else
    base.sample_into(tape.mutable_value(z), seed, sample_stream, first);
  return z;
}

// The methods of bases, which sample by sample_into().
template <class Base>
auto sample_of_base(const Base& base, Index n, std::uint64_t seed, const Execution& execution) {
  using S = typename Base::Scalar;
  return sample_rows(base, n, execution, [&](Tape<S>& tape, Index first, Index count) {
    return base_sample(base, tape, first, count, seed);
  });
}
template <class Base>
auto sample_and_log_prob_of_base(const Base& base, Index n, std::uint64_t seed, const Execution& execution) {
  using S = typename Base::Scalar;
  return sample_and_log_prob_rows(base, n, execution, [&](Tape<S>& tape, Index first, Index count) {
    const Var<S> z = base_sample(base, tape, first, count, seed);
    return Draw<S>{z, base.log_prob(z)};
  });
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
