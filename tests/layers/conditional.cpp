// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/describe.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/conditional_mixture.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/importance.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/conditional.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/testing/conditional_flow_laws.hpp>
#include <diffeo/training/fit.hpp>
#include <diffeo/training/reverse_kl.hpp>

#include "laws.hpp"

using namespace diffeo;

namespace {

template <class F>
void require_conditional_laws(const std::string& name, const F& flow,
                              const testing::FlowLawOptions<typename F::Scalar>& options = {}) {
  INFO(name);
  const auto report = testing::check_conditional_flow_laws(flow, options_of_build(options));
  INFO(report);
  CHECK(report.laws.size() > 20);
  CHECK(report.ok());
}

template <Real S>
auto conditional_coupling(Mask mask, Activation activation, Index context, std::uint64_t seed) {
  return randomised(make_coupling<S>(std::move(mask), {.hidden = {12, 9}, .activation = activation}, 0, 0,
                                     AffineTransform{}, context),
                    seed);
}

// Contexts of unequal spreads around 5.
template <Real S>
Array<S> some_contexts(Index rows, Index cols) {
  Array<S> c(rows, cols);
  fill_normal(view(c), 4, 5);
  for (Index j = 0; j < cols; ++j) c.col(j) = c.col(j) * static_cast<S>(j + 2) + S(5);
  return c;
}

template <Real S>
Array<S> some_points(Index rows, Index cols) {
  Array<S> x(rows, cols);
  fill_normal(view(x), 14, 15);
  return x;
}

// A network with context in the plane, far from the identity, and one for data.
template <Real S>
auto conditional_model(Index context = 3) {
  const auto flow = real_nvp(some_points<S>(40, 2), some_contexts<S>(40, context),
                             {.layers = 4, .network = {.hidden = {8}, .last_scale = 0.5}});
  return TransformedDistribution(StandardNormal<S>(2), flow);
}

}  // namespace

TEMPLATE_TEST_CASE("conditional flows: laws of couplings", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  require_conditional_laws("even, tanh", conditional_coupling<S>(Mask::keep_even(2), Activation::tanh, 1, 1));
  require_conditional_laws("odd, relu", conditional_coupling<S>(Mask::keep_odd(3), Activation::relu, 2, 2));
  require_conditional_laws("half, silu", conditional_coupling<S>(Mask::keep_first_half(3), Activation::silu, 3, 3));
  require_conditional_laws(
      "no hidden layer",
      randomised(make_coupling<S>(Mask::keep_odd(2), {.hidden = {}}, 0, 0, AffineTransform{}, 2), 15));
}

TEMPLATE_TEST_CASE("conditional flows: laws of residual layers", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const auto layer = [](Index dim, ResidualOptions options, std::uint64_t seed) {
    options.coefficient = 0.8;
    return randomised(make_residual<S>(dim, options, seed), seed, 0.7);
  };
  require_conditional_laws("lip_swish", layer(2, {.hidden = {16, 9}, .context_dim = 1}, 7));
  require_conditional_laws("tanh", layer(1, {.hidden = {12}, .activation = Activation::tanh, .context_dim = 3}, 3));
  require_conditional_laws("solved by its contraction", layer(2,
                                                              {.hidden = {16},
                                                               .activation = Activation::elu,
                                                               .inverse = {.method = InverseMethod::fixed_point},
                                                               .context_dim = 2},
                                                              5));
  require_conditional_laws(
      "solved by Newton's method",
      layer(3, {.hidden = {16}, .inverse = {.method = InverseMethod::newton}, .context_dim = 1}, 6));
  // In float the last steps are made in double.
  for (const InverseMethod method : {InverseMethod::automatic, InverseMethod::fixed_point})
    require_conditional_laws(
        "to a tolerance",
        layer(2, {.hidden = {16}, .inverse = {.tolerance = 1e-10, .method = method}, .context_dim = 2}, 8));
  // Gradients of the inverse by iteration.
  testing::FlowLawOptions<S> few;
  few.rows = 40;
  require_conditional_laws("in many dimensions", layer(10, {.hidden = {16}, .context_dim = 2}, 9), few);
  few.grid = 100;
  require_conditional_laws(
      "recipe", randomised(residual<S>(2, {.layers = 2, .block = {.hidden = {8}, .context_dim = 2}}), 4, 0.4), few);
}

