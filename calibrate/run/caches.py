"""KV caches of transformers: their two names (`cache` since 5.24, `past_key_values` before), and states that share."""

from copy import copy
from dataclasses import fields
from functools import cache
from typing import Any


@cache
def cache_name() -> str:
    """The name that arguments and output fields of this transformers have."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    known = {field.name for field in fields(BaseModelOutputWithPast)}
    return "cache" if "cache" in known else "past_key_values"


def cache_argument(kv_cache: Any) -> dict[str, Any]:
    """`kv_cache` (a transformers `Cache`) as the keyword argument of a model or a decoder layer."""
    return {cache_name(): kv_cache}


def cache_of(output: Any) -> Any:
    """The transformers `Cache` that a model's output holds."""
    return getattr(output, cache_name())


def forked(state: Any) -> Any:
    """A decode state that goes on by itself: it shares all tensors with `state`, which decoding replaces and never
    writes to."""
    other = copy(state)
    other.cache = copy(state.cache)
    other.cache.layers = [copy(layer) for layer in state.cache.layers]
    return other
