// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/math/linear_solve.hpp>

/// Whole Jacobians of dense networks, computed in one pass for the value and its derivatives along several directions.
/// They are differentiable in reverse mode.
namespace diffeo::inline DIFFEO_ISA {

/// A value of N rows and C columns with its derivatives along k directions. They form one value of the tape that stacks
/// k + 1 blocks of N rows, each padded to `pitch` rows; the padding is undefined.
template <Real S>
struct MultiDual {
  Var<S> blocks;  ///< (k + 1) pitch x C
  Index rows = 0;
  Index directions = 0;

  Index cols() const { return blocks.cols(); }
  Index pitch() const { return blocks.rows() / (directions + 1); }
  Tape<S>& tape() const { return blocks.tape(); }
};

namespace detail {

// Block k of the stack: 0 is the value, k > 0 the derivatives along direction k - 1.
template <class T, Real S>
View<T> stacked(View<T> blocks, const MultiDual<S>& of, Index k, Index rows) {
  return {blocks.data + k * of.pitch(), rows, blocks.cols, blocks.stride};
}

template <Real S>
MultiDual<S> make_multi_dual(Tape<S>& tape, Index rows, Index cols, Index directions, bool requires_grad) {
  const Index pitch = std::max(simd::lanes<S>, (rows + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>);
  return {tape.make((directions + 1) * pitch, cols, requires_grad), rows, directions};
}

// The argument of a network's hidden layer. Behind the first dense layer the derivative along direction j is column j
// of its weights for every row, and is not stored.
template <Real S>
struct HiddenInput {
  Var<S> value;  // N x K where `seeds` is set
  Var<S> seeds;  // K x directions
  MultiDual<S> stack;

  bool seeded() const { return static_cast<bool>(seeds); }
  Index rows() const { return seeded() ? value.rows() : stack.rows; }
  Index cols() const { return seeded() ? value.cols() : stack.cols(); }
  Index directions() const { return seeded() ? seeds.cols() : stack.directions; }
  bool requires_grad() const {
    return seeded() ? value.requires_grad() || seeds.requires_grad() : stack.blocks.requires_grad();
  }
  Tape<S>& tape() const { return seeded() ? value.tape() : stack.tape(); }
};

// Blocks of the activation and its derivatives, to multiply with weights.
template <Real S>
void activate_stack(Activation act, const HiddenInput<S>& in, View<S> out, Index pitch) {
  const Index rows = in.rows(), directions = in.directions();
  constexpr Index lanes = simd::lanes<S>;
  with_activation<S>(act, [&](auto kernel) {
    for (Index c = 0; c < in.cols(); ++c) {
      S* to = out.col(c);
      const S* x = in.seeded() ? in.value.value().col(c) : in.stack.blocks.value().col(c);
      const Index step = in.seeded() ? 0 : in.stack.pitch();
      const auto piece = [&](Index i, auto... n) {
        const auto d = kernel.derivatives(simd::load<S>(x + i, n...));
        simd::store<S>(to + i, d.value);
        for (Index k = 1; k <= directions; ++k)
          simd::store<S>(to + k * pitch + i, d.slope * (step ? simd::load<S>(x + k * step + i)
                                                             : simd::broadcast<S>(in.seeds.value().col(k - 1)[c])));
      };
      Index i = 0;
      for (; i + lanes <= rows; i += lanes) piece(i);
      if (i < rows) piece(i, rows - i);
    }
  });
}

// Computes the adjoint of the argument from those of the blocks.
template <Real S>
void activate_stack_backward(Activation act, const HiddenInput<S>& in, View<const S> g, Index pitch) {
  const Index rows = in.rows(), directions = in.directions();
  constexpr Index lanes = simd::lanes<S>;
  Tape<S>& t = in.tape();
  GradTarget<S> value{}, seeds{};
  if (!in.seeded()) value = t.grad_target(in.stack.blocks);
  if (in.seeded() && in.value.requires_grad()) value = t.grad_target(in.value);
  if (in.seeded() && in.seeds.requires_grad()) {
    seeds = t.grad_target(in.seeds);
    if (seeds.assign) math::map(seeds.grad, [] { return simd::Vec<S>{}; });
  }
  const Index step = in.seeded() ? 0 : in.stack.pitch();
  constexpr Index most = 8;  // directions whose sums stay in registers
  with_activation<S>(act, [&](auto kernel) {
    for (Index c = 0; c < in.cols(); ++c) {
      const S* x = in.seeded() ? in.value.value().col(c) : in.stack.blocks.value().col(c);
      const S* from = g.col(c);
      S* to = value.grad.data ? value.grad.col(c) : nullptr;
      for (Index first = 1; first <= directions || first == 1; first += most) {
        const Index count = std::min(most, directions + 1 - first);
        simd::Vec<S> sums[std::size_t{most}] = {};
        const auto piece = [&](Index i, auto... n) {
          const auto d = kernel.derivatives(simd::load<S>(x + i, n...));
          simd::Vec<S> total{};  // contribution of the derivatives to the value, without the factor of the curvature
          for (Index k = 0; k < count; ++k) {
            const auto gk = simd::load<S>(from + (first + k) * pitch + i, n...);
            if (step) {
              S* at = to + (first + k) * step + i;
              total = simd::mul_add<S>(gk, simd::load<S>(x + (first + k) * step + i, n...), total);
              const auto contribution = d.slope * gk;
              simd::store<S>(at, value.assign ? contribution : simd::load<S>(at, n...) + contribution, n...);
            } else {
              total = simd::mul_add<S>(gk, simd::broadcast<S>(in.seeds.value().col(first - 1 + k)[c]), total);
              if (seeds.grad.data) sums[k] = simd::mul_add<S>(d.slope, gk, sums[k]);
            }
          }
          if (!to) return;
          simd::Vec<S> contribution = d.curvature * total;
          if (first == 1) contribution = simd::mul_add<S>(d.slope, simd::load<S>(from + i, n...), contribution);
          simd::store<S>(to + i, value.assign && first == 1 ? contribution : simd::load<S>(to + i, n...) + contribution,
                         n...);
        };
        Index i = 0;
        for (; i + lanes <= rows; i += lanes) piece(i);
        if (i < rows) piece(i, rows - i);
        if (seeds.grad.data)
          for (Index k = 0; k < count; ++k) seeds.grad.col(first - 1 + k)[c] += simd::sum<S>(sums[k]);
      }
    }
  });
}

// act(in) W' + b with derivatives, b of one row or with a row for each sample. The activations are computed again on
// the way back, which costs less than to keep them in memory.
template <Real S>
MultiDual<S> hidden_product(const HiddenInput<S>& in, Activation act, Var<S> w, Var<S> b) {
  Tape<S>& tape = in.tape();
  require(in.cols() == w.cols() && (b.rows() == 1 || b.rows() == in.rows()) && b.cols() == w.rows(), "affine: x has ",
          in.cols(), " columns, the weights are ", w.rows(), " x ", w.cols(), ", the bias ", b.rows(), " x ", b.cols());
  require_contiguous_bias(b);
  const Index directions = in.directions();
  const MultiDual<S> y = make_multi_dual(tape, in.rows(), w.rows(), directions,
                                         in.requires_grad() || w.requires_grad() || b.requires_grad());
  const Index pitch = y.pitch();
  const View<S> out = tape.mutable_value(y.blocks);
  const auto padded_stride = Tape<S>::stride_for((directions + 1) * pitch);
  {
    const auto mark = tape.mark();
    const View<S> a{tape.allocate_values(padded_stride * in.cols()), (directions + 1) * pitch, in.cols(),
                    padded_stride};
    activate_stack(act, in, a, pitch);
    const auto right = right_operand(w.value(), true);
    product_with_bias(stacked(out, y, 0, b.rows() > 1 ? y.rows : pitch), stacked(View<const S>(a), y, 0, pitch), false,
                      right, b);
    for (Index k = 1; k <= directions; ++k)
      math::product<S>(stacked(out, y, k, pitch), stacked(View<const S>(a), y, k, pitch), right, nullptr,
                       math::Start::zero);
    tape.release(mark);
  }
  if (!y.blocks.requires_grad()) return y;

  tape.on_backward({y.blocks}, [in, act, w, b, y, padded_stride] {
    Tape<S>& t = y.tape();
    const Index stack_rows = y.blocks.rows(), at = y.pitch(), n = y.directions;
    const View<const S> g = y.blocks.grad();
    const ScratchBuffer<S> memory(t, padded_stride * in.cols());
    const View<S> a{memory.data(), stack_rows, in.cols(), padded_stride};
    if (w.requires_grad() || b.requires_grad()) {
      activate_stack(act, in, a, at);
      for (Index k = 0; k <= n; ++k)
        add_weight_gradients(t, w, k == 0 ? b : Var<S>{}, true, stacked(g, y, k, y.rows),
                             stacked(View<const S>(a), y, k, y.rows));
    }
    if (!in.requires_grad()) return;
    for (Index k = 0; k <= n; ++k)
      math::product<S>(stacked(a, y, k, at), stacked(g, y, k, at), transposed_operand(w.value(), true), nullptr,
                       math::Start::zero);
    activate_stack_backward(act, in, View<const S>(a), at);
  });
  return y;
}

template <Real S>
Var<S> identity_matrix(Tape<S>& tape, Index size) {
  const Var<S> y = tape.make(size, size, false);
  as_eigen(tape.mutable_value(y)).matrix().setIdentity();
  return y;
}

// Returns the outputs of a network of `count` dense layers with their derivatives with respect to the first
// `directions` columns of x; layer(i) returns matrix and bias. The bias of the first layer may have a row for each row
// of x.
template <Real S, class Layer>
MultiDual<S> dense_with_jacobian(Var<S> x, Activation act, std::size_t count, const Layer& layer, Index directions) {
  const auto [first, bias] = layer(std::size_t{0});
  HiddenInput<S> in{affine(x, first, bias), directions == first.cols() ? first : cols(first, 0, directions), {}};
  if (count == 1) {
    const Var<S> no_bias = x.tape().make(1, first.rows(), false);
    math::fill(x.tape().mutable_value(no_bias), 0);
    return hidden_product(in, Activation::identity, identity_matrix(x.tape(), first.rows()), no_bias);
  }
  for (std::size_t i = 1;; ++i) {
    const auto [w, b] = layer(i);
    const MultiDual<S> y = hidden_product(in, act, w, b);
    if (i + 1 == count) return y;
    in = {{}, {}, y};
  }
}

// Returns them with the derivatives with respect to all columns of x.
template <Real S, class Layer>
MultiDual<S> dense_with_jacobian(Var<S> x, Activation act, std::size_t count, const Layer& layer) {
  return dense_with_jacobian(x, act, count, layer, x.cols());
}

// Calls f(k, block) for the derivatives along each direction of `blocks`.
template <class T, Real S, class F>
void for_each_direction(View<T> blocks, const MultiDual<S>& of, const F& f) {
  for (Index k = 0; k < of.directions; ++k) f(k, stacked(blocks, of, k + 1, of.rows));
}

}  // namespace detail

/// Returns the value of a MultiDual: N x C.
template <Real S>
Var<S> value_of(const MultiDual<S>& x) {
  Tape<S>& tape = x.tape();
  const Var<S> y = tape.make(x.rows, x.cols(), x.blocks.requires_grad());
  math::copy(tape.mutable_value(y), detail::stacked(x.blocks.value(), x, 0, x.rows));
  if (y.requires_grad())
    tape.on_backward({y}, [x, y] {
      const GradTarget<S> target = detail::zeroed_target(x.blocks);
      math::map_add(
          detail::stacked(target.grad, x, 0, x.rows), false, [](auto g) { return g; }, y.grad());
    });
  return y;
}

/// Returns log|det(I + J)| for the Jacobian J = dg/dz of g (N x D with D directions): N x 1.
template <Real S>
Var<S> log_det_identity_plus(const MultiDual<S>& g) {
  Tape<S>& tape = g.tape();
  const Index rows = g.rows, dim = g.cols(), pitch = g.pitch();
  require(g.directions == dim, "log_det_identity_plus: ", dim, " columns and ", g.directions, " directions");
  const Var<S> y = tape.make(rows, 1, g.blocks.requires_grad());
  S* log_det = tape.allocate_values(pitch);
  S* inverse = tape.allocate_values(pitch * dim * dim);
  const View<const S> blocks = g.blocks.value();
  math::invert_batch<S>(
      rows, dim, [&](Index i, Index j) { return blocks.col(i) + (j + 1) * pitch; }, S(1),
      [&](Index i, Index j) { return inverse + (i * dim + j) * pitch; }, log_det,
      tape.allocate_values(math::invert_batch_workspace(dim)),
      tape.template allocate<Index>(static_cast<std::size_t>(dim)));
  std::copy_n(log_det, rows, tape.mutable_value(y).data);
  if (y.requires_grad())
    tape.on_backward({y}, [g, y, inverse] {
      // d log|det A| = tr(A^-1 dA)
      const GradTarget<S> target = detail::zeroed_target(g.blocks);
      const Index at = g.pitch(), d = g.cols();
      for (Index i = 0; i < d; ++i)
        for (Index j = 0; j < d; ++j) {
          S* to = target.grad.col(i) + (j + 1) * at;
          simd::transform<S>(
              g.rows, to, [](auto sum, auto seed, auto entry) { return simd::mul_add<S>(seed, entry, sum); }, to,
              y.grad().data, inverse + (j * d + i) * at);
        }
    });
  return y;
}

/// Returns x scale + shift, where scale and shift (N x C) do not depend on the directions. An empty Var for scale means
/// 1.
template <Real S>
MultiDual<S> scale_shift(const MultiDual<S>& x, Var<S> scale, Var<S> shift) {
  Tape<S>& tape = x.tape();
  const auto fits = [&x](Var<S> v) { return v.rows() == x.rows && v.cols() == x.cols(); };
  require((!scale || fits(scale)) && fits(shift), "scale_shift: scale and shift must be ", x.rows, " x ", x.cols());
  const MultiDual<S> y{tape.make(x.blocks.rows(), x.cols(),
                                 x.blocks.requires_grad() || shift.requires_grad() || (scale && scale.requires_grad())),
                       x.rows, x.directions};
  const View<S> out = tape.mutable_value(y.blocks);
  if (scale)
    for (Index k = 0; k <= x.directions; ++k)
      math::map(
          detail::stacked(out, y, k, x.rows), [](auto v, auto s) { return v * s; },
          detail::stacked(x.blocks.value(), x, k, x.rows), scale.value());
  else
    math::copy(out, x.blocks.value());
  math::map_add(
      detail::stacked(out, y, 0, x.rows), false, [](auto v) { return v; }, shift.value());
  if (y.blocks.requires_grad())
    tape.on_backward({y.blocks}, [x, y, scale, shift] {
      const View<const S> g = y.blocks.grad();
      add_grad(
          shift, [](auto v) { return v; }, detail::stacked(g, y, 0, y.rows));
      if (!scale)
        return add_grad(
            x.blocks, [](auto v) { return v; }, g);
      for (Index k = 0; k <= x.directions; ++k)
        add_grad(
            scale, [](auto a, auto b) { return a * b; }, detail::stacked(g, y, k, y.rows),
            detail::stacked(x.blocks.value(), x, k, x.rows));
      if (!x.blocks.requires_grad()) return;
      const GradTarget<S> target = x.tape().grad_target(x.blocks);
      for (Index k = 0; k <= x.directions; ++k)
        math::map_add(
            detail::stacked(target.grad, x, k, x.rows), target.assign, [](auto a, auto b) { return a * b; },
            detail::stacked(g, y, k, y.rows), scale.value());
    });
  return y;
}

/// Returns the trace of the Jacobian of g (N x D with D directions): N x 1.
template <Real S>
Var<S> trace_of(const MultiDual<S>& g) {
  Tape<S>& tape = g.tape();
  require(g.directions == g.cols(), "trace_of: ", g.cols(), " columns and ", g.directions, " directions");
  const Var<S> y = tape.make(g.rows, 1, g.blocks.requires_grad());
  const View<S> out = tape.mutable_value(y);
  detail::for_each_direction(g.blocks.value(), g, [&](Index k, View<const S> block) {
    math::map_add(
        out, k == 0, [](auto v) { return v; }, block.cols_block(k, 1));
  });
  if (y.requires_grad())
    tape.on_backward({y}, [g, y] {
      const GradTarget<S> target = detail::zeroed_target(g.blocks);
      detail::for_each_direction(target.grad, g, [&](Index k, View<S> block) {
        math::map_add(
            block.cols_block(k, 1), false, [](auto v) { return v; }, y.grad());
      });
    });
  return y;
}

/// Returns the squared Frobenius norm of the Jacobian of each row: N x 1.
template <Real S>
Var<S> squared_norm_of(const MultiDual<S>& g) {
  Tape<S>& tape = g.tape();
  const Var<S> y = tape.make(g.rows, 1, g.blocks.requires_grad());
  const View<S> out = tape.mutable_value(y);
  math::map(out, [] { return simd::Vec<S>{}; });
  detail::for_each_direction(g.blocks.value(), g, [&](Index, View<const S> block) {
    for (Index j = 0; j < block.cols; ++j)
      math::map(
          out, [](auto sum, auto v) { return simd::mul_add<S>(v, v, sum); }, View<const S>(out),
          block.cols_block(j, 1));
  });
  if (y.requires_grad())
    tape.on_backward({y}, [g, y] {
      const GradTarget<S> target = detail::zeroed_target(g.blocks);
      detail::for_each_direction(target.grad, g, [&](Index k, View<S> block) {
        const View<const S> value = detail::stacked(g.blocks.value(), g, k + 1, g.rows);
        for (Index j = 0; j < block.cols; ++j)
          math::map_add(
              block.cols_block(j, 1), false, [](auto a, auto v) { return (a + a) * v; }, y.grad(),
              value.cols_block(j, 1));
      });
    });
  return y;
}

}  // namespace diffeo::inline DIFFEO_ISA
