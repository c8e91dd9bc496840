"""Lowering: a captured graph becomes an ONNX model whose weights stay in the checkpoint."""

from vitcop.export.lower.to_onnx import OPSET, lower

__all__ = ["OPSET", "lower"]
