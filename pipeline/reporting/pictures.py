"""Overlays of some evaluation samples: the engine runs them and tells which patches it kept."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitcop.pipeline.reporting.model import Frame, Overlay
from vitcop.pipeline.reporting.overlays import as_seen, data_uri, draw_stage, stages_of, whole_image
from vitcop.pipeline.reporting.quality import RUNGS

if TYPE_CHECKING:
    from vitcop.calibrate.samples import Sample
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
        samples: with one image each.
        runner: of the bundle's engine.
        rows: rows of verify.json by sample id, for the answers; those that are missing are left out.
    """
    from vitcop.calibrate.families import family_of
    from vitcop.calibrate.loading import load_processor
    from vitcop.pipeline.preflight import config_view
    from vitcop.pipeline.steps.verify import read_object

    processor = load_processor(bundle.processor_folder)
    family = family_of(config_view(read_object(bundle.path / "config.json")))
    shape, schedule = bundle.manifest.architecture, bundle.schedule
    images = processor.image_processor
    names = ["at LLM input", *(f"from layer {drop.layer} on" for drop in schedule.drops)]
    overlays = []
    for sample in samples:
        batch = family.prepare(
            processor, [family.prompt_text(processor, sample.conversation())], [sample.open_images()]
        )
        prefill = runner.prefill(batch)
        picture = as_seen(batch.vision_inputs["pixel_values"][0], images.image_mean, images.image_std)
        stages = [whole_image(shape.num_visual), *stages_of(prefill, 0, shape.num_visual, names)]
        frames = [
            Frame(
                caption=f"{stage.count} {stage.name}",
                picture=data_uri(draw_stage(picture, stage.owner, tuple(shape.grid))),
            )
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


def _question(sample: "Sample") -> str:
    """The text of the last user message."""
    return " ".join(part["text"] for part in sample.messages[-1]["content"] if part["type"] == "text")