TEMPLATE_TEST_CASE("conditional flows: laws of planar layers", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  testing::FlowLawOptions<S> few;
  few.rows = 70;
  // Not larger: contexts in the tails make the determinants of larger ones too small for float.
  for (const Activation activation : {Activation::tanh, Activation::leaky_relu})
    for (const Index dim : {1, 2, 5})
      require_conditional_laws(
          concat_message(to_string(activation), ", D = ", dim),
          randomised(make_planar<S>(dim, activation, 0, 0, (dim + 1) / 2), static_cast<std::uint64_t>(dim), 0.5), few);
  few.grid = 100;
  auto flow = planar<S>(2, {.layers = 3, .context_dim = 2});
  set_parameters(
      flow, Array<S>(parameters(flow) + S(0.2) * testing::detail::normal_array<S>(parameter_count(flow), 1, 2, 2)));
  require_conditional_laws("recipe", flow, few);
  // Layers without context among others.
  std::get<0>(flow.layers).layers[1].shift = {};
  require_conditional_laws("mixed", flow, few);
}

TEMPLATE_TEST_CASE("conditional flows: laws of radial layers", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  testing::FlowLawOptions<S> few;
  few.rows = 70;
  for (const Index dim : {1, 2, 5})
    require_conditional_laws(concat_message("D = ", dim),
                             randomised(make_radial<S>(dim, 0, 0, (dim + 1) / 2), static_cast<std::uint64_t>(dim), 0.7),
                             few);
  few.grid = 100;
  require_conditional_laws("recipe", randomised(radial<S>(2, {.layers = 3, .context_dim = 2}), 4, 0.4), few);
}

TEST_CASE("conditional flows: recipes of planar and radial flows begin near the identity", "[layers]") {
  const Array<double> x = some_points<double>(50, 2), c = some_contexts<double>(50, 3);
  const auto check = [&](const auto& flow) {
    CHECK(context_dim(flow) == 3);
    const TransformedDistribution model(StandardNormal<double>(2), flow);
    const Array<double> log_p = model.log_prob(x, c), other = model.log_prob(x, c.colwise().reverse());
    CHECK((log_p - other).abs().maxCoeff() < 1.5);
    CHECK((log_p - other).abs().maxCoeff() > 1e-4);  // it is looked at
  };
  check(planar(x, c, {.layers = 4}));
  check(radial(x, c, {.layers = 4}));
}

TEMPLATE_TEST_CASE("conditional flows: trained planar and radial flows at contexts far from those of the data",
                   "[layers]", float, double) {
  using S = TestType;
  // Networks of relu grow with the context without bound.
  const MlpOptions network{.hidden = {16}, .activation = Activation::relu};
  const Array<S> contexts = some_points<S>(1000, 1);
  Array<S> x(1000, 2);
  fill_normal(view(x), 24, 25);
  x.col(0) = x.col(0) * S(0.3) + contexts.col(0).sin();
  x.col(1) = x.col(1) * contexts.col(0).exp();
  const auto check = [&](const std::string& name, const auto& flow) {
    TransformedDistribution model(StandardNormal<S>(2), flow);
    fit(model, x, contexts, {.steps = 200, .batch = 128, .threads = 1, .progress = false});
    const Array<S> at = x.topRows(40);
    for (const double distance : {1e0, 1e1, 1e2, 1e3, 1e4, 1e6})
      for (const double sign : {-1.0, 1.0}) {
        CAPTURE(name, distance, sign);
        const Array<S> c = Array<S>::Constant(40, 1, static_cast<S>(sign * distance));
        const Array<S> log_p = model.log_prob(at, c);
        CHECK_FALSE(log_p.isNaN().any());
        CHECK_FALSE((log_p == std::numeric_limits<S>::infinity()).any());
        CHECK_FALSE(model.score(at, c).isNaN().any());
        CHECK_FALSE(model.context_score(at, c).isNaN().any());
        const auto drawn = model.sample_and_log_prob(c, 3);
        CHECK(drawn.sample.allFinite());
        CHECK_FALSE(drawn.log_prob.isNaN().any());
        // The log-density of a sample is found again, where rounding allows.
        if (distance > 1 || sizeof(S) == 4) continue;
        const Array<S> again = model.log_prob(drawn.sample, c);
        CHECK((again - drawn.log_prob).abs().maxCoeff() < S(1e-6));
      }
  };
  check("planar, tanh", planar(x, contexts, {.layers = 8, .network = network}));
  check("planar, leaky relu",
        planar(x, contexts, {.layers = 8, .activation = Activation::leaky_relu, .network = network}));
  check("radial", radial(x, contexts, {.layers = 8, .network = network}));
}

