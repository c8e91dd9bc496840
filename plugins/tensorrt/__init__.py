"""The operations as TensorRT plugins: one shared library that wraps the CUDA kernels."""
