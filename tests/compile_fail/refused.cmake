# SPDX-License-Identifier: MIT
# Passes when the compiler refuses a program of this folder with the flags after "--" and says why in a line that matches
# `expected`, and nothing more than that the translation unit ends there.
# -D compiler= include_dir= eigen_dir= program= expected=REGEX -P refused.cmake -- FLAGS
cmake_minimum_required(VERSION 3.25)

set(flags "")
set(own FALSE)
foreach(i RANGE ${CMAKE_ARGC})
  if(own AND NOT "${CMAKE_ARGV${i}}" STREQUAL "")
    list(APPEND flags ${CMAKE_ARGV${i}})
  elseif("${CMAKE_ARGV${i}}" STREQUAL "--")
    set(own TRUE)
  endif()
endforeach()

execute_process(
  COMMAND ${compiler} -std=c++20 -I${include_dir} -isystem ${eigen_dir} ${flags} -fsyntax-only
          ${CMAKE_CURRENT_LIST_DIR}/${program}
  RESULT_VARIABLE result
  OUTPUT_VARIABLE output
  ERROR_VARIABLE output)
string(REGEX MATCHALL "error: " errors "${output}")
list(LENGTH errors count)
if(result EQUAL 0)
  message(FATAL_ERROR "${flags} was accepted")
elseif(NOT output MATCHES "${expected}")
  message(FATAL_ERROR "${flags}: expected \"${expected}\" in\n${output}")
elseif(count GREATER 2)
  message(FATAL_ERROR "${flags}: ${count} errors, expected at most 2:\n${output}")
endif()
