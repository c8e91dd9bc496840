"""What a schedule costs by formula: FLOPs of the language model's prefill and bytes of its KV cache. No torch, no
measurement.

A layer of n tokens, hidden size d, Nh query and Nkv key-value heads of size D, gated MLP of width m, two FLOPs for each
multiply-accumulate:

    projections  2·n·d·D·(2·Nh + 2·Nkv)     query, key, value, output
    attention    4·n²·Nh·D                  scores and weighted sum, the whole square (kernels may skip the causal half)
    MLP          6·n·d·m                    gate, up, down

With Nkv = Nh this is exactly twice the papers' 4nd² + 2n²d + 3ndm, which counts multiply-accumulates. The head adds
2·d·vocab for the one position whose logits are needed. Norms, rotary embedding and softmax are left out (below one
percent).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """The sizes of a language model that its cost depends on."""

    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int

    @classmethod
    def from_config(cls, config: Any) -> "DecoderShape":
        """From a transformers config (of the whole model or of its text part)."""
        text = getattr(config, "text_config", None) or config
        heads = text.num_attention_heads
        return cls(
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            num_heads=heads,
            num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocab=text.vocab_size,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Prefill FLOPs of the language model, bytes of its KV cache after the prefill, visual tokens at its input."""

    flops: int
    kv_bytes: int
    input_tokens: int


def layer_flops(shape: DecoderShape, num_tokens: int) -> int:
    """FLOPs of one decoder layer over this many tokens."""
    projections = 2 * num_tokens * shape.hidden * shape.head_dim * (2 * shape.num_heads + 2 * shape.num_kv_heads)
    attention = 4 * num_tokens**2 * shape.num_heads * shape.head_dim
    return projections + attention + 6 * num_tokens * shape.hidden * shape.intermediate


def prefill_cost(
    shape: DecoderShape, layer_counts: Sequence[int], text_tokens: int, *, bytes_per_value: int = 2
) -> Cost:
    """Cost of one prompt.

    Args:
        layer_counts: visual tokens present in each decoder layer (`Schedule.layer_counts`).
        text_tokens: all other tokens of the prompt.
        bytes_per_value: of a cached key or value (2 for fp16).
    """
    tokens = [count + text_tokens for count in layer_counts]
    return Cost(
        flops=sum(layer_flops(shape, count) for count in tokens) + 2 * shape.hidden * shape.vocab,
        kv_bytes=sum(tokens) * 2 * shape.num_kv_heads * shape.head_dim * bytes_per_value,
        input_tokens=layer_counts[0],
    )
