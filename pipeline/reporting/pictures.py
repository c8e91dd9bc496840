"""Overlays of some evaluation samples: the engine runs them and tells which patches it kept."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.models.families.layout import GRID, grid_places
from vitcop.pipeline.reporting.model import Frame, Overlay
from vitcop.pipeline.reporting.overlays import as_seen, data_uri, draw_stage, stages_of, whole_image
from vitcop.pipeline.reporting.quality import RUNGS

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample
    from vitcop.calibrate.models.prompt import PromptBatch
    from vitcop.export.bundle import Bundle


def choose(samples: "Sequence[Sample]", num: int) -> "list[Sample]":
    """The first samples of each subset in turn, each image once, so that the page shows all kinds of questions."""
    queues: dict[str | None, list[Sample]] = {}
    for sample in samples:
        queues.setdefault(sample.subset, []).append(sample)
    chosen: list[Sample] = []
    seen: set[Any] = set()
    while len(chosen) < num and any(queues.values()):
        for queue in queues.values():
            while queue and queue[0].images in seen:
                queue.pop(0)
            if queue and len(chosen) < num:
                seen.add(queue[0].images)
                chosen.append(queue.pop(0))
    return chosen


def draw_overlays(
    bundle: "Bundle", samples: "Sequence[Sample]", runner: Any, rows: Mapping[str, Mapping[str, Any]]
) -> tuple[Overlay, ...]:
    """Run the engine on each sample and draw its stages.

    Args:
        samples: with one image each; those whose visual tokens are not the cells of one tile are left out.
        runner: of the bundle's engine.
        rows: rows of verify.json by sample id, for the answers; those that are missing are left out.
    """
    from vitcop.calibrate.models.loading import load_processor
    from vitcop.pipeline.preflight import family_in

    processor = load_processor(bundle.processor_folder)
    family = family_in(bundle.path)
    schedule = bundle.schedule
    images = processor.image_processor
    names = ["at LLM input", *(f"from layer {drop.layer} on" for drop in schedule.drops)]
    overlays = []
    for sample in samples:
        text = family.prompt_text(processor, sample.conversation())
        batch = family.prepare(processor, [text], [sample.open_images()])
        grid = one_tile(batch)
        if grid is None:
            continue
        prefill = runner.prefill(batch)
        picture = as_seen(batch.vision_inputs["pixel_values"][0], images.image_mean, images.image_std)
        stages = [whole_image(batch.num_visual), *stages_of(prefill, 0, batch.num_visual, names)]
        frames = [
            Frame(caption=f"{stage.count} {stage.name}", picture=data_uri(draw_stage(picture, stage.owner, grid)))
            for stage in stages
        ]
        answers = rows.get(sample.id, {}).get("answers", {})
        overlays.append(
            Overlay(
                sample=" · ".join(part for part in (sample.id, sample.subset) if part),
                question=_question(sample),
                expected=sample.answer or "",
                answers=tuple(
                    (RUNGS[rung], answers[rung]) for rung in ("original", "pruned", "engine") if rung in answers
                ),
                frames=tuple(frames),
            )
        )
    return tuple(overlays)


def one_tile(batch: "PromptBatch") -> tuple[int, int] | None:
    """(rows, columns) of the visual tokens of the one prompt, where they are the cells of one picture row by row."""
    places, pixels = batch.vision_inputs.get(GRID), batch.vision_inputs.get("pixel_values")
    if places is None or pixels.ndim != 4 or len(pixels) != 1:
        return None
    rows, columns = (len(np.unique(places[0, :, axis])) for axis in (0, 1))
    whole = rows * columns == len(places[0]) and np.array_equal(places[0], grid_places(rows, columns))
    return (rows, columns) if whole else None


def _question(sample: "Sample") -> str:
    """The text of the last user message."""
    return " ".join(part["text"] for part in sample.messages[-1]["content"] if part["type"] == "text")
