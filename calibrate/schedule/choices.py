"""What a search chooses between: one drop each, by layer, keep count and rule. No torch.

A schedule is a handful of choices of ascending layers and falling keep counts. The sensitivity table has one row for
each choice alone, the best sets of choices are found by their forecast, `schedule_of` makes a schedule of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitcop.calibrate.schedule.budget import fractions
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import Fraction

AT_INPUT = 0
"""The layer of a choice that the vision stage makes: tokens that never enter the language model."""

TELLS_NOTHING = ("uniform", "random")
"""Scores that look at no token: the controls, which cannot be carried along as saliency."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one drop chooses.

    Args:
        op, score, order, head_reduction, merge: as in `Drop`; at LLM input `score` is a score of the vision stage.
        cutoff_quantile: of the clusters that a merge needs; None is the paper's distance 8.
        saliency: the vision score that is carried along; matters to the score "vision_saliency" alone.
    """

    op: str = "select"
    score: str = "k_norm"
    order: str = "smallest"
    head_reduction: str = "mean_key"
    merge: str = "sum"
    cutoff_quantile: float | None = None
    saliency: str = "class_attention"

    @property
    def name(self) -> str:
        """Short, for tables: `k_norm-` keeps the smallest, `text_query+` the largest."""
        sign = {"smallest": "-", "largest": "+"}[self.order]
        score = self.score
        if score in TELLS_NOTHING:
            return score
        if score == "k_norm" and self.head_reduction == "mean_norm":
            score += "/mean_norm"
        if score == "vision_saliency" and self.saliency != "class_attention":
            score += f"/{self.saliency}"
        if self.op == "select":
            return score + sign
        cutoff = "d8" if self.cutoff_quantile is None else f"q{self.cutoff_quantile:g}"
        return f"merge({score}{sign},{self.merge},{cutoff})"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Down to `keep` visual tokens before decoder layer `layer` (AT_INPUT: in the vision stage), by `rule`."""

    layer: int
    keep: int
    rule: Rule

    @property
    def name(self) -> str:
        """`@6 12 text_query+`."""
        return f"@{self.layer} {self.keep} {self.rule.name}"


def named(choices: Sequence[Choice]) -> str:
    """How tables call a set of choices."""
    return " ".join(choice.name for choice in choices) or "none"


def compatible(first: Choice, second: Choice) -> bool:
    """Whether one schedule can hold both, the first before the second.

    Layers ascend and keep counts fall; a merge is the first drop inside the language model, since drops in between
    would leave clusters without members; a carried saliency is the score by which the vision stage kept.
    """
    if first.layer >= second.layer or first.keep <= second.keep:
        return False
    if second.rule.op == "merge" and first.layer != AT_INPUT:
        return False
    carried = [choice.rule.saliency for choice in (first, second) if _carries(choice)]
    if first.layer == AT_INPUT and carried:
        return first.rule.score == carried[0]
    return len(set(carried)) < 2


def schedule_of(
    choices: Sequence[Choice], *, num_layers: int, num_visual: int, saliency: str, centers: Fraction
) -> Schedule:
    """The schedule of pairwise compatible choices, which may be none.

    Args:
        num_visual: V, of which keep fractions are made.
        saliency: score of the vision stage where clusters need one that nothing else names.
        centers: cluster centres as a share of the tokens that are clustered; matters to merges alone.

    Raises InputError where two choices do not go together.
    """
    choices = sorted(choices, key=lambda choice: choice.layer)
    for i, first in enumerate(choices):
        for second in choices[i + 1 :]:
            if not compatible(first, second):
                raise InputError(f"no schedule can hold both {first.name} and {second.name}")
    at_input = [choice for choice in choices if choice.layer == AT_INPUT]
    inside = [choice for choice in choices if choice.layer != AT_INPUT]
    counts = [at_input[0].keep if at_input else num_visual, *(choice.keep for choice in inside)]
    keeps = fractions(counts, num_visual)
    merges = [choice.rule for choice in inside if choice.rule.op == "merge"]
    carried = [choice.rule.saliency for choice in inside if _carries(choice)]
    vision = None
    if at_input or merges or carried:
        rule = at_input[0].rule if at_input else Rule(score=(carried or [saliency])[0], order="largest")
        vision = VisionStage(
            keep=keeps[0],
            clusters=_clusters(merges[0], centers) if merges else None,
            **_words(rule, "score", "order"),
        )
    return Schedule(
        num_layers=num_layers,
        vision=vision,
        drops=tuple(
            Drop(
                layer=choice.layer,
                keep=keep,
                **_words(choice.rule, "op", "score", "order", "head_reduction", "merge"),
            )
            for choice, keep in zip(inside, keeps[1:], strict=True)
        ),
    )


def _carries(choice: Choice) -> bool:
    return choice.layer != AT_INPUT and choice.rule.score == "vision_saliency"


def _words(rule: Rule, *names: str) -> dict[str, Any]:
    """Fields of a rule for a stage, which refuses words that are not its own: a rule does not know where it stands."""
    return {name: getattr(rule, name) for name in names}


def _clusters(rule: Rule, centers: Fraction) -> Clusters:
    quantile = rule.cutoff_quantile
    return Clusters(centers=centers, cutoff_distance=8.0 if quantile is None else None, cutoff_quantile=quantile)
