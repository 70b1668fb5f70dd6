# SPDX-License-Identifier: MIT
# The compiled form of the library: the templates that compiled.hpp lists, for float and double, compiled once and not
# in each source that uses them. Its names hold the instruction set: a program whose sources are compiled with other
# -march flags does not link.
file(GLOB compiled_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.cpp)

function(diffeo_add_compiled name)
  add_library(${name} STATIC EXCLUDE_FROM_ALL ${compiled_sources})
  target_link_libraries(${name} PUBLIC diffeo)
  target_compile_definitions(${name} PUBLIC DIFFEO_COMPILED)
endfunction()

diffeo_add_compiled(diffeo_compiled)
add_library(diffeo::compiled ALIAS diffeo_compiled)
set_target_properties(diffeo_compiled PROPERTIES EXPORT_NAME compiled POSITION_INDEPENDENT_CODE ON)
if(DIFFEO_BUILD_COMPILED)
  set_target_properties(diffeo_compiled PROPERTIES EXCLUDE_FROM_ALL OFF)
endif()
