// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/LU>  // determinants of small Jacobians
#include <cmath>
#include <cstring>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/testing/gradient_check.hpp>
#include <limits>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

/// The laws that every flow must pass, to be run on a user's own layers too: see check_flow_laws().
namespace diffeo::testing {

/// | option     | type          | default (double; float)                                                            |
/// |------------|---------------|------------------------------------------------------------------------------------|
/// | dim        | Index         | 2, of a flow that takes any dimension                                              |
/// | rows       | Index         | 150: two tiles and a part of a third                                               |
/// | tail       | double        | 10: round trips are also made from so many standard deviations                     |
/// | round_trip | double        | 1e-9; 2e-3: error of a round trip, relative to max(1, size of the value)           |
/// | log_det    | double        | 1e-9; 2e-3: the same for log-determinants                                          |
/// | gradient   | double        | 1e-6; 2e-3: error of a derivative, relative to max(1, size of its terms)           |
/// | mass       | double        | 5e-3: error of the integral of the density                                         |
/// | grid       | Index         | 300 points along each dimension of that integral                                   |
/// | step       | double        | 1e-5 standard deviations, of central differences                                   |
/// | seed       | std::uint64_t | 1, of points and directions                                                        |
template <Real S>
struct FlowLawOptions {
  static constexpr bool is_float = std::is_same_v<S, float>;

  Index dim = 2;
  Index rows = 150;
  double tail = 10;
  double round_trip = is_float ? 2e-3 : 1e-9;
  double log_det = is_float ? 2e-3 : 1e-9;
  double gradient = is_float ? 2e-3 : 1e-6;
  double mass = 5e-3;
  Index grid = 300;
  double step = 1e-5;
  std::uint64_t seed = 1;
};

/// What was measured of one law: its largest error and where that was. Infinite where a result was not finite or an
/// exception was thrown.
struct FlowLaw {
  std::string name;
  double error = 0;
  double tolerance = 0;
  std::string where = {};

  bool holds() const { return error <= tolerance; }
};

struct FlowLawReport {
  std::vector<FlowLaw> laws;  ///< all that were checked

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

using diffeo::detail::is_buffer;

// The same flow in double, which central differences are taken of.
template <class F>
auto in_double(const F& flow) {
  if constexpr (std::is_same_v<typename F::Scalar, double>) {
    return flow;
  } else {
    auto copy = flow.template rebind<double>();
    diffeo::detail::visit(
        [](const auto& from, auto& to) {
          if constexpr (is_buffer<std::remove_cvref_t<decltype(from)>>)
            to.value = from.value.template cast<double>();
          else
            to = from.template cast<double>();
        },
        flow, copy);
    return copy;
  }
}

template <class F>
Transformed<Array<typename F::Scalar>> apply(const F& flow, bool forwards, const Array<typename F::Scalar>& x,
                                             int threads = 1) {
  return forwards ? diffeo::forward(flow, x, threads) : diffeo::inverse(flow, x, threads);
}

template <class F, class X>
Transformed<X> apply_traced(const F& flow, bool forwards, const X& x) {
  return forwards ? flow.forward(x) : flow.inverse(x);
}

template <Real S>
Array<S> normal_array(Index rows, Index cols, std::uint64_t seed, std::uint64_t stream) {
  Array<S> x(rows, cols);
  fill_normal(view(x), seed, stream);
  return x;
}

inline const char* name_of(bool forwards) { return forwards ? "forward" : "inverse"; }

template <Flow F>
class FlowLawCheck {
 public:
  using S = typename F::Scalar;

  FlowLawCheck(const F& flow, const FlowLawOptions<S>& options)
      : flow_(flow), options_(options), dim_(flow.dim() == 0 ? options.dim : flow.dim()) {}

