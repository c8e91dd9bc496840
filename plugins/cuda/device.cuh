// What the kernels share: how numbers are read, how a warp adds up, how kernels are launched one behind another.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels.h"

namespace vitcop {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// N neighbours in memory, read in one instruction.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T item[N];
};

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* place) {
    return *reinterpret_cast<const Pack<T, N>*>(place);
}

// Integers of 32 or 64 bits. The branch is the same for all threads, and cheaper than a second copy of every kernel.
struct Indices {
    const void* data;
    bool wide;

    __device__ __forceinline__ int64_t operator[](int64_t place) const {
        return wide ? static_cast<const int64_t*>(data)[place] : static_cast<const int32_t*>(data)[place];
    }
};

// Room for such integers.
struct IndexRoom {
    void* data;
    bool wide;

    __device__ __forceinline__ void set(int64_t place, int64_t value) const {
        if (wide)
            static_cast<int64_t*>(data)[place] = value;
        else
            static_cast<int32_t*>(data)[place] = static_cast<int32_t>(value);
    }
};

// Where a warp works for each item: the item of this thread's warp. Grid: items / warps of a block.
__device__ __forceinline__ int64_t warp_item() {
    return blockIdx.x * int64_t(blockDim.x / WARP) + threadIdx.x / WARP;
}

// Sum over the lanes whose numbers differ in the bits from FROM up to below TO; all of them get it. The order of
// additions depends on nothing but the lane.
template <int FROM = 1, int TO = WARP, typename T>
__device__ __forceinline__ T lane_sum(T value) {
#pragma unroll
    for (int offset = FROM; offset < TO; offset *= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

// Sum over the lanes up to and including this one.
template <typename T>
__device__ __forceinline__ T lane_prefix(T value) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        const T other = __shfl_up_sync(ALL_LANES, value, offset);
        if (lane >= offset) value += other;
    }
    return value;
}

// Sums over the threads before this one, and over the whole block of THREADS threads.
template <typename T>
struct Prefix {
    T before;
    T total;
};

template <int THREADS, typename T>
__device__ __forceinline__ Prefix<T> block_prefix(T value) {
    constexpr int WARPS = THREADS / WARP;
    __shared__ T totals[WARPS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const T through = lane_prefix(value);
    __syncthreads();  // a call before this one may still read `totals`
    if (lane == WARP - 1) totals[warp] = through;
    __syncthreads();
    const T of_warp = lane < WARPS ? totals[lane] : T(0);
    const T warps_through = lane_prefix(of_warp);
    const T warps_before = __shfl_sync(ALL_LANES, warps_through - of_warp, warp);
    return {warps_before + through - value, __shfl_sync(ALL_LANES, warps_through, WARPS - 1)};
}

// The lower of two (value, index) pairs, over a warp. NaN never wins.
struct Nearest {
    float value;
    int index;

    __device__ __forceinline__ void offer(float other_value, int other_index) {
        if (other_value < value || (other_value == value && other_index < index)) {
            value = other_value;
            index = other_index;
        }
    }
    __device__ __forceinline__ void over_lanes() {
#pragma unroll
        for (int offset = 1; offset < WARP; offset *= 2) {
            const float other_value = __shfl_xor_sync(ALL_LANES, value, offset);
            const int other_index = __shfl_xor_sync(ALL_LANES, index, offset);
            offer(other_value, other_index);
        }
    }
};

inline int64_t div_up(int64_t value, int64_t step) { return (value + step - 1) / step; }

// Launches kernels one behind another on a stream, until the first error. Empty grids are skipped.
class Launcher {
  public:
    explicit Launcher(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

    template <typename... Params, typename... Args>
    void run(void (*kernel)(Params...), int64_t blocks_x, int64_t blocks_y, int threads, Args... args) {
        if (status_ != cudaSuccess || blocks_x == 0 || blocks_y == 0) return;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y), 1);
        config.blockDim = dim3(static_cast<unsigned>(threads), 1, 1);
        config.stream = stream_;
        status_ = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
    }

    // Sets memory to zero bytes, in the same order as the kernels.
    template <typename T>
    void clear(T* place, int64_t count) {
        if (status_ != cudaSuccess || count == 0) return;
        status_ = cudaMemsetAsync(place, 0, static_cast<size_t>(count) * sizeof(T), stream_);
    }

    int status() const { return static_cast<int>(status_); }

  private:
    cudaStream_t stream_;
    cudaError_t status_ = cudaSuccess;
};

// Cuts a workspace into arrays, each aligned to 256 bytes. With a null base it only measures.
class Workspace {
  public:
    explicit Workspace(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

    template <typename T>
    T* take(int64_t count) {
        const uintptr_t place = base_ + static_cast<uintptr_t>(bytes_);
        bytes_ += div_up(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
        return reinterpret_cast<T*>(place);
    }

    int64_t bytes() const { return bytes_; }

  private:
    uintptr_t base_;
    int64_t bytes_ = 0;
};

// Stands for a type where values are passed.
template <typename T>
struct Type {
    using type = T;
};

// Calls body with the C++ type that `dtype` names and returns what it returns; refuses a code that names none.
template <typename Body>
int with_dtype(int64_t dtype, Body body) {
    switch (dtype) {
        case VITCOP_FLOAT32: return body(Type<float>());
        case VITCOP_FLOAT16: return body(Type<__half>());
        case VITCOP_BFLOAT16: return body(Type<__nv_bfloat16>());
        default: return cudaErrorInvalidValue;
    }
}

}  // namespace vitcop
