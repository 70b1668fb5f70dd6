// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstring>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/autodiff/settings.hpp>
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/math/linear_solve.hpp>
#include <diffeo/testing/gradient_check.hpp>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

/// Tests of the laws that every flow must obey, for the library's layers and your own: see check_flow_laws().
namespace diffeo::inline DIFFEO_ISA::testing {

/// Points and tolerances of check_flow_laws().
///
/// | option     | type          | default (double; float)                                                             |
/// |------------|---------------|-------------------------------------------------------------------------------------|
/// | dim        | Index         | 2: dimension to test a flow with that accepts any dimension                         |
/// | rows       | Index         | 150 points: two tiles and a part of a third                                         |
/// | tail       | double        | 10: factor on the points from which round trips in the tails start                  |
/// | round_trip | double        | 1e-9; 2e-3: error of a round trip, relative to max(spread of x, |x|)                |
/// | log_det    | double        | 1e-9; 2e-3: error of a log-determinant, relative to max(1, its size)                |
/// | gradient   | double        | 1e-6: error of a derivative in double, relative to max(1, size of its terms)        |
/// | rounding   | double        | 2e-3: difference between gradients of float and double, relative to max(1, largest) |
/// | mass       | double        | 5e-3: error of the integral of the density                                          |
/// | grid       | Index         | 300 points along each dimension of that integral (3000 if D = 1); 0: no integral    |
/// | step       | double        | 2e-6 standard deviations: step of central differences                               |
/// | seed       | std::uint64_t | 1: seed of points and directions; change it if a difference crosses a kink          |
template <Real S>
struct FlowLawOptions {
  static constexpr bool is_float = std::is_same_v<S, float>;

  Index dim = 2;
  Index rows = 150;
  double tail = 10;
  double round_trip = is_float ? 2e-3 : 1e-9;
  double log_det = is_float ? 2e-3 : 1e-9;
  double gradient = 1e-6;
  double rounding = 2e-3;
  double mass = 5e-3;
  Index grid = 300;
  double step = 2e-6;
  std::uint64_t seed = 1;
};

/// Result of one law: its largest error and the place of that error. The error is infinite if a result was not finite
/// or an exception was thrown.
struct FlowLaw {
  std::string name;
  double error = 0;
  double tolerance = 0;
  std::string where = {};

  bool holds() const { return error <= tolerance; }
};

/// Result of check_flow_laws().
struct FlowLawReport {
  std::vector<FlowLaw> laws;  ///< all laws that were checked

  bool ok() const { return violations().empty(); }
  std::vector<FlowLaw> violations() const {
    std::vector<FlowLaw> broken;
    for (const FlowLaw& law : laws)
      if (!law.holds()) broken.push_back(law);
    return broken;
  }
};

inline std::ostream& operator<<(std::ostream& out, const FlowLawReport& report) {
  for (const FlowLaw& law : report.laws)
    out << (law.holds() ? "holds   " : "BROKEN  ") << law.name << ": error " << law.error << ", allowed "
        << law.tolerance << (law.where.empty() ? "" : " at ") << law.where << '\n';
  return out;
}

namespace detail {

// Returns a copy of the flow in double, for central differences.
template <class F>
auto in_double(const F& flow) {
  if constexpr (std::is_same_v<typename F::Scalar, double>) {
    return flow;
  } else {
    auto copy = flow.template rebind<double>();
    std::vector<const leaf_t<F>*> memory(leaf_count(flow));
    for_each_leaf_pair(flow, copy, memory.data(),
                       [](LeafKind, const auto& from, auto& to) { to = from.template cast<double>(); });
    return copy;
  }
}

template <Real S>
Array<S> normal_array(Index rows, Index cols, std::uint64_t seed, std::uint64_t stream) {
  Array<S> x(rows, cols);
  fill_normal(view(x), seed, stream);
  return x;
}

// Operations on a flow that the laws need; type-erased, so that the laws are compiled once per scalar type.
template <Real S>
struct FlowUnderTest {
  FlowUnderTest() = default;
  FlowUnderTest(const FlowUnderTest&) = delete;
  FlowUnderTest& operator=(const FlowUnderTest&) = delete;
  virtual ~FlowUnderTest() = default;

