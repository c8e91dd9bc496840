"""A schedule for a runtime that holds one KV length for each request: everything is dropped before the language model.

The budget, the mean over all decoder layers of (visual tokens present) / (visual tokens of the unpruned model), stays
what it is, in exact fractions; what changes is said, stage by stage. Nothing here needs a model or a runtime.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, get_args

from vitcop.calibrate.schedule.schedule import MAX_INT, Drop, Schedule, VisionScore, VisionStage
from vitcop.plugins.spec import keep_count

Honoured = Literal["exactly", "approximated", "folded"]
"""A stage is done as the schedule says; done otherwise; or not done at all, its share of the budget met elsewhere."""


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What became of one stage.

    Args:
        stage: "vision stage", or "drop 0 (merge before layer 2)".
        honoured: see `Honoured`.
        how: one sentence.
    """

    stage: str
    honoured: Honoured
    how: str


@dataclass(frozen=True, kw_only=True)
class VisionSide:
    """What is done to visual tokens before the language model.

    Args:
        vision: the vision stage.
        merge: of what the vision stage keeps, (num, den) remain after merging by its clusters, as plain means; None
            where nothing is merged.
        report: every stage of the source schedule, in its order.
        source: the schedule that this is the equivalent of.
    """

    vision: VisionStage
    merge: tuple[int, int] | None
    report: tuple[StageReport, ...]
    source: Schedule

    @property
    def schedule(self) -> Schedule:
        """As a schedule. A merge, which a schedule can only have inside the language model, stands at its first
        possible place there; it ranks by the vision stage's score, so it is computed before."""
        drops: tuple[Drop, ...] = ()
        if self.merge is not None:
            drops = (
                Drop(
                    layer=1, op="merge", score="vision_saliency", order=self.vision.order, keep=self.merge, merge="mean"
                ),
            )
        return replace(self.source, vision=self.vision, drops=drops, provenance={})

    @property
    def keep(self) -> tuple[int, int]:
        """Of all visual tokens, (num, den) reach the language model."""
        share = Fraction(*self.vision.keep) * (Fraction(*self.merge) if self.merge else 1)
        return share.numerator, share.denominator

    def count(self, num_visual: int) -> int:
        """Visual tokens at every layer of the language model, of V that the unpruned model has; at least 1 of 1."""
        kept = keep_count(num_visual, self.vision.keep)
        return kept if self.merge is None else keep_count(kept, self.merge)


def budget_of(schedule: Schedule) -> Fraction:
    """The budget of a schedule as its fractions say it, without the rounding to whole tokens."""
    share = Fraction(*schedule.vision.keep) if schedule.vision else Fraction(1)
    total = share * len(schedule.groups[0])
    for drop, layers in zip(schedule.drops, schedule.groups[1:], strict=True):
        share *= Fraction(*drop.keep)
        total += share * len(layers)
    return total / schedule.num_layers


def vision_side(schedule: Schedule, *, vision_score: VisionScore) -> VisionSide:
    """The vision-side equivalent of a schedule of the same budget.

    Without drops inside the language model the vision stage stays as it is. Where the schedule merges, its vision stage
    stays as well, and its kept tokens are merged down to the budget by the vision stage's own score. Otherwise the
    vision stage keeps as many tokens as the budget says.

    Args:
        vision_score: ranks the tokens where the schedule has no vision stage; the largest are kept.
    """
    stage, budget = schedule.vision, budget_of(schedule)
    kept = StageReport(stage="vision stage", honoured="exactly", how="done by the vision graph, as in the bundle")
    merges = any(drop.op == "merge" for drop in schedule.drops)
    if stage is not None and merges and stage.score in get_args(VisionScore):
        rest = budget / Fraction(*stage.keep)
        vision, merge, reports = stage, bounded(rest), [kept]
    else:
        vision = replace(stage or VisionStage(score=vision_score, keep=(1, 1)), keep=bounded(budget), clusters=None)
        merge, reports = None, []
        if stage is not None and Fraction(*stage.keep) == budget:
            vision, reports = replace(stage, clusters=None), [kept]
        elif stage is not None:
            how = (
                f"ranks by {stage.score} as before, but keeps {_ratio(vision.keep)} of the tokens instead of "
                f"{_ratio(stage.keep)}, so that the budget holds without drops inside the language model"
            )
            reports.append(StageReport(stage="vision stage", honoured="approximated", how=how))
    reports += [_of_drop(i, drop, vision, merge) for i, drop in enumerate(schedule.drops)]
    return VisionSide(vision=vision, merge=merge, report=tuple(reports), source=schedule)


def bounded(share: Fraction) -> tuple[int, int]:
    """(num, den) as a schedule can hold it; a share whose parts are too long is rounded down by less than 1e-9."""
    if share.denominator < MAX_INT:
        return share.numerator, share.denominator
    den = MAX_INT - 1
    return max(1, share.numerator * den // share.denominator), den


def _of_drop(index: int, drop: Drop, vision: VisionStage, merge: tuple[int, int] | None) -> StageReport:
    name = f"drop {index} ({drop.op} before layer {drop.layer})"
    if drop.op == "merge" and merge is not None:
        how = (
            f"merged before the language model instead of before layer {drop.layer}, down to {_ratio(merge)} of the "
            f"kept tokens; ranks by {vision.score} instead of {drop.score}; plain means instead of {drop.merge}"
            if drop.merge != "mean"
            else f"merged before the language model instead of before layer {drop.layer}, down to {_ratio(merge)} of "
            f"the kept tokens; ranks by {vision.score} instead of {drop.score}"
        )
        return StageReport(stage=name, honoured="approximated", how=how)
    why = "its score reads the question, which the vision side does not see" if drop.score == "text_query" else ""
    why = why or "the runtime keeps one KV length for each request, so no token can leave between layers"
    return StageReport(
        stage=name, honoured="folded", how=f"not done: {why}; its share of the budget is met before the language model"
    )


def _ratio(keep: tuple[int, int]) -> str:
    return f"{keep[0]}/{keep[1]}"
