// SPDX-License-Identifier: MIT
#include <algorithm>
#include <atomic>
#include <diffeo/core/execution.hpp>
#include <stdexcept>
#include <vector>

#include "../catch.hpp"

using namespace diffeo;

TEST_CASE("parallel: how many threads a request means", "[parallel]") {
  CHECK(thread_count(0) >= 1);
  CHECK(thread_count(3) == 3);
  CHECK(thrown_message<invalid_argument>([] { thread_count(-1); }) ==
        "threads is -1, expected 0 (all) or a positive number up to 1024");
  CHECK_THROWS_AS(parallel_for(5, -2, [](Index, int) {}), invalid_argument);
}

TEST_CASE("parallel: every task is done once, each worker's in order", "[parallel]") {
  for (const Index tasks : {0, 1, 2, 7, 100})
    for (const int threads : {0, 1, 2, 3, 8, 200}) {
      CAPTURE(tasks, threads);
      std::vector<std::atomic<int>> done(static_cast<std::size_t>(tasks));
      const auto most = static_cast<std::size_t>(std::max<Index>(1, std::min<Index>(tasks, thread_count(threads))));
      std::vector<Index> last(most, -1);
      std::atomic<bool> good = true;
      parallel_for(tasks, threads, [&](Index task, int worker) {
        ++done[static_cast<std::size_t>(task)];
        if (worker < 0 || static_cast<std::size_t>(worker) >= most || task <= last[static_cast<std::size_t>(worker)])
          good = false;
        else
          last[static_cast<std::size_t>(worker)] = task;
      });
      CHECK(good);
      CHECK(std::all_of(done.begin(), done.end(), [](const auto& n) { return n == 1; }));
    }
}

TEST_CASE("parallel: exceptions get through", "[parallel]") {
  for (const int threads : {1, 2, 4}) {
    CAPTURE(threads);
    std::atomic<int> calls = 0;
    const auto fails = [&] {
      parallel_for(100, threads, [&](Index task, int) {
        ++calls;
        if (task == 30) throw std::runtime_error("task 30");
      });
    };
    CHECK(thrown_message<std::runtime_error>(fails) == "task 30");
    CHECK(calls >= 31 - (threads > 1 ? 100 / threads : 0));
    const auto all_fail = [&] { parallel_for(100, threads, [](Index, int) { throw std::logic_error("all"); }); };
    CHECK(thrown_message<std::logic_error>(all_fail) == "all");
  }
}

TEST_CASE("parallel: within a parallel loop", "[parallel]") {
  std::atomic<int> count = 0;
  parallel_for(4, 2, [&](Index, int) { parallel_for(5, 2, [&](Index, int) { ++count; }); });
  CHECK(count == 20);
}