  virtual Index dim() const = 0;
  virtual bool takes_dual() const = 0;
  virtual Transformed<Array<S>> apply(bool forwards, const Array<S>& x, int threads) const = 0;
  virtual Transformed<Array<double>> apply_in_double(bool forwards, const Array<double>& x) const = 0;
  // Evaluates with gradients of input and parameters recorded, and makes a backward sweep from the sum of log_det.
  virtual Transformed<Array<S>> record(bool forwards, const Array<S>& x) const = 0;
  virtual Transformed<Array<S>> tangents(bool forwards, const Array<S>& x, const Array<S>& direction) const = 0;

  // Function to differentiate: the value or log_det of a direction, at the points centre + spread * unit.
  struct Place {
    bool forwards, of_value;
    Array<S> centre, spread, unit;
  };
  virtual GradientCheck check(const Place& at, bool of_tangents, const GradientCheckOptions& options) const = 0;
  // Evaluates and records in training, with the rows of x as rows first_row ... of a minibatch.
  virtual Transformed<Array<S>> train(bool forwards, const Array<S>& x, Index first_row) const = 0;
  // Returns how the flow over other scalars or over variables differs in settings and paths; empty if it does not.
  virtual std::string rebind_difference() const = 0;
  // Returns the gradients of sum(weights * function) for the input and each parameter array, computed in S or in
  // double.
  virtual std::vector<Array<double>> gradients(const Place& at, const Array<S>& weights, bool of_double) const = 0;

  virtual Array<S> parameters() const = 0;
  // Returns the parameters of a copy in which `others` were set.
  virtual Array<S> parameters_after(const Array<S>& others) const = 0;
  // Evaluates a copy whose parameters were changed and set back.
  virtual Transformed<Array<S>> apply_set_back(bool forwards, const Array<S>& x) const = 0;
};

template <Flow F>
class FlowUnderTestOf final : public FlowUnderTest<typename F::Scalar> {
 public:
  using S = typename F::Scalar;
  using Place = typename FlowUnderTest<S>::Place;

  explicit FlowUnderTestOf(const F& flow) : flow_(flow), double_(in_double(flow)) {}

