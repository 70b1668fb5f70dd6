// SPDX-License-Identifier: MIT
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <diffeo/continuous/cnf.hpp>
#include <diffeo/continuous/concat_squash_field.hpp>
#include <diffeo/continuous/field_function.hpp>
#include <diffeo/continuous/mlp_field.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/distributions/conditional_mixture.hpp>
#include <diffeo/distributions/conditional_normal.hpp>
#include <diffeo/distributions/normal.hpp>
#include <diffeo/distributions/transformed.hpp>
#include <diffeo/layers/invert.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/layers/residual.hpp>
#include <diffeo/matching/flow_matching.hpp>
#include <diffeo/matching/optimal_transport_pairing.hpp>
#include <diffeo/ode/integrate.hpp>
#include <diffeo/targets/funnel.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/reverse_kl.hpp>
#include <diffeo/training/trainer.hpp>
#include <diffeo/transport/assignment.hpp>
#include <diffeo/transport/sinkhorn.hpp>
#include <new>
#include <numeric>
#include <optional>
#include <vector>

#include "catch.hpp"

// What is counted, in all threads: every operator new, whatever its form; and under glibc every malloc, calloc, realloc
// and aligned form of it, whoever calls it (Eigen's arrays do so directly). Sanitizers bring an allocator of their own,
// so that this file is not compiled with them.

namespace {

std::atomic<bool> counting = false;
std::atomic<long> allocations = 0;
std::atomic<std::size_t> allocated_bytes = 0;       // that were asked for; twice where new asks malloc
[[maybe_unused]] std::atomic<long> news_left = -1;  // that may succeed; negative: any number

// Allocations while f runs.
template <class F>
long allocations_in(const F& f) {
  allocations = 0;
  allocated_bytes = 0;
  counting = true;
  f();
  counting = false;
  return allocations;
}

}  // namespace

