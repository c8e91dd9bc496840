// The part of CUDA's runtime that launches kernels. Every launch has finished when it returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "vectors.h"

// The values are CUDA's.
enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
};
using cudaError_t = cudaError;

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4,
};

// Attributes that change nothing for kernels which run one after another. Others are refused.
enum cudaLaunchAttributeID {
    cudaLaunchAttributeIgnore = 0,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6,
    cudaLaunchAttributePriority = 8,
};
union cudaLaunchAttributeValue {
    char pad[64];
    int programmaticStreamSerializationAllowed;
    int priority;
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim;
    dim3 blockDim;
    size_t dynamicSmemBytes;  // must be 0
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

extern "C" {
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaMemsetAsync(void* place, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);

// What tests call, beside the launchers that the kernel sources export.
void emulator_seed(uint64_t seed);  // of the order of blocks and threads, and of the poison in shared memory
void emulator_reset();              // forgets the error and the launches
const char* emulator_error();       // what went wrong first since the last reset, in one line; empty if nothing
uint64_t emulator_launches();       // kernels launched since the last reset
uint64_t emulator_switches();       // changes from one thread to another since the last reset
}

namespace emulated {

// Calls run(arguments) once for every thread of the grid.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*run)(void*), void* arguments);

}  // namespace emulated

template <typename... Params, typename... Args>
inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
    // Converts the arguments, as CUDA does, then calls the kernel with a copy of them for every thread.
    return [&](Params... converted) {
        auto thread = [&] { kernel(converted...); };
        return emulated::launch(
            *config, reinterpret_cast<const void*>(kernel),
            [](void* arguments) { (*static_cast<decltype(thread)*>(arguments))(); }, &thread);
    }(std::forward<Args>(args)...);
}
