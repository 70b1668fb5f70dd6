// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/layers/flow.hpp>
#include <diffeo/layers/mask.hpp>
#include <diffeo/nn/mlp.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// Coordinate transform b + t of NICE (Dinh, Krueger & Bengio 2014, section 3.2), where t is computed by the
/// conditioner. Its log-determinant is 0.
struct AdditiveTransform {
  static constexpr Index parameters_per_coordinate = 1;  ///< t

  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "additive");
  }

  /// Returns b + t and the log-determinant, N x 1, for coordinates b and parameters t of the same shape.
  template <Traced X>
  Transformed<X> forward(const X& b, const X& parameters) const {
    return {b + parameters, zeros(b, 1)};
  }
  /// Returns b - t and the log-determinant, N x 1.
  template <Traced X>
  Transformed<X> inverse(const X& b, const X& parameters) const {
    return {b - parameters, zeros(b, 1)};
  }
};

/// Coordinate transform b exp(s) + t of Real NVP (Dinh, Sohl-Dickstein & Bengio 2016, eq. 4 to 8), where s and t are
/// computed by the conditioner. s is replaced by B tanh(s / B) with B = log_scale_bound, so that the scale cannot
/// overflow. An infinite B leaves s unchanged.
struct AffineTransform {
  static constexpr Index parameters_per_coordinate = 2;  ///< s and t

  double log_scale_bound = 1.5;  ///< B, greater than 0

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "affine", "log_scale_bound", self.log_scale_bound);
  }

  /// Throws invalid_argument unless log_scale_bound > 0.
  void check() const {
    require(log_scale_bound > 0, "coupling: log_scale_bound is ", log_scale_bound, ", expected > 0");
  }

  /// Returns b exp(s) + t and the log-determinant, N x 1, for coordinates b (N x C) and parameters [s, t] (N x 2C).
  template <Traced X>
  Transformed<X> forward(const X& b, const X& parameters) const {
    const X s = log_scale(b, parameters, 1);
    return {scale_shift(b, s, shift(b, parameters)), sum_cols(s)};
  }
  /// Returns (b - t) exp(-s) and the log-determinant, N x 1.
  template <Traced X>
  Transformed<X> inverse(const X& b, const X& parameters) const {
    const X minus_s = log_scale(b, parameters, -1);
    return {unshift_scale(b, minus_s, shift(b, parameters)), sum_cols(minus_s)};
  }

 private:
  template <Traced X>
  X log_scale(const X& b, const X& parameters, double sign) const {
    using S = typename X::Scalar;
    const X raw = cols(parameters, 0, b.cols());
    if (std::isinf(log_scale_bound)) return raw * static_cast<S>(sign);
    return scaled_tanh(raw, static_cast<S>(sign * log_scale_bound), static_cast<S>(1 / log_scale_bound));
  }
  template <Traced X>
  static X shift(const X& b, const X& parameters) {
    return cols(parameters, b.cols(), b.cols());
  }
};

/// Coupling layer (Dinh et al. 2014, 2016): a network, the conditioner, computes parameters from some of the
/// coordinates, the kept ones. The transform applies them to the other coordinates, the moved ones. The kept
/// coordinates do not change.
template <class T, class Transform = AffineTransform>
struct Coupling {
  using Scalar = scalar_t<T>;

  Mask mask;
  Mlp<T> conditioner;  ///< kept coordinates (and context) -> parameters_per_coordinate values per moved coordinate
  Transform transform{};

  static constexpr double suggested_learning_rate = 2e-3;

  Index dim() const { return mask.dim(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("conditioner", self.conditioner);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "coupling", "moved", self.mask.moved, "kept", self.mask.kept, "transform",
                            self.transform);
  }
  template <class U>
  Coupling<U, Transform> rebind() const {
    return {mask, conditioner.template rebind<U>(), transform};
  }

  /// Throws invalid_argument if the mask lists a coordinate twice, if the conditioner does not have as many inputs and
  /// outputs as the mask requires, and for options of the transform out of range.
  void check() const {
    mask.check();
    if constexpr (requires { conditioner.inputs(); }) {
      const Index kept = static_cast<Index>(mask.kept.size()), moved = static_cast<Index>(mask.moved.size());
      require(conditioner.inputs() == kept && conditioner.outputs() == Transform::parameters_per_coordinate * moved,
              "coupling: the conditioner has ", conditioner.inputs(), " inputs and ", conditioner.outputs(),
              " outputs, expected ", kept, " (the kept coordinates) and ", Transform::parameters_per_coordinate * moved,
              " (", Transform::parameters_per_coordinate, " for each moved coordinate)");
    }
    if constexpr (requires { transform.check(); }) transform.check();
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const {
    return apply(z, pass.context, [this](const X& b, const X& parameters) { return transform.forward(b, parameters); });
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const {
    return apply(x, pass.context, [this](const X& b, const X& parameters) { return transform.inverse(b, parameters); });
  }

 private:
  template <Traced X, class F>
  Transformed<X> apply(const X& x, const Var<Scalar>& context, const F& move) const {
    require(x.cols() == dim(), "coupling: x has ", x.cols(), " columns, this layer has dimension ", dim());
    const X kept = take(x, std::span(mask.kept));
    const X parameters = conditioner(kept, context);
    const Index wanted = Transform::parameters_per_coordinate * static_cast<Index>(mask.moved.size());
    require(parameters.cols() == wanted, "coupling: the conditioner gave ", parameters.cols(),
            " values for each row, expected ", wanted);
    const Transformed<X> moved = move(take(x, std::span(mask.moved)), parameters);
    return {merge(kept, std::span(mask.kept), moved.value, std::span(mask.moved)), moved.log_det};
  }
};

/// Returns a coupling layer close to the identity, whose conditioner has weights drawn by make_mlp() from (seed,
/// stream), and takes a context of context_dim columns where that is above 0. Throws invalid_argument for a mask or
/// options of the transform out of range, for a mask that keeps or moves no coordinate, and for what make_mlp()
/// refuses.
template <Real S, class Transform = AffineTransform>
Coupling<S, Transform> make_coupling(Mask mask, const MlpOptions& network, std::uint64_t seed, std::uint64_t stream = 0,
                                     Transform transform = {}, Index context_dim = 0) {
  const Index inputs = static_cast<Index>(mask.kept.size());
  const Index outputs = Transform::parameters_per_coordinate * static_cast<Index>(mask.moved.size());
  require(inputs > 0 && outputs > 0, "make_coupling: the mask keeps ", inputs, " and moves ", mask.moved.size(),
          " coordinates, expected at least one of each");
  mask.check();
  if constexpr (requires { transform.check(); }) transform.check();
  return {std::move(mask), make_mlp<S>(inputs, outputs, network, seed, stream, context_dim), transform};
}

}  // namespace diffeo::inline DIFFEO_ISA
