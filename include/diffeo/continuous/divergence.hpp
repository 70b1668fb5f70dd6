// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/lift.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/autodiff/ops/row_dot.hpp>
#include <diffeo/continuous/vector_field.hpp>
#include <diffeo/layers/pass.hpp>
#include <limits>
#include <variant>

/// Divergences of vector fields: the traces of their Jacobians J in x. Exact or estimated, all give gradients with
/// respect to parameters, x and t.
namespace diffeo::inline DIFFEO_ISA {

/// The divergence itself.
///
/// With one or two hidden layers the trace has a closed form whose cost does not grow with D. For J = W3 D2 W2 D1 W1,
/// D1 and D2 the diagonals of the slopes d1 and d2, tr J = d2' M d1 with M = W2 o (W1 W3)', o the elementwise product:
/// M is formed once for many evaluations, each of which then costs one more product of the size of the hidden one. With
/// one hidden layer tr J = d1' w, w_k = sum_i W2_ik W1_ki.
///
/// Else the derivatives along all D directions are carried along; in one wide batch through dense fields, one direction
/// after another through others.
///
/// | method      |                                                                                                    |
/// |-------------|----------------------------------------------------------------------------------------------------|
/// | automatic   | closed_form where it applies and |J|_F is not wanted, else tangents                                |
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

  void check() const {}
};

enum class ProbeDistribution { rademacher, gaussian };

inline const char* to_string(ProbeDistribution distribution) {
  return distribution == ProbeDistribution::rademacher ? "rademacher" : "gaussian";
}

/// Hutchinson's estimate (1990), the mean of e'Je over random probes e of mean 0 and covariance I (FFJORD: Grathwohl
/// et al. 2019, section 3.1). Unbiased; the variance per probe is sum_{i<j} (J_ij + J_ji)^2 with random signs, which
/// Gaussian probes exceed by 2 sum_i J_ii^2.
struct HutchinsonDivergence {
  Index probes = 1;
  ProbeDistribution distribution = ProbeDistribution::rademacher;
  std::uint64_t seed = 0;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "Hutchinson", "probes", self.probes, "distribution", self.distribution, "seed",
                            self.seed);
  }

  void check() const { require(probes >= 1, "Hutchinson: probes is ", probes, ", expected at least 1"); }
};

/// Hutch++ (Meyer, Musco, Musco, Woodruff 2021, algorithm 1): the trace on the span of an orthonormal Q exactly, on its
/// complement by Hutchinson's estimate with random signs g: tr Q'JQ + mean of g'(I - QQ')J(I - QQ')g. Q spans the
/// products of J with probes / 3 random vectors, at the point and time where the noise is drawn; another third of the
/// probes is left for g. Unbiased given Q, wherever J is taken, with a variance that is small where J has few large
/// singular values. Exact where probes >= 3 D: Q is then the identity.
struct HutchPlusPlusDivergence {
  Index probes = 6;
  std::uint64_t seed = 0;

  template <class Self>
  static auto settings(Self& self) {
    return diffeo::settings("kind", "Hutch++", "probes", self.probes, "seed", self.seed);
  }

  void check() const { require(probes >= 3, "Hutch++: probes is ", probes, ", expected at least 3"); }
};

using Divergence = std::variant<ExactDivergence, HutchinsonDivergence, HutchPlusPlusDivergence>;

/// What of a field is wanted besides its velocity.
///
/// | option     | default |                                                                                     |
/// |------------|---------|-------------------------------------------------------------------------------------|
/// | divergence | true    |                                                                                     |
/// | kinetic    | false   | |v|^2                                                                               |
/// | frobenius  | false   | |J|_F^2: by tangents with ExactDivergence, else estimated with the divergence's probes |
struct FieldTerms {
  bool divergence = true;
  bool kinetic = false;
  bool frobenius = false;
};

/// Velocity (N x D) and what else was wanted (N x 1 each); the others are empty.
template <Real S>
struct FieldValue {
  Var<S> velocity;
  Var<S> divergence;
  Var<S> kinetic;
  Var<S> frobenius;
};