  Index dim() const override { return flow_.dim(); }
  bool takes_dual() const override { return has_dual; }
  Transformed<Array<S>> apply(bool forwards, const Array<S>& x, int threads) const override {
    return on_arrays(flow_, forwards, x, threads);
  }
  Transformed<Array<double>> apply_in_double(bool forwards, const Array<double>& x) const override {
    return on_arrays(double_, forwards, x, 1);
  }
  Transformed<Array<S>> record(bool forwards, const Array<S>& x) const override {
    Array<S> values = diffeo::parameters(flow_), grads(values.rows(), 1);
    const Array<S> ones = Array<S>::Ones(x.rows(), 1);
    Tape<S> tape;
    const auto lifted = lift(tape, flow_, values.data(), grads.data());
    const auto y = traced(lifted, forwards, tape.variable(x), {});
    tape.backward(y.log_det, view(ones));
    tape.finish_parameter_grads();
    require_finite(grads, "the gradient of log_det");
    return {as_eigen(y.value.value()), as_eigen(y.log_det.value())};
  }
  Transformed<Array<S>> train(bool forwards, const Array<S>& x, Index first_row) const override {
    Array<S> values = diffeo::parameters(flow_);
    Tape<S> tape;
    const auto lifted = lift(tape, flow_, values.data(), nullptr);
    const auto y =
        traced(lifted, forwards, tape.copy(x), {.training = true, .seed = 1, .step = 2, .first_row = first_row});
    return {as_eigen(y.value.value()), as_eigen(y.log_det.value())};
  }
  std::string rebind_difference() const override {
    const auto difference = [this](const auto& other) -> std::string {
      const auto expected = settings_of(flow_), found = settings_of(other);
      if (found.size() != expected.size()) return concat_message(found.size(), " settings, expected ", expected.size());
      for (std::size_t i = 0; i < found.size(); ++i)
        if (found[i] != expected[i])
          return concat_message(found[i].path, " = ", to_string(found[i].value), ", expected ", expected[i].path, " = ",
                                to_string(expected[i].value));
      const auto paths = leaves(flow_);
      const auto others = leaves(other);
      if (paths.size() != others.size()) return concat_message(others.size(), " arrays, expected ", paths.size());
      for (std::size_t i = 0; i < paths.size(); ++i)
        if (paths[i].path != others[i].path || paths[i].kind != others[i].kind)
          return concat_message(others[i].path, ", expected ", paths[i].path);
      return {};
    };
    const std::string of_double = difference(double_);
    return of_double.empty() ? difference(flow_.template rebind<Var<S>>()) : of_double;
  }
  Transformed<Array<S>> tangents(bool forwards, const Array<S>& x, const Array<S>& direction) const override {
    if constexpr (has_dual) {
      Tape<S> tape;
      const auto y = traced(flow_, forwards, Dual<Var<S>>{tape.copy(x), tape.copy(direction)}, {});
      return {as_eigen(y.value.tangent.value()), as_eigen(y.log_det.tangent.value())};
    }
    return {};
  }
  GradientCheck check(const Place& at, bool of_tangents, const GradientCheckOptions& options) const override {
    const std::vector<Array<double>> unit{at.unit.template cast<double>()};
    if (!of_tangents) return check_gradients(double_, function(at), unit, options);
    if constexpr (has_dual) return check_tangents(double_, function(at), unit, options);
    return {};
  }
  std::vector<Array<double>> gradients(const Place& at, const Array<S>& weights, bool of_double) const override {
    return of_double ? swept<double>(double_, at, weights) : swept<S>(flow_, at, weights);
  }
  Array<S> parameters() const override { return diffeo::parameters(flow_); }
  Array<S> parameters_after(const Array<S>& others) const override {
    F copy = flow_;
    set_parameters(copy, others);
    return diffeo::parameters(copy);
  }
  Transformed<Array<S>> apply_set_back(bool forwards, const Array<S>& x) const override {
    F copy = flow_;
    set_parameters(copy, Array<S>(diffeo::parameters(flow_) + S(1)));
    set_parameters(copy, diffeo::parameters(flow_));
    return on_arrays(copy, forwards, x, 1);
  }

 private:
  static constexpr bool has_dual = HasForward<F, Dual<Var<S>>> && HasInverse<F, Dual<Var<S>>>;

  template <class Model, Real T>
  static Transformed<Array<T>> on_arrays(const Model& model, bool forwards, const Array<T>& x, int threads) {
    return forwards ? diffeo::forward(model, x, threads) : diffeo::inverse(model, x, threads);
  }
  template <class Model, class X>
  static Transformed<X> traced(const Model& model, bool forwards, const X& x, const Pass<typename X::Scalar>& pass) {
    return forwards ? call_forward(model, x, pass) : call_inverse(model, x, pass);
  }
  // Returns the function in the form that gradient_check.hpp expects, evaluated in training with one draw of the noise.
  static auto function(const Place& at) {
    return [&at](const auto& model, const auto& unit) {
      using X = typename std::remove_cvref_t<decltype(unit)>::value_type;
      using T = typename X::Scalar;
      const Array<T> centre = at.centre.template cast<T>(), spread = at.spread.template cast<T>();
      auto& tape = unit[0].tape();
      const Pass<T> pass{.training = true, .seed = 1, .step = 2};
      const Transformed<X> y = traced(model, at.forwards, unit[0] * tape.copy(spread) + tape.copy(centre), pass);
      return at.of_value ? y.value : y.log_det;
    };
  }
  template <Real T, class Model>
  static std::vector<Array<double>> swept(const Model& model, const Place& at, const Array<S>& weights) {
    const Gradients<T> result =
        sweep(model, std::vector<Array<T>>{at.unit.template cast<T>()},
              WeightsFor<T>([&](const Array<T>&) -> Array<T> { return weights.template cast<T>(); }),
              [f = function(at)](const auto& lifted, const std::vector<Var<T>>& x) { return f(lifted, std::span(x)); });
    std::vector<Array<double>> all;
    for (const Array<T>& g : result.of) all.push_back(g.template cast<double>());
    return all;
  }

