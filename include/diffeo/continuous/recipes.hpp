// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/continuous/cnf.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/standardize.hpp>

/// Whole continuous flows ready to be fitted.
namespace diffeo::inline DIFFEO_ISA {

/// | option  | type          | default                                                                  |
/// |---------|---------------|--------------------------------------------------------------------------|
/// | network | MlpOptions    | {64, 64, 64} tanh units, of which the divergence is known in closed form |
/// | cnf     | CnfOptions    | how the equations are solved                                             |
/// | seed    | std::uint64_t | 0, of the initial weights                                                |
///
/// The network's last_scale is 1 by default, for velocities of order 1; its first_scale is 8 in the plane, 16 / D in D
/// dimensions, at least 1.
struct CnfFlowOptions {
  MlpOptions network = {.hidden = {64, 64, 64}};
  CnfOptions cnf = {};
  std::uint64_t seed = 0;
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
      Cnf{make_mlp_field<S>(dim, options.network.with_scales(1, detail::first_scale_for(dim, 8)), options.seed),
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

}  // namespace diffeo::inline DIFFEO_ISA
