// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/autodiff/parameter.hpp>
#include <diffeo/math/activation.hpp>
#include <tuple>
#include <type_traits>
#include <utility>

/// Elementwise ops with broadcasting. Each op defines its value, its adjoint and its tangent. Tangents are written with
/// the same ops, so that they are differentiable too.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// The partial derivative of an operand that is a summand.
struct PassOn {
  template <class G, class... X>
  G operator()(G g, const X&...) const {
    return g;
  }
};

// Returns x repeated along the dimensions in which it has extent 1 and `shape` does not, in the memory layout of values
// of the tape.
template <Real S>
Var<S> repeated(Var<S> x, math::Shape shape) {
  const Var<S> y = x.tape().make(shape.rows, shape.cols, x.requires_grad());
  math::broadcast_to(x.tape().mutable_value(y), x.value());
  if (y.requires_grad()) x.tape().on_backward({y}, [x, y] { add_grad_sum(x, y.grad()); });
  return y;
}
template <Real S>
inline Var<S> broadcast_to(Var<S> x, math::Shape shape) {
  const bool same = x.shape() == shape && (shape.cols == 1 || x.value().stride == Tape<S>::stride_for(shape.rows));
  return same ? x : repeated(x, shape);
}
template <class X>
Dual<X> broadcast_to(const Dual<X>& x, math::Shape shape) {
  return {broadcast_to(x.value, shape), broadcast_to(x.tangent, shape)};
}

// Adds the contribution of one operand to its adjoint: g, or a function of g, the result and all operands.
template <Real S, class Partial, class... X>
void add_partial(Var<S> x, const Partial& partial, Var<S> y, X... operands) {
  if constexpr (std::is_same_v<Partial, PassOn>)
    add_grad_sum(x, y.grad());
  else
    add_grad(x, partial, y.grad(), y.value(), operands.value()...);
}

}  // namespace detail

/// Returns y = value(x...), an elementwise op with its gradient, from operands x of type Var<S> whose shapes broadcast
/// to that of y: along each dimension an operand has the extent of y or 1.
///
/// `value` and the partial derivatives are functions of registers, simd::Vec<S>, and must be trivially destructible.
/// value(x...) returns the result for one register of each operand. `partials` is a tuple with one function for each
/// operand: partials[i](g, y, x...) returns g dy/dx_i, where g is the gradient with respect to the result y. `name`
/// names the op in error messages. Throws invalid_argument if the shapes do not broadcast.
///
/// Tangents need an overload for Dual, written with differentiable ops. An op a / (1 + b^2):
///
///     make_elementwise<S>("damped", [](auto a, auto b) { return a / (S(1) + b * b); },
///                         std::tuple([](auto g, auto, auto, auto b) { return g / (S(1) + b * b); },
///                                    [](auto g, auto y, auto, auto b) { return S(-2) * g * y * b / (S(1) + b * b); }),
///                         a, b);
template <Real S, class Value, class... Partials, class... X>
Var<S> make_elementwise(const char* name, const Value& value, const std::tuple<Partials...>& partials, X... x) {
  detail::require_operands(name, x...);
  const math::Shape shape = math::broadcast_shape(name, {x.shape()...});
  const std::tuple operands(detail::broadcast_to(x, shape)...);
  Tape<S>& tape = std::get<0>(operands).tape();
  const Var<S> y = tape.make(shape.rows, shape.cols, (x.requires_grad() || ...));
  std::apply([&](auto... operand) { math::map(tape.mutable_value(y), value, operand.value()...); }, operands);
  if (y.requires_grad())
    tape.on_backward({y}, [y, partials, operands] {
      std::apply(
          [&](auto... operand) {
            [&]<std::size_t... I>(std::index_sequence<I...>) {
              (detail::add_partial<S>(std::get<I>(operands), std::get<I>(partials), y, operand...), ...);
            }(std::index_sequence_for<Partials...>{});
          },
          operands);
    });
  return y;
}

