// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

/// Threads of the standard library. They wait for each other by a short spin and then asleep: at the barriers of an
/// OpenMP loop, a spinning thread takes the processor from the one it waits for as soon as the machine has other work.
namespace diffeo::inline DIFFEO_ISA {

/// The most threads that may be asked for.
inline constexpr int max_threads = 1024;

namespace detail {

// Processors that this process may use, at most OMP_NUM_THREADS where that is set.
inline int available_threads() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) count = CPU_COUNT(&allowed);
#endif
  if (const char* limit = std::getenv("OMP_NUM_THREADS")) {
    const int most = std::atoi(limit);
    if (most > 0) count = std::min(count, most);
  }
  return std::max(1, count);
}

}  // namespace detail

/// The number of threads that a request means: 0 stands for one per processor available to the process (at most the
/// environment's OMP_NUM_THREADS). Throws invalid_argument for a negative request or one above max_threads.
inline int thread_count(int requested) {
  require(requested >= 0 && requested <= max_threads, "threads is ", requested,
          ", expected 0 (all) or a positive number up to ", max_threads);
  return requested == 0 ? detail::available_threads() : requested;
}

/// Threads that are kept for many rounds of work. One round at a time; not to be shared between threads.
class ThreadPool {
 public:
  /// The calling thread is one of the `threads` (at least 1). Where the system refuses more threads there are fewer.
  explicit ThreadPool(int threads) {
    helpers_.reserve(static_cast<std::size_t>(std::max(0, threads - 1)));
    try {
      for (int worker = 1; worker < threads; ++worker) helpers_.emplace_back([this, worker] { serve(worker); });
    } catch (const std::system_error&) {
      // Results do not depend on the number of threads.
    }
  }
  ~ThreadPool() {
    if (helpers_.empty()) return;
    stopping_ = true;
    start_round();
    for (std::thread& helper : helpers_) helper.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  /// Calls f(task, worker) for every task 0 ... tasks-1, each once, on workers 0 ... size()-1. Which worker does a task
  /// is left to chance and must not matter to the result. After an exception no further tasks begin; it is rethrown
  /// here.
  template <class F>
  void run(Index tasks, const F& f) {
    if (helpers_.empty() || tasks <= 1) {
      for (Index task = 0; task < tasks; ++task) f(task, 0);
      return;
    }
    tasks_ = tasks;
    next_ = 0;
    function_ = &f;
    call_ = [](const void* function, Index task, int worker) { (*static_cast<const F*>(function))(task, worker); };
    busy_ = static_cast<int>(helpers_.size());
    start_round();
    work(0);
    wait_while(busy_, [](int busy) { return busy != 0; });
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  void start_round() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  void serve(int worker) {
    for (unsigned seen = 0;;) {
      wait_while(round_, [seen](unsigned round) { return round == seen; });
      ++seen;
      if (stopping_) return;
      work(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  void work(int worker) {
    try {
      for (Index task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) call_(function_, task, worker);
    } catch (...) {
      next_ = tasks_;
      const std::lock_guard lock(failure_guard_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  // Spins for some ten microseconds, which rounds that follow each other closely need, then sleeps.
  template <class T, class P>
  static void wait_while(const std::atomic<T>& value, const P& waiting) {
    for (int spin = 0; spin < 1000; ++spin) {
      if (!waiting(value.load(std::memory_order_acquire))) return;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    }
    for (T seen = value.load(std::memory_order_acquire); waiting(seen); seen = value.load(std::memory_order_acquire))
      value.wait(seen, std::memory_order_acquire);
  }

  std::vector<std::thread> helpers_;
  std::atomic<unsigned> round_ = 0;
  std::atomic<int> busy_ = 0;
  std::atomic<Index> next_ = 0;
  Index tasks_ = 0;
  const void* function_ = nullptr;
  void (*call_)(const void*, Index, int) = nullptr;
  std::exception_ptr failure_;
  std::mutex failure_guard_;
  bool stopping_ = false;
};

/// One round of work on at most `threads` threads (0: all), as ThreadPool::run does it.
template <class F>
void parallel_for(Index tasks, int threads, const F& f) {
  const Index workers = std::min<Index>(thread_count(threads), tasks);
  ThreadPool(static_cast<int>(std::max<Index>(1, workers))).run(tasks, f);
}

}  // namespace diffeo::inline DIFFEO_ISA
