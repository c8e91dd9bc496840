"""Capture: the unmodified Hugging Face model as three flat graphs (vision, prefill, decode)."""

from vitcop.export.capture.graphs import capture_decode, capture_prefill, capture_vision, example_tables
from vitcop.export.capture.token_graph import GraphInput, TokenGraph

__all__ = ["GraphInput", "TokenGraph", "capture_decode", "capture_prefill", "capture_vision", "example_tables"]
