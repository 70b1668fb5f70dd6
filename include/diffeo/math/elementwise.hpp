// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <diffeo/math/simd.hpp>
#include <limits>
#include <numbers>
#include <type_traits>
#include <utility>

/// Elementary functions on registers, float and double. No branches and no scalar path: a lane's bits depend on that
/// lane alone, and are the same under AVX2 and AVX-512, GCC and Clang. Errors are in units in the last place (ULP) of
/// the correctly rounded result against a longer type, measured on dense sweeps (every fifth float of 2^-14 <= |x| <=
/// 128, tanh on all of them) and on dense and random doubles, subnormal results included; tests/math/elementwise.cpp
/// holds the functions to them. NaN gives NaN, infinities give the limits, and odd functions keep the sign of -0.
///
/// S is not deduced: write `tanh<float>(x)`. The polynomials were computed for this library by Remez exchange; rational
/// ones by reweighted least squares.
namespace diffeo::inline DIFFEO_ISA::simd {

namespace detail {

// c[0] + c[1] x + ... by Horner's rule.
template <class S, std::size_t N>
inline Vec<S> polynomial(Vec<S> x, const std::array<S, N>& c) {
  Vec<S> y = broadcast<S>(c[N - 1]);
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    ((y = mul_add<S>(y, x, broadcast<S>(c[N - 2 - I]))), ...);
  }(std::make_index_sequence<N - 1>{});
  return y;
}

// Layout of the type, and the coefficients.
template <class S>
struct Elementary;

template <>
struct Elementary<float> {
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  // Beyond it e^x overflows, or is 0.
  static constexpr float exp_max = 89, exp_min = -105, expm1_min = -20;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  // (e^r - 1 - r) / r^2 for |r| <= log(2) / 2.
  static constexpr std::array<float, 5> exp{0x1.fffffcp-2f, 0x1.555490p-3f, 0x1.5558f4p-5f, 0x1.123a6ap-7f,
                                            0x1.6a2350p-10f};
  // (log((1 + s) / (1 - s)) / s - 2) / s^2 in s^2, for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1).
  static constexpr std::array<float, 3> log{0x1.55557ap-1f, 0x1.995e8cp-2f, 0x1.31e82ep-2f};
  // The same for s <= 1 / 3.
  static constexpr std::array<float, 5> log1p_unit{0x1.555558p-1f, 0x1.9996a8p-2f, 0x1.25097cp-2f, 0x1.b6d5c0p-3f,
                                                   0x1.f1b28cp-3f};
  // (sin(r) / r - 1) / r^2 and (cos(r) - 1 + r^2 / 2) / r^4 in r^2, for |r| <= pi / 4.
  static constexpr std::array<float, 3> sin{-0x1.555546p-3f, 0x1.110756p-7f, -0x1.994b40p-13f};
  static constexpr std::array<float, 3> cos{0x1.55554ap-5f, -0x1.6c0c28p-10f, 0x1.99e86cp-16f};
  // pi / 2; all but the last have so few bits that their products with integers below 2^13 are exact.
  static constexpr std::array<float, 5> half_pi{0x1.92p+0f, 0x1.fb4p-12f, 0x1.444p-24f, 0x1.68cp-39f, 0x1.1a6264p-54f};
  // tanh(x / 2) = x / 2 * (1 + x^2 P(x^2)) / (1 + x^2 Q(x^2) / 2); tanh is 1 from tanh_max on.
  static constexpr std::array<float, 2> tanh_p{0x1.e7e19ep-6f, 0x1.df972ep-14f};
  static constexpr std::array<float, 3> tanh_q{0x1.cf4db4p-3f, 0x1.3c6712p-9f, 0x1.4a6aeap-19f};
  static constexpr float tanh_max = 0x1.194p+3f;
};

template <>
struct Elementary<double> {
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double exp_max = 710, exp_min = -746, expm1_min = -40;
  static constexpr double ln2_high = 0x1.62e42fefa3p-1, ln2_low = 0x1.3de6af278ece6p-42;
  static constexpr std::array<double, 10> exp{0x1.000000000000ap-1,  0x1.55555555554f9p-3,  0x1.55555555507f1p-5,
                                              0x1.1111111127e7cp-7,  0x1.6c16c1844ae7fp-10, 0x1.a01a0129b6d40p-13,
                                              0x1.a01999ae101b2p-16, 0x1.71df2626d4135p-19, 0x1.28adce34b9f97p-22,
                                              0x1.ad7f0b1eaccf0p-26};
  static constexpr std::array<double, 7> log{0x1.5555555555593p-1, 0x1.999999997f9f9p-2, 0x1.249249422a37bp-2,
                                             0x1.c71c51d7dc7a3p-3, 0x1.746649ac91185p-3, 0x1.39a095db9f9d5p-3,
                                             0x1.2f117c31349ccp-3};
  static constexpr std::array<double, 10> log1p_unit{
      0x1.5555555555535p-1, 0x1.99999999a085ap-2, 0x1.2492492084990p-2, 0x1.c71c741ffe62dp-3, 0x1.745cb38af9828p-3,
      0x1.3b1de490bb930p-3, 0x1.10675539ba8abp-3, 0x1.efdebfbe9b494p-4, 0x1.5596bf3531113p-4, 0x1.5c8fa43b61343p-3};
  static constexpr std::array<double, 6> sin{-0x1.5555555555549p-3, 0x1.111111110f842p-7,   -0x1.a01a019c0a2bap-13,
                                             0x1.71de3570ff49bp-19, -0x1.ae5e60c5b5fc6p-26, 0x1.5d915e57f7652p-33};
  static constexpr std::array<double, 6> cos{0x1.555555555554bp-5,   -0x1.6c16c16c14f47p-10, 0x1.a01a019c7cdc3p-16,
                                             -0x1.27e4f7e53fce2p-22, 0x1.1ee9d3dd769adp-29,  -0x1.8fa291579a6afp-37};
  // Products with integers below 2^20 are exact.
  static constexpr std::array<double, 4> half_pi{0x1.921fb544p+0, 0x1.0b4611a6p-34, 0x1.3198a2ep-69, 0x1.b839a252p-104};
  static constexpr std::array<double, 5> tanh_p{2 * 0.018009962644572320038, 2 * 0.00015158026168958842655,
                                                2 * 4.2596365052701945706e-7, 2 * 4.0256388731190022251e-10,
                                                2 * 9.0469113557131002263e-14};
  static constexpr std::array<double, 6> tanh_q{2 * 0.11935325862247760628,    2 * 0.0019159320752529416117,
                                                2 * 9.1564133051155877078e-6,  2 * 1.5158305937952672861e-8,
                                                2 * 7.5717324032543643786e-12, 2 * 5.1825297520399320725e-16};
  static constexpr double tanh_max = 19.03125;
};

// The integer nearest to x, for |x| < 2^(mantissa_bits - 2), as number and as integer.
template <class S>
struct Nearest {
  Vec<S> value;
  IntVec<S> integer;
};
template <class S>
inline Nearest<S> nearest_multiple(Vec<S> x, S factor) {
  // 1.5 * 2^mantissa_bits: the sum's last bit weighs 1.
  constexpr S magic = S(3) * static_cast<S>(std::int64_t{1} << (Elementary<S>::mantissa_bits - 1));
  const Vec<S> shifted = mul_add<S>(x, broadcast<S>(factor), broadcast<S>(magic));
  return {shifted - magic, bits<S>(shifted) - bits<S>(broadcast<S>(magic))};
}

// 2^n for the exponents of normal numbers.
template <class S>
inline Vec<S> power_of_two(IntVec<S> n) {
  return from_bits<S>((n + Elementary<S>::exponent_bias) << Elementary<S>::mantissa_bits);
}

// x * 2^n, rounded once, also into subnormal numbers; |n| may be twice as large as normal exponents are.
template <class S>
inline Vec<S> scale(Vec<S> x, Nearest<S> n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    return Vec<S>(_mm512_mask_scalef_ps(x, __mmask16(-1), x, n.value));
  else
    return Vec<S>(_mm512_mask_scalef_pd(x, __mmask8(-1), x, n.value));
#else
  const IntVec<S> half = nearest_multiple<S>(n.value, S(0.5)).integer;
  return x * power_of_two<S>(half) * power_of_two<S>(n.integer - half);
#endif
}

// x = n log(2) + r, |r| <= log(2) / 2, and e^r = 1 + rest.
template <class S>
struct ReducedExp {
  Nearest<S> n;
  Vec<S> rest;
};
template <class S>
inline ReducedExp<S> reduced_exp(Vec<S> x) {
  using E = Elementary<S>;
  const Nearest<S> n = nearest_multiple<S>(x, std::numbers::log2e_v<S>);
  Vec<S> r = mul_add<S>(n.value, broadcast<S>(-E::ln2_high), x);
  r = mul_add<S>(n.value, broadcast<S>(-E::ln2_low), r);
  return {n, mul_add<S>(r * r, polynomial<S>(r, E::exp), r)};
}

// log(x) + correction + exponent_shift * log(2) for positive, finite, normal x. With x = 2^k (1 + f), sqrt(1/2) <= 1 +
// f < sqrt(2), and s = f / (2 + f): log(1 + f) = 2 s + s R(s^2) = f - (f^2 / 2 - s (f^2 / 2 + R)), whose terms fall in
// size.
template <class S>
inline Vec<S> log_normal(Vec<S> x, Vec<S> correction, Vec<S> exponent_shift) {
  using E = Elementary<S>;
  const IntVec<S> lowest = bits<S>(broadcast<S>(S(0.5) * std::numbers::sqrt2_v<S>));
  // Negative x and NaN, of which only the limits remain, would overflow in signed numbers.
  using Unsigned = typename Register<std::make_unsigned_t<integer_t<S>>>::type;
  const auto shifted = IntVec<S>(Unsigned(bits<S>(x)) - Unsigned(lowest) + Unsigned(bits<S>(broadcast<S>(1))));
  const IntVec<S> mantissa = (shifted & ((integer_t<S>{1} << E::mantissa_bits) - 1)) + lowest;
  // The biased exponent as a number: put in the low bits of 2^mantissa_bits, which is subtracted again.
  const Vec<S> two_power = broadcast<S>(static_cast<S>(std::int64_t{1} << E::mantissa_bits));
  const Vec<S> k = from_bits<S>(shift_right<S>(shifted, E::mantissa_bits) | bits<S>(two_power)) -
                   (two_power + static_cast<S>(E::exponent_bias)) + exponent_shift;
  const Vec<S> f = from_bits<S>(mantissa) - S(1);
  const Vec<S> s = f / (f + S(2)), z = s * s, half = S(0.5) * f;
  const Vec<S> sum = mul_add<S>(half, f, z * polynomial<S>(z, E::log));
  const Vec<S> low = mul_add<S>(s, sum, mul_add<S>(k, broadcast<S>(E::ln2_low), correction));
  return mul_add<S>(k, broadcast<S>(E::ln2_high), f - mul_add<S>(half, f, -low));
}

// log(1 + x) for finite x > -1; what 1 + x rounds away is made up to first order.
template <class S>
inline Vec<S> log1p_finite(Vec<S> x) {
  const Vec<S> u = x + S(1);
  return log_normal<S>(u, (x - (u - S(1))) / u, broadcast<S>(0));
}

// log(1 + x) for 0 <= x <= 1, by the same formula without the power of two.
template <class S>
inline Vec<S> log1p_unit(Vec<S> x) {
  const Vec<S> s = x / (x + S(2)), z = s * s, half = S(0.5) * x;
  const Vec<S> sum = mul_add<S>(half, x, z * polynomial<S>(z, Elementary<S>::log1p_unit));
  return x - mul_add<S>(half, x, -(s * sum));
}

// Returns f where x > lowest, -inf at lowest, NaN below and +inf at +inf, whatever f is there.
template <class S>
inline Vec<S> logarithm_limits(Vec<S> x, S lowest, Vec<S> f) {
  using Limits = std::numeric_limits<S>;
  const Vec<S> at_most = x == lowest ? broadcast<S>(-Limits::infinity()) : broadcast<S>(Limits::quiet_NaN());
  return x > lowest ? (x < Limits::infinity() ? f : x) : at_most;
}

// sin and cos of |r| <= pi / 4.
template <class S>
inline Vec<S> sin_near_zero(Vec<S> r, Vec<S> square) {
  return mul_add<S>(r * square, polynomial<S>(square, Elementary<S>::sin), r);
}
template <class S>
inline Vec<S> cos_near_zero(Vec<S> square) {
  return mul_add<S>(square * square, polynomial<S>(square, Elementary<S>::cos),
                    mul_add<S>(square, broadcast<S>(-0.5), broadcast<S>(1)));
}

// sin(x + quarters * pi / 2), without the sign of a zero result.
template <class S>
inline Vec<S> sin_shifted(Vec<S> x, integer_t<S> quarters) {
  using E = Elementary<S>;
  const Nearest<S> n = nearest_multiple<S>(x, S(2) * std::numbers::inv_pi_v<S>);
  Vec<S> r = x;
  for (const S part : E::half_pi) r = mul_add<S>(n.value, broadcast<S>(-part), r);
  // Binds only where x is so large that the reduction has failed.
  r = max<S>(broadcast<S>(-1), min<S>(broadcast<S>(1), r));
  const Vec<S> square = r * r;
  const IntVec<S> quadrant = n.integer + quarters;
  const IntVec<S> odd = quadrant << (8 * static_cast<int>(sizeof(S)) - 1);
  const Vec<S> y = odd < 0 ? cos_near_zero<S>(square) : sin_near_zero<S>(r, square);
  return from_bits<S>(bits<S>(y) ^ ((quadrant & 2) << (8 * static_cast<int>(sizeof(S)) - 2)));
}

}  // namespace detail

