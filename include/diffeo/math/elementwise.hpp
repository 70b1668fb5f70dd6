// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <diffeo/math/simd.hpp>
#include <limits>
#include <numbers>
#include <utility>

/// Elementary functions on registers, float and double. No branches and no scalar path: a lane's bits depend on that
/// lane alone. Errors are in units in the last place (ULP) of the correctly rounded result, measured over all floats
/// (or dense and random doubles) against a longer type, subnormal results included; tests/math/elementwise.cpp holds
/// them to it. NaN gives NaN, infinities give the limits, and odd functions keep the sign of -0 unless noted.
///
/// S is not deduced: write `tanh<float>(x)`. The polynomials were computed for this library by Remez exchange; rational
/// ones by reweighted least squares.
namespace diffeo::simd {

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

// x = n log(2) + r, |r| <= log(2) / 2, and e^r = 1 + (r + tail).
template <class S>
struct ReducedExp {
  Nearest<S> n;
  Vec<S> r;
  Vec<S> tail;
};
template <class S>
inline ReducedExp<S> reduced_exp(Vec<S> x) {
  using E = Elementary<S>;
  const Nearest<S> n = nearest_multiple<S>(x, std::numbers::log2e_v<S>);
  Vec<S> r = mul_add<S>(n.value, broadcast<S>(-E::ln2_high), x);
  r = mul_add<S>(n.value, broadcast<S>(-E::ln2_low), r);
  return {n, r, r * r * polynomial<S>(r, E::exp)};
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

}  // namespace diffeo::simd
