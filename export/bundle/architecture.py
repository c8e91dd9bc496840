"""The facts of a model that running it without torch or transformers needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcop.calibrate.checkpoint import read_eos_ids
from vitcop.calibrate.families.base import Family
from vitcop.plugins.errors import InputError

DTYPES = ("float32", "float16", "bfloat16")
"""Float types that a graph may compute in."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Facts of the captured model.

    Args:
        num_layers: L, decoder layers of the language model.
        num_visual: V, visual tokens of one image in the unpruned model.
        grid: (rows, columns) of the patches of one image.
        vision_shape: shape of `pixel_values` for one image, without the batch axis.
        hidden_size: H of the language model.
        num_kv_heads: Nkv of each decoder layer.
        head_dim: D of each key and value.
        vocab_size: width of the logits.
        image_token: id of the placeholder that a visual token stands for.
        eos_token_ids: ids that end an answer.
        dtype: float type of features, keys and values: "float32", "float16" or "bfloat16".
    """

    num_layers: int
    num_visual: int
    grid: tuple[int, ...]
    vision_shape: tuple[int, ...]
    hidden_size: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    image_token: int
    eos_token_ids: tuple[int, ...]
    dtype: str


def architecture_of(config: Any, family: Family, model_dir: Path, *, dtype: str) -> Architecture:
    """The facts of a transformers config; the end-of-answer ids come from its generation settings.

    Raises InputError where the config lacks a fact.
    """
    text = config.text_config
    grid = tuple(family.grid(config))
    image_token = getattr(config, "image_token_id", None)
    if image_token is None:
        image_token = getattr(config, "image_token_index", None)
    if image_token is None:
        raise InputError(f"{model_dir}: config.json names no image token (image_token_id or image_token_index)")
    return Architecture(
        num_layers=family.num_layers(config),
        num_visual=grid[0] * grid[1],
        grid=grid,
        vision_shape=tuple(family.vision_shape(config)),
        hidden_size=text.hidden_size,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab_size=text.vocab_size,
        image_token=int(image_token),
        eos_token_ids=tuple(sorted(read_eos_ids(model_dir))),
        dtype=dtype,
    )
