"""Which patches the engine kept of some samples, so that a report can draw them without running anything."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.models.families.layout import GRID, grid_places
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Prefill

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample

MAX_SAMPLES = 64
"""Of how many samples the patches are kept: the most that a report shows."""


class KeptPatches:
    """Collects, batch by batch, what the engine kept of the samples that a report would show."""

    def __init__(self, samples: "Sequence[Sample]") -> None:
        self._entries: dict[str, dict[str, Any] | None] = {sample.id: None for sample in choose(samples)[:MAX_SAMPLES]}

    def add(self, members: "Sequence[Sample]", batch: PromptBatch, prefill: Prefill) -> None:
        """One batch. Samples whose visual tokens are not the cells of one tile are left out."""
        for row, sample in enumerate(members):
            if sample.id in self._entries and (grid := one_tile(batch, row)):
                stages = stages_of(prefill, row, batch.num_visual)
                self._entries[sample.id] = {"id": sample.id, "grid": grid, "stages": stages}

    def to_list(self) -> list[dict[str, Any]]:
        """In the order in which a report shows them: "id", "grid" (rows, columns), "stages" as `stages_of` gives."""
        return [entry for entry in self._entries.values() if entry is not None]


def choose(samples: "Sequence[Sample]") -> "list[Sample]":
    """Samples of one image, of each subset in turn and each image once, so that the first few show all kinds of
    questions."""
    queues: dict[str | None, list[Sample]] = {}
    for sample in samples:
        if len(sample.images) == 1 and sample.video is None:
            queues.setdefault(sample.subset, []).append(sample)
    seen: set[Any] = set()

    def fresh(queue: "list[Sample]") -> "Iterator[Sample]":
        for sample in queue:
            if sample.images not in seen:
                seen.add(sample.images)
                yield sample

    return [sample for turn in zip_longest(*map(fresh, queues.values())) for sample in turn if sample is not None]


def one_tile(batch: PromptBatch, row: int) -> tuple[int, int] | None:
    """(rows, columns) of the visual tokens of a prompt, where they are the cells of one picture row by row."""
    places, pixels = batch.vision_inputs.get(GRID), batch.vision_inputs.get("pixel_values")
    if places is None or pixels is None or pixels.ndim != 4:
        return None
    rows, columns = (len(np.unique(places[row, :, axis])) for axis in (0, 1))
    whole = rows * columns == batch.num_visual and np.array_equal(places[row], grid_places(rows, columns))
    return (rows, columns) if whole else None


def stages_of(prefill: Prefill, row: int, num_patches: int) -> list[str]:
    """Which patches each token stands for, at LLM input and after each drop.

    Args:
        prefill: its traces chain: each indexes into the tokens present before it.
        row: of the batch.
        num_patches: N of the unpruned model.

    Returns a text for each stage, tokens apart by blanks, the patches of a merged one joined by "+": "0 2+5 7". As
    lists, the numbers would be most of verify.json's lines.
    """
    members, stages = [[patch] for patch in range(num_patches)], []
    for trace in (prefill.vision, *prefill.drops):
        if trace is not None:
            merged = trace.assignment
            groups = trace.kept_visual[row][:, None] if merged is None else map(np.flatnonzero, merged[row])
            members = [[patch for token in group for patch in members[token]] for group in groups]
        stages.append(" ".join("+".join(map(str, patches)) for patches in members))
    return stages