  const F& flow_;
  decltype(in_double(std::declval<const F&>())) double_;
};

template <Real S>
class FlowLawCheck {
 public:
  FlowLawCheck(const FlowUnderTest<S>& flow, const FlowLawOptions<S>& options)
      : flow_(flow), options_(options), dim_(flow.dim() == 0 ? options.dim : flow.dim()) {}

  FlowLawReport run() {
    law("points can be mapped", 0, [this] { choose_points(); });
    if (!report_.ok()) return report_;
    law("parameters", 0, [this] { parameters(); });
    law("rebind keeps the structure", 0, [this] {
      const std::string difference = flow_.rebind_difference();
      if (!difference.empty()) record_error(infinity, difference);
    });
    for (const bool forwards : {true, false}) {
      const std::string name = forwards ? "forward" : "inverse", other = forwards ? "inverse" : "forward";
      law(other + "(" + name + "(x)) = x", options_.round_trip, [&] { round_trip(forwards, false); });
      law("log_det of " + other + " = -log_det of " + name, options_.log_det, [&] { round_trip(forwards, true); });
      law("rows of " + name + " are independent", 0, [&] { independent_rows(forwards); });
      law("threads do not change " + name, 0, [&] { threads(forwards); });
      law("noise of " + name + " does not depend on tiles", 0, [&] { training_tiles(forwards); });
      law(name + " of 0 rows and of 1 row", 0, [&] { few_rows(forwards); });
      law("recording does not change " + name, options_.round_trip, [&] { recording(forwards); });
      if (dim_ <= 6) {
        law("log_det of " + name + " = log|det| by central differences", std::max(options_.log_det, options_.gradient),
            [&] { dense_jacobian(forwards, false); });
        if (flow_.takes_dual())
          law("log_det of " + name + " = log|det| by Dual", options_.log_det, [&] { dense_jacobian(forwards, true); });
      }
      for (const bool of_value : {true, false}) derivatives(forwards, of_value, name);
    }
    if (dim_ <= 2 && options_.grid > 0) law("the density integrates to 1", options_.mass, [this] { mass(); });
    return report_;
  }

 private:
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  template <class Check>
  void law(const std::string& name, double tolerance, const Check& check) {
    report_.laws.push_back({name, 0, tolerance});
    try {
      check();
    } catch (const std::exception& e) {
      record_error(infinity, "an exception: ", e.what());
    }
  }

  // Records an error of the current law if it is the largest so far.
  template <class... Where>
  void record_error(double error, const Where&... where) {
    if (!std::isfinite(error)) error = infinity;
    FlowLaw& law = report_.laws.back();
    if (!(error > law.error)) return;
    law.error = error;
    law.where = diffeo::concat_message(where...);
  }

  // Compares element by element; an error is relative to max(1, |expected|), or, if `overall`, to the maximum of that
  // over all elements.
  void expect_close(const Array<double>& found, const Array<double>& expected, const char* what, bool overall = false) {
    if (!same_shape(found, expected, what) || found.size() == 0) return;
    const double largest = overall ? expected.abs().maxCoeff() : 0;
    for (Index j = 0; j < found.cols(); ++j)
      for (Index i = 0; i < found.rows(); ++i)
        record_error(std::abs(found(i, j) - expected(i, j)) / std::max({1.0, largest, std::abs(expected(i, j))}), what,
                     " (row ", i, ", column ", j, "): ", found(i, j), ", expected ", expected(i, j));
  }
  template <class T>
  bool same_shape(const Array<T>& found, const Array<T>& expected, const char* what) {
    if (found.rows() == expected.rows() && found.cols() == expected.cols()) return true;
    record_error(infinity, what, " is ", found.rows(), " x ", found.cols(), ", expected ", expected.rows(), " x ",
                 expected.cols());
    return false;
  }

  template <class... Where>
  void expect_same_bits(const Array<S>& found, const Array<S>& expected, const char* what, const Where&... where) {
    if (!same_shape(found, expected, what)) return;
    for (Index j = 0; j < found.cols(); ++j)
      for (Index i = 0; i < found.rows(); ++i)
        if (std::memcmp(&found(i, j), &expected(i, j), sizeof(S)) != 0)
          record_error(std::max(std::abs(static_cast<double>(found(i, j)) - static_cast<double>(expected(i, j))),
                                std::numeric_limits<double>::min()),
                       what, " (row ", i, ", column ", j, "): ", found(i, j), " and ", expected(i, j), where...);
  }
  template <class... Where>
  void expect_same_bits(const Transformed<Array<S>>& found, const Transformed<Array<S>>& expected,
                        const Where&... where) {
    expect_same_bits(found.value, expected.value, "value", where...);
    expect_same_bits(found.log_det, expected.log_det, "log_det", where...);
  }