  FlowLawReport run() {
    law("points can be mapped", 0, [this] { choose_points(); });
    if (!report_.ok()) return report_;
    law("parameters", 0, [this] { parameters_round_trip(); });
    for (const bool forwards : {true, false}) {
      const std::string name = name_of(forwards), other = name_of(!forwards);
      law(other + "(" + name + "(x)) = x", options_.round_trip, [&] { round_trip(forwards, false); });
      law("log_det of " + other + " = -log_det of " + name, options_.log_det, [&] { round_trip(forwards, true); });
      law("rows of " + name + " are independent", 0, [&] { independent_rows(forwards); });
      law("threads do not change " + name, 0, [&] { threads(forwards); });
      law(name + " of 0 rows and of 1 row", 0, [&] { few_rows(forwards); });
      law("recording does not change " + name, options_.round_trip, [&] { recording(forwards); });
      if (dim_ <= 6) {
        law("log_det of " + name + " = log|det| by central differences", jacobian_tolerance(),
            [&] { dense_jacobian(forwards, false); });
        if constexpr (has_dual)
          law("log_det of " + name + " = log|det| by Dual", options_.log_det, [&] { dense_jacobian(forwards, true); });
      }
      if constexpr (has_dual) law("tangents of " + name, options_.gradient, [&] { tangents(forwards); });
      for (const bool of_value : {true, false}) {
        const std::string what = (of_value ? "value of " : "log_det of ") + name;
        law("gradients of the " + what, options_.gradient, [&] { gradients(forwards, of_value); });
      }
    }
    if (dim_ <= 2) law("the density integrates to 1", options_.mass, [this] { mass(); });
    return report_;
  }

 private:
  static constexpr bool has_dual = HasForward<F, Dual<Var<S>>> && HasInverse<F, Dual<Var<S>>>;

  double jacobian_tolerance() const { return std::max(options_.log_det, options_.gradient); }

  template <class Check>
  void law(const std::string& name, double tolerance, const Check& check) {
    report_.laws.push_back({name, 0, tolerance});
    try {
      check();
    } catch (const std::exception& e) {
      note(std::numeric_limits<double>::infinity(), "an exception: ", e.what());
    }
  }

  // Keeps the worst error of the current law.
  template <class... Where>
  void note(double error, const Where&... where) {
    if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
    FlowLaw& law = report_.laws.back();
    if (!(error > law.error)) return;
    std::ostringstream text;
    (text << ... << where);
    law.error = error;
    law.where = text.str();
  }

  void expect_close(const Array<double>& found, const Array<double>& expected, const char* what) {
    if (found.rows() != expected.rows() || found.cols() != expected.cols())
      return note(std::numeric_limits<double>::infinity(), what, ": ", found.rows(), " x ", found.cols(), ", expected ",
                  expected.rows(), " x ", expected.cols());
    for (Index j = 0; j < found.cols(); ++j)
      for (Index i = 0; i < found.rows(); ++i)
        note(std::abs(found(i, j) - expected(i, j)) / std::max(1.0, std::abs(expected(i, j))), what, " (row ", i,
             ", column ", j, "): ", found(i, j), ", expected ", expected(i, j));
  }

  template <class... Where>
  void expect_same_bits(const Array<S>& found, const Array<S>& expected, const Where&... where) {
    const double broken = std::numeric_limits<double>::infinity();
    if (found.rows() != expected.rows() || found.cols() != expected.cols())
      return note(broken, found.rows(), " x ", found.cols(), ", expected ", expected.rows(), " x ", expected.cols(),
                  ' ', where...);
    for (Index j = 0; j < found.cols(); ++j)
      for (Index i = 0; i < found.rows(); ++i)
        if (std::memcmp(&found(i, j), &expected(i, j), sizeof(S)) != 0) {
          const double difference = std::abs(static_cast<double>(found(i, j)) - static_cast<double>(expected(i, j)));
          note(std::max(difference, std::numeric_limits<double>::min()), "(row ", i, ", column ", j, "): ", found(i, j),
               " and ", expected(i, j), ' ', where...);
        }
  }
  template <class... Where>
  void expect_same_bits(const Transformed<Array<S>>& found, const Transformed<Array<S>>& expected,
                        const Where&... where) {
    expect_same_bits(found.value, expected.value, "value ", where...);
    expect_same_bits(found.log_det, expected.log_det, "log_det ", where...);
  }

