# SPDX-License-Identifier: MIT
# diffeo_internal: how tests, examples and benchmarks are compiled. Warnings, sanitizers and CPU flags live here and nowhere
# else, so that none of them reaches a user.
include(CheckCXXCompilerFlag)

add_library(diffeo_internal INTERFACE)
target_link_libraries(diffeo_internal INTERFACE diffeo::diffeo)
target_compile_options(diffeo_internal INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12's own AVX-512 intrinsics start from variables like `__m256d y = y;` and are warned about wherever Eigen sums.
  target_compile_options(diffeo_internal INTERFACE -Wno-maybe-uninitialized -Wno-uninitialized)
  # Sums of strings look to it as if they overlapped or ended too early (bugs 105329 and 105651).
  target_compile_options(diffeo_internal INTERFACE -Wno-restrict -Wno-error=array-bounds)
endif()

if(DIFFEO_WERROR)
  target_compile_options(diffeo_internal INTERFACE -Werror)
endif()

set(DIFFEO_ARCH "" CACHE STRING
    "CPU to compile for, as -march names it (x86-64, x86-64-v3, ...); empty: this machine's own where DIFFEO_NATIVE is on")
set(arch "${DIFFEO_ARCH}")
if(NOT arch AND DIFFEO_NATIVE)
  set(arch native)
endif()
if(arch)
  string(MAKE_C_IDENTIFIER "DIFFEO_HAS_MARCH_${arch}" knows_arch)
  check_cxx_compiler_flag(-march=${arch} ${knows_arch})
  if(${knows_arch})
    target_compile_options(diffeo_internal INTERFACE -march=${arch})
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND arch STREQUAL "native")
      # GCC 12's own tuning for AVX-512 machines costs Eigen's 64 x 64 products a fifth of their speed (162 instead of
      # 208 GFLOP/s in float, 81 instead of 104 in double), and nothing else in the library gains by it.
      target_compile_options(diffeo_internal INTERFACE -mtune=generic)
    endif()
  elseif(DIFFEO_ARCH)
    message(FATAL_ERROR "diffeo: the compiler does not know -march=${arch}, which DIFFEO_ARCH asks for")
  else()
    message(STATUS "diffeo: the compiler does not know -march=native, building for its default CPU")
  endif()
endif()

if(DIFFEO_SANITIZE)
  set(sanitizers -fsanitize=${DIFFEO_SANITIZE} -fno-sanitize-recover=all)
  if(DIFFEO_SANITIZE MATCHES "address")
    # What reads or writes through a bad pointer is for the address sanitizer to find; to check it twice takes a third of
    # the time to compile. (And Eigen takes addresses inside empty arrays, which have none.)
    list(APPEND sanitizers -fno-sanitize=null,object-size,vptr,pointer-overflow)
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
      list(APPEND sanitizers -fsanitize-address-outline-instrumentation) # calls compile faster than code in place
    endif()
  endif()
  target_compile_options(diffeo_internal INTERFACE ${sanitizers} -fno-omit-frame-pointer -g1) # lines for the reports
  target_link_options(diffeo_internal INTERFACE ${sanitizers})
endif()

# diffeo_linked: what tests, examples and benchmarks link.
add_library(diffeo_linked INTERFACE)
target_link_libraries(diffeo_linked INTERFACE diffeo_internal)
if(DIFFEO_LINK_COMPILED)
  diffeo_add_compiled(diffeo_compiled_internal)
  target_link_libraries(diffeo_compiled_internal PRIVATE diffeo_internal)
  target_link_libraries(diffeo_linked INTERFACE diffeo_compiled_internal)
  target_precompile_headers(diffeo_compiled_internal PRIVATE <diffeo/diffeo.hpp>)
  if(DIFFEO_BUILD_TESTS) # whose asserts are on
    target_compile_options(diffeo_compiled_internal PRIVATE -UNDEBUG $<$<NOT:$<CONFIG:Debug>>:-O1>)
  endif()
endif()
