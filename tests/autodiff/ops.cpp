// SPDX-License-Identifier: MIT
#include <cmath>
#include <cstring>
#include <diffeo/autodiff/ops/activation.hpp>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/testing/gradient_check.hpp>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"

// The laws of an op, held by every line of the table below. A new op gets one line there.

using namespace diffeo;

namespace {

template <class T>
using Span = std::span<const T>;

// An extent of an operand; `batch_rows` stands for the number of rows of the batch.
constexpr Index batch_rows = -1;
struct Extent {
  Index r, c;
};
using Case = std::vector<Extent>;  // of the traced operands, then of the parameters
using Arrays = std::vector<Array<double>>;

enum class Domain { any, positive, off_zero };

// An op over traced operands x and parameters p, in its four forms, behind pointers so that the laws compile once.
template <Real S>
struct Forms {
  std::function<Var<S>(Span<Var<S>>, Span<Var<S>>)> var;
  std::function<Var<S>(Span<Var<S>>, Span<Array<S>>)> var_with_arrays;
  std::function<Dual<Var<S>>(Span<Dual<Var<S>>>, Span<Var<S>>)> dual;
  std::function<Dual<Var<S>>(Span<Dual<Var<S>>>, Span<Array<S>>)> dual_with_arrays;

  Var<S> operator()(Span<Var<S>> x, Span<Var<S>> p) const { return var(x, p); }
  Var<S> operator()(Span<Var<S>> x, Span<Array<S>> p) const { return var_with_arrays(x, p); }
  Dual<Var<S>> operator()(Span<Dual<Var<S>>> x, Span<Var<S>> p) const { return dual(x, p); }
  Dual<Var<S>> operator()(Span<Dual<Var<S>>> x, Span<Array<S>> p) const { return dual_with_arrays(x, p); }
};

struct Op {
  std::string name;
  std::size_t traced = 1;  // number of operands x
  std::vector<Case> cases;
  Domain domain = Domain::any;
  bool row_by_row = true;
  std::function<Array<double>(const Arrays&)> reference;
  Forms<double> in_double = {};
  Forms<float> in_float = {};

  template <Real S>
  const Forms<S>& form() const {
    if constexpr (std::is_same_v<S, double>)
      return in_double;
    else
      return in_float;
  }