namespace {

void count(std::size_t size) {
  if (!counting.load(std::memory_order_relaxed)) return;
  allocations.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes.fetch_add(size, std::memory_order_relaxed);
}

void* allocate(std::size_t size) {
  count(size);
  if (news_left >= 0 && news_left-- == 0) {
    news_left = 0;
    throw std::bad_alloc();
  }
  void* p = std::malloc(size > 0 ? size : 1);
  if (!p) throw std::bad_alloc();
  return p;
}

void* allocate(std::size_t size, std::align_val_t alignment) {
  count(size);
  const auto a = static_cast<std::size_t>(alignment);
  void* p = std::aligned_alloc(a, (size + a) / a * a);
  if (!p) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void* operator new(std::size_t size, std::align_val_t a) { return allocate(size, a); }
void* operator new[](std::size_t size, std::align_val_t a) { return allocate(size, a); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  count(size);
  return std::malloc(size > 0 ? size : 1);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  count(size);
  return std::malloc(size > 0 ? size : 1);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }

#ifdef __GLIBC__
// A program's own malloc takes the place of glibc's, whose names for the real ones these are.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t size) noexcept {
  count(size);
  return __libc_malloc(size);
}
void* calloc(std::size_t n, std::size_t size) noexcept {
  count(n * size);
  return __libc_calloc(n, size);
}
void* realloc(void* p, std::size_t size) noexcept {
  count(size);
  return __libc_realloc(p, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  count(size);
  return __libc_memalign(alignment, size);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  count(size);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** p, std::size_t alignment, std::size_t size) noexcept {
  count(size);
  *p = __libc_memalign(alignment, size);
  return *p ? 0 : ENOMEM;
}
}
#endif

using namespace diffeo;

TEST_CASE("allocations are counted", "[allocation]") {
  CHECK(allocations_in([] {}) == 0);
  CHECK(allocations_in([] { std::vector<int> v(100); }) >= 1);
  CHECK(allocations_in([] { Arena().allocate<float>(1); }) >= 1);
#ifdef __GLIBC__
  CHECK(allocations_in([] {
          volatile Index n = 50;
          Array<float> a(n, n);
          a.setZero();
          n = static_cast<Index>(a(3, 3));
        }) >= 1);
#endif
}
TEST_CASE("a pool for which there is no more memory has fewer threads", "[allocation]") {
  // Too little for the pool itself throws; too little for all of its threads does not.
  int made = 0, least = 9;
  for (long news = 0; news < 12; ++news) {
    news_left = news;
    std::optional<ThreadPool> pool;
    try {
      pool.emplace(5);
    } catch (const std::bad_alloc&) {
    }
    news_left = -1;
    if (!pool) continue;
    ++made;
    least = std::min(least, pool->size());
    std::atomic<int> calls = 0;
    pool->run(20, [&](Index, int) { ++calls; });
    CHECK(calls == 20);
  }
  CHECK(made > 4);
  CHECK(least < 5);
  CHECK(ThreadPool(5).size() == 5);
}

TEST_CASE("a call on a pool starts no thread and takes no memory but its result", "[allocation]") {
  const TransformedDistribution model{StandardNormal<float>(2), real_nvp<float>(2, {.layers = 2})};
  const Array<float> x = Array<float>::Random(300, 2);
  ThreadPool pool(2);
  for (int k = 0; k < 4; ++k) model.score(x, pool);
  const auto few = [&](const Execution& execution) {
    long least = 1000;
    for (int k = 0; k < 30; ++k) least = std::min(least, allocations_in([&] { model.score(x, execution); }));
    return least;
  };
  CHECK(few(pool) < 8);
  CHECK(few(2) > 12);  // threads and tapes
}

namespace {

// Of the 72 steps that follow a warm-up, at most `allowed` allocate.
template <class Trainer>
void check_steady(Trainer& trainer, int warm_up = 6, std::size_t allowed = 0) {
  constexpr int steps = 72;
  double loss = 0;
  for (int k = 0; k < warm_up; ++k) trainer.step(1e-3);
  std::vector<int> allocating;
  for (int k = 0; k < steps; ++k)
    if (allocations_in([&] { loss = trainer.step(1e-3); }) > 0) allocating.push_back(k);
  CAPTURE(allocating);
  CHECK(allocating.size() <= allowed);
  CHECK(std::isfinite(loss));
}

}  // namespace

TEMPLATE_TEST_CASE("a training step allocates nothing once it is warm", "[allocation]", float, double) {
  using S = TestType;
  const Array<S> data = Array<S>::Random(1000, 3);
  CouplingFlowOptions flow;
  flow.layers = 3;
  flow.network.hidden = {16, 16};
  const MaximumLikelihood<S> objective(data);
  std::vector<Index> rows(1000);
  std::iota(rows.begin(), rows.end(), Index{0});
  const Dataset<S> weighted_data{.x = data, .weights = data.col(0).abs()};
  const MaximumLikelihood<S> weighted(weighted_data);
  const auto weighted_steps = [&](const auto& distribution, int threads) {
    Trainer trainer(distribution, weighted, rows, FitOptions{.batch = 300, .ema_decay = 0.9, .threads = threads});
    check_steady(trainer);
    CHECK(trainer.snapshot_step() > 6);  // snapshots were among the steps
  };
  const auto steps = [&](const auto& distribution, int threads, double clip_norm, double ema_decay) {
    FitOptions options;
    options.batch = 300;  // an epoch is three steps and a third
    options.threads = threads;
    options.clip_norm = clip_norm;
    options.ema_decay = ema_decay;
    Trainer trainer(distribution, objective, rows, options);
    check_steady(trainer);
  };
  // Of samples drawn, with and without the copy of the model that is made of constants.
  const auto variational_steps = [&](const auto& distribution, int threads, const ReverseKlOptions& how) {
    const targets::Funnel target(3);
    const ReverseKl drawn(target, how);
    Trainer trainer(distribution, drawn, FitOptions{.batch = 300, .threads = threads});
    check_steady(trainer);
  };
  const TransformedDistribution real_nvp_flow{StandardNormal<S>(3), real_nvp(data, flow)};
  const TransformedDistribution nice_flow{StandardNormal<S>(3), nice(data, flow)};
  // Spectral norms follow every step; series and fixed points take memory as they need it.
  const auto residual_layers = [](const LogDetEstimator& estimator, InverseMethod method) {
    return repeat(2, [&](Index) {
      return make_residual<S>(3, {.hidden = {16, 16},
                                  .coefficient = 0.9,
                                  .last_scale = 1,
                                  .training = estimator,
                                  .inverse = {.method = method}});
    });
  };
  std::vector<TransformedDistribution<StandardNormal<S>, Invert<Repeated<Residual<S>>>>> residual_flows;
  for (const LogDetEstimator& estimator :
       {LogDetEstimator(ExactLogDet{}), LogDetEstimator(PowerSeriesLogDet{}), LogDetEstimator(RouletteLogDet{})})
    residual_flows.push_back({StandardNormal<S>(3), Invert(residual_layers(estimator, InverseMethod::newton))});
  const TransformedDistribution by_newton{StandardNormal<S>(3), residual_layers(ExactLogDet{}, InverseMethod::newton)};
  const TransformedDistribution by_contraction{StandardNormal<S>(3),
                                               residual_layers(ExactLogDet{}, InverseMethod::fixed_point)};
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    steps(real_nvp_flow, threads, 0, 0);
    steps(real_nvp_flow, threads, 0.5, 0.99);
    steps(nice_flow, threads, 0, 0);
    weighted_steps(real_nvp_flow, threads);
    for (const auto& flow_of_residuals : residual_flows) steps(flow_of_residuals, threads, 0.5, 0.99);
    steps(by_newton, threads, 0, 0);
    steps(by_contraction, threads, 0, 0);
    variational_steps(real_nvp_flow, threads, {});
    variational_steps(real_nvp_flow, threads, {.anneal_steps = 10, .path_derivative = true});
  }
}

