// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/layers/conditional.hpp>
#include <diffeo/layers/coupling.hpp>
#include <diffeo/layers/diagonal_scale.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/planar.hpp>
#include <diffeo/layers/radial.hpp>
#include <diffeo/layers/residual.hpp>
#include <diffeo/layers/standardize.hpp>

/// Whole flows ready to be fitted.
namespace diffeo::inline DIFFEO_ISA {

/// | option          | type          | default                                         |
/// |-----------------|---------------|-------------------------------------------------|
/// | layers          | Index         | 64 couplings                                    |
/// | network         | MlpOptions    | {48, 48} tanh units                             |
/// | mask            | MaskPattern   | even_odd: even and odd coordinates kept in turn |
/// | log_scale_bound | double        | 1.5 (Real NVP only); infinity: free             |
/// | seed            | std::uint64_t | 0, of the initial weights                       |
/// | context_dim     | Index         | 0: number of columns of the context             |
///
/// The network's last_scale is 0.05 by default; its first_scale is 2 in the plane, 4 / D in D dimensions, at least 1.
struct CouplingFlowOptions {
  Index layers = 64;
  MlpOptions network = {.hidden = {48, 48}};
  MaskPattern mask = MaskPattern::even_odd;
  double log_scale_bound = AffineTransform{}.log_scale_bound;
  std::uint64_t seed = 0;
  Index context_dim = 0;
};

/// Real NVP over T: affine couplings, then a standardisation.
template <class T>
using RealNvp = FlowSequence<Repeated<Coupling<T, AffineTransform>>, Standardize<T>>;

/// NICE over T: additive couplings, a diagonal scaling, then a standardisation.
template <class T>
using Nice = FlowSequence<Repeated<Coupling<T, AdditiveTransform>>, DiagonalScale<T>, Standardize<T>>;

namespace detail {

// Returns the number of columns of the context c of `rows` rows of data.
template <class Context>
Index context_dim_for(const char* recipe, Index option, Index rows, const Context& c) {
  require(c.rows() == rows, recipe, ": the context has ", c.rows(), " rows, the data ", rows);
  require(option == 0 || option == c.cols(), recipe, ": context_dim is ", option, ", the context has ", c.cols(),
          " columns");
  return c.cols();
}

template <Real S, class Transform>
Repeated<Coupling<S, Transform>> couplings(const char* recipe, Index dim, const CouplingFlowOptions& options,
                                           Transform transform) {
  require(options.layers >= 1, recipe, ": ", options.layers, " layers, expected at least 1");
  require(dim >= 2, recipe, ": dimension ", dim,
          " leaves a coupling nothing to condition on, expected at least 2: use planar, radial, residual or cnf");
  const MlpOptions network = options.network.with_scales(0.05, first_scale_for(dim, 2));
  return repeat(options.layers, [&](Index i) {
    return make_coupling<S>(alternating_mask(options.mask, dim, i), network, options.seed,
                            static_cast<std::uint64_t>(i) * streams_of(network), transform, options.context_dim);
  });
}

}  // namespace detail

/// Real NVP of dimension dim, without standardisation: for data of order 1. Throws invalid_argument for dim < 2, no
/// layers, an empty layer or a bound that is not positive.
template <Real S>
RealNvp<S> real_nvp(Index dim, const CouplingFlowOptions& options = {}) {
  require(options.log_scale_bound > 0, "real_nvp: log_scale_bound is ", options.log_scale_bound, ", expected > 0");
  auto couplings = detail::couplings<S>("real_nvp", dim, options, AffineTransform{options.log_scale_bound});
  return RealNvp<S>(std::move(couplings), Standardize<S>::identity(dim));
}

/// NICE of dimension dim, without standardisation: for data of order 1. Throws as real_nvp() does.
template <Real S>
Nice<S> nice(Index dim, const CouplingFlowOptions& options = {}) {
  auto couplings = detail::couplings<S>("nice", dim, options, AdditiveTransform{});
  return Nice<S>(std::move(couplings), DiagonalScale<S>{Array<S>::Zero(1, dim)}, Standardize<S>::identity(dim));
}

/// | option      | type          | default                                             |
/// |-------------|---------------|-----------------------------------------------------|
/// | layers      | Index         | 32                                                  |
/// | activation  | Activation    | tanh; or leaky_relu                                 |
/// | seed        | std::uint64_t | 0, of the initial parameters                        |
/// | context_dim | Index         | 0: number of columns of the context                 |
/// | network     | MlpOptions    | {16} tanh units, from the context to the parameters |
struct PlanarFlowOptions {
  Index layers = 32;
  Activation activation = Activation::tanh;
  std::uint64_t seed = 0;
  Index context_dim = 0;
  MlpOptions network = {.hidden = {16}};
};

/// | option      | type          | default                                             |
/// |-------------|---------------|-----------------------------------------------------|
/// | layers      | Index         | 32                                                  |
/// | seed        | std::uint64_t | 0, of the initial parameters                        |
/// | context_dim | Index         | 0: number of columns of the context                 |
/// | network     | MlpOptions    | {16} tanh units, from the context to the parameters |
struct RadialFlowOptions {
  Index layers = 32;
  std::uint64_t seed = 0;
  Index context_dim = 0;
  MlpOptions network = {.hidden = {16}};
};

/// Planar and radial flows over T: that many layers, then a standardisation.
template <class T>
using PlanarFlow = FlowSequence<Repeated<Planar<T>>, Standardize<T>>;
template <class T>
using RadialFlow = FlowSequence<Repeated<Radial<T>>, Standardize<T>>;

/// A planar flow of dimension dim in generating orientation: forward, z -> x, is the direction without a solver, so
/// that reverse KL runs at full speed, while maximum likelihood goes through the solved inverse. Without
/// standardisation. Throws invalid_argument for dim < 1, no layers or another activation.
template <Real S>
PlanarFlow<S> planar(Index dim, const PlanarFlowOptions& options = {}) {
  require(options.layers >= 1, "planar: ", options.layers, " layers, expected at least 1");
  require(dim >= 1, "planar: dimension ", dim, ", expected at least 1");
  auto layers = repeat(options.layers, [&](Index i) {
    return make_planar<S>(dim, options.activation, options.seed, static_cast<std::uint64_t>(i), options.context_dim,
                          options.network);
  });
  return PlanarFlow<S>(std::move(layers), Standardize<S>::identity(dim));
}

/// A radial flow of dimension dim, without standardisation; both directions are closed formulas. Throws
/// invalid_argument for dim < 1 or no layers.
template <Real S>
RadialFlow<S> radial(Index dim, const RadialFlowOptions& options = {}) {
  require(options.layers >= 1, "radial: ", options.layers, " layers, expected at least 1");
  require(dim >= 1, "radial: dimension ", dim, ", expected at least 1");
  auto layers = repeat(options.layers, [&](Index i) {
    return make_radial<S>(dim, options.seed, static_cast<std::uint64_t>(i), options.context_dim, options.network);
  });
  return RadialFlow<S>(std::move(layers), Standardize<S>::identity(dim));
}

/// | option      | type            | default                                                |
/// |-------------|-----------------|--------------------------------------------------------|
/// | layers      | Index           | 16                                                     |
/// | block       | ResidualOptions | {64, 64} hidden units                                  |
/// | seed        | std::uint64_t   | 0, of the initial weights                              |
/// | context_dim | Index           | 0: number of columns of the context, block.context_dim |
struct ResidualFlowOptions {
  Index layers = 16;
  ResidualOptions block = {.hidden = {64, 64}};
  std::uint64_t seed = 0;
  Index context_dim = 0;