  // z ~ N(0, 1), and x spread as the flow's own samples are, coordinate by coordinate, but independent.
  void choose_points() {
    points_[1] = normal_array<S>(options_.rows, dim_, options_.seed, 1);
    const Array<S> sample = apply(flow_, true, points_[1]).value;
    points_[0] = normal_array<S>(options_.rows, dim_, options_.seed, 2);
    centre_[1] = Array<S>::Zero(1, dim_);
    spread_[1] = Array<S>::Ones(1, dim_);
    centre_[0] = spread_[0] = Array<S>(1, dim_);
    for (Index j = 0; j < dim_; ++j) {
      centre_[0](0, j) = sample.col(j).mean();
      spread_[0](0, j) = std::sqrt((sample.col(j) - centre_[0](0, j)).square().mean());
      points_[0].col(j) = points_[0].col(j) * spread_[0](0, j) + centre_[0](0, j);
    }
    for (const bool forwards : {true, false})
      if (!points_[forwards].allFinite() || !(spread_[forwards] > 0).all())
        note(std::numeric_limits<double>::infinity(), "forward of standard normal points has no finite spread");
  }

  // The points of a direction, or these moved away from their centre by the factor `tail`.
  Array<S> far(bool forwards, double factor) const {
    Array<S> x = points_[forwards];
    for (Index j = 0; j < dim_; ++j)
      x.col(j) = (x.col(j) - centre_[forwards](0, j)) * static_cast<S>(factor) + centre_[forwards](0, j);
    return x;
  }

  void round_trip(bool forwards, bool log_det) {
    for (const double factor : {1.0, options_.tail}) {
      const Array<S> x = far(forwards, factor);
      const Transformed<Array<S>> there = apply(flow_, forwards, x), back = apply(flow_, !forwards, there.value);
      const char* what = factor == 1 ? "point" : "point in the tails";
      // Relative to the spread of x, not to its units.
      Array<double> error = (back.value - x).template cast<double>();
      for (Index j = 0; j < dim_; ++j) {
        const double spread = spread_[forwards](0, j);
        for (Index i = 0; i < x.rows() && !log_det; ++i)
          note(std::abs(error(i, j)) / std::max(spread, std::abs(static_cast<double>(x(i, j)))), what, " (row ", i,
               ", column ", j, "): ", back.value(i, j), ", expected ", x(i, j));
      }
      if (log_det) expect_close(-back.log_det.template cast<double>(), there.log_det.template cast<double>(), what);
    }
  }

  void independent_rows(bool forwards) {
    const Array<S>& x = points_[forwards];
    const Transformed<Array<S>> all = apply(flow_, forwards, x);
    for (const Index size : {1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 65, 100})
      for (Index first = 0; first + size <= x.rows(); first += size == 1 ? 1 : size + 11)
        expect_same_bits(apply(flow_, forwards, x.middleRows(first, size)),
                         {all.value.middleRows(first, size), all.log_det.middleRows(first, size)},
                         "in a batch of rows ", first, " to ", first + size - 1);
  }

  void threads(bool forwards) {
    const Transformed<Array<S>> one = apply(flow_, forwards, points_[forwards], 1);
    for (const int n : {2, 3}) expect_same_bits(apply(flow_, forwards, points_[forwards], n), one, n, " threads");
  }

