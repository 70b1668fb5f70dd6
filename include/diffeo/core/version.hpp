// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

namespace diffeo {

/// The version of these headers. The build files read it from this line, so that it is written once.
inline constexpr std::string_view version = "0.1.0";

}  // namespace diffeo