  /// Returns the number of columns of the context. Throws invalid_argument where the two options differ.
  Index columns_of_context() const {
    require(context_dim == 0 || block.context_dim == 0 || context_dim == block.context_dim, "residual: context_dim is ",
            context_dim, ", block.context_dim ", block.context_dim);
    return context_dim != 0 ? context_dim : block.context_dim;
  }
};

/// A residual flow over T: that many layers, then a standardisation.
template <class T>
using ResidualFlow = FlowSequence<Repeated<Invert<Residual<T>>>, Standardize<T>>;

/// A residual flow of dimension dim whose explicit direction, z + g(z), is the one that evaluates densities, so that
/// maximum likelihood needs no solver and sampling does. Without standardisation. Throws invalid_argument for dim < 1,
/// no layers, and as make_residual() does.
template <Real S>
ResidualFlow<S> residual(Index dim, const ResidualFlowOptions& options = {}) {
  require(options.layers >= 1, "residual: ", options.layers, " layers, expected at least 1");
  ResidualOptions block = options.block;
  block.context_dim = options.columns_of_context();
  auto blocks = repeat(options.layers, [&](Index i) {
    return Invert<Residual<S>>{
        make_residual<S>(dim, block, options.seed, static_cast<std::uint64_t>(i) * streams_of(block.network()))};
  });
  return ResidualFlow<S>(std::move(blocks), Standardize<S>::identity(dim));
}

/// Recipes for data (N x D): the flow of its dimension, standardised to it.
template <DenseExpression Data>
  requires Real<typename Data::Scalar>
auto real_nvp(const Data& data, const CouplingFlowOptions& options = {}) {
  return standardized(real_nvp<typename Data::Scalar>(data.cols(), options), data);
}
template <DenseExpression Data>
  requires Real<typename Data::Scalar>
auto nice(const Data& data, const CouplingFlowOptions& options = {}) {
  return standardized(nice<typename Data::Scalar>(data.cols(), options), data);
}

/// Returns a Real NVP of x (N x D) given a context c (N x C), both standardised. Throws invalid_argument where c has
/// another number of rows, where options.context_dim is neither 0 nor C, and as conditional() does.
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
auto real_nvp(const Data& x, const Context& c, CouplingFlowOptions options = {}) {
  options.context_dim = detail::context_dim_for("real_nvp", options.context_dim, x.rows(), c);
  return conditional(real_nvp(x, options), c);
}
/// Returns a NICE flow of x given a context. Throws as real_nvp(x, c) does.
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
auto nice(const Data& x, const Context& c, CouplingFlowOptions options = {}) {
  options.context_dim = detail::context_dim_for("nice", options.context_dim, x.rows(), c);
  return conditional(nice(x, options), c);
}

template <DenseExpression Data>
  requires Real<typename Data::Scalar>
auto planar(const Data& data, const PlanarFlowOptions& options = {}) {
  return standardized(planar<typename Data::Scalar>(data.cols(), options), data);
}
template <DenseExpression Data>
  requires Real<typename Data::Scalar>
auto radial(const Data& data, const RadialFlowOptions& options = {}) {
  return standardized(radial<typename Data::Scalar>(data.cols(), options), data);
}
/// Returns a planar or radial flow of x given a context. Throws as real_nvp(x, c) does.
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
auto planar(const Data& x, const Context& c, PlanarFlowOptions options = {}) {
  options.context_dim = detail::context_dim_for("planar", options.context_dim, x.rows(), c);
  return conditional(planar(x, options), c);
}
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
auto radial(const Data& x, const Context& c, RadialFlowOptions options = {}) {
  options.context_dim = detail::context_dim_for("radial", options.context_dim, x.rows(), c);
  return conditional(radial(x, options), c);
}

template <DenseExpression Data>
  requires Real<typename Data::Scalar>
auto residual(const Data& data, const ResidualFlowOptions& options = {}) {
  return standardized(residual<typename Data::Scalar>(data.cols(), options), data);
}
/// Returns a residual flow of x given a context. Throws as real_nvp(x, c) does.
template <DenseExpression Data, DenseExpression Context>
  requires Real<typename Data::Scalar>
auto residual(const Data& x, const Context& c, ResidualFlowOptions options = {}) {
  options.context_dim = detail::context_dim_for("residual", options.columns_of_context(), x.rows(), c);
  return conditional(residual(x, options), c);
}

}  // namespace diffeo::inline DIFFEO_ISA
