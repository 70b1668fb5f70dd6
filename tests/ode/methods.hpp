// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <diffeo/ode/tableau.hpp>

/// All methods, those that estimate their error and those that do not.
inline constexpr std::array<diffeo::ode::Method, 8> methods = {
    diffeo::ode::Method::euler, diffeo::ode::Method::midpoint, diffeo::ode::Method::heun,  diffeo::ode::Method::rk4,
    diffeo::ode::Method::bosh3, diffeo::ode::Method::dopri5,   diffeo::ode::Method::tsit5, diffeo::ode::Method::dopri8};
