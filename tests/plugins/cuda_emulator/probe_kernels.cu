// Kernels that show what the emulator does, right ones and wrong ones; test_cuda_emulator.py launches them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

constexpr unsigned ALL = 0xffffffffu;

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL, value, offset);
    return value;
}

template <typename T, bool BARRIER>
__device__ T block_sum(T value) {
    __shared__ T of_warp[32];
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    if (BARRIER) __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += of_warp[warp];
    __syncthreads();
    return sum;
}

template <typename T, bool BARRIER>
__global__ void sum_kernel(const int* in, int* out, int64_t count) {
    T own = 0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) own += in[blockIdx.x * count + i];
    out[blockIdx.x * int64_t(blockDim.x) + threadIdx.x] = block_sum<T, BARRIER>(own);
}

__global__ void barriers_kernel(const int*, int* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) __syncthreads();
    out[threadIdx.x] = 1;
}

// Which even numbers are there, and how many before each.
__global__ void prefix_kernel(const int* in, int* out, int64_t) {
    const int lane = threadIdx.x % 32;
    const bool even = in[threadIdx.x] % 2 == 0;
    const unsigned evens = __ballot_sync(ALL, even);
    int through = even;
    for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(ALL, through, offset);
        if (lane >= offset) through += other;
    }
    const int before = __popc(evens & ((1u << lane) - 1));
    out[threadIdx.x] = through - even == before ? before : -1;
}

// Each row of 32 outputs: one collective, of a partial warp too.
__global__ void collectives_kernel(const int* in, int* out, int64_t) {
    const int lane = threadIdx.x;
    int row = 0;
    const auto put = [&](int value) { out[32 * row++ + lane] = value; };
    put(__shfl_sync(ALL, in[lane], lane + 3, 8));
    put(__shfl_down_sync(ALL, in[lane], 3, 8));
    put(__shfl_up_sync(ALL, in[lane], 3, 8));
    put(__shfl_xor_sync(ALL, in[lane], 12, 8));
    put(__any_sync(ALL, lane == 5) + 2 * __any_sync(ALL, lane == 99));
    put(__all_sync(ALL, lane < 32) + 2 * __all_sync(ALL, lane < 5));
    // Halves of a warp, each on its own.
    const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    put(lane < 16 ? __shfl_sync(half, in[lane], 2) : __shfl_sync(half, in[lane], 20));
    put(static_cast<int>(__shfl_xor_sync(ALL, 0.5 * in[lane], 1)));
    put(static_cast<int>(__shfl_xor_sync(ALL, static_cast<long long>(in[lane]) << 32, 1) >> 32));
    __syncwarp();
}

__global__ void atomics_kernel(const int* in, int* out, int64_t) {
    __shared__ int total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    atomicAdd(&total, in[threadIdx.x]);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(out, total);
}

__global__ void shape_kernel(const int*, int* out, int64_t) {
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] += static_cast<int>(block * 1000 + thread);
}

__global__ void unwritten_kernel(const int*, int* out, int64_t) {
    __shared__ int never_written[64];
    out[threadIdx.x] = never_written[threadIdx.x];
}

// How many warps are through when each of them begins.
__global__ void head_start_kernel(const int*, int* out, int64_t) {
    __shared__ int through;
    if (threadIdx.x == 0) through = 0;
    __syncthreads();
    if (threadIdx.x % 32 == 0) out[threadIdx.x / 32] = through;
    for (int i = 0; i < 16; ++i) __syncwarp();
    if (threadIdx.x % 32 == 0) atomicAdd(&through, 1);
}

__global__ void half_barrier_kernel(const int*, int* out, int64_t) {
    if (threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void two_barriers_kernel(const int*, int* out, int64_t) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void barrier_and_shuffle_kernel(const int*, int* out, int64_t) {
    if (threadIdx.x < 8) __syncthreads();
    out[threadIdx.x] = __shfl_sync(ALL, 1, 0);
}

__global__ void half_shuffle_kernel(const int*, int* out, int64_t) {
    if (threadIdx.x % 32 < 16) return;
    out[threadIdx.x] = __shfl_sync(ALL, 1, 0);
}

__global__ void not_in_mask_kernel(const int*, int* out, int64_t) { out[threadIdx.x] = __shfl_sync(0xffu, 1, 0); }

__global__ void not_in_mask_source_kernel(const int*, int* out, int64_t) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1, 16);
}

__global__ void copy_kernel(const int* in, int* out, int64_t count) {
    const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    if (i < count) out[i] = in[i];
}

__global__ void write_input_kernel(const int* in, int*, int64_t) { const_cast<int*>(in)[0] = 1; }

__global__ void index_kernel(const int*, int* out, int64_t count) {
    __shared__ int few[8];
    few[count] = 1;
    out[0] = few[count];
}

__global__ void misaligned_kernel(const int* in, int* out, int64_t count) {
    *reinterpret_cast<int4*>(out) = *reinterpret_cast<const int4*>(in + count);
}

__global__ void large_stack_kernel(const int*, int* out, int64_t count) {
    int large[64 * 1024];
    for (int i = 0; i < 64 * 1024; ++i) large[i] = static_cast<int>(count);
    __syncthreads();
    out[0] = large[threadIdx.x];
}

__global__ void half_to_float_kernel(const int*, int* out, int64_t) {
    const unsigned bits = blockIdx.x * blockDim.x + threadIdx.x;
    out[bits] = __float_as_int(__half2float(__ushort_as_half(static_cast<unsigned short>(bits))));
    out[bits + 65536] = __float_as_int(__bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(bits))));
}

__global__ void float_to_half_kernel(const int* in, int* out, int64_t count) {
    const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    if (i >= count) return;
    out[i] = __half_as_ushort(__float2half(__int_as_float(in[i])));
    out[i + count] = __bfloat16_as_ushort(__float2bfloat16(__int_as_float(in[i])));
}

struct Named {
    const char* name;
    void (*kernel)(const int* in, int* out, int64_t count);
};

extern "C" int run(const char* name, dim3 blocks, dim3 threads, const int* in, int* out, int64_t count) {
    const Named kernels[] = {
        {"sum", sum_kernel<unsigned, true>},
        {"sum_without_barrier", sum_kernel<unsigned, false>},
        {"barriers", barriers_kernel},
        {"prefix", prefix_kernel},
        {"collectives", collectives_kernel},
        {"atomics", atomics_kernel},
        {"shape", shape_kernel},
        {"unwritten", unwritten_kernel},
        {"head_start", head_start_kernel},
        {"half_barrier", half_barrier_kernel},
        {"two_barriers", two_barriers_kernel},
        {"barrier_and_shuffle", barrier_and_shuffle_kernel},
        {"half_shuffle", half_shuffle_kernel},
        {"not_in_mask", not_in_mask_kernel},
        {"not_in_mask_source", not_in_mask_source_kernel},
        {"copy", copy_kernel},
        {"write_input", write_input_kernel},
        {"index", index_kernel},
        {"misaligned", misaligned_kernel},
        {"large_stack", large_stack_kernel},
        {"half_to_float", half_to_float_kernel},
        {"float_to_half", float_to_half_kernel},
    };
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = threads;
    for (const Named& named : kernels)
        if (std::strcmp(named.name, name) == 0) return cudaLaunchKernelEx(&config, named.kernel, in, out, count);
    return cudaErrorInvalidValue;
}