namespace detail {

template <Real S, class Value, class Partial>
Var<S> unary(const char* name, Var<S> x, const Value& value, const Partial& partial) {
  return make_elementwise<S>(name, value, std::tuple(partial), x);
}

template <Real S, Activation A>
Var<S> activation_op(const char* name, Var<S> x, ActivationKernel<S, A> kernel) {
  return unary(
      name, x, [kernel](auto v) { return kernel.value(v); },
      [kernel](auto g, auto y, auto v) { return kernel.times_slope(g, y, v); });
}

}  // namespace detail

/// Returns the activation A of each element.
template <Activation A, Real S>
Var<S> activate(Var<S> x) {
  return detail::activation_op(to_string(A).data(), x, detail::ActivationKernel<S, A>{});
}

// ---- sums ----
template <Real S>
Var<S> operator+(Var<S> a, Var<S> b) {
  return make_elementwise<S>(
      "operator+", [](auto x, auto y) { return x + y; }, std::tuple(detail::PassOn{}, detail::PassOn{}), a, b);
}
template <class X>
Dual<X> operator+(const Dual<X>& a, const Dual<X>& b) {
  return {a.value + b.value, a.tangent + b.tangent};
}
template <Real S>
Var<S> operator-(Var<S> a, Var<S> b) {
  return make_elementwise<S>(
      "operator-", [](auto x, auto y) { return x - y; },
      std::tuple(detail::PassOn{}, [](auto g, auto...) { return -g; }), a, b);
}
template <class X>
Dual<X> operator-(const Dual<X>& a, const Dual<X>& b) {
  return {a.value - b.value, a.tangent - b.tangent};
}
template <Real S>
Var<S> operator-(Var<S> x) {
  return detail::unary(
      "operator-", x, [](auto v) { return -v; }, [](auto g, auto...) { return -g; });
}
template <class X>
Dual<X> operator-(const Dual<X>& x) {
  return {-x.value, -x.tangent};
}

// ---- products ----
template <Real S>
Var<S> operator*(Var<S> a, Var<S> b) {
  return make_elementwise<S>(
      "operator*", [](auto x, auto y) { return x * y; },
      std::tuple([](auto g, auto, auto, auto y) { return g * y; }, [](auto g, auto, auto x, auto) { return g * x; }), a,
      b);
}
template <class X>
Dual<X> operator*(const Dual<X>& a, const Dual<X>& b) {
  return {a.value * b.value, a.tangent * b.value + a.value * b.tangent};
}
template <Real S>
Var<S> operator/(Var<S> a, Var<S> b) {
  return make_elementwise<S>(
      "operator/", [](auto x, auto y) { return x / y; },
      std::tuple([](auto g, auto, auto, auto y) { return g / y; },
                 [](auto g, auto q, auto, auto y) { return -g * q / y; }),
      a, b);
}
template <class X>
Dual<X> operator/(const Dual<X>& a, const Dual<X>& b) {
  const X q = a.value / b.value;
  return {q, (a.tangent - q * b.tangent) / b.value};
}

// ---- with a constant scalar ----
template <Real S>
Var<S> operator+(Var<S> x, std::type_identity_t<S> c) {
  return detail::unary(
      "operator+", x, [c](auto v) { return v + c; }, detail::PassOn{});
}
template <Real S>
Var<S> operator*(Var<S> x, std::type_identity_t<S> c) {
  return detail::unary(
      "operator*", x, [c](auto v) { return v * c; }, [c](auto g, auto...) { return g * c; });
}
template <Real S>
Var<S> operator/(std::type_identity_t<S> c, Var<S> x) {
  return detail::unary(
      "operator/", x, [c](auto v) { return c / v; }, [](auto g, auto y, auto v) { return -g * y / v; });
}
template <class X>
Dual<X> operator+(const Dual<X>& x, typename X::Scalar c) {
  return {x.value + c, x.tangent};
}
template <class X>
Dual<X> operator*(const Dual<X>& x, typename X::Scalar c) {
  return {x.value * c, x.tangent * c};
}
template <class X>
Dual<X> operator/(typename X::Scalar c, const Dual<X>& x) {
  const X y = c / x.value;
  return {y, -(y / x.value) * x.tangent};
}
template <Traced X>
X operator+(typename X::Scalar c, const X& x) {
  return x + c;
}
template <Traced X>
X operator-(const X& x, typename X::Scalar c) {
  return x + (-c);
}
template <Traced X>
X operator-(typename X::Scalar c, const X& x) {
  return -x + c;
}
template <Traced X>
X operator*(typename X::Scalar c, const X& x) {
  return x * c;
}
template <Traced X>
X operator/(const X& x, typename X::Scalar c) {
  return x * (1 / c);
}

