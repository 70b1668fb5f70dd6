// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/core/error.hpp>
#include <diffeo/matching/flow_matching.hpp>
#include <diffeo/matching/optimal_transport_pairing.hpp>
#include <diffeo/matching/paths.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Returns the pairing that makes Brownian bridges of standard deviation `sigma` a Schroedinger bridge: by entropic
/// transport of regularisation 2 sigma^2 (Tong et al. 2024, section 3.2.4). Throws invalid_argument unless sigma is
/// finite and greater than 0.
inline EntropicPairing schroedinger_pairing(double sigma) {
  require(sigma > 0 && std::isfinite(sigma), "schroedinger bridge: sigma is ", sigma,
          ", expected finite and greater than 0 (LinearPath with OptimalTransportPairing is the limit)");
  return {.regularisation = 2 * sigma * sigma, .relative = false};
}

/// Returns the objective that trains a continuous flow to have the marginals of the Schroedinger bridge from source to
/// target: of all processes between them the most similar one, by relative entropy, to a Brownian motion of standard
/// deviation sigma sqrt(t) (Tong et al. 2024, proposition 3.5). Arguments are those of FlowMatching; `sigma` is in the
/// coordinates of the Cnf. A bridge joins each snapshot to the next. The pairs of a minibatch are those of its own
/// plan, which is that of the distributions up to an error that falls with its size.
///
///     diffeo::fit(model, diffeo::schroedinger_bridge(model, x, 0.5));
template <class Model, class Data = Dataset<typename Model::Scalar>>
auto schroedinger_bridge(const Model& model, const Data& data, double sigma, const FlowMatchingOptions& options = {}) {
  return FlowMatching(model, data, BrownianBridge{.sigma = sigma}, schroedinger_pairing(sigma), options);
}

}  // namespace diffeo::inline DIFFEO_ISA
