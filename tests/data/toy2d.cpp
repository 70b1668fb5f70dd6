// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cmath>
#include <diffeo/data/toy2d.hpp>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "../catch.hpp"

using diffeo::Array;
using diffeo::Index;
namespace toy2d = diffeo::toy2d;

namespace {

/// The centres of an n x n grid of cells of the square (-half, half)^2.
Array<double> cell_centres(Index n, double half) {
  Array<double> x(n * n, 2);
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < n; ++j)
      x.row(i * n + j) << (2 * double(i) + 1) / double(n) * half - half, (2 * double(j) + 1) / double(n) * half - half;
  return x;
}

}  // namespace

TEST_CASE("the eight toy densities", "[toy2d]") {
  const std::vector<std::string_view> expected = {"swissroll",  "circles",  "rings",    "moons",
                                                  "8gaussians", "pinwheel", "2spirals", "checkerboard"};
  const auto names = toy2d::names();
  CHECK(std::equal(names.begin(), names.end(), expected.begin(), expected.end()));
  for (const std::string_view name : names) CHECK(toy2d::has_log_prob(name));
  CHECK_FALSE(toy2d::has_log_prob("moon"));
  CHECK(toy2d::best_log_prob("moons") == -2.39388);
  CHECK(toy2d::best_log_prob("checkerboard") == Approx(-std::log(32)).epsilon(1e-15));
}

TEMPLATE_TEST_CASE("the mean of the exact log density is the best score", "[toy2d]", float, double) {
  for (const std::string_view name : toy2d::names()) {
    CAPTURE(std::string(name));
    const Index n = name == "2spirals" ? 10000 : 40000;
    const Array<double> log_p = toy2d::log_prob<double>(name, toy2d::sample<TestType>(name, n, 3));
    const double mean = log_p.mean(), error = std::sqrt((log_p - mean).square().mean() / double(n));
    CHECK(std::abs(mean - toy2d::best_log_prob(name)) < 3 * error + 2e-5);  // to which the best score is known
  }
}

TEST_CASE("densities integrate to one and their entropy is the best score", "[toy2d][long]") {
  for (const std::string_view name : toy2d::names()) {
    CAPTURE(std::string(name));
    // Cells of one standard deviation of the noise suffice: the rule converges geometrically for smooth functions.
    const double half = name == "pinwheel" ? 6 : 4.8;
    const Index n = name == "pinwheel" ? 300 : name == "swissroll" || name == "moons" ? 60 : 120;
    const double cell = 4 * half * half / double(n * n);
    const Array<double> log_p = toy2d::log_prob(name, cell_centres(n, half));
    const Array<double> p = log_p.exp();
    CHECK(std::abs(p.sum() * cell - 1) < (name == "pinwheel" ? 1e-4 : 1e-6));
    const double negative_entropy = (p * log_p.max(-1e3)).sum() * cell;  // without 0 times infinity
    CHECK(std::abs(negative_entropy - toy2d::best_log_prob(name)) < 1e-4);
  }
}

TEST_CASE("log densities agree with an independent computation", "[toy2d]") {
  Array<double> x(4, 2);
  x << 0, 0, 1.25, -0.5, -2, 1, 5, 4;
  // NumPy and SciPy: fixed Gauss-Legendre rules of 80,000 nodes, scaled Bessel functions, roots on a grid of 4e6
  // angles.
  const std::map<std::string, std::array<double, 4>> expected = {
      {"swissroll", {-13.556670878, -2.132665366, -4.6921336485, -178.8011641}},
      {"circles", {-19.208041536, -2.5757282072, -6.9291411657, -104.03189395}},
      {"rings", {-42.118026639, -3.8142059495, -2.4402109523, -907.88055253}},
      {"moons", {-8.0803784706, -5.2204859093, -4.1128380017, -183.5396808}},
      {"8gaussians", {-31.75873757, -12.24489211, -5.7771039236, -53.810396754}},
      {"pinwheel", {-5.2731690858, -2.2312365843, -9.9413345561, -46.663025015}},
      {"2spirals", {-3.6474513858, -2.5812535207, -2.2077398341, -534.8409644}},
  };
  for (const auto& [name, values] : expected) {
    const Array<double> log_p = toy2d::log_prob(name, x);
    const Array<float> single = toy2d::log_prob(name, x.cast<float>());
    for (Index i = 0; i < 4; ++i) {
      CAPTURE(name, i);
      CHECK(log_p(i, 0) == Approx(values[static_cast<std::size_t>(i)]).epsilon(1e-9));
      CHECK(single(i, 0) == Approx(values[static_cast<std::size_t>(i)]).epsilon(1e-6));
    }
  }
}

