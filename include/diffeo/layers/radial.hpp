// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/layers/flow.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/nn/context_shift.hpp>
#include <limits>

namespace diffeo::inline DIFFEO_ISA {

/// Flow x = z + beta h (z - centre), h = 1 / (alpha + r), r = |z - centre|: contraction towards a point or expansion
/// away from it (Rezende & Mohamed 2015, eq. 14). alpha = softplus(raw_alpha) > 0, and beta = -alpha + kappa with kappa
/// = softplus(raw_kappa) > 0, which makes it invertible (their appendix A.2). The factors of the determinant are
/// computed without cancellation as
///
///     1 + beta h             = (r + kappa) / (alpha + r)
///     1 + beta h + beta h' r = (r^2 + 2 alpha r + alpha kappa) / (alpha + r)^2
///
/// where the first factor occurs D - 1 times and the second once. The inverse has a closed form: with rho = |x -
/// centre|, r is the positive root of r^2 + (kappa - rho) r - rho alpha. Value and log-determinant are differentiable
/// except for a kink of the log-determinant at the centre, where its derivative is taken as 0.
///
/// With a context c the parameters of a sample are centre + d, raw_alpha + a / sqrt(1 + a^2 / 8^2) and raw_kappa + k /
/// sqrt(1 + k^2 / 8^2), where [d, a, k] is a network's output at c: alpha and kappa are within a factor of about e^8
/// of their values without context, for every c.
///
/// forward() and inverse() throw invalid_argument if alpha or kappa underflows, which takes a raw_alpha or raw_kappa
/// below -79 in float and below -700 in double.
template <class T>
struct Radial {
  using Scalar = scalar_t<T>;

  param_t<T> centre;        ///< 1 x D
  param_t<T> raw_alpha;     ///< 1 x 1
  param_t<T> raw_kappa;     ///< 1 x 1
  ContextShift<T> shift{};  ///< C -> D + 2 values; empty for a layer without context

  static constexpr double suggested_learning_rate = 5e-3;

  Index dim() const { return centre.cols(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("centre", self.centre, "raw_alpha", self.raw_alpha, "raw_kappa", self.raw_kappa, "shift",
                          self.shift);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "radial");
  }
  template <class U>
  Radial<U> rebind() const {
    return {{}, {}, {}, shift.template rebind<U>()};
  }

  /// Throws invalid_argument where the shapes of the parameters or the outputs of the context's network do not fit.
  void check() const {
    require(centre.rows() == 1 && raw_alpha.size() == 1 && raw_kappa.size() == 1, "radial: centre is ", centre.rows(),
            " x ", centre.cols(), ", raw_alpha has ", raw_alpha.size(), " and raw_kappa ", raw_kappa.size(),
            " values, expected 1 x D, one and one");
    check_shift();
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const {
    const auto [c, alpha, kappa] = reduced(z, pass.context);
    const X offset = z - c, r = norm_cols(offset);
    return {offset * ((r + kappa) / (r + alpha)) + c, log_det(r, alpha, kappa)};
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const {
    const auto [c, alpha, kappa] = reduced(x, pass.context);
    const X offset = x - c, rho = norm_cols(offset);
    // Of the two forms of the root, use the one that adds numbers of the same sign, which depends on the sign of t.
    // Values are divided by `unit` before they are squared, so that the squares stay finite; the result does not depend
    // on it.
    const X t = kappa - rho;
    const auto length = innermost(rho), unit = max_cols(concat(length, zeros(length, 1) + kappa + 1));
    const X q = abs(t) + sqrt(square(t / unit) + rho / unit * alpha / unit * 4) * unit;
    const auto inside = step(innermost(t));
    const X r = (rho / q) * alpha * (inside * 2) + q * ((1 - inside) * Scalar(0.5));
    return {offset * ((r + alpha) / (r + kappa)) + c, -log_det(r, alpha, kappa)};
  }

 private:
  // The parameters, a row for all samples or one for each.
  struct Reduced {
    Var<Scalar> centre, alpha, kappa;
  };

  static constexpr double longest_shift = 8;  // of raw_alpha and raw_kappa

  void check_shift() const {
    require(shift.empty() || shift.outputs() == dim() + 2, "radial: the network of the context has ", shift.outputs(),
            " outputs, expected ", dim() + 2);
  }

  template <Traced X>
  Reduced reduced(const X& x, const Var<Scalar>& context) const {
    require(x.cols() == dim(), "radial: x has ", x.cols(), " columns, this layer has dimension ", dim());
    auto& tape = x.tape();
    Var<Scalar> c = as_var(tape, centre), a = as_var(tape, raw_alpha), k = as_var(tape, raw_kappa);
    require(c.rows() == 1 && a.shape() == math::Shape{1, 1} && k.shape() == math::Shape{1, 1},
            "radial: the parameters are ", c.rows(), " x ", c.cols(), ", ", a.rows(), " x ", a.cols(), " and ",
            k.rows(), " x ", k.cols(), ", expected 1 x D, 1 x 1 and 1 x 1");
    if (!shift.empty()) {
      check_shift();
      const Var<Scalar> by = shift("radial", context, x.rows());
      const auto bounded = [&by](Index column) {
        const Var<Scalar> raw = cols(by, column, 1);
        return detail::shortened(raw, square(raw), longest_shift);
      };
      c = c + cols(by, 0, dim());
      a = a + bounded(dim());
      k = k + bounded(dim() + 1);
    }
    const Reduced p{c, softplus(a), softplus(k)};
    constexpr Scalar least = std::numeric_limits<Scalar>::min();
    const Scalar *alpha = p.alpha.value().data, *kappa = p.kappa.value().data;
    for (Index n = 0; n < p.alpha.rows(); ++n)
      require(alpha[n] >= least && kappa[n] >= least, "radial: alpha is ", alpha[n], " and alpha + beta ", kappa[n],
              ", expected > 0");
    return p;
  }

  template <Traced X>
  X log_det(const X& r, const Var<Scalar>& alpha, const Var<Scalar>& kappa) const {
    const X h = 1 / (r + alpha), part = r * h, rest = h * alpha;  // part + rest = 1
    const X radial = part * (part + rest * 2) + rest * (h * kappa);
    if (dim() == 1) return log(radial);
    return log((r + kappa) * h) * static_cast<Scalar>(dim() - 1) + log(radial);
  }
};

/// Returns a radial layer close to the identity: the centre is drawn from N(0, 1), alpha is 1, and raw_kappa is its
/// value for beta = 0 plus normal noise of standard deviation 0.1. With context_dim above 0 it takes a context of as
/// many columns, through a network that make_context_shift() makes. Throws invalid_argument for a dimension below 1 and
/// for what make_context_shift() refuses.
template <Real S>
Radial<S> make_radial(Index dim, std::uint64_t seed = 0, std::uint64_t stream = 0, Index context_dim = 0,
                      const MlpOptions& network = {.hidden = {16}}) {
  require(dim >= 1, "make_radial: dimension ", dim, ", expected at least 1");
  Array<S> random(1, dim + 1);
  fill_normal(view(random), seed, stream);
  constexpr S of_one = static_cast<S>(0.54132485461291806);  // softplus(log(e - 1)) = 1
  return {random.leftCols(dim), Array<S>::Constant(1, 1, of_one), random.rightCols(1) * S(0.1) + of_one,
          make_context_shift<S>(context_dim, dim + 2, network, seed, stream)};
}

}  // namespace diffeo::inline DIFFEO_ISA
