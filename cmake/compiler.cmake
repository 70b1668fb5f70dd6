# SPDX-License-Identifier: MIT
# Refuses compilers that are known to be too old, before they drown the reason in template errors.

if(PROJECT_IS_TOP_LEVEL)
  set(severity FATAL_ERROR)
  # Flows are numerical loops: an unoptimised build by oversight would be taken for a slow library.
  get_property(multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
  if(NOT CMAKE_BUILD_TYPE AND NOT multi_config)
    message(STATUS "diffeo: no build type given, using Release")
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
  endif()
else()
  set(severity WARNING)
endif()

set(found "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
    message(${severity} "diffeo needs GCC 12 or newer, this is ${found} (choose with -DCMAKE_CXX_COMPILER=...)")
  endif()
elseif(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 16)
    message(${severity} "diffeo needs Clang 16 or newer, this is ${found} (choose with -DCMAKE_CXX_COMPILER=...)")
  endif()
else()
  message(WARNING "diffeo is tested with GCC >= 12 and Clang >= 16, not with ${found}")
endif()
