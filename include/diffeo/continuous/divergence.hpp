// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/lift.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/autodiff/ops/row_dot.hpp>
#include <diffeo/continuous/hutch_plus_plus.hpp>
#include <diffeo/continuous/hutchinson.hpp>
#include <diffeo/continuous/vector_field.hpp>
#include <diffeo/layers/pass.hpp>
#include <variant>

/// Divergences of vector fields, the traces of their Jacobians J = dv/dx, exact or estimated. All are differentiable
/// with respect to the parameters, x and t.
namespace diffeo::inline DIFFEO_ISA {

/// Exact divergence, computed by one of two methods.
///
/// Closed form: with one or two hidden layers the cost does not grow with D. Let J = W3 D2 W2 D1 W1, where D1 and D2
/// are diagonal matrices with the slopes d1 and d2 of the activations. Then tr J = d2' M d1 with M = W2 o (W1 W3)',
/// where o is the elementwise product. M is computed once for many evaluations, each of which costs one product of the
/// size of that of the second hidden layer. With one hidden layer tr J = d1' w, w_k = sum_i W2_ik W1_ki.
///
/// Tangents: the derivatives along all D directions are computed with the velocity, in one batch for dense fields, and
/// one direction after another for other fields.
///
/// | method      | used for                                                                                           |
/// |-------------|----------------------------------------------------------------------------------------------------|
/// | automatic   | any field: closed_form if the field has one and |J|_F is not requested, otherwise tangents         |
/// | closed_form | MlpField with one or two hidden layers; ConcatSquashField with one, or with two and ungated output |
/// | tangents    | any field                                                                                          |
struct ExactDivergence {
  enum class Method { automatic, closed_form, tangents };
  Method method = Method::automatic;

  friend const char* to_string(Method m) {
    return m == Method::automatic ? "automatic" : m == Method::closed_form ? "closed_form" : "tangents";
  }

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "exact", "method", self.method);
  }

  /// Does nothing: every value of the option is valid.
  void check() const {}
};

/// The ways to compute or estimate a divergence.
using Divergence = std::variant<ExactDivergence, HutchinsonDivergence, HutchPlusPlusDivergence>;

/// Quantities to compute with the velocity of a field.
///
/// | option     | default | quantity                                                                            |
/// |------------|---------|-------------------------------------------------------------------------------------|
/// | divergence | true    | tr J                                                                                |
/// | kinetic    | false   | |v|^2                                                                               |
/// | frobenius  | false   | |J|_F^2: exact with ExactDivergence, otherwise estimated by the divergence's probes |
struct FieldTerms {
  bool divergence = true;
  bool kinetic = false;
  bool frobenius = false;
};

/// Value of a field at N points. Quantities that were not requested are empty.
template <Real S>
struct FieldValue {
  Var<S> velocity;    ///< v, N x D
  Var<S> divergence;  ///< tr J, N x 1
  Var<S> kinetic;     ///< |v|^2, N x 1
  Var<S> frobenius;   ///< |J|_F^2, N x 1
};

namespace detail {

inline constexpr const char* frobenius_not_in_closed_form =
    "divergence: the closed form does not give the Frobenius norm";

// Returns the matrix M of the closed form: tr J = slopes[1]' M slopes[0], or M slopes[0] if the second slope is 1.
template <DenseField F, Real S>
Var<S> closed_form_matrix(Tape<S>& tape, const F& field) {
  const Var<S> first = field.weights(tape, 0), second = field.weights(tape, 1);
  if (field.layer_count() == 3) return second * transposed(matmul(first, field.weights(tape, 2)));
  const Var<S> m = second * transposed(first);
  return field.gates_output() ? m : sum_rows(m);
}

template <class F>
bool has_closed_form(const F& field) {
  if constexpr (DenseField<F>)
    return field.layer_count() == 2 || (field.layer_count() == 3 && !field.gates_output());
  else
    return false;
}

}  // namespace detail

/// A field whose parameters are variables of a tape, prepared by prepare_field(). It holds quantities that many
/// evaluations share, which are recorded on the tape too. fields() and rebind() allow a copy on another tape.
///
/// A context is prepared likewise: as the bias of the first layer where the field takes it so (see TakesContextAsBias),
/// otherwise as it is. A prepared context has as many rows as the context, one for all samples or one for each.
/// Gradients reach the context and its weights through it.
template <VectorField Field>
struct PreparedField {
  using Scalar = typename Field::Scalar;
  using S = Scalar;

  Field field;                 ///< the field, with parameters of type Var<S>
  std::vector<Var<S>> closed;  ///< the matrix M of the closed form if that is used, otherwise empty
  Divergence divergence;
  std::vector<Var<S>> context = {};  ///< the prepared context, empty where there is none

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("field", self.field, "closed", self.closed, "context", self.context);
  }
  template <class U>
  PreparedField rebind() const {
    static_assert(std::is_same_v<U, Var<S>>, "a prepared field has variables for parameters");
    return {field.template rebind<U>(), std::vector<Var<S>>(closed.size()), divergence,
            std::vector<Var<S>>(context.size())};
  }

  Index dim() const { return field.dim(); }

  /// Returns the number of columns of noise that operator() needs; 0 for the exact divergence.
  Index noise_columns() const { return probe_counts().total() * dim(); }

  /// Draws the probes of each row by the noise of the pass (see Pass::noise), for a solve that starts at (t, x) and
  /// uses the same probes throughout. x: N x D, noise: N x noise_columns(). A prepared context has one row or N.
  void draw_noise(Tape<S>& tape, double t, View<const S> x, View<S> noise, const Pass<S>& pass = {}) const {
    require(x.cols == dim(), "draw_noise: x has ", x.cols, " columns, this field has dimension ", dim());
    require(noise.rows == x.rows && noise.cols == noise_columns(), "draw_noise: the noise is ", noise.rows, " x ",
            noise.cols, ", expected ", x.rows, " x ", noise_columns());
    if (const auto* hutchinson = std::get_if<HutchinsonDivergence>(&divergence))
      detail::draw_probes(hutchinson->distribution, hutchinson->seed, 0, hutchinson->probes, x, noise, pass);
    else if (const auto* plus = std::get_if<HutchPlusPlusDivergence>(&divergence))
      draw_hutch_plus_plus(*plus, tape, t, x, noise, pass);
  }

  /// Returns the velocity at times t (N x 1) and points x (N x D): N x D. `rows` as in operator().
  Var<S> velocity(const Var<S>& t, const Var<S>& x, const Var<S>& rows = {}) const {
    return velocity_of(field, t, x, context_for(rows));
  }

  /// Returns the velocity at times t (N x 1) and points x (N x D) with the requested terms. `noise` holds what
  /// draw_noise() drew, N x noise_columns(), as constants; it may be empty if there are no such columns, or if neither
  /// the divergence nor |J|_F is requested. Throws invalid_argument for noise of another shape, and if |J|_F is
  /// requested with the closed form. `rows` takes the place of the prepared context where it is not empty: those of its
  /// rows that belong to x.
  FieldValue<S> operator()(const Var<S>& t, const Var<S>& x, const Var<S>& noise, const FieldTerms& terms = {},
                           const Var<S>& rows = {}) const {
    const Var<S> c = context_for(rows);
    FieldValue<S> value;
    if (!terms.divergence && !terms.frobenius) {
      value.velocity = velocity_of(field, t, x, c);
    } else if (const Index columns = noise_columns(); columns > 0) {
      require(noise && noise.rows() == x.rows() && noise.cols() == columns, "divergence: the noise is ",
              noise ? noise.rows() : 0, " x ", noise ? noise.cols() : 0, ", expected ", x.rows(), " x ", columns);
      value = estimated(t, x, c, noise, terms);
    } else if (!closed.empty() && !terms.frobenius) {
      value = by_closed_form(t, x, c);
    } else {
      require(std::get<ExactDivergence>(divergence).method != ExactDivergence::Method::closed_form,
              terms.frobenius ? detail::frobenius_not_in_closed_form : "divergence: the field was not prepared for it");
      value = by_tangents(t, x, c, terms);
    }
    if (terms.kinetic) value.kinetic = row_dot(value.velocity, value.velocity);
    return value;
  }

 private:
  // ---- the field with a prepared context c, which may be empty ----
  Var<S> context_for(const Var<S>& rows) const { return rows || context.empty() ? rows : context.front(); }

  template <class X>
  static X velocity_of(const Field& field, const X& t, const X& x, const Var<S>& c) {
    if constexpr (TakesContextAsBias<Field>) {
      if (c) return field.with_bias(t, x, c);
    } else if constexpr (TakesContext<Field>) {
      if (c) return field(t, x, detail::row_for_each(c, x.rows()));
    }
    return field(t, x);
  }
  static Linearised<S> linearised(const Field& field, const Var<S>& t, const Var<S>& x, const Var<S>& c)
    requires DenseField<Field>
  {
    if constexpr (TakesContextAsBias<Field>)
      return field.linearised(t, x, c);
    else
      return field.linearised(t, x);
  }

  // ---- exact ----
  FieldValue<S> by_closed_form(const Var<S>& t, const Var<S>& x, const Var<S>& c) const {
    FieldValue<S> value;
    if constexpr (DenseField<Field>) {
      const Linearised<S> at = linearised(field, t, x, c);
      value.velocity = at.value;
      value.divergence = linear(at.slopes[0], closed.front());
      if (at.slopes[1]) value.divergence = row_dot(at.slopes[1], value.divergence);
    }
    return value;
  }

  FieldValue<S> by_tangents(const Var<S>& t, const Var<S>& x, const Var<S>& c, const FieldTerms& terms) const {
    FieldValue<S> value;
    if constexpr (DenseField<Field>) {
      const MultiDual<S> g = [&] {
        if constexpr (TakesContextAsBias<Field>)
          return field.with_jacobian(t, x, c);
        else
          return field.with_jacobian(t, x);
      }();
      value.velocity = value_of(g);
      if (terms.divergence) value.divergence = trace_of(g);
      if (terms.frobenius) value.frobenius = squared_norm_of(g);
    } else {
      for (Index k = 0; k < dim(); ++k) {
        const Var<S> direction = zeros(x, dim());
        math::map(x.tape().mutable_value(direction).cols_block(k, 1), [] { return simd::broadcast<S>(1); });
        const Dual<Var<S>> v = along(field, t, x, c, direction);
        if (k == 0) value.velocity = v.value;
        if (terms.divergence) add(value.divergence, cols(v.tangent, k, 1));
        if (terms.frobenius) add(value.frobenius, row_dot(v.tangent, v.tangent));
      }
    }
    return value;
  }

  static Dual<Var<S>> along(const Field& field, const Var<S>& t, const Var<S>& x, const Var<S>& c,
                            const Var<S>& direction) {
    return velocity_of(field, Dual<Var<S>>{t, zeros(t, 1)}, Dual<Var<S>>{x, direction}, c);
  }

  static void add(Var<S>& sum, const Var<S>& term) { sum = sum ? sum + term : term; }

  // ---- estimates ----
  ProbeCounts probe_counts() const {
    if (const auto* hutchinson = std::get_if<HutchinsonDivergence>(&divergence)) return {0, hutchinson->probes};
    const auto* plus = std::get_if<HutchPlusPlusDivergence>(&divergence);
    return plus ? plus->counts(dim()) : ProbeCounts{};
  }

  FieldValue<S> estimated(const Var<S>& t, const Var<S>& x, const Var<S>& c, const Var<S>& noise,
                          const FieldTerms& terms) const {
    const ProbeCounts counts = probe_counts();
    FieldValue<S> value;
    [[maybe_unused]] Linearised<S> at;
    if constexpr (DenseField<Field>) {
      at = linearised(field, t, x, c);
      value.velocity = at.value;
    }
    // Sums over the random vectors first, divided by their number before the others are added.
    const S share = counts.random > 1 ? S(1) / static_cast<S>(counts.random) : S(1);
    for (Index i = counts.total(); i-- > 0;) {
      const Var<S> e = cols(noise, i * dim(), dim());
      Var<S> moved;
      if constexpr (DenseField<Field>) {
        moved = at.forward(e);
      } else {
        const Dual<Var<S>> v = along(field, t, x, c, e);
        moved = v.tangent;
        if (!value.velocity) value.velocity = v.value;
      }
      if (terms.divergence) add(value.divergence, row_dot(moved, e));
      if (terms.frobenius) add(value.frobenius, row_dot(moved, moved));
      if (i == counts.orthonormal && share != S(1)) {
        if (terms.divergence) value.divergence = value.divergence * share;
        if (terms.frobenius) value.frobenius = value.frobenius * share;
      }
    }
    return value;
  }

  // ---- noise ----
  void draw_hutch_plus_plus(const HutchPlusPlusDivergence& of, Tape<S>& tape, double t, View<const S> x, View<S> noise,
                            const Pass<S>& pass) const {
    detail::draw_sketch(of, x, noise, pass);
    const ProbeCounts counts = of.counts(dim());
    if (counts.random == 0) return;
    const auto mark = tape.mark();
    const Var<S> point = tape.constant(x), time = tape.make(x.rows, 1, false);
    math::map(tape.mutable_value(time), [t] { return simd::broadcast<S>(static_cast<S>(t)); });
    Field& constants = tape.pooled_copy(field);
    for_each_leaf_pair(field, constants, tape.template allocate<const Var<S>*>(leaf_count(field)),
                       [&tape](LeafKind, const Var<S>& from, Var<S>& to) { to = tape.constant(from.value()); });
    [[maybe_unused]] Linearised<S> at;
    const Var<S> c = context.empty() ? Var<S>() : tape.constant(context.front().value());
    if constexpr (DenseField<Field>) at = linearised(constants, time, point, c);
    detail::orthonormalise_sketch(tape, counts, dim(), noise, [&](const Var<S>& v) {
      if constexpr (DenseField<Field>)
        return at.forward(v);
      else
        return along(constants, time, point, c, v).tangent;
    });
    tape.release(mark);
  }
};

