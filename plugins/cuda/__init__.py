"""The CUDA kernels: their C interface and shared device code, building them, and calling them on torch tensors."""