  // On arrays, and on a tape with everything to be differentiated.
  void few_rows(bool forwards) {
    for (const Index rows : {Index{0}, Index{1}}) {
      const Array<S> x = points_[forwards].topRows(rows), weights = Array<S>::Ones(rows, 1);
      const Transformed<Array<S>> y = apply(flow_, forwards, x);
      Array<S> values = diffeo::parameters(flow_), grads(values.rows(), 1);
      Tape<S> tape;
      const auto lifted = lift(tape, flow_, values.data(), grads.data());
      const auto traced = apply_traced(lifted, forwards, tape.variable(x));
      tape.backward(traced.log_det, view(weights));
      tape.finish_parameter_grads();
      expect_shape(y.value.rows(), y.value.cols(), rows, dim_);
      expect_shape(y.log_det.rows(), y.log_det.cols(), rows, 1);
      expect_shape(traced.value.rows(), traced.value.cols(), rows, dim_);
      expect_shape(traced.log_det.rows(), traced.log_det.cols(), rows, 1);
      if (!grads.allFinite()) note(std::numeric_limits<double>::infinity(), "gradient with ", rows, " rows");
    }
  }
  void expect_shape(Index rows, Index cols, Index expected_rows, Index expected_cols) {
    if (rows != expected_rows || cols != expected_cols)
      note(std::numeric_limits<double>::infinity(), "a result is ", rows, " x ", cols, ", expected ", expected_rows,
           " x ", expected_cols);
  }

  // Evaluation may take short cuts that training cannot.
  void recording(bool forwards) {
    const Transformed<Array<S>> y = apply(flow_, forwards, points_[forwards]);
    Array<S> values = diffeo::parameters(flow_), grads(values.rows(), 1);
    Tape<S> tape;
    const auto lifted = lift(tape, flow_, values.data(), grads.data());
    const auto traced = apply_traced(lifted, forwards, tape.variable(points_[forwards]));
    expect_close(as_eigen(traced.value.value()).template cast<double>(), y.value.template cast<double>(), "value");
    expect_close(as_eigen(traced.log_det.value()).template cast<double>(), y.log_det.template cast<double>(),
                 "log_det");
  }

  // Reads and sets all parameters; the flow is then as before.
  void parameters_round_trip() {
    const Array<S> values = diffeo::parameters(flow_);
    F copy = flow_;
    const Array<S> others = normal_array<S>(values.rows(), 1, options_.seed, 3);
    set_parameters(copy, others);
    expect_same_bits(diffeo::parameters(copy), others, "after set_parameters");
    expect_same_bits(diffeo::parameters(flow_), values, "of the original after a copy was changed");
    set_parameters(copy, values);
    for (const bool forwards : {true, false})
      expect_same_bits(apply(copy, forwards, points_[forwards]), apply(flow_, forwards, points_[forwards]),
                       "after parameters were changed and set back");
  }

  // Row D r + j of the result is column j of the Jacobian at point r.
  Array<double> jacobian_columns(bool forwards, const Array<S>& points, bool by_dual) const {
    const Index n = points.rows();
    Array<S> x(n * dim_, dim_), direction = Array<S>::Zero(n * dim_, dim_);
    for (Index r = 0; r < n; ++r)
      for (Index j = 0; j < dim_; ++j) {
        x.row(r * dim_ + j) = points.row(r);
        direction(r * dim_ + j, j) = 1;
      }
    if (!by_dual) return difference(forwards, x, direction.template cast<double>()).value;
    if constexpr (has_dual) {
      Tape<S> tape;
      const Dual<Var<S>> y = apply_traced(flow_, forwards, Dual<Var<S>>{tape.copy(x), tape.copy(direction)}).value;
      return as_eigen(y.tangent.value()).template cast<double>();
    }
    return {};
  }

  void dense_jacobian(bool forwards, bool by_dual) {
    const Array<S> points = points_[forwards].topRows(std::min<Index>(points_[forwards].rows(), 16));
    const Transformed<Array<S>> y = apply(flow_, forwards, points);
    const Array<double> columns = jacobian_columns(forwards, points, by_dual);
    for (Index r = 0; r < points.rows(); ++r) {
      const Eigen::MatrixXd jacobian = columns.middleRows(r * dim_, dim_).matrix().transpose();
      const double expected = jacobian.partialPivLu().matrixLU().diagonal().array().abs().log().sum();
      note(std::abs(static_cast<double>(y.log_det(r, 0)) - expected) / std::max(1.0, std::abs(expected)), "row ", r,
           ": ", y.log_det(r, 0), ", expected ", expected);
    }
  }