// ---- with a parameter: an array, a buffer, or (beside a dual number) a Var, whose tangent is zero ----
template <class X, class P>
  requires ParameterFor<std::remove_cvref_t<P>, X>
X operator+(const X& x, P&& p) {
  const auto c = as_var(x.tape(), std::forward<P>(p));
  if constexpr (detail::is_dual<X>) {
    const auto y = x.value + c;
    return {y, detail::broadcast_to(x.tangent, innermost(y).shape())};
  } else
    return x + c;
}
template <class X, class P>
  requires ParameterFor<std::remove_cvref_t<P>, X>
X operator-(const X& x, P&& p) {
  const auto c = as_var(x.tape(), std::forward<P>(p));
  if constexpr (detail::is_dual<X>) {
    const auto y = x.value - c;
    return {y, detail::broadcast_to(x.tangent, innermost(y).shape())};
  } else
    return x - c;
}
template <class X, class P>
  requires ParameterFor<std::remove_cvref_t<P>, X>
X operator*(const X& x, P&& p) {
  const auto c = as_var(x.tape(), std::forward<P>(p));
  if constexpr (detail::is_dual<X>)
    return {x.value * c, x.tangent * c};
  else
    return x * c;
}
template <class X, class P>
  requires ParameterFor<std::remove_cvref_t<P>, X>
X operator/(const X& x, P&& p) {
  const auto c = as_var(x.tape(), std::forward<P>(p));
  if constexpr (detail::is_dual<X>)
    return {x.value / c, x.tangent / c};
  else
    return x / c;
}
template <class P, class X>
  requires ParameterFor<std::remove_cvref_t<P>, X>
X operator+(P&& p, const X& x) {
  return x + std::forward<P>(p);
}
template <class P, class X>
  requires ParameterFor<std::remove_cvref_t<P>, X>
X operator-(P&& p, const X& x) {
  return -x + std::forward<P>(p);
}
template <class P, class X>
  requires ParameterFor<std::remove_cvref_t<P>, X>
X operator*(P&& p, const X& x) {
  return x * std::forward<P>(p);
}

// ---- functions of one argument ----
template <Real S>
Var<S> square(Var<S> x) {
  return detail::unary(
      "square", x, [](auto v) { return v * v; }, [](auto g, auto, auto v) { return (g + g) * v; });
}
template <class X>
Dual<X> square(const Dual<X>& x) {
  return {square(x.value), x.tangent * x.value * 2};
}

template <Real S>
Var<S> sqrt(Var<S> x) {
  return detail::unary(
      "sqrt", x, [](auto v) { return simd::sqrt<S>(v); }, [](auto g, auto y, auto) { return g / (y + y); });
}
template <class X>
Dual<X> sqrt(const Dual<X>& x) {
  const X y = sqrt(x.value);
  return {y, x.tangent / (y + y)};
}

template <Real S>
Var<S> exp(Var<S> x) {
  return detail::unary(
      "exp", x, [](auto v) { return simd::exp<S>(v); }, [](auto g, auto y, auto) { return g * y; });
}
template <class X>
Dual<X> exp(const Dual<X>& x) {
  const X y = exp(x.value);
  return {y, x.tangent * y};
}

template <Real S>
Var<S> log(Var<S> x) {
  return detail::unary(
      "log", x, [](auto v) { return simd::log<S>(v); }, [](auto g, auto, auto v) { return g / v; });
}
template <class X>
Dual<X> log(const Dual<X>& x) {
  return {log(x.value), x.tangent / x.value};
}

