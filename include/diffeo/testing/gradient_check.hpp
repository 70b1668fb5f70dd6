// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <diffeo/autodiff/lift.hpp>
#include <diffeo/math/random_fill.hpp>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

/// Comparison of derivatives with central differences, to test your own ops and layers. In double the error of a
/// correct derivative is about 1e-9, that of a wrong one about 1; in float a correct one has about 1e-3, too much to
/// find small mistakes. Central differences are wrong across kinks: choose inputs away from them.
///
///     auto op = [](auto x) { return diffeo::exp(x[0]) * x[1]; };                    // for Var and Dual<Var>
///     auto layer = [](const auto& model, auto x) { return model.inverse(x[0]).log_det; };
///
///     REQUIRE(check_gradients(op, std::vector{a, b}).max_error < 1e-6);             // gradients for the inputs
///     REQUIRE(check_gradients(planar, layer, std::vector{a}).max_error < 1e-6);     // ... and for the parameters
///     REQUIRE(check_tangents(op, std::vector{a, b}).max_error < 1e-6);              // tangents of Dual
///     REQUIRE(check_tangent_gradients(op, std::vector{a, b}).max_error < 1e-6);     // gradients of Dual's tangents
namespace diffeo::inline DIFFEO_ISA::testing {

/// Options of the checks of derivatives.
///
/// | option     | type          | default                                                                           |
/// |------------|---------------|-----------------------------------------------------------------------------------|
/// | directions | int           | 2 random directions for each input and each parameter array                       |
/// | step       | double        | 0: cube root of the machine epsilon, where rounding and truncation errors balance |
/// | seed       | std::uint64_t | 0; seed of directions and weights                                                 |
struct GradientCheckOptions {
  int directions = 2;
  double step = 0;
  std::uint64_t seed = 0;
};

/// Result of a check of derivatives. An error is divided by the sum of the absolute values of the terms that the
/// derivative consists of, or by 1 if that sum is smaller. It is infinite if a number is not finite.
struct GradientCheck {
  double max_error = 0;
  std::string where;  ///< place of the largest error, with both numbers; empty if all errors are 0
};

namespace detail {

using diffeo::concat_message;

// Arrays to differentiate with respect to, with their names for messages.
template <Real S>
struct Leaves {
  std::vector<Array<S>> arrays;
  std::vector<std::string> names;
  void add(Array<S> array, std::string name) {
    arrays.push_back(std::move(array));
    names.push_back(std::move(name));
  }
};

// Generator of arrays of normal random numbers, each from a different stream.
template <Real S>
class RandomArrays {
 public:
  explicit RandomArrays(std::uint64_t seed) : seed_(seed) {}
  Array<S> like(const Array<S>& x) {
    Array<S> r(x.rows(), x.cols());
    fill_normal(view(r), seed_, stream_++);
    return r;
  }

