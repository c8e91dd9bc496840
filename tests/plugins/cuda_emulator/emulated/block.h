// One block of threads, from its beginning to its end or to the first thing that goes wrong.
#pragma once

#include <cstdint>

#include "random.h"
#include "vectors.h"

namespace emulated {

// Calls run(arguments) for each thread of the block, whose index and size are in blockIdx and blockDim. The order of
// the threads is random: whenever the one that runs must wait (or ends), any other that need not wait goes on. In half
// of the blocks a warp goes on for as long as it can, so that warps get far ahead of one another. False if it failed;
// then the error is noted.
bool run_block(void (*run)(void*), void* arguments, Random& random);

// Ends the block because of an error. From a fiber only.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// What runs now, in words.
const char* which_block();
const char* which_thread();

// Changes from one thread to another, ever.
uint64_t& switches();

}  // namespace emulated
