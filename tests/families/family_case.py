"""What a family's test entry consists of: a tiny random model of its own config classes, and prompts for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage

WORDS = (
    "what is this the a of in color shape how many are there red green blue yellow circle square triangle left right "
    "above below yes no one two three four five large small background number where count digit on user assistant "
    "Frame 0 1 2 3 4 5 6 7 8 9 second seconds"
)


@dataclass(frozen=True)
class Prompt:
    """One prompt: its text with the family's placeholders, and sizes (width, height) of its images."""

    text: str
    images: tuple[tuple[int, int], ...] = ()
    videos: tuple[tuple[int, int, int], ...] = ()
    """(frames, width, height) each."""


@dataclass(frozen=True, kw_only=True)
class FamilyCase:
    """One configuration of one family.

    Args:
        name: of the test.
        build: saves the model into a folder: (folder) -> folder.
        batches: prompts by the name of the batch; rows of a batch have the same number of visual tokens.
        nodes: op type -> least count of such nodes in (vision, prefill, decode), to see that they are single ops.
        newlines: many visual tokens are one and the same learnt vector. Their keys in the first layer have the same
            norm but for rounding, so no drop right after it may rank by it: which of them stay would be chance.
        slow: not part of the default run.
        generate_inputs: what transformers' generate needs beside ids, mask and the batch's model inputs.
    """

    name: str
    build: Callable[[Path], Path]
    batches: dict[str, tuple[Prompt, ...]]
    nodes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    newlines: bool = False
    slow: bool = False
    generate_inputs: Callable[[Any, PromptBatch], dict[str, Any]] = lambda family, batch: {}


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Random blocks: pixels of pure noise look all alike to an encoder."""
    stream = np.random.default_rng(seed)
    small = stream.integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


def prepare(family: Any, processor: Any, prompts: tuple[Prompt, ...]) -> PromptBatch:
    """The prompts as one batch, each image different."""
    images, videos, seed = [], [], 0
    for prompt in prompts:
        images.append([picture(*size, seed := seed + 1) for size in prompt.images])
        videos.append([[picture(w, h, seed := seed + 1) for _ in range(frames)] for frames, w, h in prompt.videos])
    return family.prepare(processor, [prompt.text for prompt in prompts], images, videos)


def merge_schedule(layers: int, score: str, *, newlines: bool = False) -> Schedule:
    """Every stage at once: a vision stage with clusters, a merge, and from three layers on a selection. One ranks by
    K-norm, the other by the text query."""
    scores = [{}, {"score": "text_query", "order": "largest"}]
    first, last = reversed(scores) if newlines else scores
    return Schedule(
        num_layers=layers,
        vision=VisionStage(score=score, keep=(2, 3), clusters=Clusters(centers=(3, 10))),
        drops=(
            Drop(layer=1, op="merge", keep=(1, 2), **first),
            *(Drop(layer=2, keep=(1, 2), **last),) * (layers > 2),
        ),
    )


def other_schedules(layers: int, scores: tuple[str, ...], *, newlines: bool = False) -> dict[str, Schedule]:
    """The scores and operations that `merge_schedule` leaves out.

    Args:
        scores: vision scores of the family; each but the first is used by one schedule.
    """
    pruned = {
        "k-norm": Schedule(num_layers=layers, drops=(Drop(layer=2 if newlines else 1, keep=(1, 3)),)),
        "random": Schedule(
            num_layers=layers,
            vision=VisionStage(score="uniform", keep=(3, 4)),
            drops=(Drop(layer=layers - 1, score="random", order="largest", keep=(1, 2)),),
        ),
    }
    for score in scores[1:]:
        pruned[score] = Schedule(
            num_layers=layers,
            vision=VisionStage(score=score, order="smallest", keep=(1, 2)),
            drops=(Drop(layer=1, score="vision_saliency", order="largest", keep=(2, 3)),),
        )
    return pruned