  Transformed<Array<S>> apply(bool forwards, const Array<S>& x, int threads = 1) const {
    return flow_.apply(forwards, x, threads);
  }

  // Points for forward are N(0, 1). Points for inverse have the mean and standard deviation of the flow's samples in
  // each coordinate, but independent coordinates.
  void choose_points() {
    points_[1] = normal_array<S>(options_.rows, dim_, options_.seed, 1);
    centre_[1] = Array<S>::Zero(1, dim_);
    spread_[1] = Array<S>::Ones(1, dim_);
    const Array<S> sample = apply(true, points_[1]).value;
    centre_[0] = sample.colwise().mean();
    spread_[0] = (sample - centre_[0].replicate(sample.rows(), 1)).square().colwise().mean().sqrt();
    points_[0] = placed(false, normal_array<S>(options_.rows, dim_, options_.seed, 2));
    if (!centre_[0].allFinite() || !spread_[0].allFinite() || !(spread_[0] > 0).all())
      record_error(infinity, "samples have standard deviations from ", spread_[0].minCoeff(), " to ",
                   spread_[0].maxCoeff());
  }
  Array<S> placed(bool forwards, const Array<S>& unit) const {
    return unit * spread_[forwards].replicate(unit.rows(), 1) + centre_[forwards].replicate(unit.rows(), 1);
  }

  void parameters() {
    const Array<S> values = flow_.parameters(), others = normal_array<S>(values.rows(), 1, options_.seed, 3);
    expect_same_bits(flow_.parameters_after(others), others, "a parameter after set_parameters");
    expect_same_bits(flow_.parameters(), values, "a parameter of the original after a copy was changed");
    for (const bool forwards : {true, false})
      expect_same_bits(flow_.apply_set_back(forwards, points_[forwards]), apply(forwards, points_[forwards]),
                       " after parameters were changed and set back");
  }

  void round_trip(bool forwards, bool log_det) {
    for (const double factor : {1.0, options_.tail}) {
      const Array<S> x =
          placed(forwards, normal_array<S>(options_.rows, dim_, options_.seed, 2) * static_cast<S>(factor));
      const Transformed<Array<S>> there = apply(forwards, x), back = apply(!forwards, there.value);
      const char* what = factor == 1 ? "point" : "point in the tails";
      if (log_det) {
        expect_close(-back.log_det.template cast<double>(), there.log_det.template cast<double>(), what);
        continue;
      }
      for (Index j = 0; j < dim_; ++j)  // relative to the spread of x, whatever its unit
        for (Index i = 0; i < x.rows(); ++i)
          record_error(static_cast<double>(std::abs(back.value(i, j) - x(i, j))) /
                           static_cast<double>(std::max(spread_[forwards](0, j), std::abs(x(i, j)))),
                       what, " (row ", i, ", column ", j, "): ", back.value(i, j), ", expected ", x(i, j));
    }
  }

  void independent_rows(bool forwards) {
    const Array<S>& x = points_[forwards];
    const Transformed<Array<S>> all = apply(forwards, x);
    for (const Index size : {1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 65, 100})
      for (Index first = 0; first + size <= x.rows(); first += size == 1 ? 1 : size + 11)
        expect_same_bits(apply(forwards, x.middleRows(first, size)),
                         {all.value.middleRows(first, size), all.log_det.middleRows(first, size)},
                         " in a batch of rows ", first, " to ", first + size - 1);
  }

  void threads(bool forwards) {
    const Transformed<Array<S>> one = apply(forwards, points_[forwards], 1);
    for (const int n : {2, 3}) expect_same_bits(apply(forwards, points_[forwards], n), one, " with ", n, " threads");
  }

