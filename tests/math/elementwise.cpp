// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <diffeo/math/elementwise.hpp>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "../catch.hpp"

using diffeo::Index;
namespace simd = diffeo::simd;

namespace {

// The reference is computed in a longer type, whose own error is far below a unit of S.
template <class S>
using Longer = std::conditional_t<std::is_same_v<S, float>, double, long double>;

template <class S>
struct Function {
  std::string name;
  void (*apply)(Index n, S* y, const S* x);
  Longer<S> (*reference)(Longer<S> x);
  double ulp;          // the documented bound
  S range = INFINITY;  // of |x|, where it holds
};

template <class L>
L softplus(L x) {
  return std::max(x, L(0)) + std::log1p(std::exp(-std::abs(x)));
}

#ifdef __FMA__
constexpr double tanh_ulp = 4;
#else
constexpr double tanh_ulp = 5;
#endif

template <class S>
std::vector<Function<S>> functions() {
  using L = Longer<S>;
  using V = simd::Vec<S>;
  return {
#define DIFFEO_FUNCTION(f)                           \
  #f, [](Index n, S* y, const S* x) {                \
    simd::transform<S>(                              \
        n, y, [](V v) { return simd::f<S>(v); }, x); \
  }
      {DIFFEO_FUNCTION(tanh), [](L x) { return std::tanh(x); }, tanh_ulp},
      {DIFFEO_FUNCTION(exp), [](L x) { return std::exp(x); }, 1.1},
      {DIFFEO_FUNCTION(expm1), [](L x) { return std::expm1(x); }, 2.1},
      {DIFFEO_FUNCTION(log), [](L x) { return std::log(x); }, 1},
      {DIFFEO_FUNCTION(log1p), [](L x) { return std::log1p(x); }, 1},
      {DIFFEO_FUNCTION(log1p_exp), [](L x) { return softplus(x); }, 2.1},
      {DIFFEO_FUNCTION(log_sigmoid), [](L x) { return -softplus(-x); }, 2.1},
      {DIFFEO_FUNCTION(sigmoid), [](L x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); },
       3},
      {DIFFEO_FUNCTION(sqrt), [](L x) { return std::sqrt(x); }, 0.501},
      {DIFFEO_FUNCTION(abs), [](L x) { return std::abs(x); }, 0},
      {DIFFEO_FUNCTION(sin), [](L x) { return std::sin(x); }, 3, S(sizeof(S) == 4 ? 1e4 : 1e6)},
      {DIFFEO_FUNCTION(cos), [](L x) { return std::cos(x); }, 3, S(sizeof(S) == 4 ? 1e4 : 1e6)},
#undef DIFFEO_FUNCTION
  };
}

// |y - exact| in units of the last place that S has at `exact`; infinity where only one of them is NaN.
template <class S>
double ulp_error(S y, Longer<S> exact) {
  using L = Longer<S>;
  using Limits = std::numeric_limits<S>;
  if (std::isnan(y) || std::isnan(exact)) return std::isnan(y) && std::isnan(exact) ? 0 : INFINITY;
  // Beyond the largest number, infinity stands for the next power of two.
  const L top = std::ldexp(L(1), Limits::max_exponent);
  const L value = std::clamp(L(y), -top, top), target = std::clamp(exact, -top, top);
  const int exponent = target == 0 ? Limits::min_exponent - 1 : std::ilogb(target);
  const L unit =
      std::ldexp(L(1), std::clamp(exponent, Limits::min_exponent - 1, Limits::max_exponent - 1) - (Limits::digits - 1));
  return double(std::abs(value - target) / unit);
}

struct Worst {
  double ulp = 0;
  double x = 0;
};

template <class S>
void examine(const Function<S>& f, const std::vector<S>& x, Worst& worst) {
  std::vector<S> y(x.size());
  f.apply(Index(x.size()), y.data(), x.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::abs(x[i]) > f.range) continue;
    const double error = ulp_error<S>(y[i], f.reference(x[i]));
    if (!(error <= worst.ulp)) worst = {error, double(x[i])};
  }
}

