"""The facts of a model that running it without torch or transformers needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcop.calibrate.models.checkpoint import read_eos_ids
from vitcop.calibrate.models.families.base import Family

INPUT_KINDS = ("int64", "float", "float32")
"""Kinds of a graph input; "float" is the graph's own type."""

DTYPES = ("float32", "float16", "bfloat16")
"""Float types that a graph may compute in."""


@dataclass(frozen=True, kw_only=True)
class GraphInputRecord:
    """One input of the vision graph.

    Args:
        name: its name in the graph.
        kind: "int64", "float" (of the graph's type) or "float32".
        axes: a number for a fixed size, else the name of an axis that varies.
    """

    name: str
    kind: str
    axes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Facts of the captured model.

    Args:
        num_layers: L, decoder layers of the language model.
        num_visual: V, visual tokens that the unpruned model has of one image of its encoder's own size.
        vision_inputs: what the vision graph takes, without what its scores need: the family's own inputs.
        num_planes: feature planes beside the first (DeepStack).
        position_axes: 1, or 3 for three-axis rotary positions.
        hidden_size: H of the language model.
        sliding_layers: decoder layers that attend through a sliding window.
        num_kv_heads: Nkv of each decoder layer.
        head_dim: D of each key and value.
        vocab_size: width of the logits.
        patches_per_token: encoder patches that speak for one visual token.
        visual_tokens: ids of the placeholders that visual tokens stand for.
        eos_token_ids: ids that end an answer.
        dtype: float type of features, keys and values: "float32", "float16" or "bfloat16".
    """

    num_layers: int
    num_visual: int
    vision_inputs: tuple[GraphInputRecord, ...]
    num_planes: int
    position_axes: int
    patches_per_token: int
    visual_tokens: tuple[int, ...]
    hidden_size: int
    sliding_layers: tuple[int, ...]
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str


def architecture_of(config: Any, family: Family, model_dir: Path, *, dtype: str) -> Architecture:
    """The facts of a transformers config; the end-of-answer ids come from its generation settings."""
    text = config.text_config
    specs = family.encoder_inputs() | family.token_inputs()
    return Architecture(
        num_layers=family.num_layers,
        num_visual=family.num_visual,
        vision_inputs=tuple(
            GraphInputRecord(name=name, kind=spec.kind, axes=tuple(str(axis) for axis in spec.axes))
            for name, spec in specs.items()
        ),
        num_planes=family.num_planes,
        position_axes=family.num_axes,
        patches_per_token=family.patches_per_token,
        visual_tokens=family.visual_tokens,
        hidden_size=text.hidden_size,
        sliding_layers=tuple(sorted(family.sliding_layers)),
        num_kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab_size=text.vocab_size,
        eos_token_ids=tuple(sorted(read_eos_ids(model_dir))),
        dtype=dtype,
    )
