// SPDX-License-Identifier: MIT
#include <diffeo/core/execution.hpp>
#include <mutex>
#include <set>
#include <thread>
#include <type_traits>

#include "../catch.hpp"

using namespace diffeo;

TEST_CASE("execution: what converts to it", "[parallel]") {
  static_assert(std::is_convertible_v<int, Execution> && std::is_convertible_v<ThreadPool&, Execution>);
  static_assert(!std::is_convertible_v<ThreadPool, Execution>);  // which would not outlive the call
  ThreadPool pool(3);
  const Execution by_default, two = 2, kept = pool;
  CHECK(by_default.threads == 0);
  CHECK(by_default.pool == nullptr);
  CHECK(two.threads == 2);
  CHECK(kept.threads == 3);
  CHECK(kept.pool == &pool);
}

TEST_CASE("execution: a pool's threads are used again", "[parallel]") {
  ThreadPool pool(3);
  std::set<std::thread::id> threads;
  std::mutex guard;
  for (int round = 0; round < 50; ++round)
    parallel_for(20, pool, [&](Index, int) {
      const std::lock_guard lock(guard);
      threads.insert(std::this_thread::get_id());
    });
  CHECK(threads.size() <= 3);
  CHECK(threads.count(std::this_thread::get_id()) == 1);
}
