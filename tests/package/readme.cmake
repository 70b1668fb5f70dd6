# SPDX-License-Identifier: MIT
# Passes when README.md shows first_program.cpp as it is, but for the licence line.  -D readme=FILE
cmake_minimum_required(VERSION 3.25)

file(READ ${readme} page)
file(READ ${CMAKE_CURRENT_LIST_DIR}/first_program.cpp program)
string(REGEX REPLACE "^// SPDX[^\n]*\n\n?" "" program "${program}")
string(FIND "${page}" "${program}" place)
if(place EQUAL -1)
  message(FATAL_ERROR "README.md and tests/package/first_program.cpp differ")
endif()
