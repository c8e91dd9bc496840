"""Names of the float types that models and engines compute in, and of attentions. No torch."""

from typing import Literal

from vitcop.plugins.errors import InputError

Attention = Literal["eager", "sdpa", "flash_attention_2"]
"""Implementations of attention in transformers that a model can be run with."""

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""What options call them -> what files, torch and NumPy call them."""


def dtype_name(name: str) -> str:
    """The long name of a type by either name. Raises InputError with the known names."""
    found = DTYPES.get(name, name)
    if found not in DTYPES.values():
        raise InputError(f"dtype {name!r} is not known; use {', '.join(DTYPES)}")
    return found
