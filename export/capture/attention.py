"""Attention as one op of the captured graph.

transformers' SDPA path expands grouped KV heads when it is given a mask, and torch.export then decomposes it. An
attention function of our own, registered with transformers, calls ONNX's Attention (opset 23) instead: one node a
layer, grouped heads kept as they are, and a handle by which the rewrite finds each layer's query, key and scale.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.onnx.ops
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

_NAME = "vitcop_onnx_attention"
_CHANGES_ATTENTION = ("softcap", "s_aux", "position_bias", "cu_seq_lens_q")
"""What a model may ask of its attention function that the captured op does not do; families refuse such models. Sliding
windows are in the mask already."""

ATTENTION = torch.ops.onnx.Attention.opset23
"""The op of the captured graph: args (query, key, value, mask), keyword `scale`, first result is the output."""


def _onnx_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **settings: object,
) -> tuple[Tensor, None]:
    """query [B,Nh,S,D], key and value [B,Nkv,S,D], boolean mask [B,1,S,S] -> ([B,S,Nh,D], no attention map)."""
    unknown = [name for name, value in settings.items() if value is not None and name in _CHANGES_ATTENTION]
    assert not unknown and not dropout, f"attention with {unknown or 'dropout'} would be captured wrongly"
    output = torch.onnx.ops.attention(query, key, value, attention_mask, scale=float(scaling))[0]
    return output.transpose(1, 2), None


@contextmanager
def onnx_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let every attention layer of `model` use ONNX's Attention inside the block."""
    AttentionInterface.register(_NAME, _onnx_attention)
    before = {
        id(module): module.config._attn_implementation
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
    }
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        for module in model.modules():
            if id(module) in before:
                module.config._attn_implementation = before[id(module)]
