// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/layers/flow.hpp>
#include <diffeo/math/random_fill.hpp>
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
/// forward() and inverse() throw invalid_argument if alpha or kappa underflows.
template <class T>
struct Radial {
  using Scalar = scalar_t<T>;

  param_t<T> centre;     ///< 1 x D
  param_t<T> raw_alpha;  ///< 1 x 1
  param_t<T> raw_kappa;  ///< 1 x 1

  static constexpr double suggested_learning_rate = 5e-3;

  Index dim() const { return centre.cols(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("centre", self.centre, "raw_alpha", self.raw_alpha, "raw_kappa", self.raw_kappa);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "radial");
  }
  template <class U>
  Radial<U> rebind() const {
    return {};
  }

  /// Throws invalid_argument where the shapes of the parameters do not fit.
  void check() const {
    require(centre.rows() == 1 && raw_alpha.size() == 1 && raw_kappa.size() == 1, "radial: centre is ", centre.rows(),
            " x ", centre.cols(), ", raw_alpha has ", raw_alpha.size(), " and raw_kappa ", raw_kappa.size(),
            " values, expected 1 x D, one and one");
  }

  template <Traced X>
  Transformed<X> forward(const X& z) const {
    const auto [c, alpha, kappa] = reduced(z);
    const X offset = z - c, r = norm_cols(offset);
    return {offset * ((r + kappa) / (r + alpha)) + c, log_det(r, alpha, kappa)};
  }
  template <Traced X>
  Transformed<X> inverse(const X& x) const {
    const auto [c, alpha, kappa] = reduced(x);
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
  struct Reduced {
    Var<Scalar> centre, alpha, kappa;
  };

  template <Traced X>
  Reduced reduced(const X& x) const {
    require(x.cols() == dim(), "radial: x has ", x.cols(), " columns, this layer has dimension ", dim());
    auto& tape = x.tape();
    const Reduced p{as_var(tape, centre), softplus(as_var(tape, raw_alpha)), softplus(as_var(tape, raw_kappa))};
    require(p.centre.rows() == 1 && p.alpha.shape() == math::Shape{1, 1} && p.kappa.shape() == math::Shape{1, 1},
            "radial: the parameters are ", p.centre.rows(), " x ", p.centre.cols(), ", ", p.alpha.rows(), " x ",
            p.alpha.cols(), " and ", p.kappa.rows(), " x ", p.kappa.cols(), ", expected 1 x D, 1 x 1 and 1 x 1");
    const Scalar a = *p.alpha.value().data, k = *p.kappa.value().data;
    require(a >= std::numeric_limits<Scalar>::min() && k >= std::numeric_limits<Scalar>::min(), "radial: alpha is ", a,
            " and alpha + beta ", k, ", expected > 0");
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
/// value for beta = 0 plus normal noise of standard deviation 0.1. Throws invalid_argument for a dimension below 1.
template <Real S>
Radial<S> make_radial(Index dim, std::uint64_t seed = 0, std::uint64_t stream = 0) {
  require(dim >= 1, "make_radial: dimension ", dim, ", expected at least 1");
  Array<S> random(1, dim + 1);
  fill_normal(view(random), seed, stream);
  constexpr S of_one = static_cast<S>(0.54132485461291806);  // softplus(log(e - 1)) = 1
  return {random.leftCols(dim), Array<S>::Constant(1, 1, of_one), random.rightCols(1) * S(0.1) + of_one};
}

}  // namespace diffeo::inline DIFFEO_ISA
