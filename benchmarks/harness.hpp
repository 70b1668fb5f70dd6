// SPDX-License-Identifier: MIT
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <diffeo/core/array.hpp>
#include <diffeo/core/parallel.hpp>
#include <string>
#include <type_traits>
#include <utility>

/// Functions that the workloads share: names, registration and time measurement.
namespace diffeo::bench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Calls f in every iteration of the benchmark and returns the wall-clock seconds per call. Google Benchmark's own
/// rates are not used, because they divide by the processor time of the first thread.
template <class F>
double time_iterations(benchmark::State& state, const F& f) {
  const auto start = Clock::now();
  for (auto _ : state) f();
  return seconds_since(start) / static_cast<double>(state.iterations());
}

/// Returns the name `<workload>/<f32|f64>/<threads>`, without the suffixes that Google Benchmark adds for options such
/// as UseRealTime.
template <Real S>
std::string benchmark_name(const std::string& workload, int threads) {
  return workload + (std::is_same_v<S, float> ? "/f32/" : "/f64/") + std::to_string(threads);
}

/// Registers run(state), a benchmark in S on `threads` threads. On a machine with fewer threads it is reported as
/// skipped.
template <Real S, class F>
void add_benchmark(const std::string& workload, int threads, benchmark::TimeUnit unit, F run) {
  const auto guarded = [run = std::move(run), threads](benchmark::State& state) {
    if (threads <= thread_count(0)) return run(state);
    state.SkipWithError("there are not so many threads here");
  };
  benchmark::RegisterBenchmark(benchmark_name<S>(workload, threads).c_str(), guarded)->Unit(unit);
}

}  // namespace diffeo::bench