namespace detail {

inline constexpr const char* frobenius_not_in_closed_form =
    "divergence: the closed form does not give the Frobenius norm";

// The matrix of the closed form: tr J = slopes[1]' M slopes[0], or M slopes[0] where the second slope is 1.
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

/// A field over the variables of a tape, made ready by prepare_field(): with what is formed once for many evaluations,
/// recorded like everything else. A plain value; fields() and rebind() let it be mirrored on another tape.
template <VectorField Field>
struct PreparedField {
  using Scalar = typename Field::Scalar;
  using S = Scalar;

  Field field;                 ///< over Var<S>
  std::vector<Var<S>> closed;  ///< the matrix of the closed form where that is used, else nothing
  Divergence divergence;

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("field", self.field, "closed", self.closed);
  }
  template <class U>
  PreparedField rebind() const {
    static_assert(std::is_same_v<U, Var<S>>, "a prepared field has variables for parameters");
    return {field.template rebind<U>(), std::vector<Var<S>>(closed.size()), divergence};
  }

  Index dim() const { return field.dim(); }

  /// Columns of the noise that operator() wants; none for the exact divergence.
  Index noise_columns() const {
    const Split parts = split();
    return (parts.sketched + parts.random) * dim();
  }

  /// Draws the probes of each row, to be kept through a solve that begins at (t, x), by the noise of the pass (see
  /// Pass::noise). x: N x D, noise: N x noise_columns().
  void draw_noise(Tape<S>& tape, double t, View<const S> x, View<S> noise, const Pass<S>& pass = {}) const {
    require(x.cols == dim(), "draw_noise: x has ", x.cols, " columns, this field has dimension ", dim());
    require(noise.rows == x.rows && noise.cols == noise_columns(), "draw_noise: the noise is ", noise.rows, " x ",
            noise.cols, ", expected ", x.rows, " x ", noise_columns());
    if (const auto* hutchinson = std::get_if<HutchinsonDivergence>(&divergence))
      draw_probes(hutchinson->distribution, hutchinson->seed, 0, hutchinson->probes, x, noise, pass);
    else if (const auto* plus = std::get_if<HutchPlusPlusDivergence>(&divergence))
      draw_sketch(*plus, tape, t, x, noise, pass);
  }

  /// t: N x 1, x: N x D -> N x D.
  Var<S> velocity(const Var<S>& t, const Var<S>& x) const { return field(t, x); }

  /// The velocity and what else is wanted. noise: N x noise_columns() as drawn by draw_noise(), constants; may be empty
  /// where there are none, or where neither the divergence nor |J|_F is wanted.
  FieldValue<S> operator()(const Var<S>& t, const Var<S>& x, const Var<S>& noise, const FieldTerms& terms = {}) const {
    FieldValue<S> value;
    if (!terms.divergence && !terms.frobenius) {
      value.velocity = field(t, x);
    } else if (const Index columns = noise_columns(); columns > 0) {
      require(noise && noise.rows() == x.rows() && noise.cols() == columns, "divergence: the noise is ",
              noise ? noise.rows() : 0, " x ", noise ? noise.cols() : 0, ", expected ", x.rows(), " x ", columns);
      value = estimated(t, x, noise, terms);
    } else if (!closed.empty() && !terms.frobenius) {
      value = by_closed_form(t, x);
    } else {
      require(std::get<ExactDivergence>(divergence).method != ExactDivergence::Method::closed_form,
              terms.frobenius ? detail::frobenius_not_in_closed_form : "divergence: the field was not prepared for it");
      value = by_tangents(t, x, terms);
    }
    if (terms.kinetic) value.kinetic = row_dot(value.velocity, value.velocity);
    return value;
  }

 private:
  // ---- exact ----
  FieldValue<S> by_closed_form(const Var<S>& t, const Var<S>& x) const {
    FieldValue<S> value;
    if constexpr (DenseField<Field>) {
      const LinearisedField<S> at = field.linearised(t, x);
      value.velocity = at.velocity;
      value.divergence = linear(at.slopes[0], closed.front());
      if (at.slopes[1]) value.divergence = row_dot(at.slopes[1], value.divergence);
    }
    return value;
  }

