"""From a set of drops to one that meets the constraint as nearly as tokens can: keep counts are scaled. No torch."""

import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from vitcop.calibrate.schedule.budget import solve_counts
from vitcop.calibrate.schedule.choices import AT_INPUT, Choice
from vitcop.calibrate.search.constraints import Constraint, CostModel


def fit_counts(choices: Sequence[Choice], cost: CostModel, constraint: Constraint) -> tuple[Choice, ...] | None:
    """The same layers and rules with keep counts that use up what the constraint allows.

    All counts inside the language model are scaled by one number, the count at its input stays; where that cannot meet
    the constraint, or nothing is dropped inside, all counts are scaled. A "budget" is met to within one token, the
    others by the largest counts that do not exceed them; under "max_loss" counts stay as they are.

    Args:
        choices: compatible, of ascending layers.

    Returns None where no scale does it with counts that fall from drop to drop.
    """
    choices = tuple(choices)
    if constraint.limits_loss:
        return choices if _falls(choices, cost) else None
    for fixed in (choices[:1], ()):
        if fixed and (fixed[0].layer != AT_INPUT or len(choices) == 1):
            continue
        fitted = _scaled(fixed, choices[len(fixed) :], cost, constraint)
        if fitted is not None and _falls(fitted, cost):
            return fitted
    return None


def _falls(choices: Sequence[Choice], cost: CostModel) -> bool:
    return all(a > b for a, b in pairwise([cost.num_visual, *(choice.keep for choice in choices)]))


def _scaled(
    fixed: tuple[Choice, ...], scaled: tuple[Choice, ...], cost: CostModel, constraint: Constraint
) -> tuple[Choice, ...] | None:
    most = fixed[0].keep if fixed else cost.num_visual
    layers, shape = [choice.layer for choice in scaled], [float(choice.keep) for choice in scaled]

    def with_counts(counts: Sequence[int]) -> tuple[Choice, ...]:
        return (*fixed, *(replace(choice, keep=keep) for choice, keep in zip(scaled, counts, strict=True)))

    if constraint.kind == "budget":
        counts = solve_counts(cost.num_layers, constraint.value * cost.num_visual, most, layers, shape)
        return None if counts is None else with_counts(counts[1:])

    def at(scale: float) -> tuple[Choice, ...]:
        counts = [most]
        for part in shape:
            counts.append(min(counts[-1], max(1, int(scale * part + 0.5 + 1e-9))))
        return with_counts(counts[1:])

    limit = constraint.limit(cost)
    steps = sorted({0.0, *((count + 0.5) / part for part in shape for count in range(most))})
    # Cost rises with the scale; each count changes at (count + 0.5) / part.
    last = bisect.bisect_right(steps, limit, key=lambda scale: cost.of(at(scale))) - 1
    return at(steps[last]) if last >= 0 else None
