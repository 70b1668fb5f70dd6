// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/math/elementwise.hpp>
#include <string_view>

/// The activations of neural networks on registers: values and derivatives. What an activation is stands here and
/// nowhere else.
namespace diffeo::inline DIFFEO_ISA {

/// identity; tanh; relu; leaky_relu (slope 0.01); elu (alpha 1, Clevert et al. 2015); selu (Klambauer et al. 2017);
/// silu x sigmoid(x) (Elfwing et al. 2017); softplus log(1 + exp x); sin (Sitzmann et al. 2020), in the range of
/// simd::sin(); lip_swish silu / 1.1, whose slope is below 1 (Chen et al. 2019, section 3.3, with beta = 1).
enum class Activation { identity, tanh, relu, leaky_relu, elu, selu, silu, softplus, sin, lip_swish };

inline constexpr std::string_view activation_names[] = {"identity", "tanh", "relu",     "leaky_relu", "elu",
                                                        "selu",     "silu", "softplus", "sin",        "lip_swish"};

inline std::string_view to_string(Activation a) { return activation_names[static_cast<std::size_t>(a)]; }

namespace detail {

inline constexpr double leaky_slope = 0.01;
inline constexpr double selu_scale = 1.0507009873554804934193349852946;
inline constexpr double selu_alpha = 1.6732632423543772848170429916717;
inline constexpr double lip_swish_scale = 1 / 1.1;

/// Value of an activation at one point, with its first two derivatives.
template <Real S>
struct ActivationDerivatives {
  simd::Vec<S> value, slope, curvature;
};

/// The activation A on registers. Each kernel has
/// * value(x);
/// * times_slope(g, y, x): g times the slope at x, where y = value(x);
/// * times_slope(g, y), only where the slope follows from the result;
/// * derivatives(x);
/// * curvature(y, slope), only where the curvature follows from value and slope;
/// * lipschitz: the largest |slope| anywhere, rounded up.
template <Real S, Activation A>
struct ActivationKernel;

template <Real S>
struct ActivationKernel<S, Activation::identity> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = 1;
  static V value(V x) { return x; }
  static V times_slope(V g, V) { return g; }
  static V times_slope(V g, V, V) { return g; }
  static ActivationDerivatives<S> derivatives(V x) { return {x, simd::broadcast<S>(1), V{}}; }
  static V curvature(V, V) { return V{}; }
};

template <Real S>
struct ActivationKernel<S, Activation::tanh> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = 1;
  static V value(V x) { return simd::tanh<S>(x); }
  static V slope(V y) { return simd::mul_add<S>(-y, y, simd::broadcast<S>(1)); }
  static V times_slope(V g, V y) { return simd::mul_add<S>(-(g * y), y, g); }
  static V times_slope(V g, V y, V) { return times_slope(g, y); }
  static ActivationDerivatives<S> derivatives(V x) {
    const V y = value(x), d = slope(y);
    return {y, d, curvature(y, d)};
  }
  static V curvature(V y, V slope) { return S(-2) * y * slope; }
};

template <Real S>
struct ActivationKernel<S, Activation::relu> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = 1;
  static V value(V x) { return simd::max<S>(V{}, x); }
  static V times_slope(V g, V y) { return y > S(0) ? g : V{}; }
  static V times_slope(V g, V y, V) { return times_slope(g, y); }
  static ActivationDerivatives<S> derivatives(V x) { return {value(x), x > S(0) ? simd::broadcast<S>(1) : V{}, V{}}; }
  static V curvature(V, V) { return V{}; }
};

template <Real S>
struct ActivationKernel<S, Activation::leaky_relu> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = 1;
  S negative_slope = S(leaky_slope);  ///< positive wherever the slope is asked for by the result
  V value(V x) const { return x > S(0) ? x : x * negative_slope; }
  V slope(V y) const { return y > S(0) ? simd::broadcast<S>(1) : simd::broadcast<S>(negative_slope); }
  V times_slope(V g, V y) const { return y > S(0) ? g : g * negative_slope; }
  V times_slope(V g, V, V x) const { return x > S(0) ? g : g * negative_slope; }
  ActivationDerivatives<S> derivatives(V x) const {
    const V d = slope(x);
    return {x * d, d, V{}};
  }
  static V curvature(V, V) { return V{}; }
};

template <Real S>
struct ActivationKernel<S, Activation::elu> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = 1;
  static V value(V x) { return x > S(0) ? x : simd::expm1<S>(x); }
  static V times_slope(V g, V y) { return y > S(0) ? g : g * (y + S(1)); }
  static V times_slope(V g, V y, V) { return times_slope(g, y); }
  static ActivationDerivatives<S> derivatives(V x) {
    const V e = simd::expm1<S>(x);
    return {x > S(0) ? x : e, x > S(0) ? simd::broadcast<S>(1) : e + S(1), x > S(0) ? V{} : e + S(1)};
  }
  static V curvature(V y, V slope) { return y > S(0) ? V{} : slope; }
};

template <Real S>
struct ActivationKernel<S, Activation::selu> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = selu_scale * selu_alpha;
  static V value(V x) { return S(selu_scale) * (x > S(0) ? x : S(selu_alpha) * simd::expm1<S>(x)); }
  static V times_slope(V g, V y) { return y > S(0) ? g * S(selu_scale) : g * (y + S(selu_scale * selu_alpha)); }
  static V times_slope(V g, V y, V) { return times_slope(g, y); }
  static ActivationDerivatives<S> derivatives(V x) {
    const V e = S(selu_alpha) * simd::expm1<S>(x), steep = e + S(selu_alpha);
    return {S(selu_scale) * (x > S(0) ? x : e), S(selu_scale) * (x > S(0) ? simd::broadcast<S>(1) : steep),
            S(selu_scale) * (x > S(0) ? V{} : steep)};
  }
  static V curvature(V y, V slope) { return y > S(0) ? V{} : slope; }
};

