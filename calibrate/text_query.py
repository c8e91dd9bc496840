"""The last prompt token's query of one decoder layer, recorded as the layer runs: one row a head, never an attention
map."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

RECORDING = "vitcop_recording"
"""Name of the recording attention in transformers' AttentionInterface."""


@dataclass
class LastQuery:
    """Filled by the layer that runs inside `recording`: `query` is [B,Nh,D], rotary embedding applied."""

    query: torch.Tensor | None = None


_active: ContextVar[tuple[LastQuery, Callable[..., Any]]] = ContextVar("vitcop_last_query")


def _recording_attention(module: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """transformers' attention function: keep the last row of the queries and go on as the model would have."""
    record, attend = _active.get()
    record.query = query[:, :, -1]
    return attend(module, query, *args, **kwargs)


@contextmanager
def recording(attention: "torch.nn.Module") -> Iterator[LastQuery]:
    """Record the last query of this self-attention module while it runs inside the block."""
    import sys

    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    AttentionInterface.register(RECORDING, _recording_attention)
    config = attention.config
    implementation = config._attn_implementation
    # The eager function lives in the model's own file and is not in the table.
    eager = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
    record = LastQuery()
    token = _active.set((record, ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)))
    config._attn_implementation = RECORDING
    try:
        yield record
    finally:
        config._attn_implementation = implementation
        _active.reset(token)