  FieldValue<S> by_tangents(const Var<S>& t, const Var<S>& x, const FieldTerms& terms) const {
    FieldValue<S> value;
    if constexpr (DenseField<Field>) {
      const MultiDual<S> g = field.with_jacobian(t, x);
      value.velocity = value_of(g);
      if (terms.divergence) value.divergence = trace_of(g);
      if (terms.frobenius) value.frobenius = squared_norm_of(g);
    } else {
      for (Index k = 0; k < dim(); ++k) {
        const Var<S> direction = zeros(x, dim());
        math::map(x.tape().mutable_value(direction).cols_block(k, 1), [] { return simd::broadcast<S>(1); });
        const Dual<Var<S>> v = along(field, t, x, direction);
        if (k == 0) value.velocity = v.value;
        if (terms.divergence) add(value.divergence, cols(v.tangent, k, 1));
        if (terms.frobenius) add(value.frobenius, row_dot(v.tangent, v.tangent));
      }
    }
    return value;
  }

  static Dual<Var<S>> along(const Field& field, const Var<S>& t, const Var<S>& x, const Var<S>& direction) {
    return field(Dual<Var<S>>{t, zeros(t, 1)}, Dual<Var<S>>{x, direction});
  }

  static void add(Var<S>& sum, const Var<S>& term) { sum = sum ? sum + term : term; }

  // ---- estimates ----
  // Of the columns of the noise: the orthonormal vectors, taken in full, and the random ones, of which the mean is.
  struct Split {
    Index sketched, random;
  };
  Split split() const {
    if (const auto* hutchinson = std::get_if<HutchinsonDivergence>(&divergence)) return {0, hutchinson->probes};
    const auto* plus = std::get_if<HutchPlusPlusDivergence>(&divergence);
    if (!plus) return {0, 0};
    const Index third = plus->probes / 3;
    if (third >= dim()) return {dim(), 0};
    return {third, plus->probes - 2 * third};
  }

  FieldValue<S> estimated(const Var<S>& t, const Var<S>& x, const Var<S>& noise, const FieldTerms& terms) const {
    const Split parts = split();
    FieldValue<S> value;
    [[maybe_unused]] LinearisedField<S> at;
    if constexpr (DenseField<Field>) {
      at = field.linearised(t, x);
      value.velocity = at.velocity;
    }
    // Sums over the random vectors first, divided by their number before the others are added.
    const S share = parts.random > 1 ? S(1) / static_cast<S>(parts.random) : S(1);
    const Index count = parts.sketched + parts.random;
    for (Index i = count; i-- > 0;) {
      const Var<S> e = cols(noise, i * dim(), dim());
      Var<S> moved;
      if constexpr (DenseField<Field>) {
        moved = at.times(e);
      } else {
        const Dual<Var<S>> v = along(field, t, x, e);
        moved = v.tangent;
        if (!value.velocity) value.velocity = v.value;
      }
      if (terms.divergence) add(value.divergence, row_dot(moved, e));
      if (terms.frobenius) add(value.frobenius, row_dot(moved, moved));
      if (i == parts.sketched && share != S(1)) {
        if (terms.divergence) value.divergence = value.divergence * share;
        if (terms.frobenius) value.frobenius = value.frobenius * share;
      }
    }
    return value;
  }

  // ---- noise ----
  static std::uint64_t seed_of(std::uint64_t seed, Index probe) {
    return seed + 0x6A09E667F3BCC909 * static_cast<std::uint64_t>(probe);
  }

  // Probes number `first` to `first` + `count`.
  void draw_probes(ProbeDistribution distribution, std::uint64_t seed, Index first, Index count, View<const S> x,
                   View<S> noise, const Pass<S>& pass) const {
    for (Index probe = first; probe < first + count; ++probe)
      for (Index row = 0; row < x.rows; ++row) {
        PhiloxEngine engine = pass.noise(seed_of(seed, probe), x, row);
        const View<S> to = noise.cols_block(probe * dim(), dim());
        if (distribution == ProbeDistribution::rademacher)
          detail::draw_signs(engine, to, row);
        else
          detail::draw_normal(engine, to, row);
      }
  }

