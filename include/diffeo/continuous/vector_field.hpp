// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/autodiff/ops/multi_dual.hpp>
#include <diffeo/autodiff/ops/slope.hpp>
#include <diffeo/nn/concat_squash.hpp>
#include <diffeo/nn/mlp.hpp>

/// Vector fields dx/dt = f(t, x), from which continuous flows are made.
namespace diffeo::inline DIFFEO_ISA {

/// A vector field on R^D that depends on time. Each row has a time of its own.
///
/// | expression          | type                    | meaning                                               |
/// |---------------------|-------------------------|-------------------------------------------------------|
/// | f.dim()             | Index                   | D                                                     |
/// | f(t, x)             | Var<S>                  | the velocity, N x D; t: N x 1, x: N x D               |
/// | f(t, x)             | Dual<Var<S>>            | the same of Dual<Var<S>>: derivatives along tangents  |
/// | F::fields(f)        | std::tuple of references | parameters, buffers and parts                        |
/// | f.rebind<Var<S>>()  | field over Var<S>       | the same structure with parameters still to be set    |
///
/// A row's velocity must not depend on the other rows. Tangents are asked for because the divergence of a field of
/// unknown make is computed with them.
///
/// Models: MlpField, ConcatSquashField, FieldFunction.
template <class F, class S>
concept VectorFieldOf = Real<S> && requires(const F& f, F& m, const Var<S>& v, const Dual<Var<S>>& d) {
  { f.dim() } -> std::convertible_to<Index>;
  { f(v, v) } -> std::same_as<Var<S>>;
  { f(d, d) } -> std::same_as<Dual<Var<S>>>;
  F::fields(m);
  F::fields(f);
  f.template rebind<Var<S>>();
};

/// A vector field with the scalar it is made of.
template <class F>
concept VectorField = requires { typename F::Scalar; } && VectorFieldOf<F, typename F::Scalar>;

/// The velocity at given points, with the Jacobian there as a chain of factors: J = diag(slopes[L - 1]) W[L - 1] ...
/// diag(slopes[0]) W[0]. The last slope is an empty Var where it is 1.
template <Real S>
struct LinearisedField {
  Var<S> velocity;
  std::size_t count = 0;
  const Var<S>* weights = nullptr;
  const Var<S>* slopes = nullptr;

  /// J v, N x D.
  Var<S> times(Var<S> v) const {
    for (std::size_t i = 0; i < count; ++i) {
      v = linear(v, weights[i]);
      if (slopes[i]) v = v * slopes[i];
    }
    return v;
  }
};

/// A field that is a chain of dense layers: its Jacobian is known in factors, and its divergence in closed form where
/// at most two layers are hidden.
///
/// | expression              | type               | meaning                                                    |
/// |-------------------------|--------------------|------------------------------------------------------------|
/// | f.layer_count()         | std::size_t        | L, hidden layers and the last                              |
/// | f.weights(tape, i)      | Var<S>             | W[i], outputs x inputs; of the first, those of x alone     |
/// | f.gates_output()        | bool               | whether the last layer has a slope of its own              |
/// | f.linearised(t, x)      | LinearisedField<S> | velocity and the factors of the Jacobian                   |
/// | f.with_jacobian(t, x)   | MultiDual<S>       | velocity and all columns of the Jacobian                   |
template <class F>
concept DenseField =
    VectorField<F> && requires(const F& f, Tape<typename F::Scalar>& tape, const Var<typename F::Scalar>& v) {
      { f.layer_count() } -> std::convertible_to<std::size_t>;
      { f.weights(tape, std::size_t{0}) } -> std::same_as<Var<typename F::Scalar>>;
      { f.gates_output() } -> std::same_as<bool>;
      { f.linearised(v, v) } -> std::same_as<LinearisedField<typename F::Scalar>>;
      { f.with_jacobian(v, v) } -> std::same_as<MultiDual<typename F::Scalar>>;
    };

namespace detail {

template <class X>
void require_point(const char* field, const X& t, const X& x, Index dim) {
  require(x.cols() == dim, field, ": x has ", x.cols(), " columns, this field has dimension ", dim);
  require(t.rows() == x.rows() && t.cols() == 1, field, ": t is ", t.rows(), " x ", t.cols(), ", expected ", x.rows(),
          " x 1");
}

}  // namespace detail

/// A multi-layer perceptron of [x, t].
template <class T>
struct MlpField {
  using Scalar = scalar_t<T>;

  Mlp<T> network;  ///< D + 1 -> D; the last input is time

