// 16-bit floats with 8 bits of exponent. Only the conversions: arithmetic on them does not compile.
#pragma once

#include "arithmetic.h"

class __nv_bfloat16 {
  public:
    __nv_bfloat16() = default;  // trivial, so that arrays of them can be shared memory

  private:
    unsigned short bits_;
    friend unsigned short __bfloat16_as_ushort(__nv_bfloat16 value);
    friend __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits);
};
static_assert(sizeof(__nv_bfloat16) == 2 && alignof(__nv_bfloat16) == 2, "as on the GPU");
using nv_bfloat16 = __nv_bfloat16;

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits_; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 value;
    value.bits_ = bits;
    return value;
}

inline float __bfloat162float(__nv_bfloat16 value) {
    return __uint_as_float(static_cast<unsigned>(__bfloat16_as_ushort(value)) << 16);
}

// To the nearest, ties to even: 16 bits of the fraction go, and a carry moves on into the exponent, up to infinity.
inline __nv_bfloat16 __float2bfloat16(float value) {
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return __ushort_as_bfloat16(0x7fff);  // NaN: the GPU has but one
    return __ushort_as_bfloat16(static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16));
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __float2bfloat16(value); }

inline __nv_bfloat16 __ldg(const __nv_bfloat16* place) { return *place; }