  // A minibatch is cut into tiles; what a row draws in training must not depend on how.
  void training_tiles(bool forwards) {
    const Array<S>& x = points_[forwards];
    const Transformed<Array<S>> all = flow_.train(forwards, x, 0);
    for (const Index size : {1, 7, 64})
      for (Index first = 0; first + size <= x.rows(); first += size + 20)
        expect_same_bits(flow_.train(forwards, x.middleRows(first, size), first),
                         {all.value.middleRows(first, size), all.log_det.middleRows(first, size)},
                         " in a tile of rows ", first, " to ", first + size - 1);
  }

  void few_rows(bool forwards) {
    for (const Index rows : {Index{0}, Index{1}}) {
      const Array<S> x = points_[forwards].topRows(rows), log_det(rows, 1);
      for (const auto& y : {apply(forwards, x), flow_.record(forwards, x)}) {
        same_shape(y.value, x, "the value");
        same_shape(y.log_det, log_det, "log_det");
      }
    }
  }

  // Evaluation may use faster code than recording: both must agree.
  void recording(bool forwards) {
    const Transformed<Array<S>> y = apply(forwards, points_[forwards]),
                                recorded = flow_.record(forwards, points_[forwards]);
    expect_close(recorded.value.template cast<double>(), y.value.template cast<double>(), "value");
    expect_close(recorded.log_det.template cast<double>(), y.log_det.template cast<double>(), "log_det");
  }

  void dense_jacobian(bool forwards, bool by_dual) {
    const Array<S> points = points_[forwards].topRows(std::min<Index>(points_[forwards].rows(), 16));
    const Transformed<Array<S>> y = apply(forwards, points);
    // Row D r + j of the points gives column j of the Jacobian at point r, in units of the spread.
    Array<S> x(points.rows() * dim_, dim_), direction = Array<S>::Zero(x.rows(), dim_);
    for (Index i = 0; i < x.rows(); ++i) {
      x.row(i) = points.row(i / dim_);
      direction(i, i % dim_) = spread_[forwards](0, i % dim_);
    }
    Array<double> columns;
    if (by_dual) {
      columns = flow_.tangents(forwards, x, direction).value.template cast<double>();
    } else {
      const double h = options_.step;
      const Array<double> at = x.template cast<double>(), by = h * direction.template cast<double>();
      columns =
          (flow_.apply_in_double(forwards, at + by).value - flow_.apply_in_double(forwards, at - by).value) / (2 * h);
    }
    const double log_unit = spread_[forwards].template cast<double>().log().sum();
    std::vector<Index> order(static_cast<std::size_t>(dim_));
    for (Index r = 0; r < points.rows(); ++r) {
      Array<double> jacobian = columns.middleRows(r * dim_, dim_);  // transposed, which does not change the determinant
      const double expected = math::detail::factor(jacobian.data(), order.data(), dim_) - log_unit;
      record_error(std::abs(static_cast<double>(y.log_det(r, 0)) - expected) / std::max(1.0, std::abs(expected)),
                   "row ", r, ": ", y.log_det(r, 0), ", expected ", expected);
    }
  }

  void derivatives(bool forwards, bool of_value, const std::string& name) {
    const std::string what = (of_value ? "the value of " : "log_det of ") + name;
    const typename FlowUnderTest<S>::Place at{forwards, of_value, centre_[forwards], spread_[forwards],
                                              normal_array<S>(options_.rows, dim_, options_.seed, 4)};
    for (const bool of_tangents : {false, true}) {
      if (of_tangents && !flow_.takes_dual()) continue;
      law((of_tangents ? "tangents of " : "gradients of ") + what, options_.gradient, [&] {
        const GradientCheck check = flow_.check(at, of_tangents, {2, options_.step, options_.seed});
        record_error(check.max_error, check.where);
      });
    }
    if constexpr (!std::is_same_v<S, double>)
      law("gradients of " + what + " as in double", options_.rounding, [&] {
        const Array<S> weights = normal_array<S>(options_.rows, of_value ? dim_ : 1, options_.seed, 5);
        const auto found = flow_.gradients(at, weights, false), expected = flow_.gradients(at, weights, true);
        for (std::size_t k = 0; k < found.size(); ++k)
          expect_close(found[k], expected[k], k == 0 ? "of the input" : "of a parameter", true);
      });
  }

