// Stands in for CUDA's header of this name when kernels are compiled for the CPU emulator (for tests only).
//
// A kernel source is compiled unchanged, as C++17: what CUDA adds to the language is spelled here with macros, globals
// and templates. Whatever is missing here fails to compile. A launch (emulated/runtime.h) runs the blocks of the grid
// one after another, the threads of a block as fibers (emulated/fibers.h), in random order (emulated/block.h).
//
// What it cannot find: races between blocks; host code that reads device memory; accesses outside one tensor that land
// in another, or, by a pointer into a shared array, in the next array; more shared memory, registers or threads than a
// GPU grants; a thread that spins until another has done something, which hangs; how fast anything is.
#pragma once

#include "emulated/arithmetic.h"
#include "emulated/collectives.h"
#include "emulated/qualifiers.h"
#include "emulated/runtime.h"
#include "emulated/vectors.h"
