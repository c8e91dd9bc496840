"""Overlays of some evaluation samples, from their images and what verify.json tells of their patches."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.pipeline.reporting.model import Frame, Overlay
from vitcop.pipeline.reporting.overlays import as_seen, data_uri, draw_stage, owners_of
from vitcop.pipeline.reporting.quality import RUNGS

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample
    from vitcop.export.bundle import Bundle


def draw_overlays(
    bundle: "Bundle", samples: "Sequence[Sample]", verify: Mapping[str, Any], num: int
) -> tuple[Overlay, ...]:
    """Draw the stages of the first `num` samples whose patches are told.

    Args:
        samples: those that were verified.
        verify: contents of verify.json.
    """
    from vitcop.calibrate.models.loading import load_processor

    images = load_processor(bundle.processor_folder).image_processor
    names = ["at LLM input", *(f"from layer {drop.layer} on" for drop in bundle.schedule.drops)]
    by_id, rows = {sample.id: sample for sample in samples}, {row["id"]: row for row in verify["rows"]}
    overlays = []
    for entry in verify["kept"][:num]:
        sample, answers, (height, width) = by_id[entry["id"]], rows[entry["id"]]["answers"], entry["grid"]
        pixels = np.asarray(images(images=sample.open_images())["pixel_values"][0], dtype=np.float32)
        picture = as_seen(pixels, images.image_mean, images.image_std)
        stages = [("in the image", np.zeros(height * width, dtype=int), height * width)]
        for name, stage in zip(names, entry["stages"], strict=True):
            stages.append((name, *owners_of(stage, height * width)))
        frames = (
            Frame(caption=f"{count} {name}", picture=data_uri(draw_stage(picture, owner, (height, width))))
            for name, owner, count in stages
        )
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


def _question(sample: "Sample") -> str:
    """The text of the last user message."""
    return " ".join(part["text"] for part in sample.messages[-1]["content"] if part["type"] == "text")