/// At most 4 ULP (5 without fused multiply-add) for all x; exactly odd, |tanh x| <= 1, x itself for tiny x.
/// With u = a / b the approximation of tanh(x / 2), tanh x = 2 a b / (a^2 + b^2): one division, and the error of u
/// fades as tanh saturates.
template <class S>
inline Vec<S> tanh(Vec<S> x) {
  using E = detail::Elementary<S>;
  x = max<S>(broadcast<S>(-E::tanh_max), min<S>(broadcast<S>(E::tanh_max), x));
  const Vec<S> t = x * x;
  const Vec<S> a = mul_add<S>(x * t, detail::polynomial<S>(t, E::tanh_p), x);
  const Vec<S> b = mul_add<S>(t, detail::polynomial<S>(t, E::tanh_q), broadcast<S>(2));
  const Vec<S> numerator = a * (b + b);
  Vec<S> denominator = mul_add<S>(b, b, a * a);
  // Rounding could put the quotient beyond 1. That no float does it is tested; doubles are too many.
  if constexpr (sizeof(S) == 8) denominator = max<S>(abs<S>(numerator), denominator);
  return numerator / denominator;
}

/// e^x. At most 1.1 ULP; 0 and infinity where the result is out of range.
template <class S>
inline Vec<S> exp(Vec<S> x) {
  using E = detail::Elementary<S>;
  x = max<S>(broadcast<S>(E::exp_min), min<S>(broadcast<S>(E::exp_max), x));
  const auto e = detail::reduced_exp<S>(x);
  return detail::scale<S>(S(1) + e.rest, e.n);
}

