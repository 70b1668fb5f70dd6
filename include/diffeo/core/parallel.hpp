// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <exception>
#include <mutex>

#ifdef _OPENMP
#include <omp.h>
#endif

/// Threads, by OpenMP where the program is compiled with it; one thread otherwise.
namespace diffeo {

/// The number of threads that a request means: 0 stands for as many as OpenMP would use, 1 without OpenMP. Throws
/// invalid_argument for a negative request.
inline int thread_count(int requested) {
  require(requested >= 0, "threads is ", requested, ", expected 0 (all) or a positive number");
#ifdef _OPENMP
  return requested == 0 ? omp_get_max_threads() : requested;
#else
  return 1;
#endif
}

/// Calls f(task, worker) for every task 0 ... tasks-1, each once. Tasks are handed out in contiguous runs to at most
/// `threads` workers, numbered from 0; which worker does a task must not matter to the result. The first exception
/// stops its worker and is rethrown here.
template <class F>
void parallel_for(Index tasks, int threads, const F& f) {
  const int workers = static_cast<int>(std::min<Index>(thread_count(threads), tasks));
  const auto run = [&](int worker) {
    const Index first = tasks * worker / workers, last = tasks * (worker + 1) / workers;
    for (Index task = first; task < last; ++task) f(task, worker);
  };
  if (workers <= 1) {
    if (workers == 1) run(0);
    return;
  }
#ifdef _OPENMP
  std::exception_ptr failure;
  std::mutex guard;
#pragma omp parallel for num_threads(workers) schedule(static, 1)
  for (int worker = 0; worker < workers; ++worker) {
    try {
      run(worker);
    } catch (...) {
      const std::lock_guard lock(guard);
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
#endif
}

}  // namespace diffeo
