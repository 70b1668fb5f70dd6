// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/core/function_ref.hpp>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
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

/// Threads that are kept for many rounds of work. Serves one caller at a time: a call of run() while another is under
/// way, from a task or from another thread, throws and disturbs nothing.
class ThreadPool {
 public:
  /// Starts threads - 1 helpers, as the calling thread takes part; 0 stands for one thread per processor, as in
  /// thread_count(), which throws for the same requests. Where the system refuses more threads there are fewer.
  explicit ThreadPool(int threads = 0) {
    const int count = thread_count(threads);
    locals_.resize(static_cast<std::size_t>(count));
    helpers_.reserve(static_cast<std::size_t>(count - 1));
    // Results do not depend on the number of threads, so those that were started are enough.
    try {
      for (int worker = 1; worker < count; ++worker) helpers_.emplace_back([this, worker] { serve(worker); });
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
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

  /// Number of threads, the calling one included.
  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  /// Calls f(task, worker) for every task 0 ... tasks-1, each once, on workers 0 ... size()-1. Which worker does a task
  /// is left to chance and must not matter to the result. After an exception no later task begins; of the tasks that
  /// throw, the exception of the lowest is rethrown here, whatever the number of threads. Throws invalid_argument while
  /// another run is under way.
  void run(Index tasks, FunctionRef<void(Index task, int worker)> f) {
    const Turn turn(*this);
    next_ = 0;
    run_round(tasks, f, &ThreadPool::work);
  }

  /// Calls f(task, worker) like run(), with the tasks dealt out evenly beforehand: worker (i + shift) % size() does
  /// task i. Every worker then gets some, for instance to allocate the memory that they need.
  void run_dealt(Index tasks, Index shift, FunctionRef<void(Index task, int worker)> f) {
    const Turn turn(*this);
    shift_ = shift;
    run_round(tasks, f, &ThreadPool::work_dealt);
  }

  /// Returns an object of the worker's own, made at its first call and kept as long as the pool, for instance memory
  /// that the next round uses again. To be called by that worker inside a task.
  template <class T>
  T& local(int worker) {
    static char key;  // its address stands for T
    auto& objects = locals_[static_cast<std::size_t>(worker)];
    for (const auto& [type, object] : objects)
      if (type == &key) return *static_cast<T*>(object.get());
    return *static_cast<T*>(objects.emplace_back(&key, std::make_shared<T>()).second.get());
  }

 private:
  // Holds the pool for the length of a run.
  class Turn {
   public:
    explicit Turn(ThreadPool& pool) : pool_(pool) {
      require(!pool_.taken_.exchange(true, std::memory_order_acquire),
              "thread pool: it is at work already; a pool serves one caller at a time, and none of its own tasks");
    }
    ~Turn() { pool_.taken_.store(false, std::memory_order_release); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    ThreadPool& pool_;
  };

  void run_round(Index tasks, FunctionRef<void(Index, int)> f, void (ThreadPool::*share)(int)) {
    if (helpers_.empty() || tasks <= 1) {
      for (Index task = 0; task < tasks; ++task) f(task, 0);
      return;
    }
    end_ = tasks;
    work_ = share;
    function_ = &f;
    busy_ = static_cast<int>(helpers_.size());
    start_round();
    (this->*work_)(0);
    wait_while(busy_, [](int busy) { return busy != 0; });
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  void start_round() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  void serve(int worker) {
    for (unsigned seen = 0;;) {
      wait_while(round_, [seen](unsigned round) { return round == seen; });
      ++seen;
      if (stopping_) return;
      (this->*work_)(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  // Tasks are handed out in order: all before one that fails have begun, and end.
  void work(int worker) {
    for (Index task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < end_.load(std::memory_order_relaxed);)
      attempt(task, worker);
  }

  void work_dealt(int worker) {
    const Index workers = size();
    for (Index task = (worker + workers - shift_ % workers) % workers; task < end_.load(std::memory_order_relaxed);
         task += workers)
      attempt(task, worker);
  }

  void attempt(Index task, int worker) {
    try {
      (*function_)(task, worker);
    } catch (...) {
      const std::lock_guard lock(failure_guard_);
      if (task >= end_) return;
      end_ = task;
      failure_ = std::current_exception();
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

  std::vector<std::vector<std::pair<const void*, std::shared_ptr<void>>>> locals_;  // of each worker
  std::vector<std::thread> helpers_;
  std::atomic<bool> taken_ = false;
  std::atomic<unsigned> round_ = 0;
  std::atomic<int> busy_ = 0;
  std::atomic<Index> next_ = 0;
  std::atomic<Index> end_ = 0;  // tasks that may begin: those before the lowest that failed
  Index shift_ = 0;
  void (ThreadPool::*work_)(int) = nullptr;
  const FunctionRef<void(Index, int)>* function_ = nullptr;
  std::exception_ptr failure_;
  std::mutex failure_guard_;
  bool stopping_ = false;
};

}  // namespace diffeo::inline DIFFEO_ISA
