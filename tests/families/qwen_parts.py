"""What the tiny models of Qwen2.5-VL and Qwen3-VL share: prompts, processor, and what generate needs to know."""

from pathlib import Path
from typing import Any

import numpy as np
from family_case import Prompt
from tiny_parts import build_tokenizer, chat_template, save_processor

from vitcop.calibrate.models.prompt import PromptBatch

SPECIAL = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
TOKENS = {
    "image_token_id": 4,
    "video_token_id": 5,
    "vision_start_token_id": 6,
    "vision_end_token_id": 7,
}
PATCH = 4
"""Pixels; with 2×2 patches a unit is 8 pixels wide."""

_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"

BATCHES = {
    "one": (Prompt(f"USER: {_IMAGE} what color is this ? ASSISTANT:", ((56, 32),)),),
    "two": (
        Prompt(f"USER: {_IMAGE} what color is this ? ASSISTANT:", ((48, 32),)),
        Prompt(f"USER: how many large circle are there in {_IMAGE} ? ASSISTANT:", ((32, 48),)),
    ),
    "five": tuple(Prompt(f"USER: {_IMAGE} {'red ' * i}ASSISTANT:", ((40, 40),)) for i in range(5)),
    "three images": (
        Prompt(f"USER: {_IMAGE} is this {_IMAGE} or {_IMAGE} ASSISTANT:", ((40, 32), (24, 32), (64, 16))),
        Prompt(f"USER: {_IMAGE} {_IMAGE} {_IMAGE} count ASSISTANT:", ((32, 24), (64, 32), (16, 16))),
    ),
    "text": (Prompt("USER: no image ASSISTANT:"), Prompt("USER: red circle is this ASSISTANT:")),
    "video": (
        Prompt(f"USER: {_VIDEO} what is this ? ASSISTANT:", videos=((8, 32, 24),)),
        Prompt(f"USER: red {_VIDEO} circle ASSISTANT:", videos=((7, 24, 32),)),
    ),
    "image and video": (
        Prompt(
            f"USER: {_IMAGE} is this in {_VIDEO} or {_IMAGE} ? ASSISTANT:", ((40, 24), (24, 16)), videos=((8, 32, 24),)
        ),
    ),
}


def save_parts(folder: Path) -> None:
    """Tokenizer, image processor and template of a tiny model."""
    from transformers import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 8192}
    )
    save_processor(folder, tokenizer(), images, chat_template(_IMAGE, _VIDEO))


def tokenizer() -> Any:
    return build_tokenizer(SPECIAL)


def token_types(family: Any, batch: PromptBatch) -> dict[str, np.ndarray]:
    """`mm_token_type_ids` int64 [B,S]: 1 at images, 2 at videos."""
    kinds = (batch.input_ids == family.image_token) + 2 * (batch.input_ids == family.video_token)
    return {"mm_token_type_ids": kinds.astype(np.int64)}
