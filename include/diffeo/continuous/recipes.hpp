// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/continuous/average_field.hpp>
#include <diffeo/continuous/cnf.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/layers/conditional.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/layers/standardize.hpp>

/// Whole continuous flows ready to be fitted.
namespace diffeo::inline DIFFEO_ISA {

/// | option      | type          | default                                                                  |
/// |-------------|---------------|--------------------------------------------------------------------------|
/// | network     | MlpOptions    | {64, 64, 64} tanh units, of which the divergence is computed by tangents |
/// | cnf         | CnfOptions    | how the equations are solved                                             |
/// | seed        | std::uint64_t | 0, of the initial weights                                                |
/// | context_dim | Index         | 0: number of columns of the context                                      |
///
/// The network's last_scale is 1 by default, for velocities of order 1; its first_scale is 8 in the plane, 16 / (D + C)
/// in D dimensions with C columns of context, at least 1.
struct CnfFlowOptions {
  MlpOptions network = {.hidden = {64, 64, 64}};
  CnfOptions cnf = {};
  std::uint64_t seed = 0;
  Index context_dim = 0;
};

/// A continuous flow over T whose velocity is a network of position and time, then a standardisation.
template <class T>
using CnfFlow = FlowSequence<Cnf<MlpField<T>>, Standardize<T>>;

/// A continuous flow over T whose field knows average velocities, then a standardisation.
template <class T>
using MeanFlow = FlowSequence<Cnf<AverageField<T>>, Standardize<T>>;

namespace detail {

// Returns a continuous flow without standardisation, along the field that make_field(network options) returns.
template <Real S, class MakeField>
auto continuous_flow(const char* recipe, Index dim, const CnfFlowOptions& options, const MakeField& make_field) {
  require(dim >= 1, recipe, ": dimension ", dim, ", expected at least 1");
  options.cnf.check();
  return FlowSequence(
      Cnf{make_field(options.network.with_scales(1, first_scale_for(dim + options.context_dim, 8))), options.cnf},
      Standardize<S>::identity(dim));
}

}  // namespace detail

/// A continuous flow of dimension dim, without standardisation: for data of order 1. Throws invalid_argument for
/// dim < 1, an empty layer or options of the solves that are out of range.
template <Real S>
CnfFlow<S> cnf(Index dim, const CnfFlowOptions& options = {}) {
  return detail::continuous_flow<S>("cnf", dim, options, [&](const MlpOptions& network) {
    return make_mlp_field<S>(dim, network, options.seed, 0, options.context_dim);
  });
}

/// Returns a continuous flow of the dimension of the data (N x D), standardised to them. Throws as above, and as
/// standardized() does.
template <DenseExpression Data>
  requires Real<typename Data::Scalar>
auto cnf(const Data& data, const CnfFlowOptions& options = {}) {
  return standardized(cnf<typename Data::Scalar>(data.cols(), options), data);
}

/// Returns a continuous flow of x (N x D) given a context c (N x C), both standardised. Throws as above, and
/// invalid_argument where c has another number of rows or a constant column, and where options.context_dim is neither 0
/// nor C.
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
auto cnf(const Data& x, const Context& c, CnfFlowOptions options = {}) {
  options.context_dim = detail::context_dim_for("cnf", options.context_dim, x.rows(), c);
  return conditional(cnf(x, options), c);
}

/// Returns a continuous flow as cnf() does, whose field is an AverageField: it is trained by MeanFlowMatching, and its
/// samples may be drawn by average_samples(). Throws as cnf() does.
template <Real S>
MeanFlow<S> mean_flow(Index dim, const CnfFlowOptions& options = {}) {
  return detail::continuous_flow<S>("mean_flow", dim, options, [&](const MlpOptions& network) {
    return make_average_field<S>(dim, network, options.seed, 0, options.context_dim);
  });
}

/// Returns such a flow of the dimension of the data (N x D), standardised to them. Throws as cnf() does.
template <DenseExpression Data>
  requires Real<typename Data::Scalar>
auto mean_flow(const Data& data, const CnfFlowOptions& options = {}) {
  return standardized(mean_flow<typename Data::Scalar>(data.cols(), options), data);
}

/// Returns such a flow of x (N x D) given a context c (N x C), both standardised. Throws as cnf() does.
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
auto mean_flow(const Data& x, const Context& c, CnfFlowOptions options = {}) {
  options.context_dim = detail::context_dim_for("mean_flow", options.context_dim, x.rows(), c);
  return conditional(mean_flow(x, options), c);
}

}  // namespace diffeo::inline DIFFEO_ISA
