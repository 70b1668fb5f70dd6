# SPDX-License-Identifier: MIT
# diffeo_internal: how tests, examples and benchmarks are compiled. Warnings and sanitizers live here and nowhere else, so
# that none of them reaches a user.
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

target_compile_options(diffeo_internal INTERFACE ${DIFFEO_ARCH_FLAGS})

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
if(DIFFEO_COMPILED)
  target_link_libraries(diffeo_linked INTERFACE diffeo_compiled)
  target_compile_options(diffeo_compiled PRIVATE $<TARGET_PROPERTY:diffeo_internal,INTERFACE_COMPILE_OPTIONS>)
  if(DIFFEO_BUILD_TESTS) # whose asserts are on
    target_compile_options(diffeo_compiled PRIVATE -UNDEBUG $<$<NOT:$<CONFIG:Debug>>:-O1>)
  endif()
endif()
