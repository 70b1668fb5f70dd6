// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <diffeo/distributions/base_distribution.hpp>
#include <diffeo/distributions/conditional_distribution.hpp>
#include <diffeo/layers/conditional.hpp>
#include <diffeo/layers/standardize.hpp>
#include <diffeo/nn/mlp.hpp>
#include <limits>

namespace diffeo::inline DIFFEO_ISA {

/// Family of distributions on R^D with scalar type S, whose parameters are columns of the output of a network.
///
/// | expression                                     | type          | meaning                                         |
/// |------------------------------------------------|---------------|-------------------------------------------------|
/// | F::name                                        | const char*   | of the distribution, in messages                |
/// | f.dim                                          | Index         | D                                               |
/// | f.outputs()                                    | Index         | number of columns of the network's output       |
/// | f.parameters(output, shift, scale)             | any           | parameters of shift + scale y, where y has those|
/// |                                                |               | of the output, R x outputs(); shift and scale   |
/// |                                                |               | are 1 x D                                       |
/// | f.log_prob(z, parameters)                      | Var<S>        | log-densities of z: N x D -> N x 1, for R of 1  |
/// |                                                |               | or N                                            |
/// | f.sample_into(v, parameters, seed, stream, i0) | void          | fills the View v; row i depends on its own      |
/// |                                                |               | parameters and (seed, stream, i0 + i)           |
/// | f.distribution(parameters)                     | Distribution  | that of parameters of one row                   |
///
/// A family whose samples are differentiable functions of the parameters also offers f.draw(parameters, tape, rows,
/// seed, stream, i0), which returns the samples of sample_into() as a Var, rows x D.
///
/// Models: NormalFamily, MixtureFamily.
template <class F, class S>
concept DistributionFamily =
    Real<S> && requires(const F& f, const Var<S>& v, View<S> samples, std::uint64_t seed, Index first) {
      { f.dim } -> std::convertible_to<Index>;
      { f.outputs() } -> std::convertible_to<Index>;
      { f.log_prob(v, f.parameters(v, v, v)) } -> std::same_as<Var<S>>;
      f.sample_into(samples, f.parameters(v, v, v), seed, seed, first);
      { f.distribution(f.parameters(v, v, v)) } -> Distribution;
    };

namespace detail {

// Returns logarithms of standard deviations that a network gave, held between -L and L with L = log(largest number) /
// 4, 22 in float and 177 in double: exp(2 L) is then the square root of the largest number, which leaves room for
// squares of distances in these units.
template <Real S>
Var<S> bounded_log_scale(Var<S> output) {
  static const S limit = std::log(std::numeric_limits<S>::max()) / 4;
  return clamp(output, -limit, limit);
}

}  // namespace detail

/// Distribution p(x | c) of a parametric family, whose parameters are the outputs of a network of the context c. By
/// itself it is fitted by fit(model, x, c); it may also be the base of a flow. Where the context is one row for all
/// samples the network is evaluated on that row alone.
///
/// The network is any callable over the operations that maps R x C to R x family.outputs(), with fields() and rebind()
/// as a layer has them. It gets standardised contexts, and gives parameters in the units of `units`.
template <class T, class Family, class Net = Mlp<T>>
  requires DistributionFamily<Family, scalar_t<T>>
struct NetworkDistribution {
  using Scalar = scalar_t<T>;

  Standardize<T> context;  ///< mean and scale of the context, 1 x C
  Net network;             ///< standardised context -> parameters
  Standardize<T> units;    ///< mean and scale of x, 1 x D
  Family family;

  Index dim() const { return family.dim; }
  /// Number of columns C of the context.
  Index context_dim() const { return context.dim(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("context", self.context, "network", self.network, "units", self.units);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "network distribution", "family", self.family);
  }
  template <class U>
  auto rebind() const {
    return NetworkDistribution<U, Family, decltype(network.template rebind<U>())>{
        {}, network.template rebind<U>(), {}, family};
  }

  /// Throws invalid_argument where the network does not give what the family needs, and where the units are of another
  /// dimension.
  void check() const {
    require(units.dim() == dim(), Family::name, ": the units have dimension ", units.dim(), ", the family ", dim());
    if constexpr (Real<T>) {
      Tape<T> tape;
      const Array<T> mean = context.mean.value;
      output(tape.constant(mean));
    }
  }