TEMPLATE_TEST_CASE("conditional flows: laws of sequences", "[layers]", DIFFEO_LAW_SCALARS) {
  using S = TestType;
  const auto flow = real_nvp<S>(2, {.layers = 3, .network = {.hidden = {8}}, .context_dim = 2});
  require_conditional_laws("standardised contexts",
                           randomised(conditional(flow, Array<S>(some_contexts<S>(50, 2) - S(5))), 3, 0.4));
  require_conditional_laws("inverted", Invert{randomised(flow, 4, 0.4)});
  // An embedding of one column into the two that the layers take.
  require_conditional_laws("embedded", randomised(conditional(flow, Array<S>(some_contexts<S>(50, 1) - S(5)),
                                                              make_mlp<S>(1, 2, {.hidden = {5}}, 1)),
                                                  5, 0.4));
}

TEMPLATE_TEST_CASE("conditional flows: a context in one layer is what an affine map of it computes", "[layers]", float,
                   double) {
  using S = TestType;
  // Without hidden layers the coupling is x1 = z1 exp(s) + t with [s, t] = W z0 + V c + b, s bounded.
  auto layer = make_coupling<S>(Mask::keep_even(2), {.hidden = {}}, 0, 0, AffineTransform{}, 2);
  layer.conditioner.layers[0].weight << S(0.25), S(-0.5);
  layer.conditioner.layers[0].bias << S(0.125), S(0.75);
  layer.conditioner.context_weight << S(0.5), S(0.25), S(-1), S(2);
  const Array<S> z = some_points<S>(5, 2), c = some_contexts<S>(5, 2) * S(0.1);
  Tape<S> tape;
  Pass<S> pass;
  pass.context = tape.copy(c);
  const auto x = layer.forward(tape.copy(z), pass);
  for (Index i = 0; i < 5; ++i) {
    const double raw = 0.25 * double(z(i, 0)) + 0.5 * double(c(i, 0)) + 0.25 * double(c(i, 1)) + 0.125;
    const double s = 1.5 * std::tanh(raw / 1.5);
    const double t = -0.5 * double(z(i, 0)) - double(c(i, 0)) + 2 * double(c(i, 1)) + 0.75;
    CHECK(as_eigen(x.value.value())(i, 0) == z(i, 0));
    CHECK(double(as_eigen(x.value.value())(i, 1)) == Approx(double(z(i, 1)) * std::exp(s) + t).epsilon(1e-5));
    CHECK(double(as_eigen(x.log_det.value())(i, 0)) == Approx(s).epsilon(1e-5));
  }
}

TEMPLATE_TEST_CASE("conditional distributions: a row depends on its own x and c alone", "[layers]", float, double) {
  using S = TestType;
  const auto model = conditional_model<S>();
  const Array<S> x = some_points<S>(150, 2), c = some_contexts<S>(150, 3);
  const Array<S> log_p = model.log_prob(x, c), score = model.score(x, c), in_c = model.context_score(x, c);
  const Array<S> drawn = model.sample(c, 7);
  const auto with_density = model.sample_and_log_prob(c, 7);
  CHECK((model.log_prob(x, c, 3) == log_p).all());
  CHECK((with_density.sample == drawn).all());
  CHECK(((model.log_prob(drawn, c) - with_density.log_prob).abs() < S(sizeof(S) == 4 ? 1e-3 : 1e-10)).all());
  for (const Index i : {0, 63, 64, 149}) {
    const Array<S> one = c.row(i);
    CHECK(model.log_prob(x.row(i), one)(0, 0) == log_p(i, 0));
    CHECK((model.log_prob(x, one).row(i) == log_p.row(i)).all());
    CHECK((model.score(x, one).row(i) == score.row(i)).all());
    CHECK((model.context_score(x, one).row(i) == in_c.row(i)).all());
    CHECK((model.sample(150, one, 7).row(i) == drawn.row(i)).all());
    const auto given = model.given(one);
    CHECK((given.log_prob(x).row(i) == log_p.row(i)).all());
    CHECK((given.score(x).row(i) == score.row(i)).all());
    CHECK((given.sample(150, 7).row(i) == drawn.row(i)).all());
  }
  CHECK(model.sample(Array<S>(0, 3), 1).rows() == 0);
  CHECK(model.log_prob(Array<S>(0, 2), Array<S>(0, 3)).rows() == 0);
}

