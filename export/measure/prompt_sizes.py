"""A prompt with fewer visual tokens or more text than it came with, so that one engine can be timed at many lengths."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from vitcop.calibrate.models.families.base import Family
from vitcop.calibrate.models.families.layout import GRID, GROUP, PATCHES
from vitcop.calibrate.models.prompt import PromptBatch


def token_tables(family: Family) -> frozenset[str]:
    """Names of the inputs of the vision graph that have an entry for each visual token, [B,V,…]."""
    return frozenset((PATCHES, GRID, GROUP, *family.token_inputs()))


def resized(batch: PromptBatch, num_visual: int, more_text: int, tables: Collection[str]) -> PromptBatch:
    """The first `num_visual` visual tokens of each row, and its last text token `more_text` times again.

    The pixels stay, so the vision tower has the same work; projector, scores and language model have that of the new
    lengths. What such a prompt is answered means nothing.

    Args:
        tables: `token_tables` of the model's family.
    """
    first = np.tile(np.arange(num_visual), (len(batch.input_ids), 1))
    short = batch.after_drop(first)
    inputs = {name: value[:, :num_visual] if name in tables else value for name, value in batch.vision_inputs.items()}
    short = replace(short, vision_inputs=inputs)
    if not more_text:
        return short
    steps = np.arange(more_text).reshape(1, -1, *[1] * (short.position_ids.ndim - 2))
    return replace(
        short,
        input_ids=np.concatenate([short.input_ids, short.input_ids[:, -1:].repeat(more_text, axis=1)], axis=1),
        attention_mask=np.pad(short.attention_mask, ((0, 0), (0, more_text)), constant_values=1),
        position_ids=np.concatenate([short.position_ids, short.next_position[:, None] + steps], axis=1),
    )
