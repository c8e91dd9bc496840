"""All schedules of two and three drops on a coarse grid, by successive halving: how good the best there is would be.

The first drop is at LLM input. Counts are solved so that the budget is met to within one token, so that every schedule
of the grid is a rival of equal cost. The best on the calibration set are measured on the selection set, and the best
there is the grid's answer: it sees the same samples as a calibration does.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses, Part
from vitcop.calibrate.schedule.budget import solve_counts
from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, schedule_of
from vitcop.calibrate.schedule.presets import nearest_reference
from vitcop.calibrate.schedule.schedule import Schedule

INPUT_SHARES = (1.1, 1.25, 1.5, 2.0, 3.0)
"""Tokens at LLM input, in units of the budget."""

RATIOS = (0.1, 0.4)
"""Tokens after the last drop / tokens after the one before."""

FIRST = (
    Rule(op="merge", merge="sum", cutoff_quantile=0.2),
    Rule(op="merge", merge="mean", cutoff_quantile=0.2),
    Rule(score="text_query", order="largest"),
    Rule(score="k_norm", order="smallest"),
    Rule(score="k_norm", order="largest"),
    Rule(score="vision_saliency", order="largest"),
)
SECOND = (Rule(score="text_query", order="largest"), Rule(score="k_norm", order="smallest"))
BATCH_SIZE = 96
"""Thousands of small measurements: time goes by the call, not by the prompt."""

SURVIVORS, FINALISTS = 0.25, 12
"""Share that goes on from each rung on the calibration set; how many are measured on the selection set."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The grid's answer: its schedule, how many were tried, and the losses of the finalists on the selection set."""

    best: Schedule
    num_tried: int
    finalists: list[tuple[Schedule, Losses]]


def grid(num_layers: int, num_visual: int, budget: float, vision_scores: Sequence[str]) -> list[Schedule]:
    """Every schedule of the grid that meets the budget, without repetition, in a fixed order."""
    found = dict.fromkeys(
        schedule_of(
            choices,
            num_layers=num_layers,
            num_visual=num_visual,
            saliency=vision_scores[0],
            centers=nearest_reference(budget).centers,
        )
        for choices in _choices(num_layers, num_visual, budget, vision_scores)
    )
    return list(found)


def _choices(
    num_layers: int, num_visual: int, budget: float, vision_scores: Sequence[str]
) -> Iterator[tuple[Choice, ...]]:
    for layers, counts in _geometries(num_layers, num_visual, budget):
        for score in vision_scores:
            at_input = Choice(layer=AT_INPUT, keep=counts[0], rule=Rule(score=score, order="largest"))
            for first in FIRST:
                rule = first
                if first.score == "vision_saliency":
                    rule = Rule(score="vision_saliency", order="largest", saliency=score)
                drop = Choice(layer=layers[0], keep=counts[1], rule=rule)
                if len(layers) == 1:
                    yield at_input, drop
                    continue
                for second in SECOND:
                    yield at_input, drop, Choice(layer=layers[1], keep=counts[2], rule=second)


def _geometries(num_layers: int, num_visual: int, budget: float) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(drop layers inside the language model, counts of the layer groups): falling counts that meet the budget."""
    target, seen = budget * num_visual, set()
    for share in INPUT_SHARES:
        at_input = min(num_visual - 1, round(share * target))
        for first in range(1, num_layers):
            shapes = [((first,), (1.0,))]
            shapes += [((first, last), (1.0, ratio)) for last in range(first + 1, num_layers) for ratio in RATIOS]
            for layers, shape in shapes:
                counts = solve_counts(num_layers, target, at_input, layers, shape)
                if counts is None or any(b >= a for a, b in pairwise(counts)):
                    continue
                if (layers, counts) not in seen:
                    seen.add((layers, counts))
                    yield layers, counts


def best_of(
    schedules: Sequence[Schedule],
    evaluator: Evaluator,
    rungs: Sequence[Part],
    selection: Sequence[Part],
    say: Callable[[str], None],
) -> Found:
    """Successive halving over the parts of the calibration set, then the finalists on the selection set."""
    losses: dict[Schedule, list[Losses]] = {schedule: [] for schedule in schedules}

    def mean(schedule: Schedule) -> float:
        return Losses.joined(losses[schedule]).estimates()["kl"].mean

    alive = list(schedules)
    for number, part in enumerate(rungs):
        say(f"rung {number + 1} of {len(rungs)}: {len(alive)} schedules")
        for place, schedule in enumerate(alive):
            losses[schedule].append(evaluator.measure(schedule, part))
            if (place + 1) % 500 == 0:
                say(f"  {place + 1} of {len(alive)}")
        last = number + 1 == len(rungs)
        alive = sorted(alive, key=mean)[: FINALISTS if last else max(FINALISTS, math.ceil(SURVIVORS * len(alive)))]
    finalists = [
        (schedule, Losses.joined([evaluator.measure(schedule, part, answers=True) for part in selection]))
        for schedule in alive
    ]
    finalists.sort(key=lambda pair: pair[1].estimates()["kl"].mean)
    return Found(best=finalists[0][0], num_tried=len(schedules), finalists=finalists)