namespace {

// An embedding that counts the contexts it was asked for, of one thread.
struct CountsContexts : NoEmbedding {
  static inline Index count = 0;

  template <class U>
  CountsContexts rebind() const {
    return {};
  }
  template <Real S>
  Var<S> operator()(const Var<S>& c) const {
    count += c.rows();
    return c;
  }
};

}  // namespace

TEST_CASE("conditional distributions: one context for all rows is standardised and embedded once a call", "[layers]") {
  const Array<float> x = some_points<float>(300, 2), c = some_contexts<float>(300, 3);
  const TransformedDistribution model(
      StandardNormal<float>(2),
      conditional(real_nvp<float>(2, {.layers = 2, .network = {.hidden = {8}}, .context_dim = 3}), c,
                  CountsContexts{}));
  const auto counted = [](const auto& call) {
    CountsContexts::count = 0;
    call();
    return CountsContexts::count;
  };
  const auto given = model.given(c.row(0));
  CHECK(counted([&] { model.log_prob(x, c.row(0), 1); }) == 1);
  CHECK(counted([&] { model.score(x, c.row(0), 1); }) == 1);
  CHECK(counted([&] { model.sample(300, c.row(0), 1, 1); }) == 1);
  CHECK(counted([&] { model.sample_and_log_prob(300, c.row(0), 1, 1); }) == 1);
  CHECK(counted([&] { inverse(model.flow, x, c.row(0), 1); }) == 1);
  CHECK(counted([&] { given.log_prob(x, 1); }) == 1);
  CHECK(counted([&] { given.sample(300, 1, 1); }) == 1);
  CHECK(counted([&] { model.log_prob(x, c, 1); }) == 300);
  // A gradient in the context needs a row for each sample.
  CHECK(counted([&] { model.context_score(x, c.row(0), 1); }) == 300);
}

TEST_CASE("conditional distributions: gradients in x and c are central differences", "[layers]") {
  const auto model = conditional_model<double>();
  const Array<double> x = some_points<double>(20, 2), c = some_contexts<double>(20, 3);
  const Array<double> score = model.score(x, c), in_c = model.context_score(x, c);
  constexpr double h = 1e-5;
  const auto nudged = [](Array<double> a, Index column, double by) {
    a.col(column) += by;
    return a;
  };
  for (Index j = 0; j < 2; ++j)
    CHECK(((model.log_prob(nudged(x, j, h), c) - model.log_prob(nudged(x, j, -h), c)) / (2 * h) - score.col(j))
              .abs()
              .maxCoeff() < 1e-6);
  for (Index j = 0; j < 3; ++j)
    CHECK(((model.log_prob(x, nudged(c, j, h)) - model.log_prob(x, nudged(c, j, -h))) / (2 * h) - in_c.col(j))
              .abs()
              .maxCoeff() < 1e-6);
}

TEST_CASE("conditional distributions: contexts are standardised", "[layers]") {
  const Array<double> x = some_points<double>(60, 2), c = some_contexts<double>(60, 3);
  const CouplingFlowOptions options{.layers = 2, .network = {.hidden = {8}, .last_scale = 0.5}};
  const TransformedDistribution one(StandardNormal<double>(2), real_nvp(x, c, options));
  const Array<double> other_units = c * 1000 - 3;
  const TransformedDistribution other(StandardNormal<double>(2), real_nvp(x, other_units, options));
  CHECK((one.log_prob(x, c) - other.log_prob(x, other_units)).abs().maxCoeff() < 1e-9);
  CHECK((one.log_prob(x, c) - one.log_prob(x, c.colwise().reverse())).abs().maxCoeff() > 1e-3);  // it is looked at
}

namespace {

// An embedding that mixes the samples of a batch.
struct MeanOfRows : NoEmbedding {
  template <class U>
  MeanOfRows rebind() const {
    return {};
  }
  Var<float> operator()(const Var<float>& c) const {
    return c.tape().copy(Array<float>(as_eigen(c.value()).colwise().mean()));
  }
};

}  // namespace

