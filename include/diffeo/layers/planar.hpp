// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/autodiff/ops/activation.hpp>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/implicit.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/layers/flow_sequence.hpp>
#include <diffeo/layers/planar_kernels.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/nn/context_shift.hpp>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

template <Real S>
struct PlanarParameters {
  Var<S> u, w, b;
};

// What the adjoint of a chain of planar maps keeps. All of it lies on the tape.
template <Real S>
struct PlanarChain {
  Var<S> in, out, log_det;
  const PlanarParameters<S>* parameters;
  const PlanarMap<S>* maps;
  std::size_t count;
  const S* activations;

  std::span<const PlanarMap<S>> all() const { return {maps, count}; }

  // Calls f<Kind, Dim>() for the kernels that are compiled: the plane, and any dimension.
  template <class F>
  static void dispatch(PlanarKind kind, Index dim, const F& f) {
    if (kind == PlanarKind::tanh)
      dim == 2 ? f.template operator()<PlanarKind::tanh, 2>() : f.template operator()<PlanarKind::tanh, 0>();
    else
      f.template operator()<PlanarKind::leaky_relu, 0>();
  }

  // Registers of state per kernel call for `blocks` blocks of D columns.
  static Index memory(Index blocks, Index dim) { return blocks * dim * planar_rows<S>; }

  template <bool Inverse>
  void adjoint(PlanarKind kind) const {
    Tape<S>& tape = in.tape();
    const Index dim = in.cols(), per_map = 2 * dim + 2;
    // Whole groups of as many registers as can be summed at once.
    const Index total = (static_cast<Index>(count) * per_map + simd::lanes<S> - 1) / simd::lanes<S> * simd::lanes<S>;
    const ScratchBuffer<S> sums_memory(tape, total * simd::lanes<S>), state(tape, memory(2, dim)), totals(tape, total);
    auto* const sums = ::new (static_cast<void*>(sums_memory.data())) simd::Vec<S>[static_cast<std::size_t>(total)];
    std::fill_n(sums, total, simd::Vec<S>{});
    const GradTarget<S> target = in.requires_grad() ? tape.grad_target(in) : GradTarget<S>{{}, false};
    const View<const S> g = out.has_grad() ? out.grad() : View<const S>{};
    dispatch(kind, dim, [&]<PlanarKind Kind, Index Dim>() {
      planar_adjoint<S, Kind, Inverse, Dim>(all(), out.value(), activations, g,
                                            log_det.has_grad() ? log_det.grad().data : nullptr, target.grad,
                                            target.assign, sums, state.data());
    });
    for (Index i = 0; i < total; i += simd::lanes<S>) simd::store<S>(totals.data() + i, simd::sum_lanes<S>(sums + i));
    for (std::size_t k = 0; k < count; ++k) add_parameter_gradients(k, totals.data() + static_cast<Index>(k) * per_map);
  }

  // Adds the gradients of the parameters of map k, given those of u', w, b and rise: u' = u + shift w, shift =
  // (softplus(-a) - 1) / |w|^2, rise = softplus(a), a = w.u.
  void add_parameter_gradients(std::size_t k, const S* of) const {
    const Index dim = in.cols();
    const PlanarMap<S>& map = maps[k];
    const PlanarParameters<S>& p = parameters[k];
    const S *u = p.u.value().data, *w = p.w.value().data;
    const Index u_stride = p.u.value().stride, w_stride = p.w.value().stride;
    double of_shift = 0;
    for (Index j = 0; j < dim; ++j) of_shift += static_cast<double>(of[j]) * static_cast<double>(w[j * w_stride]);
    const double of_a = static_cast<double>(of[2 * dim + 1]) * map.sigmoid + of_shift / map.square * (map.sigmoid - 1);
    const double of_square = -of_shift * map.shift / map.square;
    const auto add = [&](Var<S> x, const auto& value) {
      if (!x.requires_grad()) return;
      const GradTarget<S> target = x.tape().grad_target(x);
      for (Index j = 0; j < x.cols(); ++j) {
        S& to = *target.grad.col(j);
        to = static_cast<S>(value(j) + (target.assign ? 0.0 : static_cast<double>(to)));
      }
    };
    const auto at = [](const S* x, Index i) { return static_cast<double>(x[i]); };
    add(p.u, [&](Index j) { return at(of, j) + of_a * at(w, j * w_stride); });
    add(p.w, [&](Index j) {
      return at(of, dim + j) + at(of, j) * map.shift + of_a * at(u, j * u_stride) + 2 * of_square * at(w, j * w_stride);
    });
    add(p.b, [&](Index) { return at(of, 2 * dim); });
  }
};

