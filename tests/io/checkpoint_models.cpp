// SPDX-License-Identifier: MIT
#include <diffeo/continuous/concat_squash_field.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/conditional_mixture.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/mixture.hpp>
#include <diffeo/distributions/multivariate_normal.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/distributions/uniform.hpp>
#include <diffeo/io/checkpoint.hpp>
#include <diffeo/layers/conditional.hpp>
#include <diffeo/layers/diagonal_scale.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/permutation.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/matching/denoiser.hpp>
#include <diffeo/training/fit.hpp>
#include <string>
#include <vector>

#include "../arrays.hpp"
#include "../catch.hpp"
#include "../files.hpp"

using namespace diffeo;

namespace {

template <Real S>
using Results = std::vector<Array<S>>;

// Results that are asked of models without and with a context.
template <Real S>
struct Ask {
  Array<S> x = gaussian<S>(20, 2, 90), c = gaussian<S>(20, 2, 91);

  template <class M>
  Results<S> operator()(const M& model) const {
    const Execution one(1);
    if constexpr (requires { model.distribution; }) {  // and a denoiser
      Tape<S> tape;
      const auto point = tape.constant(x);
      const auto time = tape.copy(Array<S>::Constant(20, 1, S(0.5)));
      Results<S> results = (*this)(model.distribution);
      results.push_back(to_array(model.denoiser(time, point)));
      return results;
    } else {
      if (context_dim(model) == 0) return {model.log_prob(x, one), model.sample(20, 5, one), model.score(x, one)};
      if constexpr (requires { model.score(x, c, one); })
        return {model.log_prob(x, c, one), model.sample(c, 5, one), model.score(x, c, one)};
      return {};
    }
  }
};

// Saves a model, loads it into another one of the same structure, and compares the bits of what both answer.
template <class M, class F>
void require_same_after_load(const std::string& name, const M& model, M other, const F& ask) {
  INFO(name);
  const Folder folder;
  const std::string path = folder.file("model.safetensors");
  save(model, path);
  const auto expected = ask(model), before = ask(other);
  load(path, other);
  const auto found = ask(other);
  REQUIRE(expected.size() >= 2);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    CHECK(expected[i].allFinite());
    CHECK_FALSE(same_bits(before[i], expected[i]));
    CHECK(same_bits(found[i], expected[i]));
  }
  const auto saved = leaves(model);
  const auto loaded = leaves(other);
  for (std::size_t i = 0; i < saved.size(); ++i) {
    CAPTURE(saved[i].path);
    CHECK(same_bits(*loaded[i].array, *saved[i].array));
  }
  CHECK(structure_differences(model, other).empty());
}

template <class M>
M shaken(M model, std::uint64_t seed) {
  using S = typename M::Scalar;
  const Array<S> values = parameters(model) + S(0.3) * gaussian<S>(parameter_count(model), 1, seed);
  set_parameters(model, values);
  return model;
}

template <Real S>
auto scaled_and_shifted(std::uint64_t seed) {
  return Standardize<S>::from(gaussian<S>(1, 2, seed), gaussian<S>(1, 2, seed + 1).abs() + S(0.5));
}

const MlpOptions few{.hidden = {5}};

// Every layer that takes no context.
template <Real S>
auto layers_model(std::uint64_t seed) {
  return shaken(
      TransformedDistribution(
          GaussianMixture<S>::random(2, 2, seed),
          FlowSequence(real_nvp<S>(2, {.layers = 2, .network = few}), nice<S>(2, {.layers = 1, .network = few}),
                       planar<S>(2, {.layers = 2}), Invert{make_radial<S>(2, seed)},
                       residual<S>(2, {.layers = 1, .block = {.hidden = {6, 5}}}), Permutation<S>::reverse(2),
                       DiagonalScale<S>{Array<S>::Zero(1, 2)}, scaled_and_shifted<S>(seed))),
      seed);
}