TEST_CASE("conditional distributions: what does not fit is refused", "[layers]") {
  const auto model = conditional_model<float>();
  const TransformedDistribution plain(StandardNormal<float>(2), real_nvp<float>(2, {.layers = 2}));
  const Array<float> x = some_points<float>(6, 2), c = some_contexts<float>(6, 3);
  Array<float> holed = c;
  holed(4, 1) = std::nanf("");
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  const std::string none = ": this flow takes a context of 3 columns, got none: call ";
  for (const Index rows : {0, 6}) {
    CHECK(message([&] { model.log_prob(x.topRows(rows)); }) == "log_prob" + none + "log_prob(x, c) or given(c)");
    CHECK(message([&] { model.score(x.topRows(rows)); }) == "score" + none + "score(x, c) or given(c)");
    CHECK(message([&] { model.sample(rows, 1); }) ==
          "sample" + none + "sample(c, seed), sample(n, c, seed) or given(c)");
    CHECK(contains(message([&] { model.sample_and_log_prob(rows, 1); }), "sample_and_log_prob" + none));
    CHECK(message([&] { forward(model.flow, x.topRows(rows)); }) ==
          "forward" + none + "forward(flow, z, c) or given(flow, c)");
    CHECK(message([&] { inverse(model.flow, x.topRows(rows)); }) ==
          "inverse" + none + "inverse(flow, x, c) or given(flow, c)");
  }
  CHECK(message([&] { model.log_prob(x.topRows(1), c.topRows(2)); }) == "log_prob: the context has 2 rows, expected 1");
  CHECK(message([&] { plain.log_prob(x, c); }) == "log_prob: got a context, but this flow takes none");
  CHECK(message([&] { plain.given(c.row(0)); }) == "given: this flow takes no context");
  CHECK(message([&] { model.log_prob(x, c.leftCols(2)); }) ==
        "log_prob: the context has 2 columns, this flow takes one of 3");
  CHECK(message([&] { model.score(x, c.topRows(5)); }) == "score: the context has 5 rows, expected 6 or 1");
  CHECK(message([&] { model.sample(7, c, 1); }) == "sample: the context has 6 rows, expected 7 or 1");
  CHECK(contains(message([&] { model.log_prob(x, holed); }), "the context"));
  CHECK(contains(message([&] { model.log_prob(x, holed); }), "row 4, column 1"));
  CHECK(message([&] { model.given(c.topRows(2)); }) == "given: the context is 2 x 3, expected 1 x 3");
  CHECK(contains(message([&] { real_nvp(x, c, {.layers = 1, .context_dim = 2}); }), "context_dim is 2"));
  CHECK(contains(message([&] { conditional(real_nvp<float>(2, {.layers = 1, .context_dim = 2}), c); }),
                 "the layers take a context of 2 columns, this one has 3"));
  CHECK(contains(message([&] { make_mlp<float>(1, 1, {}, 0, 0, -1); }), "context_dim is -1"));
  CHECK(contains(message([&] { conditional(real_nvp<float>(2, {.layers = 1}), c); }), "no layer takes a context"));
  CHECK(contains(message([&] {
                   conditional(real_nvp<float>(2, {.layers = 1, .context_dim = 2}), c,
                               make_mlp<float>(3, 4, {.hidden = {5}}, 1));
                 }),
                 "the layers take a context of 2 columns, this one has 4"));
  CHECK(contains(message([&] { residual(x, c, {.layers = 1, .block = {.context_dim = 2}}); }),
                 "residual: context_dim is 2, the context has 3 columns"));
  CHECK(contains(message([&] { residual(x, c, {.layers = 1, .context_dim = 2}); }),
                 "residual: context_dim is 2, the context has 3 columns"));
  CHECK(message([&] { residual<float>(2, {.layers = 1, .block = {.context_dim = 2}, .context_dim = 3}); }) ==
        "residual: context_dim is 3, block.context_dim 2");
  CHECK(context_dim(residual<float>(2, {.layers = 1, .context_dim = 3})) == 3);
  CHECK(context_dim(residual<float>(2, {.layers = 1, .block = {.context_dim = 3}})) == 3);
  CHECK(contains(message([&] { planar(x, c, {.layers = 1, .context_dim = 2}); }),
                 "planar: context_dim is 2, the context has 3 columns"));
  CHECK(contains(message([&] { radial(x, c.topRows(5)); }), "radial: the context has 5 rows, the data 6"));
  CHECK(contains(message([&] { real_nvp(x, c.topRows(5)); }), "the context has 5 rows, the data 6"));
  // Contexts that cannot be standardised, in all recipes.
  const auto refused = [&](const auto& contexts, const std::string& why) {
    CHECK(message([&] { real_nvp(x, contexts, {.layers = 1}); }) == why);
    CHECK(message([&] { nice(x, contexts, {.layers = 1}); }) == why);
    CHECK(message([&] { planar(x, contexts, {.layers = 1}); }) == why);
    CHECK(message([&] { radial(x, contexts, {.layers = 1}); }) == why);
    CHECK(message([&] { residual(x, contexts, {.layers = 1, .block = {.hidden = {4}}}); }) == why);
    CHECK(message([&] { cnf(x, contexts, {.network = {.hidden = {4}}}); }) == why);
    CHECK(message([&] { conditional_normal(x, contexts); }) == why);
    CHECK(message([&] { conditional_normal<float>(2, contexts); }) == why);
    CHECK(message([&] { conditional_mixture(x, contexts, 2); }) == why);
  };
  Array<float> constant = c;
  constant.col(1) = 5;
  refused(constant, "the context: column 1 is constant, 5 in every row: leave it out");
  refused(holed, "the context is nan at (row 4, column 1), expected finite values");
  refused(c.leftCols(0), "the context has no columns, expected at least one");
  const Array<double> far = c.cast<double>() + 1e7;  // fine in double, three decimals less in float
  CHECK(
      contains(message([&] { real_nvp(x, far, {.layers = 1}); }), "the context: column 0 has a standard deviation of"));
  CHECK(contains(message([&] { conditional_normal(x, far); }), "its values are rounded to a lattice"));
  // Also where float has no number between them, so that the column would look constant.
  CHECK(contains(message([&] { real_nvp(x, Array<double>(far + 1e12), {.layers = 1}); }), "rounded to a lattice"));
  CHECK_NOTHROW(real_nvp(x.cast<double>(), far, {.layers = 1}));
  // A flow that standardises its context already, also deep within others.
  const auto twice = "conditional: this flow standardises its context already; pass a flow of the option context_dim";
  const auto standardised = real_nvp(x, c, {.layers = 1});
  CHECK(message([&] { conditional(standardised, c); }) == twice);
  CHECK(message([&] { conditional(FlowSequence(Invert{standardised}), c); }) == twice);
  CHECK(message([&] { conditional(standardised, c, make_mlp<float>(3, 3, {.hidden = {5}}, 1)); }) == twice);
  CHECK_NOTHROW(
      conditional(FlowSequence(given(standardised, c.row(0)), real_nvp<float>(2, {.layers = 1, .context_dim = 3})), c));
  // An embedding whose rows are not those of the context.
  const auto pooled = conditional(real_nvp<float>(2, {.layers = 1, .context_dim = 3}), c, MeanOfRows{});
  CHECK(message([&] { inverse(pooled, x, c); }) == "conditional: the embedding returned 1 rows for 6 contexts");
  // Parts that take contexts of different widths.
  const FlowSequence mixed(real_nvp<float>(2, {.layers = 1, .context_dim = 2}),
                           real_nvp<float>(2, {.layers = 1, .context_dim = 3}));
  CHECK(contains(message([&] { context_dim(mixed); }), "takes a context of 3 columns, another part one of 2"));
}

