"""The sensitivity table: what one drop alone costs, by layer, keep count and rule.

All rules of one cell (layer and keep count) compete by successive halving over parts of the calibration set. After each
part but the last a choice is cut when its KL is clearly above that of the best so far: when the mean of the paired
differences (its KL − the best one's, sample by sample) is more than `CLEARLY` standard errors above zero, the standard
error being that of a mean over images (samples of one image are not independent), and at least `LEAST_IMAGES` images
have been seen. A choice whose loss is not finite is cut at once. The best is never cut, and those that are left have
seen every sample. Nothing is drawn: equal inputs give equal tables.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.evaluate.losses import Estimate
from vitcop.calibrate.schedule.choices import Choice, schedule_of
from vitcop.calibrate.stats.intervals import standard_error
from vitcop.plugins.spec import Fraction

if TYPE_CHECKING:
    from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses, Part

CLEARLY = 3.0
"""Standard errors. At two, a table of hundreds of cells would too often lose a rule that is no worse than the best."""

LEAST_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One choice alone.

    Args:
        losses: of each sample that it has seen.
        survived: whether it has seen all of them; else it was clearly worse than another rule of its cell.
    """

    choice: Choice
    losses: "Losses"
    survived: bool

    @property
    def kl(self) -> Estimate:
        """KL to the original in nats, mean over the samples seen."""
        return Estimate.of(self.losses.kl)


def row_order(row: Row) -> tuple[int, int, str]:
    """By layer, falling keep count and name of the rule."""
    return row.choice.layer, -row.choice.keep, row.choice.name


def measure_cell(
    evaluator: "Evaluator",
    choices: Sequence[Choice],
    parts: "Sequence[Part]",
    *,
    num_visual: int,
    saliency: str,
    centers: Fraction,
    advance: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Measure all choices of one cell, cutting those that are clearly worse (see above).

    Args:
        choices: different ones of one layer and keep count.
        parts: of the calibration set, in the order in which they are seen.
        num_visual, saliency, centers: as in `schedule_of`.
        advance: called after each measurement.

    Returns one row for each choice, in the order of `row_order`.
    """
    assert len({(choice.layer, choice.keep) for choice in choices}) == 1, "choices of one layer and keep count"
    assert parts, "no samples"
    from vitcop.calibrate.evaluate.evaluation import Losses

    num_layers = evaluator.family.num_layers
    alive = sorted(set(choices), key=lambda choice: choice.name)
    found: dict[Choice, Losses] = {}
    images: list[Hashable] = []
    for last, part in enumerate(parts, start=1 - len(parts)):
        images += [_image(sample) for members, _ in part.prepared for sample in members]
        for choice in alive:
            schedule = schedule_of(
                [choice], num_layers=num_layers, num_visual=num_visual, saliency=saliency, centers=centers
            )
            measured = evaluator.measure(schedule, part)
            found[choice] = Losses.joined([found[choice], measured]) if choice in found else measured
            advance()
        if last:
            alive = still_open({choice: found[choice].kl for choice in alive}, images)
    rows = [Row(choice=choice, losses=losses, survived=choice in alive) for choice, losses in found.items()]
    return sorted(rows, key=row_order)


def still_open(kl: Mapping[Choice, Sequence[float]], images: Sequence[Hashable]) -> list[Choice]:
    """Those that are not clearly worse than the best, in the given order.

    Args:
        kl: of each choice, over the same samples.
        images: of each sample, what it shares with others that are not independent of it.
    """
    best = min(kl, key=lambda choice: (sum(kl[choice]) / len(images), choice.name))
    return [choice for choice in kl if choice == best or not _clearly_above(kl[choice], kl[best], images)]


def _clearly_above(kl: Sequence[float], best: Sequence[float], images: Sequence[Hashable]) -> bool:
    if not all(map(math.isfinite, kl)):
        return all(map(math.isfinite, best))
    differences = [ours - theirs for ours, theirs in zip(kl, best, strict=True)]
    mean = math.fsum(differences) / len(differences)
    return len(set(images)) >= LEAST_IMAGES and mean > CLEARLY * standard_error(differences, images)


def _image(sample: Any) -> Hashable:
    """What a sample shares with others of its pictures, by their bytes; a prompt of text alone shares nothing."""
    return sample.picture_digests or sample.id
