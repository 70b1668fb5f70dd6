// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/activation.hpp>
#include <diffeo/math/matmul.hpp>

/// Products with matrices, among them the op of dense layers, which includes bias and activation.
namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Extends a block of the tape's memory to its padding rows, so that a product needs no tail, if the columns of the left
// operand are padded as far. Those of values in the caller's memory need not be, however large their stride.
template <class S>
View<S> with_padding(View<S> x, View<const S> left, bool left_is_padded) {
  if (x.rows > 1 && left_is_padded && left.stride >= x.stride) x.rows = x.stride;
  return x;
}

// Turns g (N x M) over into `transposed` (M x N, columns `across` apart), a square of registers at a time, and sums its
// rows into `bias` (M values) where that is wanted.
template <Real S>
void transpose_and_sum(View<const S> g, S* transposed, Index across, S* bias, bool assign_bias) {
  constexpr Index lanes = simd::lanes<S>;
  for (Index j = 0; j < g.cols; j += lanes) {
    const Index width = std::min(lanes, g.cols - j);
    simd::Vec<S> total{};
    for (Index i = 0; i < g.rows; i += lanes) {
      const Index height = std::min(lanes, g.rows - i);
      simd::Vec<S> square[std::size_t{lanes}];
      for (Index k = 0; k < lanes; ++k) square[k] = simd::load<S>(g.col(j + std::min(k, width - 1)) + i);
      simd::transpose<S>(square);
      S* to = transposed + j + i * across;
      for (Index k = 0; k < height; ++k) {
        total = total + square[k];
        simd::store<S>(to + k * across, square[k]);
      }
    }
    if (!bias) continue;
    if (width == lanes)
      simd::store<S>(bias + j, assign_bias ? total : simd::load<S>(bias + j) + total);
    else
      simd::store<S>(bias + j, assign_bias ? total : simd::load<S>(bias + j, width) + total, width);
  }
}

// Throws invalid_argument for a bias of one row whose values do not follow one another, such as a row of a larger
// array.
template <Real S>
void require_contiguous_bias(Var<S> b) {
  require(!b || b.rows() != 1 || b.cols() == 1 || b.value().stride == 1,
          "affine: the bias is a row of an array of several rows, expected a copy of it");
}

// Assigns out = x W' + b (none: an empty Var). Where b has a row of its own for each sample, the product goes on from
// it, with the bits of a shared one of the same values.
template <Real S>
void product_with_bias(View<S> out, View<const S> x, bool x_is_padded, math::Strided<S> w, Var<S> b) {
  if (b && b.rows() > 1) {
    math::copy(out, b.value());
    math::product<S>(out, x, w, nullptr, math::Start::accumulate);
  } else {
    require_contiguous_bias(b);
    math::product<S>(with_padding(out, x, x_is_padded), x, w, b ? b.value().data : nullptr,
                     b ? math::Start::bias : math::Start::zero);
  }
}

// What y = x W' + b gives to its weights and bias (none: an empty Var), where g is the adjoint of y (N x M): w is M x K
// where `out_by_in`, else K x M.
template <Real S>
void add_weight_gradients(Tape<S>& t, Var<S> w, Var<S> b, bool out_by_in, View<const S> g, View<const S> x) {
  constexpr Index lanes = simd::lanes<S>;
  if (b && b.rows() > 1) {
    add_grad(
        b, [](auto v) { return v; }, g);
    b = {};
  }
  const Index rows = g.rows, ins = x.cols, outs = g.cols;
  const bool of_bias = b && b.requires_grad();
  if (ins < 4 || outs < 4 || rows == 1) {
    if (of_bias) add_grad_sum(b, g);
    if (!w.requires_grad()) return;
    const GradTarget<S> target = t.grad_target(w);
    if (out_by_in)
      math::product_of_transposed<S>(target.grad, target.assign, g, x);
    else
      math::product_of_transposed<S>(target.grad, target.assign, x, g);
    return;
  }
  if (!of_bias && !w.requires_grad()) return;
  const Index across = (outs + lanes - 1) / lanes * lanes;
  const ScratchBuffer<S> transposed(t, across * ((rows + lanes - 1) / lanes * lanes));
  GradTarget<S> bias{};
  if (of_bias) bias = t.grad_target(b);
  transpose_and_sum<S>(g, transposed.data(), across, bias.grad.data, bias.assign);
  if (!w.requires_grad()) return;
  const GradTarget<S> target = t.grad_target(w);
  const View<const S> left{transposed.data(), outs, rows, across};
  const math::Strided<S> samples{x.data, 1, x.stride};
  if (out_by_in) {
    math::product<S>(target.grad, left, samples, nullptr, target.assign ? math::Start::zero : math::Start::accumulate);
    return;
  }
  const ScratchBuffer<S> turned(t, across * ins);
  const View<S> grad{turned.data(), outs, ins, across};
  math::product<S>(grad, left, samples, nullptr, math::Start::zero);
  if (target.assign)
    as_eigen(target.grad) = as_eigen(grad).transpose();
  else
    as_eigen(target.grad) += as_eigen(grad).transpose();
}

