// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/distributions/distribution.hpp>
#include <diffeo/nn/context.hpp>

/// What distributions that depend on a context answer on arrays.
namespace diffeo::inline DIFFEO_ISA {

/// Distribution p(x | c) on R^D given a context c of C columns, with scalar type S = D::Scalar. x and c are any Eigen
/// expressions; c is N x C, with a row for each row of x, or 1 x C for all of them. The result of a row depends on its
/// own x and c alone, and has the same bits whether c is one row for all or a row for each.
///
/// | expression                                   | type                | meaning                                     |
/// |----------------------------------------------|---------------------|---------------------------------------------|
/// | d.context_dim()                              | Index               | C; 0 where there is no context              |
/// | d.log_prob(x, c, execution)                  | Array<S>            | log p(x | c) of each row in nats: N x 1     |
/// | d.score(x, c, execution)                     | Array<S>            | its gradient with respect to the row: N x D |
/// | d.context_score(x, c, execution)             | Array<S>            | that with respect to the row's context:     |
/// |                                              |                     | N x C, also for c of 1 x C                  |
/// | d.sample(c, seed, execution)                 | Array<S>            | a sample for each row of c; sample i        |
/// |                                              |                     | depends on (seed, i, row i of c) alone      |
/// | d.sample(n, c, seed, execution)              | Array<S>            | n samples, for c of 1 x C or of n rows      |
/// | d.sample_and_log_prob(c, seed, execution)    | SampleAndLogProb<S> | the same samples and their log-densities    |
/// | d.sample_and_log_prob(n, c, seed, execution) | SampleAndLogProb<S> |                                             |
/// | d.given(c)                                   | a Distribution      | p(x | c) for one c of 1 x C                 |
///
/// Methods throw invalid_argument where the context is missing, where the distribution takes none, for another shape,
/// NaN or infinity, and as those of a Distribution.
///
/// Models: ConditionalNormal, ConditionalMixture, TransformedDistribution.
template <class D>
concept ConditionalDistribution =
    Distribution<D> && requires(const D& d, const Array<typename D::Scalar>& x, const Array<typename D::Scalar>& c,
                                Index n, std::uint64_t seed, const Execution& execution) {
      { d.context_dim() } -> std::convertible_to<Index>;
      { d.log_prob(x, c, execution) } -> std::same_as<Array<typename D::Scalar>>;
      { d.score(x, c, execution) } -> std::same_as<Array<typename D::Scalar>>;
      { d.context_score(x, c, execution) } -> std::same_as<Array<typename D::Scalar>>;
      { d.sample(c, seed, execution) } -> std::same_as<Array<typename D::Scalar>>;
      { d.sample(n, c, seed, execution) } -> std::same_as<Array<typename D::Scalar>>;
      { d.sample_and_log_prob(c, seed, execution) } -> std::same_as<SampleAndLogProb<typename D::Scalar>>;
      { d.sample_and_log_prob(n, c, seed, execution) } -> std::same_as<SampleAndLogProb<typename D::Scalar>>;
      { d.given(c) } -> Distribution;
    };

namespace detail {

// The functions below are what the methods call. They need d.dim(), d.context_dim() and the log-density of values on a
// tape, d.log_prob(x, pass). `owner` says in messages what takes the context.

// Returns a context of the caller as an array. Throws invalid_argument unless it fits d and `rows` samples.
template <class D, class Context>
Array<typename D::Scalar> checked_context(const D& d, const char* owner, const char* what,
                                          const Eigen::DenseBase<Context>& c, Index rows) {
  return context_of_rows<typename D::Scalar>(what, c, rows, d.context_dim(), owner);
}

// Returns what evaluates the log-densities of a tile given its contexts.
template <class D>
auto evaluation_given(const D& d, const Array<typename D::Scalar>& context) {
  return [&d, &context](const Var<typename D::Scalar>& x, Index first, Index count) {
    return d.log_prob(x, pass_for(x.tape(), &context, first, count));
  };
}

template <class D, class Derived, class Context>
Array<typename D::Scalar> log_prob_of_rows_given(const D& d, const char* owner, const Eigen::DenseBase<Derived>& x,
                                                 const Eigen::DenseBase<Context>& c, const Execution& execution) {
  const Array<typename D::Scalar> context = checked_context(d, owner, "log_prob", c, x.rows());
  return log_prob_of_rows(d, owner, x, execution, evaluation_given(d, context));
}
template <class D, class Derived, class Context>
Array<typename D::Scalar> score_of_rows_given(const D& d, const char* owner, const Eigen::DenseBase<Derived>& x,
                                              const Eigen::DenseBase<Context>& c, const Execution& execution) {
  const Array<typename D::Scalar> context = checked_context(d, owner, "score", c, x.rows());
  return score_of_rows(d, owner, x, execution, evaluation_given(d, context));
}
template <class D, class Derived, class Context>
Array<typename D::Scalar> context_score_of_rows(const D& d, const char* owner, const Eigen::DenseBase<Derived>& x,
                                                const Eigen::DenseBase<Context>& c, const Execution& execution) {
  using S = typename D::Scalar;
  const Array<S> context = checked_context(d, owner, "context_score", c, x.rows());
  const auto& points = evaluate_once(x);
  require_batch<S>("context_score: x", points, d.dim(), owner);
  return gradient_of_rows(d, x.rows(), context.cols(), execution, [&](Tape<S>& tape, Index first, Index count) {
    // A row for each sample, so that their gradients stay apart.
    const Var<S> variable = context.rows() == 1 ? tape.variable(context.replicate(count, 1))
                                                : tape.variable(context.middleRows(first, count));
    Pass<S> pass;
    pass.context = variable;
    return RecordedLogProb<S>{variable, d.log_prob(tape.copy(points.middleRows(first, count)), pass)};
  });
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
