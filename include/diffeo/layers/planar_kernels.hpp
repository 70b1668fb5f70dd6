// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <diffeo/math/activation.hpp>
#include <diffeo/math/elementwise.hpp>
#include <diffeo/math/root.hpp>
#include <new>
#include <numbers>
#include <span>

/// Sequences of planar maps x = z + u' h(w.z + b) on plain numbers, which layers/planar.hpp records as one op. A few
/// registers of rows pass through all maps before the next ones do, so that memory is read once, whatever the number of
/// maps. Products that are added to are written as mul_add, so that the bits of a row do not depend on its position in
/// a register.
namespace diffeo::inline DIFFEO_ISA::detail {

enum class PlanarKind { tanh, leaky_relu };

/// One planar map. u' is u moved along w so that w.u' = softplus(a) - 1 > -1, with a = w.u.
template <class S>
struct PlanarMap {
  const S* w;  ///< D values
  S* u_hat;    ///< u', D values; u-hat in the paper
  S bias;
  S rise;        ///< softplus(a), the slope of s + (w.u') h(s) where h' = 1
  S root_rise;   ///< 1 + w.u' for the rounded u', which the inverse needs
  S log_rise;    ///< log(softplus(a)), also where softplus(a) underflows
  bool extreme;  ///< whether a product of a few determinants could overflow or underflow
  // For the gradient, in double because there is only one of each per map.
  double square;   // |w|^2
  double shift;    // u' = u + shift w
  double sigmoid;  // of a: the derivative of rise
};

/// Returns the map with parameters u, w and b (Rezende & Mohamed 2015, appendix A.1), and writes u' to memory of D
/// numbers. The shift along w is divided by |w|^2, which w.u' > -1 requires. m(a) - a is computed as softplus(-a) - 1,
/// without cancellation. Throws invalid_argument if |w|^2 is not finite or smaller than the smallest normal number.
template <Real S>
PlanarMap<S> planar_map(const S* u, const S* w, S b, Index dim, S* u_hat) {
  double a = 0, square = 0;
  for (Index j = 0; j < dim; ++j) {
    a += static_cast<double>(w[j]) * static_cast<double>(u[j]);
    square += static_cast<double>(w[j]) * static_cast<double>(w[j]);
  }
  require(square >= static_cast<double>(std::numeric_limits<S>::min()), "planar: |w|^2 is ", square,
          ", expected w away from 0");
  const double e = std::exp(-std::abs(a)), log_part = std::log1p(e);
  const double rise = std::max(a, 0.0) + log_part, shift = (std::max(-a, 0.0) + log_part - 1) / square;
  // Twice, because u and shift w may cancel.
  double product = 0;
  for (Index j = 0; j < dim; ++j) {
    u_hat[j] = static_cast<S>(static_cast<double>(u[j]) + shift * static_cast<double>(w[j]));
    product += static_cast<double>(w[j]) * static_cast<double>(u_hat[j]);
  }
  const double missing = (rise - 1 - product) / square;
  product = 0;
  for (Index j = 0; j < dim; ++j) {
    u_hat[j] = static_cast<S>(static_cast<double>(u_hat[j]) + missing * static_cast<double>(w[j]));
    product += static_cast<double>(w[j]) * static_cast<double>(u_hat[j]);
  }
  // A steep map is solved with the rounded u', which forward uses; where rise is small 1 + w.u' cancels, and rise is
  // more exact.
  const double root_rise = rise > 0.5 ? std::max(1 + product, rise / 2) : rise;
  return {w,
          u_hat,
          b,
          static_cast<S>(rise),
          static_cast<S>(root_rise),
          static_cast<S>(a < -40 ? a : std::log(rise)),  // log softplus(a) = a - e^a / 2 + ...
          !(rise >= 1e-9 && rise <= 1e9),
          square,
          shift,
          a < 0 ? e / (1 + e) : 1 / (1 + e)};
}

// Registers of rows that go together, to hide the latency of one behind the others.
inline constexpr Index planar_group = simd::register_count / 8;
template <class S>
inline constexpr Index planar_rows = planar_group * simd::lanes<S>;

template <class S>
using Registers = simd::Vec<S>[static_cast<std::size_t>(planar_group)];

// Begins the lifetime of `count` groups of registers in memory that holds nothing yet.
template <class S>
Registers<S>* registers_in(S* memory, Index count) {
  return ::new (static_cast<void*>(memory)) Registers<S>[static_cast<std::size_t>(count)];
}

template <class S>
inline simd::Vec<S> load_rows(const S* column, Index first, Index rows) {
  if (first + simd::lanes<S> <= rows) return simd::load<S>(column + first);
  return first < rows ? simd::load<S>(column + first, rows - first) : simd::Vec<S>{};
}
template <class S>
inline void store_rows(S* column, Index first, Index rows, simd::Vec<S> v) {
  if (first + simd::lanes<S> <= rows)
    simd::store<S>(column + first, v);
  else if (first < rows)
    simd::store<S>(column + first, v, rows - first);
}

// h(s), h'(s) by h, and the determinant d = 1 + h' w.u' by h: convex combinations of 1 and `rise`, so nothing cancels.
template <class S, PlanarKind Kind>
struct PlanarFunction {
  using V = simd::Vec<S>;
  using Kernel = ActivationKernel<S, Kind == PlanarKind::tanh ? Activation::tanh : Activation::leaky_relu>;
  static V value(V s) { return Kernel{}.value(s); }
  static V slope(V h) { return Kernel{}.slope(h); }
  // log(1 - h'), which for tanh is h^2, also where that underflows.
  static V log_complement(V h) {
    if constexpr (Kind == PlanarKind::tanh)
      return S(2) * simd::log<S>(simd::abs<S>(h));
    else
      return simd::log<S>(S(1) - slope(h));
  }
  static V determinant(V h, V slope, S rise) {
    if constexpr (Kind == PlanarKind::tanh)
      return simd::mul_add<S>(slope, simd::broadcast<S>(rise), h * h);
    else
      return simd::mul_add<S>(slope, simd::broadcast<S>(rise), S(1) - slope);
  }
};

// log of a product of determinants, as mantissa and exponent: one logarithm for many factors.
template <class S>
struct LogProduct {
  using V = simd::Vec<S>;
  using E = simd::detail::Elementary<S>;
  V product = simd::broadcast<S>(1), exponent{}, rest{};

