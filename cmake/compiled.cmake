# SPDX-License-Identifier: MIT
# diffeo::compiled, the compiled form of the library: the templates that compiled.hpp lists, for float and double,
# compiled once and not in each source that uses them.
file(GLOB compiled_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.cpp)
add_library(diffeo_compiled STATIC ${compiled_sources})
add_library(diffeo::compiled ALIAS diffeo_compiled)
target_link_libraries(diffeo_compiled PUBLIC diffeo)
target_compile_definitions(diffeo_compiled PUBLIC DIFFEO_COMPILED)
# Names hold the instruction set, so that sources which use the library must be compiled for the same one.
target_compile_options(diffeo_compiled PUBLIC ${DIFFEO_ARCH_FLAGS})
target_precompile_headers(diffeo_compiled PRIVATE <diffeo/diffeo.hpp>)
set_target_properties(diffeo_compiled PROPERTIES EXPORT_NAME compiled POSITION_INDEPENDENT_CODE ON)
if(NOT DIFFEO_COMPILED)
  set_target_properties(diffeo_compiled PROPERTIES EXCLUDE_FROM_ALL ON)
endif()
