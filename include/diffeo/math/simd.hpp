// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <diffeo/core/array.hpp>
#include <utility>
// What vector extensions do not reach: fused multiply-add, minimum, maximum, square root. <immintrin.h> holds all of
// the instruction sets and takes long to compile.
#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

/// Vector registers of the machine the translation unit is compiled for, by the vector extensions that GCC and Clang
/// share: 64 bytes under AVX-512, 32 under AVX, else 16. The operators + - * / and comparisons work on them; a
/// comparison gives a mask to use with `? :`. As with Eigen, compile all translation units of a program with the same
/// -m flags.
namespace diffeo::inline DIFFEO_ISA::simd {

#if defined(__AVX512F__)
inline constexpr std::size_t register_bytes = 64;
inline constexpr int register_count = 32;
#elif defined(__AVX__)
inline constexpr std::size_t register_bytes = 32;
inline constexpr int register_count = 16;
#else
inline constexpr std::size_t register_bytes = 16;
inline constexpr int register_count = 16;
#endif

namespace detail {

template <class S>
struct Register {
  typedef S type __attribute__((vector_size(register_bytes)));
};

template <class S>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using type = std::int32_t;
};
template <>
struct IntegerOf<double> {
  using type = std::int64_t;
};

}  // namespace detail

/// The signed integer of the same width as S.
template <class S>
using integer_t = typename detail::IntegerOf<S>::type;

/// A register of S, and the register of integers with as many lanes (also the type of masks: 0 or -1 per lane).
template <class S>
using Vec = typename detail::Register<S>::type;
template <class S>
using IntVec = typename detail::Register<integer_t<S>>::type;

/// Lanes of a register.
template <class S>
inline constexpr Index lanes = static_cast<Index>(register_bytes / sizeof(S));

template <class S>
inline Vec<S> broadcast(S x) {
  return x - Vec<S>{};  // x + 0 would not be x for -0
}

template <class S>
inline Vec<S> load(const S* p) {
  Vec<S> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class S>
inline void store(S* p, Vec<S> v) {
  std::memcpy(p, &v, sizeof v);
}

/// The first n < lanes elements; the other lanes are 0. A lane's result never depends on its neighbours, so an element
/// gets the same bits in a part-filled register as in a full one.
template <class S>
inline Vec<S> load(const S* p, Index n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << n) - 1), p));
  else
    return Vec<S>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1U << n) - 1), p));
#else
  Vec<S> v{};
  for (Index i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}

template <class S>
inline void store(S* p, Vec<S> v, Index n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << n) - 1), v);
  else
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1U << n) - 1), v);
#else
  for (Index i = 0; i < n; ++i) p[i] = v[i];
#endif
}

/// A register of doubles with the elements at p, which are floats or doubles. GCC 12 converts by halves where it is
/// left to itself.
template <class S>
inline Vec<double> load_double(const S* p) {
  if constexpr (sizeof(S) == 8) {
    return load<S>(p);
  } else {
#if defined(__AVX512F__)
    return Vec<double>(_mm512_maskz_cvtps_pd(__mmask8(-1), _mm256_loadu_ps(p)));
#elif defined(__AVX__)
    return Vec<double>(_mm256_cvtps_pd(_mm_loadu_ps(p)));
#else
    typedef S Half __attribute__((vector_size(register_bytes / 2)));
    Half half;
    std::memcpy(&half, p, sizeof half);
    return __builtin_convertvector(half, Vec<double>);
#endif
  }
}
/// The same with the first n < lanes<double> elements; the other lanes are 0.
template <class S>
inline Vec<double> load_double(const S* p, Index n) {
  Vec<double> v{};
  for (Index i = 0; i < n; ++i) v[i] = static_cast<double>(p[i]);
  return v;
}

template <class S>
inline IntVec<S> bits(Vec<S> v) {
  IntVec<S> i;
  std::memcpy(&i, &v, sizeof v);
  return i;
}

template <class S>
inline Vec<S> from_bits(IntVec<S> i) {
  Vec<S> v;
  std::memcpy(&v, &i, sizeof v);
  return v;
}

