// SPDX-License-Identifier: MIT

#include <diffeo/core/version.hpp>
#include <sstream>

#include "machine.hpp"

namespace {

std::string compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#else
  return "unknown";
#endif
}

// The instruction sets that matter here, of those the program is compiled for.
std::string instructions() {
  std::string names;
#if defined(__AVX512F__)
  names += " AVX-512";
#elif defined(__AVX2__)
  names += " AVX2";
#elif defined(__AVX__)
  names += " AVX";
#elif defined(__SSE2__)
  names += " SSE2";
#endif
#if defined(__FMA__)
  names += " FMA";
#endif
  return names.empty() ? "baseline" : names.substr(1);
}

template <class T>
std::string text(const T& value) {
  std::ostringstream out;
  out.precision(4);
  out << value;
  return out.str();
}

}  // namespace

// The surroundings go into the report's context, never to stdout, which may be wanted as JSON.
int main(int argc, char** argv) {
  using namespace diffeo;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  Eigen::setNbThreads(1);  // its products, too, are measured on one core
  benchmark::AddCustomContext("diffeo", std::string(version));
  benchmark::AddCustomContext(
      "eigen", text(EIGEN_WORLD_VERSION) + "." + text(EIGEN_MAJOR_VERSION) + "." + text(EIGEN_MINOR_VERSION));
  benchmark::AddCustomContext("compiler", compiler());
  benchmark::AddCustomContext("instructions", instructions());
  benchmark::AddCustomContext("vector_bytes", text(simd::register_bytes));
  benchmark::AddCustomContext("threads", text(thread_count(0)));
  benchmark::AddCustomContext("fma_peak_f32_gflops", text(1e-9 * bench::fma_peak<float>()));
  benchmark::AddCustomContext("fma_peak_f64_gflops", text(1e-9 * bench::fma_peak<double>()));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
