# SPDX-License-Identifier: MIT
# Passes when a program exits as expected, with a message on stderr.  cmake -P exit_code.cmake -- CODE PROGRAM ARGUMENTS...
set(command "")
foreach(i RANGE 4 ${CMAKE_ARGC})
  if(DEFINED CMAKE_ARGV${i})
    list(APPEND command "${CMAKE_ARGV${i}}")
  endif()
endforeach()
list(POP_FRONT command expected)
execute_process(COMMAND ${command} RESULT_VARIABLE code ERROR_VARIABLE message OUTPUT_QUIET)
if(NOT code STREQUAL expected OR message STREQUAL "")
  message(FATAL_ERROR "exit code ${code}, expected ${expected}; stderr: ${message}")
endif()