/// Shift to the right that fills with zeros.
template <class S>
inline IntVec<S> shift_right(IntVec<S> i, int count) {
  using Unsigned = typename detail::Register<std::make_unsigned_t<integer_t<S>>>::type;
  return reinterpret_cast<IntVec<S>>(reinterpret_cast<Unsigned>(i) >> count);
}

/// a * b + c, fused where the machine can. Written out, because compilers differ in which of several products they
/// fuse.
template <class S>
inline Vec<S> mul_add(Vec<S> a, Vec<S> b, Vec<S> c) {
  constexpr bool single = sizeof(S) == 4;
#if defined(__AVX512F__)
  if constexpr (single)
    return Vec<S>(_mm512_fmadd_ps(a, b, c));
  else
    return Vec<S>(_mm512_fmadd_pd(a, b, c));
#elif defined(__AVX__) && defined(__FMA__)
  if constexpr (single)
    return Vec<S>(_mm256_fmadd_ps(a, b, c));
  else
    return Vec<S>(_mm256_fmadd_pd(a, b, c));
#else
  static_cast<void>(single);
  return a * b + c;
#endif
}

/// Returns a * b + c for single numbers, with the bits of mul_add().
template <class S>
inline S mul_add_scalar(S a, S b, S c) {
#if defined(__FMA__)
  if constexpr (sizeof(S) == 4)
    return __builtin_fmaf(a, b, c);
  else
    return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// The masked forms with all lanes on are the plain instructions; GCC 12 warns about its own plain ones.

/// The smaller and the larger of two numbers; b where one of them is NaN.
template <class S>
inline Vec<S> min(Vec<S> a, Vec<S> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm512_mask_min_ps(a, __mmask16(-1), a, b));
  else
    return Vec<S>(_mm512_mask_min_pd(a, __mmask8(-1), a, b));
#elif defined(__AVX__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm256_min_ps(a, b));
  else
    return Vec<S>(_mm256_min_pd(a, b));
#elif defined(__SSE2__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm_min_ps(a, b));
  else
    return Vec<S>(_mm_min_pd(a, b));
#else
  return a < b ? a : b;
#endif
}
template <class S>
inline Vec<S> max(Vec<S> a, Vec<S> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm512_mask_max_ps(a, __mmask16(-1), a, b));
  else
    return Vec<S>(_mm512_mask_max_pd(a, __mmask8(-1), a, b));
#elif defined(__AVX__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm256_max_ps(a, b));
  else
    return Vec<S>(_mm256_max_pd(a, b));
#elif defined(__SSE2__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm_max_ps(a, b));
  else
    return Vec<S>(_mm_max_pd(a, b));
#else
  return a > b ? a : b;
#endif
}

/// Square root, correctly rounded; NaN below 0.
template <class S>
inline Vec<S> sqrt(Vec<S> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm512_mask_sqrt_ps(x, __mmask16(-1), x));
  else
    return Vec<S>(_mm512_mask_sqrt_pd(x, __mmask8(-1), x));
#elif defined(__AVX__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm256_sqrt_ps(x));
  else
    return Vec<S>(_mm256_sqrt_pd(x));
#elif defined(__SSE2__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm_sqrt_ps(x));
  else
    return Vec<S>(_mm_sqrt_pd(x));
