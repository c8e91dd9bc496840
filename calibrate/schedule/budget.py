"""From a budget to keep counts: the layer average of visual tokens, met to within one token."""

import bisect
from collections.abc import Sequence
from itertools import pairwise

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import Fraction


def check_budget(budget: float) -> None:
    """Raises InputError where the budget is no share: outside (0, 1]."""
    if not 0 < budget <= 1:
        raise InputError(
            f"budget {budget}: must be above 0 and at most 1 (mean share of visual tokens over the decoder layers)"
        )


def check_one_token(budget: float, num_visual: int) -> None:
    """Raises InputError where the budget is below one visual token a layer, so that no schedule can meet it."""
    if budget * num_visual < 1:
        raise InputError(
            f"budget {budget}: less than one of {num_visual} visual tokens; the nearest that can be met is "
            f"{1 / num_visual:.4f}"
        )


def layer_mean(num_layers: int, layers: Sequence[int], counts: Sequence[int]) -> float:
    """Mean tokens a layer, with counts[0] from layer 0 and counts[i + 1] from layers[i] on."""
    cuts = [0, *layers, num_layers]
    return sum((b - a) * count for (a, b), count in zip(pairwise(cuts), counts, strict=True)) / num_layers


def solve_counts(
    num_layers: int,
    target: float,
    vision_count: int,
    layers: Sequence[int],
    shape: Sequence[float],
    *,
    keep_shape: bool = False,
) -> tuple[int, ...] | None:
    """Counts of each layer group whose layer mean is nearest to `target` tokens.

    Args:
        target: wanted mean tokens a layer.
        vision_count: tokens at LLM input; never changed.
        layers: drop layers, ascending.
        shape: what the counts after each drop are like, in any unit: all are scaled by one number (rounded to the
            nearest token, at least 1, never more than before the drop).
        keep_shape: take the shape as it is, in tokens, where it already is within one token of the target.

    Returns (vision_count, …), or None where no scale comes within one token.
    """

    def counts(scale: float) -> tuple[int, ...]:
        found = [vision_count]
        for part in shape:
            found.append(min(found[-1], max(1, int(scale * part + 0.5 + 1e-9))))
        return tuple(found)

    def mean(scale: float) -> float:
        return layer_mean(num_layers, layers, counts(scale))

    if keep_shape and abs(mean(1.0) - target) <= 1:
        return counts(1.0)
    if not shape:
        return (vision_count,) if abs(vision_count - target) <= 1 else None
    # The mean only rises with the scale, in steps of less than one token; every step lies at (count + 0.5) / part.
    steps = sorted({0.0, *((k + 0.5) / part for part in shape for k in range(vision_count + 1))})
    first_above = min(bisect.bisect_left(steps, target, key=mean), len(steps) - 1)
    best = min(
        (steps[max(first_above - 1, 0)], steps[first_above]), key=lambda scale: (abs(mean(scale) - target), scale)
    )
    return counts(best) if abs(mean(best) - target) <= 1 else None


def fractions(counts: Sequence[int], num_visual: int) -> list[Fraction]:
    """Keep fractions that give exactly these counts, each of the tokens present before: (count, count before)."""
    return list(zip(counts, [num_visual, *counts[:-1]], strict=True))


def check_meets(schedule: Schedule, num_visual: int, budget: float) -> None:
    """Raises InputError where the layer mean is more than one token off the budget."""
    found = schedule.budget(num_visual)
    # Exactly one token off is met; as shares, its difference may round to a little more.
    if abs(found - budget) * num_visual > 1 + 1e-9:
        raise InputError(
            f"budget {budget:.4f} cannot be met with {num_visual} visual tokens this way; the nearest is {found:.4f}"
        )