  // f takes spans of X and of parameters.
  template <class F>
  Op operator()(const F& f) && {
    in_double = {f, f, f, f};
    in_float = {f, f, f, f};
    return std::move(*this);
  }
  // The same for ops without tangent.
  template <class F>
  Op constant(const F& f) && {
    in_double = {f, f, {}, {}};
    in_float = {f, f, {}, {}};
    return std::move(*this);
  }
};

// Every way that operands may broadcast against each other: each of full shape, a column, a row or a single value.
std::vector<Case> broadcasts(std::size_t operands) {
  std::vector<Case> cases = {{}};
  for (std::size_t k = 0; k < operands; ++k) {
    std::vector<Case> longer;
    for (const Case& c : cases)
      for (const Extent e : {Extent{batch_rows, 3}, Extent{batch_rows, 1}, Extent{1, 3}, Extent{1, 1}}) {
        longer.push_back(c);
        longer.back().push_back(e);
      }
    cases = std::move(longer);
  }
  return cases;
}

double get(const Array<double>& x, Index i, Index j) { return x(x.rows() == 1 ? 0 : i, x.cols() == 1 ? 0 : j); }

template <class F>
Array<double> each(const Arrays& x, const F& f) {
  Index n = 1, m = 1;
  for (const auto& a : x) {
    if (a.rows() != 1) n = a.rows();
    if (a.cols() != 1) m = a.cols();
  }
  Array<double> y(n, m);
  for (Index j = 0; j < m; ++j)
    for (Index i = 0; i < n; ++i) y(i, j) = f(i, j);
  return y;
}

Op unary(const char* name, Domain domain, double (*f)(double)) {
  return {name,   1,    broadcasts(1),
          domain, true, [f](const Arrays& x) {
            return each(x, [&](Index i, Index j) { return f(x[0](i, j)); }); }};
}
// With `traced` 1 the second operand is a parameter.
Op binary(const char* name, Domain domain, double (*f)(double, double), std::size_t traced = 2) {
  return {name, traced, broadcasts(2), domain, true, [f](const Arrays& x) {
            return each(x, [&](Index i, Index j) { return f(get(x[0], i, j), get(x[1], i, j)); });
          }};
}
Op ternary(const char* name, double (*f)(double, double, double)) {
  return {name, 3, broadcasts(3), Domain::any, true, [f](const Arrays& x) {
            return each(x, [&](Index i, Index j) { return f(get(x[0], i, j), get(x[1], i, j), get(x[2], i, j)); });
          }};
}
Op general(std::string name, std::size_t traced, std::vector<Case> cases, bool row_by_row,
           std::function<Array<double>(const Arrays&)> reference, Domain domain = Domain::any) {
  return {std::move(name), traced, std::move(cases), domain, row_by_row, std::move(reference)};
}

constexpr Activation activations[] = {
    Activation::identity, Activation::tanh, Activation::relu,     Activation::leaky_relu, Activation::elu,
    Activation::selu,     Activation::silu, Activation::softplus, Activation::sin,        Activation::lip_swish};
static_assert(std::size(activations) == std::size(activation_names));

double act(Activation a, double x) {
  constexpr double alpha = 1.6732632423543772848, scale = 1.0507009873554804934;
  switch (a) {
    case Activation::tanh:
      return std::tanh(x);
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::leaky_relu:
      return x > 0 ? x : 0.01 * x;
    case Activation::elu:
      return x > 0 ? x : std::expm1(x);
    case Activation::selu:
      return scale * (x > 0 ? x : alpha * std::expm1(x));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::softplus:
      return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
    case Activation::sin:
      return std::sin(x);
    case Activation::lip_swish:
      return x / (1 + std::exp(-x)) / 1.1;
    case Activation::identity:
      break;
  }
  return x;
}

template <class X>
auto matrix(const X& x) {
  return x.matrix();
}

// x N x K with w M x K (and b 1 x M): all the paths of the product, and of its adjoint.
std::vector<Case> dense(bool bias, bool turned = false) {
  std::vector<Case> cases;
  for (const auto& [k, m] : {std::pair<Index, Index>{1, 1}, {1, 6}, {2, 5}, {3, 3}, {5, 2}, {4, 4}, {7, 9}, {9, 17}}) {
    cases.push_back({{batch_rows, k}, turned ? Extent{k, m} : Extent{m, k}});
    if (bias) cases.back().push_back({1, m});
  }
  return cases;
}

Array<double> dense_value(const Arrays& x, Activation a) {
  Array<double> y = (matrix(x[0]) * matrix(x[1]).transpose()).array();
  if (x.size() > 2) y.rowwise() += x[2].row(0);
  return y.unaryExpr([a](double v) { return act(a, v); });
}

const std::vector<Index> some_columns = {3, 0, 0, 2}, even = {0, 2, 4}, odd = {3, 1}, middle = {1, 2};

std::vector<Op> make_ops() {
  using enum Domain;
  std::vector<Op> ops = {
      // sums, products, quotients
      binary("a + b", any, [](double a, double b) { return a + b; })([](auto x, auto) { return x[0] + x[1]; }),
      binary("a - b", any, [](double a, double b) { return a - b; })([](auto x, auto) { return x[0] - x[1]; }),
      unary("-a", any, [](double a) { return -a; })([](auto x, auto) { return -x[0]; }),
      binary("a * b", any, [](double a, double b) { return a * b; })([](auto x, auto) { return x[0] * x[1]; }),
      binary("a / b", off_zero, [](double a, double b) { return a / b; })([](auto x, auto) { return x[0] / x[1]; }),
      // with a scalar
      unary("a + c", any, [](double a) { return a + 1.5; })([](auto x, auto) { return x[0] + 1.5f; }),
      unary("c + a", any, [](double a) { return a + 1.5; })([](auto x, auto) { return 1.5f + x[0]; }),
      unary("a - c", any, [](double a) { return a - 1.5; })([](auto x, auto) { return x[0] - 1.5f; }),
      unary("c - a", any, [](double a) { return 1.5 - a; })([](auto x, auto) { return 1.5f - x[0]; }),
      unary("a * c", any, [](double a) { return a * 1.5; })([](auto x, auto) { return x[0] * 1.5f; }),
      unary("c * a", any, [](double a) { return a * 1.5; })([](auto x, auto) { return 1.5f * x[0]; }),
      unary("a / c", any, [](double a) { return a / 1.5; })([](auto x, auto) { return x[0] / 1.5f; }),
      unary("c / a", off_zero, [](double a) { return 1.5 / a; })([](auto x, auto) { return 1.5f / x[0]; }),
      // with a parameter
      binary(
          "a + p", any, [](double a, double p) { return a + p; }, 1)([](auto x, auto p) { return x[0] + p[0]; }),
      binary(
          "p + a", any, [](double a, double p) { return a + p; }, 1)([](auto x, auto p) { return p[0] + x[0]; }),
      binary(
          "a - p", any, [](double a, double p) { return a - p; }, 1)([](auto x, auto p) { return x[0] - p[0]; }),
      binary(
          "p - a", any, [](double a, double p) { return p - a; }, 1)([](auto x, auto p) { return p[0] - x[0]; }),
      binary(
          "a * p", any, [](double a, double p) { return a * p; }, 1)([](auto x, auto p) { return x[0] * p[0]; }),
      binary(
          "p * a", any, [](double a, double p) { return a * p; }, 1)([](auto x, auto p) { return p[0] * x[0]; }),
      binary(
          "a / p", off_zero, [](double a, double p) { return a / p; }, 1)([](auto x, auto p) { return x[0] / p[0]; }),
      // with a buffer
      binary(
          "buffer", off_zero, [](double a, double p) { return p - (a + p) * p / p; }, 1)([](auto x, auto p) {
        using P = std::remove_cvref_t<decltype(p[0])>;
        using S = typename P::Scalar;
        const Buffer<std::conditional_t<std::is_same_v<P, Array<S>>, S, P>> b{p[0]};
        return b - (x[0] + b) * b / b;
      }),
      // functions of one argument
      unary("square", any, [](double a) { return a * a; })([](auto x, auto) { return square(x[0]); }),
      unary("sqrt", positive, [](double a) { return std::sqrt(a); })([](auto x, auto) { return sqrt(x[0]); }),
      unary("exp", any, [](double a) { return std::exp(a); })([](auto x, auto) { return exp(x[0]); }),
      unary("log", positive, [](double a) { return std::log(a); })([](auto x, auto) { return log(x[0]); }),
      unary("log1p", positive, [](double a) { return std::log1p(a); })([](auto x, auto) { return log1p(x[0]); }),
      unary("sin", any, [](double a) { return std::sin(a); })([](auto x, auto) { return sin(x[0]); }),
      unary("cos", any, [](double a) { return std::cos(a); })([](auto x, auto) { return cos(x[0]); }),
      unary("step", off_zero, [](double a) { return a > 0 ? 1.0 : 0.0; }).constant([](auto x, auto) {
        return step(x[0]);
      }),
      unary("abs", off_zero, [](double a) { return std::abs(a); })([](auto x, auto) { return abs(x[0]); }),
      unary("clamp", any, [](double a) { return std::min(std::max(a, -0.25), 0.5); })(
          [](auto x, auto) { return clamp(x[0], -0.25f, 0.5f); }),
      unary("tanh", any, [](double a) { return std::tanh(a); })([](auto x, auto) { return tanh(x[0]); }),
      unary("sigmoid", any,
            [](double a) { return 1 / (1 + std::exp(-a)); })([](auto x, auto) { return sigmoid(x[0]); }),
      unary("softplus", any,
            [](double a) { return std::log1p(std::exp(a)); })([](auto x, auto) { return softplus(x[0]); }),
      unary("log_sigmoid", any,
            [](double a) { return -std::log1p(std::exp(-a)); })([](auto x, auto) { return log_sigmoid(x[0]); }),
      unary("relu", off_zero,
            [](double a) { return act(Activation::relu, a); })([](auto x, auto) { return relu(x[0]); }),
      unary("leaky_relu", off_zero,
            [](double a) { return act(Activation::leaky_relu, a); })([](auto x, auto) { return leaky_relu(x[0]); }),
      unary("leaky_relu(slope)", off_zero, [](double a) { return a > 0 ? a : 0.25 * a; })(
          [](auto x, auto) { return leaky_relu(x[0], typename std::remove_cvref_t<decltype(x[0])>::Scalar(0.25)); }),
      unary("elu", off_zero, [](double a) { return act(Activation::elu, a); })([](auto x, auto) { return elu(x[0]); }),
      unary("selu", off_zero,
            [](double a) { return act(Activation::selu, a); })([](auto x, auto) { return selu(x[0]); }),
      unary("silu", any, [](double a) { return act(Activation::silu, a); })([](auto x, auto) { return silu(x[0]); }),
      unary("lip_swish", any,
            [](double a) { return act(Activation::lip_swish, a); })([](auto x, auto) { return lip_swish(x[0]); }),
      general("zeros", 1, {{{batch_rows, 3}}}, true, [](const Arrays& x) { return Array<double>::Zero(x[0].rows(), 2); })(
          [](auto x, auto) { return zeros(x[0], 2); }),
      // fused chains
      unary("scaled_tanh", any, [](double a) { return 1.5 * std::tanh(0.75 * a); })(
          [](auto x, auto) { return scaled_tanh(x[0], 1.5f, 0.75f); }),
      ternary("scale_shift", [](double a, double s, double t) { return a * std::exp(s) + t; })(
          [](auto x, auto) { return scale_shift(x[0], x[1], x[2]); }),
      ternary("unshift_scale", [](double a, double m, double t) { return (a - t) * std::exp(m); })(
          [](auto x, auto) { return unshift_scale(x[0], x[1], x[2]); }),
      // reductions
      general("sum_cols", 1, broadcasts(1), true,
              [](const Arrays& x) { return x[0].rowwise().sum(); })([](auto x, auto) { return sum_cols(x[0]); }),
      general("sum_rows", 1, broadcasts(1), false,
              [](const Arrays& x) { return x[0].colwise().sum(); })([](auto x, auto) { return sum_rows(x[0]); }),
      general("sum", 1, broadcasts(1), false,
              [](const Arrays& x) { return Array<double>::Constant(1, 1, x[0].sum()); })(
          [](auto x, auto) { return sum(x[0]); }),
      general("mean", 1, {{{2, 3}}, {{100, 1}}, {{1, 17}}}, false,
              [](const Arrays& x) { return Array<double>::Constant(1, 1, x[0].mean()); })(
          [](auto x, auto) { return mean(x[0]); }),
      general(
          "norm_cols", 1, broadcasts(1), true, [](const Arrays& x) { return x[0].square().rowwise().sum().sqrt(); },
          off_zero)([](auto x, auto) { return norm_cols(x[0]); }),
      general("max_cols", 1, broadcasts(1), true,
              [](const Arrays& x) {
                return each({x[0].leftCols(1)}, [&](Index i, Index) { return x[0].row(i).maxCoeff(); });
              })
          .constant([](auto x, auto) { return max_cols(x[0]); }),
      general("log_sum_exp", 1, broadcasts(1), true, [](const Arrays& x) { return x[0].exp().rowwise().sum().log(); })(
          [](auto x, auto) { return log_sum_exp(x[0]); }),
      // columns
      general("cols", 1, {{{batch_rows, 4}}}, true,
              [](const Arrays& x) { return x[0].middleCols(1, 2); })([](auto x, auto) { return cols(x[0], 1, 2); }),
      general("cols(none)", 1, {{{batch_rows, 4}}}, true,
              [](const Arrays& x) { return x[0].middleCols(4, 0); })([](auto x, auto) { return cols(x[0], 4, 0); }),
      general("cols * cols", 1, {{{batch_rows, 4}}}, true,
              [](const Arrays& x) { return x[0].leftCols(3) * x[0].rightCols(3); })(
          [](auto x, auto) { return cols(x[0], 0, 3) * cols(x[0], 1, 3); }),
      general("take", 1, {{{batch_rows, 4}}}, true,
              [](const Arrays& x) {
                Array<double> y(x[0].rows(), 4);
                for (std::size_t k = 0; k < 4; ++k) y.col(static_cast<Index>(k)) = x[0].col(some_columns[k]);
                return y;
              })([](auto x, auto) { return take(x[0], some_columns); }),
      general("take(consecutive)", 1, {{{batch_rows, 4}}}, true,
              [](const Arrays& x) { return x[0].middleCols(1, 2); })([](auto x, auto) { return take(x[0], middle); }),
      general("take(none)", 1, {{{batch_rows, 4}}}, true, [](const Arrays& x) { return x[0].leftCols(0); })(
          [](auto x, auto) { return take(x[0], std::vector<Index>{}); }),
      general("merge", 2, {{{batch_rows, 3}, {batch_rows, 2}}}, true,
              [](const Arrays& x) {
                Array<double> y(x[0].rows(), 5);
                for (std::size_t k = 0; k < 3; ++k) y.col(even[k]) = x[0].col(static_cast<Index>(k));
                for (std::size_t k = 0; k < 2; ++k) y.col(odd[k]) = x[1].col(static_cast<Index>(k));
                return y;
              })([](auto x, auto) { return merge(x[0], even, x[1], odd); }),
      general("transposed", 1, {{{batch_rows, 3}}, {{3, 5}}, {{1, 4}}, {{20, 1}}}, false,
              [](const Arrays& x) { return x[0].transpose(); })([](auto x, auto) { return transposed(x[0]); }),
      general("concat", 2, {{{batch_rows, 2}, {batch_rows, 2}}, {{batch_rows, 1}, {batch_rows, 3}}, {{batch_rows, 2}, {batch_rows, 0}}}, true,
              [](const Arrays& x) {
                Array<double> y(x[0].rows(), x[0].cols() + x[1].cols());
                y << x[0], x[1];
                return y;
              })([](auto x, auto) { return concat(x[0], x[1]); }),
      // products
      general("linear", 1, dense(false), true, [](const Arrays& x) { return dense_value(x, Activation::identity); })(
          [](auto x, auto p) { return linear(x[0], p[0]); }),
      general("matmul", 1, dense(false, true), true,
              [](const Arrays& x) { return (matrix(x[0]) * matrix(x[1])).array(); })(
          [](auto x, auto p) { return matmul(x[0], p[0]); }),
  };
  for (const Activation a : activations) {
    const std::string name(to_string(a));
    ops.push_back(general(
        "activate " + name, 1, broadcasts(1), true,
        [a](const Arrays& x) { return x[0].unaryExpr([a](double v) { return act(a, v); }); },
        off_zero)([a](auto x, auto) { return activate(a, x[0]); }));
    ops.push_back(general("affine " + name, 1, dense(true), true, [a](const Arrays& x) { return dense_value(x, a); })(
        [a](auto x, auto p) { return affine(x[0], p[0], p[1], a); }));
  }
  return ops;
}

const std::vector<Op>& ops() {
  static const std::vector<Op> all = make_ops();
  return all;
}

// One row takes paths of its own; 3 and 17 leave tails at any width of the registers.
constexpr Index batches[] = {0, 1, 3, 16, 17, 64, 100};

template <Real S>
std::vector<Array<S>> operands(const Op& op, const Case& shapes, Index n) {
  std::vector<Array<S>> x;
  for (const Extent& e : shapes) {
    Array<S> a(e.r == batch_rows ? n : e.r, e.c);
    fill_normal(view(a), 11, x.size());
    if (op.domain == Domain::positive) a = a.abs() + S(0.4);
    if (op.domain == Domain::off_zero)
      a = a + (a > S(0)).select(Array<S>::Constant(a.rows(), a.cols(), S(0.4)), S(-0.4));
    x.push_back(a);
  }
  return x;
}

template <Real S, class F>
void for_each_case(const F& f) {
  for (const Op& op : ops())
    for (const Case& shapes : op.cases) {
      bool batched = false;
      for (const Extent& e : shapes) batched = batched || e.r == batch_rows;
      for (const Index n : batches) {
        const auto x = operands<S>(op, shapes, n);
        std::string where = op.name;
        for (const auto& a : x) where += ", " + std::to_string(a.rows()) + " x " + std::to_string(a.cols());
        CAPTURE(where);
        f(op, shapes, x);
        if (!batched) break;
      }
    }
}

// The parameters p of an op, as a model.
template <class T>
struct Parameters {
  using Scalar = scalar_t<T>;
  std::vector<param_t<T>> p;

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.p);
  }
  template <class U>
  Parameters<U> rebind() const {
    return {std::vector<param_t<U>>(p.size())};
  }
};

