# SPDX-License-Identifier: MIT
# What find_package(diffeo) reads; it gives the target diffeo::diffeo, and diffeo::compiled where that was built.
include(CMakeFindDependencyMacro)

if(NOT TARGET Eigen3::Eigen)
  find_dependency(Eigen3) # without a version, which Eigen's own files check wrongly
  if(Eigen3_VERSION VERSION_LESS 3.4)
    set(diffeo_FOUND FALSE)
    set(diffeo_NOT_FOUND_MESSAGE "diffeo needs Eigen 3.4 or newer, ${Eigen3_DIR} holds ${Eigen3_VERSION}")
    return()
  endif()
endif()
find_dependency(Threads)

include(${CMAKE_CURRENT_LIST_DIR}/diffeoTargets.cmake)