  void draw_sketch(const HutchPlusPlusDivergence& of, Tape<S>& tape, double t, View<const S> x, View<S> noise,
                   const Pass<S>& pass) const {
    const Index d = dim();
    const Split parts = split();
    if (parts.random == 0) {
      for (Index j = 0; j < noise.cols; ++j) std::fill_n(noise.col(j), noise.rows, j / d == j % d ? S(1) : S(0));
      return;
    }
    // In few dimensions random signs would be linearly dependent too often for a sketch.
    draw_probes(ProbeDistribution::gaussian, of.seed, 0, parts.sketched, x, noise, pass);
    draw_probes(ProbeDistribution::rademacher, of.seed, parts.sketched, parts.random, x, noise, pass);
    const auto mark = tape.mark();
    const Var<S> point = tape.constant(x), time = tape.make(x.rows, 1, false);
    math::map(tape.mutable_value(time), [t] { return simd::broadcast<S>(static_cast<S>(t)); });
    Field& constants = tape.keep(field);
    for_each_leaf_pair(field, constants, tape.template storage<const Var<S>*>(leaf_count(field)),
                       [&tape](LeafKind, const Var<S>& from, Var<S>& to) { to = tape.constant(from.value()); });
    [[maybe_unused]] LinearisedField<S> at;
    if constexpr (DenseField<Field>) at = constants.linearised(time, point);
    const auto times = [&](const Var<S>& v) {
      if constexpr (DenseField<Field>)
        return at.times(v);
      else
        return along(constants, time, point, v).tangent;
    };
    const View<S> coefficient = tape.mutable_value(tape.make(x.rows, 1, false)),
                  before = tape.mutable_value(tape.make(x.rows, 1, false));
    for (Index i = 0; i < parts.sketched + parts.random; ++i) {
      const View<S> vector = noise.cols_block(i * d, d);
      if (i < parts.sketched) {
        const auto inner = tape.mark();
        const View<const S> moved = times(tape.constant(View<const S>(vector))).value();
        for (Index j = 0; j < d; ++j) std::copy_n(moved.col(j), moved.rows, vector.col(j));
        tape.release(inner);
        detail::row_dot<S>(before, vector, vector);
      }
      // Gram and Schmidt's method, twice, after which rounding is all that is missing.
      for (int round = 0; round < 2; ++round)
        for (Index k = 0; k < std::min(i, parts.sketched); ++k) {
          const View<const S> q = noise.cols_block(k * d, d);
          detail::row_dot<S>(coefficient, q, vector);
          for (Index j = 0; j < d; ++j)
            math::map(
                vector.cols_block(j, 1), [](auto v, auto c, auto w) { return simd::mul_add<S>(-c, w, v); },
                View<const S>(vector.cols_block(j, 1)), View<const S>(coefficient), q.cols_block(j, 1));
        }
      if (i >= parts.sketched) continue;
      // What depends on the vectors before but for rounding adds nothing to their span.
      detail::row_dot<S>(coefficient, vector, vector);
      constexpr S least = S(100) * std::numeric_limits<S>::epsilon();
      for (Index j = 0; j < d; ++j)
        math::map(
            vector.cols_block(j, 1),
            [](auto v, auto square, auto whole) {
              return square > least * least * whole ? v / simd::sqrt<S>(square) : simd::Vec<S>{};
            },
            View<const S>(vector.cols_block(j, 1)), View<const S>(coefficient), View<const S>(before));
    }
    tape.release(mark);
  }
};

/// Makes a field ready for evaluations on `tape`. Its parameters may be arrays, which become constants and must outlive
/// the tape's values, or variables of the tape. `prepared`, of a field of the same structure, is overwritten; its
/// memory is used again. Throws invalid_argument for options out of range, and where the closed form is asked for and
/// does not apply.
template <Real S, class F, class Lifted>
void prepare_field(Tape<S>& tape, const F& field, const Divergence& divergence, const FieldTerms& terms,
                   PreparedField<Lifted>& prepared) {
  using Method = ExactDivergence::Method;
  std::visit([](const auto& of) { of.check(); }, divergence);
  prepared.divergence = divergence;
  prepared.closed.clear();
  for_each_leaf_pair(field, prepared.field, tape.template storage<const leaf_t<F>*>(leaf_count(field)),
                     [&tape](LeafKind, const auto& from, Var<S>& to) { to = as_var(tape, from); });
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

/// The same in memory of its own.
template <Real S, class F>
auto prepare_field(Tape<S>& tape, const F& field, const Divergence& divergence, const FieldTerms& terms = {}) {
  PreparedField<decltype(field.template rebind<Var<S>>())> prepared{field.template rebind<Var<S>>(), {}, divergence};
  prepare_field(tape, field, divergence, terms, prepared);
  return prepared;
}

}  // namespace diffeo::inline DIFFEO_ISA
