# SPDX-License-Identifier: MIT
# diffeo::io, the headers io/: checkpoints, for which JSON is read and written by nlohmann-json. Without that, the
# enclosing project's or the installed one, there is no such target, and the headers are not installed.
if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json 3.10 QUIET)
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
  message(STATUS "diffeo: checkpoints (diffeo::io) are skipped, nlohmann_json not found (Debian: nlohmann-json3-dev)")
  return()
endif()

add_library(diffeo_io INTERFACE)
add_library(diffeo::io ALIAS diffeo_io)
set_target_properties(diffeo_io PROPERTIES EXPORT_NAME io)
file(GLOB io_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/diffeo/io/*.hpp)
target_sources(
  diffeo_io
  INTERFACE FILE_SET HEADERS
            BASE_DIRS ${PROJECT_SOURCE_DIR}/include
            FILES ${io_headers})
target_link_libraries(diffeo_io INTERFACE diffeo $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>
                                          $<INSTALL_INTERFACE:nlohmann_json::nlohmann_json>)