/// Prepares a field for evaluations on `tape`. Its parameters may be arrays, which become constants and must outlive
/// the values of the tape, or variables of the tape. `prepared` must come from a field of the same structure; it is
/// overwritten, and its memory reused. A field that takes a context needs it, N x C or 1 x C; others ignore it. Throws
/// invalid_argument for options out of range, if the closed form is requested for a field that has none or together
/// with |J|_F, and if the context is missing or has another number of columns than the field takes.
template <Real S, class F, class Lifted>
void prepare_field(Tape<S>& tape, const F& field, const Divergence& divergence, const FieldTerms& terms,
                   PreparedField<Lifted>& prepared, const Var<S>& context = {}) {
  using Method = ExactDivergence::Method;
  std::visit([](const auto& of) { of.check(); }, divergence);
  prepared.divergence = divergence;
  prepared.closed.clear();
  for_each_leaf_pair(field, prepared.field, tape.template allocate<const leaf_t<F>*>(leaf_count(field)),
                     [&tape](LeafKind, const auto& from, Var<S>& to) { to = as_var(tape, from); });
  prepared.context.clear();
  if (const Index columns = context_dim(field); columns > 0) {
    require_context("field", context, context ? context.rows() : 0, columns);
    if constexpr (TakesContextAsBias<Lifted>)
      prepared.context.push_back(prepared.field.context_bias(context));
    else if constexpr (TakesContext<Lifted>)
      prepared.context.push_back(context);
    else
      throw invalid_argument("field: its parts take a context, but it has no operator()(t, x, c)");
  }
  const auto* exact = std::get_if<ExactDivergence>(&divergence);
  if (!exact) return;
  const bool applies = detail::has_closed_form(prepared.field);
  if (exact->method == Method::closed_form) {
    require(applies,
            "divergence: the closed form was asked for; it is known for dense fields with one or two hidden layers, "
            "with two only where the output is not gated");
    require(!terms.frobenius, detail::frobenius_not_in_closed_form);
  }
  if constexpr (DenseField<Lifted>)
    if (applies && exact->method != Method::tangents && terms.divergence && !terms.frobenius)
      prepared.closed.push_back(detail::closed_form_matrix(tape, prepared.field));
}

/// Returns a field prepared for evaluations on `tape`, in new memory; otherwise like the overload that overwrites one.
template <Real S, class F>
auto prepare_field(Tape<S>& tape, const F& field, const Divergence& divergence, const FieldTerms& terms = {},
                   const Var<S>& context = {}) {
  PreparedField<decltype(field.template rebind<Var<S>>())> prepared{
      field.template rebind<Var<S>>(), {}, divergence, {}};
  prepare_field(tape, field, divergence, terms, prepared, context);
  return prepared;
}

}  // namespace diffeo::inline DIFFEO_ISA