float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// All floats, `step` apart in order of their bits: every exponent, subnormal numbers, NaN.
std::vector<float> float_sweep(std::uint32_t first, std::uint32_t last, std::uint32_t step) {
  std::vector<float> x;
  for (std::uint64_t bits = first; bits <= last; bits += step) x.push_back(float_of(std::uint32_t(bits)));
  return x;
}

template <class S>
std::vector<S> special_values() {
  using L = std::numeric_limits<S>;
  return {
      S(0),     S(-0.0),       S(1),     S(-1),       L::infinity(),    -L::infinity(), L::quiet_NaN(), L::denorm_min(),
      L::min(), -L::min() / 2, L::max(), L::lowest(), L::epsilon() / 3, S(-1e-20),      S(88.7),        S(-103.5)};
}

}  // namespace

TEST_CASE("every function is within its documented error over all floats") {
  const std::vector<float> all = float_sweep(0, 0xFFFFFFFFu, 6007);
  // Where the functions bend: 2^-14 <= |x| <= 128.
  std::vector<float> dense = float_sweep(0x38800000u, 0x43000000u, 463);
  for (std::size_t i = 0, n = dense.size(); i < n; ++i) dense.push_back(-dense[i]);
  for (const auto& f : functions<float>()) {
    Worst worst;
    examine(f, all, worst);
    examine(f, dense, worst);
    INFO(f.name << " is off by " << worst.ulp << " ULP at " << worst.x);
    CHECK(worst.ulp <= f.ulp);
  }
}

TEST_CASE("every function is within its documented error over doubles") {
  std::vector<double> x;
  std::mt19937_64 random(7);
  for (int i = 0; i < 40000; ++i) {
    const std::uint64_t bits = random();
    double any;
    std::memcpy(&any, &bits, sizeof any);
    x.push_back(any);
    const double u = double(random() >> 11) * 0x1p-53;
    x.push_back(40 * u - 20);
    x.push_back(1500 * u - 750);
    x.push_back(2e6 * u - 1e6);
    x.push_back(std::exp2(60 * u - 50));
    x.push_back(-std::exp2(60 * u - 50));
    x.push_back(1 + (u - 0.5) * 0x1p-10);
  }
  for (const auto& f : functions<double>()) {
    Worst worst;
    examine(f, x, worst);
    INFO(f.name << " is off by " << worst.ulp << " ULP at " << worst.x);
    CHECK(worst.ulp <= f.ulp);
  }
}

TEMPLATE_TEST_CASE("functions of special values", "", float, double) {
  using S = TestType;
  const std::vector<S> x = special_values<S>();
  for (const auto& f : functions<S>()) {
    std::vector<S> y(x.size());
    f.apply(Index(x.size()), y.data(), x.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::isfinite(x[i]) && std::abs(x[i]) > f.range) continue;
      INFO(f.name << "(" << x[i] << ") = " << y[i] << ", expected " << f.reference(x[i]));
      CHECK(ulp_error<S>(y[i], f.reference(x[i])) <= f.ulp);
      const bool odd = f.name == "tanh" || f.name == "expm1" || f.name == "log1p" || f.name == "sin";
      if (odd && std::abs(x[i]) < S(1e-15)) {
        CHECK(y[i] == x[i]);  // exactly, with its sign
        CHECK(std::signbit(y[i]) == std::signbit(x[i]));
      }
    }
  }
}

