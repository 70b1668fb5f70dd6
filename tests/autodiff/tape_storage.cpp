// SPDX-License-Identifier: MIT
#include <diffeo/autodiff/tape.hpp>
#include <diffeo/autodiff/tape_storage.hpp>
#include <vector>

#include "../catch.hpp"

TEST_CASE("tape storage: scratch buffers within an adjoint are reused", "[tape_storage]") {
  diffeo::Tape<double> tape;
  const double* first = nullptr;
  {
    const diffeo::ScratchBuffer<double> a(tape, 128), b(tape, 128);
    CHECK(a.data() != b.data());
    first = a.data();
  }
  const diffeo::ScratchBuffer<double> again(tape, 128);
  CHECK(again.data() == first);
}

TEST_CASE("tape storage: singletons are made once and live as long as the tape", "[tape_storage]") {
  struct Counted {
    Counted() = default;
    Counted(const Counted&) = delete;
    int uses = 0;
  };
  diffeo::Tape<double> tape;
  Counted& first = tape.singleton<Counted>();
  first.uses = 5;
  tape.singleton<std::vector<double>>().push_back(2);
  tape.reset();
  CHECK(&tape.singleton<Counted>() == &first);
  CHECK(first.uses == 5);
  CHECK(tape.singleton<std::vector<double>>().size() == 1);
  diffeo::Tape<double> other;
  CHECK(other.singleton<Counted>().uses == 0);
  // A tape beside the tape, which may have singletons itself.
  diffeo::Tape<double>& inner = tape.singleton<diffeo::Tape<double>>();
  inner.singleton<Counted>().uses = 7;
  CHECK(&inner != &tape);
  CHECK(tape.singleton<Counted>().uses == 5);
}

TEST_CASE("tape storage: pooled copies stay until reset", "[tape_storage]") {
  diffeo::Tape<double> tape;
  std::vector<std::vector<int>*> places;
  for (int round = 0; round < 3; ++round) {
    tape.reset();
    for (int i = 0; i < 50; ++i) {
      std::vector<int>& kept = tape.pooled_copy(std::vector<int>(std::size_t(10 + i), round));
      if (round == 0) places.push_back(&kept);
      CHECK(&kept == places[std::size_t(i)]);  // the places of the round before
    }
    for (int i = 0; i < 50; ++i) CHECK(*places[std::size_t(i)] == std::vector<int>(std::size_t(10 + i), round));
  }
  // Of each type on its own.
  CHECK(tape.pooled_copy(3.5) == 3.5);
  CHECK(*places[7] == std::vector<int>(17, 2));
  // A function object cannot be assigned.
  const auto kept = [&tape](int by) {
    return &tape.pooled_copy([by, grown = std::vector<int>(3, by)](int x) { return x + grown[0] + by; });
  };
  const auto* const once = kept(4);
  CHECK((*once)(1) == 9);
  tape.reset();
  CHECK(kept(5) == once);
  CHECK((*once)(1) == 11);
}
