// SPDX-License-Identifier: MIT
#include <diffeo/core/function_ref.hpp>
#include <string>

#include "../catch.hpp"

using diffeo::FunctionRef;

namespace {

int twice(const FunctionRef<int(int)> f, int x) { return f(f(x)); }

}  // namespace

TEST_CASE("function reference: calls what it refers to", "[function_ref]") {
  int calls = 0;
  CHECK(twice(
            [&calls](int x) {
              ++calls;
              return x + 3;
            },
            1) == 7);
  CHECK(calls == 2);
  const auto constant = [](int) { return 5; };
  CHECK(twice(constant, 1) == 5);

  // By reference: state is that of the callable itself.
  auto counter = [n = 0](int by) mutable { return n += by; };
  const FunctionRef<int(int)> count = counter, same = count;
  CHECK(count(2) == 2);
  CHECK(same(3) == 5);
  CHECK(counter(0) == 5);

  std::string text;
  const auto append = [&text](std::string&& part) { text += std::move(part); };
  const FunctionRef<void(std::string&&)> to_text = append;
  to_text("abc");
  CHECK(text == "abc");
}