/// Applies a sequence of planar maps as one op with two outputs.
template <bool Inverse, Real S>
Transformed<Var<S>> planar_chain(Var<S> in, const PlanarParameters<S>* parameters, std::size_t count, PlanarKind kind) {
  Tape<S>& tape = in.tape();
  const Index dim = in.cols(), rows = in.rows();
  bool requires_grad = in.requires_grad();
  auto* maps = tape.template allocate<PlanarMap<S>>(count);
  for (std::size_t k = 0; k < count; ++k) {
    const auto& [u, w, b] = parameters[k];
    requires_grad = requires_grad || u.requires_grad() || w.requires_grad() || b.requires_grad();
    S* const copies = tape.allocate_values(3 * dim);  // of u and w without the gaps of padded rows, and u'
    for (Index j = 0; j < dim; ++j) {
      copies[j] = *u.value().col(j);
      copies[dim + j] = *w.value().col(j);
    }
    maps[k] = planar_map<S>(copies, copies + dim, *b.value().data, dim, copies + 2 * dim);
  }
  const Var<S> out = tape.make(rows, dim, requires_grad), log_det = tape.make(rows, 1, requires_grad);
  const Index groups = (rows + planar_rows<S> - 1) / planar_rows<S>;
  S* const activations =
      requires_grad ? tape.allocate_values(groups * planar_rows<S> * static_cast<Index>(count)) : nullptr;
  const PlanarChain<S> chain{in, out, log_det, parameters, maps, count, activations};
  S* const state = tape.allocate_values(chain.memory(1, dim));
  chain.dispatch(kind, dim, [&]<PlanarKind Kind, Index Dim>() {
    planar_apply<S, Kind, Inverse, Dim>(chain.all(), in.value(), tape.mutable_value(out),
                                        tape.mutable_value(log_det).data, activations, state);
  });
  if (requires_grad) tape.on_backward({out, log_det}, [chain, kind] { chain.template adjoint<Inverse>(kind); });
  return {out, log_det};
}

}  // namespace detail

/// Planar layer x = z + u' h(w.z + b) (Rezende & Mohamed 2015, eq. 10 to 13), with h = tanh or leaky relu (slope 0.01).
/// It is invertible for all u and w, because u' = u + (m(a) - a) w / |w|^2 with a = w.u and m(a) = softplus(a) - 1
/// satisfies w.u' = m(a) > -1 (appendix A.1). The log-determinant log(1 + h' w.u') is computed as log((1 - h') + h'
/// softplus(a)), which does not cancel however close w.u' is to -1.
///
/// The inverse solves s + (w.u') h(s) = w.x + b, one equation per row, to the last few digits. Its derivatives follow
/// from the implicit function theorem. The errors of a round trip are due to rounding: forward(inverse(x)) = x to about
/// eps (|z| + |u' h|) (1 + |w| |u'|), and inverse(forward(z)) = z to about eps (|z| + |u' h|) (1 + |w| |u'| / d), where
/// d = 1 + h' w.u' is the determinant at z. For tanh d is as small as softplus(a) at s = 0 and grows with s^2; for
/// leaky relu it is softplus(a) at all s > 0.
///
/// With leaky relu the log-determinant is discontinuous at w.z + b = 0. The gradient of the mean over samples then
/// omits the contribution of samples at the discontinuity, so that it is not the gradient of the expectation. With tanh
/// it is.
///
/// With a context c the parameters of a sample are u + du / sqrt(1 + |du|^2 |w|^2 / 8^2), w + dw / sqrt(1 + |dw|^2 /
/// (0.9 |w|)^2) and b + db, where [du, dw, db] is a network's output at c. Since |w(c)| > |w| / 10, the layer is
/// invertible for every c. So that it is also in floating-point numbers, softplus(a) is no less than epsilon, which
/// w.u' does not resolve, and the inverse of leaky relu keeps |s| below the fourth root of the largest number.
///
/// forward() and inverse() throw invalid_argument if |w|^2 is smaller than the smallest normal number, because the
/// layer is then not defined.
template <class T>
struct Planar {
  using Scalar = scalar_t<T>;