TEST_CASE("the checkerboard's squares", "[toy2d]") {
  Array<double> x(8, 2);
  x << 1, 1, -1, 1, 1, -3, -3, -3, 3, 3, 5, 1, 4, 3, -4.01, -3;
  const Array<double> log_p = toy2d::log_prob("checkerboard", x);
  const std::array<bool, 8> inside = {true, false, true, false, false, false, false, false};
  // (3, 3) is in cell (1, 1), (-3, -3) in (-2, -2): both even.
  for (Index i = 0; i < 8; ++i) {
    const bool expected = inside[static_cast<std::size_t>(i)] || i == 3 || i == 4 || i == 6;
    CAPTURE(i);
    CHECK(log_p(i, 0) == (expected ? -5 * std::log(2.0) : -toy2d::detail::infinity));
  }
  // No sample falls out of the support, whatever its rounding.
  CHECK(toy2d::log_prob("checkerboard", toy2d::sample<float>("checkerboard", 200000, 1)).allFinite());
}

TEST_CASE("log densities are finite far out", "[toy2d]") {
  for (const std::string_view name : toy2d::names()) {
    if (name == "checkerboard") continue;
    double last = 0;
    for (const double radius : {10.0, 23.9, 24.1, 100.0, 1e4, 1e8})
      for (const double angle : {0.0, 1.0, 2.5, 4.0}) {
        Array<double> x(1, 2);
        x << radius * std::cos(angle), radius * std::sin(angle);
        const double log_p = toy2d::log_prob(name, x)(0, 0);
        CAPTURE(std::string(name), radius, angle, log_p);
        CHECK(std::isfinite(log_p));
        CHECK(log_p < -20);
        if (angle == 1.0) {
          CHECK(log_p < last);
          last = log_p;
        }
      }
  }
}

TEMPLATE_TEST_CASE("sample i depends on seed and i alone", "[toy2d]", float, double) {
  for (const std::string_view name : toy2d::names()) {
    CAPTURE(std::string(name));
    const Array<TestType> x = toy2d::sample<TestType>(name, 1000, 42);
    REQUIRE((x.rows() == 1000 && x.cols() == 2));
    CHECK(x.allFinite());
    CHECK((x == toy2d::sample<TestType>(name, 1000, 42)).all());
    CHECK((x.topRows(10) == toy2d::sample<TestType>(name, 10, 42)).all());
    CHECK((x != toy2d::sample<TestType>(name, 1000, 43)).any());
    CHECK((x == toy2d::sample<double>(name, 1000, 42).template cast<TestType>()).all());
    CHECK(toy2d::sample<TestType>(name, 0, 42).rows() == 0);
    CHECK(toy2d::log_prob(name, toy2d::sample<TestType>(name, 0, 42)).rows() == 0);
  }
}

TEST_CASE("log_prob takes any expression", "[toy2d]") {
  const Array<double> x = toy2d::sample<double>("moons", 50, 1);
  const Eigen::Matrix<double, Eigen::Dynamic, 2, Eigen::RowMajor> rows = x.matrix();
  const Array<double> log_p = toy2d::log_prob("moons", x);
  CHECK((toy2d::log_prob("moons", rows) == log_p).all());
  CHECK((toy2d::log_prob("moons", x.bottomRows(20) * 1.0) == log_p.bottomRows(20)).all());
  CHECK((toy2d::log_prob<float>("moons", x) == log_p.cast<float>()).all());
}

TEST_CASE("misuse of the toy densities is refused", "[toy2d]") {
  using diffeo::invalid_argument;
  const std::string known = "swissroll, circles, rings, moons, 8gaussians, pinwheel, 2spirals, checkerboard";
  CHECK(thrown_message<invalid_argument>([] { toy2d::sample<float>("moon", 3, 1); }) ==
        "toy2d::sample: no toy density is named 'moon', expected one of " + known);
  CHECK(contains(thrown_message<invalid_argument>([] { toy2d::best_log_prob(""); }), known));
  CHECK(contains(thrown_message<invalid_argument>([] { toy2d::log_prob("x", Array<float>(1, 2)); }), known));
  CHECK(thrown_message<invalid_argument>([] { toy2d::sample<float>("moons", -1, 1); }) ==
        "toy2d::sample: n is -1, expected n >= 0");
  CHECK(thrown_message<invalid_argument>([] { toy2d::log_prob("moons", Array<double>::Zero(2, 3)); }) ==
        "toy2d::log_prob: x has 3 columns, expected 2");
  Array<double> x = Array<double>::Zero(3, 2);
  x(2, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(thrown_message<invalid_argument>([&] { toy2d::log_prob("moons", x); }), "(row 2, column 1)"));
}