// The operands split into inputs and a model.
struct Split {
  Arrays x;
  Parameters<double> model;
  Split(const Op& op, const Arrays& all)
      : x(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(op.traced)),
        model{{all.begin() + static_cast<std::ptrdiff_t>(op.traced), all.end()}} {}
};

constexpr double tolerance = 1e-6;

// Fills the memory that the tape is about to hand out with NaN.
void poison(Tape<double>& tape) {
  constexpr Index n = 1 << 14;
  std::fill_n(tape.allocate_values(n), n, std::numeric_limits<double>::quiet_NaN());
  tape.reset();
}

enum class Kind { constant, variable, parameter };

// Runs an op on operands of the given kinds and sweeps back `sweeps` times from `uses` uses; the gradients, empty where
// there is none.
struct Run {
  Array<double> value;
  std::vector<Array<double>> grads;
  std::vector<bool> has_grad;
  std::size_t records = 0;
  bool requires_grad = false;

  Run(const Op& op, Arrays operands, const std::vector<Kind>& kinds, int uses = 1, int sweeps = 1,
      bool poisoned = false) {
    Tape<double> tape;
    if (poisoned) poison(tape);
    std::vector<Var<double>> all;
    std::vector<Array<double>> memory;
    for (const auto& a : operands) memory.push_back(Array<double>::Constant(a.rows(), a.cols(), std::nan("")));
    for (std::size_t k = 0; k < operands.size(); ++k)
      all.push_back(kinds[k] == Kind::constant   ? tape.constant(operands[k])
                    : kinds[k] == Kind::variable ? tape.variable(operands[k])
                                                 : tape.parameter(view(operands[k]), memory[k].data()));
    const Span<Var<double>> span(all);
    std::vector<Var<double>> y;
    for (int u = 0; u < uses; ++u) y.push_back(op.in_double(span.first(op.traced), span.subspan(op.traced)));
    records = tape.size();
    requires_grad = y[0].requires_grad();
    value = to_array(y[0].value());
    Array<double> weights(value.rows(), value.cols());
    fill_normal(view(weights), 5, 5);
    if (requires_grad)
      for (int s = 0; s < sweeps; ++s)
        for (const auto& use : y) tape.backward(use, view(weights));
    tape.finish_parameter_grads();
    for (std::size_t k = 0; k < all.size(); ++k) {
      has_grad.push_back(all[k].has_grad());
      grads.push_back(kinds[k] == Kind::parameter ? memory[k]
                      : all[k].has_grad()         ? to_array(all[k].grad())
                                                  : Array<double>());
    }
  }
};

