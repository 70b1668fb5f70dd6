// SPDX-License-Identifier: MIT
#include <diffeo/math/random_fill.hpp>
#include <diffeo/training/adam.hpp>
#include <limits>

#include "../catch.hpp"

using diffeo::Adam;
using diffeo::AdamOptions;
using diffeo::Array;
using diffeo::Index;

namespace {

template <diffeo::Real S>
Array<S> normal_array(Index rows, std::uint64_t stream) {
  Array<S> x(rows, 1);
  diffeo::fill_normal(diffeo::view(x), 1, stream);
  return x;
}

// Algorithm 2 of Loshchilov & Hutter, which without decay is algorithm 1 of Kingma & Ba, number by number in double.
struct PlainAdam {
  AdamOptions options;
  std::vector<double> p, m, v;
  int t = 0;

  void step(const Array<double>& g, double rate) {
    ++t;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double gi = g(static_cast<Index>(i), 0);
      m[i] = options.beta1 * m[i] + (1 - options.beta1) * gi;
      v[i] = options.beta2 * v[i] + (1 - options.beta2) * gi * gi;
      const double m_hat = m[i] / (1 - std::pow(options.beta1, t)), v_hat = v[i] / (1 - std::pow(options.beta2, t));
      p[i] -= rate * (m_hat / (std::sqrt(v_hat) + options.epsilon) + options.weight_decay * p[i]);
    }
  }
};

template <diffeo::Real S>
void compare(const AdamOptions& options, double tolerance) {
  const Index n = 37;  // more than whole registers
  Array<S> p = normal_array<S>(n, 0);
  PlainAdam plain{options, {}, std::vector<double>(std::size_t(n)), std::vector<double>(std::size_t(n))};
  for (Index i = 0; i < n; ++i) plain.p.push_back(static_cast<double>(p(i, 0)));
  Adam<S> adam(n, options);
  for (int step = 0; step < 50; ++step) {
    Array<S> g = normal_array<S>(n, static_cast<std::uint64_t>(step) + 1);
    for (Index i = 0; i < n; ++i) g(i, 0) *= std::pow(S(10), static_cast<S>(i % 9 - 6));  // of very different sizes
    if (step % 7 == 0) g.topRows(5).setZero();
    const double rate = 0.01 * (step + 1);
    adam.begin_step(rate);
    adam.update(p.data(), g.data(), 0, n, S(0.5));
    plain.step(g.template cast<double>() * 0.5, rate);
  }
  for (Index i = 0; i < n; ++i) CHECK(p(i, 0) == Approx(plain.p[std::size_t(i)]).margin(tolerance));
}

}  // namespace

TEST_CASE("Adam and AdamW take the steps of a plain implementation", "[training]") {
  compare<double>({}, 1e-11);
  compare<double>({.beta1 = 0.5, .beta2 = 0.9, .epsilon = 1e-3}, 1e-11);
  compare<double>({.weight_decay = 0.1}, 1e-11);
  compare<double>({.beta1 = 0, .beta2 = 0}, 1e-11);
  compare<float>({}, 2e-4);
  compare<float>({.weight_decay = 0.1}, 2e-4);
}

TEMPLATE_TEST_CASE("an update may be cut into pieces", "[training]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Index n = 100;
  Array<S> whole = normal_array<S>(n, 0), pieces = whole;
  Adam<S> a(n, {}), b(n, {});
  for (std::uint64_t step = 1; step < 4; ++step) {
    const Array<S> g = normal_array<S>(n, step);
    a.begin_step(0.1);
    b.begin_step(0.1);
    a.update(whole.data(), g.data(), 0, n, S(1));
    for (const auto& [begin, end] : {std::pair<Index, Index>{64, 100}, {0, 3}, {3, 3}, {3, 64}})
      b.update(pieces.data(), g.data(), begin, end, S(1));
  }
  CHECK((whole == pieces).all());
}

TEST_CASE("Adam: bad options", "[training]") {
  const auto message = [](const AdamOptions& options) {
    return thrown_message<diffeo::invalid_argument>([&] { Adam<float>(3, options); });
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(message({.beta1 = 1}), "adam: beta1 is 1"));
  CHECK(contains(message({.beta1 = -0.1}), "adam: beta1 is -0.1"));
  CHECK(contains(message({.beta1 = nan}), "adam: beta1 is nan"));
  CHECK(contains(message({.beta2 = 1.5}), "adam: beta2 is 1.5"));
  CHECK(contains(message({.beta2 = nan}), "adam: beta2 is nan"));
  CHECK(contains(message({.epsilon = 0}), "adam: epsilon is 0"));
  CHECK(contains(message({.epsilon = -1e-8}), "adam: epsilon is -1e-08"));
  CHECK(contains(message({.weight_decay = -1}), "adam: weight_decay is -1"));
  CHECK(contains(message({.weight_decay = nan}), "adam: weight_decay is nan"));
}
