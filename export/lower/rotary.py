"""RotaryEmbedding in half precision.

onnxscript fuses the rotary embedding of Llama-like models where tables and states are fp32. Half-precision models
compute the tables in fp32 and cast them, and the cast hides the pattern; this rule is the same one with the cast.
"""

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRuleClassBase, RewriteRuleSet


class _HalfRotary(RewriteRuleClassBase):
    """x·cos + rotate_half(x)·sin with x [B,Nh,S,D] and tables of [freqs, freqs], cast -> one RotaryEmbedding."""

    def __init__(self) -> None:
        # Query and key of every layer share the tables, so what was matched may have other readers; what is left
        # without any is removed later.
        super().__init__("HalfRotary", remove_nodes=False)

    def pattern(
        self,
        op: Any,
        x: Any,
        freqs: Any,
        dtype: Any,
        start_1: Any,
        end_1: Any,
        start_2: Any,
        end_2: Any,
        axis_1: Any,
        axis_2: Any,
    ) -> Any:
        angles = op.Concat(freqs, freqs, axis=-1)
        cos = op.Unsqueeze(op.Cast(op.Cos(angles), to=dtype), axis_1)
        sin = op.Unsqueeze(op.Cast(op.Sin(angles), to=dtype), axis_2)
        first = op.Slice(x, start_1, end_1, [3], [1])
        second = op.Slice(x, start_2, end_2, [3], [1])
        return x * cos + op.Concat(op.Neg(second), first, axis=-1) * sin

    def check(
        self,
        context: Any,
        x: ir.Value,
        start_1: ir.Value,
        end_1: ir.Value,
        start_2: ir.Value,
        end_2: ir.Value,
        axis_1: ir.Value,
        axis_2: ir.Value,
        **_: Any,
    ) -> MatchResult:
        """The two slices are the halves of the last axis, and the tables are spread over the heads."""
        result = MatchResult()
        if x.shape is None or len(x.shape) != 4 or not all(isinstance(x.shape[axis], int) for axis in (1, 3)):
            return result.fail("number of heads or head dim is unknown", x)
        size, half = x.shape[3], x.shape[3] // 2
        if _number(axis_1) != 1 or _number(axis_2) != 1:
            return result.fail("the tables are not spread over the heads", x)
        if (_number(start_1), _number(end_1), _number(start_2)) != (0, half, half) or (_number(end_2) or 0) < size:
            return result.fail("the slices are not the two halves", x)
        return result

    def rewrite(self, op: Any, x: ir.Value, freqs: ir.Value, dtype: ir.Attr, **_: Any) -> ir.Value:
        tables = [op.Cast(table, to=dtype.as_int()) for table in (op.Cos(freqs), op.Sin(freqs))]
        return op.RotaryEmbedding(x, *tables, interleaved=0, num_heads=x.shape[1])


_RULES = RewriteRuleSet([_HalfRotary.rule()])


def fuse_half_rotary(model: ir.Model) -> int:
    """Fuse in place; returns how many rotary embeddings were found."""
    return _RULES.apply_to_model(model)


def _number(value: ir.Value | None) -> int | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return int(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None
