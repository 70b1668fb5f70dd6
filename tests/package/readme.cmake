# SPDX-License-Identifier: MIT
# Passes when README.md shows the programs of this folder as they are, but for the licence line.  -D readme=FILE
cmake_minimum_required(VERSION 3.25)

file(READ ${readme} page)
foreach(name IN ITEMS first_program.cpp stretch.hpp)
  file(READ ${CMAKE_CURRENT_LIST_DIR}/${name} program)
  string(REGEX REPLACE "^// SPDX[^\n]*\n\n?" "" program "${program}")
  string(FIND "${page}" "${program}" place)
  if(place EQUAL -1)
    message(FATAL_ERROR "README.md and tests/package/${name} differ")
  endif()
endforeach()
