// CUDA's functions on single numbers.
//
// Sums and products are rounded one by one (the builder forbids contraction into fma); nvcc contracts `a * b + c`
// unless told not to, and the GPU's expf may differ from this one in the last bits.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace emulated {

template <typename To, typename From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a number of another size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace emulated

inline unsigned __float_as_uint(float value) { return emulated::same_bits<unsigned>(value); }
inline int __float_as_int(float value) { return emulated::same_bits<int>(value); }
inline float __uint_as_float(unsigned value) { return emulated::same_bits<float>(value); }
inline float __int_as_float(int value) { return emulated::same_bits<float>(value); }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }
inline int __clzll(long long value) { return value ? __builtin_clzll(static_cast<unsigned long long>(value)) : 64; }

inline float __fsqrt_rn(float value) { return sqrtf(value); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

// The overloads that CUDA has. Of mixed arguments the unsigned one wins, and a NaN loses to a number.
#define EMULATED_MIN_MAX(Result, A, B) \
    inline Result min(A a, B b) {      \
        const Result one = a, two = b; \
        return two < one ? two : one;  \
    }                                  \
    inline Result max(A a, B b) {      \
        const Result one = a, two = b; \
        return two > one ? two : one;  \
    }
EMULATED_MIN_MAX(int, int, int)
EMULATED_MIN_MAX(unsigned, unsigned, unsigned)
EMULATED_MIN_MAX(unsigned, int, unsigned)
EMULATED_MIN_MAX(unsigned, unsigned, int)
EMULATED_MIN_MAX(long, long, long)
EMULATED_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATED_MIN_MAX(unsigned long, long, unsigned long)
EMULATED_MIN_MAX(unsigned long, unsigned long, long)
EMULATED_MIN_MAX(long long, long long, long long)
EMULATED_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
EMULATED_MIN_MAX(unsigned long long, long long, unsigned long long)
EMULATED_MIN_MAX(unsigned long long, unsigned long long, long long)
#undef EMULATED_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }

// Reads through the cache for constants: here a plain read, of the types that CUDA has it for.
#define EMULATED_LDG(Type) \
    inline Type __ldg(const Type* place) { return *place; }
EMULATED_LDG(char)
EMULATED_LDG(signed char)
EMULATED_LDG(unsigned char)
EMULATED_LDG(short)
EMULATED_LDG(unsigned short)
EMULATED_LDG(int)
EMULATED_LDG(unsigned)
EMULATED_LDG(long)
EMULATED_LDG(unsigned long)
EMULATED_LDG(long long)
EMULATED_LDG(unsigned long long)
EMULATED_LDG(float)
EMULATED_LDG(double)
EMULATED_LDG(int2)
EMULATED_LDG(int4)
EMULATED_LDG(uint2)
EMULATED_LDG(uint4)
EMULATED_LDG(float2)
EMULATED_LDG(float4)
#undef EMULATED_LDG