  /// Returns the log-densities of values on a tape given pass.context: N x D -> N x 1. Throws invalid_argument where
  /// the context is missing or of another shape.
  template <Traced X>
  X log_prob(const X& z, const Pass<Scalar>& pass = {}) const {
    detail::require_dim(Family::name, z.cols(), dim());
    return family.log_prob(z, parameters(pass, z.rows()));
  }
  void sample_into(View<Scalar> z, std::uint64_t seed, std::uint64_t stream, Index first_row,
                   const Pass<Scalar>& pass = {}) const {
    family.sample_into(z, parameters(pass, z.rows), seed, stream, first_row);
  }
  Var<Scalar> draw(Tape<Scalar>& tape, Index rows, std::uint64_t seed, std::uint64_t stream, Index first_row,
                   const Pass<Scalar>& pass = {}) const
    requires requires(const Var<Scalar>& v) { family.draw(family.parameters(v, v, v), tape, rows, seed, seed, rows); }
  {
    return family.draw(parameters(pass, rows), tape, rows, seed, stream, first_row);
  }

  // The methods of a Distribution, see distribution.hpp, which throw where they are called without a context.
  template <class Derived>
  Array<Scalar> log_prob(const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    return detail::log_prob_of_rows(*this, owner, x, execution);
  }
  template <class Derived>
  Array<Scalar> score(const Eigen::DenseBase<Derived>& x, const Execution& execution = {}) const {
    return detail::score_of_rows(*this, owner, x, execution);
  }
  Array<Scalar> sample(Index n, std::uint64_t seed, const Execution& execution = {}) const {
    detail::require_no_context("sample", *this, owner, "call sample(c, seed), sample(n, c, seed) or given(c)");
    return sample_of(n, nullptr, seed, execution);
  }
  SampleAndLogProb<Scalar> sample_and_log_prob(Index n, std::uint64_t seed, const Execution& execution = {}) const {
    detail::require_no_context("sample_and_log_prob", *this, owner,
                               "call sample_and_log_prob(c, seed), sample_and_log_prob(n, c, seed) or given(c)");
    return sample_and_log_prob_of(n, nullptr, seed, execution);
  }

  // The methods of a ConditionalDistribution, see conditional_distribution.hpp.
  template <class Derived, class Context>
  Array<Scalar> log_prob(const Eigen::DenseBase<Derived>& x, const Eigen::DenseBase<Context>& c,
                         const Execution& execution = {}) const {
    return detail::log_prob_of_rows_given(*this, owner, x, c, execution);
  }
  template <class Derived, class Context>
  Array<Scalar> score(const Eigen::DenseBase<Derived>& x, const Eigen::DenseBase<Context>& c,
                      const Execution& execution = {}) const {
    return detail::score_of_rows_given(*this, owner, x, c, execution);
  }
  template <class Derived, class Context>
  Array<Scalar> context_score(const Eigen::DenseBase<Derived>& x, const Eigen::DenseBase<Context>& c,
                              const Execution& execution = {}) const {
    return detail::context_score_of_rows(*this, owner, x, c, execution);
  }
  template <class Context>
  Array<Scalar> sample(const Eigen::DenseBase<Context>& c, std::uint64_t seed, const Execution& execution = {}) const {
    const Array<Scalar> contexts = detail::checked_context(*this, owner, "sample", c, c.rows());
    return sample_of(contexts.rows(), &contexts, seed, execution);
  }
  template <class Context>
  Array<Scalar> sample(Index n, const Eigen::DenseBase<Context>& c, std::uint64_t seed,
                       const Execution& execution = {}) const {
    const Array<Scalar> contexts = detail::checked_context(*this, owner, "sample", c, n);
    return sample_of(n, &contexts, seed, execution);
  }
  template <class Context>
  SampleAndLogProb<Scalar> sample_and_log_prob(const Eigen::DenseBase<Context>& c, std::uint64_t seed,
                                               const Execution& execution = {}) const {
    const Array<Scalar> contexts = detail::checked_context(*this, owner, "sample_and_log_prob", c, c.rows());
    return sample_and_log_prob_of(contexts.rows(), &contexts, seed, execution);
  }
  template <class Context>
  SampleAndLogProb<Scalar> sample_and_log_prob(Index n, const Eigen::DenseBase<Context>& c, std::uint64_t seed,
                                               const Execution& execution = {}) const {
    const Array<Scalar> contexts = detail::checked_context(*this, owner, "sample_and_log_prob", c, n);
    return sample_and_log_prob_of(n, &contexts, seed, execution);
  }

  /// Returns the distribution p(x | c) for one context c, 1 x C: one of the family, which holds no network. Throws
  /// invalid_argument for another shape, NaN or infinity.
  template <class Context>
  auto given(const Eigen::DenseBase<Context>& c) const
    requires Real<T>
  {
    const Array<Scalar> one = detail::one_context<Scalar>(owner, context_dim(), c);
    Tape<Scalar> tape;
    Pass<Scalar> pass;
    pass.context = tape.constant(one);
    return family.distribution(parameters(pass, 1));
  }

 private:
  static constexpr const char* owner = "distribution";

  // Returns the output of the network for contexts as they are given.
  Var<Scalar> output(const Var<Scalar>& c) const {
    const Var<Scalar> y = once_for_context(c, &context.mean.value,
                                           [&] { return Var<Scalar>(network((c - context.mean) / context.scale)); });
    require(y.rows() == c.rows() && y.cols() == family.outputs(), Family::name, ": the network gave ", y.rows(), " x ",
            y.cols(), " values for ", c.rows(), " contexts, expected ", c.rows(), " x ", family.outputs());
    return y;
  }

  auto parameters(const Pass<Scalar>& pass, Index rows) const {
    require_context(Family::name, pass.context, rows, context_dim());
    auto& tape = pass.context.tape();
    return family.parameters(output(pass.context), as_var(tape, units.mean), as_var(tape, units.scale));
  }

  Var<Scalar> sample_tile(Tape<Scalar>& tape, Index first, Index count, std::uint64_t seed, const auto& of_rows) const {
    const Var<Scalar> z = tape.make(count, dim(), false);
    family.sample_into(tape.mutable_value(z), of_rows, seed, sample_stream, first);
    return z;
  }
  Array<Scalar> sample_of(Index n, const Array<Scalar>* contexts, std::uint64_t seed,
                          const Execution& execution) const {
    return detail::sample_rows(*this, n, execution, [&](Tape<Scalar>& tape, Index first, Index count) {
      return sample_tile(tape, first, count, seed, parameters(detail::pass_for(tape, contexts, first, count), count));
    });
  }
  SampleAndLogProb<Scalar> sample_and_log_prob_of(Index n, const Array<Scalar>* contexts, std::uint64_t seed,
                                                  const Execution& execution) const {
    return detail::sample_and_log_prob_rows(*this, n, execution, [&](Tape<Scalar>& tape, Index first, Index count) {
      const auto of_rows = parameters(detail::pass_for(tape, contexts, first, count), count);
      const Var<Scalar> z = sample_tile(tape, first, count, seed, of_rows);
      return Draw<Scalar>{z, family.log_prob(z, of_rows)};
    });
  }
};

/// | option  | type          | default                   |
/// |---------|---------------|---------------------------|
/// | network | MlpOptions    | {64, 64} tanh units       |
/// | seed    | std::uint64_t | 0, of the initial weights |
///
/// The network's last_scale is 0.01 by default; its first_scale is 2 for up to two columns of context, 4 / C for C
/// columns, at least 1.
struct NetworkDistributionOptions {
  MlpOptions network = {};
  std::uint64_t seed = 0;
};

namespace detail {

// Returns a perceptron of `inputs` standardised numbers whose outputs are near 0 for all of them.
template <Real S>
Mlp<S> parameter_network(Index inputs, Index outputs, const NetworkDistributionOptions& options) {
  require(inputs > 0, "the context has no columns, expected at least one");
  return make_mlp<S>(inputs, outputs, options.network.with_scales(0.01, first_scale_for(inputs, 2)), options.seed);
}

// Whether Net maps contexts to parameters.
template <class Net, class S>
concept ParameterNetwork = requires(const Net& network, const Var<S>& c) {
  { network(c) } -> std::convertible_to<Var<S>>;
};

// Returns a distribution that is put together of parts, after a check that they fit.
template <Real S, class Family, class Net>
NetworkDistribution<S, Family, Net> network_distribution(Standardize<S> context, Net network, Standardize<S> units,
                                                         Family family) {
  NetworkDistribution<S, Family, Net> result{std::move(context), std::move(network), std::move(units), family};
  result.check();
  return result;
}
// Returns a distribution of x (N x D) given c (N x C), both standardised.
template <class Data, class Context, class Net, class Family>
auto network_distribution_for(const char* recipe, const Data& x, const Context& c, Net network, Family family) {
  using S = typename Data::Scalar;
  require(c.rows() == x.rows(), recipe, ": the context has ", c.rows(), " rows, the data ", x.rows());
  return network_distribution<S>(standardize_context<S>(c), std::move(network), Standardize<S>::fit(x), family);
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