// Every layer that takes a context, with an embedding, over a base that takes one.
template <Real S>
auto conditional_model(std::uint64_t seed) {
  const Array<S> contexts = gaussian<S>(50, 2, seed) * S(2);
  return shaken(TransformedDistribution(
                    conditional_normal<S>(2, contexts, {.network = few}),
                    conditional(FlowSequence(real_nvp<S>(2, {.layers = 2, .network = few, .context_dim = 3}),
                                             planar<S>(2, {.layers = 1, .context_dim = 3, .network = few}),
                                             radial<S>(2, {.layers = 1, .context_dim = 3, .network = few}),
                                             residual<S>(2, {.layers = 1, .block = {.hidden = {6}}, .context_dim = 3}),
                                             scaled_and_shifted<S>(seed)),
                                contexts, make_mlp<S>(2, 3, few, seed))),
                seed);
}

}  // namespace

TEMPLATE_TEST_CASE("checkpoint: the same bits from every layer", "[io]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  require_same_after_load("layers", layers_model<S>(1), layers_model<S>(2), Ask<S>());
}

TEMPLATE_TEST_CASE("checkpoint: the same bits from every layer with a context", "[io]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto model = conditional_model<S>(1), other = conditional_model<S>(2);
  require_same_after_load("with a context", model, other, Ask<S>());
  const Array<S> c = gaussian<S>(1, 2, 5);
  require_same_after_load("given a context", model.given(c), other.given(Array<S>(c * S(2))), [](const auto& given) {
    const Array<S> x = gaussian<S>(20, 2, 90);
    return Results<S>{given.log_prob(x), given.sample(20, 5)};
  });
}

TEMPLATE_TEST_CASE("checkpoint: the same bits from continuous flows", "[io]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const auto model = [](std::uint64_t seed) {
    return shaken(
        WithDenoiser{TransformedDistribution(
                         StandardNormal<S>(2),
                         FlowSequence(Cnf{make_concat_squash_field<S>(2, {.hidden = {5}}, seed), CnfOptions{}},
                                      mean_flow<S>(2, {.network = few}), cnf<S>(2, {.network = few}))),
                     make_mlp_field<S>(2, few, seed)},
        seed);
  };
  require_same_after_load("continuous", model(1), model(2), Ask<S>());
}

TEMPLATE_TEST_CASE("checkpoint: the same bits from distributions", "[io]", DIFFEO_TEST_SCALARS) {
  using S = TestType;
  const Array<S> zero = Array<S>::Zero(1, 2), one = Array<S>::Ones(1, 2);
  const auto both = [](const std::string& name, const auto& model) {
    require_same_after_load(name, shaken(model, 1), shaken(model, 2), Ask<S>());
  };
  both("diagonal normal", DiagonalNormal<S>{zero, zero});
  both("multivariate normal", MultivariateNormal<S>::standard(2));
  const Array<S> contexts = gaussian<S>(50, 2, 1);
  both("conditional mixture", conditional_mixture<S>(2, contexts, 2, {.network = few}));
  const Array<S> x = gaussian<S>(20, 2, 3);
  require_same_after_load("box", UniformBox<S>{{zero - S(9)}, {one * S(9)}}, UniformBox<S>{{zero - S(8)}, {one * S(8)}},
                          [&x](const auto& box) {
                            return Results<S>{box.log_prob(x), box.sample(20, 5)};
                          });
}

// A training computes what derives from parameters with a warm start, and from scratch at its end.
TEST_CASE("checkpoint: the same bits after a training", "[io]") {
  const Array<float> data = gaussian<float>(300, 2, 1) * 2.0F;
  const auto trained = [&data](std::uint64_t seed) {
    TransformedDistribution model(StandardNormal<float>(2),
                                  residual(data, {.layers = 2, .block = {.hidden = {6}}, .seed = seed}));
    fit(model, data, {.steps = 5, .batch = 100, .seed = seed});
    return model;
  };
  require_same_after_load("residual", trained(1), trained(2), Ask<float>());
}
