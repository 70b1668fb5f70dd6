# SPDX-License-Identifier: MIT
# What find_package(diffeo) reads; it gives the target diffeo::diffeo, and diffeo::compiled where that was built. The
# component io gives diffeo::io, which needs nlohmann_json.
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

foreach(component IN LISTS diffeo_FIND_COMPONENTS)
  set(diffeo_${component}_FOUND FALSE)
  if(NOT component STREQUAL "io")
    set(reason "diffeo has no component ${component}, only io")
  elseif(NOT EXISTS ${CMAKE_CURRENT_LIST_DIR}/diffeoIoTargets.cmake)
    set(reason "diffeo was installed without its component io, because nlohmann_json was not found")
  else()
    if(NOT TARGET nlohmann_json::nlohmann_json)
      find_package(nlohmann_json 3.10 QUIET)
    endif()
    if(TARGET nlohmann_json::nlohmann_json)
      include(${CMAKE_CURRENT_LIST_DIR}/diffeoIoTargets.cmake)
      set(diffeo_io_FOUND TRUE)
    else()
      set(reason "diffeo's component io needs nlohmann_json 3.10 or newer (Debian: nlohmann-json3-dev)")
    endif()
  endif()
  if(diffeo_FIND_REQUIRED_${component} AND NOT diffeo_${component}_FOUND)
    set(diffeo_FOUND FALSE)
    set(diffeo_NOT_FOUND_MESSAGE "${reason}")
  endif()
endforeach()