 private:
  std::uint64_t seed_, stream_ = 0x677261642d636865;  // arbitrary, apart from the streams of initial weights
};

template <Real S>
S step_of(const GradientCheckOptions& options) {
  require(options.directions > 0, "gradient check: directions is ", options.directions, ", expected at least 1");
  require(options.step >= 0 && std::isfinite(options.step), "gradient check: step is ", options.step,
          ", expected a positive number, or 0");
  return options.step > 0 ? static_cast<S>(options.step) : std::cbrt(std::numeric_limits<S>::epsilon());
}

// Records the error of a derivative if it is the largest so far.
template <class... Where>
void record_error(GradientCheck& result, double automatic, double expected, double size, const Where&... where) {
  double error = std::abs(automatic - expected) / std::max(1.0, size);
  if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
  if (error <= result.max_error) return;
  result.max_error = error;
  result.where = concat_message(where..., ": ", automatic, ", by central differences ", expected);
}

template <Real S>
void require_same_shape(const Array<S>& a, const Array<S>& b, const char* what) {
  require(a.rows() == b.rows() && a.cols() == b.cols(), "gradient check: ", what, " is ", a.rows(), " x ", a.cols(),
          ", expected ", b.rows(), " x ", b.cols());
}

// Function of the leaves; type-erased, so that compare() is compiled once per scalar type.
template <Real S>
using ValueOf = std::function<Array<S>(const std::vector<Array<S>>&)>;
// Value of a function at the leaves, and gradients of sum(weights * value) with respect to each of them.
template <Real S>
struct Gradients {
  Array<S> value;
  std::vector<Array<S>> of;
};
// Function that returns weights of the shape of a value.
template <Real S>
using WeightsFor = std::function<Array<S>(const Array<S>&)>;

// Compares the gradients with central differences of `value` along random directions in each leaf.
template <Real S>
GradientCheck compare(const Leaves<S>& leaves, const ValueOf<S>& value,
                      const std::function<Gradients<S>(const WeightsFor<S>&)>& gradients,
                      const GradientCheckOptions& options) {
  const S h = step_of<S>(options);
  RandomArrays<S> random(options.seed);
  GradientCheck result;
  Array<S> weights;
  const Gradients<S> automatic = gradients([&](const Array<S>& y) { return weights = random.like(y); });
  const Array<S> plain = value(leaves.arrays);
  require_same_shape(automatic.value, plain, "the recorded value");
  for (Index j = 0; j < plain.cols(); ++j)
    for (Index i = 0; i < plain.rows(); ++i)
      if (!(automatic.value(i, j) == plain(i, j)))
        record_error(result, static_cast<double>(automatic.value(i, j)), static_cast<double>(plain(i, j)), 1,
                     "recorded value at (row ", i, ", column ", j, "), not the unrecorded one");
  for (std::size_t k = 0; k < leaves.arrays.size(); ++k) {
    const Array<S>& at = leaves.arrays[k];
    require_same_shape(automatic.of[k], at, "a gradient");
    for (int n = 0; n < options.directions && at.size() > 0; ++n) {
      const Array<S> direction = random.like(at);
      std::vector<Array<S>> moved = leaves.arrays;
      moved[k] = at + h * direction;
      Array<S> difference = value(moved);
      moved[k] = at - h * direction;
      difference -= value(moved);
      const double expected =
          (difference.template cast<double>() * weights.template cast<double>()).sum() / (2 * static_cast<double>(h));
      const Array<double> terms = automatic.of[k].template cast<double>() * direction.template cast<double>();
      record_error(result, terms.sum(), expected, std::max(std::abs(expected), terms.abs().sum()), "gradient of ",
                   leaves.names[k], " along direction ", n);
    }
  }
  return result;
}

template <Real S>
Array<S> to_array(Var<S> x) {
  return as_eigen(x.value());
}
template <Real S>
Array<S> gradient_of(Var<S> x) {
  return x.has_grad() ? Array<S>(as_eigen(x.grad())) : Array<S>::Zero(x.rows(), x.cols());
}

template <Real S>
Leaves<S> leaves_of(const std::vector<Array<S>>& inputs) {
  Leaves<S> leaves;
  for (std::size_t k = 0; k < inputs.size(); ++k) leaves.add(inputs[k], concat_message("input ", k));
  return leaves;
}

// Model without parameters, for functions that take no model.
template <Real S>
struct NoModel {
  using Scalar = S;
  template <class Self>
  static auto fields(Self&) {
    return diffeo::fields();
  }
  template <class U>
  NoModel<scalar_t<U>> rebind() const {
    return {};
  }
};

template <class Model>
void add_parameters(Leaves<typename Model::Scalar>& leaves, const Model& model) {
  for_each_leaf(model, [&](const Path& path, LeafKind kind, const auto& p) {
    if (kind == LeafKind::parameter) leaves.add(p, "parameter " + path.str());
  });
}

// Returns the model with its parameters taken from the leaves after the first `skip`.
template <class Model, Real S>
Model with_parameters(Model model, const std::vector<Array<S>>& leaves, std::size_t skip) {
  for_each_parameter(model, [&](auto& p) { p = leaves[skip++]; });
  refresh(model);
  return model;
}

// Evaluates y = call(lifted model, variables) on a tape and returns the value and the gradients of sum(weights * y).
template <class Model, Real S, class Call>
Gradients<S> sweep(const Model& model, const std::vector<Array<S>>& variables, const WeightsFor<S>& weights_for,
                   const Call& call) {
  Array<S> values = parameters(model), grads = Array<S>::Zero(values.rows(), 1);
  Tape<S> tape;
  const auto lifted = lift(tape, model, values.data(), grads.data());
  std::vector<Var<S>> x;
  for (const Array<S>& v : variables) x.push_back(tape.variable(v));
  const Var<S> y = call(lifted, x);
  Gradients<S> result{to_array(y), {}};
  const Array<S> weights = weights_for(result.value);
  tape.backward(y, view(weights));
  tape.finish_parameter_grads();
  for (const Var<S>& v : x) result.of.push_back(gradient_of(v));
  Index at = 0;
  for_each_parameter(model, [&](const auto& p) {
    result.of.push_back(Eigen::Map<const Array<S>>(grads.data() + at, p.rows(), p.cols()));
    at += p.size();
  });
  return result;
}

// Returns `count` dual numbers: number k has the value x[k] and the tangent x[k + count].
template <Real S>
std::vector<Dual<Var<S>>> duals(const std::vector<Var<S>>& x, std::size_t count) {
  std::vector<Dual<Var<S>>> result;
  for (std::size_t k = 0; k < count; ++k) result.push_back({x[k], x[k + count]});
  return result;
}

template <Real S>
std::vector<Var<S>> constants(Tape<S>& tape, const std::vector<Array<S>>& arrays, std::size_t count) {
  std::vector<Var<S>> x;
  for (std::size_t k = 0; k < count; ++k) x.push_back(tape.copy(arrays[k]));
  return x;
}

}  // namespace detail

/// Checks the gradients of f(model, x) with respect to each input and each parameter array. f takes the model, plain or
/// lifted, and a std::span<const Var<S>> of the inputs, and returns a Var<S>; a random weighted sum of its elements is
/// differentiated. The values with the plain and the lifted model are compared as well.
template <class Model, class F, Real S>
GradientCheck check_gradients(const Model& model, const F& f, const std::vector<Array<S>>& inputs,
                              const GradientCheckOptions& options = {}) {
  detail::Leaves<S> leaves = detail::leaves_of(inputs);
  detail::add_parameters(leaves, model);
  const auto value = [&](const std::vector<Array<S>>& at) {
    Tape<S> tape;
    const auto x = detail::constants(tape, at, inputs.size());
    const Model moved = detail::with_parameters(model, at, inputs.size());
    return detail::to_array<S>(f(moved, std::span(x)));
  };
  const auto gradients = [&](const detail::WeightsFor<S>& weights) {
    return detail::sweep(model, inputs, weights, [&](const auto& lifted, const std::vector<Var<S>>& x) -> Var<S> {
      return f(lifted, std::span(x));
    });
  };
  return detail::compare<S>(leaves, value, gradients, options);
}

/// Checks the gradients of f(x), a function without a model, with respect to each input.
template <class F, Real S>
GradientCheck check_gradients(const F& f, const std::vector<Array<S>>& inputs,
                              const GradientCheckOptions& options = {}) {
  return check_gradients(
      detail::NoModel<S>{}, [&f](const auto&, auto x) { return f(x); }, inputs, options);
}

/// Checks the tangents of f(model, x), element by element, along random directions in all inputs at once. f takes the
/// model and a std::span<const X> for X = Var<S> and X = Dual<Var<S>>, and returns an X.
template <class Model, class F, Real S>
GradientCheck check_tangents(const Model& model, const F& f, const std::vector<Array<S>>& inputs,
                             const GradientCheckOptions& options = {}) {
  const S h = detail::step_of<S>(options);
  detail::RandomArrays<S> random(options.seed);
  const auto value = [&](const std::vector<Array<S>>& at) {
    Tape<S> tape;
    const auto x = detail::constants(tape, at, at.size());
    return detail::to_array<S>(f(model, std::span(x)));
  };
  GradientCheck result;
  for (int n = 0; n < options.directions; ++n) {
    std::vector<Array<S>> above = inputs, below = inputs, both = inputs;
    for (std::size_t k = 0; k < inputs.size(); ++k) {
      const Array<S> direction = random.like(inputs[k]);
      above[k] += h * direction;
      below[k] -= h * direction;
      both.push_back(direction);
    }
    Tape<S> tape;
    const auto x = detail::duals(detail::constants(tape, both, both.size()), inputs.size());
    const Dual<Var<S>> y = f(model, std::span(x));
    const Array<S> plain = value(inputs), got = detail::to_array(y.value), tangent = detail::to_array(y.tangent);
    const Array<S> expected = (value(above) - value(below)) / (2 * h);
    detail::require_same_shape(got, plain, "the value of a dual number");
    detail::require_same_shape(tangent, plain, "the tangent of a dual number");
    for (Index j = 0; j < plain.cols(); ++j)
      for (Index i = 0; i < plain.rows(); ++i) {
        const auto p = static_cast<double>(plain(i, j)), e = static_cast<double>(expected(i, j));
        detail::record_error(result, static_cast<double>(got(i, j)), p, std::abs(p), "value of a dual number at (row ",
                             i, ", column ", j, "), not that without tangents");
        detail::record_error(result, static_cast<double>(tangent(i, j)), e, std::abs(e), "tangent at (row ", i,
                             ", column ", j, ")");
      }
  }
  return result;
}

/// Checks the tangents of f(x), a function without a model, element by element along random directions.
template <class F, Real S>
GradientCheck check_tangents(const F& f, const std::vector<Array<S>>& inputs,
                             const GradientCheckOptions& options = {}) {
  return check_tangents(
      detail::NoModel<S>{}, [&f](const auto&, auto x) { return f(x); }, inputs, options);
}

/// Checks reverse mode over forward mode: the gradients of the tangent of f(model, x) with respect to each input, each
/// input's tangent and each parameter array. f takes the model and a std::span<const Dual<Var<S>>>, and returns a
/// Dual<Var<S>>.
template <class Model, class F, Real S>
GradientCheck check_tangent_gradients(const Model& model, const F& f, const std::vector<Array<S>>& inputs,
                                      const GradientCheckOptions& options = {}) {
  const std::size_t count = inputs.size();
  detail::Leaves<S> leaves = detail::leaves_of(inputs);
  detail::RandomArrays<S> random(~options.seed);
  for (std::size_t k = 0; k < count; ++k)
    leaves.add(random.like(inputs[k]), diffeo::concat_message("the tangent of input ", k));
  const std::vector<Array<S>> variables = leaves.arrays;
  detail::add_parameters(leaves, model);
  const auto value = [&](const std::vector<Array<S>>& at) {
    Tape<S> tape;
    const auto x = detail::duals(detail::constants(tape, at, 2 * count), count);
    const Model moved = detail::with_parameters(model, at, 2 * count);
    return detail::to_array<S>(f(moved, std::span(x)).tangent);
  };
  const auto gradients = [&](const detail::WeightsFor<S>& weights) {
    return detail::sweep(model, variables, weights, [&](const auto& lifted, const std::vector<Var<S>>& x) -> Var<S> {
      const auto d = detail::duals(x, count);
      return f(lifted, std::span(d)).tangent;
    });
  };
  return detail::compare<S>(leaves, value, gradients, options);
}

/// Checks the gradients of the tangent of f(x), a function without a model, with respect to each input and its tangent.
template <class F, Real S>
GradientCheck check_tangent_gradients(const F& f, const std::vector<Array<S>>& inputs,
                                      const GradientCheckOptions& options = {}) {
  return check_tangent_gradients(
      detail::NoModel<S>{}, [&f](const auto&, auto x) { return f(x); }, inputs, options);
}

}  // namespace diffeo::inline DIFFEO_ISA::testing