  // Integrates the density with a standard normal base over the bounding box of the image of the ball |z| <= 4.5. For a
  // homeomorphism that is the bounding box of the image of the sphere |z| = 4.5.
  void mass() {
    constexpr double radius = 4.5, pi = 3.14159265358979323846;
    Array<S> sphere(dim_ == 1 ? 2 : 2000, dim_);
    for (Index i = 0; i < sphere.rows(); ++i) {
      const double angle = 2 * pi * static_cast<double>(i) / static_cast<double>(sphere.rows());
      sphere(i, 0) = static_cast<S>(radius * std::cos(angle));
      if (dim_ == 2) sphere(i, 1) = static_cast<S>(radius * std::sin(angle));
    }
    const Array<double> boundary = apply(true, sphere).value.template cast<double>();
    const Index n = dim_ == 1 ? 10 * options_.grid : options_.grid;
    Array<S> x(dim_ == 1 ? n : n * n, dim_);
    double cell = 1;
    for (Index j = 0; j < dim_; ++j) {
      const double low = boundary.col(j).minCoeff(), high = boundary.col(j).maxCoeff();
      const double width = (high - low) / static_cast<double>(n);
      cell *= width;
      for (Index i = 0; i < x.rows(); ++i)
        x(i, j) = static_cast<S>(low + width * (static_cast<double>(j == 0 ? i % n : i / n) + 0.5));
    }
    const Transformed<Array<S>> z = apply(false, x);
    const Array<double> log_p = z.log_det.template cast<double>() -
                                0.5 * z.value.template cast<double>().square().rowwise().sum() -
                                0.5 * static_cast<double>(dim_) * std::log(2 * pi);
    const double total = cell * log_p.exp().sum();
    record_error(std::abs(total - 1), "a grid of ", x.rows(), " points: ", total);
  }

  const FlowUnderTest<S>& flow_;
  FlowLawOptions<S> options_;
  Index dim_;
  Array<S> points_[2], centre_[2], spread_[2];  // index 0: for inverse, 1: for forward
  FlowLawReport report_;
};

}  // namespace detail

/// Checks the laws of a flow with its current parameters, which should be far from special values such as those of the
/// identity. Laws are checked for forward and for inverse:
///
/// | law                              | how                                                                  |
/// |----------------------------------|----------------------------------------------------------------------|
/// | round trips                      | from N(0, 1), or x as the flow's samples, and from `tail` times that |
/// | log_det adds up to 0             | at the same points                                                   |
/// | log_det is log|det Jacobian|     | D <= 6: LU of the Jacobian by Dual and by central differences        |
/// | rows are independent             | bit for bit: alone and in batches of 15 sizes at many offsets        |
/// | results do not depend on threads | bit for bit: 1, 2 and 3 threads                                      |
/// | 0 rows and 1 row work            | on arrays and recorded, with a backward sweep                        |
/// | recording changes no result      | values on arrays and on a tape agree                                 |
/// | tangents                         | of value and log_det, one random direction per row                   |
/// | gradients                        | of value and log_det in training, for parameters and input           |
/// | density integrates to 1          | D <= 2: with a standard normal base, on a grid                       |
/// | parameters                       | can be read, changed in a copy, and set back                         |
/// | rebind keeps the structure       | settings and paths over double and over variables are the same       |
/// | noise does not depend on tiles   | bit for bit: in training, a minibatch whole and in pieces            |
///
/// Central differences are always computed in double, and a float flow is compared with its copy in double, which needs
/// rebind<double>(). Tangents are checked if both directions accept Dual. Nothing is thrown; a law in which an
/// exception occurs is reported as broken.
///
/// ```cpp
/// const auto report = diffeo::testing::check_flow_laws(my_layer);
/// if (!report.ok()) std::cerr << report;
/// ```
template <Flow F>
FlowLawReport check_flow_laws(const F& flow, const FlowLawOptions<typename F::Scalar>& options = {}) {
  const detail::FlowUnderTestOf<F> erased(flow);
  return detail::FlowLawCheck<typename F::Scalar>(erased, options).run();
}

}  // namespace diffeo::inline DIFFEO_ISA::testing
