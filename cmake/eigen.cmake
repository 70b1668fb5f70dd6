# SPDX-License-Identifier: MIT
# Provides Eigen3::Eigen, 3.4 or newer: the enclosing project's, else the installed one, else downloaded.

if(TARGET Eigen3::Eigen)
  return()
endif()

# Without a version, which is checked by hand: Eigen's own version file refuses 5.x when 3.4 is asked for, and 3.4.0's
# does not understand version ranges.
find_package(Eigen3 QUIET)
if(TARGET Eigen3::Eigen)
  if(Eigen3_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR "diffeo needs Eigen 3.4 or newer, ${Eigen3_DIR} holds ${Eigen3_VERSION}. Point Eigen3_DIR to "
                        "another one, or set CMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON to have 3.4.0 downloaded.")
  endif()
  message(STATUS "diffeo: Eigen ${Eigen3_VERSION} (${Eigen3_DIR})")
  return()
endif()

message(STATUS "diffeo: Eigen not found (Debian: libeigen3-dev), downloading Eigen 3.4.0")
include(FetchContent)
# A source folder without build files: Eigen is headers only, and its own build looks for Fortran, BLAS and much else.
FetchContent_Declare(
  diffeo_eigen
  GIT_REPOSITORY https://gitlab.com/libeigen/eigen.git
  GIT_TAG 3.4.0
  GIT_SHALLOW ON
  SOURCE_SUBDIR no-build-files)
FetchContent_MakeAvailable(diffeo_eigen)
add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
target_include_directories(Eigen3::Eigen INTERFACE ${diffeo_eigen_SOURCE_DIR})