namespace {

// x = z + c, a layer of a user's own.
template <class T>
struct ShiftByContext {
  using Scalar = scalar_t<T>;

  Index dim() const { return 2; }
  Index context_dim() const { return 2; }
  template <class Self>
  static auto fields(Self&) {
    return std::tuple<>();
  }
  template <class U>
  ShiftByContext<U> rebind() const {
    return {};
  }
  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass) const {
    return {z + pass.context, zeros(z, 1)};
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass) const {
    return {x - pass.context, zeros(x, 1)};
  }
  template <Traced X>
  Transformed<X> forward(const X& z) const {
    return forward(z, Pass<Scalar>{});
  }
  template <Traced X>
  Transformed<X> inverse(const X& x) const {
    return inverse(x, Pass<Scalar>{});
  }
};

}  // namespace

TEST_CASE("conditional distributions: a layer that reads its context is never called without one", "[layers]") {
  TransformedDistribution model(StandardNormal<double>(2), ShiftByContext<double>{});
  const Array<double> x = some_points<double>(70, 2), c = some_contexts<double>(70, 2);
  CHECK((model.log_prob(x, c) - StandardNormal<double>(2).log_prob(x - c)).abs().maxCoeff() < 1e-12);
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  const std::string none = ": this flow takes a context of 2 columns, got none: ";
  CHECK(message([&] { model.log_prob(x); }) == "log_prob" + none + "call log_prob(x, c) or given(c)");
  CHECK(contains(message([&] { model.score(x); }), "score" + none));
  CHECK(contains(message([&] { model.sample(70, 1); }), "sample" + none));
  CHECK(contains(message([&] { model.sample_and_log_prob(70, 1); }), "sample_and_log_prob" + none));
  CHECK(contains(message([&] { forward(model.flow, x); }), "forward" + none));
  CHECK(contains(message([&] { inverse(model.flow, x); }), "inverse" + none));
  CHECK(message([&] { fit(model, MaximumLikelihood<double>(x), {.steps = 1}); }) ==
        "fit: this model takes a context of 2 columns, got none");
  CHECK(message([&] { fit(model, MaximumLikelihood<double>(x, c.leftCols(1)), {.steps = 1}); }) ==
        "fit: the context has 1 columns, this model takes one of 2");
  const auto target = [](const auto& at) { return sum_cols(square(at)) * -0.5; };
  CHECK(message([&] { fit(model, ReverseKl(target), {.steps = 1}); }) == "fit" + none + "fit model.given(c)");
  CHECK(message([&] { estimate_log_z(model, target, 10, 1); }) == "importance_sample" + none + "use model.given(c)");
}

