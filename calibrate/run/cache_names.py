"""The two names of the KV cache in transformers: `cache` since 5.24, `past_key_values` before."""

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
