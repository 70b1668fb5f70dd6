# SPDX-License-Identifier: MIT
# Stops when diffeo brought its user anything besides headers, Eigen and the language standard.

get_target_property(aliased diffeo::diffeo ALIASED_TARGET)
if(NOT aliased)
  set(aliased diffeo::diffeo)
endif()
foreach(property IN ITEMS COMPILE_OPTIONS COMPILE_DEFINITIONS LINK_OPTIONS SOURCES)
  get_target_property(leaked ${aliased} INTERFACE_${property})
  if(leaked)
    message(FATAL_ERROR "diffeo::diffeo carries ${property}: ${leaked}")
  endif()
endforeach()

foreach(target IN ITEMS diffeo_internal diffeo_tests diffeo_bench density2d demo bench)
  if(TARGET ${target})
    message(FATAL_ERROR "diffeo added the target ${target} to its user's project")
  endif()
endforeach()
if(NOT CMAKE_BUILD_TYPE STREQUAL "Release" OR CMAKE_CXX_FLAGS MATCHES "march")
  message(FATAL_ERROR "diffeo changed its user's flags")
endif()