template <Real S>
struct ActivationKernel<S, Activation::silu> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = 1.0998393202;  // at x = 2.3994
  static V value(V x) { return x * simd::sigmoid<S>(x); }
  static V times_slope(V g, V y, V x) {
    const V s = simd::sigmoid<S>(x);
    return g * simd::mul_add<S>(y, S(1) - s, s);
  }
  static ActivationDerivatives<S> derivatives(V x) { return scaled(x, S(1)); }
  // Those of scale * silu.
  static ActivationDerivatives<S> scaled(V x, S scale) {
    const V s = simd::sigmoid<S>(x), rest = S(1) - s, y = x * s * scale, d = scale * s;
    return {y, simd::mul_add<S>(y, rest, d), d * rest * simd::mul_add<S>(x, rest - s, simd::broadcast<S>(2))};
  }
};

template <Real S>
struct ActivationKernel<S, Activation::lip_swish> {
  using V = simd::Vec<S>;
  using Silu = ActivationKernel<S, Activation::silu>;
  static constexpr double lipschitz = Silu::lipschitz * lip_swish_scale;
  static V value(V x) { return Silu::value(x) * S(lip_swish_scale); }
  static V times_slope(V g, V, V x) { return Silu::times_slope(g * S(lip_swish_scale), Silu::value(x), x); }
  static ActivationDerivatives<S> derivatives(V x) { return Silu::scaled(x, S(lip_swish_scale)); }
};

template <Real S>
struct ActivationKernel<S, Activation::softplus> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = 1;
  static V value(V x) { return simd::log1p_exp<S>(x); }
  static V times_slope(V g, V y) { return -(g * simd::expm1<S>(-y)); }  // sigmoid(x) = 1 - exp(-y)
  static V times_slope(V g, V, V x) { return g * simd::sigmoid<S>(x); }
  static ActivationDerivatives<S> derivatives(V x) {
    const V s = simd::sigmoid<S>(x);
    return {value(x), s, curvature(V{}, s)};
  }
  static V curvature(V, V slope) { return slope * (S(1) - slope); }
};

template <Real S>
struct ActivationKernel<S, Activation::sin> {
  using V = simd::Vec<S>;
  static constexpr double lipschitz = 1;
  static V value(V x) { return simd::sin<S>(x); }
  static V times_slope(V g, V, V x) { return g * simd::cos<S>(x); }
  static ActivationDerivatives<S> derivatives(V x) {
    const V y = value(x);
    return {y, simd::cos<S>(x), curvature(y, V{})};
  }
  static V curvature(V y, V) { return -y; }
};

/// A kernel whose slope follows from the result.
template <class K>
concept SlopeFromResult = requires(const K& k, typename K::V v) { k.times_slope(v, v); };

/// A kernel whose curvature follows from value and slope, so that the argument need not be kept.
template <class K>
concept CurvatureFromResult = requires(const K& k, typename K::V v) { k.curvature(v, v); };

/// Returns f(kernel), with the kernel of the activation as a type.
template <Real S, class F>
constexpr decltype(auto) with_activation(Activation a, const F& f) {
  using enum Activation;
  switch (a) {
    case tanh:
      return f(ActivationKernel<S, tanh>{});
    case relu:
      return f(ActivationKernel<S, relu>{});
    case leaky_relu:
      return f(ActivationKernel<S, leaky_relu>{});
    case elu:
      return f(ActivationKernel<S, elu>{});
    case selu:
      return f(ActivationKernel<S, selu>{});
    case silu:
      return f(ActivationKernel<S, silu>{});
    case softplus:
      return f(ActivationKernel<S, softplus>{});
    case sin:
      return f(ActivationKernel<S, sin>{});
    case lip_swish:
      return f(ActivationKernel<S, lip_swish>{});
    case identity:
      break;
  }
  return f(ActivationKernel<S, identity>{});
}

/// Whether the slope of the activation follows from its result.
constexpr bool slope_from_result(Activation a) {
  return with_activation<double>(a, []<class K>(K) { return SlopeFromResult<K>; });
}

/// Whether the curvature of the activation does not follow from value and slope.
constexpr bool curvature_needs_argument(Activation a) {
  return with_activation<double>(a, []<class K>(K) { return !CurvatureFromResult<K>; });
}

/// Calls f(kernel) for an activation whose slope follows from the result; throws invalid_argument for any other.
template <Real S, class F>
void with_slope(Activation a, const F& f) {
  with_activation<S>(a, [&f, a]<class K>(K kernel) {
    if constexpr (SlopeFromResult<K>)
      f(kernel);
    else
      require(false, "with_slope: the slope of ", to_string(a), " does not follow from its result");
  });
}

}  // namespace detail

/// Returns the largest |slope| of the activation anywhere: its Lipschitz constant, rounded up.
constexpr double lipschitz_constant(Activation a) {
  return detail::with_activation<double>(a, [](auto kernel) { return kernel.lipschitz; });
}

}  // namespace diffeo::inline DIFFEO_ISA