  // The factor of a map at h.
  template <class Function>
  void multiply(V h, const PlanarMap<S>& map) {
    const V slope = Function::slope(h);
    if (map.extreme) [[unlikely]] {
      const V a = Function::log_complement(h), b = simd::log<S>(slope) + map.log_rise;
      rest += simd::max<S>(a, b) + simd::log1p_exp<S>(-simd::abs<S>(a - b));
    } else {
      product *= Function::determinant(h, slope, map.rise);
    }
  }
  // After at most four factors of 1e-9 to 1e9.
  void normalise() {
    const simd::IntVec<S> n = simd::shift_right<S>(simd::bits<S>(product), E::mantissa_bits) - E::exponent_bias;
    exponent += __builtin_convertvector(n, V);
    product *= simd::detail::power_of_two<S>(-n);
  }
  V log() const {
    return simd::mul_add<S>(exponent, simd::broadcast<S>(std::numbers::ln2_v<S>), simd::log<S>(product)) + rest;
  }
};

// Element r of a number that all rows share, or that each row has of its own.
template <class S>
S of_register(const S& shared, std::size_t) {
  return shared;
}
template <class S>
simd::Vec<S> of_register(const Registers<S>& own, std::size_t r) {
  return own[r];
}

// Replaces t by s with s + (w.u') h(s) = t, where w.u' = root_rise - 1; the first of the rows is `first`. root_rise is
// S for all rows, or for tanh Registers<S>.
template <class S, PlanarKind Kind, class Rise>
void planar_root(Registers<S>& t, const Rise& root_rise, Index first, Index rows) {
  using V = simd::Vec<S>;
  using Function = PlanarFunction<S, Kind>;
  constexpr auto group = static_cast<std::size_t>(planar_group);
  if constexpr (Kind == PlanarKind::leaky_relu) {
    for (V& s : t) s = s / Function::determinant(s, Function::slope(s), root_rise);
  } else {
    const auto rise_of = [&root_rise](std::size_t r) -> V { return V{} + of_register<S>(root_rise, r); };
    const auto equation = [&t, &rise_of](std::size_t r, V s) -> simd::Equation<S> {
      const V h = Function::value(s), rise = rise_of(r);
      const V slope = Function::slope(h);
      return {simd::mul_add<S>(rise, h, s - h) - t[r], simd::mul_add<S>(slope, rise, h * h)};
    };
    simd::Bracket<S> bracket[group];
    for (std::size_t r = 0; r < group; ++r) {
      // |h| < 1 bounds s; the start is on the side from which Newton's method is monotone.
      const V size = simd::abs<S>(t[r]), rise = rise_of(r), reach = simd::abs<S>(rise - S(1));
      const V far = simd::mul_add<S>(size + reach, simd::broadcast<S>(8 * std::numeric_limits<S>::epsilon()),
                                     reach + std::numeric_limits<S>::min());
      const V ahead = size / simd::max<S>(simd::broadcast<S>(std::numeric_limits<S>::min()), rise);  // rise may be 0
      const V start =
          of_register<S>(root_rise, r) > S(1) ? simd::max<S>(ahead, size - reach) : simd::min<S>(size + reach, ahead);
      bracket[r] = {t[r] - far, t[r] + far, simd::copy_sign<S>(start, t[r])};
    }
    // Most of the way by Halley's method, without a bracket to keep; where it fails the solver starts from what it
    // left.
    constexpr int head_start = sizeof(S) == 4 ? 2 : 3;
    for (int k = 0; k < head_start; ++k)
      for (std::size_t r = 0; r < group; ++r) {
        const V s = bracket[r].start, h = Function::value(s), slope = Function::slope(h), rise = rise_of(r);
        const V y = simd::mul_add<S>(rise, h, s - h) - t[r], d = simd::mul_add<S>(slope, rise, h * h);
        const V bend = (rise - S(1)) * h * slope;  // half the second derivative, negated
        const V step = y * d / simd::mul_add<S>(d, d, y * bend);
        bracket[r].start = simd::abs<S>(step) <= bracket[r].high - bracket[r].low ? s - step : s;
      }
    constexpr int iterations = RootOptions<S>{}.max_iterations;
    simd::Roots<S> roots[group];
    simd::find_root<S, group>(equation, bracket, S(0), iterations, roots);
    for (std::size_t r = 0; r < group; ++r) {
      const Index row = first + static_cast<Index>(r) * simd::lanes<S>;
      simd::require_converged<S>("planar inverse", roots[r], row, std::min(simd::lanes<S>, rows - row), iterations);
      t[r] = roots[r].root;
    }
  }
}

// Dim = 0: any dimension, with the rows' state in `memory`.
template <Real S, PlanarKind Kind, bool Inverse, Index Dim>
void planar_apply(std::span<const PlanarMap<S>> maps, View<const S> in, View<S> out, S* log_det, S* activations,
                  S* memory) {
  using V = simd::Vec<S>;
  using Function = PlanarFunction<S, Kind>;
  constexpr Index lanes = simd::lanes<S>, group = planar_group;
  const Index dim = Dim > 0 ? Dim : in.cols;
  Registers<S> held[std::size_t{Dim > 0 ? Dim : 1}];
  Registers<S>* const z = Dim > 0 ? held : registers_in<S>(memory, dim);
  for (Index first = 0; first < in.rows; first += planar_rows<S>) {
    for (Index j = 0; j < dim; ++j)
      for (Index r = 0; r < group; ++r) z[j][r] = load_rows<S>(in.col(j), first + r * lanes, in.rows);
    LogProduct<S> product[std::size_t{group}];
    for (std::size_t k = 0; k < maps.size(); ++k) {
      const PlanarMap<S>& map = maps[Inverse ? maps.size() - 1 - k : k];
      Registers<S> h;
      for (Index r = 0; r < group; ++r) h[r] = simd::broadcast<S>(map.bias);
      for (Index j = 0; j < dim; ++j) {
        const V w = simd::broadcast<S>(map.w[j]);
        for (Index r = 0; r < group; ++r) h[r] = simd::mul_add<S>(z[j][r], w, h[r]);
      }
      if constexpr (Inverse) planar_root<S, Kind>(h, map.root_rise, first, in.rows);
      for (Index r = 0; r < group; ++r) h[r] = Function::value(h[r]);
      for (Index j = 0; j < dim; ++j) {
        const V u = simd::broadcast<S>(Inverse ? -map.u_hat[j] : map.u_hat[j]);
        for (Index r = 0; r < group; ++r) z[j][r] = simd::mul_add<S>(u, h[r], z[j][r]);
      }
      // A steep map shows the rounding of h: one Newton step on h = h(w.z + b), by what z has become.
      if (Inverse && map.rise > S(2)) {
        Registers<S> change;
        for (Index r = 0; r < group; ++r) change[r] = simd::broadcast<S>(map.bias);
        for (Index j = 0; j < dim; ++j)
          for (Index r = 0; r < group; ++r)
            change[r] = simd::mul_add<S>(z[j][r], simd::broadcast<S>(map.w[j]), change[r]);
        for (Index r = 0; r < group; ++r) {
          const V again = Function::value(change[r]);
          change[r] = (again - h[r]) / Function::determinant(again, Function::slope(again), map.rise);
          h[r] += change[r];
        }
        for (Index j = 0; j < dim; ++j)
          for (Index r = 0; r < group; ++r)
            z[j][r] = simd::mul_add<S>(simd::broadcast<S>(-map.u_hat[j]), change[r], z[j][r]);
      }
      for (Index r = 0; r < group; ++r) {
        product[r].template multiply<Function>(h[r], map);
        if (k % 4 == 3) product[r].normalise();
      }
      if (activations)
        for (Index r = 0; r < group; ++r, activations += lanes) simd::store<S>(activations, h[r]);
    }
    for (Index j = 0; j < dim; ++j)
      for (Index r = 0; r < group; ++r) store_rows<S>(out.col(j), first + r * lanes, in.rows, z[j][r]);
    for (Index r = 0; r < group; ++r)
      store_rows<S>(log_det, first + r * lanes, in.rows, Inverse ? -product[r].log() : product[r].log());
  }
}

// The way back. `sums` holds 2 D + 2 registers per map: of u', of w (by w.z alone), of b, of rise. With c = rise - 1,
// the inverse is z = x - u' h(s), s + c h(s) = t = w.x + b, so ds = (dt - h dc) / (1 + c h') by the implicit function
// theorem, and 1 + c h' is the determinant. Values between the maps are recomputed from the result, backwards.
template <Real S, PlanarKind Kind, bool Inverse, Index Dim>
void planar_adjoint(std::span<const PlanarMap<S>> maps, View<const S> out, const S* activations, View<const S> grad,
                    const S* log_det_grad, View<S> in_grad, bool assign, simd::Vec<S>* sums, S* memory) {
  using V = simd::Vec<S>;
  using Function = PlanarFunction<S, Kind>;
  constexpr Index lanes = simd::lanes<S>, group = planar_group;
  const Index dim = Dim > 0 ? Dim : out.cols;
  const std::size_t per_map = static_cast<std::size_t>(2 * dim + 2);
  Registers<S> held[std::size_t{Dim > 0 ? 2 * Dim : 1}];
  Registers<S>* const z = Dim > 0 ? held : registers_in<S>(memory, 2 * dim);
  Registers<S>* const g = z + dim;
  for (Index first = 0; first < out.rows; first += planar_rows<S>) {
    Registers<S> g_log_det;
    for (Index r = 0; r < group; ++r)
      g_log_det[r] = log_det_grad ? load_rows<S>(log_det_grad, first + r * lanes, out.rows) : V{};
    for (Index j = 0; j < dim; ++j)
      for (Index r = 0; r < group; ++r) {
        z[j][r] = load_rows<S>(out.col(j), first + r * lanes, out.rows);
        g[j][r] = grad.data ? load_rows<S>(grad.col(j), first + r * lanes, out.rows) : V{};
      }
    const S* h_at = activations + first * static_cast<Index>(maps.size());
    for (std::size_t k = maps.size(); k-- > 0;) {
      const std::size_t index = Inverse ? maps.size() - 1 - k : k;
      const PlanarMap<S>& map = maps[index];
      V* const sum = sums + index * per_map;
      Registers<S> h, slope, determinant, gs;
      V sum_rise{}, sum_bias{};
      for (Index r = 0; r < group; ++r) {
        h[r] = simd::load<S>(h_at + (static_cast<Index>(k) * group + r) * lanes);
        slope[r] = Function::slope(h[r]);
        // Only a rise that is not a normal number brings it so low.
        determinant[r] = simd::max<S>(Function::determinant(h[r], slope[r], map.rise),
                                      simd::broadcast<S>(std::numeric_limits<S>::min()));
        const V ratio = g_log_det[r] / determinant[r];
        sum_rise = simd::mul_add<S>(ratio, slope[r], sum_rise);
        if constexpr (Kind == PlanarKind::tanh)
          gs[r] = ratio * (h[r] * (S(2) - S(2) * map.rise));
        else
          gs[r] = V{};
      }
      for (Index j = 0; j < dim; ++j) {
        const V u = simd::broadcast<S>(map.u_hat[j]), back = simd::broadcast<S>(Inverse ? map.u_hat[j] : -map.u_hat[j]);
        V sum_u = sum[j];
        for (Index r = 0; r < group; ++r) {
          gs[r] = simd::mul_add<S>(g[j][r], u, gs[r]);
          sum_u = simd::mul_add<S>(g[j][r], Inverse ? -h[r] : h[r], sum_u);
          z[j][r] = simd::mul_add<S>(back, h[r], z[j][r]);
        }
        sum[j] = sum_u;
      }
      for (Index r = 0; r < group; ++r) {
        gs[r] = Inverse ? -(gs[r] * slope[r]) / determinant[r] : gs[r] * slope[r];
        sum_bias += gs[r];
        if constexpr (Inverse) sum_rise = simd::mul_add<S>(gs[r], h[r], sum_rise);
      }
      for (Index j = 0; j < dim; ++j) {
        const V w = simd::broadcast<S>(map.w[j]);
        V sum_w = sum[dim + j];
        for (Index r = 0; r < group; ++r) {
          sum_w = simd::mul_add<S>(gs[r], z[j][r], sum_w);
          g[j][r] = simd::mul_add<S>(gs[r], w, g[j][r]);
        }
        sum[dim + j] = sum_w;
      }
      sum[2 * dim] += sum_bias;
      sum[2 * dim + 1] += Inverse ? -sum_rise : sum_rise;
    }
    if (!in_grad.data) continue;
    for (Index j = 0; j < dim; ++j)
      for (Index r = 0; r < group; ++r) {
        const Index row = first + r * lanes;
        const V before = assign ? V{} : load_rows<S>(in_grad.col(j), row, out.rows);
        store_rows<S>(in_grad.col(j), row, out.rows, before + g[j][r]);
      }
  }
}

}  // namespace diffeo::inline DIFFEO_ISA::detail
