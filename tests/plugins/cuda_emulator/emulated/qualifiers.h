// The words that CUDA adds to declarations.
#pragma once

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// CUDA's `__restrict__` is also g++'s.

// Shared memory must be found as a whole, to be poisoned before each block. Naming a section for it would not do: g++
// ignores or rejects the attribute on statics of templates and inline functions. As a thread-local variable, each
// lands in the library's one thread-local block, whose place is known to the dynamic loader (shared_memory.cpp); all
// fibers run on one thread of the operating system, so they share it. The emulator itself has no thread-local state.
// `extern __shared__` (dynamic shared memory) does not compile, and is not emulated.
// "used" keeps g++ from concluding that what no kernel writes is 0.
#define __shared__ static thread_local __attribute__((used))
