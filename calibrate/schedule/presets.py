"""Schedules by name: the paper's (ViTCoP, arXiv 2601.17818, for LLaVA-1.5-7B), scaled to other models, and controls.

| name | tokens before layers 0, 2, 22 of 32 | cluster centres |
|---|---|---|
| paper-1/3 | 288 → 253 → 51 of 576 | 18/100 |
| paper-2/9 | 230 → 165 → 33 | 15/100 |
| paper-1/9 | 172 → 77 → 15 | 12/100 |
| none | 576 | |
"""

from dataclasses import dataclass, replace
from typing import Literal

from vitcop.calibrate.schedule.budget import check_meets, fractions, solve_counts
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionScore, VisionStage
from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import Fraction

PAPER_VISUAL = 576
PAPER_LAYERS = 32


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One row of the table above: counts at LLM input, after the first and after the second drop."""

    budget: Fraction
    counts: tuple[int, int, int]
    centers: Fraction


REFERENCES = {
    "paper-1/3": Reference(budget=(1, 3), counts=(288, 253, 51), centers=(18, 100)),
    "paper-2/9": Reference(budget=(2, 9), counts=(230, 165, 33), centers=(15, 100)),
    "paper-1/9": Reference(budget=(1, 9), counts=(172, 77, 15), centers=(12, 100)),
}
PRESET_NAMES = (*REFERENCES, "none")


def paper_layers(num_layers: int) -> tuple[int, int]:
    """Drop points of the paper on a model of this depth. Raises InputError below three layers."""
    if num_layers < 3:
        raise InputError(f"the paper's schedules need at least 3 decoder layers, the model has {num_layers}")
    first = max(1, 2 * num_layers // PAPER_LAYERS)
    return first, max(first + 1, 22 * num_layers // PAPER_LAYERS)


def nearest_reference(budget: float) -> Reference:
    """The row whose budget is nearest."""
    return min(REFERENCES.values(), key=lambda row: abs(row.budget[0] / row.budget[1] - budget))


def preset(name: str, num_layers: int, num_visual: int, *, vision_score: VisionScore = "class_attention") -> Schedule:
    """A schedule by name for a model of this depth and number of visual tokens.

    Args:
        vision_score: of the vision stage; the paper's needs an encoder with a class token.

    Raises InputError for an unknown name, or where the model is too small for the budget.
    """
    if name == "none":
        return Schedule(num_layers=num_layers)
    if name not in REFERENCES:
        raise InputError(f"no preset {name!r}; presets: {', '.join(PRESET_NAMES)}")
    row = REFERENCES[name]
    return paper_schedule(num_layers, num_visual, row.budget[0] / row.budget[1], row, vision_score=vision_score)


def paper_schedule(
    num_layers: int,
    num_visual: int,
    budget: float,
    row: Reference | None = None,
    *,
    vision_score: VisionScore = "class_attention",
) -> Schedule:
    """The paper's kind of schedule at any budget: the nearest row of the table, its in-LLM counts scaled to the
    budget."""
    row = row or nearest_reference(budget)
    # A budget above the row's share at LLM input cannot be met by dropping further.
    vision_count = max(1, round(num_visual * max(row.counts[0] / PAPER_VISUAL, min(1.0, 1.2 * budget))))
    if budget * PAPER_VISUAL < row.budget[0] / row.budget[1] * PAPER_VISUAL / 2:
        # Far below the table the tokens at LLM input shrink in proportion, or the first layers alone would break the
        # budget.
        vision_count = max(1, round(num_visual * row.counts[0] / PAPER_VISUAL * budget * row.budget[1] / row.budget[0]))
    layers = paper_layers(num_layers)
    shape = [num_visual * count / PAPER_VISUAL for count in row.counts[1:]]
    counts = solve_counts(num_layers, budget * num_visual, vision_count, layers, shape, keep_shape=True)
    counts = counts or (vision_count, *(min(vision_count, max(1, round(part))) for part in shape))
    vision_keep, first_keep, second_keep = fractions(counts, num_visual)
    schedule = Schedule(
        num_layers=num_layers,
        vision=VisionStage(
            score=vision_score,
            keep=vision_keep,
            clusters=Clusters(centers=row.centers, cutoff_distance=8.0, spatial_radius=0.6),
        ),
        drops=(
            Drop(layer=layers[0], op="merge", score="k_norm", order="smallest", keep=first_keep, merge="sum"),
            Drop(layer=layers[1], op="select", score="k_norm", order="smallest", keep=second_keep),
        ),
    )
    check_meets(schedule, num_visual, budget)
    return schedule


def controls(schedule: Schedule, score: Literal["uniform", "random"], seed: int = 0) -> Schedule:
    """The same layers and keep fractions with a score that knows nothing; what any real score has to beat."""
    return replace(
        schedule,
        vision=None if schedule.vision is None else VisionStage(score=score, keep=schedule.vision.keep, seed=seed),
        drops=tuple(
            Drop(layer=drop.layer, op="select", score=score, order="largest", keep=drop.keep, seed=seed)
            for drop in schedule.drops
        ),
        provenance={},
    )