bool close(const Array<double>& a, const Array<double>& b, double eps = 1e-12) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         (a.size() == 0 || ((a - b).abs() <= eps * (1 + a.abs().max(b.abs()))).all());
}

}  // namespace

TEMPLATE_TEST_CASE("ops: values are those of the plain formula", "[ops]", float, double) {
  using S = TestType;
  for_each_case<S>([](const Op& op, const Case&, const std::vector<Array<S>>& x) {
    Arrays in_double;
    for (const auto& a : x) in_double.push_back(a.template cast<double>());
    const Array<double> expected = op.reference(in_double);
    Tape<S> tape;
    std::vector<Var<S>> referring, copied;
    for (const auto& a : x) {
      referring.push_back(tape.constant(a));
      copied.push_back(tape.copy(a));
    }
    const Span<Var<S>> of_copies(copied), of_references(referring);
    const Var<S> y = op.form<S>()(of_copies.first(op.traced), of_copies.subspan(op.traced));
    const Array<double> got = as_eigen(y.value()).template cast<double>();
    REQUIRE(got.rows() == expected.rows());
    REQUIRE(got.cols() == expected.cols());
    REQUIRE(close(got, expected, sizeof(S) == 4 ? 2e-5 : 1e-12));
    // Memory of the caller, without padding, and parameters that are arrays.
    const Var<S> z = op.form<S>()(of_references.first(op.traced), of_references.subspan(op.traced));
    REQUIRE(same_bits(to_array(y.value()), to_array(z.value())));
    const Var<S> w = op.form<S>()(of_references.first(op.traced), Span<Array<S>>(x).subspan(op.traced));
    REQUIRE(same_bits(to_array(y.value()), to_array(w.value())));
    if (!op.form<S>().dual) return;
    std::vector<Dual<Var<S>>> d;
    for (std::size_t k = 0; k < op.traced; ++k) d.push_back({copied[k], copied[k]});
    const Dual<Var<S>> v = op.form<S>()(Span<Dual<Var<S>>>(d), Span<Array<S>>(x).subspan(op.traced));
    REQUIRE(v.tangent.rows() == expected.rows());
    REQUIRE(v.tangent.cols() == expected.cols());
    REQUIRE(close(as_eigen(v.value.value()).template cast<double>(), expected, sizeof(S) == 4 ? 2e-5 : 1e-12));
  });
}