  Index dim() const { return network.layers.empty() ? 0 : network.layers.back().weight.rows(); }

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.network);
  }
  template <class U>
  MlpField<U> rebind() const {
    return {network.template rebind<U>()};
  }

  template <Traced X>
  X operator()(const X& t, const X& x) const {
    detail::require_point("MlpField", t, x, dim());
    return network(concat(x, t));
  }

  std::size_t layer_count() const { return network.layers.size(); }
  bool gates_output() const { return false; }
  Var<Scalar> weights(Tape<Scalar>& tape, std::size_t i) const {
    const Var<Scalar> w = as_var(tape, network.layers[i].weight);
    return i == 0 ? cols(w, 0, dim()) : w;
  }

  LinearisedField<Scalar> linearised(const Var<Scalar>& t, const Var<Scalar>& x) const {
    using S = Scalar;
    detail::require_point("MlpField", t, x, dim());
    Tape<S>& tape = x.tape();
    const std::size_t count = layer_count();
    auto* slopes = tape.template storage<Var<S>>(count);
    auto* matrices = tape.template storage<Var<S>>(count);
    Var<S> h = concat(x, t);
    for (std::size_t i = 0; i < count; ++i) {
      new (matrices + i) Var<S>(weights(tape, i));
      new (slopes + i) Var<S>();
      if (i + 1 == count) break;
      const auto [value, slope] =
          affine_with_slope(h, network.layers[i].weight, network.layers[i].bias, network.activation);
      h = value;
      slopes[i] = slope;
    }
    return {network.layers.back()(h), count, matrices, slopes};
  }

  MultiDual<Scalar> with_jacobian(const Var<Scalar>& t, const Var<Scalar>& x) const {
    detail::require_point("MlpField", t, x, dim());
    return detail::dense_with_jacobian<Scalar>(
        concat(x, t), network.activation, layer_count(),
        [&](std::size_t i) {
          return std::pair(as_var(x.tape(), network.layers[i].weight), as_var(x.tape(), network.layers[i].bias));
        },
        dim());
  }
};

/// A network of `options` from [x, t] to velocities. Without options last_scale is 1: velocities of order 1, as other
/// libraries begin. MlpOptions' own default, 0.01, begins with a flow close to the identity instead. Throws
/// invalid_argument for a dimension below 1, and as make_mlp does.
template <Real S>
MlpField<S> make_mlp_field(Index dim, const MlpOptions& options = {.last_scale = 1}, std::uint64_t seed = 0,
                           std::uint64_t stream = 0) {
  require(dim >= 1, "make_mlp_field: dim is ", dim, ", expected at least 1");
  return {make_mlp<S>(dim + 1, dim, options, seed, stream)};
}

/// Layers that time gates and shifts (FFJORD). Where `gate_output` is false, the last layer is shifted only: unlike in
/// FFJORD, which gates it too, the divergence of a field of two hidden layers then has a closed form.
template <class T>
struct ConcatSquashField {
  using Scalar = scalar_t<T>;

  std::vector<ConcatSquash<T>> layers;
  Activation activation = Activation::tanh;
  bool gate_output = false;

  Index dim() const { return layers.empty() ? 0 : layers.back().dense.weight.rows(); }

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.layers);
  }
  template <class U>
  ConcatSquashField<U> rebind() const {
    return {std::vector<ConcatSquash<U>>(layers.size()), activation, gate_output};
  }

  template <Traced X>
  X operator()(const X& t, X x) const {
    detail::require_point("ConcatSquashField", t, x, dim());
    for (std::size_t i = 0; i + 1 < layers.size(); ++i) x = activate(activation, layers[i](t, x));
    return gate_output ? layers.back()(t, x) : layers.back().ungated(t, x);
  }

  std::size_t layer_count() const { return layers.size(); }
  bool gates_output() const { return gate_output; }
  Var<Scalar> weights(Tape<Scalar>& tape, std::size_t i) const { return as_var(tape, layers[i].dense.weight); }

  LinearisedField<Scalar> linearised(const Var<Scalar>& t, Var<Scalar> x) const {
    using S = Scalar;
    detail::require_point("ConcatSquashField", t, x, dim());
    Tape<S>& tape = x.tape();
    const std::size_t count = layers.size();
    auto* slopes = tape.template storage<Var<S>>(count);
    auto* matrices = tape.template storage<Var<S>>(count);
    for (std::size_t i = 0; i < count; ++i) {
      new (matrices + i) Var<S>(weights(tape, i));
      const bool last = i + 1 == count;
      const Var<S> gate = last && !gate_output ? Var<S>() : sigmoid(layers[i].gate(t));
      x = layers[i].dense(x);
      x = (gate ? x * gate : x) + linear(t, layers[i].shift);
      new (slopes + i) Var<S>(gate);
      if (last) break;
      const auto [value, slope] = activate_with_slope(activation, x);
      x = value;
      slopes[i] = slope * gate;
    }
    return {x, count, matrices, slopes};
  }

  MultiDual<Scalar> with_jacobian(const Var<Scalar>& t, const Var<Scalar>& x) const {
    using S = Scalar;
    detail::require_point("ConcatSquashField", t, x, dim());
    Tape<S>& tape = x.tape();
    detail::HiddenInput<S> in{x, detail::identity_matrix(tape, dim()), {}};
    MultiDual<S> y;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      y = detail::hidden_product(in, i == 0 ? Activation::identity : activation, weights(tape, i),
                                 as_var(tape, layers[i].dense.bias));
      const bool gated = i + 1 < layers.size() || gate_output;
      y = scale_shift(y, gated ? sigmoid(layers[i].gate(t)) : Var<S>(), linear(t, layers[i].shift));
      in = {{}, {}, y};
    }
    return y;
  }
};