  param_t<T> u;  ///< 1 x D
  param_t<T> w;  ///< 1 x D
  param_t<T> b;  ///< 1 x 1
  Activation activation = Activation::tanh;
  ContextShift<T> shift{};  ///< C -> 2 D + 1 values [du, dw, db]; empty for a layer without context

  static constexpr double suggested_learning_rate = 5e-3;

  Index dim() const { return w.cols(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("u", self.u, "w", self.w, "b", self.b, "shift", self.shift);
  }
  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "planar", "activation", self.activation);
  }
  template <class U>
  Planar<U> rebind() const {
    return {{}, {}, {}, activation, shift.template rebind<U>()};
  }

  /// Throws invalid_argument where the shapes of the parameters or the outputs of the context's network do not fit,
  /// where |w|^2 is NaN or too small, and for an activation that is not tanh or leaky_relu.
  void check() const {
    kind();
    check_shapes();
    if constexpr (Real<T>) {
      const Scalar square_norm = w.square().sum();
      require(square_norm >= std::numeric_limits<Scalar>::min(), "planar: |w|^2 is ", square_norm,
              ", expected w away from 0");
    }
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const {
    if constexpr (detail::is_var<X>) {
      if (shift.empty()) return chain<false>(std::span(this, 1), z);
    }
    check(z);
    const Reduced<Scalar> p = reduced(z, pass.context);
    const X h = bend(sum_cols(z * p.w) + p.b);
    return {z + h * p.u, log_det(h, p.rise)};
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const {
    if constexpr (detail::is_var<X>) {
      if (shift.empty()) return chain<true>(std::span(this, 1), x);
    }
    check(x);
    const Reduced<Scalar> p = reduced(x, pass.context);
    const X h = bend(solved(sum_cols(x * p.w) + p.b, p.rise));
    return {x - h * p.u, -log_det(h, p.rise)};
  }

  /// Applies the layers as one op, the first layer first; one by one where a layer takes a context. inverse_all()
  /// applies their inverses, the last layer first.
  template <Real S>
  static Transformed<Var<S>> forward_all(std::span<const Planar> layers, Var<S> z, const Pass<S>& pass = {}) {
    return take_context(layers) ? detail::forward_in_turn(layers, z, pass) : chain<false>(layers, z);
  }
  template <Real S>
  static Transformed<Var<S>> inverse_all(std::span<const Planar> layers, Var<S> x, const Pass<S>& pass = {}) {
    return take_context(layers) ? detail::inverse_in_turn(layers, x, pass) : chain<true>(layers, x);
  }

 private:
  // The parameters of a map, a row for all samples or one for each.
  template <class S>
  struct Reduced {
    Var<S> u;  // u'
    Var<S> w, b, rise;
  };

  static constexpr double longest_shift = 0.9;  // of w, relative to |w|
  static constexpr double longest_u_shift = 8;  // relative to 1 / |w|

  static bool take_context(std::span<const Planar> layers) {
    return std::any_of(layers.begin(), layers.end(), [](const Planar& layer) { return !layer.shift.empty(); });
  }

  detail::PlanarKind kind() const {
    require(activation == Activation::tanh || activation == Activation::leaky_relu, "planar: activation ",
            to_string(activation), ", expected tanh or leaky_relu");
    return activation == Activation::tanh ? detail::PlanarKind::tanh : detail::PlanarKind::leaky_relu;
  }

  template <Traced X>
  void check(const X& x) const {
    require(x.cols() == dim(), "planar: x has ", x.cols(), " columns, this layer has dimension ", dim());
    check_shapes();
  }
  void check_shapes() const {
    require(u.rows() == 1 && w.rows() == 1 && u.cols() == dim() && b.rows() == 1 && b.cols() == 1, "planar: u is ",
            u.rows(), " x ", u.cols(), ", w ", w.rows(), " x ", w.cols(), ", b ", b.rows(), " x ", b.cols(),
            ", expected 1 x D, 1 x D and 1 x 1");
    require(shift.empty() || shift.outputs() == 2 * dim() + 1, "planar: the network of the context has ",
            shift.outputs(), " outputs, expected ", 2 * dim() + 1);
  }

  // Runs of layers with one activation are an op each.
  template <bool Inverse, Real S>
  static Transformed<Var<S>> chain(std::span<const Planar> layers, Var<S> x) {
    const auto same = [&](const Planar& layer) {
      return layer.activation == (Inverse ? layers.back() : layers.front()).activation;
    };
    std::size_t length = 0;  // of the first run on the way
    while (length < layers.size() && same(Inverse ? layers[layers.size() - 1 - length] : layers[length])) ++length;
    if (length == layers.size()) return run<Inverse>(layers, x);
    const auto near = Inverse ? layers.last(length) : layers.first(length);
    const auto far = Inverse ? layers.first(layers.size() - length) : layers.subspan(length);
    const Transformed<Var<S>> half = run<Inverse>(near, x), rest = chain<Inverse>(far, half.value);
    return {rest.value, half.log_det + rest.log_det};
  }
  template <bool Inverse, Real S>
  static Transformed<Var<S>> run(std::span<const Planar> layers, Var<S> x) {
    Tape<S>& tape = x.tape();
    auto* parameters = tape.template allocate<detail::PlanarParameters<S>>(layers.size());
    for (std::size_t k = 0; k < layers.size(); ++k) {
      layers[k].check(x);
      parameters[k] = {as_var(tape, layers[k].u), as_var(tape, layers[k].w), as_var(tape, layers[k].b)};
    }
    return detail::planar_chain<Inverse>(x, parameters, layers.size(), layers[0].kind());
  }

  // The same in the op vocabulary, for tangents and for parameters that depend on a context.
  template <Traced X>
  Reduced<Scalar> reduced(const X& x, const Var<Scalar>& context) const {
    using S = Scalar;
    kind();
    auto& tape = x.tape();
    Var<S> u_var = as_var(tape, u), w_var = as_var(tape, w), b_var = as_var(tape, b);
    Var<S> square_norm = sum_cols(square(w_var));
    require(*square_norm.value().data >= std::numeric_limits<S>::min(), "planar: |w|^2 is ", *square_norm.value().data,
            ", expected w away from 0");
    if (!shift.empty()) {
      const Var<S> by = shift("planar", context, x.rows()), du = cols(by, 0, dim()), dw = cols(by, dim(), dim());
      u_var = u_var + detail::shortened(du, sum_cols(square(du)) * square_norm, longest_u_shift);
      w_var = w_var + detail::shortened(dw, sum_cols(square(dw)) / square_norm, longest_shift);
      b_var = b_var + cols(by, 2 * dim(), 1);
      square_norm = sum_cols(square(w_var));
    }
    const Var<S> a = sum_cols(u_var * w_var);
    using Limits = std::numeric_limits<S>;
    const Var<S> rise = clamp(softplus(a), shift.empty() ? Limits::min() : Limits::epsilon(), Limits::max());
    return {u_var + w_var * ((softplus(-a) - 1) / square_norm), w_var, b_var, rise};
  }
  template <Traced X>
  X bend(const X& s) const {
    if (activation == Activation::tanh) return tanh(s);
    return s * leaky(innermost(s));
  }
  template <Real S>
  static Var<S> leaky(Var<S> s) {
    constexpr S slope = static_cast<S>(detail::leaky_slope);
    return step(s) * (1 - slope) + slope;
  }
  template <Traced X, Real S>
  X log_det(const X& h, Var<S> rise) const {
    if (activation == Activation::tanh) return log(determinant(h, rise));
    const Var<S> slope = leaky(innermost(h));
    return zeros(h, 1) + log(slope * rise + (1 - slope));
  }
  template <Traced X, Real S>
  static X determinant(const X& h, Var<S> rise) {
    const X q = square(h);
    return (1 - q) * rise + q;
  }
  // s + (w.u') h(s) = t
  template <Traced X, Real S>
  X solved(const X& t, Var<S> rise) const {
    const View<const S> right = innermost(t).value();
    if (activation == Activation::leaky_relu) {
      const Var<S> slope = leaky(innermost(t));
      const X s = t / (slope * rise + (1 - slope));
      if (shift.empty()) return s;
      // Over the layers of a stack s could grow to infinity, of which the next layer would make NaN.
      const S most = std::sqrt(std::sqrt(std::numeric_limits<S>::max()));
      return clamp(s, -most, most);
    }
    const View<const S> rises = rise.value();
    const bool own_rise = rises.rows > 1;
    constexpr S least = std::numeric_limits<S>::min();
    const View<S> s{t.tape().allocate_values(right.rows), right.rows, 1, right.rows};
    for (Index first = 0; first < s.rows; first += detail::planar_rows<S>) {
      detail::Registers<S> held, rise_of;
      for (Index r = 0; r < detail::planar_group; ++r) {
        const Index row = first + r * simd::lanes<S>;
        held[r] = detail::load_rows<S>(right.data, row, s.rows);
        if (own_rise)
          rise_of[r] = simd::max<S>(detail::load_rows<S>(rises.data, row, s.rows), simd::broadcast<S>(least));
      }
      if (own_rise)
        detail::planar_root<S, detail::PlanarKind::tanh>(held, rise_of, first, s.rows);
      else
        detail::planar_root<S, detail::PlanarKind::tanh>(held, std::max(*rises.data, least), first, s.rows);
      for (Index r = 0; r < detail::planar_group; ++r)
        detail::store_rows<S>(s.data, first + r * simd::lanes<S>, s.rows, held[r]);
    }
    const auto residual = [](const auto& y, const auto& target, const auto& slope_at_0) {
      const auto h = tanh(y);
      return RootEquation<std::remove_cvref_t<decltype(h)>>{h * slope_at_0 + (y - h) - target,
                                                            determinant(h, slope_at_0)};
    };
    return implicit_root<X>(View<const S>(s), residual, t, rise);
  }
};

/// Returns a planar layer close to the identity: w has a random direction and length 1, b is standard normal, and u is
/// that of the identity, softplus(a) = 1, plus normal noise of standard deviation 0.1. With context_dim above 0 it
/// takes a context of as many columns, through a network that make_context_shift() makes. Throws invalid_argument for a
/// dimension below 1, for an activation other than tanh and leaky_relu, and for what make_context_shift() refuses.
template <Real S>
Planar<S> make_planar(Index dim, Activation activation = Activation::tanh, std::uint64_t seed = 0,
                      std::uint64_t stream = 0, Index context_dim = 0, const MlpOptions& network = {.hidden = {16}}) {
  require(dim >= 1, "make_planar: dimension ", dim, ", expected at least 1");
  require(activation == Activation::tanh || activation == Activation::leaky_relu, "make_planar: activation ",
          to_string(activation), ", expected tanh or leaky_relu");
  Array<S> random(2 * dim + 1, 1);
  fill_normal(view(random), seed, stream);
  Array<S> w = random.topRows(dim).transpose();
  const S length = std::sqrt(w.square().sum());
  if (length > 0)
    w /= length;
  else
    w(0, 0) = 1;
  constexpr S of_identity = static_cast<S>(0.54132485461291806);  // log(e - 1)
  const Array<S> u = w * of_identity + random.middleRows(dim, dim).transpose() * S(0.1);
  return {u, w, random.bottomRows(1), activation,
          make_context_shift<S>(context_dim, 2 * dim + 1, network, seed, stream)};
}

}  // namespace diffeo::inline DIFFEO_ISA
