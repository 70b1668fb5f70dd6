// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/elementwise.hpp>
#include <string_view>

/// The activations of neural networks, chosen at run time.
namespace diffeo::inline DIFFEO_ISA {

/// identity; tanh; relu; leaky_relu (slope 0.01); elu (alpha 1, Clevert et al. 2015); selu (Klambauer et al. 2017);
/// silu x sigmoid(x) (Elfwing et al. 2017); softplus log(1 + exp x); sin (Sitzmann et al. 2020); lip_swish silu / 1.1,
/// whose slope is below 1 (Chen et al. 2019, section 3.3, with beta = 1).
enum class Activation { identity, tanh, relu, leaky_relu, elu, selu, silu, softplus, sin, lip_swish };

inline constexpr std::string_view activation_names[] = {"identity", "tanh", "relu",     "leaky_relu", "elu",
                                                        "selu",     "silu", "softplus", "sin",        "lip_swish"};

inline std::string_view to_string(Activation a) { return activation_names[static_cast<std::size_t>(a)]; }

namespace detail {

inline constexpr double leaky_slope = 0.01;
inline constexpr double selu_scale = 1.0507009873554804934193349852946;
inline constexpr double selu_alpha = 1.6732632423543772848170429916717;
inline constexpr double lip_swish_scale = 1 / 1.1;

// An activation at one point, with its first two derivatives.
template <Real S>
struct ActivationDerivatives {
  simd::Vec<S> value, slope, curvature;
};

// Values and derivatives on registers. `slope` takes the result y, from which the derivative of these follows; those of
// silu, lip_swish and sin do not.
template <Real S, Activation A>
struct ActivationKernel {
  using V = simd::Vec<S>;

  static V value(V x) {
    if constexpr (A == Activation::tanh)
      return simd::tanh<S>(x);
    else if constexpr (A == Activation::relu)
      return simd::max<S>(V{}, x);
    else if constexpr (A == Activation::leaky_relu)
      return x > S(0) ? x : x * S(leaky_slope);
    else if constexpr (A == Activation::elu)
      return x > S(0) ? x : simd::expm1<S>(x);
    else if constexpr (A == Activation::selu)
      return S(selu_scale) * (x > S(0) ? x : S(selu_alpha) * simd::expm1<S>(x));
    else if constexpr (A == Activation::silu)
      return x * simd::sigmoid<S>(x);
    else if constexpr (A == Activation::lip_swish)
      return x * simd::sigmoid<S>(x) * S(lip_swish_scale);  // in the order of the op, for equal bits
    else if constexpr (A == Activation::softplus)
      return simd::log1p_exp<S>(x);
    else if constexpr (A == Activation::sin)
      return simd::sin<S>(x);
    else
      return x;
  }

  static V times_slope(V g, V y) {
    if constexpr (A == Activation::tanh)
      return simd::mul_add<S>(-(g * y), y, g);
    else if constexpr (A == Activation::relu)
      return y > S(0) ? g : V{};
    else if constexpr (A == Activation::leaky_relu)
      return y > S(0) ? g : g * S(leaky_slope);
    else if constexpr (A == Activation::elu)
      return y > S(0) ? g : g * (y + S(1));
    else if constexpr (A == Activation::selu)
      return y > S(0) ? g * S(selu_scale) : g * (y + S(selu_scale * selu_alpha));
    else if constexpr (A == Activation::softplus)
      return -(g * simd::expm1<S>(-y));  // sigmoid(x) = 1 - exp(-y)
    else
      return g;
  }