TEST_CASE("ops: adjoints are central differences", "[ops]") {
  for_each_case<double>([](const Op& op, const Case&, const Arrays& all) {
    const Split in(op, all);
    const auto f = [&op](const auto& model, auto x) { return op.in_double(x, std::span(model.p)); };
    if (!op.in_double.dual) return;  // constants: see below
    const auto check = testing::check_gradients(in.model, f, in.x, {1, 0, 3});
    INFO(check.where);
    REQUIRE(check.max_error < tolerance);
  });
}

TEST_CASE("ops: tangents are central differences", "[ops]") {
  for_each_case<double>([](const Op& op, const Case&, const Arrays& all) {
    const Split in(op, all);
    if (!op.in_double.dual) return;
    const auto f = [&op](const auto& model, auto x) { return op.in_double(x, std::span(model.p)); };
    const auto check = testing::check_tangents(in.model, f, in.x, {1, 0, 3});
    INFO(check.where);
    REQUIRE(check.max_error < tolerance);
  });
}

TEST_CASE("ops: gradients of tangents are central differences", "[ops]") {
  for_each_case<double>([](const Op& op, const Case&, const Arrays& all) {
    const Split in(op, all);
    if (!op.in_double.dual) return;
    const auto f = [&op](const auto& model, auto x) { return op.in_double(x, std::span(model.p)); };
    const auto check = testing::check_tangent_gradients(in.model, f, in.x, {1, 0, 3});
    INFO(check.where);
    REQUIRE(check.max_error < tolerance);
  });
}

TEST_CASE("ops: constants record nothing, and only operands that want a gradient get one", "[ops]") {
  for_each_case<double>([](const Op& op, const Case&, const Arrays& x) {
    const std::size_t n = x.size();
    const Run all(op, x, std::vector<Kind>(n, Kind::variable));
    const bool constant_op = !all.requires_grad;
    if (constant_op) REQUIRE(all.records == 0);
    for (unsigned mask = 0; mask < (1u << n); ++mask) {
      CAPTURE(mask);
      std::vector<Kind> kinds, parameters;
      for (std::size_t k = 0; k < n; ++k) {
        kinds.push_back((mask >> k) & 1 ? Kind::variable : Kind::constant);
        parameters.push_back((mask >> k) & 1 ? Kind::parameter : Kind::constant);
      }
      const Run some(op, x, kinds), lifted(op, x, parameters);
      REQUIRE(some.requires_grad == (mask != 0 && !constant_op));
      if (mask == 0) REQUIRE(some.records == 0);
      REQUIRE(same_bits(some.value, all.value));
      REQUIRE(same_bits(lifted.value, all.value));
      for (std::size_t k = 0; k < n; ++k) {
        const bool wanted = kinds[k] == Kind::variable && !constant_op;
        REQUIRE(some.has_grad[k] == wanted);
        if (!wanted) continue;
        REQUIRE(close(some.grads[k], all.grads[k]));
        REQUIRE(close(lifted.grads[k], all.grads[k]));
      }
    }
  });
}

