"""TensorRT: what its graphs are made of, and what follows from their shapes."""