TEMPLATE_TEST_CASE("conditional flows: contexts on arrays, one for all or one for each row", "[layers]", float,
                   double) {
  using S = TestType;
  const auto model = conditional_model<S>();
  const Array<S> x = some_points<S>(150, 2), c = some_contexts<S>(150, 3);
  const auto z = inverse(model.flow, x, c);
  CHECK(((StandardNormal<S>(2).log_prob(z.value) + z.log_det - model.log_prob(x, c)).abs() < S(1e-4)).all());
  const auto back = forward(model.flow, z.value, c, 2);
  CHECK(((back.value - x).abs() < S(sizeof(S) == 4 ? 1e-4 : 1e-10)).all());
  CHECK(((back.log_det + z.log_det).abs() < S(sizeof(S) == 4 ? 1e-4 : 1e-10)).all());
  for (const Index i : {0, 63, 64, 149}) {
    const auto shared = inverse(model.flow, x, c.row(i)), given_c = inverse(given(model.flow, c.row(i)), x);
    CHECK((shared.value.row(i) == z.value.row(i)).all());
    CHECK((shared.value == given_c.value).all());
    CHECK((shared.log_det == given_c.log_det).all());
    CHECK((forward(model.flow, z.value, c.row(i)).value.row(i) == back.value.row(i)).all());
  }
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([&] { forward(model.flow, x, c.leftCols(2)); }) ==
        "forward: the context has 2 columns, this flow takes one of 3");
  CHECK(message([&] { inverse(model.flow, x, c.topRows(5)); }) == "inverse: the context has 5 rows, expected 150 or 1");
  CHECK(message([&] { inverse(real_nvp<S>(2, {.layers = 1}), x, c); }) ==
        "inverse: got a context, but this flow takes none");
}

TEST_CASE("conditional distributions: a recipe with an embedding is in the units of the data", "[layers]") {
  const Array<double> x = some_points<double>(60, 2), c = some_contexts<double>(60, 3);
  const auto model_of = [&](const Array<double>& data) {
    const auto flow = real_nvp<double>(2, {.layers = 2, .network = {.hidden = {8}, .last_scale = 1}, .context_dim = 4});
    return TransformedDistribution(
        StandardNormal<double>(2),
        conditional(standardized(flow, data), c, make_mlp<double>(3, 4, {.hidden = {32}, .last_scale = 1}, 1)));
  };
  const auto model = model_of(x), moved = model_of(x * 1000.0 - 7.0);
  CHECK(model.context_dim() == 3);
  CHECK((moved.log_prob(x * 1000.0 - 7.0, c) + 2 * std::log(1000.0) - model.log_prob(x, c)).abs().maxCoeff() < 1e-9);
  CHECK((model.log_prob(x, c) - model.log_prob(x, c.colwise().reverse())).abs().maxCoeff() > 1e-3);
}

