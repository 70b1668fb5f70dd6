# SPDX-License-Identifier: MIT
# cmake -P json_at_end.cmake -- PROGRAM ARGUMENTS...
# Runs the program; passes when it exits 0 and the last line of its standard output is a JSON object with the
# keys that examples promise.
cmake_minimum_required(VERSION 3.25)

set(command "")
set(after_dashes OFF)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(after_dashes)
    list(APPEND command "${CMAKE_ARGV${i}}")
  elseif(CMAKE_ARGV${i} STREQUAL "--")
    set(after_dashes ON)
  endif()
endforeach()

execute_process(COMMAND ${command} OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
message("${output}")
string(REGEX REPLACE ".*\n" "" last_line "${output}")
string(JSON type ERROR_VARIABLE error TYPE "${last_line}")
if(NOT type STREQUAL "OBJECT")
  message(FATAL_ERROR "The last line of output is no JSON object: ${last_line}")
endif()
foreach(key IN ITEMS data flow parameters steps seconds step_ms test_log_prob log_prob_per_s samples_per_s)
  string(JSON value ERROR_VARIABLE error GET "${last_line}" ${key})
  if(error)
    message(FATAL_ERROR "The JSON object has no ${key}: ${last_line}")
  endif()
endforeach()
