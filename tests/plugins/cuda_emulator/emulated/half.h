// 16-bit floats with 5 bits of exponent. Only the conversions: arithmetic on them does not compile.
#pragma once

#include "arithmetic.h"

class __half {
  public:
    __half() = default;  // trivial, so that arrays of them can be shared memory

  private:
    unsigned short bits_;
    friend unsigned short __half_as_ushort(__half value);
    friend __half __ushort_as_half(unsigned short bits);
};
static_assert(sizeof(__half) == 2 && alignof(__half) == 2, "as on the GPU");
using half = __half;

inline unsigned short __half_as_ushort(__half value) { return value.bits_; }
inline __half __ushort_as_half(unsigned short bits) {
    __half value;
    value.bits_ = bits;
    return value;
}

inline float __half2float(__half value) {
    const unsigned bits = __half_as_ushort(value);
    const unsigned sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest > 0x7c00u) return __uint_as_float(0x7fffffffu);  // NaN: the GPU has but one
    if (rest == 0x7c00u) return __uint_as_float(sign | 0x7f800000u);
    if (rest >= 0x0400u) return __uint_as_float(sign | ((rest << 13) + (112u << 23)));
    const float subnormal = static_cast<float>(rest) * 0x1p-24f;
    return __uint_as_float(sign | __float_as_uint(subnormal));
}

// To the nearest, ties to even.
inline __half __float2half(float value) {
    const unsigned bits = __float_as_uint(value);
    const unsigned sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
    unsigned result;
    if (rest > 0x7f800000u)
        return __ushort_as_half(0x7fff);
    else if (rest >= 0x477ff000u)  // 65520, from where on infinity is the nearest
        result = 0x7c00u;
    else if (rest >= 0x38800000u)  // 2^-14: 13 bits of the fraction go, and a carry moves on into the exponent
        result = (rest - (112u << 23) + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    else  // subnormal, in units of 2^-24, which is the last bit of a float between 1/2 and 1: adding rounds
        result = __float_as_uint(__uint_as_float(rest) + 0.5f) - __float_as_uint(0.5f);
    return __ushort_as_half(static_cast<unsigned short>(sign | result));
}
inline __half __float2half_rn(float value) { return __float2half(value); }

inline __half __ldg(const __half* place) { return *place; }
