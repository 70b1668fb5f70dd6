// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/lift.hpp>
#include <diffeo/distributions/base_distribution.hpp>
#include <diffeo/distributions/conditional_distribution.hpp>
#include <diffeo/distributions/distribution.hpp>
#include <diffeo/layers/conditional.hpp>
#include <diffeo/layers/evaluate.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Distribution of x = flow.forward(z) for z from a base distribution: log p(x) = log p_z(inverse(x)) + log|det d
/// inverse / d x|. It is a plain value that can be copied, assigned and moved to another thread. Methods that take
/// arrays accept any Eigen expression and work in tiles on several threads (see Execution). Results do not depend on
/// the number of threads, and the result of a row does not depend on the other rows.
///
/// Where flow or base take a context c, the distribution is p(x | c), and the methods take c beside x: N x C with a row
/// per sample, or 1 x C for all. They throw invalid_argument where it is missing, where the flow takes none, for
/// another shape, NaN or infinity. The result of a row depends on its own x and c alone.
template <class Base, class FlowType>
struct TransformedDistribution {
  using Scalar = typename FlowType::Scalar;
  static_assert(std::is_same_v<Scalar, typename Base::Scalar>, "base and flow are of different scalars");

  Base base;
  FlowType flow;

  /// Random stream of samples, different from those of initial weights.
  static constexpr std::uint64_t latent_stream = sample_stream;
  /// Number of rows that are evaluated at a time.
  static constexpr Index tile_rows = tile_rows_of<FlowType>;

  TransformedDistribution() = default;
  /// Throws invalid_argument if the dimensions of base and flow differ, or those of the contexts that they take.
  TransformedDistribution(Base b, FlowType f) : base(std::move(b)), flow(std::move(f)) { check(); }

  /// Throws invalid_argument if the dimensions of base and flow differ, or those of the contexts that they take.
  void check() const {
    if constexpr (requires { flow.dim(); })
      require(flow.dim() == 0 || flow.dim() == base.dim(), "transformed distribution: the base has dimension ",
              base.dim(), ", the flow ", flow.dim());
    if constexpr (detail::BaseTakesPass<Base>) context_dim();
  }