TEST_CASE("ops: gradients add up over uses and over sweeps", "[ops]") {
  for_each_case<double>([](const Op& op, const Case& shapes, const Arrays& x) {
    const std::vector<Kind> variables(x.size(), Kind::variable), parameters(x.size(), Kind::parameter);
    const Run once(op, x, variables);
    if (!once.requires_grad) return;
    for (const auto& kinds : {variables, parameters}) {
      const Run twice_used(op, x, kinds, 2, 1), six_times(op, x, kinds, 2, 3);
      for (std::size_t k = 0; k < x.size(); ++k) {
        REQUIRE(close(twice_used.grads[k], 2 * once.grads[k]));
        REQUIRE(close(six_times.grads[k], 6 * once.grads[k]));
      }
    }
    // One value in the places of several operands.
    bool alike = op.traced > 1;
    for (std::size_t k = 1; k < op.traced; ++k)
      alike = alike && shapes[k].r == shapes[0].r && shapes[k].c == shapes[0].c;
    if (!alike) return;
    const auto f = [&op](auto v) {
      const std::vector<std::remove_cvref_t<decltype(v[0])>> same(op.traced, v[0]);
      return op.in_double(std::span(same), Span<Array<double>>());
    };
    const auto check = testing::check_gradients(f, std::vector{x[0]}, {1, 0, 3});
    INFO(check.where);
    REQUIRE(check.max_error < tolerance);
    const auto tangents = testing::check_tangent_gradients(f, std::vector{x[0]}, {1, 0, 3});
    INFO(tangents.where);
    REQUIRE(tangents.max_error < tolerance);
  });
}

TEST_CASE("ops: what memory held before does not matter", "[ops]") {
  for_each_case<double>([](const Op& op, const Case&, const Arrays& x) {
    for (const Kind kind : {Kind::variable, Kind::parameter}) {
      const std::vector<Kind> kinds(x.size(), kind);
      const Run fresh(op, x, kinds, 2), after_nan(op, x, kinds, 2, 1, true);
      REQUIRE(same_bits(fresh.value, after_nan.value));
      for (std::size_t k = 0; k < x.size(); ++k) {
        REQUIRE(same_bits(fresh.grads[k], after_nan.grads[k]));
        REQUIRE(fresh.grads[k].allFinite());
      }
    }
  });
}

TEMPLATE_TEST_CASE("ops: a row's bits do not depend on the other rows", "[ops]", float, double) {
  using S = TestType;
  for_each_case<S>([](const Op& op, const Case& shapes, const std::vector<Array<S>>& x) {
    if (!op.row_by_row) return;
    const auto value = [&op](const std::vector<Array<S>>& at) {
      Tape<S> tape;
      std::vector<Var<S>> all;
      for (const auto& a : at) all.push_back(tape.copy(a));
      const Span<Var<S>> span(all);
      return to_array(op.form<S>()(span.first(op.traced), span.subspan(op.traced)).value());
    };
    const auto part = [&](Index first, Index count) {
      auto some = x;
      for (std::size_t k = 0; k < x.size(); ++k)
        if (shapes[k].r == batch_rows) some[k] = x[k].middleRows(first, count).eval();
      return some;
    };
    Index n = 0;
    bool batched = false;
    for (std::size_t k = 0; k < x.size(); ++k)
      if (shapes[k].r == batch_rows) {
        n = x[k].rows();
        batched = true;
      }
    if (!batched || n == 0) return;
    const Array<S> whole = value(x);
    for (const Index row : {Index{0}, n / 3, n - 1}) {
      const Array<S> alone = value(part(row, 1)), from_there = value(part(row, n - row));
      REQUIRE(same_bits<S>(whole.row(row), alone));
      REQUIRE(same_bits<S>(whole.bottomRows(n - row), from_there));
    }
  });
}

TEST_CASE("ops: zeros, step and max_cols have no gradient", "[ops]") {
  Tape<double> tape;
  const Var<double> x = tape.variable(Array<double>::Random(5, 3));
  CHECK_FALSE(zeros(x, 2).requires_grad());
  CHECK_FALSE(step(x).requires_grad());
  CHECK_FALSE(max_cols(x).requires_grad());
  CHECK(tape.size() == 0);
}

TEMPLATE_TEST_CASE("ops: first and second derivatives of the activations are differences", "[ops]", float, double) {
  using S = TestType;
  constexpr double rounding = sizeof(S) == 4 ? 3e-6 : 2e-8, h = 1e-2;
  for (const Activation a : activations)
    diffeo::detail::with_activation<S>(a, [&](auto kernel) {
      for (double x = -9.987; x < 10; x += 0.0371) {
        if (std::abs(x) < 3 * h) continue;  // kinks
        const S at = static_cast<S>(x);
        const auto f = [a, at](double d) { return act(a, static_cast<double>(at) + d); };
        const auto got = kernel.derivatives(simd::broadcast<S>(at));
        const auto value = kernel.value(simd::broadcast<S>(at));
        CAPTURE(std::string(to_string(a)), x);
        // Five points: errors of order h^4.
        const double slope = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
        const double curvature = (16 * (f(h) + f(-h)) - (f(2 * h) + f(-2 * h)) - 30 * f(0)) / (12 * h * h);
        for (Index i = 0; i < simd::lanes<S>; ++i) {
          REQUIRE(std::abs(double(got.value[i]) - f(0)) <= rounding * (1 + std::abs(f(0))));
          REQUIRE(std::abs(double(value[i]) - f(0)) <= rounding * (1 + std::abs(f(0))));
          REQUIRE(std::abs(double(got.slope[i]) - slope) <= rounding);
          REQUIRE(std::abs(double(got.curvature[i]) - curvature) <= rounding);
        }
        if constexpr (diffeo::detail::SlopeFromResult<decltype(kernel)>)
          REQUIRE(std::abs(double(kernel.times_slope(simd::broadcast<S>(3), value)[0]) - 3 * slope) <= 3 * rounding);
      }
      // Far out: finite, and flat or straight.
      for (const double x : {-1e4, -200.0, 200.0, 1e4}) {
        if (a == Activation::sin) continue;
        CAPTURE(std::string(to_string(a)), x);
        const auto got = kernel.derivatives(simd::broadcast<S>(S(x)));
        REQUIRE(double(got.value[0]) == Approx(act(a, x)).margin(1e-6));
        REQUIRE(double(got.slope[0]) == Approx((act(a, x * 1.001) - act(a, x)) / (x * 0.001)).margin(1e-6));
        REQUIRE(double(got.curvature[0]) == Approx(0).margin(1e-6));
      }
    });
}