#else
  for (Index i = 0; i < lanes<S>; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

/// The sign bit of each lane, and nothing else.
template <class S>
inline IntVec<S> sign_bit(Vec<S> x) {
  return bits<S>(x) & bits<S>(broadcast<S>(S(-0.0)));
}
template <class S>
inline Vec<S> abs(Vec<S> x) {
  return from_bits<S>(bits<S>(x) & ~bits<S>(broadcast<S>(S(-0.0))));
}
/// |x| with the sign of y.
template <class S>
inline Vec<S> copy_sign(Vec<S> x, Vec<S> y) {
  return from_bits<S>((bits<S>(x) & ~bits<S>(broadcast<S>(S(-0.0)))) | sign_bit<S>(y));
}

namespace detail {

// Interleaves blocks of `Half` lanes of a and b; Upper selects which halves. The step of a butterfly transposition.
template <Index Half, bool Upper, class V, std::size_t... I>
inline V interleave(V a, V b, std::index_sequence<I...>) {
  constexpr int n = static_cast<int>(sizeof...(I));
  constexpr int h = static_cast<int>(Half);
  return __builtin_shufflevector(a, b,
                                 (((static_cast<int>(I) / h) % 2 == 0) ? static_cast<int>(I) + (Upper ? h : 0)
                                                                       : n + static_cast<int>(I) - (Upper ? 0 : h))...);
}

template <class S, Index Half>
inline void transpose_step(Vec<S>* rows) {
  using Lanes = std::make_index_sequence<static_cast<std::size_t>(lanes<S>)>;
#pragma GCC unroll 32
  for (Index i = 0; i < lanes<S>; ++i) {
    if ((i & Half) == 0) {
      const Vec<S> a = rows[i], b = rows[i + Half];
      rows[i] = interleave<Half, false>(a, b, Lanes{});
      rows[i + Half] = interleave<Half, true>(a, b, Lanes{});
    }
  }
  if constexpr (Half > 1) transpose_step<S, Half / 2>(rows);
}

}  // namespace detail

/// Transposes a square of lanes x lanes elements in registers.
template <class S>
inline void transpose(Vec<S>* rows) {
  detail::transpose_step<S, lanes<S> / 2>(rows);
}

namespace detail {

template <class S, Index Half>
inline void sum_lanes_step(Vec<S>* rows) {
  using Lanes = std::make_index_sequence<static_cast<std::size_t>(lanes<S>)>;
#pragma GCC unroll 16
  for (Index i = 0; i < Half; ++i)
    rows[i] = interleave<Half, false>(rows[i], rows[i + Half], Lanes{}) +
              interleave<Half, true>(rows[i], rows[i + Half], Lanes{});
  if constexpr (Half > 1) sum_lanes_step<S, Half / 2>(rows);
}

}  // namespace detail

/// The sums of the lanes of as many registers as a register has lanes, which are overwritten: lane i is that of
/// rows[i]. Each is added up in the same order as by sum().
template <class S>
inline Vec<S> sum_lanes(Vec<S>* rows) {
  detail::sum_lanes_step<S, lanes<S> / 2>(rows);
  return rows[0];
}

/// Sum of the lanes: halves are added until one lane is left.
template <class S>
inline S sum(Vec<S> v) {
  S part[lanes<S>];
  store(part, v);
  for (Index width = lanes<S> / 2; width > 0; width /= 2)
    for (Index i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

/// The lanes in another order: each comes from Shift lanes further on, the last ones from the first.
template <class S, Index Shift, class V>
inline V rotate(V v) {
  return [v]<std::size_t... I>(std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, static_cast<int>((I + std::size_t{Shift}) % sizeof...(I))...);
  }(std::make_index_sequence<static_cast<std::size_t>(lanes<S>)>{});
}

namespace detail {

template <class S, Index Half, class V, class F>
inline V fold_lanes(V v, const F& f) {
  v = f(v, rotate<S, Half>(v));
  if constexpr (Half > 1) v = fold_lanes<S, Half / 2>(v, f);
  return v;
}

}  // namespace detail

/// Smallest of the lanes, in every lane, for numbers and for integers.
template <class S>
inline Vec<S> min_lane(Vec<S> v) {
  return detail::fold_lanes<S, lanes<S> / 2>(v, [](Vec<S> a, Vec<S> b) { return min<S>(a, b); });
}
template <class S>
inline IntVec<S> min_lane_integer(IntVec<S> v) {
  return detail::fold_lanes<S, lanes<S> / 2>(v, [](IntVec<S> a, IntVec<S> b) { return a < b ? a : b; });
}

/// Assigns y[i] = f(x[i]...) for i < n, a register at a time. f maps registers to a register.
template <class S, class F, class... In>
inline void transform(Index n, S* y, const F& f, const In*... x) {
  Index i = 0;
  for (; i + lanes<S> <= n; i += lanes<S>) store<S>(y + i, f(load<S>(x + i)...));
  if (i < n) store<S>(y + i, f(load<S>(x + i, n - i)...), n - i);
}

}  // namespace diffeo::inline DIFFEO_ISA::simd