  Index dim() const { return base.dim(); }
  /// Number of columns C of the context; 0 where there is none.
  Index context_dim() const {
    if constexpr (detail::BaseTakesPass<Base>)
      return diffeo::context_dim(fields(*this));
    else
      return diffeo::context_dim(flow);
  }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("base", self.base, "flow", self.flow);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "transformed");
  }
  template <class U>
  auto rebind() const {
    TransformedDistribution<decltype(base.template rebind<U>()), decltype(flow.template rebind<U>())> lifted;
    lifted.base = base.template rebind<U>();
    lifted.flow = flow.template rebind<U>();
    return lifted;
  }

  /// Draws `rows` samples on the tape with their log-densities, both functions of the parameters. Sample i depends on
  /// (seed, stream, first + i).
  Draw<Scalar> draw(Tape<Scalar>& tape, Index rows, std::uint64_t seed, std::uint64_t stream, Index first,
                    const Pass<Scalar>& pass = {}) const
    requires ReparametrisedBase<Base> && HasForward<FlowType, Var<Scalar>>
  {
    const Var<Scalar> z = [&] {
      if constexpr (detail::BaseTakesPass<Base>)
        return base.draw(tape, rows, seed, stream, first, pass);
      else
        return base.draw(tape, rows, seed, stream, first);
    }();
    const Transformed<Var<Scalar>> x = checked(call_forward(flow, z, pass), z);
    return {x.value, base_log_prob(z, pass) - x.log_det};
  }

  /// Returns the log-densities of samples on a tape: N x D -> N x 1. An objective passes on the Pass of its minibatch
  /// (see Minibatch::pass); without one the call is an evaluation.
  template <Traced X>
  X log_prob(const X& x, const Pass<Scalar>& pass = {}) const {
    const Transformed<X> z = checked(call_inverse(flow, x, pass), x);
    return base_log_prob(z.value, pass) + z.log_det;
  }

  /// Returns the log-density in nats of each row of x (N x D): N x 1. It may be -infinity far from the mass of the
  /// distribution. Throws invalid_argument for the wrong number of columns, NaN or infinity.
  template <class Derived>
  Array<Scalar> log_prob(const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    return detail::log_prob_of_rows(*this, "flow", x, execution);
  }
  /// Returns log p(x | c): N x 1.
  template <class Derived, class Context>
  Array<Scalar> log_prob(const Eigen::DenseBase<Derived>& x, const Eigen::DenseBase<Context>& c,
                         const Execution& execution = {}) const {
    return detail::log_prob_of_rows_given(*this, "flow", x, c, execution);
  }

  /// Returns the gradient of the log-density with respect to each row of x: N x D. If the log-density is -infinity, the
  /// gradient may not be finite. Throws as log_prob() does.
  template <class Derived>
  Array<Scalar> score(const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    return detail::score_of_rows(*this, "flow", x, execution);
  }
  /// Returns the gradient of log p(x | c) with respect to each row of x: N x D.
  template <class Derived, class Context>
  Array<Scalar> score(const Eigen::DenseBase<Derived>& x, const Eigen::DenseBase<Context>& c,
                      const Execution& execution = {}) const {
    return detail::score_of_rows_given(*this, "flow", x, c, execution);
  }
  /// Returns the gradient of log p(x | c) with respect to the context of each row: N x C, also where c is one row for
  /// all samples.
  template <class Derived, class Context>
  Array<Scalar> context_score(const Eigen::DenseBase<Derived>& x, const Eigen::DenseBase<Context>& c,
                              const Execution& execution = {}) const {
    return detail::context_score_of_rows(*this, "flow", x, c, execution);
  }

  /// Draws n samples, n x D. Sample i depends on (seed, i) alone. Throws invalid_argument for n < 0.
  Array<Scalar> sample(Index n, std::uint64_t seed, const Execution& execution = {}) const {
    detail::require_no_context("sample", *this, "flow", "call sample(c, seed), sample(n, c, seed) or given(c)");
    return sample_of(n, nullptr, seed, execution);
  }
  /// Draws one sample of p(x | c) for each row of c (N x C): N x D. Sample i depends on (seed, i, row i of c) alone.
  template <class Context>
  Array<Scalar> sample(const Eigen::DenseBase<Context>& c, std::uint64_t seed, const Execution& execution = {}) const {
    const Array<Scalar> context = detail::checked_context(*this, "flow", "sample", c, c.rows());
    return sample_of(context.rows(), &context, seed, execution);
  }
  /// Draws n samples of p(x | c), n x D, for one c of 1 x C, or one for each of its n rows.
  template <class Context>
  Array<Scalar> sample(Index n, const Eigen::DenseBase<Context>& c, std::uint64_t seed,
                       const Execution& execution = {}) const {
    const Array<Scalar> context = detail::checked_context(*this, "flow", "sample", c, n);
    return sample_of(n, &context, seed, execution);
  }

  /// Draws the samples of sample() with their log-densities, in one pass. If the flow needs a solver, the samples agree
  /// with those of sample() within its tolerance.
  SampleAndLogProb<Scalar> sample_and_log_prob(Index n, std::uint64_t seed, const Execution& execution = {}) const {
    detail::require_no_context("sample_and_log_prob", *this, "flow",
                               "call sample_and_log_prob(c, seed), sample_and_log_prob(n, c, seed) or given(c)");
    return sample_and_log_prob_of(n, nullptr, seed, execution);
  }
  /// Draws one sample for each row of c with its log-density.
  template <class Context>
  SampleAndLogProb<Scalar> sample_and_log_prob(const Eigen::DenseBase<Context>& c, std::uint64_t seed,
                                               const Execution& execution = {}) const {
    const Array<Scalar> context = detail::checked_context(*this, "flow", "sample_and_log_prob", c, c.rows());
    return sample_and_log_prob_of(context.rows(), &context, seed, execution);
  }
  /// Draws n samples with their log-densities for one c of 1 x C, or one for each of its n rows.
  template <class Context>
  SampleAndLogProb<Scalar> sample_and_log_prob(Index n, const Eigen::DenseBase<Context>& c, std::uint64_t seed,
                                               const Execution& execution = {}) const {
    const Array<Scalar> context = detail::checked_context(*this, "flow", "sample_and_log_prob", c, n);
    return sample_and_log_prob_of(n, &context, seed, execution);
  }

  /// Returns the distribution p(x | c) for one context c, 1 x C, which is a distribution without context. Throws as
  /// diffeo::given() does.
  template <class Context>
  auto given(const Eigen::DenseBase<Context>& c) const {
    if constexpr (detail::BaseTakesPass<Base>) {
      auto base_given_c = base.given(c);
      using Flow = Given<Scalar, FlowType>;
      // A flow that takes no context ignores the one that it is given.
      Flow flow_given_c = diffeo::context_dim(flow) > 0 ? diffeo::given(flow, c)
                                                        : Flow{flow, {c.derived().template cast<Scalar>().array()}};
      return TransformedDistribution<decltype(base_given_c), Flow>(std::move(base_given_c), std::move(flow_given_c));
    } else {
      auto flow_given_c = diffeo::given(flow, c);
      return TransformedDistribution<Base, decltype(flow_given_c)>(base, std::move(flow_given_c));
    }
  }

 private:
  Array<Scalar> sample_of(Index n, const Array<Scalar>* context, std::uint64_t seed, const Execution& execution) const {
    return detail::sample_rows(*this, n, execution, [&](Tape<Scalar>& tape, Index first, Index count) {
      const Pass<Scalar> pass = detail::pass_for(tape, context, first, count);
      const Var<Scalar> z = detail::base_sample(base, tape, first, count, seed, pass);
      const Var<Scalar> tile = generate(flow, z, pass);
      require(tile.shape() == z.shape(), "sample: the flow gave ", tile.rows(), " x ", tile.cols(), " values for ",
              z.rows(), " x ", z.cols());
      return tile;
    });
  }

  SampleAndLogProb<Scalar> sample_and_log_prob_of(Index n, const Array<Scalar>* context, std::uint64_t seed,
                                                  const Execution& execution) const {
    return detail::sample_and_log_prob_rows(*this, n, execution, [&](Tape<Scalar>& tape, Index first, Index count) {
      const Pass<Scalar> pass = detail::pass_for(tape, context, first, count);
      const Var<Scalar> z = detail::base_sample(base, tape, first, count, seed, pass);
      const Transformed<Var<Scalar>> x = checked(call_forward(flow, z, pass), z);
      return Draw<Scalar>{x.value, base_log_prob(z, pass) - x.log_det};
    });
  }

  template <Traced X>
  static const Transformed<X>& checked(const Transformed<X>& y, const X& x) {
    require(static_cast<bool>(innermost(y.log_det)), "transformed distribution: the flow gave no log-determinants");
    detail::require_shapes(y, x.rows(), x.cols(), "transformed distribution: the flow");
    return y;
  }
  template <Traced X>
  X base_log_prob(const X& z, [[maybe_unused]] const Pass<Scalar>& pass) const {
    const X y = [&] {
      if constexpr (detail::BaseTakesPass<Base>)
        return base.log_prob(z, pass);
      else
        return base.log_prob(z);
    }();
    require(y.rows() == z.rows() && y.cols() == 1, "transformed distribution: the base gave ", y.rows(), " x ",
            y.cols(), " log-densities for ", z.rows(), " rows, expected ", z.rows(), " x 1");
    return y;
  }
};

template <class Base, class FlowType>
TransformedDistribution(Base, FlowType) -> TransformedDistribution<Base, FlowType>;

}  // namespace diffeo::inline DIFFEO_ISA
