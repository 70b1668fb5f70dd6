// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/layers/coupling.hpp>
#include <diffeo/testing/flow_laws.hpp>

#include "../catch.hpp"

// A layer that has forward() alone.
struct Generator {
  using Scalar = float;
  template <diffeo::Traced X>
  diffeo::Transformed<X> forward(const X& z) const {
    return {z, z};
  }
};

/// Layer that returns wrong shapes: the first value_cols columns of z, and a log_det of zeros with log_det_rows rows
/// and log_det_cols columns.
template <class T>
struct Misshapen {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::Index value_cols = 2, log_det_rows = 0, log_det_cols = 1;  // log_det_rows 0: as many rows as z

  diffeo::Index dim() const { return 2; }
  template <class Self>
  static auto fields(Self&) {
    return std::tuple<>();
  }
  template <class U>
  Misshapen<U> rebind() const {
    return {value_cols, log_det_rows, log_det_cols};
  }
  template <diffeo::Traced X>
  diffeo::Transformed<X> forward(const X& z) const {
    const X log_det = zeros(z, log_det_cols);
    return {cols(z, 0, value_cols), log_det_rows == 0 ? log_det : sum_rows(log_det)};
  }
  template <diffeo::Traced X>
  diffeo::Transformed<X> inverse(const X& x) const {
    return forward(x);
  }
};

// Functions shared by the tests of layers.

/// Returns the layer with random parameters, far from the identity.
template <class L>
L randomised(L layer, std::uint64_t seed, double size = 0.5) {
  using S = typename L::Scalar;
  diffeo::Array<S> values(diffeo::parameter_count(layer), 1);
  diffeo::fill_normal(diffeo::view(values), seed, 99);
  diffeo::set_parameters(layer, diffeo::Array<S>(values * S(size)));
  return layer;
}

/// Returns a small coupling with random parameters.
template <diffeo::Real S, class Transform = diffeo::AffineTransform>
auto random_coupling(diffeo::Mask mask, diffeo::Activation activation, std::uint64_t seed, Transform transform = {}) {
  return randomised(
      diffeo::make_coupling<S>(std::move(mask), {.hidden = {16, 9}, .activation = activation}, 0, 0, transform), seed);
}

/// Returns options of the laws for the build at hand. Under a sanitizer there are fewer points, a tile and a part of a
/// second, and no density is integrated, which takes most of the time and nothing that the other laws do not.
template <class S>
diffeo::testing::FlowLawOptions<S> options_of_build(diffeo::testing::FlowLawOptions<S> options) {
#ifdef DIFFEO_SANITIZE
  options.rows = std::min<diffeo::Index>(options.rows, 70);
  options.grid = 0;
#endif
  return options;
}

/// Fails the test if the flow breaks a law.
template <class F>
void require_laws(const std::string& name, const F& flow,
                  const diffeo::testing::FlowLawOptions<typename F::Scalar>& options = {}) {
  INFO(name);
  const auto report = diffeo::testing::check_flow_laws(flow, options_of_build(options));
  INFO(report);
  CHECK(report.laws.size() > 10);
  CHECK(report.ok());
}