TEST_CASE("ops: the Lipschitz constants of the activations are those of a dense sweep", "[ops]") {
  for (const Activation a : activations)
    diffeo::detail::with_activation<double>(a, [a](auto kernel) {
      double steepest = 0;
      for (double x = -30; x < 30; x += 1e-4)
        steepest = std::max(steepest, std::abs(double(kernel.derivatives(simd::broadcast<double>(x)).slope[0])));
      CAPTURE(std::string(to_string(a)), steepest);
      CHECK(lipschitz_constant(a) >= steepest);
      CHECK(lipschitz_constant(a) <= steepest * (1 + 1e-8));
    });
  CHECK(lipschitz_constant(Activation::lip_swish) < 1);
}

TEST_CASE("ops: norm_cols at its kink has the derivative 0", "[ops]") {
  Tape<double> tape;
  const Array<double> x{{0, 0, 0}, {3, 0, 4}}, ones = Array<double>::Ones(2, 1);
  const Var<double> v = tape.variable(x), y = norm_cols(v);
  tape.backward(y, view(ones));
  CHECK((to_array(y.value()) == Array<double>{{0}, {5}}).all());
  CHECK((to_array(v.grad()) == Array<double>{{0, 0, 0}, {0.6, 0, 0.8}}).all());
  const Dual<Var<double>> d = norm_cols(Dual<Var<double>>{v, tape.copy(Array<double>::Ones(2, 3))});
  CHECK((to_array(d.value.value()) == Array<double>{{0}, {5}}).all());
  CHECK(close(to_array(d.tangent.value()), Array<double>{{0}, {1.4}}));
}

TEMPLATE_TEST_CASE("ops: extreme values", "[ops]", float, double) {
  using S = TestType;
  const S inf = std::numeric_limits<S>::infinity(), nan = std::numeric_limits<S>::quiet_NaN();
  const Array<S> x{{S(-1000), S(-50), S(0), S(50), S(1000)}};
  Tape<S> tape;
  const auto values_and_slopes = [&](auto f) {
    const Var<S> v = tape.variable(x);
    const Var<S> y = f(v);
    const Array<S> ones = Array<S>::Ones(1, y.cols());
    tape.backward(y, view(ones));
    return std::pair(to_array(y.value()), to_array(v.grad()));
  };
  const auto check = [&](auto f, const Array<S>& value, const Array<S>& slope) {
    const auto [y, g] = values_and_slopes(f);
    CAPTURE(y, g);
    CHECK((y - value).abs().maxCoeff() <= S(1e-6) * value.abs().maxCoeff());
    CHECK((g - slope).abs().maxCoeff() <= S(1e-6));
  };
  const S log2 = std::log(S(2));
  const Array<S> half{{0, 0, S(0.5), 1, 1}}, zero = Array<S>::Zero(1, 5);
  check([](auto v) { return softplus(v); }, Array<S>{{0, 0, log2, 50, 1000}}, half);
  check([](auto v) { return log_sigmoid(v); }, Array<S>{{-1000, -50, -log2, 0, 0}}, 1 - half);
  check([](auto v) { return sigmoid(v); }, half, zero + half * (1 - half));
  check([](auto v) { return tanh(v); }, Array<S>{{-1, -1, 0, 1, 1}}, Array<S>{{0, 0, 1, 0, 0}});
  check([](auto v) { return silu(v); }, Array<S>{{0, 0, 0, 50, 1000}}, half);
  check([](auto v) { return elu(v); }, Array<S>{{-1, -1, 0, 50, 1000}}, Array<S>{{0, 0, 1, 1, 1}});
  check([](auto v) { return scaled_tanh(v, S(2), S(0.5)); }, Array<S>{{-2, -2, 0, 2, 2}}, Array<S>{{0, 0, 1, 0, 0}});
  check([](auto v) { return log_sum_exp(v); }, Array<S>::Constant(1, 1, 1000), Array<S>{{0, 0, 0, 0, 1}});
  const Array<S> infinite{{-inf, -inf}, {0, -inf}, {0, inf}};
  const auto result = log_sum_exp(tape.copy(infinite)).value();
  CHECK(result.data[0] == -inf);
  CHECK(result.data[1] == 0);
  CHECK(result.data[2] == inf);
  const S huge = std::numeric_limits<S>::max() / 8;
  const auto length = norm_cols(tape.copy(Array<S>{{3 * huge, 4 * huge}, {3, -4}, {inf, 1}})).value();
  CHECK(length.data[0] == Approx(5 * huge));
  CHECK(length.data[1] == 5);
  CHECK(length.data[2] == inf);

  // NaN is not lost on the way.
  const Array<S> bad = Array<S>::Constant(1, 1, nan);
  for (const Activation a : {Activation::relu, Activation::leaky_relu, Activation::elu, Activation::tanh})
    CHECK(std::isnan(*activate(a, tape.constant(bad)).value().data));
  const Var<S> lowest = tape.copy(Array<S>::Constant(1, 1, -inf));
  CHECK(*exp(lowest).value().data == 0);
  CHECK(*relu(lowest).value().data == 0);
  CHECK(*activate(Activation::relu, lowest).value().data == 0);
  CHECK(*affine(lowest, Array<S>::Ones(1, 1).eval(), Array<S>::Zero(1, 1).eval(), Activation::relu).value().data == 0);
}

