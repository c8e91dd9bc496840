// How a row of D numbers is shared out among the lanes of a warp: GROUP neighbouring lanes read one row, each VEC
// numbers at a time, so that a warp reads 32 / GROUP rows side by side in full 16-byte loads.
#pragma once

#include "device.cuh"

namespace vitcop {

template <int VALUE>
using Constant = std::integral_constant<int, VALUE>;

// Calls body(VEC, GROUP), both as constants, for rows of `width` numbers of type T.
template <typename T, typename Body>
void with_row_layout(bool aligned, int64_t width, Body body) {
    constexpr int VEC = 16 / sizeof(T);
    const int64_t packs = width / VEC;
    if (!aligned || width % VEC != 0)
        body(Constant<1>(), Constant<32>());
    else if (packs <= 4)
        body(Constant<VEC>(), Constant<4>());
    else if (packs <= 8)
        body(Constant<VEC>(), Constant<8>());
    else if (packs <= 16)
        body(Constant<VEC>(), Constant<16>());
    else
        body(Constant<VEC>(), Constant<32>());
}

inline bool aligned16(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Whether every row that the strides (in elements) lead to begins at a multiple of 16 bytes.
template <typename T>
bool rows_aligned(const void* data, int64_t stride_batch, int64_t stride_head, int64_t stride_position) {
    constexpr int64_t VEC = 16 / sizeof(T);
    return aligned16(data) && stride_batch % VEC == 0 && stride_head % VEC == 0 && stride_position % VEC == 0;
}

}  // namespace vitcop
