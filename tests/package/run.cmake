# SPDX-License-Identifier: MIT
# Configures, builds and runs one consumer project, in an empty folder and with none of diffeo's own settings.
# -D consumer=NAME source_dir= binary_dir= (of diffeo's build) generator= compiler= eigen_dir= compiled= io= (whether there are diffeo::compiled and diffeo::io)
cmake_minimum_required(VERSION 3.25)

set(work ${binary_dir}/package/${consumer})
file(REMOVE_RECURSE ${work})

set(options -D CMAKE_BUILD_TYPE=Release -D CMAKE_CXX_COMPILER=${compiler})
if(eigen_dir)
  list(APPEND options -D Eigen3_DIR=${eigen_dir})
endif()
if(consumer STREQUAL "find_package")
  execute_process(COMMAND ${CMAKE_COMMAND} --install ${binary_dir} --prefix ${work}/prefix COMMAND_ERROR_IS_FATAL ANY)
  list(APPEND options -D CMAKE_PREFIX_PATH=${work}/prefix -D WITH_IO=${io})
else()
  list(APPEND options -D DIFFEO_SOURCE_DIR=${source_dir})
endif()

execute_process(COMMAND ${CMAKE_COMMAND} -G ${generator} -S ${CMAKE_CURRENT_LIST_DIR}/${consumer} -B ${work}/build
                        ${options} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --build ${work}/build --config Release COMMAND_ERROR_IS_FATAL ANY)
set(programs first_program)
if(compiled AND consumer STREQUAL "find_package")
  list(APPEND programs first_program_compiled)
endif()
foreach(name IN LISTS programs)
  find_program(${name} ${name} PATHS ${work}/build ${work}/build/Release REQUIRED NO_DEFAULT_PATH)
  execute_process(COMMAND ${${name}} WORKING_DIRECTORY ${work} OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
  # The best possible is -2.390; 500 steps reach -2.48.
  if(NOT output MATCHES "log p of new data: (-2[.][345][0-9]*) " OR CMAKE_MATCH_1 LESS -2.55 OR CMAKE_MATCH_1 GREATER -2.38)
    message(FATAL_ERROR "${name} learned little: ${output}")
  endif()
endforeach()
if(io AND consumer STREQUAL "find_package")
  find_program(checkpoint checkpoint PATHS ${work}/build ${work}/build/Release REQUIRED NO_DEFAULT_PATH)
  execute_process(COMMAND ${checkpoint} WORKING_DIRECTORY ${work} COMMAND_ERROR_IS_FATAL ANY)
endif()
