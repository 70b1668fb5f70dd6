# SPDX-License-Identifier: MIT
# Passes when README.md shows first_program.cpp and stretch.hpp as they are, but for the licence line, and when all of
# its C++ compiles and runs: fragments inside the functions of readme/fragments.cpp, with few steps, and the project of
# the user by its own CMakeLists.txt.
# -D source_dir= binary_dir= (of diffeo's build) generator= compiler= eigen_dir=
cmake_minimum_required(VERSION 3.25)

set(work ${binary_dir}/package/readme)
file(REMOVE_RECURSE ${work})
file(READ ${source_dir}/README.md page)
foreach(name IN ITEMS first_program.cpp stretch.hpp)
  file(READ ${CMAKE_CURRENT_LIST_DIR}/${name} program)
  string(REGEX REPLACE "^// SPDX[^\n]*\n\n?" "" program "${program}")
  string(FIND "${page}" "${program}" place)
  if(place EQUAL -1)
    message(FATAL_ERROR "README.md and tests/package/${name} differ")
  endif()
endforeach()

# Writes each block of a language to ${work}/blocks/NUMBER.LANGUAGE and gives back how many there are.
function(extract_blocks language count)
  set(rest "${page}")
  set(number 0)
  while(TRUE)
    string(FIND "${rest}" "\n```${language}\n" begin)
    if(begin EQUAL -1)
      break()
    endif()
    string(LENGTH "\n```${language}\n" length)
    math(EXPR begin "${begin} + ${length}")
    string(SUBSTRING "${rest}" ${begin} -1 rest)
    string(FIND "${rest}" "\n```" length)
    math(EXPR length "${length} + 1")
    string(SUBSTRING "${rest}" 0 ${length} block)
    math(EXPR number "${number} + 1")
    file(WRITE ${work}/blocks/${number}.${language} "${block}")
    string(REGEX REPLACE "[.]steps = [0-9']+" ".steps = 20" block "${block}")
    file(WRITE ${work}/blocks/${number}_short.${language} "${block}")
  endwhile()
  set(${count} ${number} PARENT_SCOPE)
endfunction()
extract_blocks(cpp programs)
extract_blocks(cmake projects)
if(NOT programs EQUAL 10 OR NOT projects EQUAL 1)
  message(FATAL_ERROR "README.md has ${programs} blocks of C++ and ${projects} of CMake, this test knows of 10 and 1")
endif()

# With -O1: it is about what compiles and what the programs say, and -O3 takes minutes.
set(options -D CMAKE_BUILD_TYPE=Release -D "CMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG" -D CMAKE_CXX_COMPILER=${compiler})
if(eigen_dir)
  list(APPEND options -D Eigen3_DIR=${eigen_dir})
endif()
function(run project name)
  execute_process(COMMAND ${CMAKE_COMMAND} -G ${generator} -S ${project} -B ${work}/build/${name} ${options} ${ARGN}
                          COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${work}/build/${name} --config Release COMMAND_ERROR_IS_FATAL ANY)
  find_program(program_${name} ${name} PATHS ${work}/build/${name} ${work}/build/${name}/Release REQUIRED
               NO_DEFAULT_PATH)
  execute_process(COMMAND ${program_${name}} WORKING_DIRECTORY ${work} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(MAKE_DIRECTORY ${work}/flows)
file(COPY_FILE ${work}/blocks/1.cmake ${work}/flows/CMakeLists.txt)
file(COPY_FILE ${work}/blocks/9.cpp ${work}/flows/main.cpp)
file(CREATE_LINK ${source_dir} ${work}/flows/diffeo SYMBOLIC)
run(${work}/flows app)
run(${CMAKE_CURRENT_LIST_DIR}/readme fragments -D DIFFEO_SOURCE_DIR=${source_dir} -D BLOCKS=${work}/blocks)
