// The shared memory of the block that runs now.
#pragma once

#include <cstddef>

namespace emulated {

struct SharedMemory {
    void* begin;
    size_t bytes;
};

// Of all kernels in this library, for the calling thread of the operating system.
SharedMemory shared_memory();

}  // namespace emulated