TEMPLATE_TEST_CASE("training steps with a context do not allocate", "[allocation]", float, double) {
  using S = TestType;
  const Array<S> data = Array<S>::Random(1000, 3), contexts = Array<S>::Random(1000, 2);
  const MaximumLikelihood<S> objective(data, contexts);
  std::vector<Index> rows(1000);
  std::iota(rows.begin(), rows.end(), Index{0});
  const auto steps = [&](const auto& flow) {
    Trainer trainer(TransformedDistribution(StandardNormal<S>(3), flow), objective, rows, {.batch = 300, .threads = 1});
    check_steady(trainer);
  };
  const auto steps_alone = [&](const auto& distribution) {
    Trainer trainer(distribution, objective, rows, FitOptions{.batch = 300, .threads = 1});
    check_steady(trainer);
  };
  steps_alone(conditional_normal(data, contexts, {.network = {.hidden = {16}}}));
  steps_alone(conditional_mixture(data, contexts, 4, {.network = {.hidden = {16}}}));
  steps(planar(data, contexts, {.layers = 2}));
  steps(radial(data, contexts, {.layers = 2}));
  steps(residual(data, contexts, {.layers = 2, .block = {.hidden = {16}}}));
  // Solved for, with rows of the context's share gathered; in float also in double.
  for (const InverseMethod method : {InverseMethod::newton, InverseMethod::fixed_point})
    steps(repeat(2, [&](Index) {
      return make_residual<S>(3, {.hidden = {16, 16},
                                  .coefficient = 0.9,
                                  .last_scale = 1,
                                  .inverse = {.tolerance = 1e-10, .method = method},
                                  .context_dim = 2});
    }));
}

TEMPLATE_TEST_CASE("a solve in a warm workspace does not allocate", "[allocation]", float, double) {
  using S = TestType;
  const auto field = [](const ode::Stage<S>& in, View<S> dy) {
    for (Index j = 0; j < in.y.cols; ++j)
      for (Index i = 0; i < in.y.rows; ++i) dy.col(j)[i] = in.y.col(j)[i] * (1 - in.y.col(j)[i]);
  };
  const Array<S> y0 = Array<S>::Random(200, 3).abs();
  Array<S> y1(200, 3);
  const std::vector<double> t1(200, 2.0);
  std::vector<ode::SolveStatistics> statistics(200);
  ode::Workspace<S> workspace;
  for (const auto method : {ode::Method::heun, ode::Method::bosh3, ode::Method::tsit5, ode::Method::dopri8}) {
    const auto solve = [&] {
      ode::integrate<S>(field, view(y0), 0, t1.data(), view(y1), {.method = method},
                        ode::ErrorControl<>{{0, 2, {}}, {2, 1, {}}}, statistics, workspace);
    };
    solve();
    CHECK(allocations_in(solve) == 0);
    CHECK(statistics[199].status == ode::Status::finished);
  }
}

TEMPLATE_TEST_CASE("transport problems of at most the size before do not allocate", "[allocation]", float, double) {
  using S = TestType;
  const Array<S> large = Array<S>::Random(70, 70).abs(), small = Array<S>::Random(33, 33).abs();
  const Array<S> equal = Array<S>::Ones(70, 70);  // as many augmenting paths as there can be
  AssignmentSolver<S> assignment;
  assignment.solve(large);
  const std::vector<double> weights(33, 2.0);
  SinkhornSolver<S> sinkhorn({.regularisation = 0.1});
  std::vector<Index> columns(70);
  Array<S> plan(70, 70);
  sinkhorn.solve(large);
  sinkhorn.sample_columns(view(large), 1, columns);
  for (int round = 0; round < 3; ++round)
    for (const Array<S>* cost : {&small, &equal, &large})
      CHECK(allocations_in([&] {
              assignment.solve(*cost);
              sinkhorn.solve(*cost);
              if (cost == &small) {
                sinkhorn.solve(view(small), weights, weights);
              } else {
                sinkhorn.plan_into(view(*cost), view(plan));
                sinkhorn.sample_columns(view(*cost), 2, columns);
              }
            }) == 0);
}

TEMPLATE_TEST_CASE("a training step of a continuous flow allocates nothing once it is warm", "[allocation]", float,
                   double) {
  using S = TestType;
  const Array<S> data = Array<S>::Random(300, 2);
  const MaximumLikelihood<S> objective(data);
  std::vector<Index> rows(300);
  std::iota(rows.begin(), rows.end(), Index{0});
  const auto check = [&](const std::vector<Index>& hidden, const CnfOptions& options, bool adaptive_too = false) {
    CAPTURE(hidden.size(), options.training.divergence.index(), options.kinetic, options.frobenius);
    const auto model_of = [&](const CnfOptions& how) {
      return TransformedDistribution{StandardNormal<S>(2), Cnf(make_mlp_field<S>(2, {.hidden = hidden}, 1), how)};
    };
    const TransformedDistribution adaptive = model_of(options);
    CnfOptions equal_steps = options;
    equal_steps.training.solver.steps = 6;
    const TransformedDistribution model = model_of(equal_steps);
    for (const int threads : {1, 2}) {
      CAPTURE(threads);
      Trainer trainer(model, objective, rows, FitOptions{.batch = 280, .threads = threads});
      check_steady(trainer);
      if (!adaptive_too) continue;
      // Where a solve makes more steps than any before it, it takes the memory that these need: in 360 training steps
      // that happened up to six times, and no more than twice in these 72. What allocates every thirteenth step would
      // do so five times.
      Trainer adapting(adaptive, objective, rows, FitOptions{.batch = 280, .threads = threads});
      check_steady(adapting, 72, 3);
    }
    const targets::Funnel target(2);
    const ReverseKl drawn(target, {.path_derivative = true});
    Trainer trainer(model, drawn, FitOptions{.batch = 100});
    check_steady(trainer);
    // Evaluation, on a tape that has done it before, of a model made of its constants.
    Tape<S> tape;
    const Array<S> values = parameters(model), ones = Array<S>::Ones(300, 1);
    const auto constants = lift_detached(tape, model, values.data());
    const auto evaluate = [&] {
      tape.reset();
      generate(constants.flow, constants.flow.inverse(tape.constant(data)).value);
      const Var<S> x = tape.variable(data);
      tape.backward(constants.log_prob(x), view(ones));
    };
    for (int k = 0; k < 3; ++k) evaluate();
    CHECK(allocations_in(evaluate) == 0);
  };
  CnfOptions options;
  check({16, 16}, options, true);
  options.gradient.memory_budget = 2000;
  check({16, 16}, options);
  options.training.divergence = HutchinsonDivergence{};
  options.kinetic = 0.1;
  options.steer = 0.1;
  check({16, 16, 16}, options);
  options.training.divergence = HutchPlusPlusDivergence{.probes = 4};
  check({16}, options);
  options = {};
  options.frobenius = 0.1;
  options.gradient.method = ode::Differentiation::adjoint;
  check({16, 16}, options);

  // With contexts, one for each row.
  const Array<S> contexts = Array<S>::Random(300, 3);
  const MaximumLikelihood<S> given_contexts(data, contexts);
  options = {};
  options.training.solver.steps = 6;
  const auto check_conditional = [&](const auto& field) {
    for (const Divergence& divergence : {Divergence(ExactDivergence{}), Divergence(HutchinsonDivergence{})})
      for (const auto method : {ode::Differentiation::discrete, ode::Differentiation::adjoint}) {
        options.training.divergence = divergence;
        options.gradient.method = method;
        const TransformedDistribution model{StandardNormal<S>(2), Cnf(field, options)};
        Trainer trainer(model, given_contexts, rows, FitOptions{.batch = 280, .threads = 2});
        check_steady(trainer);
      }
  };
  check_conditional(make_mlp_field<S>(2, {.hidden = {16, 16}}, 1, 0, 3));
  check_conditional(make_concat_squash_field<S>(2, {.hidden = {16, 16}}, 1, 0, 3));
  check_conditional(make_field<S>(
      2, [](const auto& t, const auto& x, const auto& c) { return tanh(x * t) * cols(c, 0, 2); }, 3));
}

