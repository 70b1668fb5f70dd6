// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <diffeo/core/parallel.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// How a call that takes many rows is to be carried out; results do not depend on it. An int converts to an Execution
/// with as many threads (0: one per processor, the default), and so does a ThreadPool: `model.score(x, 2)` starts its
/// threads for the call, `model.score(x, pool)` uses those of the pool and the memory that they kept from calls before,
/// which pays where a call is short and repeated, as in Hamiltonian Monte Carlo. A pool serves one caller at a time
/// (see ThreadPool). A call for few rows, one tile, starts no thread either way.
struct Execution {
  int threads = 0;             ///< number of threads, 0: one per processor; not looked at where there is a pool
  ThreadPool* pool = nullptr;  ///< threads to use, which must outlive the call; null: start them for the call

  Execution() = default;
  Execution(int number_of_threads) : threads(number_of_threads) {}
  Execution(ThreadPool& kept) : threads(kept.size()), pool(&kept) {}
};

/// Calls f(task, worker) for the tasks 0 ... tasks-1 as ThreadPool::run does, on the pool or else on at most as many
/// threads as there are tasks. Throws invalid_argument for a number of threads out of range.
inline void parallel_for(Index tasks, const Execution& execution, FunctionRef<void(Index task, int worker)> f) {
  if (execution.pool) return execution.pool->run(tasks, f);
  const Index workers = std::min<Index>(thread_count(execution.threads), tasks);
  ThreadPool(static_cast<int>(std::max<Index>(1, workers))).run(tasks, f);
}

}  // namespace diffeo::inline DIFFEO_ISA
