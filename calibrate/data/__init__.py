"""Samples, their answers and the clusters of their images. No torch."""