/// Returns log(1 + x), accurate near 0.
template <Real S>
Var<S> log1p(Var<S> x) {
  return detail::unary(
      "log1p", x, [](auto v) { return simd::log1p<S>(v); }, [](auto g, auto, auto v) { return g / (v + S(1)); });
}
template <class X>
Dual<X> log1p(const Dual<X>& x) {
  return {log1p(x.value), x.tangent / (x.value + 1)};
}

/// Returns the sine or the cosine of x in radians, for |x| <= 1e4 (float) or 1e6 (double). Beyond that the result stays
/// in [-1, 1], but its phase is wrong by more and more, and arbitrary from 3e6 or 1e15 on: reduce larger phases before.
/// Gives NaN at infinity.
template <Real S>
Var<S> sin(Var<S> x) {
  return activate<Activation::sin>(x);
}
template <Real S>
Var<S> cos(Var<S> x) {
  return detail::unary(
      "cos", x, [](auto v) { return simd::cos<S>(v); }, [](auto g, auto, auto v) { return -g * simd::sin<S>(v); });
}
template <class X>
Dual<X> sin(const Dual<X>& x) {
  return {sin(x.value), x.tangent * cos(x.value)};
}
template <class X>
Dual<X> cos(const Dual<X>& x) {
  return {cos(x.value), -(x.tangent * sin(x.value))};
}

/// Returns 1 where x > 0 and 0 elsewhere. The derivative is 0.
template <Real S>
Var<S> step(Var<S> x) {
  const Var<S> y = x.tape().make(x.rows(), x.cols(), false);
  math::map(
      x.tape().mutable_value(y), [](auto v) { return v > S(0) ? simd::broadcast<S>(1) : simd::broadcast<S>(0); },
      x.value());
  return y;
}

template <class X>
Dual<X> step(const Dual<X>& x) {
  return {step(x.value), x.tangent * 0};
}

/// Returns |x|. At 0 the derivative is taken as -1.
template <Real S>
Var<S> abs(Var<S> x) {
  return detail::unary(
      "abs", x, [](auto v) { return simd::abs<S>(v); }, [](auto g, auto, auto v) { return v > S(0) ? g : -g; });
}
template <class X>
Dual<X> abs(const Dual<X>& x) {
  return {abs(x.value), x.tangent * (step(x.value) * 2 - 1)};
}

/// Returns the number in [low, high] that is nearest to each element; NaN stays NaN. The derivative is 1 from low to
/// high and 0 beyond them.
template <Real S>
Var<S> clamp(Var<S> x, std::type_identity_t<S> low, std::type_identity_t<S> high) {
  return detail::unary(
      "clamp", x,
      [low, high](auto v) {
        const auto raised = v < low ? simd::broadcast<S>(low) : v;
        return raised > high ? simd::broadcast<S>(high) : raised;
      },
      [](auto g, auto y, auto v) { return y == v ? g : simd::broadcast<S>(0); });
}
template <class X>
Dual<X> clamp(const Dual<X>& x, typename X::Scalar low, typename X::Scalar high) {
  const auto inside = (1 - step(x.value - high)) * (1 - step(low - x.value));
  return {clamp(x.value, low, high), x.tangent * inside};
}

template <Real S>
Var<S> tanh(Var<S> x) {
  return activate<Activation::tanh>(x);
}
template <class X>
Dual<X> tanh(const Dual<X>& x) {
  const X y = tanh(x.value);
  return {y, x.tangent * (1 - square(y))};
}

/// Returns 1 / (1 + exp(-x)).
template <Real S>
Var<S> sigmoid(Var<S> x) {
  return detail::unary(
      "sigmoid", x, [](auto v) { return simd::sigmoid<S>(v); },
      [](auto g, auto y, auto) { return g * y * (S(1) - y); });
}
template <class X>
Dual<X> sigmoid(const Dual<X>& x) {
  const X y = sigmoid(x.value);
  return {y, x.tangent * y * (1 - y)};
}