  // Central difference, in double, of both results along one direction per row.
  Transformed<Array<double>> difference(bool forwards, const Array<S>& x, const Array<double>& direction) const {
    const auto flow = in_double(flow_);
    const double h = options_.step * static_cast<double>(spread_[forwards].minCoeff());
    const Array<double> at = x.template cast<double>();
    const auto above = apply(flow, forwards, Array<double>(at + h * direction)),
               below = apply(flow, forwards, Array<double>(at - h * direction));
    return {(above.value - below.value) / (2 * h), (above.log_det - below.log_det) / (2 * h)};
  }

  // A direction as a function for gradient_check.hpp, of the value or of log_det, over points in units of the spread.
  auto direction(bool forwards, bool of_value) const {
    return [this, forwards, of_value](const auto& model, const auto& unit) {
      using X = typename std::remove_cvref_t<decltype(unit)>::value_type;
      using Scalar = typename X::Scalar;
      const Array<Scalar> spread = spread_[forwards].template cast<Scalar>(),
                          centre = centre_[forwards].template cast<Scalar>();
      auto& tape = unit[0].tape();
      const X x = unit[0] * tape.copy(spread) + tape.copy(centre);
      const Transformed<X> y = apply_traced(model, forwards, x);
      return of_value ? y.value : y.log_det;
    };
  }
  template <Real T>
  std::vector<Array<T>> unit_points() const {
    return {normal_array<S>(options_.rows, dim_, options_.seed, 4).template cast<T>()};
  }

  void note(const GradientCheck& check) { note(check.max_error, check.where); }

  void gradients(bool forwards, bool of_value) {
    const auto f = direction(forwards, of_value);
    const auto flow = in_double(flow_);
    note(check_gradients(flow, f, unit_points<double>(), {2, options_.step, options_.seed}));
    if constexpr (!std::is_same_v<S, double>) {
      const auto found = sweep_of(flow_, f, unit_points<S>()), expected = sweep_of(flow, f, unit_points<double>());
      for (std::size_t k = 0; k < found.size(); ++k)
        expect_as_in_double(found[k], expected[k], k == 0 ? "gradient of the input" : "gradient of a parameter");
    }
  }
  template <class Model, class Function, Real T>
  std::vector<Array<double>> sweep_of(const Model& model, const Function& f,
                                      const std::vector<Array<T>>& points) const {
    const auto weights = [this](const Array<T>& y) -> Array<T> {
      return normal_array<S>(y.rows(), y.cols(), options_.seed, 5).template cast<T>();
    };
    const Gradients<T> swept = sweep(model, points, WeightsFor<T>(weights),
                                     [&f](const auto& lifted, const auto& x) { return f(lifted, std::span(x)); });
    std::vector<Array<double>> result;
    for (const Array<T>& g : swept.of) result.push_back(g.template cast<double>());
    return result;
  }
  // Sums of many terms: relative to the largest of them.
  void expect_as_in_double(const Array<double>& found, const Array<double>& expected, const char* what) {
    if (found.size() == 0) return;
    const double size = std::max(1.0, expected.abs().maxCoeff());
    for (Index j = 0; j < found.cols(); ++j)
      for (Index i = 0; i < found.rows(); ++i)
        note(std::abs(found(i, j) - expected(i, j)) / size, what, " (row ", i, ", column ", j, "): ", found(i, j),
             ", in double ", expected(i, j));
  }

