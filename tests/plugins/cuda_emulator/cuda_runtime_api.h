// Stands in for CUDA's header of this name, which TensorRT's headers include: see cuda_runtime.h.
#pragma once

#include "emulated/runtime.h"

struct CUevent_st;
using cudaEvent_t = CUevent_st*;