namespace {

// Pairs source and target in reverse.
struct Reversed {
  static constexpr bool independent = false, takes_weights = false;
  template <class S>
  struct State {};
  template <Real S>
  void pair(State<S>&, const PairingTask<S>& task) const {
    for (std::size_t i = 0; i < task.partner.size(); ++i)
      task.partner[i] = static_cast<Index>(task.partner.size() - 1 - i);
  }
  void check() const {}
};

}  // namespace

TEMPLATE_TEST_CASE("a training step of flow matching allocates nothing once it is warm", "[allocation]", float,
                   double) {
  using S = TestType;
  const Array<S> data = Array<S>::Random(300, 2), contexts = Array<S>::Random(300, 3), other = Array<S>::Random(200, 2);
  std::vector<Index> rows(300);
  std::iota(rows.begin(), rows.end(), Index{0});
  const auto steps = [&](const auto& model, const auto& objective) {
    for (const int threads : {1, 2}) {
      CAPTURE(threads);
      Trainer trainer(model, objective, rows, FitOptions{.batch = 280, .threads = threads});
      check_steady(trainer);
    }
  };
  const TransformedDistribution model{StandardNormal<S>(2), cnf(data, {.network = {.hidden = {16, 16, 16}}})};
  steps(model, FlowMatching(model, data));
  steps(model,
        FlowMatching(model, data, BrownianBridge{}, Reversed{}, {.times = LogitNormalTimes{}, .antithetic = true}));
  steps(model, FlowMatching(model, std::vector<Snapshot<S>>{{0, {other, {}, other.col(0).abs()}}, {1, {data}}},
                            TrigonometricPath{0.1}));
  const WithDenoiser with_denoiser{model, make_mlp_field<S>(2, {.hidden = {16}})};
  steps(with_denoiser, FlowMatching(with_denoiser, data, LinearPath{0.1}));
  const TransformedDistribution conditional_model{StandardNormal<S>(2),
                                                  cnf(data, contexts, {.network = {.hidden = {16, 16}}})};
  steps(conditional_model, FlowMatching(conditional_model, {.x = data, .context = contexts}));
  if constexpr (std::is_same_v<S, float>) {
    // Intervals of which a minibatch has different numbers of rows from step to step.
    const std::vector<Snapshot<S>> snapshots = {{0.3, {other}}, {1, {data}}};
    std::vector<Index> all(500);
    std::iota(all.begin(), all.end(), Index{0});
    const FlowMatching objective(model, snapshots, LinearPath{}, OptimalTransportPairing{});
    Trainer trainer(model, objective, all, FitOptions{.batch = 280});
    for (int step = 0; step < 200; ++step) trainer.step(1e-3);
    CHECK(allocations_in([&] { trainer.step(1e-3); }) == 0);
    steps(conditional_model, FlowMatching(conditional_model, {.x = data, .context = contexts}, LinearPath{},
                                          EntropicPairing{.max_iterations = 20}));
  }
}

TEST_CASE("what a gradient takes: the adjoint's memory does not grow with the number of steps", "[allocation]") {
  // Bytes taken by a first solve with its gradient, of 128 rows by so many steps.
  const Array<double> x = Array<double>::Random(128, 2), ones = Array<double>::Ones(128, 1);
  const auto bytes = [&](Index steps, ode::Differentiation how, std::size_t budget) {
    CnfOptions options;
    options.training.solver.method = ode::Method::rk4;
    options.training.solver.steps = steps;
    options.gradient = {how, budget};
    const Cnf flow(make_mlp_field<double>(2, {.hidden = {16, 16}}), options);
    Array<double> values = parameters(flow), grads = Array<double>::Zero(values.rows(), 1);
    allocations_in([&] {
      Tape<double> tape;
      const auto lifted = lift(tape, flow, values.data(), grads.data());
      tape.backward(lifted.inverse(tape.variable(x), {.training = true}).log_det, view(ones));
    });
    CHECK(grads.isFinite().all());
    CHECK((grads != 0).any());
    return allocated_bytes.load();
  };
  using ode::Differentiation;
  constexpr std::size_t plenty = std::size_t{1} << 30;
  const std::size_t adjoint = bytes(20, Differentiation::adjoint, plenty);
  for (const Index steps : {200, 2000}) CHECK(bytes(steps, Differentiation::adjoint, plenty) == adjoint);
  // The exact gradient keeps every state, of 3 numbers, unless it may not.
  const std::size_t few = bytes(20, Differentiation::discrete, plenty),
                    many = bytes(2000, Differentiation::discrete, plenty);
  CHECK(many > few + 128 * 1980 * 3 * sizeof(double));
  CHECK(bytes(2000, Differentiation::discrete, many / 1000) + 128 * 1800 * 3 * sizeof(double) < many);
}
