// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
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

/// A field that is a chain of dense layers: its Jacobian is known in factors, and its divergence in closed form where
/// at most two layers are hidden.
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
    };

namespace detail {

template <class X>
void require_point(const char* field, const X& t, const X& x, Index dim) {
  require(x.cols() == dim, field, ": x has ", x.cols(), " columns, this field has dimension ", dim);
  require(t.rows() == x.rows() && t.cols() == 1, field, ": t is ", t.rows(), " x ", t.cols(), ", expected ", x.rows(),
          " x 1");
}

}  // namespace detail

}  // namespace diffeo::inline DIFFEO_ISA