TEST_CASE("ops: shapes that do not fit are refused by name", "[ops]") {
  Tape<double> tape;
  const auto block = [&](Index n, Index m) { return tape.copy(Array<double>::Ones(n, m)); };
  const Var<double> a = block(4, 3);
  const auto message = [](auto f) { return thrown_message<invalid_argument>(f); };

  const Var<double> empty;
  const std::string is_empty = ": an operand is empty, as a context is that was not given";
  CHECK(message([&] { a + empty; }) == "operator+" + is_empty);
  CHECK(message([&] { empty* a; }) == "operator*" + is_empty);
  CHECK(message([&] { exp(empty); }) == "exp" + is_empty);
  CHECK(message([&] { cols(empty, 0, 1); }) == "cols" + is_empty);
  CHECK(message([&] { affine(empty, Array<double>(2, 3), Array<double>(1, 2)); }) == "affine" + is_empty);
  CHECK(message([&] { a + block(5, 3); }) == "operator+: shapes 4 x 3 and 5 x 3 do not broadcast");
  CHECK(message([&] { a - block(4, 2); }) == "operator-: shapes 4 x 3 and 4 x 2 do not broadcast");
  CHECK(message([&] { a* block(3, 4); }) == "operator*: shapes 4 x 3 and 3 x 4 do not broadcast");
  CHECK(message([&] { a / block(0, 3); }) == "operator/: shapes 4 x 3 and 0 x 3 do not broadcast");
  CHECK(contains(message([&] { a* Array<double>(Array<double>::Ones(1, 2)); }), "4 x 3 and 1 x 2"));
  CHECK(contains(message([&] { scale_shift(a, block(4, 1), block(4, 2)); }),
                 "scale_shift: shapes 4 x 3 and 4 x 2 do not broadcast"));
  CHECK(contains(message([&] { unshift_scale(a, block(2, 3), a); }), "unshift_scale: shapes 4 x 3 and 2 x 3"));

  CHECK(message([&] { cols(a, 2, 2); }) == "cols: columns 2 to 4 of a block with 3 columns");
  CHECK_THROWS_AS(cols(a, -1, 2), invalid_argument);
  CHECK_THROWS_AS(cols(a, 1, -1), invalid_argument);
  CHECK(message([&] { take(a, std::vector<Index>{0, 3}); }) == "take: column 3 of a block with 3 columns");
  CHECK_THROWS_AS(take(a, std::vector<Index>{-1}), invalid_argument);
  CHECK(contains(message([&] { merge(a, even, block(3, 2), odd); }), "merge: blocks of 4 x 3 and 3 x 2"));
  CHECK(contains(message([&] { merge(a, middle, block(4, 2), odd); }), "for 2 and 2 columns"));
  CHECK(message([&] {
          merge(a, std::vector<Index>{0, 1, 5}, block(4, 2), odd);
        }) == "merge: column 5 of a block with 5 columns");
  CHECK(message([&] { merge(a, even, block(4, 2), std::vector<Index>{1, 2}); }) == "merge: column 2 is listed twice");
  CHECK(contains(message([&] { concat(a, block(5, 3)); }), "4 x 3 and 5 x 3"));
  CHECK(message([&] { max_cols(block(4, 0)); }) == "max_cols: x has no columns");

  const Array<double> w = Array<double>::Ones(2, 4), b = Array<double>::Ones(1, 2);
  CHECK(message([&] { affine(a, w, b); }) == "affine: x has 3 columns, the weights expect 4");
  CHECK_THROWS_AS(linear(a, w), invalid_argument);
  CHECK_THROWS_AS(matmul(a, w), invalid_argument);
  const Array<double> fits = Array<double>::Ones(2, 3);
  CHECK(message([&] { affine(a, fits, Array<double>(Array<double>::Ones(1, 3))); }) ==
        "affine: the bias is 1 x 3, expected 1 or 4 x 2");
  CHECK_THROWS_AS(affine(a, fits, Array<double>(Array<double>::Ones(2, 1))), invalid_argument);
}

TEMPLATE_TEST_CASE("make_elementwise: an op of one's own, with operands that broadcast", "[ops]", float, double) {
  using S = TestType;
  const Array<S> a0 = Array<S>::Random(37, 3), b0 = Array<S>::Random(1, 3), seed = Array<S>::Random(37, 3);
  const auto gradients = [&](const auto& op) {
    Tape<S> tape;
    const Var<S> a = tape.variable(a0), b = tape.variable(b0), y = op(a, b);
    tape.backward(y, view(seed));
    return std::tuple(Array<S>(as_eigen(y.value())), Array<S>(as_eigen(a.grad())), Array<S>(as_eigen(b.grad())));
  };
  const auto [y, da, db] = gradients([](Var<S> a, Var<S> b) {
    return make_elementwise<S>(
        "damped", [](auto u, auto v) { return u / (S(1) + v * v); },
        std::tuple([](auto g, auto, auto, auto v) { return g / (S(1) + v * v); },
                   [](auto g, auto result, auto, auto v) { return S(-2) * g * result * v / (S(1) + v * v); }),
        a, b);
  });
  const auto [expected_y, expected_da, expected_db] =
      gradients([](Var<S> a, Var<S> b) { return a / (square(b) + S(1)); });
  const S accuracy = 50 * std::numeric_limits<S>::epsilon();
  CHECK((y - expected_y).abs().maxCoeff() < accuracy);
  CHECK((da - expected_da).abs().maxCoeff() < accuracy);
  CHECK((db - expected_db).abs().maxCoeff() < accuracy);
  Tape<S> tape;
  const Var<S> a = tape.copy(a0), narrow = tape.copy(Array<S>(Array<S>::Zero(1, 2)));
  CHECK_THROWS_AS(make_elementwise<S>(
                      "sum", [](auto u, auto v) { return u + v; },
                      std::tuple([](auto g, auto...) { return g; }, [](auto g, auto...) { return g; }), a, narrow),
                  invalid_argument);
}

TEST_CASE("affine: a bias that is a row of a larger array is refused", "[autodiff]") {
  diffeo::Tape<double> tape;
  const Array<double> x = Array<double>::Ones(4, 2), w = Array<double>::Ones(3, 2), rows = Array<double>::Ones(5, 3);
  const auto points = tape.constant(x);
  const auto row = tape.constant(diffeo::View<const double>{rows.data(), 1, 3, 5});
  CHECK(contains(thrown_message<diffeo::invalid_argument>([&] { affine(points, w, row); }),
                 "affine: the bias is a row of an array of several rows"));
  CHECK_NOTHROW(affine(points, w, tape.copy(rows.row(2))));
}
