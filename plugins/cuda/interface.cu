// What the library says about itself.
#include <cuda_runtime.h>

#include "kernels.h"

int64_t vitcop_abi(void) { return VITCOP_ABI; }

const char* vitcop_error_text(int64_t status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }
