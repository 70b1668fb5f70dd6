// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/compiler.hpp>

/// DIFFEO_ISA names the instruction set that a translation unit is compiled for. It is the name of the inline namespace
/// that holds everything whose machine code depends on the width of registers: objects compiled with different -m flags
/// may then be linked into one program, each with a copy of its own, where the linker would else keep one copy for all.
/// It tells apart what changes how arguments are passed or how memory is read; flags within one name (-mavx512dq,
/// -mbmi2) change neither.
#if defined(__AVX512F__)
#define DIFFEO_ISA avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define DIFFEO_ISA avx2_fma
#elif defined(__AVX2__)
#define DIFFEO_ISA avx2
#elif defined(__AVX__) && defined(__FMA__)
#define DIFFEO_ISA avx_fma
#elif defined(__AVX__)
#define DIFFEO_ISA avx
#elif defined(__SSE2__)
#define DIFFEO_ISA sse2
#elif defined(__ARM_NEON)
#define DIFFEO_ISA neon
#elif defined(__VSX__)
#define DIFFEO_ISA vsx
#else
#define DIFFEO_ISA baseline
#endif

/// DIFFEO_ISA_NAME is DIFFEO_ISA as a string literal.
#define DIFFEO_ISA_TEXT(name) #name
#define DIFFEO_ISA_TEXT_OF(name) DIFFEO_ISA_TEXT(name)
#define DIFFEO_ISA_NAME DIFFEO_ISA_TEXT_OF(DIFFEO_ISA)
