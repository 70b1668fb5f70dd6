// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <diffeo/nn/context.hpp>
#include <diffeo/nn/jacobian.hpp>
#include <diffeo/nn/linearised.hpp>

/// Vector fields dx/dt = f(t, x), from which continuous flows are made.
namespace diffeo::inline DIFFEO_ISA {

/// A vector field on R^D that depends on time. Each row has a time of its own.
///
/// | expression         | type                         | meaning                                            |
/// |--------------------|------------------------------|----------------------------------------------------|
/// | f.dim()            | Index                        | D                                                  |
/// | f(t, x)            | Var<S>                       | the velocity, N x D; t: N x 1, x: N x D            |
/// | f(t, x)            | Dual<Var<S>>                 | velocity with its derivative along a tangent       |
/// | F::fields(f)       | fields(name, reference, ...) | parameters, buffers and parts                      |
/// | f.rebind<Var<S>>() | field over Var<S>            | the same structure with parameters still to be set |
///
/// A row's velocity must not depend on the other rows. Tangents are asked for because the divergence of a field of
/// unknown make is computed with them.
///
/// A field that depends on a context c is called as f(t, x, c) besides, with c: Var<S>, N x C, also where t and x are
/// Dual. C is f.context_dim(), or where there is no such member that of its parts (see context_dim()).
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

/// A vector field that may be called with a context.
template <class F>
concept TakesContext =
    VectorField<F> && requires(const F& f, const Var<typename F::Scalar>& v, const Dual<Var<typename F::Scalar>>& d) {
      { f(v, v, v) } -> std::same_as<Var<typename F::Scalar>>;
      { f(d, d, v) } -> std::same_as<Dual<Var<typename F::Scalar>>>;
    };

/// A field whose context c changes nothing but the bias of its first layer, which is prepared once for many
/// evaluations.
///
/// | expression               | type                 | meaning                                                    |
/// |--------------------------|----------------------|------------------------------------------------------------|
/// | f.context_bias(c)        | Var<S>               | b + c V' of the first layer, of as many rows as c (1 or N) |
/// | f.with_bias(t, x, b)     | Var<S>, Dual<Var<S>> | velocity with b for the bias of the first layer            |
/// | f.linearised(t, x, b)    | Linearised<S>        | the same as of a DenseField, with b                        |
/// | f.with_jacobian(t, x, b) | MultiDual<S>         | the same as of a DenseField, with b                        |
template <class F>
concept TakesContextAsBias =
    TakesContext<F> && requires(const F& f, const Var<typename F::Scalar>& v, const Dual<Var<typename F::Scalar>>& d) {
      { f.context_bias(v) } -> std::same_as<Var<typename F::Scalar>>;
      { f.with_bias(v, v, v) } -> std::same_as<Var<typename F::Scalar>>;
      { f.with_bias(d, d, v) } -> std::same_as<Dual<Var<typename F::Scalar>>>;
      { f.linearised(v, v, v) } -> std::same_as<Linearised<typename F::Scalar>>;
      { f.with_jacobian(v, v, v) } -> std::same_as<MultiDual<typename F::Scalar>>;
    };

/// A field that is a chain of dense layers: its Jacobian is known in factors, and its divergence in closed form where
/// at most two layers are hidden. One that takes a context takes it as a bias.
///
/// | expression            | type          | meaning                                                |
/// |-----------------------|---------------|--------------------------------------------------------|
/// | f.layer_count()       | std::size_t   | L, hidden layers and the last                          |
/// | f.weights(tape, i)    | Var<S>        | W[i], outputs x inputs; of the first, those of x alone |
/// | f.gates_output()      | bool          | whether the last layer has a slope of its own          |
/// | f.linearised(t, x)    | Linearised<S> | velocity (its value) and the factors of the Jacobian   |
/// | f.with_jacobian(t, x) | MultiDual<S>  | velocity and all columns of the Jacobian               |
template <class F>
concept DenseField =
    VectorField<F> && requires(const F& f, Tape<typename F::Scalar>& tape, const Var<typename F::Scalar>& v) {
      { f.layer_count() } -> std::convertible_to<std::size_t>;
      { f.weights(tape, std::size_t{0}) } -> std::same_as<Var<typename F::Scalar>>;
      { f.gates_output() } -> std::same_as<bool>;
      { f.linearised(v, v) } -> std::same_as<Linearised<typename F::Scalar>>;
      { f.with_jacobian(v, v) } -> std::same_as<MultiDual<typename F::Scalar>>;
    } && (TakesContextAsBias<F> || !TakesContext<F>);

namespace detail {

template <class X>
void require_point(const char* field, const X& t, const X& x, Index dim) {
  require(x.cols() == dim, field, ": x has ", x.cols(), " columns, this field has dimension ", dim);
  require(t.rows() == x.rows() && t.cols() == 1, field, ": t is ", t.rows(), " x ", t.cols(), ", expected ", x.rows(),
          " x 1");
}

// Returns a context, N x C or 1 x C, with a row for each of N samples.
template <Real S>
Var<S> row_for_each(const Var<S>& context, Index rows) {
  return broadcast_to(context, {rows, context.cols()});
}

// Throws where a field that takes a context of `dim` columns is to be evaluated without the bias that it makes of one.
template <Real S>
void require_context_bias(const char* field, const Var<S>& bias, Index dim) {
  require(bias || dim == 0, field, ": expected a context of ", dim, " columns, got none");
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