/// e^x - 1. At most 2.1 ULP.
template <class S>
inline Vec<S> expm1(Vec<S> x) {
  using E = detail::Elementary<S>;
  const auto e = detail::reduced_exp<S>(max<S>(broadcast<S>(E::expm1_min), min<S>(broadcast<S>(E::exp_max), x)));
  // Halved, so that 2^n does not overflow before its time.
  const Vec<S> half_power = detail::power_of_two<S>(e.n.integer - 1);
  const Vec<S> y = S(2) * mul_add<S>(half_power, e.rest, half_power - S(0.5));
  return abs<S>(x) < std::numeric_limits<S>::epsilon() / S(4) ? x : y;
}

/// Natural logarithm. At most 1 ULP; -infinity at 0, NaN below.
template <class S>
inline Vec<S> log(Vec<S> x) {
  using E = detail::Elementary<S>;
  // Subnormal numbers are made normal.
  const auto subnormal = x < std::numeric_limits<S>::min();
  const Vec<S> scaled = subnormal ? x * static_cast<S>(std::int64_t{1} << E::mantissa_bits) : x;
  const Vec<S> steps = subnormal ? broadcast<S>(-E::mantissa_bits) : broadcast<S>(0);
  return detail::logarithm_limits<S>(x, S(0), detail::log_normal<S>(scaled, broadcast<S>(0), steps));
}