/// Returns log(1 + exp(x)).
template <Real S>
Var<S> softplus(Var<S> x) {
  return activate<Activation::softplus>(x);
}
template <class X>
Dual<X> softplus(const Dual<X>& x) {
  return {softplus(x.value), x.tangent * sigmoid(x.value)};
}

/// Returns log(sigmoid(x)).
template <Real S>
Var<S> log_sigmoid(Var<S> x) {
  return detail::unary(
      "log_sigmoid", x, [](auto v) { return simd::log_sigmoid<S>(v); },
      [](auto g, auto, auto v) { return g * simd::sigmoid<S>(-v); });
}
template <class X>
Dual<X> log_sigmoid(const Dual<X>& x) {
  return {log_sigmoid(x.value), x.tangent * sigmoid(-x.value)};
}

template <Real S>
Var<S> relu(Var<S> x) {
  return activate<Activation::relu>(x);
}
template <class X>
Dual<X> relu(const Dual<X>& x) {
  return {relu(x.value), x.tangent * step(x.value)};
}

/// Returns a constant block of zeros with as many rows as x.
template <Real S>
Var<S> zeros(Var<S> x, Index cols) {
  const Var<S> y = x.tape().make(x.rows(), cols, false);
  math::fill(x.tape().mutable_value(y), 0);
  return y;
}
template <class X>
Dual<X> zeros(const Dual<X>& x, Index cols) {
  return {zeros(x.value, cols), zeros(x.tangent, cols)};
}

// ---- fused chains ----
/// Returns a tanh(r x).
template <Real S>
Var<S> scaled_tanh(Var<S> x, std::type_identity_t<S> a, std::type_identity_t<S> r) {
  return detail::unary(
      "scaled_tanh", x, [a, r](auto v) { return a * simd::tanh<S>(r * v); },
      [slope = a * r, curvature = r / a](auto g, auto y, auto) {
        return g * simd::mul_add<S>(-curvature * y, y, simd::broadcast<S>(slope));
      });
}
template <class X>
Dual<X> scaled_tanh(const Dual<X>& x, typename X::Scalar a, typename X::Scalar r) {
  const X y = scaled_tanh(x.value, a, r);
  return {y, x.tangent * (a * r - square(y) * (r / a))};
}

/// Returns x exp(s) + t.
template <Real S>
Var<S> scale_shift(Var<S> x, Var<S> s, Var<S> t) {
  return make_elementwise<S>(
      "scale_shift",
      [](auto v, auto log_scale, auto shift) { return simd::mul_add<S>(v, simd::exp<S>(log_scale), shift); },
      std::tuple([](auto g, auto, auto, auto log_scale, auto) { return g * simd::exp<S>(log_scale); },
                 [](auto g, auto y, auto, auto, auto shift) { return g * (y - shift); }, detail::PassOn{}),
      x, s, t);
}
template <class X>
Dual<X> scale_shift(const Dual<X>& x, const Dual<X>& s, const Dual<X>& t) {
  return x * exp(s) + t;
}

/// Returns (y - t) exp(m), the inverse of scale_shift() for m = -s.
template <Real S>
Var<S> unshift_scale(Var<S> y, Var<S> m, Var<S> t) {
  return make_elementwise<S>(
      "unshift_scale", [](auto v, auto log_scale, auto shift) { return (v - shift) * simd::exp<S>(log_scale); },
      std::tuple([](auto g, auto, auto, auto log_scale, auto) { return g * simd::exp<S>(log_scale); },
                 [](auto g, auto x, auto...) { return g * x; },
                 [](auto g, auto, auto, auto log_scale, auto) { return -(g * simd::exp<S>(log_scale)); }),
      y, m, t);
}
template <class X>
Dual<X> unshift_scale(const Dual<X>& y, const Dual<X>& m, const Dual<X>& t) {
  return (y - t) * exp(m);
}

}  // namespace diffeo::inline DIFFEO_ISA
