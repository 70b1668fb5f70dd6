// SPDX-License-Identifier: MIT
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <diffeo/core/array.hpp>
#include <diffeo/core/parallel.hpp>
#include <string>
#include <type_traits>
#include <utility>

/// What the workloads share: names, registration and the clock.
namespace diffeo::bench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Calls f for every iteration of the benchmark; seconds per call. By the wall clock, as the benchmark's own real time:
/// Google Benchmark's rates would divide by the time of the first thread's processor.
template <class F>
double time_iterations(benchmark::State& state, const F& f) {
  const auto start = Clock::now();
  for (auto _ : state) f();
  return seconds_since(start) / static_cast<double>(state.iterations());
}

/// `<workload>/<f32|f64>/<threads>`, without the suffixes that Google Benchmark adds for options such as UseRealTime.
template <Real S>
std::string benchmark_name(const std::string& workload, int threads) {
  return workload + (std::is_same_v<S, float> ? "/f32/" : "/f64/") + std::to_string(threads);
}

/// Registers run(state), a benchmark in S on that many threads. On a machine with fewer it says so and does not run.
template <Real S, class F>
void add_benchmark(const std::string& workload, int threads, benchmark::TimeUnit unit, F run) {
  const auto guarded = [run = std::move(run), threads](benchmark::State& state) {
    if (threads <= thread_count(0)) return run(state);
    state.SkipWithError("there are not so many threads here");
  };
  benchmark::RegisterBenchmark(benchmark_name<S>(workload, threads).c_str(), guarded)->Unit(unit);
}

}  // namespace diffeo::bench