// The weights as right operand of x W', and of the product g W of the backward pass.
template <Real S>
math::Strided<S> right_operand(View<const S> w, bool out_by_in) {
  return out_by_in ? math::Strided<S>{w.data, w.stride, 1} : math::Strided<S>{w.data, 1, w.stride};
}
template <Real S>
math::Strided<S> transposed_operand(View<const S> w, bool out_by_in) {
  return right_operand(w, !out_by_in);
}

// x (N x K) times the weights: w is M x K where `out_by_in`, else K x M. Bias 1 x M, N x M or none.
template <Real S>
Var<S> product_op(Var<S> x, Var<S> w, bool out_by_in, Var<S> b, Activation act) {
  Tape<S>& tape = x.tape();
  const Index inner = out_by_in ? w.cols() : w.rows(), outer = out_by_in ? w.rows() : w.cols();
  require(x.cols() == inner, "affine: x has ", x.cols(), " columns, the weights expect ", inner);
  require(!b || ((b.rows() == 1 || b.rows() == x.rows()) && b.cols() == outer), "affine: the bias is ",
          b ? b.rows() : 0, " x ", b ? b.cols() : 0, ", expected 1 or ", x.rows(), " x ", outer);
  const bool parameters = w.requires_grad() || (b && b.requires_grad());
  const Var<S> y = tape.make(x.rows(), outer, x.requires_grad() || parameters);
  const View<S> out = tape.mutable_value(y);
  product_with_bias(out, x.value(), x.padded(), right_operand(w.value(), out_by_in), b);
  if (act != Activation::identity)
    with_activation<S>(act, [&](auto kernel) {
      math::map(
          out, [kernel](auto v) { return kernel.value(v); }, static_cast<View<const S>>(out));
    });
  if (!y.requires_grad()) return y;

  tape.on_backward({y}, [x, w, b, y, out_by_in, act, parameters] {
    Tape<S>& t = y.tape();
    const View<S> pre = t.mutable_grad(y);
    if (act != Activation::identity)
      with_slope<S>(act, [&](auto kernel) {
        math::map(
            pre, [kernel](auto g, auto v) { return kernel.times_slope(g, v); }, static_cast<View<const S>>(pre),
            y.value());
      });
    if (parameters) add_weight_gradients(t, w, b, out_by_in, View<const S>(pre), x.value());
    if (x.requires_grad()) {
      const GradTarget<S> target = t.grad_target(x);
      math::product<S>(with_padding(target.grad, View<const S>(pre), true), pre,
                       transposed_operand(w.value(), out_by_in), nullptr,
                       target.assign ? math::Start::zero : math::Start::accumulate);
    }
  });
  return y;
}

}  // namespace detail

/// Returns activation(x W' + b): N x M for x of N x K, W of M x K (row m holds the weights of output m) and b of 1 x M,
/// or of N x M with a row for each sample. Throws invalid_argument if the shapes do not match.
template <Real S, class W, class B>
Var<S> affine(Var<S> x, const W& w, const B& b, Activation act = Activation::identity) {
  detail::require_operands("affine", x);
  Tape<S>& tape = x.tape();
  // Where the derivative needs the argument of the activation, that is kept as a value of its own.
  const Var<S> weights = as_var(tape, w), bias = as_var(tape, b);
  const bool fused =
      detail::slope_from_result(act) || !(x.requires_grad() || weights.requires_grad() || bias.requires_grad());
  const Var<S> y = detail::product_op(x, weights, true, bias, fused ? act : Activation::identity);
  if (fused) return y;
  return detail::with_activation<S>(act, [y]<Activation A>(detail::ActivationKernel<S, A>) {
    if constexpr (detail::SlopeFromResult<detail::ActivationKernel<S, A>>)
      return y;
    else
      return activate<A>(y);
  });
}
template <class X, class W, class B>
Dual<X> affine(const Dual<X>& x, const W& w, const B& b, Activation act = Activation::identity) {
  return activate(act, Dual<X>{affine(x.value, w, b), linear(x.tangent, w)});
}

/// Returns x W': N x M for x of N x K and W of M x K.
template <Real S, class W>
Var<S> linear(Var<S> x, const W& w) {
  return detail::product_op(x, as_var(x.tape(), w), true, Var<S>{}, Activation::identity);
}
template <class X, class W>
Dual<X> linear(const Dual<X>& x, const W& w) {
  return {linear(x.value, w), linear(x.tangent, w)};
}

/// Returns x B: N x M for x of N x K and B of K x M.
template <Real S, class B>
Var<S> matmul(Var<S> x, const B& b) {
  return detail::product_op(x, as_var(x.tape(), b), false, Var<S>{}, Activation::identity);
}
template <class X, class B>
Dual<X> matmul(const Dual<X>& x, const B& b) {
  return {matmul(x.value, b), matmul(x.tangent, b)};
}

}  // namespace diffeo::inline DIFFEO_ISA
