// SPDX-License-Identifier: MIT
#include <algorithm>
#include <atomic>
#include <chrono>
#include <diffeo/core/execution.hpp>
#include <stdexcept>
#include <string>
#include <thread>
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

TEST_CASE("parallel: the exception of the lowest task gets through", "[parallel]") {
  for (const int threads : {1, 2, 4, 16})
    for (int round = 0; round < 20; ++round) {
      CAPTURE(threads, round);
      std::vector<std::atomic<int>> done(100);
      const auto fails = [&] {
        parallel_for(100, threads, [&](Index task, int) {
          // The lowest that fails is often the last to do so.
          if (task == 30) std::this_thread::sleep_for(std::chrono::microseconds(200));
          if (task >= 30) throw std::runtime_error("task " + std::to_string(task));
          ++done[static_cast<std::size_t>(task)];
        });
      };
      CHECK(thrown_message<std::runtime_error>(fails) == "task 30");
      CHECK(std::all_of(done.begin(), done.begin() + 30, [](const auto& n) { return n == 1; }));
    }
}

TEST_CASE("parallel: after an exception no later task begins, and the pool goes on", "[parallel]") {
  for (const int threads : {1, 2, 4}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    std::atomic<int> calls = 0;
    const auto fails = [&] {
      pool.run(2000, [&](Index task, int) {
        ++calls;
        if (task == 0) throw std::runtime_error("task 0");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      });
    };
    CHECK(thrown_message<std::runtime_error>(fails) == "task 0");
    CHECK(calls < 1000);
    calls = 0;
    pool.run(50, [&](Index, int) { ++calls; });
    CHECK(calls == 50);
  }
}

TEST_CASE("parallel: tasks that are dealt out", "[parallel]") {
  for (const int threads : {1, 2, 3, 8})
    for (const Index tasks : {0, 1, 2, 9, 50})
      for (const Index shift : {0, 1, 5}) {
        CAPTURE(threads, tasks, shift);
        ThreadPool pool(threads);
        std::vector<std::atomic<int>> worker_of(static_cast<std::size_t>(tasks));
        for (auto& worker : worker_of) worker = -1;
        std::atomic<int> calls = 0;
        pool.run_dealt(tasks, shift, [&](Index task, int worker) {
          ++calls;
          worker_of[static_cast<std::size_t>(task)] = worker;
        });
        CHECK(calls == tasks);
        bool good = true;
        for (Index task = 0; task < tasks && tasks > 1; ++task)
          good = good && worker_of[static_cast<std::size_t>(task)] == (task + shift) % pool.size();
        CHECK(good);
        const auto fails = [&] {
          pool.run_dealt(tasks, shift, [](Index task, int) {
            if (task >= 7) throw std::runtime_error("task " + std::to_string(task));
          });
        };
        if (tasks > 7) CHECK(thrown_message<std::runtime_error>(fails) == "task 7");
      }
}

TEST_CASE("parallel: a pool serves one caller at a time", "[parallel]") {
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    // From one of its own tasks.
    const auto nested = [&] { pool.run(4, [&](Index, int) { pool.run(2, [](Index, int) {}); }); };
    CHECK(contains(thrown_message<invalid_argument>(nested), "thread pool: it is at work already"));
    // From another thread, which disturbs nothing.
    std::atomic<int> done = 0;
    std::string refused;
    pool.run(2, [&](Index task, int) {
      if (task == 0)
        std::thread([&] {
          refused = thrown_message<invalid_argument>([&] { pool.run(2, [&](Index, int) { done += 100; }); });
        }).join();
      ++done;
    });
    CHECK(contains(refused, "serves one caller at a time"));
    CHECK(done == 2);
  }
}

TEST_CASE("parallel: a pool keeps an object for every worker", "[parallel]") {
  ThreadPool pool(3);
  struct Counter {
    int calls = 0;
  };
  for (int round = 0; round < 5; ++round)
    pool.run(10, [&](Index, int worker) {
      ++pool.local<Counter>(worker).calls;
      pool.local<std::vector<int>>(worker).push_back(round);
    });
  int calls = 0;
  std::size_t numbers = 0;
  for (int worker = 0; worker < pool.size(); ++worker) {
    calls += pool.local<Counter>(worker).calls;
    numbers += pool.local<std::vector<int>>(worker).size();
  }
  CHECK(calls == 50);
  CHECK(numbers == 50);
}

TEST_CASE("parallel: within a parallel loop", "[parallel]") {
  std::atomic<int> count = 0;
  parallel_for(4, 2, [&](Index, int) { parallel_for(5, 2, [&](Index, int) { ++count; }); });
  CHECK(count == 20);
}
