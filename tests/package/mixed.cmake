# SPDX-License-Identifier: MIT
# Configures, builds and runs the program of objects with different flags.
# -D source_dir= binary_dir= (of diffeo's build) generator= compiler= eigen_dir=
cmake_minimum_required(VERSION 3.25)

set(work ${binary_dir}/package/mixed)
file(REMOVE_RECURSE ${work})
set(options -D CMAKE_BUILD_TYPE=Release -D CMAKE_CXX_COMPILER=${compiler} -D DIFFEO_SOURCE_DIR=${source_dir})
if(eigen_dir)
  list(APPEND options -D Eigen3_DIR=${eigen_dir})
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -G ${generator} -S ${CMAKE_CURRENT_LIST_DIR}/mixed -B ${work} ${options}
                        COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${work} --config Release COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_CTEST_COMMAND} -C Release --no-tests=error --output-on-failure
                WORKING_DIRECTORY ${work} COMMAND_ERROR_IS_FATAL ANY)