/// | option         | type                 | default                                                   |
/// |----------------|----------------------|-----------------------------------------------------------|
/// | hidden         | widths of the layers | {64, 64}                                                  |
/// | activation     | Activation           | tanh                                                      |
/// | initialisation | Initialisation       | by default_initialisation(), of the dense weights         |
/// | last_scale     | factor on the last layer's dense weights and shifts | 1: velocities of order 1   |
/// | gate_output    | bool                 | false; true as in FFJORD, see ConcatSquashField           |
struct ConcatSquashOptions {
  std::vector<Index> hidden = {64, 64};
  Activation activation = Activation::tanh;
  std::optional<Initialisation> initialisation = std::nullopt;
  double last_scale = 1;
  bool gate_output = false;
};

/// A fresh field. Throws invalid_argument for a dimension or width below 1 or a scale that is not finite.
template <Real S>
ConcatSquashField<S> make_concat_squash_field(Index dim, const ConcatSquashOptions& options = {},
                                              std::uint64_t seed = 0, std::uint64_t stream = 0) {
  require(dim >= 1, "make_concat_squash_field: dim is ", dim, ", expected at least 1");
  require(std::isfinite(options.last_scale), "make_concat_squash_field: last_scale is ", options.last_scale,
          ", expected a finite value");
  const Initialisation how = options.initialisation.value_or(default_initialisation(options.activation));
  ConcatSquashField<S> field{{}, options.activation, options.gate_output};
  Index inputs = dim;
  const auto add = [&](Index outputs) {
    field.layers.push_back(make_concat_squash<S>(inputs, outputs, how, seed, stream));
    stream += 3;
    inputs = outputs;
  };
  for (const Index width : options.hidden) {
    require(width > 0, "make_concat_squash_field: a hidden layer has width ", width, ", expected at least 1");
    add(width);
  }
  add(dim);
  field.layers.back().dense.weight *= static_cast<S>(options.last_scale);
  field.layers.back().shift *= static_cast<S>(options.last_scale);
  return field;
}

/// A field without parameters from a function f(t, x) over the op vocabulary, for instance
///
///     make_field<double>(2, [](const auto& t, const auto& x) { return x * sin(t) - 1; });
///
/// t (N x 1) and x (N x D) are both Var or both Dual<Var>, and so must be the result, N x D. A field with parameters of
/// its own is a structure that models VectorField.
template <class T, class F>
struct FieldFunction {
  using Scalar = scalar_t<T>;

  Index dimension = 0;
  F function;

  Index dim() const { return dimension; }

  template <class Self>
  static auto fields(Self&) {
    return std::tuple();
  }
  template <class U>
  FieldFunction<U, F> rebind() const {
    return {dimension, function};
  }

  template <Traced X>
  X operator()(const X& t, const X& x) const {
    detail::require_point("FieldFunction", t, x, dimension);
    const X v = function(t, x);
    require(v.rows() == x.rows() && v.cols() == dimension, "FieldFunction: the function gave ", v.rows(), " x ",
            v.cols(), ", expected ", x.rows(), " x ", dimension);
    return v;
  }
};

template <Real S, class F>
FieldFunction<S, F> make_field(Index dim, F function) {
  require(dim >= 1, "make_field: dim is ", dim, ", expected at least 1");
  return {dim, std::move(function)};
}

}  // namespace diffeo::inline DIFFEO_ISA
