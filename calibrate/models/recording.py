"""Queries and keys of one attention layer, recorded as it runs: no attention map is asked for, and whatever attention
the model uses (eager, SDPA, FlashAttention, the one of a captured graph) goes on as it would have."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

RECORDING = "vitcop_recording"
"""Name of the recording attention in transformers' AttentionInterface."""


@dataclass
class Recorded:
    """What the watched module handed to its attention function, call by call: queries [B,Nh,S,D] and keys [B,Nkv,S,D],
    rotary embedding applied, and the scale of the logits (None where the module leaves it at D ** -0.5)."""

    module: Any
    queries: "list[Tensor]" = field(default_factory=list)
    keys: "list[Tensor]" = field(default_factory=list)
    scale: float | None = None


_active: ContextVar[tuple[Recorded, Callable[..., Any]]] = ContextVar("vitcop_recording")


def _recording_attention(module: Any, query: "Tensor", key: "Tensor", *args: Any, **kwargs: Any) -> Any:
    """transformers' attention function: keep the watched module's rows and go on as the model would have."""
    record, attend = _active.get()
    if module is record.module:
        record.queries.append(query)
        record.keys.append(key)
        record.scale = kwargs.get("scaling")
    return attend(module, query, key, *args, **kwargs)


@contextmanager
def recording(attention: "nn.Module") -> Iterator[Recorded]:
    """Record queries and keys of this self-attention module while it runs inside the block."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    AttentionInterface.register(RECORDING, _recording_attention)
    config = attention.config
    implementation = config._attn_implementation
    # The eager function lives in the model's own file and is not in the table.
    eager = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
    record = Recorded(attention)
    token = _active.set((record, ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)))
    config._attn_implementation = RECORDING
    try:
        yield record
    finally:
        config._attn_implementation = implementation
        _active.reset(token)