TEST_CASE("conditional distributions: the gradient of a shared context is the sum over its samples", "[layers]") {
  const auto model = conditional_model<double>();
  const Array<double> x = some_points<double>(9, 2), c = some_contexts<double>(1, 3);
  const Array<double> each = model.context_score(x, c), ones = Array<double>::Ones(9, 1);
  Tape<double> tape;
  Pass<double> pass;
  pass.context = tape.variable(c);
  tape.backward(model.log_prob(tape.copy(x), pass), view(ones));
  CHECK((as_eigen(pass.context.grad()) - each.colwise().sum()).abs().maxCoeff() < 1e-12);
}

TEST_CASE("conditional distributions: an objective owns temporary data and contexts", "[layers]") {
  const Array<double> x = some_points<double>(40, 2), c = some_contexts<double>(40, 3);
  const auto train = [&](const MaximumLikelihood<double>& objective) {
    TransformedDistribution model(StandardNormal<double>(2),
                                  real_nvp(x, c.leftCols(2), {.layers = 2, .network = {.hidden = {4}}}));
    fit(model, objective, {.steps = 3, .batch = 16, .threads = 1});
    return parameters(model);
  };
  const Array<double> held = c.leftCols(2);
  const Array<double> expected = train(MaximumLikelihood<double>(x, held));
  CHECK((train(MaximumLikelihood<double>(x, c.leftCols(2))) == expected).all());
  CHECK((train(MaximumLikelihood<double>(x * 1.0, c.leftCols(2))) == expected).all());
  CHECK((train(MaximumLikelihood<double>(x * 1.0, held)) == expected).all());
  // The whole fit by arrays is the same training, and what it is given is checked.
  TransformedDistribution model(StandardNormal<double>(2),
                                real_nvp(x, held, {.layers = 2, .network = {.hidden = {4}}}));
  const FitReport report = fit(model, x, held, {.steps = 3, .batch = 16, .threads = 1});
  CHECK(report.steps == 3);
  CHECK((parameters(model) == expected).all());
  const auto message = [](auto&& f) { return thrown_message<invalid_argument>(f); };
  CHECK(message([&] { fit(model, x, {.steps = 1}); }) ==
        "fit: this model takes a context of 2 columns: call fit(model, data, context)");
  CHECK(message([&] { fit(model, x, c, {.steps = 1}); }) ==
        "fit: the context has 3 columns, this model takes one of 2");
  CHECK(message([&] { fit(model, x, held.topRows(7), {.steps = 1}); }) == "fit: the context has 7 rows, the data 40");
  auto plain = TransformedDistribution(StandardNormal<double>(2), real_nvp<double>(2, {.layers = 1}));
  CHECK(message([&] { fit(plain, x, held, {.steps = 1}); }) == "fit: got a context, but this model takes none");
}

TEST_CASE("conditional distributions: a context changes no parameter of the rest", "[layers]") {
  const auto plain = real_nvp<double>(2, {.layers = 3});
  const auto with_context = real_nvp<double>(2, {.layers = 3, .context_dim = 4});
  CHECK(context_dim(plain) == 0);
  CHECK(context_dim(with_context) == 4);
  const auto& one = std::get<0>(plain.layers).layers;
  const auto& other = std::get<0>(with_context.layers).layers;
  for (std::size_t i = 0; i < one.size(); ++i) {
    CHECK(one[i].conditioner.context_weight.size() == 0);
    CHECK(other[i].conditioner.context_weight.cols() == 4);
    for (std::size_t k = 0; k < one[i].conditioner.layers.size(); ++k) {
      CHECK((one[i].conditioner.layers[k].weight == other[i].conditioner.layers[k].weight).all());
      CHECK((one[i].conditioner.layers[k].bias == other[i].conditioner.layers[k].bias).all());
    }
  }
  CHECK((other[0].conditioner.context_weight != other[1].conditioner.context_weight).all());
}