/// log(1 + x). At most 1 ULP; -infinity at -1, NaN below.
template <class S>
inline Vec<S> log1p(Vec<S> x) {
  const Vec<S> y = detail::logarithm_limits<S>(x, S(-1), detail::log1p_finite<S>(x));
  return abs<S>(x) < std::numeric_limits<S>::epsilon() / S(4) ? x : y;
}

/// Softplus, log(1 + e^x), without overflow: x where x is large, e^x where it is very negative. At most 2.1 ULP.
template <class S>
inline Vec<S> log1p_exp(Vec<S> x) {
  return max<S>(broadcast<S>(0), x) + detail::log1p_unit<S>(exp<S>(-abs<S>(x)));
}

/// log(1 / (1 + e^-x)) = -log1p_exp(-x). At most 2.1 ULP.
template <class S>
inline Vec<S> log_sigmoid(Vec<S> x) {
  return min<S>(broadcast<S>(0), x) - detail::log1p_unit<S>(exp<S>(-abs<S>(x)));
}

/// 1 / (1 + e^-x). At most 3 ULP, for very negative x too.
template <class S>
inline Vec<S> sigmoid(Vec<S> x) {
  const Vec<S> e = exp<S>(-abs<S>(x));
  return (x < S(0) ? e : broadcast<S>(1)) / (e + S(1));
}

/// Sine and cosine. At most 3 ULP for |x| <= 1e4 (float) and 1e6 (double), by the reduction of Cody and Waite. Beyond
/// that the result stays in [-1, 1] but is wrong by more and more without fused multiply-add (by 0.03 below 1e6 in
/// float, 1e-5 near 1e10 in double), and has nothing to do with x from 3e6 (float) and 1e15 (double) on; NaN at
/// infinity. An exact reduction of all x would need a branch to a scalar path.
template <class S>
inline Vec<S> sin(Vec<S> x) {
  const Vec<S> y = detail::sin_shifted<S>(x, 0);
  return abs<S>(x) < std::numeric_limits<S>::epsilon() ? x : y;
}
template <class S>
inline Vec<S> cos(Vec<S> x) {
  return detail::sin_shifted<S>(x, 1);
}

}  // namespace diffeo::inline DIFFEO_ISA::simd
