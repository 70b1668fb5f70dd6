// SPDX-License-Identifier: MIT
// Calls the parts of the program, compiled with different flags, and expects that their results agree and that what
// they throw is caught here by its type.
#include <algorithm>
#include <cmath>
#include <diffeo/core/error.hpp>
#include <iostream>
#include <string>

#include "part.hpp"
#include "parts.hpp"

#define DECLARE(part) extern const Part part;
PARTS(DECLARE)

namespace {

int failures = 0;

template <class Error>
void expect_throw(const Part& part, void (*throws)(), const char* type) {
  std::string caught = "nothing";
  try {
    throws();
  } catch (const Error&) {
    return;
  } catch (const std::exception& e) {
    caught = e.what();
  }
  std::cout << part.name << ": expected " << type << ", caught " << caught << '\n';
  ++failures;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string path = argc > 1 ? argv[1] : "mixed";
#define ADDRESS(part) &part,
  const Part* const parts[] = {PARTS(ADDRESS)};
  const std::vector<double> expected = parts[0]->run(path);
  for (const Part* part : parts) {
    std::cout << part->name << ": " << part->instruction_set << '\n';
    const std::vector<double> found = part->run(path);
    if (found.size() != expected.size()) ++failures;
    for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
      if (std::abs(found[i] - expected[i]) <= 0.01 * std::max(1.0, std::abs(expected[i]))) continue;
      std::cout << part->name << ": result " << i << " is " << found[i] << ", expected " << expected[i] << '\n';
      ++failures;
    }
    expect_throw<diffeo::invalid_argument>(*part, part->throw_invalid_argument, "invalid_argument");
    expect_throw<diffeo::io_error>(*part, part->throw_io_error, "io_error");
    expect_throw<diffeo::convergence_error>(*part, part->throw_convergence_error, "convergence_error");
    expect_throw<diffeo::integration_error>(*part, part->throw_integration_error, "integration_error");
  }
  return failures == 0 ? 0 : 1;
}