  static ActivationDerivatives<S> derivatives(V x) {
    const V one = simd::broadcast<S>(1);
    if constexpr (A == Activation::tanh) {
      const V y = simd::tanh<S>(x), slope = simd::mul_add<S>(-y, y, one);
      return {y, slope, S(-2) * y * slope};
    } else if constexpr (A == Activation::relu) {
      return {simd::max<S>(V{}, x), x > S(0) ? one : V{}, V{}};
    } else if constexpr (A == Activation::leaky_relu) {
      const V slope = x > S(0) ? one : simd::broadcast<S>(S(leaky_slope));
      return {x * slope, slope, V{}};
    } else if constexpr (A == Activation::elu) {
      const V e = simd::expm1<S>(x);
      return {x > S(0) ? x : e, x > S(0) ? one : e + S(1), x > S(0) ? V{} : e + S(1)};
    } else if constexpr (A == Activation::selu) {
      const V e = S(selu_alpha) * simd::expm1<S>(x), steep = e + S(selu_alpha);
      return {S(selu_scale) * (x > S(0) ? x : e), S(selu_scale) * (x > S(0) ? one : steep),
              S(selu_scale) * (x > S(0) ? V{} : steep)};
    } else if constexpr (A == Activation::silu || A == Activation::lip_swish) {
      constexpr S scale = A == Activation::silu ? S(1) : S(lip_swish_scale);
      const V s = simd::sigmoid<S>(x), rest = S(1) - s, y = x * s * scale, scaled = scale * s;
      return {y, simd::mul_add<S>(y, rest, scaled), scaled * rest * simd::mul_add<S>(x, rest - s, S(2) * one)};
    } else if constexpr (A == Activation::softplus) {
      const V s = simd::sigmoid<S>(x);
      return {simd::log1p_exp<S>(x), s, s * (S(1) - s)};
    } else if constexpr (A == Activation::sin) {
      const V y = simd::sin<S>(x);
      return {y, simd::cos<S>(x), -y};
    } else {
      return {x, one, V{}};
    }
  }
};

// Calls f with the kernel of an activation as a type.
template <Real S, class F>
decltype(auto) with_activation(Activation a, const F& f) {
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

// Whether the derivative follows from the result.
constexpr bool slope_from_result(Activation a) {
  return a != Activation::silu && a != Activation::lip_swish && a != Activation::sin;
}

// The same for those activations alone.
template <Real S, class F>
decltype(auto) with_slope(Activation a, const F& f) {
  return with_activation<S>(a, [&f]<Activation A>(ActivationKernel<S, A>) {
    if constexpr (slope_from_result(A))
      f(ActivationKernel<S, A>{});
    else
      f(ActivationKernel<S, Activation::identity>{});
  });
}

}  // namespace detail

template <Real S>
Var<S> leaky_relu(Var<S> x, std::type_identity_t<S> slope = S(detail::leaky_slope)) {
  return detail::unary(
      "leaky_relu", x, [slope](auto v) { return v > S(0) ? v : v * slope; },
      [slope](auto g, auto, auto v) { return v > S(0) ? g : g * slope; });
}
template <class X>
Dual<X> leaky_relu(const Dual<X>& x, typename X::Scalar slope = typename X::Scalar(detail::leaky_slope)) {
  return {leaky_relu(x.value, slope), x.tangent * (step(x.value) * (1 - slope) + slope)};
}

template <Real S>
Var<S> elu(Var<S> x) {
  using K = detail::ActivationKernel<S, Activation::elu>;
  return detail::unary(
      "elu", x, [](auto v) { return K::value(v); }, [](auto g, auto y, auto) { return K::times_slope(g, y); });
}
template <class X>
Dual<X> elu(const Dual<X>& x) {
  const X y = elu(x.value);
  return {y, x.tangent * (1 - relu(-y))};  // the slope is 1 for y > 0, else 1 + y
}

template <Real S>
Var<S> selu(Var<S> x) {
  using K = detail::ActivationKernel<S, Activation::selu>;
  return detail::unary(
      "selu", x, [](auto v) { return K::value(v); }, [](auto g, auto y, auto) { return K::times_slope(g, y); });
}
template <class X>
Dual<X> selu(const Dual<X>& x) {
  using S = typename X::Scalar;
  const X y = selu(x.value), positive = step(x.value);
  return {y, x.tangent * (positive * S(detail::selu_scale) +
                          (1 - positive) * (y + S(detail::selu_scale * detail::selu_alpha)))};
}

/// x sigmoid(x).
template <Real S>
Var<S> silu(Var<S> x) {
  return detail::unary(
      "silu", x, [](auto v) { return v * simd::sigmoid<S>(v); },
      [](auto g, auto y, auto v) {
        const auto s = simd::sigmoid<S>(v);
        return g * simd::mul_add<S>(y, S(1) - s, s);
      });
}
template <class X>
Dual<X> silu(const Dual<X>& x) {
  return x * sigmoid(x);
}

/// x sigmoid(x) / 1.1.
template <Traced X>
X lip_swish(const X& x) {
  using S = typename X::Scalar;
  return silu(x) * S(detail::lip_swish_scale);
}

/// The activation chosen at run time, applied elementwise.
template <Traced X>
X activate(Activation a, const X& x) {
  switch (a) {
    case Activation::tanh:
      return tanh(x);
    case Activation::relu:
      return relu(x);
    case Activation::leaky_relu:
      return leaky_relu(x);
    case Activation::elu:
      return elu(x);
    case Activation::selu:
      return selu(x);
    case Activation::silu:
      return silu(x);
    case Activation::softplus:
      return softplus(x);
    case Activation::sin:
      return sin(x);
    case Activation::lip_swish:
      return lip_swish(x);
    case Activation::identity:
      break;
  }
  return x;
}

/// The largest |slope| of the activation anywhere: its Lipschitz constant.
constexpr double lipschitz_constant(Activation a) {
  switch (a) {
    case Activation::selu:
      return detail::selu_scale * detail::selu_alpha;
    case Activation::silu:
      return 1.0998393202;  // at x = 2.3994, rounded up
    case Activation::lip_swish:
      return 1.0998393202 * detail::lip_swish_scale;
    default:
      return 1;
  }
}

}  // namespace diffeo::inline DIFFEO_ISA
