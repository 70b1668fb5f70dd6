// SPDX-License-Identifier: MIT
#pragma once

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

/// A continuous flow of dimension dim, without standardisation: for data of order 1. Throws invalid_argument for
/// dim < 1, an empty layer or options of the solves that are out of range.
template <Real S>
CnfFlow<S> cnf(Index dim, const CnfFlowOptions& options = {}) {
  require(dim >= 1, "cnf: dimension ", dim, ", expected at least 1");
  options.cnf.check();
  return CnfFlow<S>(
      Cnf{make_mlp_field<S>(dim, options.network.with_scales(1, detail::first_scale_for(dim + options.context_dim, 8)),
                            options.seed, 0, options.context_dim),
          options.cnf},
      Standardize<S>::identity(dim));
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

}  // namespace diffeo::inline DIFFEO_ISA
