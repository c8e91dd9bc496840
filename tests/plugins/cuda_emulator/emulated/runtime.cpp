#include "runtime.h"

#include <cstring>
#include <mutex>
#include <numeric>
#include <vector>

#include "block.h"
#include "errors.h"
#include "faults.h"
#include "random.h"
#include "shared_memory.h"

namespace emulated {
namespace {

Random source;
cudaError_t last_error = cudaSuccess;
uint64_t num_launches, switches_before;
std::mutex one_launch_at_a_time;

cudaError_t refuse(cudaError_t error, const char* why) {
    note_error("the launch is refused: %s", why);
    return error;
}

cudaError_t check(const cudaLaunchConfig_t& config) {
    const dim3 grid = config.gridDim, block = config.blockDim;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0)
        return refuse(cudaErrorInvalidConfiguration, "a dimension is 0");
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return refuse(cudaErrorInvalidConfiguration, "the grid is too large");
    if (block.x > 1024 || block.y > 1024 || block.z > 64 || block.x * block.y * block.z > 1024)
        return refuse(cudaErrorInvalidConfiguration, "the block is too large");
    if (config.dynamicSmemBytes != 0) return refuse(cudaErrorNotSupported, "dynamic shared memory is not emulated");
    for (unsigned i = 0; i < config.numAttrs; ++i)
        switch (config.attrs[i].id) {
            case cudaLaunchAttributeIgnore:
            case cudaLaunchAttributeProgrammaticStreamSerialization:
            case cudaLaunchAttributePriority: break;
            default: return refuse(cudaErrorNotSupported, "an attribute is not emulated");
        }
    return cudaSuccess;
}

// Random bytes, new ones for every block: what is read before it is written depends on the seed.
void poison(const SharedMemory& memory) {
    char* place = static_cast<char*>(memory.begin);
    for (size_t left = memory.bytes; left > 0;) {
        const uint64_t bits = source.next();
        const size_t part = left < sizeof bits ? left : sizeof bits;
        std::memcpy(place, &bits, part);
        place += part;
        left -= part;
    }
}

bool run_grid(void (*run)(void*), void* arguments) {
    const SharedMemory memory = shared_memory();
    const CatchFaults catch_faults;
    std::vector<uint64_t> order(uint64_t{gridDim.x} * gridDim.y * gridDim.z);
    std::iota(order.begin(), order.end(), 0);
    for (size_t left = order.size(); left > 0; --left) {
        std::swap(order[left - 1], order[source.below(left)]);
        const uint64_t block = order[left - 1];
        blockIdx = {static_cast<unsigned>(block % gridDim.x), static_cast<unsigned>(block / gridDim.x % gridDim.y),
                    static_cast<unsigned>(block / gridDim.x / gridDim.y)};
        poison(memory);
        if (!run_block(run, arguments, source)) return false;
    }
    return true;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*run)(void*), void* arguments) {
    const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    ++num_launches;
    name_kernel(kernel);
    cudaError_t error = check(config);
    if (error == cudaSuccess) {
        gridDim = config.gridDim;
        blockDim = config.blockDim;
        if (!run_grid(run, arguments)) error = cudaErrorLaunchFailure;
    }
    name_kernel(nullptr);
    if (error != cudaSuccess) last_error = error;
    return error;
}

}  // namespace emulated

void emulator_seed(uint64_t seed) { emulated::source.seed(seed); }

void emulator_reset() {
    emulated::forget_error();
    emulated::last_error = cudaSuccess;
    emulated::num_launches = 0;
    emulated::switches_before = emulated::switches();
}

uint64_t emulator_launches() { return emulated::num_launches; }
uint64_t emulator_switches() { return emulated::switches() - emulated::switches_before; }

cudaError_t cudaPeekAtLastError() { return emulated::last_error; }
cudaError_t cudaGetLastError() { return std::exchange(emulated::last_error, cudaSuccess); }

#define EMULATED_ERRORS(CASE)                                                 \
    CASE(cudaSuccess, "no error")                                             \
    CASE(cudaErrorInvalidValue, "invalid argument")                           \
    CASE(cudaErrorInvalidConfiguration, "invalid configuration argument")     \
    CASE(cudaErrorIllegalAddress, "an illegal memory access was encountered") \
    CASE(cudaErrorLaunchFailure, "unspecified launch failure")                \
    CASE(cudaErrorNotSupported, "operation not supported")

const char* cudaGetErrorName(cudaError_t error) {
#define EMULATED_NAME(error, text) \
    case error: return #error;
    switch (error) { EMULATED_ERRORS(EMULATED_NAME) }
    return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
#define EMULATED_TEXT(error, text) \
    case error: return text;
    switch (error) { EMULATED_ERRORS(EMULATED_TEXT) }
    return "unrecognized error code";
}

cudaError_t cudaMemsetAsync(void* place, int value, size_t bytes, cudaStream_t) {
    if (bytes > 0) std::memset(place, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return cudaSuccess;
}