  void tangents(bool forwards) {
    if constexpr (has_dual) {
      const auto flow = in_double(flow_);
      for (const bool of_value : {true, false}) {
        const auto f = direction(forwards, of_value);
        note(check_tangents(flow, f, unit_points<double>(), {2, options_.step, options_.seed}));
        if constexpr (!std::is_same_v<S, double>)
          expect_as_in_double(tangent_of<S>(flow_, f), tangent_of<double>(flow, f), "tangent");
      }
    }
  }
  template <Real T, class Model, class Function>
  Array<double> tangent_of(const Model& model, const Function& f) const {
    Tape<T> tape;
    const Array<T> along = normal_array<S>(options_.rows, dim_, options_.seed, 6).template cast<T>();
    const std::vector<Dual<Var<T>>> x{{tape.copy(unit_points<T>()[0]), tape.copy(along)}};
    return as_eigen(f(model, std::span(x)).tangent.value()).template cast<double>();
  }

  // For a standard normal base, over the bounding box of the image of |z| <= 4.5, which for a homeomorphism is that of
  // the image of the sphere.
  void mass() {
    constexpr double radius = 4.5, pi = 3.14159265358979323846;
    Array<S> sphere(dim_ == 1 ? 2 : 2000, dim_);
    for (Index i = 0; i < sphere.rows(); ++i) {
      const double angle = dim_ == 1 ? pi * static_cast<double>(i) : 2 * pi * static_cast<double>(i) / 2000;
      sphere(i, 0) = static_cast<S>(radius * std::cos(angle));
      if (dim_ == 2) sphere(i, 1) = static_cast<S>(radius * std::sin(angle));
    }
    const Array<S> boundary = apply(flow_, true, sphere).value;
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
    const Transformed<Array<S>> z = apply(flow_, false, x);
    const Array<double> square = z.value.template cast<double>().square().rowwise().sum();
    const double total =
        ((z.log_det.template cast<double>() - 0.5 * square).exp() * (cell / std::pow(2 * pi, 0.5 * double(dim_))))
            .sum();
    note(std::abs(total - 1), "a grid of ", x.rows(), " points: ", total);
  }

  const F& flow_;
  FlowLawOptions<S> options_;
  Index dim_;
  Array<S> points_[2], centre_[2], spread_[2];  // of inverse and of forward
  FlowLawReport report_;
};

}  // namespace detail

/// Checks the laws of a flow at its present parameters, which should be well away from any special place such as the
/// identity. Laws are checked in both directions:
///
/// | law                              | how |
/// |----------------------------------|--------------------------------------------------------------------------------|
/// | round trips                      | from N(0, 1), or x of the flow's own location and spread, and `tail` times as
/// far | | log_det adds up to 0             | at the same points | | log_det is that of the Jacobian  | D <= 6: dense
/// Jacobian by Dual and by central differences, LU                  | | rows are independent             | bit for bit:
/// rows alone and in batches of 15 sizes at many offsets             | | threads do not matter            | bit for
/// bit: 1, 2 and 3 threads                                                | | 0 rows and 1 row work            | on
/// arrays and recorded, with a backward sweep                                  | | recording does not matter        |
/// values on arrays and on a tape agree                                           | | tangents | of value and log_det,
/// a random direction per row, against central differences  | | gradients                        | of value and
/// log_det, with respect to parameters and input, against central differences along random directions | | density
/// integrates to 1          | D <= 2: with a standard normal base, on a grid                                 | |
/// parameters                       | can be read, changed in a copy, and set back                                   |
///
/// Central differences are always taken in double, and a float flow is held against itself in double: it needs
/// rebind<double>(). Tangents are checked of flows that take Dual in both directions. Nothing is thrown; an exception
/// inside a law breaks it.
///
/// ```cpp
/// const auto report = diffeo::testing::check_flow_laws(my_layer);
/// if (!report.ok()) std::cerr << report;
/// ```
template <Flow F>
FlowLawReport check_flow_laws(const F& flow, const FlowLawOptions<typename F::Scalar>& options = {}) {
  return detail::FlowLawCheck<F>(flow, options).run();
}

}  // namespace diffeo::testing