TEMPLATE_TEST_CASE("tanh is odd, at most 1, and 1 at infinity", "", float, double) {
  using S = TestType;
  std::vector<S> x;
  if constexpr (sizeof(S) == 4) {
    x = float_sweep(0x40C00000u, 0x41200000u, 1);  // all of 6 to 10, where rounding could carry it beyond 1
    for (const float small : float_sweep(0, 0x40C00000u, 20011)) x.push_back(small);
  } else {
    for (int i = 0; i <= 200000; ++i) x.push_back(S(21) * S(i) / S(200000));
  }
  x.push_back(INFINITY);
  std::vector<S> y(x.size()), mirrored(x.size());
  const auto tanh = functions<S>().front();
  tanh.apply(Index(x.size()), y.data(), x.data());
  CHECK(*std::max_element(y.begin(), y.end()) == 1);
  CHECK(y.back() == 1);
  for (S& v : x) v = -v;
  tanh.apply(Index(x.size()), mirrored.data(), x.data());
  bool odd = true;
  for (std::size_t i = 0; i < x.size(); ++i) odd = odd && mirrored[i] == -y[i];
  CHECK(odd);
}

TEMPLATE_TEST_CASE("a lane does not depend on its neighbours", "", float, double) {
  using S = TestType;
  std::vector<S> x = special_values<S>();
  std::mt19937 random(3);
  for (int i = 0; i < 100; ++i) x.push_back(S(std::ldexp(double(random()), int(random() % 40) - 40)) - S(1));
  for (const auto& f : functions<S>()) {
    std::vector<S> whole(x.size());
    f.apply(Index(x.size()), whole.data(), x.data());
    bool same = true;
    for (std::size_t first = 0; first < x.size(); ++first) {
      for (const std::size_t count : {std::size_t{1}, std::size_t{3}, std::size_t{20}}) {
        const std::size_t n = std::min(count, x.size() - first);
        std::vector<S> part(n + 1, S(5));
        f.apply(Index(n), part.data(), x.data() + first);
        for (std::size_t k = 0; k < n; ++k)  // but for the sign of a NaN, which compilers leave open
          same = same && (std::memcmp(&part[k], &whole[first + k], sizeof(S)) == 0 ||
                          (std::isnan(part[k]) && std::isnan(whole[first + k])));
        same = same && part[n] == 5;
      }
    }
    INFO(f.name);
    CHECK(same);
  }
}

TEMPLATE_TEST_CASE("max and min give the second argument where one is NaN", "", float, double) {
  using S = TestType;
  const S nan = std::numeric_limits<S>::quiet_NaN();
  const auto a = simd::broadcast<S>(1), b = simd::broadcast<S>(2), c = simd::broadcast<S>(nan);
  CHECK(S(simd::max<S>(a, b)[0]) == 2);
  CHECK(S(simd::min<S>(a, b)[0]) == 1);
  CHECK(S(simd::max<S>(c, b)[0]) == 2);
  CHECK(S(simd::min<S>(c, b)[0]) == 2);
  CHECK(std::isnan(S(simd::max<S>(a, c)[0])));
  CHECK(std::isnan(S(simd::min<S>(a, c)[0])));
}

TEMPLATE_TEST_CASE("sine and cosine stay bounded where their reduction fails", "", float, double) {
  using S = TestType;
  std::vector<S> x;
  if constexpr (sizeof(S) == 4) {
    x = float_sweep(0x46000000u, 0x7F7FFFFFu, 10007);
  } else {
    std::mt19937_64 random(9);
    for (int i = 0; i < 50000; ++i)  // 2^19 to 2^1023
      x.push_back(std::ldexp(1 + double(random() >> 11) * 0x1p-53, 19 + int(random() % 1004)));
  }
  x.push_back(std::numeric_limits<S>::max());
  for (std::size_t i = 0, n = x.size(); i < n; ++i) x.push_back(-x[i]);
  std::vector<S> y(x.size());
  for (const auto& f : functions<S>()) {
    if (f.name != "sin" && f.name != "cos") continue;
    f.apply(Index(x.size()), y.data(), x.data());
    INFO(f.name);
    CHECK(std::all_of(y.begin(), y.end(), [](S v) { return v >= -1 && v <= 1; }));  // false for NaN
  }
}
