# SPDX-License-Identifier: MIT
# Headers and a package that find_package(diffeo) finds.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/diffeo)
install(TARGETS diffeo EXPORT diffeoTargets FILE_SET HEADERS)
if(DIFFEO_COMPILED)
  install(TARGETS diffeo_compiled EXPORT diffeoTargets)
endif()
install(
  EXPORT diffeoTargets
  NAMESPACE diffeo::
  DESTINATION ${package_dir})
if(TARGET diffeo_io)
  install(TARGETS diffeo_io EXPORT diffeoIoTargets FILE_SET HEADERS)
  install(
    EXPORT diffeoIoTargets
    NAMESPACE diffeo::
    DESTINATION ${package_dir})
endif()
set(independent ARCH_INDEPENDENT)
if(DIFFEO_COMPILED)
  set(independent "")
endif()
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/diffeoConfigVersion.cmake
  COMPATIBILITY SameMinorVersion # until 1.0 a new minor version may break its users
  ${independent})
install(FILES ${PROJECT_SOURCE_DIR}/cmake/diffeoConfig.cmake ${PROJECT_BINARY_DIR}/diffeoConfigVersion.cmake
        DESTINATION ${package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
