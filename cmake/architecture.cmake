# SPDX-License-Identifier: MIT
# DIFFEO_ARCH_FLAGS: the CPU that tests, examples, benchmarks and the compiled form are for.
include(CheckCXXCompilerFlag)

set(DIFFEO_ARCH "" CACHE STRING
    "CPU to compile for, as -march names it (x86-64, x86-64-v3, ...); empty: this machine's own where DIFFEO_NATIVE is on")
set(DIFFEO_ARCH_FLAGS "")
set(arch "${DIFFEO_ARCH}")
if(NOT arch AND DIFFEO_NATIVE)
  set(arch native)
endif()
if(arch)
  string(MAKE_C_IDENTIFIER "DIFFEO_HAS_MARCH_${arch}" knows_arch)
  check_cxx_compiler_flag(-march=${arch} ${knows_arch})
  if(${knows_arch})
    set(DIFFEO_ARCH_FLAGS -march=${arch})
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND arch STREQUAL "native")
      # GCC 12's own tuning for AVX-512 machines costs Eigen's 64 x 64 products a fifth of their speed (162 instead of
      # 208 GFLOP/s in float, 81 instead of 104 in double), and nothing else in the library gains by it.
      list(APPEND DIFFEO_ARCH_FLAGS -mtune=generic)
    endif()
  elseif(DIFFEO_ARCH)
    message(FATAL_ERROR "diffeo: the compiler does not know -march=${arch}, which DIFFEO_ARCH asks for")
  else()
    message(STATUS "diffeo: the compiler does not know -march=native, building for its default CPU")
  endif()
endif()
